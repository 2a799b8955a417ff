//! What the measured costs come to where there are very many: arithmetic, and its assumptions.

use std::fmt::Write as _;

use crate::report::thousands;

/// For how long a page waits for its login, in seconds: so many times as many streams are open as logins begin in a second.
const WAITS_SECONDS: f64 = 30.0;
/// For how long a scene is kept, by default and with what is added for its end, in seconds.
const KEPT_SECONDS: f64 = 210.0;
/// What a replica has of the machine, and how much of that is used before there is another one.
const REPLICA_CORES: f64 = 2.0;
/// A server of Redis works on one core.
const REDIS_CORES: f64 = 1.0;
const USED: f64 = 0.6;
/// The most streams of a replica, as it is by default.
const STREAMS: f64 = 50_000.0;
/// What WeChat draws for one Mini Program in a minute, as it is by default.
const CODES_A_MINUTE: f64 = 4_000.0;

/// What one costs.
#[derive(Debug, Clone, Copy)]
pub struct Costs {
    /// Of the processor, in seconds: of a login, by replicas and by Redis; of an idle stream, each second.
    pub login: f64,
    pub login_redis: f64,
    pub idle: f64,
    /// Of a replica, in bytes: at rest, and of a stream, by the program and by the kernel.
    pub rest: f64,
    pub stream: f64,
    /// Of Redis, in bytes: of a scene that is watched.
    pub scene: f64,
    /// Between replicas and Redis, in bytes.
    pub traffic: f64,
}

/// How much of everything is needed.
#[derive(Debug, PartialEq, Eq)]
struct Needed {
    replicas: u64,
    /// Of each, in megabytes.
    memory: u64,
    masters: u64,
    /// Of all of them, in gigabytes.
    redis_memory: u64,
    /// In megabits a second, between all of them.
    traffic: u64,
    mini_programs: u64,
}

impl Costs {
    fn needed(self, logins_a_second: f64) -> Needed {
        let streams = logins_a_second * WAITS_SECONDS;
        let cores = logins_a_second * self.login + streams * self.idle;
        let replicas = (cores / (REPLICA_CORES * USED)).max(streams / STREAMS).ceil() + 1.0;
        let up = |amount: f64| amount.ceil() as u64;
        Needed {
            replicas: up(replicas),
            memory: up((self.rest + streams / (replicas - 1.0) * self.stream) / 1e6),
            masters: up(logins_a_second * self.login_redis / (REDIS_CORES * USED)),
            redis_memory: up(logins_a_second * KEPT_SECONDS * self.scene / 1e9),
            traffic: up(logins_a_second * self.traffic * 8.0 / 1e6),
            mini_programs: up(logins_a_second * 60.0 / CODES_A_MINUTE),
        }
    }

    /// As Markdown.
    pub fn table(self) -> String {
        let mut text = format!(
            "With a wait of {WAITS_SECONDS:.0} s for each login, {REPLICA_CORES:.0} cores for each replica and one for each master of \
             Redis, {:.0} % of them used, at most {} streams on a replica, and one replica to spare:\n\n\
             | logins/s | open streams | replicas | memory of each, MB | masters of Redis | memory of all of them, GB | traffic with Redis, Mbit/s | Mini Programs, \
             if WeChat draws the codes |\n|---|---|---|---|---|---|---|---|\n",
            USED * 100.0,
            thousands(STREAMS),
        );
        for logins in [1e3, 1e6 / WAITS_SECONDS, 1e5, 1e7 / WAITS_SECONDS] {
            let Needed {
                replicas,
                memory,
                masters,
                redis_memory,
                traffic,
                mini_programs,
            } = self.needed(logins);
            let (logins, streams) = (thousands(logins), thousands(logins * WAITS_SECONDS));
            let (traffic, mini_programs) = (thousands(traffic as f64), thousands(mini_programs as f64));
            let _ = writeln!(
                text,
                "| {logins} | {streams} | {replicas} | {memory} | {masters} | {redis_memory} | {traffic} | {mini_programs} |"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_what_runs_out_first() {
        let costs = Costs {
            login: 1e-3,
            login_redis: 60e-6,
            idle: 1e-6,
            rest: 20e6,
            stream: 10e3,
            scene: 1e3,
            traffic: 5_000.0,
        };
        // 100 cores for logins and 3 for streams, at 1.2 of each replica.
        let needed = Needed {
            replicas: 87,
            memory: 369,
            masters: 10,
            redis_memory: 21,
            traffic: 4_000,
            mini_programs: 1_500,
        };
        assert_eq!(costs.needed(1e5), needed);
        // What costs nothing of the processor is held back by the limit.
        let idle = Costs {
            login: 0.0,
            idle: 0.0,
            ..costs
        };
        assert_eq!(idle.needed(1e5).replicas, 61);
    }
}
