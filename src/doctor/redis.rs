//! What is found of Redis, and what of that is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use super::report::{Check, Finding};
use crate::certificate::Distrust;
use crate::config::Config;
use crate::store::redis::remedy_of_writes;
use crate::store::redis::servers::Address;
use crate::store::redis::survey::{Denied, Facts, Forbidden, Info, Server, Shape, Survey, Unreached, Write, survey};
use crate::store::redis::topology::{ClusterView, SentinelView};

/// Each login takes a dozen round trips one after the other.
const LATENCY_MAX: Duration = Duration::from_millis(20);

/// In seconds: what may be between machines that keep their clocks, and what sites may still let pass in an id_token.
const SKEW_MAX: f64 = 2.0;
const SKEW_MOST: f64 = 60.0;

/// Of the memory that it may use: above it is soon full.
const FULLNESS_MAX: f64 = 0.9;

/// Rights without which the service goes on, with less.
const DISPENSABLE: [&str; 4] = ["sunsubscribe", "client|info", "client|id", "asking"];

/// The sealed access_tokens that are kept, by AppID.
pub(super) type Tokens = BTreeMap<String, Vec<u8>>;

pub(super) async fn examine(config: &Config) -> anyhow::Result<(Vec<Finding>, Tokens)> {
    let Some(settings) = &config.redis else {
        let none = Finding::skipped(Check::RedisShape, "Redis", "there is none in the settings");
        return Ok((vec![none], Tokens::new()));
    };
    let appids: Vec<&str> = config.mini_programs.iter().map(|program| &*program.appid).collect();
    let surveyed = Box::pin(survey(settings, &appids)).await;
    let survey = surveyed.map_err(|error| {
        let setting = error.setting();
        anyhow::Error::new(error).context(setting)
    })?;
    let findings = judge(&survey, &settings.prefix);
    Ok((findings, survey.tokens))
}

fn judge(survey: &Survey, prefix: &str) -> Vec<Finding> {
    let mut findings = shape(survey);
    for server in &survey.servers {
        let at = &server.address;
        match &server.found {
            Ok(facts) => findings.extend(of_server(survey, prefix, at, facts)),
            Err(unreached) => findings.push(not_reached(at, unreached)),
        }
    }
    findings.extend(clocks(survey));
    findings
}

fn not_reached(at: &Address, unreached: &Unreached) -> Finding {
    Finding::failed(Check::RedisReached, at, unreached, advice(unreached))
}

/// Of those who were asked where the servers are.
fn not_told<T>(asked: &[(Address, Result<T, Unreached>)], are_sentinels: bool) -> Vec<Finding> {
    let unreached = asked.iter().filter_map(|(at, view)| Some((at, view.as_ref().err()?)));
    let finding = |(at, unreached): (&Address, &Unreached)| match unreached {
        Unreached::Refused(why) if are_sentinels && (why.contains("WRONGPASS") || why.contains("NOAUTH")) => {
            Finding::failed(
                Check::RedisReached,
                at,
                unreached,
                "Correct SCANLOGIN_REDIS_SENTINEL_PASSWORD: sentinels have users of their own (docs/redis.md).",
            )
        }
        unreached => not_reached(at, unreached),
    };
    unreached.map(finding).collect()
}

fn advice(unreached: &Unreached) -> &'static str {
    match unreached {
        Unreached::Name => {
            "Write SCANLOGIN_REDIS_URL with a name that DNS knows here: on Kubernetes service.namespace, if it is in another one."
        }
        Unreached::Connection(why) if why.contains("reset") || why.contains("end of file") => {
            "If it speaks TLS only, write rediss:// in SCANLOGIN_REDIS_URL; else look at its log."
        }
        Unreached::Connection(_) => {
            "Start it, or correct host and port in SCANLOGIN_REDIS_URL; look at firewalls and network policies on the way."
        }
        Unreached::Tls(why) => of_tls(why),
        Unreached::Silent => {
            "Look whether it is busy or stands still, and at firewalls and network policies on the way."
        }
        Unreached::Refused(why) if why.contains("WRONGPASS") || why.contains("NOAUTH") => {
            "Correct user and password in SCANLOGIN_REDIS_URL, and see that every server has that user (docs/redis.md)."
        }
        Unreached::Refused(why) if why.contains("DB index") => {
            "Leave the number behind the / in SCANLOGIN_REDIS_URL out, or give one that it has."
        }
        Unreached::Refused(why) if why.contains("cluster support disabled") => {
            "It is no Cluster: write redis:// in SCANLOGIN_REDIS_URL."
        }
        Unreached::Refused(_) => "See docs/redis.md for its rights and versions, and look at its log.",
        Unreached::NoSuchService => {
            "Give as sentinelServiceName in SCANLOGIN_REDIS_URL the name that `sentinel monitor` has in the sentinels' configuration."
        }
        Unreached::NoSentinel => {
            "Name the sentinels in SCANLOGIN_REDIS_URL, by their own port (26379 by default); for one server without any write redis://."
        }
        Unreached::Foreign => "Correct host and port in SCANLOGIN_REDIS_URL.",
    }
}

