//! What holds of whatever Redis says on a connection: see [`crate::fuzzing`].

use bytes::BytesMut;
use redis_protocol::resp3::decode::complete::decode_bytes_mut;
use redis_protocol::resp3::types::{BytesFrame, Resp3Frame};

use super::connection::Push;
use super::replies::{BatchId, Replies};
use crate::scene::PublicState;
use crate::store::redis::keys::Keys;
use crate::store::redis::wire::{error_text, whole_frame};

/// A conversation: frames in answer to what was asked, and pushes.
pub(crate) fn redis_wire(data: &[u8]) {
    let names = Keys::new("scanlogin");
    let mut replies = Replies::default();
    let asked: Option<crate::scene::SceneId> = "0123456789abcdef0123456789abcdef".parse().ok();
    replies.expect_pong();
    replies.expect_batch(BatchId(1), asked.as_slice());
    replies.expect_count();
    replies.expect_release(asked.as_slice());
    let mut rest = BytesMut::from(data);
    while let Ok(true) = whole_frame(&rest) {
        let before = rest.len();
        let Ok(Some((frame, ..))) = decode_bytes_mut(&mut rest) else {
            break;
        };
        assert!(rest.len() < before, "a frame of no bytes comes for ever");
        let Some(begun) = data.get(data.len() - before..data.len() - rest.len()) else {
            break;
        };
        for end in 0..begun.len() {
            let part = begun.get(..end).unwrap_or_default();
            assert!(
                matches!(whole_frame(part), Ok(false)),
                "a frame is whole before its end: {part:?}"
            );
        }
        match &frame {
            BytesFrame::Push { data, .. } => match Push::read(data, &names) {
                Some(Push::Message(_, payload)) => message(payload),
                Some(Push::Subscribed(id)) => drop(replies.subscribed(id)),
                Some(Push::Unsubscribed(id)) => drop(replies.unsubscribed(id)),
                None => {}
            },
            reply => drop(match error_text(reply) {
                Some(text) => replies.refused(text),
                None => replies.replied(reply.as_str().unwrap_or_default()),
            }),
        }
    }
    message(data);
}

/// An announcement is read as it was written.
fn message(payload: &[u8]) {
    let Ok(state) = serde_json::from_slice::<PublicState>(payload) else {
        return;
    };
    let written = serde_json::to_vec(&state).unwrap_or_default();
    assert_eq!(serde_json::from_slice::<PublicState>(&written).ok(), Some(state));
}
