//! A visitor's browser: starts a scene, shows its code, follows it to its end, through every break.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rand::{Rng, RngExt};
use reqwest::{Method, RequestBuilder};
use rqrr::PreparedImage;
use scanlogin::scene::StateName;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;

use crate::client::{Client, bytes, open, unavailable};
use crate::history::{Ends, Opened, Outcome, View, What};
use crate::support::events::EventStream;

/// How long somebody tries to get a code to scan.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long after its scene's end a page waits to be told of it.
const END_PATIENCE: Duration = Duration::from_secs(12);
/// How many of the pictures are read, 0 to 1: that costs more than all the rest of a login. Of the others the scene is scanned that
/// they should show.
const READ: f64 = 0.25;
const POLL_SECONDS: u64 = 10;

/// A scene as the browser that started it knows it. Clones are tabs.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) scene: String,
    secret: String,
    gives_up: Instant,
    streams: Arc<AtomicU32>,
}

impl Shown {
    /// As somebody sees it who has photographed the picture.
    pub(crate) fn photographed(&self, rng: &mut impl Rng) -> Self {
        let letters = (0..20).map(|_| rng.random_range('a'..='z'));
        Self {
            secret: letters.chain(['A'; 23]).collect(),
            streams: Arc::default(),
            ..self.clone()
        }
    }
}

/// `POST /scenes`, until it succeeds.
pub(crate) async fn start(client: &mut Client, client_id: &str, life: Duration) -> Option<Shown> {
    let until = Instant::now() + START_PATIENCE;
    loop {
        let mut secret = None;
        let request = client.call(Method::POST, "/scenes").json(&json!({}));
        let read = |reply: &Value| {
            secret = Some(reply["browser_secret"].as_str()?.to_owned());
            Some(reply["scene"].as_str()?.to_owned())
        };
        let started = |outcome| What::Started {
            client_id: client_id.to_owned(),
            life_ms: u64::try_from(life.as_millis()).unwrap(),
            outcome,
        };
        let outcome = client.ask(request, read, started).await;
        if let (Outcome::Done(scene), Some(secret)) = (&outcome, secret) {
            return Some(Shown {
                scene: scene.clone(),
                secret,
                gives_up: Instant::now() + life + END_PATIENCE,
                streams: Arc::default(),
            });
        }
        match client.again(&outcome) {
            Some(wait) if Instant::now() + wait < until => sleep(wait).await,
            _ => return None,
        }
    }
}

/// The scene that the code shows, once there is one to scan.
pub(crate) async fn picture(client: &mut Client, shown: &Shown) -> Option<String> {
    while Instant::now() < shown.gives_up {
        let sent = client.recorder.now();
        let request = client.call(Method::GET, &format!("/scenes/{}/code", shown.scene));
        let outcome = match bytes(request).await {
            Outcome::Done(_) if !client.rng.random_bool(READ) => Outcome::Done(None),
            Outcome::Done(picture) => {
                let read = decoded(picture).await;
                Outcome::Done(Some(read.unwrap_or_else(|| "no code".to_owned())))
            }
            Outcome::Refused(refusal) => Outcome::Refused(refusal),
            Outcome::Unknown | Outcome::Abandoned => Outcome::Unknown,
        };
        let what = What::Picture {
            scene: shown.scene.clone(),
            outcome: outcome.clone(),
        };
        client.recorder.write(client.name, sent, what);
        if let Outcome::Done(read) = outcome {
            return Some(read.unwrap_or_else(|| shown.scene.clone()));
        }
        sleep(client.again(&outcome)?).await;
    }
    None
}

/// What WeChat's scanner makes of a picture. Ours fails on one in some thousands, unless that is turned.
async fn decoded(jpeg: Vec<u8>) -> Option<String> {
    let decode = move || {
        let mut decoder = JpegDecoder::new(ZCursor::new(&jpeg));
        let rgb = decoder.decode().ok()?;
        let (side, height) = decoder.dimensions()?;
        let read = |turned: bool| {
            let place = |x, y| if turned { x * side + side - 1 - y } else { y * side + x };
            let mut image = PreparedImage::prepare_from_greyscale(side, side, |x, y| rgb[place(x, y) * 3]);
            let (_, url) = image.detect_grids().first()?.decode().ok()?;
            Some(url.split_once("scene=")?.1.to_owned())
        };
        (side == height).then(|| read(false).or_else(|| read(true)))?
    };
    tokio::task::spawn_blocking(decode).await.ok().flatten()
}

/// What one stream brought.
struct Streamed {
    /// Whether the final event came.
    is_over: bool,
    code: Option<String>,
    last_event_id: String,
    /// When to come again.
    retry: Duration,
}

/// Follows the event stream as EventSource does, to the final event; the code, if that brought one.
pub(crate) async fn follow(client: &mut Client, shown: &Shown, reload_after: Option<Duration>) -> Option<String> {
    let mut reload = reload_after.map(|after| Instant::now() + after);
    let mut last = String::new();
    while Instant::now() < shown.gives_up {
        let until = reload.map_or(shown.gives_up, |reload| reload.min(shown.gives_up));
        let streamed = match stream(client, shown, &last, until).await {
            Ok(streamed) => streamed,
            Err(outcome) => {
                sleep(client.again(&outcome)?).await;
                continue;
            }
        };
        if streamed.is_over {
            return streamed.code;
        }
        if reload.take_if(|reload| *reload <= Instant::now()).is_some() {
            // A reloaded page knows its scene and its secret, and nothing more.
            last.clear();
            continue;
        }
        last = streamed.last_event_id;
        sleep(streamed.retry).await;
    }
    give_up(client, shown);
    None
}

