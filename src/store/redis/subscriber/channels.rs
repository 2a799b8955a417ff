//! Which channel is wanted, where it is subscribed, and who waits for that. Pure: hides the bookkeeping behind a loss.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use super::replies::BatchId;
use crate::scene::SceneId;

/// How many channels one `SSUBSCRIBE` names at most.
const BATCH: usize = 64;

/// How long a channel rests when its server just said no: by then the topology is known anew.
const REST: Duration = Duration::from_millis(50);

/// How long when the no won't change soon.
const LONG_REST: Duration = Duration::from_secs(1);

/// Names one connection; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ConnectionId(pub(super) u64);

/// Who waits for a channel, and hears why if the server won't have it.
pub(super) type Waiter = oneshot::Sender<Result<(), String>>;

/// One `SSUBSCRIBE` to send.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) id: BatchId,
    pub(super) connection: ConnectionId,
    pub(super) channels: Vec<SceneId>,
}

/// All wanted channels. As many as there are watched scenes, so their bound is the caller's.
#[derive(Debug, Default)]
pub(super) struct Channels {
    wanted: HashMap<SceneId, Channel>,
    /// Those that nobody has been asked for, by hash tag.
    off: BTreeMap<String, HashSet<SceneId>>,
    /// Those to be off again at that time.
    resting: BTreeMap<Instant, Vec<SceneId>>,
    flights: HashMap<BatchId, Flight>,
    last_batch: u64,
    /// How many channels are stale.
    stale: usize,
    /// Those subscribed again whose loss has not been told.
    recovered: HashSet<SceneId>,
}

#[derive(Debug)]
struct Channel {
    state: State,
    /// News may have been missed since the last time that was told.
    stale: bool,
    waiters: Vec<Waiter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Off,
    Resting,
    Pending(BatchId),
    Live(ConnectionId),
}

/// Channels that have to be asked for again.
#[derive(Debug, Default)]
pub(super) struct PutOff {
    /// Each with the connection that may still hold it.
    pub(super) from: Vec<(ConnectionId, SceneId)>,
    /// How many of them were live: news of these may be missed.
    pub(super) live: usize,
}

/// A batch on its way.
#[derive(Debug)]
struct Flight {
    connection: ConnectionId,
    channels: Vec<SceneId>,
    /// Whether somebody is to be told of a loss once it is answered.
    stale: bool,
}

impl Channels {
    /// Wants a channel; `waiter` hears as soon as it is live.
    pub(super) fn want(&mut self, id: SceneId, waiter: Waiter) {
        let channel = self.wanted.entry(id).or_insert_with(|| {
            self.off.entry(id.hash_tag()).or_default().insert(id);
            Channel {
                state: State::Off,
                stale: false,
                waiters: Vec::new(),
            }
        });
        if matches!(channel.state, State::Live(_)) {
            // Who no longer waits needs no answer.
            let _ = waiter.send(Ok(()));
        } else {
            channel.waiters.retain(|waiter| !waiter.is_closed());
            channel.waiters.push(waiter);
        }
    }

    /// No longer wants a channel. Returns the connection that may hold it.
    pub(super) fn unwant(&mut self, id: SceneId) -> Option<ConnectionId> {
        let channel = self.wanted.remove(&id)?;
        self.stale -= usize::from(channel.stale);
        self.recovered.remove(&id);
        match channel.state {
            State::Off => {
                self.leave_off(id);
                None
            }
            State::Resting => None,
            State::Pending(batch) => self.flights.get(&batch).map(|flight| flight.connection),
            State::Live(connection) => Some(connection),
        }
    }

    /// Takes channels of one tag that are off and whose owner has a connection with room for another batch.
    pub(super) fn next_batch(&mut self, room: impl Fn(&str) -> Option<ConnectionId>) -> Option<Batch> {
        let (tag, connection) = self
            .off
            .keys()
            .find_map(|tag| room(tag).map(|connection| (tag.clone(), connection)))?;
        let channels = self.off.get(&tag)?.iter().take(BATCH).copied().collect::<Vec<_>>();
        self.last_batch += 1;
        let id = BatchId(self.last_batch);
        let mut stale = false;
        for channel in &channels {
            self.leave_off(*channel);
            if let Some(channel) = self.wanted.get_mut(channel) {
                channel.state = State::Pending(id);
                stale |= channel.stale;
            }
        }
        self.flights.insert(
            id,
            Flight {
                connection,
                channels: channels.clone(),
                stale,
            },
        );
        Some(Batch {
            id,
            connection,
            channels,
        })
    }

