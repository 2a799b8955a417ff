//! A whole run: its legs, what it prints, and how it goes on after a break.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use strum::IntoEnumIterator;

use crate::faults::Kind;
use crate::leg::{LegPlan, LegReport};
use crate::world::Shape;

/// A run as somebody asked for it.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    pub(crate) logins: u32,
    pub(crate) faults: u32,
    /// Logins a second.
    pub(crate) rate: u32,
    pub(crate) seed: u64,
    pub(crate) legs: u32,
    /// One after the other.
    pub(crate) shapes: Vec<Shape>,
    /// Of fault; all when there are none.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) slack_ms: u64,
    /// Whether a fault may begin before the last must be over.
    pub(crate) overlapping: bool,
    /// Where each leg's report is kept; a leg that has one is not run again.
    pub(crate) directory: PathBuf,
}

impl Schedule {
    /// Runs what is left of it, and prints the table; which promises were broken.
    pub(crate) async fn run(&self) -> Vec<String> {
        println!("{self:?}");
        std::fs::create_dir_all(&self.directory).expect("a directory for the reports");
        let mut reports = Vec::new();
        for (n, plan) in self.plans().into_iter().enumerate() {
            reports.push(self.leg(n, &plan).await);
        }
        print(&reports);
        reports.into_iter().flat_map(|report| report.violations).collect()
    }

    /// Checks what is kept of a run once more, as far as it has come; which promises were broken.
    pub(crate) fn check_again(directory: &Path) -> Vec<String> {
        let mut reports = Vec::new();
        while let Ok(json) = std::fs::read(directory.join(format!("leg-{}.json", reports.len()))) {
            let kept: LegReport = serde_json::from_slice(&json).expect("a report");
            let history = directory.join(format!("leg-{}", reports.len()));
            // That of a leg which broke no promise is not kept.
            reports.push(if history.is_dir() {
                kept.plan.check_again(&history, kept.seconds)
            } else {
                kept
            });
        }
        print(&reports);
        reports.into_iter().flat_map(|report| report.violations).collect()
    }

    /// The report that is kept of it, or a new one.
    async fn leg(&self, n: usize, plan: &LegPlan) -> LegReport {
        let path = self.directory.join(format!("leg-{n}.json"));
        let kept = std::fs::read(&path).ok();
        let kept = kept.and_then(|json| serde_json::from_slice::<LegReport>(&json).ok());
        if let Some(kept) = kept.filter(|kept| kept.plan == *plan) {
            return kept;
        }
        let history = self.directory.join(format!("leg-{n}"));
        let report = plan.run(&history).await;
        if report.violations.is_empty() {
            let _ = std::fs::remove_dir_all(&history);
        }
        std::fs::write(&path, serde_json::to_vec_pretty(&report).unwrap()).expect("the report is kept");
        println!("leg {n} took {} s: {:?}", report.seconds, report.tally);
        report
    }

    /// The same for the same settings: each leg has the next shape that can have any, and of the kinds that it can have those had least so far.
    fn plans(&self) -> Vec<LegPlan> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let asked = |kind: &Kind| self.kinds.is_empty() || self.kinds.contains(kind);
        // A run that has not time for all kinds leaves those to the next seed that this one began with.
        let mut kinds: Vec<Kind> = Kind::iter().filter(asked).collect();
        kinds.shuffle(&mut StdRng::seed_from_u64(0));
        let first = usize::try_from(self.seed)
            .unwrap_or(0)
            .wrapping_mul(self.faults as usize)
            % kinds.len();
        kinds.rotate_left(first);
        let had = kinds
            .into_iter()
            .enumerate()
            .map(|(n, kind)| (kind, u32::from(n >= self.faults as usize)));
        let mut had: BTreeMap<Kind, u32> = had.collect();
        let can_have_any = |shape: &Shape| self.faults == 0 || had.keys().any(|kind| kind.applies_to(*shape));
        let shapes: Vec<Shape> = self.shapes.iter().copied().filter(can_have_any).collect();
        assert!(
            !shapes.is_empty(),
            "none of {:?} can have any of {:?}: see docs/faults.md",
            self.shapes,
            self.kinds
        );
        let part_of = |all: u32, leg: u32| all * (leg + 1) / self.legs - all * leg / self.legs;
        (0..self.legs)
            .map(|leg| {
                let shape = shapes[leg as usize % shapes.len()];
                let mut faults = Vec::new();
                for _ in 0..part_of(self.faults, leg) {
                    let possible = || had.keys().copied().filter(|kind| kind.applies_to(shape));
                    let least = possible().map(|kind| had[&kind]).min();
                    let rare: Vec<Kind> = possible().filter(|kind| Some(had[kind]) == least).collect();
                    let &kind = rare.choose(&mut rng).expect("a kind of fault that this shape can have");
                    *had.entry(kind).or_default() += 1;
                    faults.push(kind);
                }
                faults.shuffle(&mut rng);
                LegPlan {
                    shape,
                    seed: rng.random(),
                    logins: part_of(self.logins, leg),
                    rate: self.rate,
                    faults,
                    overlapping: self.overlapping,
                    slack_ms: self.slack_ms,
                }
            })
            .collect()
    }
}

fn print(reports: &[LegReport]) {
    let mut recoveries = BTreeMap::<&str, Vec<u64>>::new();
    for report in reports {
        for (kind, times) in &report.recovery {
            recoveries.entry(kind).or_default().extend(times);
        }
    }
    println!("\n| fault | injected | recovery, median ms | max ms |\n|---|---|---|---|");
    for (kind, times) in &mut recoveries {
        times.sort_unstable();
        let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
        println!("| {kind} | {} | {median} | {most} |", times.len());
    }
    println!("\n| logins | |\n|---|---|");
    let mut sums = BTreeMap::<String, u64>::new();
    for report in reports {
        let serde_json::Value::Object(tally) = serde_json::to_value(&report.tally).unwrap() else {
            continue;
        };
        for (name, count) in tally {
            *sums.entry(name).or_default() += count.as_u64().unwrap_or(0);
        }
    }
    for (name, count) in &sums {
        println!("| {name} | {count} |");
    }
    let violations: usize = reports.iter().map(|report| report.violations.len()).sum();
    let seconds: u64 = reports.iter().map(|report| report.seconds).sum();
    let peak = reports.iter().map(|report| report.peak.rss_kb).max().unwrap_or(0);
    let faults: usize = recoveries.values().map(Vec::len).sum();
    println!("| violations | {violations} |\n\n{faults} faults in {seconds} s; a replica held at most {peak} kB");
}