fn of_tls(why: &str) -> &'static str {
    match Distrust::of(why) {
        Some(Distrust::UnknownIssuer) => "Name the authority that its certificate is from in SCANLOGIN_REDIS_CA_FILE.",
        Some(Distrust::OtherName) => {
            "Name it in SCANLOGIN_REDIS_URL as its certificate does, or give it a certificate for this name."
        }
        Some(Distrust::OtherTime) => {
            "Renew its certificate; if that is new, this machine's clock is wrong: let it keep time by NTP."
        }
        Some(Distrust::Otherwise) => {
            "Its certificate is not one that can be trusted: give it one for its name, in date, signed by an authority of \
             SCANLOGIN_REDIS_CA_FILE (one that signed itself will not do)."
        }
        None => "If it speaks no TLS, write redis:// in SCANLOGIN_REDIS_URL; else look at its log.",
    }
}

fn of_server(survey: &Survey, prefix: &str, at: &Address, facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(
        Check::RedisReached,
        at,
        format!("answers to {}", survey.user),
    )];
    findings.extend(rights(&facts.denied, &survey.user, prefix, at));
    findings.extend(writes(survey, at, facts));
    if let Some(info) = &facts.info {
        findings.push(version(info, at));
        findings.push(eviction(info, at));
        findings.push(persistence(info, &facts.write, at));
    } else {
        let why = "INFO is not allowed, which tells it";
        for check in [Check::RedisVersion, Check::RedisEviction, Check::RedisPersistence] {
            findings.push(Finding::skipped(check, at, why));
        }
    }
    findings.push(latency(facts.latency, at));
    findings.push(clock(facts.clock_ahead, at));
    findings
}

/// How servers stand to each other, and whether that is what the URL says.
fn shape(survey: &Survey) -> Vec<Finding> {
    match &survey.shape {
        Shape::Standalone => standalone(survey).into_iter().collect(),
        Shape::Sentinel(sentinels) => {
            let views: Vec<_> = sentinels.iter().filter_map(|(_, view)| view.as_ref().ok()).collect();
            let mut findings = not_told(sentinels, true);
            findings.extend(sentinels_views(survey, sentinels.len(), &views));
            let withheld = views.iter().find_map(|view| view.withheld.as_deref());
            findings.extend(withheld.map(|why| {
                Finding::failed(
                    Check::RedisRights,
                    "sentinels",
                    why,
                    "Let the sentinels' user ask sentinel|get-master-addr-by-name, sentinel|master and sentinel|replicas (docs/redis.md).",
                )
            }));
            findings
        }
        Shape::Cluster(seeds) => {
            let views = seeds.iter().filter_map(|(_, view)| view.as_ref().ok());
            let unowned = views.map(ClusterView::unowned).min();
            let mut findings = not_told(seeds, false);
            findings.extend(unowned.map(|unowned| cluster(survey, unowned)));
            findings
        }
    }
}

fn infos(survey: &Survey) -> impl Iterator<Item = &Info> {
    let reached = survey.servers.iter().filter_map(|server| server.found.as_ref().ok());
    reached.filter_map(|facts| facts.info.as_ref())
}

