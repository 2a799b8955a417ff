//! Everything that is done to a run, and what each of it may cost.

mod redis;
mod service;
mod upstream;

use std::time::Duration;

use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use strum::{EnumIter, IntoStaticStr};
use tokio::time::sleep;

use crate::history::{ClientName, Fault, Loss, Reach, What};
use crate::recorder::Recorder;
use crate::world::{Shape, World};

/// A watched scene is read again after 15 seconds, or a fifth more.
const SLOWEST_REREAD_MS: u64 = 18_000;

/// For how long confirms and redemptions wait for a second copy before they do without.
const SECOND_COPY_MS: u64 = 10_000;

/// So many access_tokens the service asks for in ten minutes without a rest, and then rests so long before each.
const TOKEN_CALLS_AT_ONCE: usize = 4;
const THRIFT_MS: u64 = 40_000;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, EnumIter, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "title_case")]
pub(crate) enum Kind {
    ReplicaKilled,
    ReplicaFrozen,
    ReplicasRolled,
    MemoryShort,
    DescriptorsUsedUp,
    SlowReaders,
    ClockJumped,
    LogUnread,
    ProxyRestarted,
    StreamsCut,
    PubsubKilled,
    PublishRefused,
    OutputLimited,
    RedisFrozen,
    RedisReplicaFrozen,
    RedisReplicaKilled,
    SentinelFrozen,
    SentinelKilled,
    WritesPaused,
    RedisRestartedEmpty,
    RedisLoading,
    RedisFlushed,
    ScriptsFlushed,
    RedisReadOnly,
    OutOfMemory,
    MaxClients,
    LinkCut,
    LinkStalled,
    LinkBlackholed,
    LinkSlow,
    LinkLossy,
    RepliesLost,
    SlotsMoved,
    FailOverPlanned,
    PrimaryKilled,
    PrimaryKilledUnreplicated,
    PrimaryFrozen,
    PrimaryParted,
    PrimaryPartedWithReplica,
    WechatSlow,
    WechatDown,
    WechatResets,
    WechatGarbage,
    WechatBusy,
    WechatTruncates,
    WechatRefuses,
    TokenDenied,
    TokenRefused,
    TokenRevoked,
    LeaseHolderFrozen,
}

/// What a fault may cost. What is left out, it may not.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    loses: Loss,
    hides_news_ms: Option<u64>,
    hides_loss_ms: u64,
    kills_lease_holder: bool,
    pauses: bool,
    invalidations: usize,
    is_graceful: bool,
    bound_ms: u64,
    durable_bound_ms: u64,
}

