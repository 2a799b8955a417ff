//! One leg of a run: a world of its own, its share of logins and faults, and what the checker found.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::checker::{self, Run, Tally, Text};
use crate::faults::{Injector, Kind};
use crate::history::{ClientName, History, Phase, Usage, What};
use crate::login::Stage;
use crate::machine;
use crate::recorder::Recorder;
use crate::support::canaries::Secrets;
use crate::support::service::http_client;
use crate::world::{SCENE_LIFE, Shape, World};

/// Logins before the first fault, so that all is warm.
const WARM_UP: u32 = 20;
/// How many fresh logins in a row must succeed in the end.
const TAIL: u32 = 20;
/// Between a fault that is over and the next: longer than anybody may be told late of what happened, so that no fault is an excuse
/// for what another began.
const PAUSE: Duration = Duration::from_millis(2_200);
/// Instead, where faults may overlap.
const SHORT_PAUSE: Duration = Duration::from_secs(1);
/// Longer than the proxy keeps connections that nobody uses.
const PROXY_KEEPS_IDLE: Duration = Duration::from_secs(3);
/// Every login has ended by then, with its scene and all patience.
const ENDS_WITHIN: Duration = Duration::from_mins(3);
/// `stable_token` gives the same token until then (see the design of access_token).
const TOKEN_MARGIN_MS: u64 = 300_000;
/// About three times what forty logins a second take.
const BOUNDS: Usage = Usage {
    rss_kb: 96 * 1024,
    fds: 1_024,
    redis_bytes: 192 * 1024 * 1024,
    redis_keys: 30_000,
    held: 3_000,
};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LegPlan {
    pub(crate) shape: Shape,
    pub(crate) seed: u64,
    pub(crate) logins: u32,
    /// A second.
    pub(crate) rate: u32,
    pub(crate) faults: Vec<Kind>,
    /// Whether one may begin before the last must be over.
    pub(crate) overlapping: bool,
    /// By how much the machine itself may delay what is timed.
    pub(crate) slack_ms: u64,
}

/// What became of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LegReport {
    pub(crate) plan: LegPlan,
    pub(crate) tally: Tally,
    /// Milliseconds, by kind of fault.
    pub(crate) recovery: BTreeMap<String, Vec<u64>>,
    pub(crate) violations: Vec<String>,
    pub(crate) peak: Usage,
    pub(crate) seconds: u64,
}

/// What is there at the end beside the histories.
#[derive(Debug, Default)]
struct Left {
    texts: Vec<Text>,
    endless_keys: Vec<String>,
    secrets: Secrets,
}

impl LegPlan {
    /// The history is written to `history`.
    pub(crate) async fn run(&self, history: &Path) -> LegReport {
        let began = Instant::now();
        let _ = std::fs::remove_dir_all(history);
        std::fs::create_dir_all(history).expect("a directory for the histories");
        let recorder = Recorder::create(&history.join("all.jsonl"));
        let http = http_client();
        let mut world = World::start(self.shape, &http, &recorder).await;
        let stage = Stage {
            http: http.clone(),
            base: world.nginx.base(),
            recorder: recorder.clone(),
            wechat: world.upstream.wechat.clone(),
            seed: self.seed,
            scene_life: SCENE_LIFE,
        };
        let mut watch = JoinSet::new();
        watch.spawn(machine::watch(recorder.clone(), self.shape));
        self.play(&mut world, &stage).await;
        drop(watch);
        let texts = world.texts(&http).await;
        let endless_keys = world.redis.endless_keys();
        drop(world);
        for text in texts.iter().filter(|text| text.name.starts_with("the log")) {
            std::fs::write(history.join(format!("{}.log", text.name)), &text.bytes).expect("the logs are kept");
        }
        let secrets = recorder.finish();
        for kind in [
            "a browser secret",
            "a confirm token",
            "an authorization code",
            "an access token",
        ] {
            let is_known = secrets.names().any(|name| name == kind);
            assert!(is_known, "nobody was given {kind}, so none is searched for");
        }
        let left = Left {
            texts,
            endless_keys,
            secrets,
        };
        self.report(history, left, began.elapsed().as_secs())
    }

    /// The same, of a history that was kept. Secrets are not, nor where they might stand.
    pub(crate) fn check_again(&self, history: &Path, seconds: u64) -> LegReport {
        self.report(history, Left::default(), seconds)
    }

