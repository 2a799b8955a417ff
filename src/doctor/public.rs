//! The public URL as a browser finds it: whether it leads here, and whether what stands on the way lets a stream through.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING};
use reqwest::{Response, StatusCode, Url};
use ring::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::reach::{Answer, Unreached, Web};
use super::report::{Check, Finding};
use crate::config::Config;

/// How long the first event may take, which is there when the stream is opened.
const FIRST_EVENT: Duration = Duration::from_secs(5);

/// How late a heartbeat may be.
const LATE: Duration = Duration::from_secs(2);

/// What is read of a stream at most.
const STREAM_MAX: usize = 64 << 10;

const SETTING: &str = "SCANLOGIN_PUBLIC_URL";

const UNBUFFERED: &str = "Let the proxy pass /events/ on as it comes: with nginx take proxy_ignore_headers X-Accel-Buffering away or set \
                          proxy_buffering off; no compression there that gathers, and no cache.";

pub(super) async fn examine(config: &Config, web: &Web, wait: Duration) -> Vec<Finding> {
    let Some(base) = base(config) else {
        let why = "it follows from the port that the service gets, which is not known from here: SCANLOGIN_LISTEN leaves it open";
        return vec![Finding::skipped(Check::PublicReached, SETTING, why)];
    };
    let visitor = Visitor {
        config,
        web,
        base,
        wait,
    };
    let mut findings = visitor.visit().await;
    findings.push(proxies(config, &visitor.base));
    findings
}

/// Where browsers are told that it is.
fn base(config: &Config) -> Option<Url> {
    if let Some(url) = &config.public_url {
        return url.as_str().parse().ok();
    }
    let mut own: SocketAddr = config.listen;
    match own {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => own.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => own.set_ip(Ipv6Addr::LOCALHOST.into()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => {}
    }
    (own.port() != 0).then(|| format!("http://{own}").parse().ok())?
}

/// Whether a public URL that is set is, seen from the machine or the container of a replica, its own port: browsers come to that name
/// from elsewhere, and there a proxy may stand before it.
fn leads_back(config: &Config) -> bool {
    let loopback = config.public_url.as_ref().filter(|url| url.is_loopback());
    let url = loopback.and_then(|url| url.as_str().parse::<Url>().ok());
    url.is_some_and(|url| url.port_or_known_default() == Some(config.listen.port()))
}

/// What the service sees of a browser's address can't be known from here, but that it sees the proxy's.
fn proxies(config: &Config, base: &Url) -> Finding {
    let check = Check::PublicProxies;
    if base.scheme() == "https" && config.trusted_proxies.is_empty() {
        return Finding::warning(
            check,
            SETTING,
            "it is https, so a proxy stands before the service, and SCANLOGIN_TRUSTED_PROXIES names none: all browsers have one address",
            "Set SCANLOGIN_TRUSTED_PROXIES to the networks that your proxies call from.",
        );
    }
    Finding::skipped(
        check,
        SETTING,
        "which address it takes a browser for stands on the phone's screen alone: scan a code, and compare it with your own",
    )
}

struct Visitor<'a> {
    config: &'a Config,
    web: &'a Web,
    base: Url,
    wait: Duration,
}

/// A scene of ours.
#[derive(Deserialize)]
struct Started {
    scene: String,
    browser_secret: SecretString,
}

/// How a stream went on.
enum Heard {
    /// It told this after so long.
    It(Duration),
    /// It ended.
    End(Duration),
    /// It told nothing.
    Nothing,
}

