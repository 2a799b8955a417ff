//! How a site's own server is told of a login: one signed POST, by the Standard Webhooks specification 1.0.
//!
//! When it is sent, and sent again, is the business of [`crate::login`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::RETRY_AFTER;
use reqwest::{StatusCode, Url};
use ring::hmac;
use zeroize::Zeroizing;

use crate::telemetry::chain;
use crate::traceparent::{TRACEPARENT, Traceparent};

/// What a secret begins with.
const PREFIX: &str = "whsec_";

/// How many bytes a secret has at least and at most.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// How long connecting to a receiver may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a site wants to be told, and what it will know us by.
#[derive(Clone)]
pub struct Webhook {
    url: Url,
    /// All of them sign: while a site changes its secret there are two.
    keys: Arc<[hmac::Key]>,
}

/// Sent to the same place and signed the same.
impl PartialEq for Webhook {
    fn eq(&self, other: &Self) -> bool {
        let of_nothing = |webhook: &Self| webhook.signature("", 0, "");
        self.url == other.url && of_nothing(self) == of_nothing(other)
    }
}

/// Neither address nor key: the one may hold a secret of the site's, the other is one.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("host", &self.url.host_str())
            .finish_non_exhaustive()
    }
}

/// Not a secret as the specification wants it. Does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be {PREFIX} and the base64 of {} to {} random bytes", SECRET_BYTES.start(), SECRET_BYTES.end())]
pub struct NotASecret;

impl Webhook {
    /// A site's. `secrets` is one, or several with space between while the site changes it.
    ///
    /// # Errors
    /// [`NotASecret`]
    pub fn new(url: Url, secrets: &str) -> Result<Self, NotASecret> {
        let keys = secrets.split_whitespace().map(key).collect::<Result<Arc<[_]>, _>>()?;
        if keys.is_empty() {
            return Err(NotASecret);
        }
        Ok(Self { url, keys })
    }

    /// Where it is. May hold a secret of the site's.
    #[must_use]
    pub fn address(&self) -> &Url {
        &self.url
    }

    /// The `webhook-signature` of a message that is sent at `timestamp`, in seconds since the Unix epoch.
    fn signature(&self, id: &str, timestamp: i64, body: &str) -> String {
        let signed = format!("{id}.{timestamp}.{body}");
        let signature = |key| format!("v1,{}", STANDARD.encode(hmac::sign(key, signed.as_bytes())));
        self.keys.iter().map(signature).collect::<Vec<_>>().join(" ")
    }
}

fn key(secret: &str) -> Result<hmac::Key, NotASecret> {
    let base64 = secret.strip_prefix(PREFIX).ok_or(NotASecret)?;
    let bytes = Zeroizing::new(STANDARD.decode(base64).map_err(|_| NotASecret)?);
    SECRET_BYTES
        .contains(&bytes.len())
        .then(|| hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        .ok_or(NotASecret)
}

/// Why a message counts as not received.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The receiver wants no such messages any more: HTTP status 410.
    #[error("the receiver answered 410: it is gone for good")]
    Gone,
    /// It answered anything else than 2xx; a redirect is not followed.
    #[error("HTTP status {code}")]
    Status {
        /// The status.
        code: u16,
        /// For how long it wants to be left alone, if it says so: RFC 9110, section 10.2.3.
        retry_after: Option<Duration>,
    },
    /// It did not answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// It can't be reached.
    #[error("{0}")]
    Unreachable(String),
}

impl SendError {
    /// Which of these it is, in a word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Status { .. } => "status",
            Self::Timeout(_) => "timeout",
            Self::Unreachable(_) => "unreachable",
        }
    }

    /// For how long the receiver wants to be left alone, if it says so: as long as it pleases.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Gone | Self::Timeout(_) | Self::Unreachable(_) => None,
        }
    }
}

/// Sends messages.
#[derive(Debug, Clone)]
pub struct Sender {
    http: reqwest::Client,
    timeout: Duration,
}

