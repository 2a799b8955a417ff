//! What holds of whatever a request says: see [`crate::fuzzing`].

use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::browser::{PublicUrl, comes_from, describe};
use super::demo::CallbackRequest;
use super::events::{last_event_id, wants_events};
use super::extract::{Form, authorization as authorization_in};
use super::language::Language;
use super::layers::scene_in;
use super::oidc::{basic_credentials, form_decoded};
use super::peer::{FORWARDED, ForwardedHeader, TrustedProxies, X_FORWARDED_FOR};
use super::phone::{ConfirmRequest, DeclineRequest, ScanRequest, warning};
use super::scenes::{StartRequest, wait_of};
use super::serve::talk;
use crate::scene::Doubt;
use crate::web::json;

fn lines(data: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
    data.split(|byte| *byte == b'\n')
}

/// One field of this name for each line that can be a value.
fn fields(name: &HeaderName, values: &[Vec<u8>]) -> HeaderMap {
    let values = values.iter().filter_map(|value| HeaderValue::from_bytes(value).ok());
    values.map(|value| (name.clone(), value)).collect()
}

/// Each line is a field of what a caller says of where it comes from; the proxy adds what it sees, to the last one or in one of its own.
pub(crate) fn forwarded(data: &[u8]) {
    let said: Vec<Vec<u8>> = lines(data).map(<[u8]>::to_vec).collect();
    if said.iter().any(|value| HeaderValue::from_bytes(value).is_err()) {
        return;
    }
    let (proxy, stranger) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([198, 51, 100, 1]));
    for (name, seen) in [
        (X_FORWARDED_FOR, "198.51.100.1, 10.2.3.4"),
        (X_FORWARDED_FOR, "198.51.100.1:4711"),
        (FORWARDED, "for=198.51.100.1;proto=https, for=10.2.3.4"),
        (FORWARDED, "for=\"198.51.100.1:4711\";host=\"a, b\""),
        (FORWARDED, "for=198.51.100.1;host=\"a\\\", b\", for=10.2.3.4"),
    ] {
        let header = match name {
            FORWARDED => ForwardedHeader::Forwarded,
            _ => ForwardedHeader::XForwardedFor,
        };
        let proxies = TrustedProxies::new("10.0.0.0/8".parse().into_iter().collect(), header);
        let name = HeaderName::from_static(name);
        let peer = |connected, values: &[Vec<u8>]| proxies.peer(connected, &fields(&name, values));
        assert_eq!(peer(stranger, &said), stranger, "a stranger is believed");
        let field_of_its_own = [&said[..], &[seen.as_bytes().to_vec()]].concat();
        let mut added = said.clone();
        if let Some(last) = added.last_mut() {
            last.extend_from_slice(b", ");
            last.extend_from_slice(seen.as_bytes());
        }
        for values in [field_of_its_own, added] {
            assert_eq!(peer(proxy, &values), stranger, "the caller chose who it is");
        }
        let alone = peer(proxy, &said);
        assert_eq!(alone, alone.to_canonical(), "one address is counted as two");
    }
}

/// Each line is a field; the first cookie of the very name counts, and no other.
pub(crate) fn cookies(data: &[u8]) {
    let said: Vec<Vec<u8>> = lines(data).map(<[u8]>::to_vec).collect();
    let headers = fields(&header::COOKIE, &said);
    for (url, name) in [
        ("http://127.0.0.1", "scanlogin_1"),
        ("https://a.example", "__Host-scanlogin_1"),
    ] {
        let Ok(url) = PublicUrl::parse(url) else { continue };
        let lines = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
        let mut pairs = lines
            .flat_map(|line| line.split(|byte| *byte == b';'))
            .filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='));
        let first = pairs.find(|(given, _)| given.trim() == name);
        let read = url.read_cookie(&headers, "scanlogin_1");
        assert_eq!(
            read.as_ref().map(|value| value.as_str()),
            first.map(|(_, value)| value.trim())
        );
    }
}

/// What is shown on somebody's confirm screen is short and plain.
pub(crate) fn user_agent(data: &[u8]) {
    let Ok(agent) = HeaderValue::from_bytes(data) else {
        return;
    };
    let headers = HeaderMap::from_iter([(header::USER_AGENT, agent)]);
    let described = describe(&headers, IpAddr::from([127, 0, 0, 1]));
    for shown in [&described.name, &described.os] {
        assert!((1..=40).contains(&shown.len()), "{shown}");
        let is_plain = |c: char| c.is_ascii_alphanumeric() || " ._-/()+?!".contains(c);
        assert!(shown.chars().all(is_plain), "{shown}");
        let longest = shown.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
        assert!(
            longest.is_none_or(|digits| digits <= 4),
            "a telephone number fits in {shown}"
        );
    }
}