impl Visitor<'_> {
    async fn visit(&self) -> Vec<Finding> {
        let name = self.base.host_str().unwrap_or_default();
        let answer = match self.web.get(&self.at("/.well-known/openid-configuration")).await {
            Ok(answer) => answer,
            Err(unreached) => {
                let failed = Finding::failed(Check::PublicReached, name, &unreached, unreached.fix(SETTING));
                return [failed].into_iter().chain(skipped("it is not reached")).collect();
            }
        };
        let tls = if self.base.scheme() == "https" {
            "with a certificate that is trusted"
        } else {
            "without TLS"
        };
        let mut findings = vec![Finding::ok(Check::PublicReached, name, format!("answers, {tls}"))];
        let service = self.service(&answer);
        let is_ours = service.is_ok();
        findings.push(service.unwrap_or_else(|finding| finding));
        if !is_ours {
            findings.extend(skipped("it is not this service"));
            return findings;
        }
        let (version, keys, streams) = tokio::join!(self.version(), self.keys(), Box::pin(self.streams()));
        findings.extend([version, keys]);
        findings.extend(streams);
        findings
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(path);
        url
    }

    /// Whether the issuer that it tells is the one that these settings make.
    fn service(&self, answer: &Answer) -> Result<Finding, Finding> {
        let (check, own) = (Check::PublicService, self.base.origin().ascii_serialization());
        let issuer = json_of(answer).and_then(|told| Some(told.get("issuer")?.as_str()?.to_owned()));
        match issuer {
            Some(issuer) if issuer == own => Ok(Finding::ok(check, &own, "is this service, and its issuer")),
            Some(issuer) => Err(Finding::failed(
                check,
                &own,
                format!("calls itself {issuer}"),
                "Set the same SCANLOGIN_PUBLIC_URL everywhere: sites compare the issuer letter by letter.",
            )),
            None => Err(Finding::failed(
                check,
                &own,
                format!(
                    "answers {} to /.well-known/openid-configuration, and not as this service",
                    answer.status.as_u16()
                ),
                "Let the proxy pass every path on to the service, or correct SCANLOGIN_PUBLIC_URL.",
            )),
        }
    }

    async fn version(&self) -> Finding {
        let answer = match self.web.get(&self.at("/openapi.json")).await {
            Ok(answer) => answer,
            Err(unreached) => return Finding::skipped(Check::PublicVersion, SETTING, unreached),
        };
        let told = json_of(&answer);
        version(told.as_ref().and_then(|told| told.pointer("/info/version")?.as_str()))
    }

    /// Whether what signs here is what sites check with there.
    async fn keys(&self) -> Finding {
        let check = Check::PublicKeys;
        let Some(keys) = &self.config.signing_keys else {
            return Finding::skipped(check, "/jwks.json", "the service draws keys of its own");
        };
        let answer = match self.web.get(&self.at("/jwks.json")).await {
            Ok(answer) => answer,
            Err(unreached) => return Finding::failed(check, "/jwks.json", &unreached, unreached.fix(SETTING)),
        };
        let told = json_of(&answer);
        let told = told.as_ref().and_then(|set| set.get("keys")?.as_array());
        let kids = told.into_iter().flatten().filter_map(|key| key.get("kid")?.as_str());
        let kids: Vec<&str> = kids.collect();
        let own: Vec<&str> = keys.kids().collect();
        compare_keys(&own, &kids)
    }

    /// A scene's stream, as a browser has it.
    async fn streams(&self) -> Vec<Finding> {
        let check = Check::PublicStream;
        let heartbeat = |why: &str| Finding::skipped(Check::PublicHeartbeat, "/events/", why);
        let no_stream = "there is no stream";
        let Some(client) = self.config.clients.first() else {
            return vec![
                Finding::skipped(check, "/events/", "there is no site"),
                heartbeat(no_stream),
            ];
        };
        let started = match self.start(&client.client_id).await {
            Ok(started) => started,
            Err(finding) => return vec![finding, heartbeat(no_stream)],
        };
        let findings = match self.first_event(&started).await {
            Ok((_, after)) if leads_back(self.config) => {
                let why = format!("{after}, but from here that is this replica itself: no proxy was met");
                vec![Finding::skipped(check, "/events/", why), heartbeat("no proxy was met")]
            }
            Ok((stream, after)) => {
                let ok = Finding::ok(check, "/events/", after);
                vec![ok, self.heartbeat(stream).await]
            }
            Err(finding) => vec![finding, heartbeat(no_stream)],
        };
        let path = format!("/scenes/{}", started.scene);
        let giving_up = self
            .web
            .0
            .delete(self.at(&path))
            .bearer_auth(started.browser_secret.expose_secret());
        // If it can't be given up, it ends by itself.
        let _ = self.web.ask(giving_up).await;
        findings
    }

    async fn start(&self, client_id: &str) -> Result<Started, Finding> {
        let (check, path) = (Check::PublicStream, "/scenes");
        // A site without a secret must send one. Nobody will redeem.
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, b"nobody redeems this"));
        let body = json!({ "client_id": client_id, "code_challenge": challenge, "code_challenge_method": "S256" });
        let answer = self.web.ask(self.web.0.post(self.at(path)).json(&body)).await;
        let answer = answer.map_err(|unreached| Finding::failed(check, path, &unreached, unreached.fix(SETTING)))?;
        let status = answer.status;
        if status == StatusCode::CREATED {
            let started = serde_json::from_slice(&answer.body);
            return started
                .map_err(|_| Finding::failed(check, path, "answers no scene", "Look at what stands on the way."));
        }
        let told = json_of(&answer);
        let told = told.as_ref().and_then(|problem| problem.get("detail")?.as_str());
        let message = format!(
            "no scene can be started: {} {}",
            status.as_u16(),
            told.unwrap_or_default()
        );
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Finding::warning(check, path, message, "Look again in a minute."));
        }
        Err(Finding::failed(
            check,
            path,
            message,
            "Look at the service's log and at /readyz, on its ops listener.",
        ))
    }

    /// The head of the answer is held back as well by what gathers.
    async fn first_event(&self, started: &Started) -> Result<(Response, String), Finding> {
        let (check, path) = (Check::PublicStream, format!("/events/{}", started.scene));
        let request = self.web.0.get(self.at(&path)).header(ACCEPT, "text/event-stream");
        // As browsers do: some proxies gather only for those who do.
        let request = request.header(ACCEPT_ENCODING, "gzip");
        let request = request.bearer_auth(started.browser_secret.expose_secret());
        let asked = Instant::now();
        let held_back = || {
            let message = format!(
                "no event came within {} s: something on the way holds the stream back",
                FIRST_EVENT.as_secs()
            );
            Finding::failed(check, "/events/", message, UNBUFFERED)
        };
        let mut stream = match Web::begin(request, FIRST_EVENT).await {
            Ok(stream) => stream,
            Err(Unreached::Silent) => return Err(held_back()),
            Err(unreached) => return Err(Finding::failed(check, "/events/", &unreached, unreached.fix(SETTING))),
        };
        if stream.status() != StatusCode::OK {
            let message = format!("answers {}", stream.status().as_u16());
            return Err(Finding::failed(
                check,
                "/events/",
                message,
                "Look at the service's log, and at what stands on the way.",
            ));
        }
        match hear(&mut stream, "event:", asked, asked + FIRST_EVENT).await {
            Heard::It(after) => {
                let message = format!("the first event came after {} ms", after.as_millis());
                Ok((stream, message))
            }
            Heard::Nothing => Err(held_back()),
            Heard::End(_) => Err(Finding::failed(
                check,
                "/events/",
                "the stream ended without an event",
                UNBUFFERED,
            )),
        }
    }

    async fn heartbeat(&self, mut stream: Response) -> Finding {
        let (check, every) = (Check::PublicHeartbeat, self.config.heartbeat);
        let seconds = every.as_secs();
        if every > self.wait {
            let why = format!("it comes every {seconds} s, which is longer than --wait");
            return Finding::skipped(check, "/events/", why);
        }
        let begun = Instant::now();
        match hear(&mut stream, "\n:", begun, begun + every + LATE).await {
            Heard::It(after) => {
                let message = format!("a heartbeat came after {:.1} s, of {seconds} s", after.as_secs_f64());
                Finding::ok(check, "/events/", message)
            }
            Heard::End(after) if after >= self.config.scene_ttl => {
                Finding::skipped(check, "/events/", "the scene ended before the first one was due")
            }
            Heard::End(after) => Finding::failed(
                check,
                "/events/",
                format!(
                    "the stream was cut after {:.1} s, before the first heartbeat",
                    after.as_secs_f64()
                ),
                "Let the proxy keep silent streams longer than SCANLOGIN_HEARTBEAT, or make that shorter.",
            ),
            Heard::Nothing => Finding::failed(
                check,
                "/events/",
                format!("no heartbeat came within {} s", (every + LATE).as_secs()),
                UNBUFFERED,
            ),
        }
    }
}

