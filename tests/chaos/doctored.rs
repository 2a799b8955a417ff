//! The checker is itself tested: correct histories pass, and each doctored one is found by the very invariant it breaks.

mod clauses;

use scanlogin::scene::StateName;

use crate::checker::Invariant::{I1, I2, I3, I4, I5, I6, I7, I8, I9, I10, I11, I12};
use crate::checker::{Invariant, Report, Run, Text, check};
use crate::history::{
    Api, ClientName, Entry, Fault, History, Identity, Lifetime, Loss, Opened, Outcome, Phase, Reach, Refusal, Usage,
    View, What,
};
use crate::support::canaries::Secrets;

const LIFE_MS: u64 = 120_000;
const USAGE: Usage = Usage {
    rss_kb: 100,
    fds: 100,
    redis_bytes: 100,
    redis_keys: 100,
    held: 0,
};

fn entry(client: ClientName, at: u64, what: What) -> Entry {
    Entry {
        client,
        sent_ms: at,
        got_ms: Some(at + 10),
        what,
    }
}

fn view(state: StateName, version: u64, n: u32) -> View {
    let confirmed = state == StateName::Confirmed;
    View {
        state,
        id: format!("event-{n}-{version}-{}", state.as_str()),
        version,
        code: confirmed.then(|| format!("code-{n}")),
        nickname: confirmed.then(|| format!("nickname-{n}")),
        reason: None,
        ends: None,
    }
}

fn told(n: u32, at: u64, view: View) -> Entry {
    entry(
        ClientName::Browser(n),
        at,
        What::Told {
            scene: scene(n),
            stream: 1,
            view,
        },
    )
}

fn scene(n: u32) -> String {
    format!("scene-{n}")
}

fn confirm(n: u32, at: u64, outcome: Outcome<u64>) -> Entry {
    let (openid, nickname) = (format!("openid-{n}"), Some(format!("nickname-{n}")));
    entry(
        ClientName::Phone(n),
        at,
        What::Confirm {
            scene: scene(n),
            openid,
            nickname,
            outcome,
        },
    )
}

fn redeem(n: u32, at: u64, person: u32) -> Entry {
    let identity = Identity {
        sub: format!("openid-{person}"),
        nickname: Some(format!("nickname-{person}")),
    };
    let what = What::Redeem {
        code: format!("code-{n}"),
        client_id: "demo".to_owned(),
        outcome: Outcome::Done(identity),
    };
    entry(ClientName::Site(0), at, what)
}

fn userinfo(n: u32, at: u64, person: u32) -> Entry {
    let identity = Identity {
        sub: format!("openid-{person}"),
        nickname: Some(format!("nickname-{person}")),
    };
    let (code, outcome) = (format!("code-{n}"), Outcome::Done(identity));
    entry(ClientName::Site(0), at, What::Userinfo { code, outcome })
}

fn is_of_site_1(entry: &Entry) -> bool {
    matches!(&entry.what, What::Redeem { code, .. } | What::Userinfo { code, .. } if code == "code-1")
}

fn upstream(at: u64, api: Api, js_code: Option<&str>) -> Entry {
    let token = (api == Api::StableToken).then_some(Lifetime {
        expires_in_ms: 7_200_000,
    });
    let what = What::UpstreamCall {
        api,
        js_code: js_code.map(str::to_owned),
        force: false,
        outcome: Outcome::Done(token),
    };
    entry(ClientName::Simulator, at, what)
}

fn refused<T>(status: u16, code: &str) -> Outcome<T> {
    let retry_after = matches!(status, 429 | 503).then_some(1);
    Outcome::Refused(Refusal {
        status,
        code: Some(code.to_owned()),
        retry_after,
        state: None,
    })
}

fn fault(from_ms: u64, loses: Loss) -> Entry {
    let what = What::Fault(Fault {
        kind: "redis restarted".to_owned(),
        reach: Reach::All,
        from_ms,
        to_ms: from_ms + 50,
        loses,
        hides_news_ms: Some(0),
        hides_loss_ms: 0,
        kills_lease_holder: false,
        pauses: false,
        invalidations: 0,
        is_graceful: false,
        recovery_bound_ms: 1_000,
        durable_bound_ms: 0,
    });
    entry(ClientName::Harness, from_ms, what)
}

