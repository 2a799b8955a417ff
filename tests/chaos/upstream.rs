//! WeChat: the simulator in this very process, with each call that reaches it written down.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use futures_util::stream;
use reqwest::Url;
use scanlogin::wechat::simulator::serve::serve;
use scanlogin::wechat::simulator::{Simulator, SimulatorSettings};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::history::{Api, ClientName, Lifetime, Outcome, Refusal, What};
use crate::recorder::Recorder;
use crate::world::REPLICAS;

pub(crate) const APPID: &str = "wx0123456789abcdef";
pub(crate) const APP_SECRET: &str = "the-secret-of-the-mini-program-0";

/// Ends with the run.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) wechat: Wechat,
    /// Where each replica of the service finds it: by where it is called it knows who calls.
    pub(crate) bases: Vec<String>,
    asking: watch::Receiver<Option<usize>>,
    token_calls: Arc<AtomicUsize>,
    _shutdown: DropGuard,
}

/// What people's phones and whoever makes faults know of it.
#[derive(Debug, Clone)]
pub(crate) struct Wechat {
    http: reqwest::Client,
    pub(crate) base: String,
}

impl Upstream {
    pub(crate) async fn start(http: &reqwest::Client, recorder: &Recorder) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..REPLICAS {
            listeners.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port"));
        }
        let base = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("its address"));
        let bases: Vec<String> = listeners.iter().map(base).collect();
        let url: Url = bases[0].parse().expect("a URL");
        let simulator = Simulator::new(SimulatorSettings {
            public_url: url.clone(),
            service_url: url,
            appid: Some(APPID.to_owned()),
            secret: Some(SecretString::from(APP_SECRET)),
            fault_rate: 0.0,
            seed: 0,
        });
        let simulator = simulator.expect("a simulator");
        let shutdown = CancellationToken::new();
        let (asked, asking) = watch::channel(None);
        let token_calls = Arc::new(AtomicUsize::new(0));
        for (replica, listener) in listeners.into_iter().enumerate() {
            let door = Door {
                recorder: recorder.clone(),
                replica,
                asked: asked.clone(),
                token_calls: Arc::clone(&token_calls),
            };
            let calls = simulator.wechat_router().layer(from_fn_with_state(door, written_down));
            let calls = calls.merge(simulator.control_router());
            TaskTracker::new().spawn(serve(listener, calls, shutdown.clone()));
        }
        recorder.secret("the AppSecret", APP_SECRET);
        Self {
            wechat: Wechat {
                http: http.clone(),
                base: bases[0].clone(),
            },
            bases,
            asking,
            token_calls,
            _shutdown: shutdown.drop_guard(),
        }
    }

    /// How often anybody asked for an access_token. The simulator itself remembers the newest calls only.
    pub(crate) fn token_calls(&self) -> usize {
        self.token_calls.load(Ordering::Relaxed)
    }

    /// The replica whose call for an access_token is under way, once there is one.
    pub(crate) async fn asked_for_token(&self) -> usize {
        let mut asking = self.asking.clone();
        let replica = *asking.wait_for(Option::is_some).await.expect("it runs");
        replica.expect("somebody asks")
    }
}

impl Wechat {
    /// A fresh `wx.login` code of this person's phone.
    pub(crate) async fn login(&self, openid: &str) -> String {
        let reply = self.post("login", &json!({ "openid": openid })).await;
        let given: Value = reply.json().await.expect("JSON");
        given["code"].as_str().expect("a code").to_owned()
    }

    /// Every call of this kind misbehaves so, until [`Self::behave`].
    pub(crate) async fn misbehave(&self, call: &str, mut how: Value) {
        how["call"] = call.into();
        how["times"] = 1_000_000.into();
        self.post("faults", &how).await;
    }

    pub(crate) async fn behave(&self) {
        let request = self.http.delete(format!("{}/simulator/faults", self.base));
        request.send().await.expect("an answer");
    }

    /// When it last gave a picture.
    pub(crate) async fn drew_at(&self) -> Option<String> {
        let calls = self.calls().await;
        let last = calls
            .iter()
            .rfind(|call| call["call"] == "getwxacodeunlimit" && call["errcode"] == 0)?;
        Some(last["at"].as_str().expect("a time").to_owned())
    }

