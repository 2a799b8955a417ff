//! What sites are still to be told, in Redis: beside the scenes of one hash tag their notices, so that one script writes both.
//!
//! A notice is kept as the claim of whoever has it in hand, in a number of bytes that is always the same, the client's line, and its text.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fred::types::Value;

use super::fault::Fault;
use super::keys::tags;
use super::script::is_unknown;
use super::{RedisStore, millis};
use crate::scene::{Scene, SceneId, WriteId};
use crate::store::{Due, Ended, Notice, NoticeStore, StoreError};

/// What nobody looks after any more, as no site has a webhook, is gone after this.
const UNTOUCHED: Duration = Duration::from_hours(72);

/// How many hash tags share what one client may have waiting.
const TAGS: usize = 256;

/// How many of a hash tag's notices that are due one look goes through, so that no script takes long.
const LOOKED_AT: usize = 256;

/// What `lua/replace.lua` takes of a notice, behind all else.
pub(super) fn args_of(scene: &Scene, notice: &Notice) -> [Bytes; 5] {
    // Its line ends where the next one begins.
    let client = notice.client_id.replace(char::is_control, " ");
    let head = format!("{}{client}\n", scene.write_id);
    [
        scene.id.to_string().into(),
        [head.as_bytes(), &notice.text].concat().into(),
        millis(notice.lease).to_string().into(),
        notice.most.div_ceil(TAGS).to_string().into(),
        millis(UNTOUCHED).to_string().into(),
    ]
}

#[async_trait]
impl NoticeStore for RedisStore {
    async fn claim_notices(
        &self,
        claim: WriteId,
        lease: Duration,
        most: usize,
        most_of_one: usize,
    ) -> Result<Due, StoreError> {
        let keys: Vec<[String; 2]> = tags()
            .map(|(tag, _)| [self.keys.notices_due(&tag), self.keys.notices(&tag)])
            .collect();
        let (keys, script) = (&keys, &self.scripts.claim_notices);
        let args = &[
            claim.to_string().into(),
            millis(lease).to_string().into(),
            most.div_ceil(TAGS).to_string().into(),
            most_of_one.div_ceil(TAGS).to_string().into(),
            LOOKED_AT.to_string().into(),
        ];
        self.commands
            .run("claim_notices", |route| async move {
                let of_tag = |[due, notices]: &[String; 2]| script.hashed(&[due, notices], args);
                let mut answers = route.each(keys.iter().map(of_tag).collect()).await;
                let whole = |[due, notices]: &[String; 2]| script.whole(&[due, notices], args);
                let unknown = |answer: &Result<Value, Fault>| answer.as_ref().is_err_and(is_unknown);
                let again = keys.iter().zip(&answers).filter(|(_, answer)| unknown(answer));
                let again = route.each(again.map(|(keys, _)| whole(keys)).collect()).await;
                answers.retain(|answer| !unknown(answer));
                let mut all = Due::default();
                let mut trouble = None;
                for answer in answers.into_iter().chain(again) {
                    match answer {
                        Ok(answer) => add(&mut all, answer)?,
                        Err(fault) => trouble = Some(fault),
                    }
                }
                // Of a Cluster that is away in part the rest goes on.
                match trouble {
                    Some(fault) if all.waiting == 0 => Err(fault),
                    _ => Ok(all),
                }
            })
            .await
    }

    async fn put_off_notice(
        &self,
        id: &SceneId,
        claim: WriteId,
        text: &[u8],
        wait: Duration,
    ) -> Result<Ended, StoreError> {
        let wait = millis(wait).to_string();
        self.end_notice("put_off_notice", id, claim, wait.into(), Bytes::copy_from_slice(text))
            .await
    }

    async fn drop_notice(&self, id: &SceneId, claim: WriteId) -> Result<Ended, StoreError> {
        self.end_notice("drop_notice", id, claim, Bytes::new(), Bytes::new())
            .await
    }
}

impl RedisStore {
    async fn end_notice(
        &self,
        op: &'static str,
        id: &SceneId,
        claim: WriteId,
        wait: Bytes,
        text: Bytes,
    ) -> Result<Ended, StoreError> {
        let tag = id.hash_tag();
        let keys = &[&*self.keys.notices_due(&tag), &*self.keys.notices(&tag)];
        let args = &[
            id.to_string().into(),
            claim.to_string().into(),
            wait,
            text,
            millis(UNTOUCHED).to_string().into(),
        ];
        self.commands
            .run(op, |route| async move {
                let ended: String = self.scripts.end_notice.run(&route, keys, args).await?;
                Ok::<_, Fault>(match &*ended {
                    "taken" => Ended::Taken,
                    "absent" => Ended::Absent,
                    _ => Ended::Done,
                })
            })
            .await
    }
}

/// Adds what `lua/claim_notices.lua` answered: how many there are, and then each claimed one's scene and what was kept of it.
fn add(all: &mut Due, answer: Value) -> Result<(), Fault> {
    let mut answer = answer.into_array().into_iter();
    let waiting: usize = answer.next().unwrap_or(Value::Null).convert()?;
    all.waiting += waiting;
    while let (Some(id), Some(kept)) = (answer.next(), answer.next()) {
        let (id, kept): (String, Bytes) = (id.convert()?, kept.convert()?);
        let id: SceneId = id
            .parse()
            .map_err(|_| Fault::Corrupt("a notice of no scene".to_owned()))?;
        let text = kept.splitn(2, |byte| *byte == b'\n').nth(1).unwrap_or_default();
        all.claimed.push((id, text.to_vec()));
    }
    Ok(())
}
