//! Which primaries of a Cluster hear too few of the others, by their own words. Pure but for the time.
//!
//! A primary that is cut off goes on for `cluster-node-timeout`, then it stops and its replica takes over: what only it has by
//! then is lost.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::owners::View;
use crate::store::redis::servers::Address;

/// How old the last answer of one that counts as heard may be. Nodes ask each other at least every half `cluster-node-timeout`,
/// some each second, and pass on what they heard.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// When who was last heard by whom.
#[derive(Debug, Default)]
pub(super) struct Contacts(HashMap<(Address, String), Answered>);

#[derive(Debug)]
struct Answered {
    /// By the clock of the one that hears.
    at: u64,
    seen: Instant,
}

impl Contacts {
    /// The primaries among those that said something which hear no majority, themselves included.
    pub(super) fn cut_off(&mut self, views: &[View]) -> BTreeSet<Address> {
        let now = Instant::now();
        let mut cut_off = BTreeSet::new();
        for view in views {
            let Some(primary) = &view.speaker else {
                continue;
            };
            let mut heard = 1;
            for (other, at) in &view.answered {
                let last = self.0.entry((primary.clone(), other.clone()));
                // Of one that was never looked at before, nothing is held against it for as long.
                let last = last.or_insert(Answered { at: *at, seen: now });
                if last.at != *at {
                    *last = Answered { at: *at, seen: now };
                }
                heard += usize::from(now - last.seen < HEARD_WITHIN);
            }
            if 2 * heard <= view.answered.len() + 1 {
                cut_off.insert(primary.clone());
            }
        }
        self.0.retain(|_, last| now - last.seen < HEARD_WITHIN * 12);
        cut_off
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// What the first of three primaries says when the others last answered at these times.
    fn view(answered: [u64; 2]) -> View {
        let text = format!(
            "a1 a:1@2 myself,master - 0 0 1 connected 0-5460\n\
             b2 b:1@2 master - 0 {} 2 connected 5461-10922\n\
             c3 c:1@2 master - 0 {} 3 connected 10923-16383\n\
             d4 d:1@2 slave a1 0 {} 1 connected\n\
             e5 e:1@2 master - 0 {} 0 connected\n",
            answered[0], answered[1], answered[0], answered[0]
        );
        View::parse(&text, &Address::parse("a:1").unwrap(), false)
    }

    #[tokio::test(start_paused = true)]
    async fn a_primary_is_cut_off_once_most_of_the_others_have_not_answered_it_lately() {
        let mut contacts = Contacts::default();
        let mut is_cut_off = |answered| !contacts.cut_off(&[view(answered)]).is_empty();
        assert!(!is_cut_off([1, 1]), "nothing is known yet");
        advance(HEARD_WITHIN).await;
        assert!(!is_cut_off([1, 2]), "with itself, one more of three is most");
        advance(HEARD_WITHIN).await;
        assert!(is_cut_off([1, 2]));
        assert!(is_cut_off([1, 2]));
        assert!(!is_cut_off([2, 2]));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_alone_in_its_cluster_and_who_is_no_primary_is_never_cut_off() {
        let alone = View::parse(
            "a1 a:1@2 myself,master - 0 0 1 connected 0-16383",
            &Address::parse("a:1").unwrap(),
            false,
        );
        let replica = View::parse(
            "a1 a:1@2 myself,slave b2 0 0 1 connected\nb2 b:1@2 master - 0 7 2 connected 0-16383",
            &Address::parse("a:1").unwrap(),
            false,
        );
        let mut contacts = Contacts::default();
        for _ in 0..3 {
            assert_eq!(contacts.cut_off(&[alone.clone(), replica.clone()]), BTreeSet::new());
            advance(HEARD_WITHIN).await;
        }
    }
}