fn standalone(survey: &Survey) -> Option<Finding> {
    let (check, info) = (Check::RedisShape, infos(survey).next()?);
    let at = survey.servers.first().map(|server: &Server| &server.address)?;
    let rewrite =
        |kind| format!("Write redis-{kind}:// in SCANLOGIN_REDIS_URL, and name several of them (docs/redis.md).");
    Some(match info.mode.as_str() {
        "cluster" => Finding::failed(check, at, "it is a node of a Cluster", rewrite("cluster")),
        "sentinel" => Finding::failed(check, at, "it is a sentinel", rewrite("sentinel")),
        _ if !info.is_primary => Finding::failed(
            check,
            at,
            "it is a replica, which takes no writes",
            "Name its primary in SCANLOGIN_REDIS_URL, or its sentinels.",
        ),
        _ if info.is_loading => Finding::warning(check, at, "it is still reading what it had", "Wait until it has."),
        _ => Finding::ok(
            check,
            at,
            format!("one server, replicas that follow it: {}", info.replicas),
        ),
    })
}

fn sentinels_views(survey: &Survey, named: usize, views: &[&SentinelView]) -> Vec<Finding> {
    let check = Check::RedisShape;
    let Some(primary) = views.first().map(|view| &view.primary) else {
        return vec![Finding::failed(
            check,
            "Sentinel",
            "no sentinel says who the primary is",
            "See what is said of each; the service's name is sentinelServiceName in SCANLOGIN_REDIS_URL.",
        )];
    };
    if views.iter().any(|view| view.primary != *primary) {
        return vec![Finding::warning(
            check,
            "Sentinel",
            "sentinels name different primaries",
            "A fail-over may be under way: look again in a moment. If it stays so, SENTINEL RESET one that is out of date.",
        )];
    }
    sentinels_agree(survey, named, views, primary)
}

