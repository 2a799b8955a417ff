//! What a browser says of itself: which site it stands on, the secret it holds, and what it is.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, header};
use cookie::{Cookie, SameSite};
use zeroize::Zeroizing;

use super::AppState;
use super::extract::authorization;
use super::problem::{Code, Problem};
use crate::login::Client;
use crate::scene::{BrowserDescription, BrowserSecret, CODE_LIFE, SceneId};

/// So many logins under way can one browser have, in tabs of its own: those that it began before it forgets.
const UNDER_WAY: usize = 16;

/// No answer forgets more at once: a proxy takes no more than some KiB of headers.
const FORGOTTEN_AT_ONCE: usize = 16;

/// The origin under which browsers reach the service: scheme, host, port, no path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// Reads an origin; a lone `/` at its end is let pass.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = match url::Url::parse(text) {
            Ok(url) => url,
            Err(url::ParseError::RelativeUrlWithoutBase) => {
                return Err("it must begin with http:// or https://".to_owned());
            }
            Err(error) => return Err(error.to_string()),
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Err("it must begin with http:// or https://".to_owned());
        }
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err("it must be an origin: no path, no query, no user".to_owned());
        }
        Ok(Self(url.origin().ascii_serialization()))
    }

    /// Without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether cookies can be `Secure`.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        url::Url::parse(&self.0).is_ok_and(|url| is_loopback(&url))
    }

    /// Whether a request's `Host` is another name for what this is on the same machine, as `localhost:8080` is for
    /// `http://127.0.0.1:8080`. To a browser they are two sites, with cookies and an origin each.
    pub(super) fn has_other_name(&self, host: &str) -> bool {
        // What reads addresses for browsers leaves out a tab between two digits, and so would read another port.
        let Ok(host) = host.parse::<Authority>() else {
            return false;
        };
        let scheme = if self.is_https() { "https" } else { "http" };
        let (Ok(own), Ok(other)) = (url::Url::parse(&self.0), url::Url::parse(&format!("{scheme}://{host}"))) else {
            return false;
        };
        is_loopback(&own) && is_loopback(&other) && own.port() == other.port() && own.host() != other.host()
    }

    /// The name of a cookie of ours: bound to this very host wherever the connection allows it.
    pub(super) fn cookie_name(&self, name: &str) -> String {
        if self.is_https() {
            format!("__Host-{name}")
        } else {
            name.to_owned()
        }
    }

    /// The value of a cookie of ours.
    pub(super) fn read_cookie(&self, headers: &HeaderMap, name: &str) -> Option<Zeroizing<String>> {
        let name = self.cookie_name(name);
        let mut cookies = cookie_pairs(headers).filter_map(|pair| Cookie::parse(pair).ok());
        cookies
            .find(|cookie| cookie.name() == name)
            .map(|cookie| Zeroizing::new(cookie.value().to_owned()))
    }

    /// A cookie that no script can read.
    pub(super) fn cookie(&self, name: &str, value: String, seconds: u64) -> Cookie<'static> {
        Cookie::build((self.cookie_name(name), value))
            .path("/")
            .http_only(true)
            .same_site(SameSite::Lax)
            .secure(self.is_https())
            .max_age(cookie::time::Duration::seconds(
                i64::try_from(seconds).unwrap_or(i64::MAX),
            ))
            .build()
    }

    /// The cookies of this kind that a browser shall forget when it is given one more: without that, one that begins login after login
    /// would soon send more headers than anybody takes, and be shut out until they end by themselves.
    ///
    /// The oldest ones, which browsers send first (RFC 6265 §5.4).
    pub(super) fn forgotten(&self, headers: &HeaderMap, is_of_kind: impl Fn(&str) -> bool) -> Vec<Cookie<'static>> {
        let prefix = self.cookie_name("");
        let names = cookie_pairs(headers).filter_map(|pair| pair.split_once('=')?.0.strip_prefix(prefix.as_str()));
        let held: Vec<&str> = names.filter(|name| is_of_kind(name)).collect();
        let too_many = (held.len() + 1).saturating_sub(UNDER_WAY).min(FORGOTTEN_AT_ONCE);
        let oldest = held.into_iter().take(too_many);
        oldest.map(|name| self.cookie(name, String::new(), 0)).collect()
    }
}

