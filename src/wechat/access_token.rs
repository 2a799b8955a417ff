//! access_token.