/// All that is amiss, each for itself; only where nothing is, that it is well.
fn sentinels_agree(survey: &Survey, named: usize, views: &[&SentinelView], primary: &Address) -> Vec<Finding> {
    let check = Check::RedisShape;
    let known = views.iter().map(|view| view.sentinels).max().unwrap_or_default();
    let info = survey.servers.iter().find(|server| server.address == *primary);
    let info = info.and_then(|server| server.found.as_ref().ok()?.info.as_ref());
    let told = views.iter().map(|view| view.replicas.len()).max().unwrap_or_default();
    let replicas = info.map_or(told, |info| info.replicas);
    let message = format!("sentinels: {known}, primary: {primary}, replicas: {replicas}");
    let mut findings = Vec::new();
    if known > named {
        findings.push(Finding::warning(
            check,
            "Sentinel",
            format!("sentinels: {known}, of which SCANLOGIN_REDIS_URL names {named}"),
            "Name all of them: of one that is not named nobody knows what it does. SENTINEL RESET forgets those that are gone.",
        ));
    }
    if replicas == 0 {
        findings.push(Finding::warning(
            check,
            "Sentinel",
            format!("{message}; there is nobody to take over when the primary dies"),
            "Start the replicas, or look in their logs why they do not follow it: have two (docs/redis.md).",
        ));
    }
    if info.is_some_and(|info| !info.wants_replicas) {
        findings.push(Finding::warning(
            check,
            primary,
            format!("{message}; a primary that was left goes on taking writes"),
            "Set min-replicas-to-write 1 and min-replicas-max-lag 2 on every server, and have two replicas (docs/redis.md).",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(check, "Sentinel", message));
    }
    findings
}

fn cluster(survey: &Survey, unowned: usize) -> Finding {
    let check = Check::RedisShape;
    if unowned > 0 {
        return Finding::failed(
            check,
            "Cluster",
            format!("of 256 parts of the scenes {unowned} have no server: their slots have no owner"),
            "redis-cli --cluster check says which, and --cluster fix mends it.",
        );
    }
    let primaries = infos(survey).filter(|info| info.is_primary);
    let (count, alone) = primaries.fold((0, 0), |(count, alone), info| {
        (count + 1, alone + usize::from(info.replicas == 0))
    });
    let replicas = infos(survey).count().saturating_sub(count);
    let message = format!("Cluster, primaries: {count}, replicas: {replicas}");
    if alone > 0 {
        return Finding::warning(
            check,
            "Cluster",
            format!("{message}; primaries without any: {alone}"),
            "Have one replica for each primary (docs/redis.md): what one without a replica holds is lost when it dies.",
        );
    }
    Finding::ok(check, "Cluster", message)
}

fn rights(denied: &[Denied], user: &str, prefix: &str, at: &Address) -> Vec<Finding> {
    let check = Check::RedisRights;
    if denied.is_empty() {
        return vec![Finding::ok(
            check,
            at,
            format!("{user} may do all that the service needs"),
        )];
    }
    let mut rules = Vec::new();
    let mut lacks = |rule: String| {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    };
    for denied in denied {
        match denied.what {
            Forbidden::Command => lacks(format!("+{}", denied.right)),
            Forbidden::Keys => lacks(format!("~{prefix}:*")),
            Forbidden::Channels => lacks(format!("&{prefix}:*")),
        }
    }
    let is_dispensable = |rule: &String| DISPENSABLE.iter().any(|right| rule.strip_prefix('+') == Some(*right));
    let (less, needed): (Vec<_>, Vec<_>) = rules.into_iter().partition(is_dispensable);
    let fix = |rules: &[String]| {
        format!(
            "On every server: ACL SETUSER {user} {}, and ACL SAVE (docs/redis.md).",
            rules.join(" ")
        )
    };
    let mut findings = Vec::new();
    if !needed.is_empty() {
        let message = format!("{user} lacks {}, which the service needs", needed.join(" "));
        findings.push(Finding::failed(check, at, message, fix(&needed)));
    }
    if !less.is_empty() {
        let message = format!(
            "{user} lacks {}: the service goes on without, and ACL LOG fills",
            less.join(" ")
        );
        findings.push(Finding::warning(check, at, message, fix(&less)));
    }
    findings
}

/// Of a replica that is known as one nobody wants any.
fn writes(survey: &Survey, at: &Address, facts: &Facts) -> Option<Finding> {
    let check = Check::RedisWrites;
    let is_meant = facts.is_primary
        || match &survey.shape {
            Shape::Standalone => true,
            Shape::Sentinel(asked) => asked
                .iter()
                .any(|(_, view)| view.as_ref().is_ok_and(|view| view.primary == *at)),
            Shape::Cluster(_) => false,
        };
    if !is_meant {
        return None;
    }
    Some(match &facts.write {
        Write::Refused(why) => Finding::failed(check, at, format!("it takes no writes: {why}"), writes_again(why)),
        Write::Unknown => Finding::skipped(
            check,
            at,
            "it can't be tried: the right is missing, or nothing of the scenes is there",
        ),
        Write::Taken => match facts.info.as_ref().and_then(|info| info.fullness) {
            Some(fullness) if fullness > FULLNESS_MAX => Finding::warning(
                check,
                at,
                format!(
                    "it takes writes, and {:.0} % of its maxmemory is used",
                    fullness * 100.0
                ),
                "Raise maxmemory, or find out what fills it: once it is full it refuses every write.",
            ),
            _ => Finding::ok(check, at, "it takes writes"),
        },
    })
}

fn writes_again(why: &str) -> String {
    let remedy = remedy_of_writes(why).unwrap_or("look at its log");
    let (first, rest) = remedy.split_at(1);
    format!("{}{rest}.", first.to_ascii_uppercase())
}

fn version(info: &Info, at: &Address) -> Finding {
    let (check, version) = (Check::RedisVersion, &info.version);
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major >= 7) {
        return Finding::ok(check, at, format!("Redis {version}"));
    }
    let message = format!("it says that it is Redis {version}, and 7.0 or later is needed");
    Finding::failed(
        check,
        at,
        message,
        "Upgrade it: sharded pub/sub and flags of scripts came with 7.0.",
    )
}

fn eviction(info: &Info, at: &Address) -> Finding {
    let (check, policy) = (Check::RedisEviction, &info.maxmemory_policy);
    if policy == "noeviction" {
        return Finding::ok(check, at, "maxmemory-policy noeviction");
    }
    Finding::failed(
        check,
        at,
        format!("maxmemory-policy {policy}: when it is full it throws logins away that are under way"),
        "CONFIG SET maxmemory-policy noeviction, and write it into its configuration.",
    )
}

fn persistence(info: &Info, write: &Write, at: &Address) -> Finding {
    let check = Check::RedisPersistence;
    // It says so where it has save points, and is to stop when it misses one.
    let stops = matches!(write, Write::Refused(why) if why.starts_with("MISCONF"));
    if info.fails_to_append || info.fails_to_save && stops {
        return Finding::failed(
            check,
            at,
            "its last try to write to its disk failed, and it takes no writes until one succeeds",
            "Look at its disk and its log.",
        );
    }
    if info.fails_to_save {
        return Finding::warning(
            check,
            at,
            "its last snapshot failed, which a replica needs that is sent everything anew",
            "Look at its disk, its memory and its log; BGSAVE tries again.",
        );
    }
    match (info.appends, info.replicas, info.is_primary) {
        (true, ..) => Finding::ok(check, at, "appendonly yes: it comes back with what it had"),
        (false, 0, true) => Finding::warning(
            check,
            at,
            "neither appendonly nor a replica: when it dies, logins under way are lost, and people scan again",
            "Set appendonly yes, or give it replicas and sentinels (docs/redis.md).",
        ),
        (false, ..) => Finding::ok(
            check,
            at,
            "appendonly no: its replicas have what it had, if it comes back only once another one took over",
        ),
    }
}