/// The cookies of a request, as they stand there. One by one: what others on this host keep in theirs may be no text at all.
fn cookie_pairs(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::COOKIE).into_iter().map(HeaderValue::as_bytes);
    let pairs = lines.flat_map(|line| line.split(|byte| *byte == b';'));
    pairs.filter_map(|pair| std::str::from_utf8(pair).ok()).map(str::trim)
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(v4)) => v4.is_loopback(),
        Some(url::Host::Ipv6(v6)) => v6.is_loopback(),
        None => false,
    }
}

/// The browser secret that opens `scene`, as the request presents it: a Bearer, else the scene's cookie.
///
/// # Errors
/// [`Code::OriginNotAllowed`] when a cookie comes from a page that is neither ours nor of the scene's own client; before
/// that, whatever keeps such a cookie from opening the scene at all.
pub(super) async fn browser_secret(
    state: &AppState,
    headers: &HeaderMap,
    scene: &SceneId,
) -> Result<Option<BrowserSecret>, Problem> {
    if headers.contains_key(header::AUTHORIZATION) {
        return Ok(authorization(headers, "Bearer").and_then(BrowserSecret::parse));
    }
    let Some(cookie) = state.public_url.read_cookie(headers, &scene_cookie(scene)) else {
        return Ok(None);
    };
    let secret = BrowserSecret::parse(&cookie);
    if check_own_origin(state, headers).is_err() {
        // Before anything is done with it, a subscription too, which could take the place of the browser's own stream.
        let stored = state.login.of_browser(scene, secret.as_ref()).await?;
        check_client_origin(state, headers, &state.login.site(&stored.scene.client_id)?.client)?;
    }
    Ok(secret)
}

/// The cookie that makes this browser the one of its scene.
pub(super) fn secret_cookie(
    state: &AppState,
    scene: &SceneId,
    secret: &BrowserSecret,
    ttl_secs: u64,
) -> Cookie<'static> {
    let seconds = ttl_secs + CODE_LIFE.as_secs();
    state
        .public_url
        .cookie(&scene_cookie(scene), secret.expose().to_string(), seconds)
}

/// Those of further scenes that this browser shall forget.
pub(super) fn forgotten_scenes(state: &AppState, headers: &HeaderMap) -> Vec<Cookie<'static>> {
    let is_of_scene = |name: &str| {
        let scene = name.strip_prefix(SCENE_COOKIE);
        scene.is_some_and(|scene| scene.parse::<SceneId>().is_ok())
    };
    state.public_url.forgotten(headers, is_of_scene)
}

/// What the name of a scene's cookie begins with.
const SCENE_COOKIE: &str = "scanlogin_";

fn scene_cookie(scene: &SceneId) -> String {
    format!("{SCENE_COOKIE}{scene}")
}

/// Whether the page that sends this, if a page does, is of this client or ours.
///
/// # Errors
/// [`Code::OriginNotAllowed`]
pub(super) fn check_client_origin(state: &AppState, headers: &HeaderMap, client: &Client) -> Result<(), Problem> {
    check_origin(state, headers, |origin| {
        client.origins.iter().any(|listed| listed == origin)
    })
}

/// Whether the page that sends this, if a page does, is ours.
///
/// # Errors
/// [`Code::OriginNotAllowed`]
pub(super) fn check_own_origin(state: &AppState, headers: &HeaderMap) -> Result<(), Problem> {
    check_origin(state, headers, |_| false)
}

fn check_origin(state: &AppState, headers: &HeaderMap, listed: impl Fn(&str) -> bool) -> Result<(), Problem> {
    if comes_from(&state.public_url, headers, listed) {
        return Ok(());
    }
    Err(Problem::new(
        Code::OriginNotAllowed,
        "The page that sent this is of a site that is not listed. Add its origin to the client's origins.",
    ))
}

/// Whether the page that sends this, if a page does, is ours or listed.
pub(super) fn comes_from(own: &PublicUrl, headers: &HeaderMap, listed: impl Fn(&str) -> bool) -> bool {
    match headers.get(header::ORIGIN).map(HeaderValue::to_str) {
        Some(Ok(origin)) => origin == own.as_str() || listed(origin),
        Some(Err(_)) => false,
        // Without an Origin, the browser's own word on where the request comes from; other callers say nothing.
        None => match headers.get("sec-fetch-site").map(HeaderValue::to_str) {
            None | Some(Ok("same-origin" | "none")) => true,
            Some(_) => false,
        },
    }
}