/// Login `n`, begun at `at`: started, shown, watched, scanned, confirmed, redeemed within a second.
fn login(n: u32, at: u64) -> Vec<Entry> {
    let browser = ClientName::Browser(n);
    let started = What::Started {
        client_id: "demo".to_owned(),
        life_ms: LIFE_MS,
        outcome: Outcome::Done(scene(n)),
    };
    let opened = What::StreamOpened {
        scene: scene(n),
        stream: 1,
        last_event_id: None,
        outcome: Outcome::Done(Opened::Stream),
    };
    let scan = What::Scan {
        scene: scene(n),
        openid: format!("openid-{n}"),
        outcome: Outcome::Done(()),
    };
    vec![
        entry(browser, at, started),
        entry(
            browser,
            at + 100,
            What::Picture {
                scene: scene(n),
                outcome: Outcome::Done(Some(scene(n))),
            },
        ),
        entry(browser, at + 200, opened),
        told(n, at + 220, view(StateName::Waiting, 1, n)),
        upstream(at + 301, Api::Jscode2session, Some(&format!("js-{n}"))),
        entry(ClientName::Phone(n), at + 300, scan),
        told(n, at + 320, view(StateName::Scanned, 2, n)),
        confirm(n, at + 400, Outcome::Done(3)),
        told(n, at + 420, view(StateName::Confirmed, 3, n)),
        entry(
            browser,
            at + 435,
            What::StreamEnded {
                scene: scene(n),
                stream: 1,
                is_broken: false,
            },
        ),
        redeem(n, at + 500, n),
        userinfo(n, at + 520, n),
    ]
}

/// Two logins, one token, samples.
fn correct() -> Vec<Entry> {
    let mut entries = vec![upstream(0, Api::StableToken, None)];
    for (at, phase) in [(0, Phase::Before), (1_500, Phase::During), (90_000, Phase::After)] {
        entries.push(entry(ClientName::Harness, at, What::Sample { phase, usage: USAGE }));
    }
    entries.extend(login(1, 1_000));
    entries.extend(login(2, 1_200));
    entries
}

fn run() -> Run {
    let mut secrets = Secrets::default();
    secrets.learn("an AppSecret", "hidden-canary-7");
    Run {
        bounds: Usage {
            rss_kb: 200,
            fds: 200,
            redis_bytes: 200,
            redis_keys: 200,
            held: 200,
        },
        slack_ms: 500,
        tail_logins: 1,
        token_margin_ms: 300_000,
        texts: vec![Text {
            name: "the log".to_owned(),
            bytes: b"a quiet line".to_vec(),
        }],
        endless_keys: Vec::new(),
        secrets,
    }
}

fn checked(entries: Vec<Entry>) -> Report {
    check(&History { entries }, &run())
}

fn flagged(entries: Vec<Entry>) -> Vec<Invariant> {
    let mut flagged: Vec<_> = checked(entries)
        .violations
        .into_iter()
        .map(|found| found.invariant)
        .collect();
    flagged.sort();
    flagged.dedup();
    flagged
}

/// On a machine that may delay what is timed by so much.
fn flagged_with_slack(slack_ms: u64, entries: Vec<Entry>) -> Vec<Invariant> {
    let run = Run { slack_ms, ..run() };
    let report = check(&History { entries }, &run);
    report.violations.into_iter().map(|found| found.invariant).collect()
}

fn with(more: impl IntoIterator<Item = Entry>) -> Vec<Entry> {
    correct().into_iter().chain(more).collect()
}

fn without(unwanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
    correct().into_iter().filter(|entry| !unwanted(entry)).collect()
}