/// The lines are `Origin`, `Sec-Fetch-Site`, `Host`, and an origin of the settings.
pub(crate) fn origin(data: &[u8]) {
    let mut lines = lines(data);
    let mut headers = HeaderMap::new();
    for name in [header::ORIGIN, HeaderName::from_static("sec-fetch-site")] {
        let line = lines.next().filter(|line| !line.is_empty());
        if let Some(value) = line.and_then(|line| HeaderValue::from_bytes(line).ok()) {
            headers.insert(name, value);
        }
    }
    let (Ok(own), listed) = (PublicUrl::parse("https://login.example"), "https://www.example") else {
        return;
    };
    let is_allowed = comes_from(&own, &headers, |origin| origin == listed);
    let sent = headers.get(header::ORIGIN).map(HeaderValue::as_bytes);
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    match sent {
        Some(origin) => assert_eq!(
            is_allowed,
            origin == own.as_str().as_bytes() || origin == listed.as_bytes()
        ),
        None => assert_eq!(is_allowed, matches!(site, None | Some(b"same-origin" | b"none"))),
    }

    let host = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let text = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let local = PublicUrl::parse("http://127.0.0.1:8080").map(|local| local.has_other_name(&host));
    assert!(local != Ok(true) || host.contains("8080"), "{host}");
    if let Ok(url) = PublicUrl::parse(&text) {
        let again = PublicUrl::parse(url.as_str());
        assert_eq!(again.as_ref(), Ok(&url), "an origin is no origin");
        let rest = url.as_str().trim_start_matches("http").trim_start_matches('s');
        let host = rest.strip_prefix("://").unwrap_or("/");
        let is_foreign = |c: char| !c.is_ascii_graphic() || "/?#@\\".contains(c);
        assert!(!host.is_empty() && !host.contains(is_foreign), "{}", url.as_str());
    }
}

/// The value of `Authorization`.
pub(crate) fn authorization(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
    let bearer = authorization_in(&headers, "Bearer");
    let basic = authorization_in(&headers, "Basic");
    assert!(bearer.is_none() || basic.is_none(), "two schemes at once");
    for (scheme, credentials) in [("bearer ", bearer), ("basic ", basic)] {
        let Some(credentials) = credentials else { continue };
        let text = String::from_utf8_lossy(data);
        assert!(text.to_ascii_lowercase().starts_with(scheme) && text.trim().ends_with(credentials));
        assert_eq!(credentials, credentials.trim());
    }
    if let Ok(Some((id, secret))) = basic_credentials(&headers) {
        assert!(!id.contains(':'), "{id}");
        assert_eq!(Some(STANDARD.encode(format!("{id}:{}", *secret)).as_str()), basic);
        let unreserved = |text: &str| !text.contains(['%', '+']);
        assert!(!unreserved(&id) || form_decoded(&id) == id);
    }
}

/// A form's body. Whatever is read, its first parameter once more makes it no form.
pub(crate) fn form(data: &[u8]) {
    let named = |media_type| HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))]);
    let headers = named("application/x-www-form-urlencoded; charset=utf-8");
    let read = Form::parse(&headers, data);
    assert!(Form::parse(&named("application/json"), data).is_err());
    assert!(Form::parse(&HeaderMap::new(), data).is_err());
    let (Ok(read), Some(first)) = (read, data.split(|byte| *byte == b'&').find(|pair| !pair.is_empty())) else {
        return;
    };
    for name in [
        "grant_type",
        "code",
        "client_id",
        "client_secret",
        "code_verifier",
        "redirect_uri",
    ] {
        assert!(
            read.get(name).is_none_or(|value| !value.is_empty()),
            "{name} is there and empty"
        );
        let twice = [data, b"&", name.as_bytes(), b"=x"].concat();
        let again = Form::parse(&headers, &twice);
        assert!(read.get(name).is_none() || again.is_err(), "{name} may be there twice");
    }
    assert!(
        Form::parse(&headers, &[data, b"&", first].concat()).is_err(),
        "a parameter may be there twice"
    );
}