/// What the confirm screen can say about the browser.
pub(super) fn describe(headers: &HeaderMap, ip: std::net::IpAddr) -> BrowserDescription {
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let unknown = || "?".to_owned();
    let parsed = woothee::parser::Parser::new().parse(agent);
    let (name, os) = parsed.map_or_else(
        || (unknown(), unknown()),
        |found| {
            let major = found.version.split('.').next().unwrap_or_default();
            (joined(found.name, major), joined(found.os, known(&found.os_version)))
        },
    );
    BrowserDescription {
        name,
        os,
        ip: Some(ip.to_string()),
        place: None,
    }
}

/// Names come from a list, versions from whoever sent them: of those only what looks like one is shown on somebody's confirm screen.
fn joined(name: &str, version: &str) -> String {
    let version = Some(version).filter(|version| is_version(version)).unwrap_or_default();
    match (known(name), version) {
        ("", _) => "?".to_owned(),
        (name, "") => name.to_owned(),
        // Some names carry their version already.
        (name, version) if name.contains(version) => name.to_owned(),
        (name, version) => format!("{name} {version}"),
    }
}

fn known(word: &str) -> &str {
    if word == "UNKNOWN" { "" } else { word }
}

/// Such as `143`, `10.15.7` or `14_2`.
fn is_version(version: &str) -> bool {
    let parts = || version.split(['.', '_']);
    parts().count() <= 4
        && parts().all(|part| (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn described(agent: &str) -> (String, String) {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, agent.parse().unwrap());
        let BrowserDescription { name, os, .. } = describe(&headers, Ipv4Addr::LOCALHOST.into());
        (name, os)
    }

    #[test]
    fn a_browser_is_known_by_its_name_and_version() {
        let webkit = "AppleWebKit/537.36 (KHTML, like Gecko)";
        for (agent, name, os) in [
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:143.0) Gecko/20100101 Firefox/143.0".to_owned(),
                "Firefox 143",
                "Windows 10",
            ),
            (
                format!("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {webkit} Chrome/141.0.0.0 Safari/537.36"),
                "Chrome 141",
                "Mac OSX 10.15.7",
            ),
            (
                format!("Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {webkit} Chrome/141.0.0.0 Safari/537.36"),
                "Chrome 141",
                "ChromeOS",
            ),
            (
                format!("Mozilla/5.0 (X11; CrOS WECHAT SAFETY CHECK: TAP CONFIRM) {webkit} Chrome/1 Safari/1"),
                "Chrome 1",
                "ChromeOS",
            ),
            (
                format!("Mozilla/5.0 (X11; FreeBSD tap confirm; x) {webkit} Chrome/1 Safari/1"),
                "Chrome 1",
                "BSD",
            ),
            (
                format!(
                    "Mozilla/5.0 (X11; Linux x86_64) {webkit} Chrome/{} Safari/1",
                    "1".repeat(4_000)
                ),
                "Chrome",
                "Linux",
            ),
            ("curl/8".to_owned(), "HTTP Library", "?"),
            (String::new(), "?", "?"),
        ] {
            assert_eq!(described(&agent), (name.to_owned(), os.to_owned()), "{agent:.120}");
        }
    }

    proptest! {
        #[test]
        fn nobody_writes_on_a_confirm_screen(
            kind in prop::sample::select(vec!["X11; CrOS ", "X11; FreeBSD ", "Windows NT ", "Macintosh; Intel Mac OS X ", "Linux; Android "]),
            words in "[ -~]{0,200}",
            version in "[ -~]{0,60}",
        ) {
            let (name, os) = described(&format!("Mozilla/5.0 ({kind}{words}) Chrome/{version} Safari/1"));
            for shown in [&name, &os] {
                prop_assert!(shown.len() <= 40, "{shown}");
                // Whatever stands behind the name is a version.
                let foreign = |word: &str| words.contains(word) && word.len() > 3 && word.bytes().all(|byte| byte.is_ascii_lowercase());
                prop_assert!(!shown.split(' ').any(foreign), "{shown}");
            }
        }
    }
}