    fn report(&self, history: &Path, left: Left, seconds: u64) -> LegReport {
        let run = Run {
            bounds: BOUNDS,
            tail_logins: TAIL as usize,
            slack_ms: self.slack_ms,
            token_margin_ms: TOKEN_MARGIN_MS,
            texts: left.texts,
            endless_keys: left.endless_keys,
            secrets: left.secrets,
        };
        let history = History::read(history).expect("the histories");
        let report = checker::check(&history, &run);
        LegReport {
            plan: self.clone(),
            violations: report
                .violations
                .iter()
                .map(|found| format!("{found:?}"))
                .chain(report.lost.iter().map(|lost| format!("{lost:?}")))
                .collect(),
            tally: report.tally,
            recovery: report.recovery,
            peak: peak(&history),
            seconds,
        }
    }

    /// Logins before, during and after the faults.
    async fn play(&self, world: &mut World, stage: &Stage) {
        let recorder = &stage.recorder;
        plain_logins(stage, 0, WARM_UP).await;
        sleep(PROXY_KEEPS_IDLE).await;
        let base = sample(recorder, world, Phase::Before).await;

        let over = CancellationToken::new();
        let mut coming = JoinSet::new();
        coming.spawn(keep_coming(
            stage.clone(),
            WARM_UP + TAIL,
            self.logins,
            self.rate,
            over.clone(),
        ));
        let recovered_ms = self.inject_all(world, recorder).await;
        over.cancel();
        let logins = coming.join_all().await.remove(0);
        sleep_until_ms(recorder, recovered_ms).await;
        plain_logins(stage, WARM_UP, TAIL).await;
        let end = timeout(ENDS_WITHIN, logins.join_all()).await;
        end.expect("every login ends");
        sleep(PROXY_KEEPS_IDLE).await;
        world.comes_to_rest(&base).await;
        sample(recorder, world, Phase::After).await;
    }

    fn length(&self) -> Duration {
        Duration::from_secs(u64::from(self.logins / self.rate))
    }

    /// Spread over the time of the logins, one after the other; when the last has been recovered from.
    async fn inject_all(&self, world: &mut World, recorder: &Recorder) -> u64 {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let count = u32::try_from(self.faults.len()).unwrap();
        let mut recovered_ms = recorder.now();
        let mut due = interval(self.length() / (count + 1));
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        due.tick().await;
        for kind in &self.faults {
            due.tick().await;
            println!("{:>7} ms  {:?}: {}", recorder.now(), self.shape, kind.name());
            let mut injector = Injector {
                world,
                rng: &mut rng,
                recorder,
            };
            recovered_ms = recovered_ms.max(injector.inject(*kind, self.shape).await);
            sample(recorder, world, Phase::During).await;
            if !self.overlapping {
                // What lasts longer than it may would else be blamed on the next.
                sleep_until_ms(recorder, recovered_ms + self.slack_ms).await;
            }
            sleep(if self.overlapping { SHORT_PAUSE } else { PAUSE }).await;
        }
        recovered_ms
    }
}

/// Logins of every kind at a steady rate, whatever becomes of them: as many as that, and more until it is `over`. Those that
/// are under way then.
async fn keep_coming(stage: Stage, first: u32, count: u32, rate: u32, over: CancellationToken) -> JoinSet<()> {
    let mut logins = JoinSet::new();
    let mut ticks = interval(Duration::from_secs(1) / rate);
    for number in first.. {
        ticks.tick().await;
        if over.is_cancelled() && number >= first + count {
            break;
        }
        logins.spawn(stage.clone().any(number));
        while let Some(ended) = logins.try_join_next() {
            ended.expect("nobody panics");
        }
    }
    logins
}

async fn plain_logins(stage: &Stage, first: u32, count: u32) {
    let mut logins = JoinSet::new();
    for number in first..first + count {
        logins.spawn(stage.clone().plain(number));
    }
    logins.join_all().await;
}

async fn sleep_until_ms(recorder: &Recorder, at: u64) {
    sleep(Duration::from_millis(at.saturating_sub(recorder.now()))).await;
}

async fn sample(recorder: &Recorder, world: &World, phase: Phase) -> Usage {
    let mut usage = world.usage().await;
    if phase == Phase::During {
        // What was needed for a moment, and is not any more, counts too.
        usage.rss_kb = world.peak_rss_kb();
    }
    recorder.note(ClientName::Harness, What::Sample { phase, usage });
    usage
}

fn peak(history: &History) -> Usage {
    let samples = history.entries.iter().filter_map(|entry| match entry.what {
        What::Sample { usage, .. } => Some(usage),
        _ => None,
    });
    samples.fold(Usage::default(), |most, one| Usage {
        rss_kb: most.rss_kb.max(one.rss_kb),
        fds: most.fds.max(one.fds),
        redis_bytes: most.redis_bytes.max(one.redis_bytes),
        redis_keys: most.redis_keys.max(one.redis_keys),
        held: most.held.max(one.held),
    })
}
