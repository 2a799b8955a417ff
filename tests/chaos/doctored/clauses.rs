//! Further clauses of the invariants, one doctored history each, and further histories that are right.

mod ends;
mod vain;

use scanlogin::scene::StateName;

use super::{
    LIFE_MS, checked, confirm, correct, entry, fault, flagged, flagged_with_slack, is_of_site_1, login, redeem,
    refused, scene, told, upstream, userinfo, view, with, without,
};
use crate::checker::Invariant::{I1, I2, I3, I4, I5, I6, I7, I9, I10};
use crate::history::{
    Api, ClientName, Ends, Entry, Fault, Lifetime, Loss, Opened, Outcome, Reach, Refusal, View, What,
};
use crate::machine::stood_still;

/// What login 1 has from then on, the redemption included.
fn is_later(at: u64) -> impl Fn(&Entry) -> bool {
    move |entry| is_of_site_1(entry) || (entry.sent_ms > at && entry.what.scene() == Some("scene-1"))
}

/// Login 1 up to its scan, and then this.
fn scanned_then(more: impl IntoIterator<Item = Entry>) -> Vec<Entry> {
    without(is_later(1_320)).into_iter().chain(more).collect()
}

fn decline(at: u64, outcome: Outcome<u64>) -> Entry {
    let (scene, openid) = (scene(1), "openid-1".to_owned());
    entry(ClientName::Phone(1), at, What::Decline { scene, openid, outcome })
}

fn cancel(at: u64, outcome: Outcome<()>) -> Entry {
    entry(
        ClientName::Browser(1),
        at,
        What::Cancel {
            scene: scene(1),
            outcome,
        },
    )
}

fn told_by(nickname: &str) -> View {
    View {
        nickname: Some(nickname.to_owned()),
        ..view(StateName::Confirmed, 3, 1)
    }
}

fn forced(at: u64) -> Entry {
    let what = What::UpstreamCall {
        api: Api::StableToken,
        js_code: None,
        force: true,
        outcome: Outcome::Done(Some(Lifetime { expires_in_ms: 400_000 })),
    };
    entry(ClientName::Simulator, at, what)
}

fn harmless(change: impl FnOnce(&mut Fault)) -> Entry {
    let mut entry = fault(1_000, Loss::Nothing);
    if let What::Fault(fault) = &mut entry.what {
        change(fault);
    }
    entry
}

