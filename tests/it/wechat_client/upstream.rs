//! A WeChat of the test's own: obliging, unless told to misbehave.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Request, Response, StatusCode, header};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use scanlogin::wechat::client::Url;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::support::eventually;

pub(super) const STABLE_TOKEN: &str = "/cgi-bin/stable_token";
pub(super) const TOKEN: &str = "/cgi-bin/token";
pub(super) const PICTURE: &str = "/wxa/getwxacodeunlimit";
pub(super) const SESSION: &str = "/sns/jscode2session";

pub(super) const PNG: &[u8] = b"\x89PNG\r\n\x1a\n picture \0\0\0\0IEND\xae\x42\x60\x82";
pub(super) const JPEG: &[u8] = b"\xff\xd8\xff\xe0 picture \xff\xd9";

/// What one call is answered.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// 200 with JSON, labelled as WeChat labels it.
    Json(Value),
    /// 200 with these bytes, labelled so.
    Bytes(&'static str, Bytes),
    /// 200 with bytes that say that they are compressed.
    Gzip(Bytes),
    /// This status with an HTML page.
    Status(u16),
    /// A redirect.
    Redirect(String),
    /// Nothing, ever.
    Hang,
    /// The beginning of these bytes, then the connection breaks.
    Reset(Bytes),
    /// These bytes over and over, without an end.
    Endless(Bytes),
}

impl Reply {
    pub(super) fn errcode(errcode: i64) -> Self {
        Self::Json(json!({ "errcode": errcode, "errmsg": "canary says no, rid: 62b1c7e9-4b5a3e2f-3a9e0f1b" }))
    }
}

/// What one call asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) query: HashMap<String, String>,
    pub(super) body: Value,
    /// What it says that it could unpack.
    pub(super) accepts: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct WeChat {
    base: Url,
    inner: Arc<Mutex<Inner>>,
    _server: Arc<DropGuard>,
}

#[derive(Debug)]
struct Inner {
    asked: Vec<Asked>,
    once: HashMap<&'static str, VecDeque<Reply>>,
    always: HashMap<&'static str, Reply>,
    serial: u32,
    valid: HashSet<String>,
    expires_in: Value,
}

impl WeChat {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let inner = Arc::new(Mutex::new(Inner {
            asked: Vec::new(),
            once: HashMap::new(),
            always: HashMap::new(),
            serial: 1,
            valid: HashSet::new(),
            expires_in: json!(7200),
        }));
        let stop = CancellationToken::new();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&inner));
        let stopped = stop.clone();
        TaskTracker::new().spawn(async move {
            stopped
                .run_until_cancelled(async { axum::serve(listener, router).await })
                .await
        });
        Self {
            base,
            inner,
            _server: Arc::new(stop.drop_guard()),
        }
    }

    pub(super) fn base(&self) -> Url {
        self.base.clone()
    }

    /// The next call of this kind not yet spoken for is answered so.
    pub(super) fn once(&self, path: &'static str, reply: Reply) {
        self.lock().once.entry(path).or_default().push_back(reply);
    }

    /// All calls of this kind are answered so from now on.
    pub(super) fn always(&self, path: &'static str, reply: Reply) {
        self.lock().always.insert(path, reply);
    }

    /// Misbehaves no longer.
    pub(super) fn behave(&self) {
        let mut inner = self.lock();
        inner.always.clear();
        inner.once.clear();
    }

    /// Gives another token from now on; those given so far stay good.
    pub(super) fn renew(&self) {
        self.lock().serial += 1;
    }

    /// Gives another token from now on; those given so far are refused.
    pub(super) fn revoke(&self) {
        let mut inner = self.lock();
        inner.serial += 1;
        inner.valid.clear();
    }

    pub(super) fn grant_for(&self, expires_in: impl Into<Value>) {
        self.lock().expires_in = expires_in.into();
    }

    pub(super) fn asked(&self, path: &str) -> Vec<Asked> {
        let inner = self.lock();
        inner.asked.iter().filter(|asked| asked.path == path).cloned().collect()
    }

    pub(super) fn calls(&self, path: &str) -> usize {
        self.asked(path).len()
    }

    pub(super) async fn until_calls(&self, path: &str, count: usize) {
        eventually("calls to WeChat", || async {
            (self.calls(path) >= count).then_some(())
        })
        .await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}

impl Inner {
    fn reply(&mut self, asked: &Asked) -> Reply {
        if let Some(reply) = self.once.get_mut(asked.path.as_str()).and_then(VecDeque::pop_front) {
            return reply;
        }
        if let Some(reply) = self.always.get(asked.path.as_str()) {
            return reply.clone();
        }
        match asked.path.as_str() {
            STABLE_TOKEN | TOKEN => {
                if asked.path == TOKEN || asked.body["force_refresh"] == true {
                    self.serial += 1;
                }
                let token = format!("canary_access_token_{}", self.serial);
                self.valid.insert(token.clone());
                Reply::Json(json!({ "access_token": token, "expires_in": self.expires_in }))
            }
            PICTURE if self.valid.contains(&asked.query["access_token"]) => {
                Reply::Bytes("image/jpeg", Bytes::from_static(PNG))
            }
            PICTURE => Reply::errcode(40001),
            SESSION => Reply::Json(json!({ "openid": "openid-of-alice", "session_key": "canary-session-key" })),
            other => panic!("nobody calls {other}"),
        }
    }
}

async fn answer(State(inner): State<Arc<Mutex<Inner>>>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let address = Url::parse(&format!("http://wechat{}", head.uri)).unwrap();
    let asked = Asked {
        path: head.uri.path().to_owned(),
        query: address.query_pairs().into_owned().collect(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        accepts: head
            .headers
            .get(header::ACCEPT_ENCODING)
            .map(|value| value.to_str().unwrap().to_owned()),
    };
    let reply = {
        let mut inner = inner.lock().unwrap();
        inner.asked.push(asked.clone());
        inner.reply(&asked)
    };
    let response = Response::builder();
    match reply {
        Reply::Json(value) => response
            .header(header::CONTENT_TYPE, "application/json; encoding=utf-8")
            .body(Body::from(value.to_string())),
        Reply::Bytes(media_type, bytes) => response
            .header(header::CONTENT_TYPE, media_type)
            .body(Body::from(bytes)),
        Reply::Gzip(bytes) => response
            .header(header::CONTENT_TYPE, "text/plain")
            .header(header::CONTENT_ENCODING, "gzip")
            .body(Body::from(bytes)),
        Reply::Status(status) => response.status(status).body(Body::from("<html>canary</html>")),
        Reply::Redirect(to) => response
            .status(StatusCode::FOUND)
            .header(header::LOCATION, to)
            .body(Body::empty()),
        Reply::Hang => std::future::pending().await,
        Reply::Reset(bytes) => {
            let broken = Err(std::io::Error::other("the test breaks off"));
            response.body(Body::from_stream(futures_util::stream::iter([Ok(bytes), broken])))
        }
        Reply::Endless(bytes) => {
            let endless = futures_util::stream::repeat(bytes).map(Ok::<_, std::io::Error>);
            response.body(Body::from_stream(endless))
        }
    }
    .unwrap()
}
