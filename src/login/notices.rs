//! Telling a site's own server how a login ended: what it is told, and that it is told at least once, whatever fails meanwhile.
//!
//! A notice is written with the very change that it tells of, under a claim of the replica that writes. That one sends it at once,
//! behind the request's back. Where it fails, or dies, the notice is due again when its claim ends, and any replica takes it.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{Login, Subject};
use crate::entropy::{between, os_rng};
use crate::scene::{EventId, Scene, SceneId, State, WriteId};
use crate::store::{Applied, Ended, Notice, StoreError, find_one, settled};
use crate::telemetry::trace;
use crate::traceparent::{self, Traceparent};
use crate::webhook::{SendError, Sender, Webhook};

/// How many messages are under way from this replica, to all sites and to one.
const SENDING_MAX: usize = 256;
const SENDING_TO_ONE_MAX: usize = 8;

/// How many wait in this replica for their turn; what is beyond waits in the store.
const QUEUE_MAX: usize = 2_048;
/// And of one site, so that one whose receiver hangs leaves room for the others.
const QUEUE_TO_ONE_MAX: usize = 64;

/// For how long a receiver may ask to be left alone at most, and a fifth more, as not all come back together.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

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

/// The way to one site, as it is set up: another address or secret makes another way, of which nothing bad is known.
#[derive(Debug)]
struct Lane {
    webhook: Option<Webhook>,
    /// For those that are sent, or wait for their turn.
    queue: Arc<Semaphore>,
    sending: Arc<Semaphore>,
    /// Of a site that does not take what it is sent one is tried at a time, which leaves the turns to others.
    trying: Arc<Semaphore>,
    fails: AtomicBool,
    /// Until when its receiver asked to be left alone.
    rests_until: Mutex<Option<Instant>>,
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
    /// When it is given up, however often it was sent, in seconds since the Unix epoch.
    #[serde(default)]
    until: Option<i64>,
    /// The span of what it tells of.
    #[serde(
        default,
        deserialize_with = "traceparent::if_any",
        skip_serializing_if = "Option::is_none"
    )]
    traceparent: Option<Traceparent>,
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
    source: Source,
}

/// Where it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// This replica wrote it with what it tells of, which counts. Before then nobody else takes it.
    Written { until: Instant },
    /// It was due in the store. Nobody may have seen yet that what it tells of counts.
    Found,
}

impl Claimed {
    /// Whether nobody else can have taken it, as this replica's claim of what it wrote is not over.
    fn is_in_force(&self) -> bool {
        matches!(self.source, Source::Written { until } if Instant::now() < until)
    }
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

    /// How long a message is tried for: what all pauses and tries take at most while no more waits than can be sent.
    fn life(&self) -> Duration {
        let WebhookSettings { retries, timeout, .. } = &*self.settings;
        let tries = u32::try_from(retries.len() + 1).unwrap_or(u32::MAX);
        retries.iter().sum::<Duration>() * 6 / 5 + (*timeout + self.look()) * tries
    }

    fn lane(&self, client_id: &str, webhook: Option<Webhook>) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(client_id).filter(|lane| lane.webhook == webhook) {
            return Arc::clone(lane);
        }
        let lane = Arc::new(Lane {
            webhook,
            queue: Arc::new(Semaphore::new(QUEUE_TO_ONE_MAX)),
            sending: Arc::new(Semaphore::new(SENDING_TO_ONE_MAX)),
            trying: Arc::new(Semaphore::new(1)),
            fails: AtomicBool::new(false),
            rests_until: Mutex::new(None),
        });
        lanes.insert(client_id.to_owned(), Arc::clone(&lane));
        lane
    }

    /// How long a receiver may have for a rest: never so long that messages come to their end in it.
    fn rest_max(&self) -> Duration {
        RETRY_AFTER_MAX.min(self.life() / 8)
    }
}

impl Lane {
    fn fails(&self) -> bool {
        self.fails.load(Ordering::Relaxed)
    }

    /// Nothing is sent for so long.
    fn rest(&self, length: Duration) {
        let mut rests_until = self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        *rests_until = (*rests_until).max(Some(Instant::now() + length));
    }

