//! The simulated phone's way to the service: through the simulator, so that its page calls its own origin only.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::{Bytes, BytesMut};
use reqwest::{Client, Url, redirect};

use super::Simulator;
use super::control::Problem;

const PREFIX: &str = "/simulator/service";
const TYPED: &str = "/short-codes/scan";
/// Of request and of answer.
const BODY_MAX: usize = 128 * 1024;
/// A long-poll may take 30 s.
const TIMEOUT: Duration = Duration::from_secs(35);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What a Mini Program sends. No cookie and no origin of the page: a Mini Program has none, and its referer is WeChat's own.
const PASSED_ON: [HeaderName; 6] = [
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::USER_AGENT,
    HeaderName::from_static("x-request-id"),
];
/// Those of the connection, of which there are two, and cookies.
const NOT_PASSED_BACK: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

pub(super) fn router() -> Router<Simulator> {
    let methods = get(forward).post(forward).put(forward).delete(forward);
    Router::new().route("/simulator/service/{*path}", methods)
}

/// A client that talks to `service` itself: no proxy between, no redirect to elsewhere.
pub(super) fn client(service: &Url) -> Result<Client, reqwest::Error> {
    // An error means that the process has chosen its provider already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT);
    if service.scheme() == "https" {
        builder.build()
    } else {
        // Loads no certificates, so that a machine without any can simulate.
        builder.tls_certs_only([]).build()
    }
}

async fn forward(State(simulator): State<Simulator>, request: Request) -> Result<Response, Problem> {
    let target = target(&simulator.settings().service_url, request.uri()).ok_or_else(|| {
        let detail = "only the service's /scenes/ is reached from here";
        Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
    })?;
    let played = simulator.played(request.uri());
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_MAX).await.map_err(|_| {
        let detail = format!("the body is above {BODY_MAX} bytes, or did not arrive");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    })?;
    let mut asked = simulator
        .shared
        .http
        .request(parts.method, target)
        .headers(passed_on(&parts.headers));
    if let Some(appid) = played {
        // The version is 0 in editions that are not released.
        let referer = format!("https://servicewechat.com/{appid}/0/page-frame.html");
        asked = asked.header(header::REFERER, referer);
    }
    let answer = asked.body(body).send().await.map_err(|error| away(&error))?;
    let (status, headers) = (answer.status(), passed_back(answer.headers()));
    let body = read(answer).await?;
    Ok((status, headers, Body::from(body)).into_response())
}

impl Simulator {
    /// The AppID of the Mini Program that the phone is in: the one that the address names as `appid`, or else the first that is known,
    /// where a short code is typed. A scan alone does not say whose code it was.
    fn played(&self, uri: &axum::http::Uri) -> Option<String> {
        let query = uri.query().unwrap_or_default().as_bytes();
        let named = url::form_urlencoded::parse(query).find(|(name, _)| name == "appid");
        let is_plain = |appid: &str| !appid.is_empty() && appid.bytes().all(|b| b.is_ascii_alphanumeric());
        match named {
            Some((_, appid)) => Some(appid.into_owned()).filter(|appid| is_plain(appid)),
            None if uri.path().ends_with(TYPED) => self.mini_programs().into_iter().find(|appid| is_plain(appid)),
            None => None,
        }
    }
}

/// Where a request goes: only to plain paths of scenes, and to where a short code is typed, so that no `..` and no `%2f` leads elsewhere.
fn target(service: &Url, uri: &axum::http::Uri) -> Option<Url> {
    let path = uri.path().strip_prefix(PREFIX)?;
    let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_/".contains(&b));
    if !plain || !(path.starts_with("/scenes/") || path == TYPED) {
        return None;
    }
    let mut target = service.clone();
    target.set_path(path);
    target.set_query(uri.query());
    Some(target)
}

fn passed_on(headers: &HeaderMap) -> HeaderMap {
    PASSED_ON
        .into_iter()
        .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())))
        .collect()
}

fn passed_back(headers: &HeaderMap) -> HeaderMap {
    let kept = headers.iter().filter(|(name, _)| !NOT_PASSED_BACK.contains(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

async fn read(mut answer: reqwest::Response) -> Result<Bytes, Problem> {
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| away(&error))? {
        if body.len() + chunk.len() > BODY_MAX {
            let detail = format!("the service's answer is above {BODY_MAX} bytes");
            return Err(Problem::new(StatusCode::BAD_GATEWAY, "service_unavailable", detail));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn away(error: &reqwest::Error) -> Problem {
    let why = if error.is_timeout() {
        "did not answer in time"
    } else if error.is_connect() {
        "cannot be reached"
    } else {
        "broke off"
    };
    let detail = format!("the service {why}; see --service-url");
    Problem::new(StatusCode::BAD_GATEWAY, "service_unavailable", detail)
}