fn latency(latency: Duration, at: &Address) -> Finding {
    let (check, ms) = (Check::RedisLatency, latency.as_secs_f64() * 1e3);
    let message = format!("{ms:.1} ms there and back, the median of seven");
    if latency <= LATENCY_MAX {
        return Finding::ok(check, at, message);
    }
    Finding::warning(
        check,
        at,
        format!("{message}: a login takes a dozen of them, and a command is given up after a second"),
        "Let the service run near it, and look at SLOWLOG and at what else it is asked.",
    )
}

fn clock(ahead: Option<f64>, at: &Address) -> Finding {
    let check = Check::RedisClock;
    let Some(ahead) = ahead else {
        return Finding::skipped(check, at, "TIME is not allowed, which tells it");
    };
    let message = format!("this machine's clock is {ahead:+.1} s ahead of Redis's");
    let fix = "Let both keep time by NTP: sites refuse id_tokens of another time.";
    match ahead.abs() {
        skew if skew > SKEW_MOST => Finding::failed(check, at, message, fix),
        skew if skew > SKEW_MAX => Finding::warning(check, at, message, fix),
        _ => Finding::ok(check, at, message),
    }
}

/// After a fail-over the next primary's clock counts.
fn clocks(survey: &Survey) -> Option<Finding> {
    let reached = survey.servers.iter().filter_map(|server| server.found.as_ref().ok());
    let ahead: Vec<f64> = reached.filter_map(|facts| facts.clock_ahead).collect();
    if ahead.len() < 2 {
        return None;
    }
    let most = ahead.iter().copied().fold(f64::MIN, f64::max);
    let least = ahead.iter().copied().fold(f64::MAX, f64::min);
    let apart = most - least;
    let (check, message) = (
        Check::RedisClocks,
        format!("the servers' clocks are {apart:.1} s apart"),
    );
    Some(if apart > SKEW_MAX {
        let fix = "Let all keep time by NTP: after a fail-over, scenes live longer or shorter by that.";
        Finding::warning(check, "all", message, fix)
    } else {
        Finding::ok(check, "all", message)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at() -> Address {
        Address::parse("redis.example:6379").unwrap()
    }

    fn said(finding: &Finding) -> String {
        serde_json::to_string(finding).unwrap()
    }

    #[test]
    fn what_is_wrong_with_a_server_is_told_by_what_it_says_of_itself() {
        let fit = Info {
            version: "7.4.1".to_owned(),
            maxmemory_policy: "noeviction".to_owned(),
            is_primary: true,
            appends: true,
            ..Info::default()
        };
        for is_ok in [
            version(&fit, &at()),
            eviction(&fit, &at()),
            persistence(&fit, &Write::Taken, &at()),
        ] {
            assert!(said(&is_ok).contains(r#""result":"ok""#), "{is_ok:?}");
        }
        for old in ["6.2.14", "5.0", "nonsense", ""] {
            let info = Info {
                version: old.to_owned(),
                ..fit.clone()
            };
            let said = said(&version(&info, &at()));
            assert!(
                said.contains(r#""result":"failed""#) && said.contains("7.0 or later"),
                "{said}"
            );
        }
        let alone = Info { appends: false, ..fit };
        assert!(said(&persistence(&alone, &Write::Taken, &at())).contains(r#""result":"warning""#));
    }

    #[test]
    fn a_disk_that_fails_is_judged_by_whether_writes_are_refused_for_it() {
        let info = |fails_to_save, fails_to_append| Info {
            appends: true,
            fails_to_save,
            fails_to_append,
            ..Info::default()
        };
        let refused = Write::Refused("MISCONF Redis is configured to save RDB snapshots".to_owned());
        for (info, write, result) in [
            (info(true, false), Write::Taken, "warning"),
            (info(true, false), Write::Unknown, "warning"),
            (info(true, false), refused, "failed"),
            (info(false, true), Write::Taken, "failed"),
            (info(false, false), Write::Taken, "ok"),
        ] {
            let said = said(&persistence(&info, &write, &at()));
            assert!(said.contains(&format!(r#""result":"{result}""#)), "{write:?}: {said}");
        }
    }

    fn named(name: &str) -> Address {
        Address::parse(name).unwrap()
    }

    /// With which nothing is wrong.
    fn facts(is_primary: bool, replicas: usize) -> Facts {
        let info = Info {
            version: "7.4.1".to_owned(),
            mode: "standalone".to_owned(),
            maxmemory_policy: "noeviction".to_owned(),
            is_primary,
            replicas,
            wants_replicas: true,
            appends: true,
            ..Info::default()
        };
        Facts {
            info: Some(info),
            latency: Duration::from_millis(1),
            clock_ahead: Some(0.0),
            is_primary,
            write: if is_primary {
                Write::Taken
            } else {
                Write::Refused("READONLY You can't write against a read only replica.".to_owned())
            },
            denied: Vec::new(),
        }
    }

    fn surveyed(shape: Shape, servers: Vec<(&str, Facts)>) -> Survey {
        let server = |(name, facts)| Server {
            address: named(name),
            found: Ok(facts),
        };
        Survey {
            shape,
            servers: servers.into_iter().map(server).collect(),
            user: "scanlogin".to_owned(),
            tokens: BTreeMap::new(),
        }
    }

    /// Three sentinels, who name these.
    fn watched(primaries: [&str; 3]) -> Vec<(Address, Result<SentinelView, Unreached>)> {
        let view = |primary: &str| SentinelView {
            primary: named(primary),
            replicas: vec![named("b:1")],
            sentinels: 3,
            withheld: None,
        };
        let sentinels = ["s:1", "s:2", "s:3"].map(named).into_iter();
        sentinels
            .zip(primaries)
            .map(|(at, primary)| (at, Ok(view(primary))))
            .collect()
    }

    fn under_sentinel(sentinels: Vec<(Address, Result<SentinelView, Unreached>)>, primary: Facts) -> Survey {
        surveyed(
            Shape::Sentinel(sentinels),
            vec![("a:1", primary), ("b:1", facts(false, 0))],
        )
    }

    /// All that is not well, and nothing else.
    #[track_caller]
    fn amiss(survey: &Survey, expected: &[(&str, &str, &str)]) {
        let findings: Vec<_> = judge(survey, "scanlogin")
            .iter()
            .map(|finding| serde_json::to_value(finding).unwrap())
            .filter(|finding| finding["result"] != "ok")
            .collect();
        assert_eq!(findings.len(), expected.len(), "{findings:#?}");
        for (finding, (check, result, words)) in findings.iter().zip(expected) {
            assert_eq!(
                (&finding["check"], &finding["result"]),
                (&json!(check), &json!(result)),
                "{finding}"
            );
            assert!(finding["message"].as_str().unwrap().contains(words), "{finding}");
        }
    }

    #[test]
    fn what_is_wrong_with_sentinels_is_told_each_for_itself() {
        let well = || watched(["a:1"; 3]);
        amiss(&under_sentinel(well(), facts(true, 1)), &[]);
        let parted = under_sentinel(watched(["a:1", "a:1", "b:1"]), facts(true, 1));
        amiss(
            &parted,
            &[
                ("redis.shape", "warning", "name different primaries"),
                ("redis.writes", "failed", "READONLY"),
            ],
        );
        let shape = |words| ("redis.shape", "warning", words);
        let unnamed = under_sentinel(well().split_off(1), facts(true, 1));
        amiss(&unnamed, &[shape("sentinels: 3, of which SCANLOGIN_REDIS_URL names 2")]);
        amiss(&under_sentinel(well(), facts(true, 0)), &[shape("nobody to take over")]);
        let mut left = facts(true, 1);
        left.info.as_mut().unwrap().wants_replicas = false;
        amiss(&under_sentinel(well(), left), &[shape("goes on taking writes")]);
        let mut lonely = facts(true, 0);
        lonely.info.as_mut().unwrap().wants_replicas = false;
        amiss(
            &under_sentinel(well().split_off(1), lonely),
            &[
                shape("names 2"),
                shape("nobody to take over"),
                shape("goes on taking writes"),
            ],
        );
    }

    #[test]
    fn what_sentinels_keep_to_themselves_is_told_with_whose_password_it_is() {
        let mut mute = watched(["a:1"; 3]);
        for (_, view) in &mut mute {
            view.as_mut().unwrap().withheld = Some("NOPERM sentinel|master".to_owned());
        }
        let survey = under_sentinel(mute, facts(true, 1));
        amiss(&survey, &[("redis.rights", "failed", "sentinel|master")]);

        let mut locked = watched(["a:1"; 3]);
        locked[0].1 = Err(Unreached::Refused(
            "WRONGPASS invalid username-password pair".to_owned(),
        ));
        let survey = under_sentinel(locked, facts(true, 1));
        amiss(&survey, &[("redis.reached", "failed", "WRONGPASS")]);
        let refused = judge(&survey, "scanlogin").into_iter().next().unwrap();
        assert!(
            said(&refused).contains("Correct SCANLOGIN_REDIS_SENTINEL_PASSWORD"),
            "{refused:?}"
        );
    }

    #[test]
    fn a_cluster_with_slots_that_nobody_owns_is_told_and_so_is_a_primary_alone() {
        let of = |slots: &str, replicas| {
            let told = format!("1 a:1@2 myself,master - 0 0 1 connected {slots}\n");
            let view = ClusterView::of(&told, &named("a:1"));
            let shape = Shape::Cluster(vec![(named("a:1"), Ok(view))]);
            surveyed(shape, vec![("a:1", facts(true, replicas))])
        };
        amiss(&of("0-16383", 1), &[]);
        amiss(
            &of("0-16383", 0),
            &[("redis.shape", "warning", "primaries without any: 1")],
        );
        amiss(
            &of("0-19", 1),
            &[("redis.shape", "failed", "of 256 parts of the scenes 256 have no server")],
        );
    }

    #[test]
    fn a_server_that_is_slow_loads_or_has_another_time_than_others_is_told() {
        let alone = |facts| surveyed(Shape::Standalone, vec![("a:1", facts)]);
        amiss(&alone(facts(true, 0)), &[]);
        let mut slow = facts(true, 0);
        slow.latency = Duration::from_millis(21);
        amiss(&alone(slow), &[("redis.latency", "warning", "21.0 ms there and back")]);
        let mut loading = facts(true, 0);
        loading.info.as_mut().unwrap().is_loading = true;
        amiss(
            &alone(loading),
            &[("redis.shape", "warning", "still reading what it had")],
        );
        let mut full = facts(true, 0);
        full.info.as_mut().unwrap().fullness = Some(0.95);
        amiss(&alone(full), &[("redis.writes", "warning", "95 % of its maxmemory")]);
        let mut survey = under_sentinel(watched(["a:1"; 3]), facts(true, 1));
        let (ahead, behind) = (1.5, -1.5);
        for (server, clock) in survey.servers.iter_mut().zip([ahead, behind]) {
            server.found.as_mut().unwrap().clock_ahead = Some(clock);
        }
        amiss(&survey, &[("redis.clocks", "warning", "3.0 s apart")]);
    }

    #[test]
    fn a_clock_is_judged_by_how_far_it_is_off() {
        for (ahead, result) in [
            (Some(0.1), "ok"),
            (Some(-1.9), "ok"),
            (Some(2.1), "warning"),
            (Some(-30.0), "warning"),
            (Some(61.0), "failed"),
            (None, "skipped"),
        ] {
            let said = said(&clock(ahead, &at()));
            assert!(said.contains(&format!(r#""result":"{result}""#)), "{ahead:?}: {said}");
        }
    }

    #[test]
    fn a_missing_right_is_named_as_it_is_given() {
        let lacks = |right, what| Denied { right, what };
        let denied = [
            lacks("get", Forbidden::Keys),
            lacks("set", Forbidden::Keys),
            lacks("spublish", Forbidden::Channels),
            lacks("wait", Forbidden::Command),
            lacks("asking", Forbidden::Command),
        ];
        let findings = rights(&denied, "scanlogin", "prefix", &at());
        let [needed, less] = findings.as_slice() else {
            panic!("{findings:?}");
        };
        assert!(
            said(needed).contains("ACL SETUSER scanlogin ~prefix:* &prefix:* +wait,"),
            "{needed:?}"
        );
        assert!(
            said(less).contains(r#""result":"warning""#) && said(less).contains("+asking"),
            "{less:?}"
        );
    }
}