/// One stream, to its end or until then; or why there was none.
async fn stream(client: &mut Client, shown: &Shown, last: &str, until: Instant) -> Result<Streamed, Outcome<Opened>> {
    let number = shown.streams.fetch_add(1, Ordering::Relaxed);
    let last_event_id = Some(last.to_owned()).filter(|last| !last.is_empty());
    let request = listening(client, shown, last_event_id.as_deref());
    let opened = |outcome: &Outcome<Opened>| What::StreamOpened {
        scene: shown.scene.clone(),
        stream: number,
        last_event_id: last_event_id.clone(),
        outcome: outcome.clone(),
    };
    let sent = client.recorder.now();
    let response = match open(request).await {
        Ok(response) => response,
        Err(outcome) => {
            let outcome = outcome.map(|()| Opened::Over);
            client.recorder.write(client.name, sent, opened(&outcome));
            return Err(outcome);
        }
    };
    client
        .recorder
        .write(client.name, sent, opened(&Outcome::Done(Opened::Stream)));
    let mut events = EventStream::new(response);
    let (mut is_over, mut code, mut was_told, mut is_unavailable) = (false, None, false, false);
    let is_broken = loop {
        if is_over {
            break false;
        }
        let Ok(read) = timeout_at(until, events.read()).await else {
            break false;
        };
        // Only where a stream begins can there be none.
        let Some(event) = read else {
            break was_told || !is_unavailable;
        };
        is_unavailable = event.event == "unavailable";
        if is_unavailable {
            let outcome = Outcome::Refused(unavailable(&event.data, events.retry));
            client.recorder.write(client.name, sent, opened(&outcome));
            continue;
        }
        let view = view(&event.data);
        (was_told, is_over, code) = (true, view.state.is_final(), view.code.clone());
        let (scene, stream) = (shown.scene.clone(), number);
        client.recorder.note(client.name, What::Told { scene, stream, view });
    };
    let ended = What::StreamEnded {
        scene: shown.scene.clone(),
        stream: number,
        is_broken,
    };
    client.recorder.note(client.name, ended);
    Ok(Streamed {
        is_over,
        code,
        retry: Duration::from_millis(events.retry.unwrap_or(3_000)),
        last_event_id: events.last_event_id,
    })
}

fn listening(client: &Client, shown: &Shown, last_event_id: Option<&str>) -> RequestBuilder {
    let request = client.call(Method::GET, &format!("/events/{}", shown.scene));
    let request = request.bearer_auth(&shown.secret).header("accept", "text/event-stream");
    match last_event_id {
        Some(last) => request.header("last-event-id", last),
        None => request,
    }
}

/// Tries to listen, once, as far as that goes.
pub(crate) async fn listen_once(client: &mut Client, shown: &Shown) {
    let _ = stream(client, shown, "", shown.gives_up).await;
}

/// The same by long-poll.
pub(crate) async fn poll(client: &mut Client, shown: &Shown) -> Option<String> {
    let mut after = String::new();
    while Instant::now() < shown.gives_up {
        let (scene, wait_ms) = (
            shown.scene.clone(),
            if after.is_empty() { 0 } else { POLL_SECONDS * 1_000 },
        );
        let path = format!("/scenes/{scene}?wait={}&after={after}", wait_ms / 1_000);
        let request = client.call(Method::GET, &path).bearer_auth(&shown.secret);
        let polled = |outcome| What::Polled {
            scene,
            wait_ms,
            outcome,
        };
        let outcome = client.ask(request, |reply| Some(view(reply)), polled).await;
        match outcome {
            Outcome::Done(view) if view.state.is_final() => return view.code,
            Outcome::Done(view) => after = view.id,
            _ => sleep(client.again(&outcome)?).await,
        }
    }
    give_up(client, shown);
    None
}

/// `DELETE`, until it is done or too late.
pub(crate) async fn cancel(client: &mut Client, shown: &Shown) {
    while Instant::now() < shown.gives_up {
        let scene = shown.scene.clone();
        let request = client.call(Method::DELETE, &format!("/scenes/{scene}"));
        let cancelled = |outcome| What::Cancel { scene, outcome };
        let request = request.bearer_auth(&shown.secret);
        let outcome = client.ask(request, |_| Some(()), cancelled).await;
        match client.again(&outcome) {
            Some(wait) => sleep(wait).await,
            None => return,
        }
    }
}

fn give_up(client: &Client, shown: &Shown) {
    let scene = shown.scene.clone();
    client.recorder.note(client.name, What::GaveUp { scene });
}

fn view(data: &Value) -> View {
    let text = |name: &str| data[name].as_str().map(str::to_owned);
    View {
        state: serde_json::from_value::<StateName>(data["state"].clone()).expect("a state"),
        id: text("id").expect("an id"),
        version: data["version"].as_u64().expect("a version"),
        code: text("code"),
        nickname: data["profile"]["nickname"].as_str().map(str::to_owned),
        reason: text("reason"),
        ends: Some(Ends {
            in_seconds: data["expires_in"].as_u64().expect("the time left"),
            at: text("expires_at").expect("the end"),
        }),
    }
}
