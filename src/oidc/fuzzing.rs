//! What holds of whatever is sent to `/authorize`: see [`crate::fuzzing`].

use std::collections::BTreeMap;

use url::Url;

use super::{AuthorizationRequest, Refusal};
use crate::login::entry::{EntryScenes, NumberMatching};
use crate::login::{Client, Subject};
use crate::oidc::Algorithm;

const ISSUER: &str = "https://login.example";
const LISTED: [&str; 3] = [
    "https://blog.example/callback",
    "https://blog.example/callback?from=scan",
    "http://localhost:3000/cb?",
];

fn client() -> Client {
    Client {
        client_id: "blog".to_owned(),
        client_secret: Some("s3cret".into()),
        name: "My Blog".to_owned(),
        logo_url: None,
        redirect_uris: LISTED.map(ToOwned::to_owned).into(),
        origins: Vec::new(),
        mini_program: "wx0".to_owned(),
        entry_scenes: EntryScenes::default(),
        number_matching: NumberMatching::Off,
        short_codes: false,
        env_versions: Vec::new(),
        avatar_hosts: Vec::new(),
        subject: Subject::Public,
        id_token_alg: Algorithm::Es256,
        webhook: None,
    }
}

/// A query.
pub(crate) fn authorization_request(data: &[u8]) {
    let request = AuthorizationRequest::read(data);
    let _ = request.client_id();
    match request.check(&client(), ISSUER) {
        Ok(kept) => {
            assert!(LISTED.contains(&kept.redirect_uri.as_deref().unwrap_or_default()));
            // Whatever is sent back of it is what was sent.
            let read: BTreeMap<_, _> = url::form_urlencoded::parse(data).collect();
            let state = read.get("state").filter(|state| !state.is_empty());
            assert_eq!(kept.state.as_deref(), state.map(AsRef::as_ref));
            assert!(kept.state.is_none_or(|state| state.len() <= 4_096));
            assert!(
                kept.nonce
                    .is_none_or(|nonce| nonce.len() <= 255 && !nonce.contains(char::is_control))
            );
            assert!(kept.code_challenge.is_none_or(|challenge| challenge.len() == 43));
        }
        Err(Refusal::Stay(_)) => {}
        Err(Refusal::Return { redirect_to, error, .. }) => {
            let listed = LISTED.iter().filter(|listed| redirect_to.starts_with(**listed));
            assert!(listed.count() > 0, "sent elsewhere: {redirect_to}");
            assert!(redirect_to.bytes().all(|byte| byte.is_ascii_graphic()), "{redirect_to}");
            let url = Url::parse(&redirect_to);
            assert!(url.is_ok(), "no address: {redirect_to}");
            let Ok(url) = url else { return };
            let said: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
            assert_eq!(said.get("error").map(String::as_str), Some(error));
            assert_eq!(said.get("iss").map(String::as_str), Some(ISSUER));
            assert_eq!(url.fragment(), None);
            assert_eq!(url.query_pairs().filter(|(name, _)| name == "error").count(), 1);
        }
    }
}
