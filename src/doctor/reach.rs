//! How far one comes to an address of the web, step by step, so that each way of failing has its own name and its own advice.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use crate::certificate::Distrust;
use crate::telemetry::chain;

const NAME_LIMIT: Duration = Duration::from_secs(3);
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// An answer to its end.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What is read of an answer.
const BODY_MAX: usize = 2 << 20;

/// Asks.
#[derive(Debug, Clone)]
pub(super) struct Web(pub(super) reqwest::Client);

/// What was answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreached {
    #[error("the name {0} is not known here")]
    Name(String),
    #[error("there is no connection to {0}: {1}")]
    Connection(String, String),
    #[error("TLS fails: {0}")]
    Tls(String),
    #[error("there is no answer within {} s", ANSWER_LIMIT.as_secs())]
    Silent,
    #[error("the answer breaks off: {0}")]
    Broken(String),
}

impl Unreached {
    /// What to do about it, where `setting` names the address.
    pub(super) fn fix(&self, setting: &str) -> String {
        match self {
            Self::Name(_) => format!("Write {setting} with a name that DNS knows here, or let DNS know it."),
            Self::Connection(..) => {
                format!(
                    "Look whether anything listens there, at firewalls and network policies on the way, and at {setting}."
                )
            }
            Self::Tls(why) => match Distrust::of(why) {
                Some(Distrust::UnknownIssuer) => {
                    "Let it serve a certificate with its whole chain, of an authority that browsers and phones trust."
                        .to_owned()
                }
                Some(Distrust::OtherName) => {
                    format!("Let it serve a certificate for that very name, or correct {setting}.")
                }
                Some(Distrust::OtherTime) => {
                    "Renew its certificate; if that is new, this machine's clock is wrong: let it keep time by NTP."
                        .to_owned()
                }
                Some(Distrust::Otherwise) => {
                    "Let it serve a certificate for its name, in date, of an authority that browsers and phones trust: one that \
                     signed itself will not do."
                        .to_owned()
                }
                None => format!("Look whether it speaks TLS there at all, and at {setting}."),
            },
            Self::Silent | Self::Broken(_) => "Look at its log, and at what stands on the way.".to_owned(),
        }
    }
}

impl Web {
    pub(super) fn new() -> Result<Self, reqwest::Error> {
        // An error says that one is installed already, which is what is wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .user_agent(concat!("scanlogin-doctor/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .build()?;
        Ok(Self(http))
    }

    /// Whether there is a name and a connection at all.
    pub(super) async fn connect(&self, url: &Url) -> Result<(), Unreached> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port_or_known_default().unwrap_or_default();
        let name = || Unreached::Name(host.to_owned());
        let found = timeout(NAME_LIMIT, lookup_host((host, port))).await;
        let addresses: Vec<_> = found.map_err(|_| name())?.map_err(|_| name())?.collect();
        let connecting = timeout(CONNECT_LIMIT, TcpStream::connect(&*addresses)).await;
        let no_connection = |why: String| Unreached::Connection(format!("{host}:{port}"), why);
        match connecting {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(no_connection(error.to_string())),
            Err(_) => Err(no_connection(format!("none within {} s", CONNECT_LIMIT.as_secs()))),
        }
    }

    /// Both, and then an answer.
    pub(super) async fn get(&self, url: &Url) -> Result<Answer, Unreached> {
        self.connect(url).await?;
        self.ask(self.0.get(url.clone())).await
    }

    /// An answer, of somebody who can be connected to.
    pub(super) async fn ask(&self, request: RequestBuilder) -> Result<Answer, Unreached> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        let mut response = Self::begin(request, ANSWER_LIMIT).await?;
        let mut body = Vec::new();
        while body.len() < BODY_MAX {
            match timeout_at(deadline, response.chunk()).await {
                Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Err(broken(error)),
                Err(_) => return Err(Unreached::Silent),
            }
        }
        Ok(Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body,
        })
    }

    /// The head of an answer.
    pub(super) async fn begin(request: RequestBuilder, limit: Duration) -> Result<Response, Unreached> {
        match timeout(limit, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(Unreached::Tls(chain(&error.without_url()))),
            Ok(Err(error)) => Err(broken(error)),
            Err(_) => Err(Unreached::Silent),
        }
    }
}

/// Without the address, which may hold a secret.
pub(super) fn broken(error: reqwest::Error) -> Unreached {
    Unreached::Broken(chain(&error.without_url()))
}