    /// A batch was acknowledged: what of it is still wanted, and was not taken away meanwhile, is live.
    pub(super) fn acknowledged(&mut self, batch: BatchId) {
        let Some(flight) = self.flights.remove(&batch) else {
            return;
        };
        for id in flight.channels {
            let Some(channel) = self.wanted.get_mut(&id).filter(|it| it.state == State::Pending(batch)) else {
                continue;
            };
            channel.state = State::Live(flight.connection);
            let heard = channel
                .waiters
                .drain(..)
                .filter_map(|waiter| waiter.send(Ok(())).ok())
                .count();
            // Whoever wanted it and stopped waiting has read too early.
            if channel.stale || heard == 0 {
                self.recovered.insert(id);
            }
            self.stale -= usize::from(std::mem::take(&mut channel.stale));
        }
    }

    /// A batch was refused. When that won't change soon, those who wait hear it.
    pub(super) fn refused(&mut self, batch: BatchId, text: &str, now: Instant) {
        let Some(flight) = self.flights.remove(&batch) else {
            return;
        };
        let passing = ["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"];
        let passing = text.split(' ').next().is_some_and(|word| passing.contains(&word));
        for id in flight.channels {
            let Some(channel) = self.wanted.get_mut(&id).filter(|it| it.state == State::Pending(batch)) else {
                continue;
            };
            if !passing {
                for waiter in channel.waiters.drain(..) {
                    let _ = waiter.send(Err(text.to_owned()));
                }
            }
            self.rest(id, now + if passing { REST } else { LONG_REST });
        }
    }

    /// The server took a channel away. Says whether news of it may be missed by that.
    pub(super) fn taken(&mut self, id: SceneId, connection: ConnectionId, now: Instant) -> bool {
        let Some(channel) = self.wanted.get_mut(&id) else {
            return false;
        };
        let was_live = match channel.state {
            State::Live(at) if at == connection => true,
            State::Pending(batch) if self.flights.get(&batch).is_some_and(|it| it.connection == connection) => false,
            State::Off | State::Resting | State::Live(_) | State::Pending(_) => return false,
        };
        let newly_stale = was_live && !std::mem::replace(&mut channel.stale, true);
        self.stale += usize::from(newly_stale);
        self.rest(id, now + REST);
        was_live
    }

    /// A connection ended.
    pub(super) fn cut(&mut self, connection: ConnectionId) -> PutOff {
        self.put_off(|_, at| at == connection)
    }

    /// Puts off what is not at its owner's connection.
    pub(super) fn moved(&mut self, owner: impl Fn(&str) -> Option<ConnectionId>) -> PutOff {
        self.put_off(|tag, at| owner(tag) != Some(at))
    }

    /// Ends the rest of those who rested long enough, or of all.
    pub(super) fn wake(&mut self, until: Option<Instant>) {
        while let Some(entry) = self.resting.first_entry() {
            if until.is_some_and(|until| *entry.key() > until) {
                break;
            }
            for id in entry.remove() {
                if let Some(channel) = self.wanted.get_mut(&id).filter(|it| it.state == State::Resting) {
                    channel.state = State::Off;
                    self.off.entry(id.hash_tag()).or_default().insert(id);
                }
            }
        }
    }

