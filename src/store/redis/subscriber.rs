//! The subscriber.

use crate::scene::SceneId;
use crate::store::StoreError;

/// Stands where the listener will be.
#[derive(Debug)]
pub struct Subscriber;

impl Subscriber {
    /// Hears nothing.
    pub async fn watch(&self, _id: &SceneId) -> Result<(), StoreError> {
        Err(StoreError::Unavailable("nobody listens".to_owned()))
    }

    /// Nothing to end.
    pub async fn unwatch(&self, _id: &SceneId) {}
}
