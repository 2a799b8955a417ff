//! What a site asks for at the authorization endpoint, and how it is answered (OpenID Connect Core §3.1.2, RFC 6749 §4.1).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use percent_encoding::{percent_decode, percent_decode_str};
use url::form_urlencoded;

use crate::login::Client;
use crate::scene::{Authorization, Scopes};

/// The longest nonce that is repeated in an id_token, in bytes.
pub const NONCE_LEN: usize = 255;

/// The longest state that is repeated, in bytes: some sites seal all they want to know again into it.
const STATE_LEN: usize = 4_096;

/// The parameters that decide something, whether they are taken or refused.
const DECIDING: [&str; 14] = [
    "client_id",
    "code_challenge",
    "code_challenge_method",
    "max_age",
    "nonce",
    "prompt",
    "redirect_uri",
    "registration",
    "request",
    "request_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
];

/// What somebody sent to `/authorize`. Whatever is none of its business there is ignored, even what is no text (§3.1.2.1); what has no
/// value counts as left out (RFC 6749 §3.1).
#[derive(Debug)]
pub struct AuthorizationRequest {
    /// Without a value: it is no text.
    by_name: BTreeMap<String, Option<String>>,
    twice: BTreeSet<String>,
}

/// Why nobody is asked to log in.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Anybody may have made this request, so the person is told here and sent nowhere (RFC 6749 §4.1.2.1).
    Stay(Stranger),
    /// The site is told.
    Return {
        /// Where the browser goes with it: the site's own redirect_uri.
        redirect_to: String,
        /// The word of the standard.
        error: &'static str,
        /// What the site's makers should change.
        description: String,
    },
}

/// What makes a request nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// No client_id, or none that is known.
    #[error("client_id is not one of a site that is set up here")]
    Client,
    /// No redirect_uri.
    #[error("redirect_uri is missing")]
    NoRedirectUri,
    /// Not exactly one that the site listed.
    #[error("redirect_uri is none of those that the site listed, character by character")]
    RedirectUri,
    /// client_id or redirect_uri more than once.
    #[error("client_id or redirect_uri is there more than once")]
    Twice,
}

impl From<Stranger> for Refusal {
    fn from(stranger: Stranger) -> Self {
        Self::Stay(stranger)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stay(stranger) => stranger.fmt(f),
            Self::Return { description, .. } => f.write_str(description),
        }
    }
}