    /// When [`Channels::wake`] has something to do.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.resting.keys().next().copied()
    }

    /// Those subscribed again since the last call, once no other lost channel is on its way back.
    pub(super) fn take_recovered(&mut self) -> Vec<SceneId> {
        if self.flights.values().any(|flight| flight.stale) {
            return Vec::new();
        }
        self.recovered.drain().collect()
    }

    /// How many are wanted and not live.
    pub(super) fn unheard(&self) -> usize {
        let off = self.off.values().map(HashSet::len);
        let resting = self.resting.values().map(Vec::len);
        let asked = self.flights.values().map(|flight| flight.channels.len());
        off.chain(resting).chain(asked).sum()
    }

    /// Whether every loss was made good, and taken to be told.
    pub(super) fn is_whole(&self) -> bool {
        self.stale == 0 && self.recovered.is_empty()
    }

    fn put_off(&mut self, lost: impl Fn(&str, ConnectionId) -> bool) -> PutOff {
        let mut put_off = PutOff::default();
        for (id, channel) in &mut self.wanted {
            let (connection, was_live) = match channel.state {
                State::Off | State::Resting => continue,
                State::Live(connection) => (connection, true),
                State::Pending(batch) => match self.flights.get(&batch) {
                    Some(flight) => (flight.connection, false),
                    None => continue,
                },
            };
            let tag = id.hash_tag();
            if !lost(&tag, connection) {
                continue;
            }
            if was_live {
                put_off.live += 1;
                self.stale += usize::from(!std::mem::replace(&mut channel.stale, true));
            }
            put_off.from.push((connection, *id));
            channel.state = State::Off;
            self.off.entry(tag).or_default().insert(*id);
        }
        let wanted = &self.wanted;
        self.flights.retain(|batch, flight| {
            flight
                .channels
                .iter()
                .any(|id| wanted.get(id).is_some_and(|it| it.state == State::Pending(*batch)))
        });
        put_off
    }

    fn rest(&mut self, id: SceneId, until: Instant) {
        if let Some(channel) = self.wanted.get_mut(&id) {
            channel.state = State::Resting;
            self.resting.entry(until).or_default().push(id);
        }
    }

    fn leave_off(&mut self, id: SceneId) {
        let tag = id.hash_tag();
        if let Some(ids) = self.off.get_mut(&tag) {
            ids.remove(&id);
            if ids.is_empty() {
                self.off.remove(&tag);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tokio::sync::oneshot::error::TryRecvError;

    const HERE: ConnectionId = ConnectionId(1);
    const THERE: ConnectionId = ConnectionId(2);

    /// Scenes of one tag.
    fn scenes<const N: usize>() -> [SceneId; N] {
        let mut rng = StdRng::seed_from_u64(7);
        let mut one_tag = std::iter::repeat_with(move || SceneId::random(&mut rng)).filter(|id| id.hash_tag() == "3f");
        std::array::from_fn(|_| one_tag.next().unwrap())
    }

    fn want(channels: &mut Channels, id: SceneId) -> oneshot::Receiver<Result<(), String>> {
        let (waiter, answer) = oneshot::channel();
        channels.want(id, waiter);
        answer
    }

    fn ask(channels: &mut Channels, connection: ConnectionId) -> BatchId {
        let batch = channels.next_batch(|_| Some(connection)).expect("something to ask for");
        assert_eq!(batch.connection, connection);
        batch.id
    }

    fn make_live(channels: &mut Channels, id: SceneId) {
        let mut answer = want(channels, id);
        let batch = ask(channels, HERE);
        assert_eq!(
            answer.try_recv(),
            Err(TryRecvError::Empty),
            "not before the acknowledgement"
        );
        channels.acknowledged(batch);
        assert_eq!(answer.try_recv(), Ok(Ok(())));
        assert!(channels.is_whole());
    }

    #[test]
    fn channels_of_one_tag_are_asked_for_together_and_at_most_64() {
        let mut channels = Channels::default();
        for id in scenes::<65>() {
            drop(want(&mut channels, id));
        }
        assert!(channels.next_batch(|_| None).is_none(), "no owner, no batch");
        assert_eq!(channels.next_batch(|_| Some(HERE)).unwrap().channels.len(), 64);
        assert_eq!(channels.next_batch(|_| Some(HERE)).unwrap().channels.len(), 1);
        assert!(channels.next_batch(|_| Some(HERE)).is_none());
    }

    #[test]
    fn a_loss_is_told_once_the_channel_is_live_again() {
        let [id] = scenes();
        let mut channels = Channels::default();
        make_live(&mut channels, id);
        assert_eq!(channels.cut(HERE).live, 1);
        assert!(!channels.is_whole());
        assert!(channels.take_recovered().is_empty());
        let batch = ask(&mut channels, THERE);
        assert!(channels.take_recovered().is_empty());
        channels.acknowledged(batch);
        assert_eq!(channels.take_recovered(), [id]);
        assert!(channels.is_whole());
    }

    #[test]
    fn losses_on_their_way_back_are_told_together() {
        let [one, other] = scenes();
        let mut channels = Channels::default();
        make_live(&mut channels, one);
        make_live(&mut channels, other);
        channels.taken(one, HERE, Instant::now());
        channels.wake(None);
        let first = ask(&mut channels, HERE);
        channels.taken(other, HERE, Instant::now());
        channels.wake(None);
        let second = ask(&mut channels, HERE);
        channels.acknowledged(first);
        assert!(channels.take_recovered().is_empty());
        channels.acknowledged(second);
        assert_eq!(channels.take_recovered().len(), 2);
    }

    #[test]
    fn a_channel_taken_before_its_batch_is_acknowledged_is_not_live() {
        let [id] = scenes();
        let mut channels = Channels::default();
        let mut answer = want(&mut channels, id);
        let batch = ask(&mut channels, HERE);
        let now = Instant::now();
        assert!(!channels.taken(id, HERE, now), "nobody was promised anything yet");
        channels.acknowledged(batch);
        assert_eq!(channels.unheard(), 1);
        assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(channels.next_wake(), Some(now + REST));
        channels.wake(Some(now + REST));
        let batch = ask(&mut channels, HERE);
        channels.acknowledged(batch);
        assert_eq!(answer.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn what_another_connection_takes_away_is_not_missed() {
        let [id] = scenes();
        let mut channels = Channels::default();
        make_live(&mut channels, id);
        assert!(!channels.taken(id, THERE, Instant::now()));
        assert_eq!(channels.unheard(), 0);
    }

    #[test]
    fn a_channel_given_up_and_wanted_again_waits_for_its_new_acknowledgement() {
        let [id] = scenes();
        let mut channels = Channels::default();
        drop(want(&mut channels, id));
        let first = ask(&mut channels, HERE);
        assert_eq!(channels.unwant(id), Some(HERE), "it is to be unsubscribed there");
        let mut answer = want(&mut channels, id);
        let second = ask(&mut channels, HERE);
        channels.acknowledged(first);
        assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
        channels.acknowledged(second);
        assert_eq!(answer.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn what_is_no_longer_wanted_is_neither_asked_for_nor_told() {
        let [lost, resting, off] = scenes();
        let mut channels = Channels::default();
        make_live(&mut channels, lost);
        channels.cut(HERE);
        assert_eq!(channels.unwant(lost), None);
        drop(want(&mut channels, resting));
        let batch = ask(&mut channels, HERE);
        channels.refused(batch, "MOVED 1 b:1", Instant::now());
        assert_eq!(channels.unwant(resting), None);
        drop(want(&mut channels, off));
        assert_eq!(channels.unwant(off), None);
        channels.wake(None);
        assert!(channels.next_batch(|_| Some(HERE)).is_none());
        assert!(channels.is_whole());
        assert_eq!(channels.next_wake(), None);
    }

    #[test]
    fn who_stopped_waiting_is_told_to_read_when_the_channel_is_live_after_all() {
        let [id] = scenes();
        let mut channels = Channels::default();
        drop(want(&mut channels, id));
        let batch = ask(&mut channels, HERE);
        channels.acknowledged(batch);
        assert_eq!(channels.take_recovered(), [id]);
    }

    #[test]
    fn a_passing_refusal_keeps_them_waiting_and_a_lasting_one_is_heard() {
        let [id] = scenes();
        let mut channels = Channels::default();
        let now = Instant::now();
        let mut answer = want(&mut channels, id);
        let batch = ask(&mut channels, HERE);
        channels.refused(batch, "MOVED 1 b:1", now);
        assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(channels.next_wake(), Some(now + REST));
        channels.wake(Some(now + REST));
        let batch = ask(&mut channels, THERE);
        channels.refused(batch, "NOPERM no", now);
        assert_eq!(answer.try_recv(), Ok(Err("NOPERM no".to_owned())));
        assert_eq!(channels.next_wake(), Some(now + LONG_REST));
    }

    #[test]
    fn a_channel_whose_slot_moved_is_off_and_to_be_released_where_it_was() {
        let [id, pending] = scenes();
        let mut channels = Channels::default();
        make_live(&mut channels, id);
        drop(want(&mut channels, pending));
        ask(&mut channels, HERE);
        assert!(channels.moved(|_| Some(HERE)).from.is_empty());
        let moved = channels.moved(|_| Some(THERE));
        assert_eq!((moved.from.len(), moved.live), (2, 1));
        assert_eq!(channels.next_batch(|_| Some(THERE)).unwrap().channels.len(), 2);
    }
}
