//! What makes a login an OpenID Connect one: what a site asks for, and what it is given. No HTTP.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod keys;
pub mod request;

pub use keys::{Algorithm, IdToken, KeysError, SigningKeys, new_key_set};
pub use request::{AuthorizationRequest, Refusal};
