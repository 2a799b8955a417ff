//! What the table tells, line by line, and what is aimed at.

use crate::peers::Kind;

/// A line of the table.
pub struct Row {
    /// Of the figure.
    pub name: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    pub goals: &'static [Goal],
    pub more_is_better: bool,
    /// The same of fewer, than which it must be no more.
    pub grown_from: Option<&'static str>,
}

/// Ours by another's, which must not be more than this; of what is better when there is more of it, the other's by ours.
pub struct Goal {
    pub against: Kind,
    pub goal: f64,
    pub stretch: Option<f64>,
}

/// For ours by the least that a message takes.
pub const AGAINST_LEAST: Goal = against(Kind::Floor, 2.0, Some(1.6));

/// For what must stay as it is however many there are.
pub const GROWN: Goal = against(Kind::Scanlogin, 1.1, Some(1.05));

const fn against(against: Kind, goal: f64, stretch: Option<f64>) -> Goal {
    Goal { against, goal, stretch }
}

const fn row(name: &'static str, title: &'static str, unit: &'static str) -> Row {
    Row {
        name,
        title,
        unit,
        goals: &[],
        more_is_better: false,
        grown_from: None,
    }
}

impl Row {
    const fn goals(self, goals: &'static [Goal]) -> Self {
        Self { goals, ..self }
    }

    const fn more_is_better(self) -> Self {
        Self {
            more_is_better: true,
            ..self
        }
    }

    const fn grown_from(self, fewer: &'static str) -> Self {
        Self {
            grown_from: Some(fewer),
            ..self
        }
    }
}

const MEMORY: &[Goal] = &[against(Kind::Nchan, 0.75, None), against(Kind::Node, 1.0, None)];

/// In the order of the table.
pub const ROWS: &[Row] = &[
    row("memory@1000", "memory of an idle stream, 1,000 open", "kB").goals(MEMORY),
    row("memory@10000", "memory of an idle stream, 10,000 open", "kB").goals(MEMORY),
    row("memory@50000", "memory of an idle stream, 50,000 open", "kB")
        .goals(MEMORY)
        .grown_from("memory@1000"),
    row("kernel_memory@10000", "the kernel's memory of a stream's end", "kB"),
    row("idle_cpu@50000", "processor time of an idle stream, each second", "µs"),
    row("memory_at_rest@1000", "memory at rest", "MB"),
    row("scene_memory@10000", "Redis memory of a scene", "kB"),
    row("redis_memory@10000", "the same, of its being watched", "kB"),
    row("event_p50", "confirm → event at another replica, 200/s, p50", "µs").goals(&[against(Kind::Nchan, 0.6, None)]),
    row("event_p99", "the same, p99", "µs")
        .goals(&[against(Kind::Nchan, 1.0, None), against(Kind::Floor, 1.5, Some(1.5))]),
    row("event_p999", "the same, p99.9", "µs"),
    row(
        "event_p50@one thread",
        "the same, p50, of replicas with one thread each",
        "µs",
    ),
    row("event_p99@one thread", "the same, p99", "µs"),
    row(
        "events_per_second@10000",
        "confirmed and told, as fast as it goes",
        "/s",
    )
    .goals(&[against(Kind::Nchan, 1.0 / 2.5, Some(0.25))])
    .more_is_better(),
    row("event_cpu@10000", "processor time of an event", "µs"),
    row("event_cpu@50000", "the same, 50,000 open", "µs").grown_from("event_cpu@1000"),
    row("event_commands@10000", "Redis commands of an event", ""),
    row("event_commands@50000", "the same, 50,000 open", "").grown_from("event_commands@1000"),
    row("opens_per_second@10000", "streams opened", "/s")
        .goals(&[against(Kind::Nchan, 1.0, Some(1.0 / 1.3))])
        .more_is_better(),
    row("open_cpu@10000", "processor time of an open", "µs"),
    row("open_cpu@50000", "the same, until 50,000 are open", "µs").grown_from("open_cpu@1000"),
    row("open_commands@10000", "Redis commands of an open", ""),
    row("logins_per_second", "whole logins", "/s").more_is_better(),
    row(
        "logins_per_core",
        "whole logins for each second of processor time",
        "/s",
    )
    .goals(&[against(Kind::Node, 0.25, Some(1.0 / 6.0))])
    .more_is_better(),
    row("login_cpu", "processor time of a login", "µs"),
    row("login_cpu_redis", "Redis's processor time of a login", "µs"),
    row("login_commands", "Redis commands of a login", ""),
    row(
        "login_round_trips",
        "the same, round trips of one login after another",
        "",
    ),
    row("login_redis_bytes", "bytes to and from Redis of a login", "B"),
    row(
        "login_cpu@512 callers",
        "processor time of a login, 512 at a time",
        "µs",
    )
    .grown_from("login_cpu"),
    row("login_cpu@1 replicas", "the same, of one replica", "µs"),
    row("login_cpu@4 replicas", "the same, of four", "µs").grown_from("login_cpu"),
    row("login_cpu@8 replicas", "the same, of eight", "µs").grown_from("login_cpu"),
    row(
        "login_commands_busiest@3 masters",
        "Redis commands of a login at the busiest of three masters",
        "",
    ),
    row("login_commands_busiest@6 masters", "the same, of six", ""),
    row(
        "login_cpu@6 masters",
        "processor time of a login, with six masters",
        "µs",
    )
    .grown_from("login_cpu@3 masters"),
    row("size", "program", "MB"),
    row("start", "start until it serves", "ms"),
    row("storm", "10,000 streams of a killed replica, until all are back", "s"),
    row("storm_open_p99", "the same, one stream's opening, p99", "ms"),
    row(
        "restart_listened",
        "Redis restarted under 10,000 streams, until all are listened for again",
        "s",
    ),
    row("restart", "the same, until all were read again", "s"),
    row(
        "restart_listened@1 ms away",
        "a Redis that is 1 ms away, restarted under 10,000 streams, until all are listened for again",
        "s",
    ),
    row("restart@1 ms away", "the same, until all were read again", "s"),
    row("picture_get", "Redis's GET of a picture", "ms"),
    row("picture_p50", "a picture that was made ahead, p50", "ms"),
    row("picture_p99", "the same, p99", "ms"),
    row(
        "picture_start_p99",
        "a scene's start, while WeChat takes 5 s for a picture, p99",
        "ms",
    ),
    row(
        "picture_empty",
        "a picture that was not made ahead, of a WeChat that takes 5 s",
        "ms",
    ),
    row("picture_cold", "the same, of a replica that has just started", "ms"),
];