/// What a fault is done with.
pub(crate) struct Injector<'a> {
    pub(crate) world: &'a mut World,
    pub(crate) rng: &'a mut StdRng,
    pub(crate) recorder: &'a Recorder,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }

    pub(crate) fn applies_to(self, shape: Shape) -> bool {
        match self {
            Self::RedisRestartedEmpty | Self::RedisReadOnly => shape == Shape::Standalone,
            Self::SentinelFrozen | Self::SentinelKilled | Self::PrimaryPartedWithReplica => shape == Shape::Sentinel,
            Self::SlotsMoved => shape == Shape::Cluster,
            Self::FailOverPlanned
            | Self::PrimaryKilled
            | Self::PrimaryKilledUnreplicated
            | Self::PrimaryFrozen
            | Self::PrimaryParted => shape != Shape::Standalone,
            _ => true,
        }
    }

    fn cost(self, shape: Shape) -> Cost {
        let none = Cost {
            bound_ms: self.bound_seconds() * 1_000,
            hides_news_ms: self.may_keep_news_back().then_some(0),
            durable_bound_ms: if self.may_cost_a_copy(shape) { SECOND_COPY_MS } else { 0 },
            ..Cost::default()
        };
        match self {
            Self::ReplicaKilled => Cost {
                kills_lease_holder: true,
                ..none
            },
            Self::ReplicaFrozen => Cost { pauses: true, ..none },
            // The token that it was asked for instead of, and the one that the holder took to sleep.
            Self::LeaseHolderFrozen => Cost {
                pauses: true,
                invalidations: 2,
                ..none
            },
            // Sentinels that reach a primary no more choose another. A planned fail-over waits until both have the same in a
            // Cluster, and does not with sentinels.
            Self::MaxClients | Self::LinkStalled | Self::LinkBlackholed | Self::FailOverPlanned
                if shape == Shape::Sentinel =>
            {
                Cost {
                    loses: Loss::Unreplicated,
                    ..none
                }
            }
            Self::PublishRefused => Cost {
                hides_news_ms: Some(SLOWEST_REREAD_MS),
                ..none
            },
            Self::ReplicasRolled => Cost {
                is_graceful: true,
                ..none
            },
            Self::RedisRestartedEmpty => Cost {
                loses: Loss::Everything,
                ..none
            },
            // No connection is cut.
            Self::RedisFlushed => Cost {
                loses: Loss::Everything,
                hides_loss_ms: SLOWEST_REREAD_MS,
                ..none
            },
            Self::RedisReplicaFrozen => Cost {
                durable_bound_ms: none.bound_ms,
                ..none
            },
            _ if self.takes_the_primary_away() => Cost {
                loses: Loss::Unreplicated,
                ..none
            },
            // Each token that is asked for instead; see the budget of fetches.
            Self::TokenRefused => Cost {
                invalidations: 5,
                ..none
            },
            Self::TokenDenied | Self::TokenRevoked => Cost {
                invalidations: 1,
                ..none
            },
            _ => none,
        }
    }

    /// Without a word to its replicas.
    fn takes_the_primary_away(self) -> bool {
        matches!(
            self,
            Self::PrimaryKilled
                | Self::PrimaryKilledUnreplicated
                | Self::PrimaryFrozen
                | Self::PrimaryParted
                | Self::PrimaryPartedWithReplica
        )
    }

    /// Which requests may fail because of it.
    fn reach(self) -> Reach {
        match self {
            Self::ReplicaKilled | Self::ProxyRestarted | Self::StreamsCut | Self::DescriptorsUsedUp => {
                Reach::Connections
            }
            Self::PubsubKilled | Self::OutputLimited => Reach::Watching,
            // With all else it loses the access_token.
            Self::RedisFlushed => Reach::Upstream,
            _ if self.is_wechats() => Reach::Upstream,
            Self::MemoryShort | Self::OutOfMemory => Reach::Beginnings,
            Self::RedisReplicaFrozen | Self::RedisReplicaKilled | Self::SentinelFrozen | Self::SentinelKilled => {
                Reach::Copies
            }
            Self::SlowReaders | Self::ClockJumped | Self::LogUnread | Self::ScriptsFlushed | Self::PublishRefused => {
                Reach::Nothing
            }
            _ => Reach::All,
        }
    }

    /// Whether it is WeChat alone that misbehaves.
    fn is_wechats(self) -> bool {
        matches!(
            self,
            Self::WechatSlow
                | Self::WechatDown
                | Self::WechatResets
                | Self::WechatGarbage
                | Self::WechatBusy
                | Self::WechatTruncates
                | Self::WechatRefuses
                | Self::TokenDenied
                | Self::TokenRefused
                | Self::TokenRevoked
        )
    }

    /// Whether it comes between the browsers and Redis, or stops what is there.
    fn may_keep_news_back(self) -> bool {
        let spares_redis = matches!(
            self,
            Self::SlowReaders
                | Self::ClockJumped
                | Self::LogUnread
                | Self::RedisReplicaFrozen
                | Self::RedisReplicaKilled
                | Self::SentinelFrozen
                | Self::SentinelKilled
                | Self::RedisFlushed
                | Self::ScriptsFlushed
                | Self::OutOfMemory
        );
        !spares_redis && !self.is_wechats()
    }

    /// There may be no replica for a while: who becomes primary has none yet.
    fn may_cost_a_copy(self, shape: Shape) -> bool {
        let may_replace = matches!(
            self,
            Self::FailOverPlanned | Self::MaxClients | Self::LinkStalled | Self::LinkBlackholed
        );
        let replaces = self.takes_the_primary_away() || may_replace;
        self == Self::RedisReplicaKilled || replaces && shape != Shape::Standalone
    }

    /// How often the service may have to ask for an access_token before it has one again, where it has none.
    fn token_calls(self) -> Option<usize> {
        match self {
            Self::TokenDenied => Some(3),
            Self::TokenRevoked => Some(1),
            _ => None,
        }
    }

    /// From healing until nothing fails any more because of it.
    fn bound_seconds(self) -> u64 {
        match self {
            Self::ReplicasRolled
            | Self::ProxyRestarted
            | Self::StreamsCut
            | Self::ClockJumped
            | Self::LogUnread
            | Self::DescriptorsUsedUp
            | Self::SlowReaders => 1,
            Self::PubsubKilled
            | Self::PublishRefused
            | Self::OutputLimited
            | Self::LinkCut
            | Self::LinkSlow
            | Self::LinkLossy
            | Self::RepliesLost
            // Looked at each second.
            | Self::MemoryShort => 2,
            Self::ReplicaKilled
            | Self::ReplicaFrozen
            | Self::LeaseHolderFrozen
            | Self::RedisRestartedEmpty
            | Self::RedisFlushed
            | Self::RedisFrozen
            | Self::RedisReplicaFrozen
            | Self::RedisReplicaKilled
            | Self::SentinelFrozen
            | Self::SentinelKilled
            | Self::WritesPaused
            | Self::ScriptsFlushed
            | Self::RedisReadOnly
            | Self::OutOfMemory
            | Self::SlotsMoved => 3,
            // A fail-over, replicas that come back to a primary, or the probe of a host that was thought dead.
            Self::RedisLoading
            | Self::MaxClients
            | Self::LinkStalled
            | Self::LinkBlackholed
            | Self::FailOverPlanned
            | Self::PrimaryKilled
            | Self::PrimaryKilledUnreplicated
            | Self::PrimaryFrozen
            | Self::PrimaryParted
            | Self::WechatDown
            | Self::WechatResets
            | Self::WechatGarbage
            | Self::WechatBusy
            | Self::WechatTruncates
            | Self::WechatRefuses
            | Self::TokenRefused
            | Self::TokenRevoked => 5,
            // Each failure doubles the time until WeChat is asked for a token again.
            Self::TokenDenied => 8,
            // The probe that is under way hangs for its five seconds, and is followed by a rest.
            Self::WechatSlow => 10,
            // For eight to ten seconds sentinels let servers that come back be. Till these follow the new primary, nobody does, so that
            // it takes no writes.
            Self::PrimaryPartedWithReplica => 13,
        }
    }
}

