//! What is weak and may be meant: told at the start, with why and what to do, and never with the secret itself.

use super::{API_BASE, CANARY, REAL, SIMULATED, count, keys_in, quiet, said_at_start};

/// Long enough: as many characters as 128 bits take in hex digits.
const LONG: &str = "canary-2f7c9a-0d4be18356canary77";

/// How a secret is warned about that has fewer.
const SHORT: [&str; 3] = ["fewer than 32 characters", "tries long enough", "openssl rand"];

/// Starts with this setting beside what it needs, and this file; wants a warning that names the short secret, if there is one.
async fn starts((name, value): (&str, &str), file: &str, told: Option<&str>) {
    let dir = tempfile::tempdir().unwrap();
    let sentinels = (
        "SCANLOGIN_REDIS_URL",
        "redis-sentinel://127.0.0.1:1?sentinelServiceName=a",
    );
    let mut command = quiet(&dir, file);
    command
        .envs([SIMULATED, API_BASE, sentinels])
        .env("SCANLOGIN_SIGNING_KEYS_FILE", keys_in(dir.path()))
        .env(name, value);
    let said = said_at_start(&mut command).await;
    assert_eq!(
        count(&said, &SHORT),
        usize::from(told.is_some()),
        "{name} {file}: {said:#?}"
    );
    if let Some(whose) = told {
        assert_eq!(count(&said, &[whose, SHORT[0]]), 1, "{name} {file}: {said:#?}");
    }
    assert!(!said.join("\n").contains(CANARY), "{said:#?}");
}

#[tokio::test]
async fn a_client_secret_that_can_be_found_by_trying_is_warned_about() {
    let own = |secret| ("SCANLOGIN_CLIENT_SECRET", secret);
    let table = |secret: &str| format!("[[client]]\nclient_id = \"blog\"\nclient_secret = \"{secret}\"");
    let short = &LONG[..31];
    starts(own(short), "", Some("client default: client_secret")).await;
    starts(own(LONG), "", None).await;
    let none = ("SCANLOGIN_HEARTBEAT", "15");
    starts(none, &table(short), Some("client blog: client_secret")).await;
    starts(none, &table(LONG), None).await;
}

#[tokio::test]
async fn a_password_of_redis_that_can_be_found_by_trying_is_warned_about() {
    const URL: &str = "SCANLOGIN_REDIS_URL";
    const OF_SENTINELS: &str = "SCANLOGIN_REDIS_SENTINEL_PASSWORD";
    let short = &LONG[..31];
    let sentinel = format!("redis-sentinel://127.0.0.1:1?sentinelServiceName=a&sentinelPassword={short}");
    for (name, value, is_short) in [
        (URL, format!("redis://:{short}@127.0.0.1:1"), true),
        (URL, format!("redis://user:%63{}@127.0.0.1:1", &short[1..]), true),
        (URL, format!("redis://user:%63{}@127.0.0.1:1", &LONG[1..]), false),
        (URL, format!("redis-cluster://user:{LONG}@127.0.0.1:1"), false),
        (URL, "redis://127.0.0.1:1".to_owned(), false),
        (URL, sentinel, true),
        (OF_SENTINELS, short.to_owned(), true),
        (OF_SENTINELS, LONG.to_owned(), false),
    ] {
        starts((name, &value), "", is_short.then_some(name)).await;
    }
}

#[tokio::test]
async fn a_redis_beyond_this_machine_without_a_password_is_warned_about() {
    const WORDS: [&str; 3] = [
        "SCANLOGIN_REDIS_URL has no password",
        "who is logged in",
        "least rights",
    ];
    let dir = tempfile::tempdir().unwrap();
    let keys = keys_in(dir.path());
    for (url, warned) in [
        ("redis://192.0.2.1:6379", true),
        ("redis://user@192.0.2.1:6379", true),
        ("redis-sentinel://192.0.2.1:26379?sentinelServiceName=a", true),
        (&format!("redis://:{LONG}@192.0.2.1:6379"), false),
        ("redis://127.0.0.1:1", false),
        ("redis://[::1]:1", false),
        ("redis://localhost:1", false),
    ] {
        let mut command = quiet(&dir, "");
        command.envs([SIMULATED, API_BASE, ("SCANLOGIN_REDIS_URL", url)]);
        let said = said_at_start(command.env("SCANLOGIN_SIGNING_KEYS_FILE", &keys)).await;
        assert_eq!(count(&said, &WORDS), usize::from(warned), "{url}: {said:#?}");
    }
}