#[test]
fn correct_logins_pass_and_are_counted() {
    let report = checked(correct());
    assert_eq!(report.violations, []);
    assert_eq!(
        (report.tally.started, report.tally.completed, report.tally.lost),
        (2, 2, 0)
    );
    let first = &report.tally;
    assert_eq!((first.misdelivered, first.doubled), (0, 0));
}

#[test]
fn a_confirm_whose_reply_was_lost_may_have_happened_and_its_retry_is_right() {
    let mut entries = without(|entry| matches!(&entry.what, What::Confirm { scene, .. } if scene == "scene-1"));
    entries.extend([
        confirm(1, 1_390, Outcome::Abandoned),
        confirm(1, 1_405, Outcome::Done(3)),
    ]);
    assert_eq!(flagged(entries), []);
}

#[test]
fn redemptions_at_once_may_all_be_refused_only_under_a_fault() {
    let both_refused = || {
        let mut entries = without(is_of_site_1);
        for mut redeem in [redeem(1, 1_500, 1), redeem(1, 1_505, 1)] {
            let What::Redeem { outcome, .. } = &mut redeem.what else {
                continue;
            };
            *outcome = refused(400, "invalid_grant");
            entries.push(redeem);
        }
        entries
    };
    assert_eq!(flagged(both_refused()), [I4, I10]);
    let mut entries = both_refused();
    entries.push(fault(1_480, Loss::Nothing));
    assert_eq!(flagged(entries), []);
}

#[test]
fn a_fall_back_after_a_loss_of_data_passes_and_is_counted() {
    let is_after = |entry: &Entry| entry.sent_ms > 1_410 && entry.what.scene() == Some("scene-1");
    let mut entries = without(|entry| is_after(entry) || is_of_site_1(entry));
    let lost = View {
        reason: Some("lost".to_owned()),
        ..view(StateName::Expired, 2, 1)
    };
    entries.extend([told(1, 1_450, lost)]);
    entries.extend(login(3, 3_000));
    let after = |loses| {
        let entries = entries.iter().cloned().chain([fault(1_411, loses)]);
        checked(entries.collect())
    };
    let report = after(Loss::Everything);
    assert_eq!(report.violations, []);
    assert_eq!((report.tally.fallbacks, report.tally.lost), (1, 0));
    assert_eq!(report.recovery["redis restarted"], [0]);
    // The confirm was answered, so a replica had it.
    let report = after(Loss::Unreplicated);
    assert_eq!((report.tally.fallbacks, report.tally.lost), (0, 1));
}

#[test]
fn a_confirmed_login_whose_browser_hears_nothing_is_lost() {
    let entries = without(|entry| {
        let hears = entry
            .what
            .view()
            .is_some_and(|view| view.code.as_deref() == Some("code-1"));
        hears || is_of_site_1(entry)
    });
    let report = checked(entries);
    assert_eq!(report.tally.lost, 1);
    assert_eq!(
        (report.lost[0].scene.as_str(), report.lost[0].browser),
        ("scene-1", ClientName::Browser(1))
    );
    assert_eq!(report.violations, []);
}

