//! What holds of whatever comes in on a connection: see [`crate::fuzzing`].
#![expect(clippy::indexing_slicing, reason = "what a JSON value has not is null")]

use std::net::SocketAddr;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use super::parts::Ground;
use super::{own_address, wire};
use crate::config::{Cli, Config};
use crate::http::{self, Lifecycle, Router};
use crate::scene::s256;
use crate::telemetry::Metrics;

const VERIFIER: &str = "a-verifier-of-43-characters-or-more-0123456789";

/// Requests, one after the other. In them `SCENE`, `SECRET`, `TOKEN` and `WXCODE` stand for those of a login under way, and `GRANT` for the
/// authorization code that it ended with.
pub(crate) fn http_exchange(data: &[u8]) {
    thread_local! {
        static SERVICE: Option<Service> = Service::start();
    }
    SERVICE.with(|service| {
        assert!(service.is_some(), "the service starts");
        let Some(service) = service else { return };
        service.runtime.block_on(async {
            let sent = service.filled_in(data).await;
            let asks_for_heads = sent.windows(4).any(|part| part == b"HEAD");
            check(
                &http::fuzzing::answers(service.router.clone(), &sent).await,
                asks_for_heads,
            );
        });
    });
}

/// All of the service in this thread, with a store in memory and a simulated WeChat; its time goes on as fast as nothing happens.
struct Service {
    runtime: Runtime,
    router: Router,
    _ground: Ground,
}

impl Service {
    fn start() -> Option<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .ok()?;
        let arguments = [
            "scanlogin",
            "--limits",
            "off",
            "--limit-scenes",
            "500",
            "--scene-ttl",
            "30",
        ];
        let (cli, tables) = Cli::read(arguments.map(Into::into)).ok()?;
        let config = cli.settings.check(&tables).ok()?;
        let (router, ground) = runtime.block_on(router(config)).ok()?;
        Some(Self {
            runtime,
            router,
            _ground: ground,
        })
    }

    /// The input with the names replaced that it has in it.
    async fn filled_in(&self, data: &[u8]) -> Vec<u8> {
        let has = |name: &str| data.windows(name.len()).any(|part| part == name.as_bytes());
        let mut sent = data.to_vec();
        if has("WXCODE") {
            let login = self.call("/simulator/login", None, r#"{"openid":"fuzz"}"#).await;
            replace(&mut sent, "WXCODE", &login["code"]);
        }
        if !["SCENE", "SECRET", "TOKEN", "GRANT"].into_iter().any(has) {
            return sent;
        }
        let challenge = format!(r#"{{"code_challenge":"{}"}}"#, s256(VERIFIER));
        let started = self.call("/scenes", None, &challenge).await;
        let scene = format!("/scenes/{}", started["scene"].as_str().unwrap_or_default());
        replace(&mut sent, "SCENE", &started["scene"]);
        replace(&mut sent, "SECRET", &started["browser_secret"]);
        if has("TOKEN") || has("GRANT") {
            let login = self.call("/simulator/login", None, r#"{"openid":"alice"}"#).await;
            let code = format!(r#"{{"code":{}}}"#, login["code"]);
            let scanned = self.call(&format!("{scene}/scan"), None, &code).await;
            replace(&mut sent, "TOKEN", &scanned["confirm_token"]);
            if has("GRANT") {
                self.call(&format!("{scene}/confirm"), Some(&scanned["confirm_token"]), "{}")
                    .await;
                let state = self.call(&scene, Some(&started["browser_secret"]), "").await;
                replace(&mut sent, "GRANT", &state["code"]);
            }
        }
        sent
    }

    /// The reply to a request of our own: a POST, or with an empty body a GET.
    async fn call(&self, path: &str, bearer: Option<&Value>, body: &str) -> Value {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let bearer = bearer.and_then(Value::as_str).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {bearer}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answers = http::fuzzing::answers(self.router.clone(), request.as_bytes()).await;
        check(&answers, false);
        let body = answers.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
        let body = body.and_then(|at| answers.get(at..)).unwrap_or_default();
        serde_json::from_slice(body).unwrap_or_default()
    }
}

fn replace(sent: &mut Vec<u8>, name: &str, value: &Value) {
    let value = value.as_str().unwrap_or_default().as_bytes();
    let find = |sent: &[u8], from: usize| {
        let rest = sent.get(from..)?;
        Some(from + rest.windows(name.len()).position(|part| part == name.as_bytes())?)
    };
    let mut from = 0;
    while let Some(at) = find(sent, from) {
        sent.splice(at..at + name.len(), value.iter().copied());
        from = at + value.len();
    }
}

/// As [`super::App::start`] makes it.
async fn router(config: Config) -> anyhow::Result<(Router, Ground)> {
    let ground = Ground::on(Metrics::new()?);
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let public_url = own_address(&listener)?;
    let wired = wire(config, public_url, &listener, &ground, Lifecycle::default()).await?;
    Ok((wired.router, ground))
}

/// Whatever was asked, each answer is one that is declared, and says no more than it must. Where heads alone may have been asked for, only the
/// first is looked at: nothing says where it ends.
fn check(mut answers: &[u8], asks_for_heads: bool) {
    while let Some(end) = answers.windows(4).position(|end| end == b"\r\n\r\n") {
        let (head, body) = answers.split_at(end + 4);
        let head = String::from_utf8_lossy(head);
        let status = head.get(9..12).and_then(|status| status.parse::<u16>().ok());
        let fields: Vec<(String, &str)> = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        let field = |name: &str| fields.iter().find(|(given, _)| given == name).map(|(_, value)| *value);
        assert!(head.starts_with("HTTP/1.1 ") || head.starts_with("HTTP/1.0 "), "{head}");
        if status == Some(100) {
            answers = body;
            continue;
        }
        let is_declared = |status| matches!(status, 200..=499 | 502..=504);
        assert!(
            status.is_some_and(is_declared),
            "{head}{}",
            String::from_utf8_lossy(body)
        );
        // What the HTTP library refuses by itself is bare.
        let Some(id) = field("x-request-id") else {
            assert!(matches!(status, Some(400 | 414 | 431)), "{head}");
            return;
        };
        let is_harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        assert!((1..=64).contains(&id.len()) && id.bytes().all(is_harmless), "{head}");
        assert!(
            field("cache-control").is_some() && field("access-control-allow-origin") != Some("*"),
            "{head}"
        );
        let length = field("content-length").and_then(|length| length.parse::<usize>().ok());
        let whole = length.filter(|_| !asks_for_heads);
        let Some((body, rest)) = whole.and_then(|length| body.split_at_checked(length)) else {
            return;
        };
        if field("content-type") == Some("application/problem+json") {
            let problem: Value = serde_json::from_slice(body).unwrap_or_default();
            assert_eq!(problem["status"].as_u64(), status.map(u64::from), "{head}");
            // The simulator's own have no more than RFC 9457 asks for.
            let is_simulators = problem["type"] == "about:blank";
            assert!(is_simulators || problem["request_id"].as_str() == Some(id), "{head}");
            assert!(
                problem["code"].is_string() && problem["detail"].is_string(),
                "{problem}"
            );
            assert!(status != Some(503) || field("retry-after").is_some(), "{head}");
        }
        answers = rest;
    }
}