#[tokio::test]
async fn t17_a_stranger_in_the_place_of_wechat_is_warned_about_unless_it_is_named_a_simulator() {
    const WORDS: [&str; 3] = [
        "SCANLOGIN_WECHAT_API_BASE",
        "who is logged in",
        "SCANLOGIN_SIMULATOR=true",
    ];
    let dir = tempfile::tempdir().unwrap();
    for (base, simulated, warned) in [
        ("http://127.0.0.1:1", false, true),
        ("https://api.weixin.qq.com.evil.example", false, true),
        ("https://evilweixin.qq.com", false, true),
        ("https://sh.api.weixin.qq.com", false, false),
        ("http://127.0.0.1:1", true, false),
    ] {
        let mut command = quiet(&dir, "");
        command.envs(REAL).env("SCANLOGIN_WECHAT_API_BASE", base);
        command.envs(simulated.then_some(SIMULATED));
        let said = said_at_start(&mut command).await;
        assert_eq!(
            count(&said, &WORDS),
            usize::from(warned),
            "{base} {simulated}: {said:#?}"
        );
    }
}

#[tokio::test]
async fn a_site_whose_pages_come_by_http_is_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    let origins = [
        ("http://www.blog.example", true),
        ("http://192.0.2.7:3000", true),
        ("https://www.blog.example", false),
        ("http://localhost:3000", false),
        ("http://127.0.0.1:3000", false),
        ("http://[::1]:3000", false),
    ];
    let list = origins.map(|(origin, _)| origin);
    let table = format!("[[client]]\nclient_id = \"blog\"\norigins = {list:?}");
    let own = ("SCANLOGIN_CLIENT_ORIGINS", list.join(","));
    for (file, own, client) in [("", Some(&own), "client default"), (&*table, None, "client blog")] {
        for simulated in [false, true] {
            let mut command = quiet(&dir, file);
            command.envs(own.map(|(name, value)| (*name, value)));
            if simulated {
                command.envs([SIMULATED]);
            } else {
                command.envs(REAL);
            }
            let said = said_at_start(&mut command).await;
            for (origin, in_the_clear) in origins {
                let words = [client, &format!("origins: {origin} is http"), "on the way", "by https"];
                let warned = in_the_clear && !simulated;
                assert_eq!(count(&said, &words), usize::from(warned), "{origin}: {said:#?}");
            }
        }
    }
}

#[tokio::test]
async fn an_ops_listener_that_others_may_reach_is_warned_about() {
    const WORDS: [&str; 3] = ["SCANLOGIN_OPS_LISTEN", "not on loopback", "Listen on 127.0.0.1"];
    let dir = tempfile::tempdir().unwrap();
    for (address, warned) in [
        ("0.0.0.0:0", true),
        ("[::]:0", true),
        ("127.0.0.1:0", false),
        ("[::1]:0", false),
    ] {
        let said = said_at_start(quiet(&dir, "").env("SCANLOGIN_OPS_LISTEN", address)).await;
        assert_eq!(count(&said, &WORDS), usize::from(warned), "{address}: {said:#?}");
    }
}

#[tokio::test]
async fn links_that_lead_elsewhere_are_warned_about() {
    let table =
        "[[mini_program]]\nappid = \"wx1\"\nsecret = \"a-secret\"\nlink_prefix = \"https://links.example/s/\"\n";
    for (public_url, warned) in [
        ("https://login.example", true),
        ("http://links.example", true),
        ("https://links.example", false),
        ("https://LINKS.example:443", false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = quiet(&dir, &format!("public_url = \"{public_url}\"\n{table}"));
        let said = said_at_start(command.envs([SIMULATED, API_BASE])).await;
        let words = [
            "mini_program wx1: link_prefix: https://links.example/s/ is not",
            public_url,
        ];
        assert_eq!(count(&said, &words), usize::from(warned), "{public_url}: {said:#?}");
    }
}