impl Injector<'_> {
    /// Does it, heals it, writes it down, and waits until all has come to rest: when new logins must work again.
    pub(crate) async fn inject(&mut self, kind: Kind, shape: Shape) -> u64 {
        // Of a fail-over by hand, or a network that parts, while a replica lags, docs/redis.md says what it takes back.
        if matches!(
            kind,
            Kind::FailOverPlanned | Kind::PrimaryParted | Kind::PrimaryPartedWithReplica
        ) {
            self.world.redis.is_whole().await;
        }
        let token_calls = self.world.upstream.token_calls();
        let from_ms = self.recorder.now();
        let healed_ms = self.act(kind).await.unwrap_or_else(|| self.recorder.now());
        let mut cost = kind.cost(shape);
        if kind
            .token_calls()
            .is_some_and(|more| token_calls + more > TOKEN_CALLS_AT_ONCE)
        {
            cost.bound_ms = THRIFT_MS;
        }
        let fault = Fault {
            kind: kind.name().to_owned(),
            reach: kind.reach(),
            from_ms,
            to_ms: healed_ms,
            loses: cost.loses,
            hides_news_ms: cost.hides_news_ms,
            hides_loss_ms: cost.hides_loss_ms,
            kills_lease_holder: cost.kills_lease_holder,
            pauses: cost.pauses,
            invalidations: cost.invalidations,
            is_graceful: cost.is_graceful,
            recovery_bound_ms: cost.bound_ms,
            durable_bound_ms: cost.durable_bound_ms,
        };
        self.recorder.note(ClientName::Harness, What::Fault(fault));
        self.world.redis.settles().await;
        let refusals = self.world.redis.refusals();
        assert!(refusals.is_empty(), "{}: a right is missing: {refusals}", kind.name());
        healed_ms + cost.bound_ms.max(cost.durable_bound_ms)
    }

    /// When it was healed, if that was before it returns.
    async fn act(&mut self, kind: Kind) -> Option<u64> {
        match kind {
            Kind::ReplicaKilled => return Some(self.kill_replica().await),
            Kind::ReplicaFrozen => self.freeze_replica().await,
            Kind::ReplicasRolled => self.roll_replicas().await,
            Kind::MemoryShort => self.use_up_memory_of_replica().await,
            Kind::DescriptorsUsedUp => self.use_up_descriptors().await,
            Kind::SlowReaders => self.read_slowly().await,
            Kind::ClockJumped => self.set_clock().await,
            Kind::LogUnread => self.leave_log_unread().await,
            Kind::ProxyRestarted => self.world.nginx.restart().await,
            Kind::StreamsCut => self.cut_silent_streams().await,
            Kind::PubsubKilled => self.kill_pubsub().await,
            Kind::PublishRefused => self.refuse_publishes().await,
            Kind::OutputLimited => self.limit_output().await,
            Kind::RedisFrozen => self.freeze_redis().await,
            Kind::RedisReplicaFrozen => self.freeze_redis_replica().await,
            Kind::RedisReplicaKilled => self.kill_redis_replica().await,
            Kind::SentinelFrozen => self.freeze_sentinel().await,
            Kind::SentinelKilled => self.kill_sentinel().await,
            Kind::WritesPaused => self.pause_writes().await,
            Kind::RedisRestartedEmpty => self.restart_redis().await,
            Kind::RedisLoading => self.load_redis().await,
            Kind::RedisFlushed => self.tell_masters(&["FLUSHALL"]),
            Kind::ScriptsFlushed => self.tell_masters(&["SCRIPT", "FLUSH"]),
            Kind::RedisReadOnly => self.make_read_only().await,
            Kind::OutOfMemory => self.use_up_memory().await,
            Kind::MaxClients => self.refuse_connections().await,
            Kind::LinkCut => self.cut_links().await,
            Kind::LinkStalled => self.stall_link().await,
            Kind::LinkBlackholed => self.blackhole_link().await,
            Kind::LinkSlow => self.slow_links().await,
            Kind::LinkLossy => self.lose_packets().await,
            Kind::RepliesLost => self.lose_replies().await,
            Kind::SlotsMoved => self.move_slots().await,
            Kind::FailOverPlanned => self.fail_over().await,
            Kind::PrimaryKilled => return Some(self.kill_primary(false).await),
            Kind::PrimaryKilledUnreplicated => return Some(self.kill_primary(true).await),
            Kind::PrimaryFrozen => return Some(self.freeze_primary().await),
            Kind::PrimaryParted => self.part_primary(false).await,
            Kind::PrimaryPartedWithReplica => self.part_primary(true).await,
            Kind::WechatSlow => self.misbehave(upstream::slow()).await,
            Kind::WechatDown => self.misbehave(upstream::down()).await,
            Kind::WechatResets => self.misbehave(upstream::resets()).await,
            Kind::WechatGarbage => self.misbehave(upstream::garbage()).await,
            Kind::WechatBusy => self.misbehave(upstream::busy()).await,
            Kind::WechatTruncates => self.misbehave(upstream::truncated()).await,
            Kind::WechatRefuses => self.refuse().await,
            Kind::TokenDenied => return Some(self.deny_token().await),
            Kind::TokenRefused => self.refuse_token().await,
            Kind::TokenRevoked => return Some(self.revoke_token().await),
            Kind::LeaseHolderFrozen => self.freeze_lease_holder().await,
        }
        None
    }

    /// As long as a fault stands.
    async fn hold(&mut self, least_ms: u64, most_ms: u64) {
        use rand::RngExt;
        sleep(Duration::from_millis(self.rng.random_range(least_ms..=most_ms))).await;
    }
}