fn version(told: Option<&str>) -> Finding {
    let (check, own) = (Check::PublicVersion, env!("CARGO_PKG_VERSION"));
    match told {
        Some(version) if version == own => Finding::ok(check, SETTING, format!("{version}, as here")),
        Some(version) => Finding::warning(
            check,
            SETTING,
            format!("it is {version}, and this is {own}"),
            "If no roll is under way, look which image is deployed.",
        ),
        None => Finding::skipped(check, SETTING, "it does not tell"),
    }
}

fn compare_keys(own: &[&str], told: &[&str]) -> Finding {
    let check = Check::PublicKeys;
    let less = |all: &[&str], those: &[&str]| {
        let less = all.iter().filter(|kid| !those.contains(kid)).copied();
        less.collect::<Vec<_>>().join(", ")
    };
    let (missing, foreign) = (less(own, told), less(told, own));
    let fix = "Give the same SCANLOGIN_SIGNING_KEYS_FILE to every replica, and to this one: sites refuse what another key signed.";
    if !missing.is_empty() {
        Finding::failed(check, "/jwks.json", format!("lacks {missing}"), fix)
    } else if !foreign.is_empty() {
        Finding::warning(check, "/jwks.json", format!("has others too: {foreign}"), fix)
    } else {
        Finding::ok(check, "/jwks.json", format!("has the very keys: {}", told.join(", ")))
    }
}