    /// For how long nothing is sent yet.
    fn rests(&self) -> Option<Duration> {
        let rests_until = *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        let left = rests_until?.saturating_duration_since(Instant::now());
        Some(left).filter(|left| !left.is_zero())
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
            until: Some(at.as_second().saturating_add(seconds(self.webhooks.life()))),
            traceparent: trace::current().or(scene.traceparent),
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
            // Its claim began when it was written, which was later.
            let until = applied.before.read_at() + notice.lease;
            let claimed = Claimed {
                scene: applied.scene.id,
                claim: applied.scene.write_id,
                message,
                source: Source::Written { until },
            };
            self.spawn_sending(claimed);
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
                let source = Source::Found;
                let claimed = Claimed {
                    scene,
                    claim,
                    message,
                    source,
                };
                if let Some((claimed, lane)) = self.spawn_sending(claimed)
                    && !self.give_up_in_time(&claimed, &lane).await
                {
                    self.hand_over(&claimed).await;
                }
            } else {
                tracing::warn!(?scene, "what a site is to be told can't be read, and is dropped");
                self.drop_notice(&scene, claim).await;
            }
        }
    }

    /// Gives back what finds no room here.
    fn spawn_sending(&self, claimed: Claimed) -> Option<(Claimed, Arc<Lane>)> {
        let client_id = &claimed.message.client_id;
        // Another replica may know one by now, as settings are read again.
        let webhook = self.site(client_id).ok().and_then(|site| site.client.webhook.clone());
        let lane = self.webhooks.lane(client_id, webhook);
        let own_place = Arc::clone(&lane.queue).try_acquire_owned();
        let place = Arc::clone(&self.webhooks.queue).try_acquire_owned();
        let (Ok(own_place), Ok(place)) = (own_place, place) else {
            return Some((claimed, lane));
        };
        let login = self.clone();
        let sending = async move {
            let _places = [own_place, place];
            login.send(claimed, &lane).await;
        };
        self.tasks.spawn(sending.in_current_span());
        None
    }

    async fn send(&self, claimed: Claimed, lane: &Lane) {
        let Claimed {
            scene,
            claim,
            message,
            source,
        } = &claimed;
        if *source == Source::Found && message.sent == 0 {
            match self.still_stands(scene, message.event_id).await {
                Ok(true) => {}
                Ok(false) => {
                    self.drop_notice(scene, *claim).await;
                    return;
                }
                // It may count later; then it is due again.
                Err(_) => return,
            }
        }
        let stop = &self.webhooks.stop;
        let Some(turns) = stop.run_until_cancelled(self.turns(lane)).await else {
            return self.hand_over(&claimed).await;
        };
        let Some(_turns) = turns else {
            // It is due again when its claim ends.
            self.give_up_in_time(&claimed, lane).await;
            return;
        };
        if let Some(rest) = lane.rests()
            && (self.give_up_in_time(&claimed, lane).await || self.put_off(&claimed, rest).await)
        {
            return;
        }
        tokio::select! {
            sent = self.post(lane.webhook.as_ref(), message) => self.settle(claimed, lane, sent).await,
            () = async { stop.cancelled().await; sleep(LAST).await } => self.hand_over(&claimed).await,
        }
    }

    /// Another replica may have it at once, and not only when the claim ends.
    async fn hand_over(&self, claimed: &Claimed) {
        let Claimed {
            scene, claim, message, ..
        } = claimed;
        match self
            .store
            .put_off_notice(scene, *claim, &message.text(), Duration::ZERO)
            .await
        {
            Ok(Ended::Done | Ended::Taken) => {}
            Ok(Ended::Absent) => self.count_absent(claimed),
            Err(error) => tracing::debug!(?scene, %error, "a message to a site is late"),
        }
    }

    /// Its receiver asked to be left alone meanwhile. False where the store does not have it: then it is sent now or never.
    async fn put_off(
        &self,
        Claimed {
            scene, claim, message, ..
        }: &Claimed,
        rest: Duration,
    ) -> bool {
        let wait = between(rest, rest * 6 / 5).min(message.left());
        let put_off = self.store.put_off_notice(scene, *claim, &message.text(), wait).await;
        !matches!(put_off, Ok(Ended::Absent))
    }

    /// What does not come to a try in all its life, as too much waits before a receiver that does not work, is given up as the others are.
    async fn give_up_in_time(&self, claimed: &Claimed, lane: &Lane) -> bool {
        let is_over = lane.fails() && claimed.message.left().is_zero();
        if is_over {
            self.give_up(claimed, &"its time is over").await;
        }
        is_over
    }

    async fn give_up(&self, claimed: &Claimed, why: &(dyn Display + Sync)) {
        let Claimed {
            scene, claim, message, ..
        } = claimed;
        match self.drop_notice(scene, *claim).await {
            // A claim that was over gives up nothing: whoever has it now sees to its end.
            Some(Ended::Taken) => {}
            Some(Ended::Absent) if !claimed.is_in_force() => self.count_absent(claimed),
            Some(Ended::Done | Ended::Absent) | None => {
                let client = &message.client_id;
                self.count_webhook(client, "given_up");
                tracing::warn!(client, ?scene, tries = message.sent, error = %why, "the webhook is not sent again");
            }
        }
    }

    /// One may be slow: it holds up nobody but itself.
    async fn turns(&self, lane: &Lane) -> Option<Turns> {
        let turns = async {
            let own = Arc::clone(&lane.sending).acquire_owned().await.ok()?;
            let only = if lane.fails() {
                Some(Arc::clone(&lane.trying).acquire_owned().await.ok()?)
            } else {
                None
            };
            let all = Arc::clone(&self.webhooks.sending).acquire_owned().await.ok()?;
            Some((own, only, all))
        };
        timeout(TURN, turns).await.ok().flatten()
    }

    async fn post(&self, webhook: Option<&Webhook>, message: &Message) -> Result<(), SendError> {
        let webhook = webhook.ok_or_else(|| SendError::Unreachable("the client has no webhook here".to_owned()))?;
        let id = format!("msg_{}", message.event_id);
        let now = Timestamp::now().as_second();
        let span = trace::webhook(&message.client_id, message.traceparent);
        let traceparent = trace::traceparent(&span).or(message.traceparent);
        let sending = self.webhooks.sender.send(webhook, &id, &message.body, traceparent, now);
        let posted = sending.instrument(span.clone()).await;
        posted.inspect_err(|error| trace::failed(&span, error.kind()))
    }

    /// Whether what is told counts: a confirm that a fail-over undid does not. Of what is gone nobody knows that it does not.
    async fn still_stands(&self, scene: &SceneId, event_id: EventId) -> Result<bool, StoreError> {
        let Some(found) = find_one(&*self.store, scene).await? else {
            return Ok(true);
        };
        let found = settled(&*self.store, found).await?;
        Ok(found.is_none_or(|found| found.scene.event_id == event_id))
    }

    async fn settle(&self, mut claimed: Claimed, lane: &Lane, sent: Result<(), SendError>) {
        claimed.message.sent += 1;
        let Claimed {
            scene, claim, message, ..
        } = &claimed;
        let client = &message.client_id;
        let error = match sent {
            Ok(()) => {
                self.count_webhook(client, "delivered");
                if lane.fails.swap(false, Ordering::Relaxed) {
                    tracing::info!(client, "the webhook works again");
                }
                self.drop_notice(scene, *claim).await;
                return;
            }
            Err(SendError::Gone) => return self.give_up(&claimed, &SendError::Gone).await,
            Err(error) => error,
        };
        if !lane.fails.swap(true, Ordering::Relaxed) {
            tracing::warn!(client, %error, "the webhook does not work; what it tells is kept, and sent again");
        }
        let asked = error.retry_after().map(|asked| asked.min(self.webhooks.rest_max()));
        if let Some(asked) = asked {
            tracing::info!(
                client,
                seconds = asked.as_secs(),
                "the webhook's receiver is left alone, as it asks to be"
            );
            lane.rest(asked);
        }
        let (pause, left) = (self.webhooks.settings.retries.get(message.sent - 1), message.left());
        let Some(pause) = pause.filter(|_| !left.is_zero()) else {
            return self.give_up(&claimed, &error).await;
        };
        let own = between(*pause * 4 / 5, *pause * 6 / 5);
        let asked = asked.map(|asked| between(asked, asked * 6 / 5));
        let wait = asked.unwrap_or_default().max(own).min(left);
        match self.store.put_off_notice(scene, *claim, &message.text(), wait).await {
            Ok(Ended::Absent) => self.count_absent(&claimed),
            // Where it could not be put off its claim ends.
            Ok(Ended::Done | Ended::Taken) | Err(_) => self.count_webhook(client, "failed"),
        }
    }

    /// The store does not have it: there was no room for it, or somebody else came to its end when the claim was over.
    fn count_absent(&self, claimed: &Claimed) {
        let Claimed { scene, message, .. } = claimed;
        let client = &message.client_id;
        if claimed.is_in_force() {
            self.count_webhook(client, "dropped");
            tracing::warn!(client, ?scene, "too much waits for the webhook: this is not sent again");
        } else {
            self.count_webhook(client, "elsewhere");
            tracing::info!(
                client,
                ?scene,
                "another replica has come to an end with this for the webhook"
            );
        }
    }

    /// `None` where the store did not say what came of it.
    async fn drop_notice(&self, scene: &SceneId, claim: WriteId) -> Option<Ended> {
        let dropped = self.store.drop_notice(scene, claim).await;
        let note = |error: &StoreError| tracing::debug!(?scene, %error, "what was told may be told again");
        dropped.inspect_err(note).ok()
    }

    fn count_webhook(&self, client: &str, result: &str) {
        let labels = [client, result];
        self.metrics.webhooks_total.with_label_values(&labels).inc();
    }
}

/// Of one site, of one that does not work the only one, and of all.
type Turns = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

impl Message {
    /// What is left of its life. An earlier version gave none.
    fn left(&self) -> Duration {
        self.until.map_or(Duration::MAX, |until| {
            let left = until.saturating_sub(Timestamp::now().as_second());
            Duration::from_secs(u64::try_from(left).unwrap_or(0))
        })
    }

    fn text(&self) -> Vec<u8> {
        // Of text and numbers alone, which JSON can always hold.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}