/// A refusal that the site is told: the standard's word, and ours.
type Fault = (&'static str, String);

impl AuthorizationRequest {
    /// Reads a query, or a form.
    #[must_use]
    pub fn read(query: &[u8]) -> Self {
        let (mut by_name, mut twice) = (BTreeMap::new(), BTreeSet::new());
        for pair in query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let (name, value) = read_pair(pair);
            if by_name.insert(name.clone(), value).is_some() {
                twice.insert(name);
            }
        }
        Self { by_name, twice }
    }

    /// Which client it says it is of.
    ///
    /// # Errors
    /// [`Stranger`]
    pub fn client_id(&self) -> Result<&str, Stranger> {
        if self.twice.contains("client_id") || self.twice.contains("redirect_uri") {
            return Err(Stranger::Twice);
        }
        self.get("client_id").ok_or(Stranger::Client)
    }

    /// Where it wants its people back, as it was sent.
    #[must_use]
    pub fn redirect_uri(&self) -> Option<&str> {
        self.get("redirect_uri")
    }

    /// The languages that the site wants its people spoken to, the dearest first (BCP 47).
    #[must_use]
    pub fn ui_locales(&self) -> Option<&str> {
        self.get("ui_locales")
    }

    /// What `client`, the one that [`Self::client_id`] names, is to be held to and told again. `issuer` is the public URL.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn check(&self, client: &Client, issuer: &str) -> Result<Authorization, Refusal> {
        if self.by_name.get("redirect_uri").is_some_and(Option::is_none) {
            return Err(Stranger::RedirectUri.into());
        }
        let redirect_uri = self.get("redirect_uri").ok_or(Stranger::NoRedirectUri)?;
        if !client.redirect_uris.iter().any(|listed| listed == redirect_uri) {
            return Err(Stranger::RedirectUri.into());
        }
        // What follows is the site's own doing, and the site hears of it.
        self.authorization(client, redirect_uri)
            .map_err(|(error, description)| {
                let said = [("error", error), ("error_description", &*description)];
                // Of two nobody knows which is the site's.
                let state = self.get("state").filter(|_| !self.twice.contains("state"));
                let state = state.filter(|state| state.len() <= STATE_LEN);
                Refusal::Return {
                    redirect_to: answer(redirect_uri, &said, state, issuer),
                    error,
                    description,
                }
            })
    }

    fn get(&self, name: &str) -> Option<&str> {
        let value = self.by_name.get(name)?.as_deref();
        value.filter(|value| !value.is_empty())
    }

    fn authorization(&self, client: &Client, redirect_uri: &str) -> Result<Authorization, Fault> {
        let invalid = |words: &str| Err(("invalid_request", words.to_owned()));
        if let Some(name) = self.twice.first() {
            return invalid(&format!("{} is there twice.", sayable(name)));
        }
        // None is taken for what it does not say.
        if let Some(name) = DECIDING.iter().find(|name| self.by_name.get(**name) == Some(&None)) {
            return invalid(&format!("{name} is no text: it must be percent-encoded UTF-8."));
        }
        self.has_nothing_unsupported()?;
        match self.get("response_type") {
            Some("code") => {}
            None => return invalid("response_type is missing: code."),
            Some(_) => {
                return Err((
                    "unsupported_response_type",
                    "Only response_type=code is answered here.".to_owned(),
                ));
            }
        }
        if self.get("response_mode").is_some_and(|mode| mode != "query") {
            return invalid("response_mode can only be query.");
        }
        let code_challenge = self.code_challenge(client)?;
        let scopes = self.scopes()?;
        if self.get("state").is_some_and(|state| state.len() > STATE_LEN) {
            return invalid(&format!("state may have at most {STATE_LEN} bytes."));
        }
        let nonce = self.get("nonce");
        if let Some(wrong) = nonce.and_then(wrong_nonce) {
            return invalid(&wrong);
        }
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if self.get("max_age").is_some_and(|age| !is_number(age)) {
            return invalid("max_age must be a whole number of seconds.");
        }
        // Nobody is remembered here: each login is scanned, so that every max_age holds, and without a screen there is none.
        let prompts: Vec<&str> = self.get("prompt").unwrap_or_default().split(' ').collect();
        match prompts[..] {
            ["none"] => {
                return Err((
                    "login_required",
                    "Whoever logs in here scans a code: there is no login without a page.".to_owned(),
                ));
            }
            _ if prompts.contains(&"none") => return invalid("prompt=none goes with no other prompt."),
            _ => {}
        }
        Ok(Authorization {
            code_challenge,
            nonce: nonce.map(ToOwned::to_owned),
            redirect_uri: Some(redirect_uri.to_owned()),
            state: self.get("state").map(ToOwned::to_owned),
            scopes: Some(scopes),
        })
    }

    /// What would change the meaning of the rest is refused by its name (OpenID Connect Core §3.1.2.6).
    fn has_nothing_unsupported(&self) -> Result<(), Fault> {
        for (name, error) in [
            ("request", "request_not_supported"),
            ("request_uri", "request_uri_not_supported"),
            ("registration", "registration_not_supported"),
        ] {
            if self.get(name).is_some() {
                return Err((
                    error,
                    format!("{name} is not taken here: send the parameters themselves."),
                ));
            }
        }
        Ok(())
    }

    /// RFC 7636 §4.3, by which no method means `plain`.
    fn code_challenge(&self, client: &Client) -> Result<Option<String>, Fault> {
        let invalid = |words: &str| Err(("invalid_request", words.to_owned()));
        match (self.get("code_challenge"), self.get("code_challenge_method")) {
            (Some(challenge), Some("S256")) if is_challenge(challenge) => Ok(Some(challenge.to_owned())),
            (Some(_), Some("S256")) => invalid(CHALLENGE_FORM),
            (Some(_), _) => invalid("code_challenge_method must be S256."),
            (None, Some(_)) => invalid("code_challenge is missing, and code_challenge_method is there."),
            (None, None) if client.is_public() => {
                invalid("This client has no secret, so it must send code_challenge (PKCE, S256).")
            }
            (None, None) => Ok(None),
        }
    }

    /// Those that mean something here, of all that are asked for (OpenID Connect Core §3.1.2.1 has others ignored).
    fn scopes(&self) -> Result<Scopes, Fault> {
        let Some(asked) = self.get("scope") else {
            return Ok(Scopes { profile: false });
        };
        let asked: BTreeSet<&str> = asked.split(' ').collect();
        if !asked.contains("openid") {
            return Err(("invalid_scope", "scope must have openid in it.".to_owned()));
        }
        Ok(Scopes {
            profile: asked.contains("profile"),
        })
    }
}

/// A parameter (RFC 6749 Appendix B), without a value if either is no text. Who reads such bytes as some other text sends them back
/// changed.
fn read_pair(pair: &[u8]) -> (String, Option<String>) {
    let Ok(text) = std::str::from_utf8(pair) else {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        return (percent_decode(name).decode_utf8_lossy().into_owned(), None);
    };
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        let decoded = percent_decode_str(&text).decode_utf8();
        decoded.map(Cow::into_owned).ok()
    };
    match decode(name) {
        Some(name) => (name, decode(value)),
        None => (name.to_owned(), None),
    }
}

/// Of a name, which may be anything, what an error_description can hold (RFC 6749 §4.1.2.1).
fn sayable(name: &str) -> String {
    let is_sayable = |c: &char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
    name.chars().filter(is_sayable).take(40).collect()
}

/// Where the browser goes with an answer: the redirect_uri with these parameters, the site's state, and who answers (RFC 9207).
#[must_use]
pub fn answer(redirect_uri: &str, said: &[(&str, &str)], state: Option<&str>, issuer: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(said);
    if let Some(state) = state {
        query.append_pair("state", state);
    }
    query.append_pair("iss", issuer);
    // Not read and written anew: what the site listed is repeated as it is (RFC 6749 §3.1.2).
    let separator = match redirect_uri.split_once('?') {
        None => "?",
        Some((_, own)) if own.is_empty() || own.ends_with('&') => "",
        Some(_) => "&",
    };
    format!("{redirect_uri}{separator}{}", query.finish())
}

/// What is wrong with the form of a challenge.
pub const CHALLENGE_FORM: &str =
    "code_challenge must be the SHA-256 of the code_verifier in base64url without padding: 43 characters.";

/// Whether it can be an S256 challenge (RFC 7636 §4.2).
#[must_use]
pub fn is_challenge(text: &str) -> bool {
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() == 43 && text.bytes().all(is_base64url)
}

/// What is wrong with a nonce, if anything is.
#[must_use]
pub fn wrong_nonce(nonce: &str) -> Option<String> {
    let is_wrong = nonce.len() > NONCE_LEN || nonce.chars().any(char::is_control);
    is_wrong.then(|| format!("nonce may have at most {NONCE_LEN} bytes, none of them a control character."))
}