fn expired(reason: &str) -> View {
    View {
        reason: Some(reason.to_owned()),
        ..view(StateName::Expired, 2, 1)
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_further_clause_is_checked() {
    let is_confirm = |entry: &Entry| matches!(&entry.what, What::Confirm { scene, .. } if scene == "scene-1");
    let is_own_code = |entry: &Entry| {
        entry
            .what
            .view()
            .is_some_and(|view| view.code.as_deref() == Some("code-1"))
    };
    let changed = |change: &dyn Fn(&mut Entry)| {
        let mut entries = correct();
        entries.iter_mut().for_each(change);
        entries
    };
    let stream_9 = |at, what: fn(String) -> What| entry(ClientName::Browser(1), at, what(scene(1)));
    let opened = |scene| What::StreamOpened {
        scene,
        stream: 9,
        last_event_id: None,
        outcome: Outcome::Done(Opened::Stream),
    };
    let unknown = |scene| What::StreamOpened {
        scene,
        stream: 9,
        last_event_id: None,
        outcome: refused(404, "unknown_scene"),
    };
    let before = harmless(|fault| (fault.loses, fault.from_ms, fault.to_ms) = (Loss::Everything, 100, 150));
    let ended = |scene| What::StreamEnded {
        scene,
        stream: 9,
        is_broken: false,
    };
    let broken = |scene| What::StreamEnded {
        scene,
        stream: 9,
        is_broken: true,
    };
    let variants = [
        ("a code that nobody confirmed", vec![I1, I3, I4], without(is_confirm)),
        (
            "somebody else's profile beside the code",
            vec![I1, I3],
            without(is_own_code)
                .into_iter()
                .chain([told(1, 1_420, told_by("nickname-9"))])
                .collect(),
        ),
        ("a stranger who is told that it is over", vec![I1], {
            let what = What::StreamOpened {
                scene: scene(1),
                stream: 1,
                last_event_id: None,
                outcome: Outcome::Done(Opened::Over),
            };
            with([entry(ClientName::Browser(7), 1_350, what)])
        }),
        ("claims of somebody else", vec![I3], with([userinfo(1, 1_800, 2)])),
        (
            "a nickname that is not of the person",
            vec![I3],
            changed(&|entry| {
                if let What::Redeem {
                    outcome: Outcome::Done(identity),
                    ..
                } = &mut entry.what
                {
                    identity.nickname = Some("nickname-9".to_owned());
                }
            }),
        ),
        ("a code that no browser was told", vec![I3], with([redeem(9, 1_800, 9)])),
        (
            "no snapshot",
            vec![I5],
            with([stream_9(1_350, opened), stream_9(3_600, ended)]),
        ),
        (
            "declined although it was confirmed",
            vec![I4],
            scanned_then([
                decline(1_400, Outcome::Done(3)),
                told(1, 1_420, view(StateName::Declined, 3, 1)),
                cancel(1_450, Outcome::Done(())),
            ]),
        ),
        (
            "told unknown while it lived",
            vec![I4],
            scanned_then([cancel(1_400, refused(404, "unknown_scene"))]),
        ),
        (
            "a stream told unknown while its scene lived",
            vec![I4],
            with([stream_9(1_350, unknown)]),
        ),
        (
            "an end, a loss long before, another end",
            vec![I6],
            with([before, decline(30_000, Outcome::Done(3))]),
        ),
        ("two forced tokens in an hour", vec![I7], {
            let invalid = |at| harmless(move |fault| (fault.invalidations, fault.from_ms, fault.to_ms) = (2, at, at));
            with([invalid(2_000), forced(7_000_000), forced(9_000_000)])
        }),
        (
            "a refusal without a code",
            vec![I4, I9],
            changed(&|entry| {
                if let What::Scan { outcome, .. } = &mut entry.what
                    && entry.client == ClientName::Phone(1)
                {
                    *outcome = refused(409, "");
                }
            })
            .into_iter()
            .chain(login(3, 3_000))
            .filter(|entry| !is_later(1_310)(entry))
            .collect(),
        ),
        (
            "told only by the slow re-read",
            vec![I10],
            without(|entry| {
                is_own_code(entry) || matches!(&entry.what, What::StreamEnded { scene, .. } if scene == "scene-1")
            })
            .into_iter()
            .chain([told(1, 9_000, view(StateName::Confirmed, 3, 1))])
            .collect(),
        ),
        (
            "a code that can't be redeemed",
            vec![I4, I10],
            changed(&|entry| {
                if let What::Redeem { code, outcome, .. } = &mut entry.what
                    && code == "code-1"
                {
                    *outcome = refused(400, "invalid_grant");
                }
            }),
        ),
        (
            "a stream that broke off while Redis was away",
            vec![I10],
            with([harmless(|_| {}), stream_9(1_060, opened), stream_9(1_100, broken)]),
        ),
        (
            "a failure that nothing explains",
            vec![I10],
            with([cancel(60_000, refused(503, "store_unavailable"))]),
        ),
        (
            "refused by what nothing in the scene's life explains",
            vec![I4],
            scanned_then([
                confirm(1, 1_360, refused(409, "number_mismatch")),
                confirm(1, 1_380, Outcome::Done(3)),
                told(1, 1_400, view(StateName::Confirmed, 3, 1)),
            ]),
        ),
        ("a cancel that fails when only confirms still may", vec![I10], {
            let failed_over = harmless(|fault| fault.durable_bound_ms = 60_000);
            with([failed_over, cancel(10_000, refused(503, "store_unavailable"))])
        }),
        (
            "a browser with its secret turned away",
            vec![I9],
            with([entry(
                ClientName::Browser(1),
                1_310,
                What::StreamOpened {
                    scene: scene(1),
                    stream: 8,
                    last_event_id: None,
                    outcome: refused(401, "browser_secret_required"),
                },
            )]),
        ),
        ("a graceful restart that left a request unanswered", vec![I10], {
            let restarted = harmless(|fault| fault.is_graceful = true);
            with([restarted, cancel(1_020, Outcome::Unknown)])
        }),
    ];
    for (what, invariants, entries) in variants {
        assert_eq!(flagged(entries), invariants, "{what}");
    }
}

#[test]
fn every_other_end_is_right_too_and_counted() {
    let declined = [
        decline(1_400, Outcome::Done(3)),
        told(1, 1_420, view(StateName::Declined, 3, 1)),
    ];
    let cancelled = [
        cancel(1_400, Outcome::Done(())),
        told(1, 1_420, view(StateName::Cancelled, 3, 1)),
    ];
    let late = told(1, 1_000 + LIFE_MS + 100, expired("time"));
    for (entries, of) in [
        (scanned_then(declined), "declined"),
        (scanned_then(cancelled), "cancelled"),
        (scanned_then([late]), "expired"),
    ] {
        let report = checked(entries);
        assert_eq!(report.violations, [], "{of}");
        let tally = &report.tally;
        let counts = [tally.declined, tally.cancelled, tally.expired];
        let expected = ["declined", "cancelled", "expired"].map(|each| usize::from(each == of));
        assert_eq!((counts, tally.completed), (expected, 1), "{of}");
    }
}

#[test]
fn a_stream_may_break_off_with_the_replica_that_had_it() {
    let broken = What::StreamEnded {
        scene: scene(1),
        stream: 9,
        is_broken: true,
    };
    let killed = harmless(|fault| fault.reach = Reach::Connections);
    let entries = with([killed, entry(ClientName::Browser(1), 1_100, broken)]);
    assert_eq!(flagged(entries), []);
}

#[test]
fn what_wechat_refuses_leaves_the_scene_as_it_was() {
    for (status, code) in [
        (400, "invalid_wx_code"),
        (403, "wechat_blocked_user"),
        (429, "wechat_quota"),
    ] {
        let scan = What::Scan {
            scene: scene(1),
            openid: "openid-1".to_owned(),
            outcome: refused(status, code),
        };
        let asked_too_much = fault(1_240, Loss::Nothing);
        let entries = with([asked_too_much, entry(ClientName::Phone(1), 1_250, scan)]);
        assert_eq!(flagged(entries), [], "{code}");
    }
}

#[test]
fn a_scan_may_be_one_too_many_after_ten() {
    let scan = |at_ms, outcome| {
        let what = What::Scan {
            scene: scene(1),
            openid: "openid-1".to_owned(),
            outcome,
        };
        entry(ClientName::Phone(1), at_ms, what)
    };
    let asked_too_much = || fault(1_200, Loss::Nothing);
    let tried = |count| (0..count).map(|n| scan(1_210 + n, refused(400, "invalid_wx_code")));
    let limited = |at_ms| scan(at_ms, refused(429, "rate_limited"));
    let after = |count, at_ms| with(tried(count).chain([asked_too_much(), limited(at_ms)]));
    assert_eq!(flagged(after(10, 1_250)), []);
    assert_eq!(flagged(after(2, 1_250)), [I4]);
    // For the rest of its life, and so when whatever made the phones try so often is long over.
    assert_eq!(flagged(after(10, 20_000)), []);
    assert_eq!(flagged(after(2, 20_000)), [I4]);
}

#[test]
fn what_a_fault_explains_passes() {
    let killed = harmless(|fault| fault.kills_lease_holder = true);
    assert_eq!(flagged(with([killed, upstream(1_800, Api::StableToken, None)])), []);
    let emptied = [fault(2_000, Loss::Everything), fault(3_000, Loss::Everything)];
    let fetched = with(emptied.into_iter().chain([upstream(70_000, Api::StableToken, None)]));
    assert_eq!(flagged(fetched.clone()), []);
    let again = upstream(71_000, Api::StableToken, None);
    assert_eq!(flagged(fetched.into_iter().chain([again]).collect()), [I7]);
    let mut slow = cancel(1_010, refused(503, "store_unavailable"));
    slow.got_ms = Some(9_000);
    let paused = harmless(|fault| (fault.pauses, fault.to_ms) = (true, 8_000));
    assert_eq!(flagged(with([slow.clone(), paused])), []);
    assert_eq!(flagged(with([slow])), [I9, I10]);
    let without_copy = harmless(|fault| fault.durable_bound_ms = 60_000);
    let waiting = confirm(1, 10_000, refused(503, "store_unavailable"));
    assert_eq!(flagged(with([without_copy, waiting])), []);
    let next = fault(2_900, Loss::Nothing);
    let caught = cancel(2_890, refused(503, "store_unavailable"));
    let restarted = harmless(|fault| (fault.is_graceful, fault.to_ms) = (true, 2_895));
    assert_eq!(flagged(with([restarted, next, caught])), []);
    let forgotten = [fault(8_000_000, Loss::Everything), forced(7_000_000), forced(9_000_000)];
    let invalid = |at| harmless(move |fault| (fault.invalidations, fault.from_ms, fault.to_ms) = (1, at, at));
    assert_eq!(
        flagged(with(
            forgotten.into_iter().chain([invalid(6_999_000), invalid(8_999_000)])
        )),
        []
    );
}

#[test]
fn a_fault_explains_only_what_it_can_reach() {
    let explained = |reach, more: Entry| {
        let fault = harmless(|fault| fault.reach = reach);
        flagged(with([fault, more])).is_empty()
    };
    let unavailable = || confirm(1, 1_395, refused(503, "store_unavailable"));
    let cut_off = || confirm(1, 1_395, Outcome::Unknown);
    let stream_at = |at| {
        let what = What::StreamOpened {
            scene: scene(1),
            stream: 8,
            last_event_id: None,
            outcome: refused(503, "store_unavailable"),
        };
        entry(ClientName::Browser(1), at, what)
    };
    // It would be told of a confirm, which may not count yet.
    let (stream, late_stream) = (|| stream_at(1_330), || stream_at(1_402));
    let late_cancel = || cancel(1_402, refused(503, "store_unavailable"));
    let picture = || {
        let (scene, outcome) = (scene(1), refused(503, "wechat_unavailable"));
        entry(ClientName::Browser(1), 1_020, What::Picture { scene, outcome })
    };
    for (reach, reached) in [
        (Reach::All, [true, true, true, true, true, true]),
        (Reach::Connections, [false, true, false, false, false, true]),
        (Reach::Watching, [false, false, true, true, false, false]),
        (Reach::Upstream, [false, false, false, false, false, true]),
        (Reach::Beginnings, [false, false, true, true, false, true]),
        (Reach::Copies, [true, true, false, true, true, false]),
        (Reach::Nothing, [false, false, false, false, false, false]),
    ] {
        let explains = [
            unavailable(),
            cut_off(),
            stream(),
            late_stream(),
            late_cancel(),
            picture(),
        ]
        .map(|more| explained(reach, more));
        assert_eq!(explains, reached, "{reach:?}");
    }
}

#[test]
fn all_replicas_tell_the_same_end_of_a_scene() {
    let ends = |in_seconds, at: &str| {
        let at = at.to_owned();
        Some(Ends { in_seconds, at })
    };
    let checked = |scanned: Option<Ends>, more: Option<Entry>| {
        let mut entries = correct();
        for entry in &mut entries {
            if let What::Told { scene, view, .. } = &mut entry.what
                && scene == "scene-1"
            {
                view.ends = match view.state {
                    StateName::Scanned => scanned.clone(),
                    _ => ends(120, "then"),
                };
            }
        }
        flagged(entries.into_iter().chain(more).collect())
    };
    assert_eq!(checked(ends(120, "then"), None), []);
    assert_eq!(checked(ends(119, "then"), None), []);
    assert_eq!(checked(ends(120, "later"), None), [I5]);
    assert_eq!(checked(ends(116, "then"), None), [I5]);
    assert_eq!(checked(ends(123, "then"), None), [I5]);
    assert_eq!(checked(ends(123, "then"), Some(fault(1_320, Loss::Nothing))), []);
}

#[test]
fn the_last_logins_are_those_that_were_begun_last() {
    let start = |at, outcome| {
        let (client_id, life_ms) = ("demo".to_owned(), LIFE_MS);
        let what = What::Started {
            client_id,
            life_ms,
            outcome,
        };
        entry(ClientName::Browser(9), at, what)
    };
    let stopped = || entry(ClientName::Browser(9), 5_000, What::GaveUp { scene: scene(9) });
    let again = start(4_000, Outcome::Done(scene(9)));
    let before = [
        fault(2_900, Loss::Nothing),
        start(2_950, Outcome::Unknown),
        again.clone(),
        stopped(),
    ];
    assert_eq!(flagged(with(before.into_iter().chain(login(3, 3_500)))), []);
    let last = [again, stopped()];
    assert_eq!(flagged(with(last.into_iter().chain(login(3, 3_500)))), [I10]);
}

#[test]
fn a_machine_that_stood_still_excuses_late_news_and_no_login_that_is_lost_or_doubled() {
    let still = || entry(ClientName::Harness, 1_350, What::Fault(stood_still(1_350, 6_000)));
    let untold = || {
        without(|entry| {
            entry
                .what
                .view()
                .is_some_and(|view| view.code.as_deref() == Some("code-1"))
                || is_of_site_1(entry)
        })
    };
    let late = || told(1, 7_000, view(StateName::Confirmed, 3, 1));
    let ended =
        |entry: &Entry| entry.client == ClientName::Browser(1) && matches!(entry.what, What::StreamEnded { .. });
    let heard = |more: Vec<Entry>| {
        untold()
            .into_iter()
            .filter(|entry| !ended(entry))
            .chain(more)
            .collect::<Vec<_>>()
    };
    assert_eq!(flagged(heard(vec![late()])), [I10]);
    assert_eq!(flagged(heard(vec![late(), still()])), []);
    assert_eq!(checked(heard(vec![still()])).tally.lost, 1);
    assert_eq!(flagged(with([still(), redeem(1, 6_500, 1)])), [I2]);
}

#[test]
fn a_slow_machine_excuses_no_request_that_hangs() {
    let took = |ms| {
        let mut slow = cancel(1_010, refused(503, "store_unavailable"));
        slow.got_ms = Some(slow.sent_ms + ms);
        let stalled = harmless(|fault| fault.to_ms = 8_000);
        flagged_with_slack(5_000, with([slow, stalled]))
    };
    assert_eq!(took(5_900), []);
    assert_eq!(took(6_100), [I9]);
}

#[test]
fn while_redis_fails_over_the_copy_that_will_be_lost_may_answer_once_more() {
    let lost = harmless(|fault| (fault.loses, fault.from_ms, fault.to_ms) = (Loss::Everything, 1_325, 1_400));
    let entries = scanned_then([
        lost,
        told(1, 1_330, expired("lost")),
        // Another replica still asks the old primary.
        confirm(1, 1_360, Outcome::Done(3)),
        cancel(1_500, refused(404, "unknown_scene")),
    ]);
    let report = checked(entries.into_iter().chain(login(3, 3_000)).collect());
    assert_eq!(report.violations, []);
    assert_eq!((report.tally.fallbacks, report.tally.lost), (1, 0));
}

#[test]
fn a_confirm_that_redis_lost_before_it_was_answered_may_be_told_that_there_is_no_such_scene() {
    let caught = || {
        let mut confirm = confirm(1, 1_400, refused(404, "unknown_scene"));
        confirm.got_ms = Some(2_800);
        scanned_then([confirm, told(1, 1_420, view(StateName::Confirmed, 3, 1))])
    };
    let lost = || harmless(|fault| (fault.loses, fault.from_ms, fault.to_ms) = (Loss::Everything, 1_430, 2_500));
    assert_eq!(flagged([caught(), vec![lost()], login(3, 4_000)].concat()), []);
    assert_eq!(flagged([caught(), vec![fault(1_430, Loss::Nothing)]].concat()), [I4]);
}

#[test]
fn a_scan_whose_reply_was_lost_may_be_told_that_the_scene_was_cancelled_meanwhile() {
    let caught = |cancelled_at| {
        let outcome = Outcome::Refused(Refusal {
            status: 409,
            code: Some("already_finished".to_owned()),
            retry_after: None,
            state: Some(StateName::Cancelled),
        });
        let mut entries = scanned_then([
            cancel(cancelled_at, Outcome::Done(())),
            told(1, cancelled_at + 5, view(StateName::Cancelled, 3, 1)),
        ]);
        for entry in &mut entries {
            if let What::Scan {
                scene, outcome: reply, ..
            } = &mut entry.what
                && scene == "scene-1"
            {
                *reply = outcome.clone();
                entry.got_ms = Some(1_900);
            }
        }
        entries
    };
    let lost = || fault(1_290, Loss::Nothing);
    assert_eq!(flagged([caught(1_400), vec![lost()]].concat()), []);
    assert_eq!(flagged(caught(1_400)), [I4]);
    // Nobody had ended it yet.
    assert_eq!(flagged([caught(2_000), vec![lost()]].concat()), [I4]);
}

#[test]
fn a_run_that_ends_in_the_middle_of_a_confirm_is_read_all_the_same() {
    let mut open = confirm(1, 1_400, Outcome::Unknown);
    open.got_ms = None;
    assert_eq!(flagged(scanned_then([open])), []);
}
