//! What sites are still to be told, in this process.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::MemoryStore;
use crate::scene::{Scene, SceneId, WriteId};
use crate::store::{Due, Ended, Notice, NoticeStore, StoreError};

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Notices {
    by_scene: HashMap<SceneId, Kept>,
    /// Counted, as every login of a site asks for it.
    count_of_client: HashMap<String, usize>,
}

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
        let kept = Kept {
            client_id: notice.client_id.clone(),
            text: notice.text.clone(),
            claim: scene.write_id,
            due: now + notice.lease,
        };
        // A scene's client is always the same.
        if let Some(before) = self.by_scene.get_mut(&scene.id) {
            *before = kept;
            return;
        }
        let count = self.count_of_client.entry(notice.client_id.clone()).or_default();
        if *count < notice.most {
            *count += 1;
            self.by_scene.insert(scene.id, kept);
        }
    }

    fn remove(&mut self, id: &SceneId) {
        let Some(kept) = self.by_scene.remove(id) else { return };
        if let Some(count) = self.count_of_client.get_mut(&kept.client_id) {
            *count -= 1;
            if *count == 0 {
                self.count_of_client.remove(&kept.client_id);
            }
        }
    }

    /// What is due, the longest due first: so many, and of one client so many.
    fn due(&self, now: Instant, most: usize, most_of_one: usize) -> Vec<SceneId> {
        let mut due: Vec<_> = self.by_scene.iter().filter(|(_, kept)| kept.due <= now).collect();
        due.sort_unstable_by_key(|(_, kept)| kept.due);
        let mut count_of_client: HashMap<&str, usize> = HashMap::new();
        due.retain(|(_, kept)| {
            let count = count_of_client.entry(&kept.client_id).or_default();
            *count += 1;
            *count <= most_of_one
        });
        due.into_iter().take(most).map(|(id, _)| *id).collect()
    }
}

#[async_trait]
impl NoticeStore for MemoryStore {
    async fn claim_notices(
        &self,
        claim: WriteId,
        lease: Duration,
        most: usize,
        most_of_one: usize,
    ) -> Result<Due, StoreError> {
        let mut state = self.state();
        let (notices, now) = (&mut state.notices, Instant::now());
        let waiting = notices.by_scene.len();
        let mut claimed = Vec::new();
        for id in notices.due(now, most, most_of_one) {
            if let Some(kept) = notices.by_scene.get_mut(&id) {
                kept.claim = claim;
                kept.due = now + lease;
                claimed.push((id, kept.text.clone()));
            }
        }
        Ok(Due { claimed, waiting })
    }

    async fn put_off_notice(
        &self,
        id: &SceneId,
        claim: WriteId,
        text: &[u8],
        wait: Duration,
    ) -> Result<Ended, StoreError> {
        let mut state = self.state();
        Ok(match state.notices.by_scene.get_mut(id) {
            None => Ended::Absent,
            Some(kept) if kept.claim != claim => Ended::Taken,
            Some(kept) => {
                kept.text = text.to_vec();
                kept.due = Instant::now() + wait;
                Ended::Done
            }
        })
    }

    async fn drop_notice(&self, id: &SceneId, claim: WriteId) -> Result<Ended, StoreError> {
        let mut state = self.state();
        let notices = &mut state.notices;
        Ok(match notices.by_scene.get(id) {
            None => Ended::Absent,
            Some(kept) if kept.claim != claim => Ended::Taken,
            Some(_) => {
                notices.remove(id);
                Ended::Done
            }
        })
    }
}