/// What rests on that it is reached, and is ours.
fn skipped(why: &'static str) -> impl Iterator<Item = Finding> {
    let checks = [Check::PublicKeys, Check::PublicStream, Check::PublicHeartbeat];
    checks
        .into_iter()
        .map(move |check| Finding::skipped(check, SETTING, why))
}

/// Reads until there is a line that begins so; what is compressed counts as it comes.
async fn hear(stream: &mut Response, mark: &str, since: Instant, until: Instant) -> Heard {
    let encoding = stream.headers().get(CONTENT_ENCODING);
    let is_compressed = encoding.is_some_and(|encoding| encoding != "identity");
    // What came before ended a line.
    let mut heard = b"\n".to_vec();
    while heard.len() < STREAM_MAX {
        match timeout_at(until, stream.chunk()).await {
            Ok(Ok(Some(chunk))) => heard.extend_from_slice(&chunk),
            Ok(Ok(None) | Err(_)) => return Heard::End(since.elapsed()),
            Err(_) => return Heard::Nothing,
        }
        if is_compressed || String::from_utf8_lossy(&heard).contains(mark) {
            return Heard::It(since.elapsed());
        }
    }
    Heard::End(since.elapsed())
}

fn json_of(answer: &Answer) -> Option<Value> {
    serde_json::from_slice(&answer.body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(finding: &Finding, result: &str, words: &str) {
        let told = serde_json::to_value(finding).unwrap();
        assert_eq!(told["result"], result, "{told}");
        assert!(told["message"].as_str().unwrap().contains(words), "{told}");
    }

    #[test]
    fn another_version_and_other_keys_are_told_from_ones_that_are_missing() {
        is(&version(Some(env!("CARGO_PKG_VERSION"))), "ok", "as here");
        is(&version(Some("9.9.9")), "warning", "it is 9.9.9, and this is ");
        is(&version(None), "skipped", "does not tell");

        is(&compare_keys(&["a", "b"], &["b", "a"]), "ok", "the very keys: b, a");
        is(&compare_keys(&["a"], &["a", "b"]), "warning", "has others too: b");
        is(&compare_keys(&["a", "b"], &["b", "c"]), "failed", "lacks a");
        is(&compare_keys(&["a"], &[]), "failed", "lacks a");
    }
}
