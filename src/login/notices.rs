//! Telling a site's own server how a login ended: what it is told, and that it is told at least once, whatever fails meanwhile.
//!
//! A notice is written with the very change that it tells of, under a claim of the replica that writes. That one sends it at once,
//! behind the request's back. Where it fails, or dies, the notice is due again when its claim ends, and any replica takes it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{Login, Subject};
use crate::entropy::{between, os_rng};
use crate::scene::{EventId, Scene, SceneId, State, WriteId};
use crate::store::{Applied, Notice, PutOff, StoreError, find_one, settled};
use crate::webhook::{SendError, Sender, Webhook};

/// How many messages are under way from this replica, to all sites and to one.
const SENDING_MAX: usize = 64;
const SENDING_TO_ONE_MAX: usize = 8;

/// How many wait in this replica for their turn; what is beyond waits in the store.
const QUEUE_MAX: usize = 2_048;
/// And of one site, so that one whose receiver hangs leaves room for the others.
const QUEUE_TO_ONE_MAX: usize = 64;

/// How long a message waits here for its turn, before it is left to whoever comes to it when its claim ends.
const TURN: Duration = Duration::from_secs(5);

/// What a claim lasts beyond its turn and the receiver's time: the store's.
const SLACK: Duration = Duration::from_secs(5);

/// How often the store is looked into at least.
const LOOK: Duration = Duration::from_secs(5);

/// How long those under way get at the end of the process. Others take up what is not done by then.
const LAST: Duration = Duration::from_secs(1);

/// How sites are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    /// The pauses between tries; after the last one's try it is given up.
    pub retries: Vec<Duration>,
    /// How long a receiver may take for its answer.
    pub timeout: Duration,
    /// How many messages one site may have waiting.
    pub waiting_max: usize,
}

/// Sends what sites are to be told.
#[derive(Debug, Clone)]
pub struct Webhooks {
    sender: Sender,
    settings: Arc<WebhookSettings>,
    queue: Arc<Semaphore>,
    sending: Arc<Semaphore>,
    lanes: Arc<Mutex<HashMap<String, Arc<Lane>>>>,
    stop: CancellationToken,
}

/// The way to one site.
#[derive(Debug)]
struct Lane {
    /// For those that are sent, or wait for their turn.
    queue: Arc<Semaphore>,
    sending: Arc<Semaphore>,
    fails: AtomicBool,
}

/// A notice's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Message {
    client_id: String,
    /// Of what it tells; also what the receiver knows the message by, however often it comes.
    event_id: EventId,
    /// How often it was sent.
    #[serde(default)]
    sent: usize,
    /// Byte by byte what is signed.
    body: String,
}

/// What a message says beyond its kind and time.
#[derive(Debug, Serialize)]
struct Data<'a> {
    scene: SceneId,
    client_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amr: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// A notice that this replica has claimed.
struct Claimed {
    scene: SceneId,
    claim: WriteId,
    message: Message,
}

impl Webhooks {
    /// Sends until `stop`.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn new(settings: WebhookSettings, stop: CancellationToken) -> Result<Self, reqwest::Error> {
        Ok(Self {
            sender: Sender::new(settings.timeout)?,
            settings: Arc::new(settings),
            queue: Arc::new(Semaphore::new(QUEUE_MAX)),
            sending: Arc::new(Semaphore::new(SENDING_MAX)),
            lanes: Arc::default(),
            stop,
        })
    }

    fn lease(&self) -> Duration {
        self.settings.timeout + TURN + SLACK
    }

    /// How often the store is looked into: no retry waits much longer than it should.
    fn look(&self) -> Duration {
        let first = self.settings.retries.first().copied().unwrap_or(LOOK);
        first.min(LOOK)
    }

    fn lane(&self, client_id: &str) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry(client_id.to_owned()).or_insert_with(|| {
            Arc::new(Lane {
                queue: Arc::new(Semaphore::new(QUEUE_TO_ONE_MAX)),
                sending: Arc::new(Semaphore::new(SENDING_TO_ONE_MAX)),
                fails: AtomicBool::new(false),
            })
        });
        Arc::clone(lane)
    }
}

