//! What sites are still to be told, in this process.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::MemoryStore;
use crate::scene::{Scene, SceneId, WriteId};
use crate::store::{Due, Notice, NoticeStore, PutOff, StoreError};

/// All of it, by scene.
#[derive(Debug, Default)]
pub(super) struct Notices(HashMap<SceneId, Kept>);

#[derive(Debug)]
struct Kept {
    client_id: String,
    text: Vec<u8>,
    claim: WriteId,
    due: Instant,
}

impl Notices {
    /// Keeps what is written with this scene, if there is room.
    pub(super) fn keep(&mut self, scene: &Scene, notice: &Notice, now: Instant) {
        let of_client = self.0.values().filter(|kept| kept.client_id == notice.client_id);
        if self.0.contains_key(&scene.id) || of_client.count() < notice.most {
            let kept = Kept {
                client_id: notice.client_id.clone(),
                text: notice.text.clone(),
                claim: scene.write_id,
                due: now + notice.lease,
            };
            self.0.insert(scene.id, kept);
        }
    }
}

#[async_trait]
impl NoticeStore for MemoryStore {
    async fn claim_notices(&self, claim: WriteId, lease: Duration, most: usize) -> Result<Due, StoreError> {
        let mut state = self.state();
        let notices = &mut state.notices.0;
        let now = Instant::now();
        let waiting = notices.len();
        let mut due: Vec<_> = notices.iter_mut().filter(|(_, kept)| kept.due <= now).collect();
        due.sort_unstable_by_key(|(_, kept)| kept.due);
        let claimed = due.into_iter().take(most).map(|(id, kept)| {
            kept.claim = claim;
            kept.due = now + lease;
            (*id, kept.text.clone())
        });
        let claimed = claimed.collect();
        Ok(Due { claimed, waiting })
    }

    async fn put_off_notice(
        &self,
        id: &SceneId,
        claim: WriteId,
        text: &[u8],
        wait: Duration,
    ) -> Result<PutOff, StoreError> {
        let mut state = self.state();
        let notices = &mut state.notices.0;
        Ok(match notices.get_mut(id) {
            None => PutOff::Absent,
            Some(kept) if kept.claim != claim => PutOff::Taken,
            Some(kept) => {
                kept.text = text.to_vec();
                kept.due = Instant::now() + wait;
                PutOff::Kept
            }
        })
    }

    async fn drop_notice(&self, id: &SceneId, claim: WriteId) -> Result<(), StoreError> {
        let mut state = self.state();
        let notices = &mut state.notices.0;
        if notices.get(id).is_some_and(|kept| kept.claim == claim) {
            notices.remove(id);
        }
        Ok(())
    }
}