/// The body of each call that takes one.
pub(crate) fn json_body(data: &[u8]) {
    let results = [
        json::object::<StartRequest>(data).err(),
        json::object::<ScanRequest>(data).err(),
        json::object::<ConfirmRequest>(data).err(),
        json::object::<DeclineRequest>(data).err(),
        json::object::<CallbackRequest>(data).err(),
    ];
    for why in results.into_iter().flatten() {
        assert!(why.ends_with('.') && !why.contains(char::is_control), "{why}");
    }
    let read = json::object::<serde_json::Map<String, Value>>(data);
    let Ok(object) = read else { return };
    let text = if data.is_empty() { b"{}" } else { data };
    assert_eq!(
        serde_json::from_slice::<Value>(text).ok(),
        Some(Value::Object(object.clone()))
    );
    let object_at = text.iter().position(|byte| *byte == b'{').unwrap_or_default() + 1;
    let (begin, rest) = text.split_at(object_at);
    for name in object.keys() {
        let twice = [begin, Value::from(name.as_str()).to_string().as_bytes(), b":0,", rest].concat();
        assert!(json::object::<Value>(&twice).is_err(), "{name:?} may be there twice");
    }
    assert!(depth(&Value::Object(object)) <= 16, "it nests deeper");
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

/// The lines are `Last-Event-ID`, `Accept`, `Accept-Language`, `wait` and a path.
pub(crate) fn events(data: &[u8]) {
    let mut lines = lines(data);
    let mut headers = HeaderMap::new();
    for name in [
        HeaderName::from_static("last-event-id"),
        header::ACCEPT,
        header::ACCEPT_LANGUAGE,
    ] {
        if let Some(value) = lines.next().and_then(|line| HeaderValue::from_bytes(line).ok()) {
            headers.insert(name, value);
        }
    }
    let sent = headers.get("last-event-id").map(HeaderValue::as_bytes);
    assert!(last_event_id(&headers).is_none_or(|id| Some(id.as_bytes()) == sent));
    let accept = headers
        .get(header::ACCEPT)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let has_it = accept
        .to_ascii_lowercase()
        .windows(17)
        .any(|part| part == b"text/event-stream");
    assert!(
        has_it || !wants_events(&headers),
        "a stream for who did not ask for one"
    );
    for doubt in [None, Some(Doubt::Typed), Some(Doubt::Late)] {
        assert!(warning(Language::of(&headers), doubt).ends_with(['.', '。']));
    }
    let wait = String::from_utf8_lossy(lines.next().unwrap_or_default());
    if let Ok(time) = wait_of(&wait) {
        assert!(
            time <= Duration::from_secs(30) && wait.bytes().all(|byte| byte.is_ascii_digit()),
            "{wait}"
        );
        assert!(wait.parse::<u64>().is_ok_and(|asked| asked > 30) || time.as_secs().to_string() == digits(&wait));
    }
    let path = String::from_utf8_lossy(lines.next().unwrap_or_default());
    if let Some(scene) = scene_in(&path) {
        assert_eq!(scene.chars().count(), 9, "more of {scene} is logged than finds it");
    }
}

/// Without zeros before; as many as nobody waits for are cut to the most.
fn digits(text: &str) -> &str {
    match text.trim_start_matches('0') {
        "" => "0",
        long if long.len() > 19 => "30",
        digits => digits,
    }
}

/// All that comes back on a connection on which this was `sent`, until nothing more comes.
pub(crate) async fn answers(router: Router, sent: &[u8]) -> Vec<u8> {
    /// What a stream that has nothing to say is waited for.
    const SILENCE: Duration = Duration::from_secs(5);
    const MOST: usize = 1 << 20;

    let (mut line, far) = duplex(MOST);
    let talk = talk(far, IpAddr::from([203, 0, 113, 9]), router, CancellationToken::new());
    let mut answers = Vec::new();
    let heard = async {
        let _ = line.write_all(sent).await;
        while let Ok(Ok(1..)) = timeout(SILENCE, line.read_buf(&mut answers)).await {
            if answers.len() > MOST {
                break;
            }
        }
    };
    // What was answered before the service ended the connection is still to be read.
    {
        tokio::pin!(heard);
        tokio::select! {
            () = &mut heard => {}
            () = talk => heard.await,
        }
    }
    answers
}