impl Login {
    /// What the site of this scene is told of its end, if it wants to be.
    ///
    /// `reason` is that of a decline. Of whoever said no the site does not hear who it was.
    pub(super) fn notice_of(&self, scene: &Scene, reason: &str) -> Option<Notice> {
        let site = self.site(&scene.client_id).ok()?;
        site.client.webhook.as_ref()?;
        let mut data = Data {
            scene: scene.id,
            client_id: &scene.client_id,
            sub: None,
            amr: None,
            reason: None,
        };
        let kind = match &scene.state {
            State::Confirmed(confirmation) => {
                let openid = &confirmation.scan.person.openid;
                data.sub = Some(match &site.client.subject {
                    Subject::Public => openid.clone(),
                    Subject::Pairwise(pairwise) => pairwise.name(openid),
                });
                data.amr = Some(self.amr());
                "login.confirmed"
            }
            State::Declined(_) if reason == "not_me" => "login.not_me",
            State::Declined(_) => {
                data.reason = Some(reason);
                "login.declined"
            }
            State::Waiting | State::Scanned(_) | State::Cancelled(_) => return None,
        };
        let at = Timestamp::from_second(Timestamp::now().as_second()).ok()?;
        let message = Message {
            client_id: scene.client_id.clone(),
            event_id: scene.event_id,
            sent: 0,
            body: json!({ "type": kind, "timestamp": at.to_string(), "data": data }).to_string(),
        };
        Some(Notice {
            client_id: scene.client_id.clone(),
            text: message.text(),
            lease: self.webhooks.lease(),
            most: self.webhooks.settings.waiting_max,
        })
    }

    /// Sends what was written with this, behind the back of whoever made the request.
    pub(super) fn send_notice_of(&self, applied: &Applied) {
        let Some(notice) = &applied.notice else { return };
        if let Some(message) = Message::read(&notice.text) {
            let (scene, claim) = (applied.scene.id, applied.scene.write_id);
            self.spawn_sending(Claimed { scene, claim, message }, false);
        }
    }

    /// Sends what is due, whoever wrote it, until the process ends.
    pub async fn send_notices(self) {
        let stop = self.webhooks.stop.clone();
        stop.run_until_cancelled(async {
            loop {
                let look = self.webhooks.look();
                sleep(between(look * 4 / 5, look)).await;
                if self.sites().have_webhooks() {
                    self.send_what_is_due().await;
                }
            }
        })
        .await;
    }

    async fn send_what_is_due(&self) {
        let room = self.webhooks.queue.available_permits();
        if room == 0 {
            return;
        }
        let claim = WriteId::random(&mut os_rng());
        let lease = self.webhooks.lease();
        let due = match self.store.claim_notices(claim, lease, room, QUEUE_TO_ONE_MAX).await {
            Ok(due) => due,
            Err(error) => {
                tracing::debug!(%error, "what sites are to be told can't be looked for");
                return;
            }
        };
        let waiting = i64::try_from(due.waiting).unwrap_or(i64::MAX);
        self.metrics.webhooks_waiting.set(waiting);
        for (scene, text) in due.claimed {
            if let Some(message) = Message::read(&text) {
                self.spawn_sending(Claimed { scene, claim, message }, true);
            } else {
                tracing::warn!(?scene, "what a site is to be told can't be read, and is dropped");
                self.drop_notice(&scene, claim).await;
            }
        }
    }

    /// What finds no room here is due again when its claim ends.
    fn spawn_sending(&self, claimed: Claimed, is_doubted: bool) {
        let lane = self.webhooks.lane(&claimed.message.client_id);
        let Ok(own_place) = Arc::clone(&lane.queue).try_acquire_owned() else {
            return;
        };
        let Ok(place) = Arc::clone(&self.webhooks.queue).try_acquire_owned() else {
            return;
        };
        let login = self.clone();
        let sending = async move {
            let _places = [own_place, place];
            login.send(claimed, is_doubted).await;
        };
        self.tasks.spawn(sending.in_current_span());
    }

    /// `is_doubted` where nobody has seen yet that what it tells of counts.
    async fn send(&self, claimed: Claimed, is_doubted: bool) {
        let Claimed { scene, claim, message } = &claimed;
        if is_doubted && message.sent == 0 {
            match self.still_stands(scene, message.event_id).await {
                Ok(true) => {}
                Ok(false) => return self.drop_notice(scene, *claim).await,
                // It may count later; then it is due again.
                Err(_) => return,
            }
        }
        let lane = self.webhooks.lane(&message.client_id);
        let site = self.site(&message.client_id).ok();
        let webhook = site.and_then(|site| site.client.webhook.clone());
        let stop = &self.webhooks.stop;
        let Some(turns) = stop.run_until_cancelled(self.turns(&lane)).await else {
            return self.hand_over(&claimed).await;
        };
        // Without a turn it is due again when its claim ends.
        let Some(_turns) = turns else { return };
        tokio::select! {
            sent = self.post(webhook.as_ref(), message) => self.settle(claimed, &lane, sent).await,
            () = async { stop.cancelled().await; sleep(LAST).await } => self.hand_over(&claimed).await,
        }
    }