#[test]
fn who_is_told_only_when_all_is_read_again_is_lost_unless_nobody_could_know_of_what_was_missed() {
    let at_its_end = LIFE_MS + 1_500;
    for (hides_news_ms, told_ms, lost) in [
        (18_000, 16_000, 0),
        (0, 16_000, 1),
        (LIFE_MS, at_its_end, 0),
        (LIFE_MS, at_its_end + 3_000, 1),
    ] {
        let mut refused = fault(1_000, Loss::Nothing);
        if let What::Fault(fault) = &mut refused.what {
            fault.hides_news_ms = Some(hides_news_ms);
        }
        let untold = without(|entry| entry.what.view().is_some_and(|view| view.code.is_some()) || is_of_site_1(entry));
        let late = told(1, told_ms, view(StateName::Confirmed, 3, 1));
        let report = checked(untold.into_iter().chain([refused, late]).collect());
        let count = report.lost.iter().filter(|lost| lost.scene == "scene-1").count();
        assert_eq!(count, lost, "{told_ms} ms");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_broken_promise_is_found_by_its_own_invariant() {
    let two_codes = View {
        code: Some("code-1".to_owned()),
        ..view(StateName::Confirmed, 3, 2)
    };
    let second = |view| {
        entry(
            ClientName::Browser(2),
            1_900,
            What::Polled {
                scene: scene(2),
                wait_ms: 0,
                outcome: Outcome::Done(view),
            },
        )
    };
    let usage = |fds| What::Sample {
        phase: Phase::After,
        usage: Usage { fds, ..USAGE },
    };
    let slow = |mut late: Entry| {
        late.got_ms = Some(late.sent_ms + 9_000);
        late
    };
    let declined = entry(
        ClientName::Phone(1),
        1_800,
        What::Decline {
            scene: scene(1),
            openid: "openid-1".to_owned(),
            outcome: Outcome::Done(3),
        },
    );
    let start = |at, outcome| {
        entry(
            ClientName::Browser(9),
            at,
            What::Started {
                client_id: "demo".to_owned(),
                life_ms: LIFE_MS,
                outcome,
            },
        )
    };
    let scan = |outcome| {
        entry(
            ClientName::Phone(7),
            1_350,
            What::Scan {
                scene: scene(1),
                openid: "openid-7".to_owned(),
                outcome,
            },
        )
    };
    let variants = [
        (
            "a stranger's scene",
            I1,
            with([entry(
                ClientName::Browser(2),
                1_330,
                What::Told {
                    scene: scene(1),
                    stream: 9,
                    view: view(StateName::Scanned, 2, 1),
                },
            )]),
        ),
        (
            "an event after the final one",
            I5,
            with([told(
                1,
                1_430,
                View {
                    id: "later".to_owned(),
                    ..view(StateName::Confirmed, 3, 1)
                },
            )]),
        ),
        (
            "two token calls at once",
            I7,
            with([
                slow(upstream(8_000_000, Api::StableToken, None)),
                entry(
                    ClientName::Simulator,
                    8_000_100,
                    What::UpstreamCall {
                        api: Api::StableToken,
                        js_code: None,
                        force: false,
                        outcome: Outcome::Unknown,
                    },
                ),
            ]),
        ),
        (
            "no Retry-After",
            I9,
            with([
                fault(1_090, Loss::Nothing),
                start(
                    1_100,
                    Outcome::Refused(Refusal {
                        status: 503,
                        code: Some("store_unavailable".to_owned()),
                        retry_after: None,
                        state: None,
                    }),
                ),
            ]),
        ),
        ("a code in two browsers", I1, with([second(two_codes)])),
        (
            "another scene's picture",
            I1,
            with([entry(
                ClientName::Browser(1),
                1_110,
                What::Picture {
                    scene: scene(1),
                    outcome: Outcome::Done(Some(scene(2))),
                },
            )]),
        ),
        ("two redemptions", I2, with([redeem(1, 1_700, 1)])),
        (
            "another person's sub",
            I3,
            without(is_of_site_1).into_iter().chain([redeem(1, 1_500, 2)]).collect(),
        ),
        ("a scan by a second person", I4, with([scan(Outcome::Done(()))])),
        (
            "a refusal in the wrong state",
            I4,
            with([scan(refused(410, "expired"))]),
        ),
        (
            "an event twice",
            I5,
            with([told(1, 1_330, view(StateName::Scanned, 2, 1))]),
        ),
        (
            "a version that falls",
            I5,
            with([told(
                1,
                1_330,
                View {
                    id: "older".to_owned(),
                    ..view(StateName::Waiting, 1, 1)
                },
            )]),
        ),
        ("two ends", I6, with([declined])),
        ("a second token", I7, with([upstream(60_000, Api::StableToken, None)])),
        (
            "a js_code twice",
            I8,
            with([upstream(1_900, Api::Jscode2session, Some("js-1"))]),
        ),
        (
            "an internal error",
            I9,
            with([start(1_100, refused(500, "internal")), fault(1_090, Loss::Nothing)]),
        ),
        (
            "a request without an end",
            I9,
            with([slow(start(1_100, refused(403, "unknown_client")))]),
        ),
        (
            "effects that last",
            I10,
            with([fault(1_100, Loss::Nothing), start(2_700, Outcome::Unknown)]),
        ),
        ("no login at the end", I10, with([start(5_000, Outcome::Unknown)])),
        (
            "descriptors above their bound",
            I12,
            with([entry(
                ClientName::Harness,
                1_600,
                What::Sample {
                    phase: Phase::During,
                    usage: Usage { fds: 999, ..USAGE },
                },
            )]),
        ),
        (
            "descriptors that stay",
            I12,
            with([entry(ClientName::Harness, 95_000, usage(130))]),
        ),
        (
            "a stream that nobody reads any more",
            I12,
            with([entry(
                ClientName::Harness,
                95_000,
                What::Sample {
                    phase: Phase::After,
                    usage: Usage { held: 1, ..USAGE },
                },
            )]),
        ),
    ];
    for (what, invariant, entries) in variants {
        assert_eq!(flagged(entries), [invariant], "{what}");
    }
}

#[test]
fn a_version_may_fall_only_when_data_was_lost() {
    // It is the event that the stream began with, too.
    let fallen = view(StateName::Waiting, 1, 1);
    let entries = without(|entry| entry.what.scene() == Some("scene-1") && entry.sent_ms > 1_320);
    let mut entries: Vec<_> = entries.into_iter().filter(|entry| !is_of_site_1(entry)).collect();
    entries.push(told(1, 1_500, fallen));
    assert_eq!(flagged(entries.clone()), [I5]);
    entries.push(fault(1_400, Loss::Unreplicated));
    entries.extend(login(3, 3_000));
    assert_eq!(flagged(entries), []);
}

#[test]
fn a_fall_back_without_a_loss_of_data_has_no_explanation() {
    let after = |entry: &Entry| entry.what.scene() == Some("scene-1") && entry.sent_ms > 1_320;
    let entries = without(|entry| after(entry) || is_of_site_1(entry));
    let lost = View {
        reason: Some("lost".to_owned()),
        ..view(StateName::Expired, 2, 1)
    };
    assert_eq!(
        flagged(entries.into_iter().chain([told(1, 1_450, lost)]).collect()),
        [I4]
    );
}

#[test]
fn a_secret_in_a_log_is_named_but_not_repeated() {
    let texts = vec![Text {
        name: "the log".to_owned(),
        bytes: b"secret=hidden-canary-7".to_vec(),
    }];
    let run = Run { texts, ..run() };
    let report = check(&History { entries: correct() }, &run);
    assert_eq!(report.violations.len(), 1);
    assert_eq!(report.violations[0].invariant, I11);
    assert!(!report.violations[0].words.contains("canary"));
}

#[test]
fn a_panic_that_no_request_told_of_is_found() {
    let texts = vec![Text {
        name: "the log".to_owned(),
        bytes: b"thread 'tokio-runtime-worker' panicked at src/hub.rs:1:1".to_vec(),
    }];
    let run = Run { texts, ..run() };
    let found = check(&History { entries: correct() }, &run).violations;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].invariant, I9);
}

#[test]
fn a_key_that_redis_would_keep_for_ever_is_found() {
    let endless_keys = vec!["scanlogin:{3f}:3f23:token".to_owned()];
    let run = Run { endless_keys, ..run() };
    let found = check(&History { entries: correct() }, &run).violations;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].invariant, found[0].words.contains("3f23:token")), (I12, true));
}

#[test]
fn a_history_is_read_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut written = correct();
    written.sort_by_key(|entry| (entry.sent_ms, entry.got()));
    let lines: String = written
        .iter()
        .map(|entry| serde_json::to_string(entry).unwrap() + "\n")
        .collect();
    std::fs::write(directory.path().join("all.jsonl"), lines).unwrap();
    assert_eq!(History::read(directory.path()).unwrap().entries, written);
}