    async fn calls(&self) -> Vec<Value> {
        let request = self.http.get(format!("{}/simulator/calls", self.base));
        request.send().await.expect("an answer").json().await.expect("a list")
    }

    /// Takes no access_token given so far.
    pub(crate) async fn revoke(&self) {
        self.post("revoke", &json!({})).await;
    }

    async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        let request = self.http.post(format!("{}/simulator/{path}", self.base)).json(body);
        let reply = request.send().await.expect("an answer");
        reply.error_for_status().expect("the simulator does as asked")
    }
}

/// Where one replica calls.
#[derive(Debug, Clone)]
struct Door {
    recorder: Recorder,
    replica: usize,
    /// Who asks for an access_token just now.
    asked: watch::Sender<Option<usize>>,
    token_calls: Arc<AtomicUsize>,
}

#[derive(Deserialize)]
struct Params {
    js_code: Option<String>,
}

async fn written_down(
    State(door): State<Door>,
    Query(params): Query<Params>,
    request: Request,
    next: Next,
) -> Response {
    let api = match request.uri().path() {
        "/cgi-bin/stable_token" => {
            door.token_calls.fetch_add(1, Ordering::Relaxed);
            Api::StableToken
        }
        "/sns/jscode2session" => Api::Jscode2session,
        _ => Api::Getwxacodeunlimit,
    };
    let recorder = door.recorder;
    let sent = recorder.now();
    let (parts, body) = request.into_parts();
    let asked = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let force = api == Api::StableToken
        && serde_json::from_slice::<Value>(&asked).is_ok_and(|asked| asked["force_refresh"] == true);
    let _asks = (api == Api::StableToken).then(|| Asks::begin(door.asked, door.replica));
    // A caller that hangs up drops this future: what it asked for may be done all the same.
    let mut call = Call {
        recorder: &recorder,
        sent,
        what: Some((api, params.js_code, force)),
        outcome: Outcome::Unknown,
    };
    let response = next.run(Request::from_parts(parts, Body::from(asked))).await;
    if api != Api::StableToken {
        call.outcome = Outcome::Done(None);
        return response;
    }
    let (parts, body) = response.into_parts();
    match axum::body::to_bytes(body, usize::MAX).await {
        Ok(body) => {
            call.outcome = given(&recorder, parts.status.as_u16(), &body);
            Response::from_parts(parts, Body::from(body))
        }
        // Nothing is sent then but the end of the connection.
        Err(error) => Response::from_parts(parts, Body::from_stream(stream::once(async { Err::<Bytes, _>(error) }))),
    }
}

/// A call that is written down once it is over, however it ends.
struct Call<'a> {
    recorder: &'a Recorder,
    sent: u64,
    what: Option<(Api, Option<String>, bool)>,
    outcome: Outcome<Option<Lifetime>>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let Some((api, js_code, force)) = self.what.take() else {
            return;
        };
        let what = What::UpstreamCall {
            api,
            js_code,
            force,
            outcome: self.outcome.clone(),
        };
        self.recorder.write(ClientName::Simulator, self.sent, what);
    }
}

/// That a replica asks for an access_token, while this lives.
struct Asks(watch::Sender<Option<usize>>);

impl Asks {
    fn begin(asked: watch::Sender<Option<usize>>, replica: usize) -> Self {
        asked.send_replace(Some(replica));
        Self(asked)
    }
}

impl Drop for Asks {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

fn given(recorder: &Recorder, status: u16, body: &Bytes) -> Outcome<Option<Lifetime>> {
    let json = serde_json::from_slice(body).unwrap_or(Value::Null);
    let Some(token) = json["access_token"].as_str() else {
        return Outcome::Refused(Refusal {
            status,
            code: Some(json["errcode"].to_string()),
            retry_after: None,
            state: None,
        });
    };
    recorder.secret("WeChat's access_token", token);
    let lifetime = json["expires_in"].as_u64().map(|seconds| Lifetime {
        expires_in_ms: seconds * 1_000,
    });
    Outcome::Done(lifetime)
}