    /// Another replica may have it at once, and not only when the claim ends.
    async fn hand_over(&self, Claimed { scene, claim, message }: &Claimed) {
        let text = message.text();
        let handed = self.store.put_off_notice(scene, *claim, &text, Duration::ZERO);
        if let Err(error) = handed.await {
            tracing::debug!(?scene, %error, "a message to a site is late");
        }
    }

    /// One may be slow: it holds up nobody but itself.
    async fn turns(&self, lane: &Lane) -> Option<[OwnedSemaphorePermit; 2]> {
        let turns = async {
            let own = Arc::clone(&lane.sending).acquire_owned().await.ok()?;
            let all = Arc::clone(&self.webhooks.sending).acquire_owned().await.ok()?;
            Some([own, all])
        };
        timeout(TURN, turns).await.ok().flatten()
    }

    async fn post(&self, webhook: Option<&Webhook>, message: &Message) -> Result<(), SendError> {
        // Another replica may know one by now, as settings are read again.
        let webhook = webhook.ok_or_else(|| SendError::Unreachable("the client has no webhook here".to_owned()))?;
        let id = format!("msg_{}", message.event_id);
        let now = Timestamp::now().as_second();
        self.webhooks.sender.send(webhook, &id, &message.body, now).await
    }

    /// Whether what is told counts: a confirm that a fail-over undid does not. Of what is gone nobody knows that it does not.
    async fn still_stands(&self, scene: &SceneId, event_id: EventId) -> Result<bool, StoreError> {
        let Some(found) = find_one(&*self.store, scene).await? else {
            return Ok(true);
        };
        let found = settled(&*self.store, found).await?;
        Ok(found.is_none_or(|found| found.scene.event_id == event_id))
    }

    async fn settle(&self, claimed: Claimed, lane: &Lane, sent: Result<(), SendError>) {
        let Claimed {
            scene,
            claim,
            mut message,
        } = claimed;
        message.sent += 1;
        let (client, retries) = (message.client_id.clone(), &self.webhooks.settings.retries);
        let error = match sent {
            Ok(()) => {
                self.count_webhook(&client, "delivered");
                if lane.fails.swap(false, Ordering::Relaxed) {
                    tracing::info!(client, "the webhook works again");
                }
                return self.drop_notice(&scene, claim).await;
            }
            Err(error) => error,
        };
        if !lane.fails.swap(true, Ordering::Relaxed) {
            tracing::warn!(client, %error, "the webhook does not work; what it tells is kept, and sent again");
        }
        match retries.get(message.sent - 1) {
            Some(pause) if error != SendError::Gone => {
                let wait = between(*pause * 4 / 5, *pause * 6 / 5);
                match self.store.put_off_notice(&scene, claim, &message.text(), wait).await {
                    Ok(PutOff::Absent) => {
                        self.count_webhook(&client, "dropped");
                        tracing::warn!(client, ?scene, "too much waits for the webhook: this is not sent again");
                    }
                    // Where it could not be put off its claim ends.
                    Ok(PutOff::Kept | PutOff::Taken) | Err(_) => self.count_webhook(&client, "failed"),
                }
            }
            Some(_) | None => {
                self.count_webhook(&client, "given_up");
                tracing::warn!(client, ?scene, tries = message.sent, %error, "the webhook is not sent again");
                self.drop_notice(&scene, claim).await;
            }
        }
    }

    async fn drop_notice(&self, scene: &SceneId, claim: WriteId) {
        if let Err(error) = self.store.drop_notice(scene, claim).await {
            tracing::debug!(?scene, %error, "what was told may be told again");
        }
    }

    fn count_webhook(&self, client: &str, result: &str) {
        let labels = [client, result];
        self.metrics.webhooks_total.with_label_values(&labels).inc();
    }
}

impl Message {
    fn text(&self) -> Vec<u8> {
        // Of text and numbers alone, which JSON can always hold.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}