impl Sender {
    /// One that waits so long for an answer.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn new(timeout: Duration) -> Result<Self, reqwest::Error> {
        // An error says that one is installed already, which is what is wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            // The operator named this address and no other.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .user_agent(concat!("scanlogin/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .timeout(timeout)
            .build()?;
        Ok(Self { http, timeout })
    }

    /// Sends a message once, as part of a trace; `now` is in seconds since the Unix epoch. What the receiver writes is not read
    /// beyond its status and its `Retry-After`.
    ///
    /// # Errors
    /// [`SendError`]; it may have been received all the same.
    pub async fn send(
        &self,
        webhook: &Webhook,
        id: &str,
        body: &str,
        traceparent: Option<Traceparent>,
        now: i64,
    ) -> Result<(), SendError> {
        let mut request = self
            .http
            .post(webhook.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", webhook.signature(id, now, body))
            .body(body.to_owned());
        if let Some(traceparent) = traceparent {
            request = request.header(TRACEPARENT, traceparent.to_string());
        }
        match request.send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) if response.status() == StatusCode::GONE => Err(SendError::Gone),
            Ok(response) => Err(SendError::Status {
                code: response.status().as_u16(),
                retry_after: response
                    .headers()
                    .get(RETRY_AFTER)
                    .and_then(|value| retry_after(value.to_str().ok()?, now)),
            }),
            Err(error) if error.is_timeout() => Err(SendError::Timeout(self.timeout)),
            // The address may hold a secret of the site's.
            Err(error) => Err(SendError::Unreachable(chain(&error.without_url()))),
        }
    }
}

/// The duration that a `Retry-After` says at `now`: seconds, or an HTTP date in any of its forms (RFC 9110 §5.6.7).
fn retry_after(text: &str, now: i64) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let now = UNIX_EPOCH + Duration::from_secs(u64::try_from(now).ok()?);
    httpdate::parse_http_date(text).ok()?.duration_since(now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(secrets: &str) -> Result<Webhook, NotASecret> {
        Webhook::new("https://blog.example/hook?key=hidden".parse().unwrap(), secrets)
    }

    fn secret(length: usize) -> String {
        format!("{PREFIX}{}", STANDARD.encode(vec![7; length]))
    }

    /// The example of the specification's own libraries.
    #[test]
    fn a_message_is_signed_as_the_specification_says() {
        let webhook = webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = webhook.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_has_its_prefix_and_24_to_64_bytes() {
        for length in [24, 32, 64] {
            webhook(&secret(length)).unwrap();
        }
        for wrong in ["", " ", "whsec_", "whsec_!", &secret(23), &secret(65), &secret(32)[6..]] {
            assert_eq!(webhook(wrong).unwrap_err(), NotASecret, "{wrong}");
        }
    }

    #[test]
    fn while_a_secret_is_changed_both_sign() {
        let (old, new) = (secret(24), secret(32));
        let signed = |secrets: &str| webhook(secrets).unwrap().signature("msg_1", 1, "{}");
        assert_eq!(
            signed(&format!("{old} {new}")),
            format!("{} {}", signed(&old), signed(&new))
        );
    }

    #[test]
    fn a_receiver_says_in_seconds_or_by_a_date_when_it_wants_to_be_asked_again() {
        let says = |text| retry_after(text, 784_111_777).map(|wait| wait.as_secs());
        assert_eq!(says("0"), Some(0));
        assert_eq!(says("120"), Some(120));
        assert_eq!(says("99999999999999999999999"), Some(u64::MAX));
        assert_eq!(says("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        for date in [
            "Sun, 06 Nov 1994 08:51:37 GMT",
            "Sunday, 06-Nov-94 08:51:37 GMT",
            "Sun Nov  6 08:51:37 1994",
        ] {
            assert_eq!(says(date), Some(120), "{date}");
        }
        for nothing in [
            "Sun, 06 Nov 1994 08:49:36 GMT",
            "",
            "-1",
            "+1",
            "1.5",
            "1 s",
            "soon",
            "\u{0661}",
        ] {
            assert_eq!(says(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn neither_secret_nor_address_is_printed() {
        let printed = format!("{:?}", webhook(&secret(24)).unwrap());
        assert!(
            printed.contains("blog.example") && !printed.contains("hidden"),
            "{printed}"
        );
        assert!(!printed.contains(&secret(24)[6..]), "{printed}");
    }
}
