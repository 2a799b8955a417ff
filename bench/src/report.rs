//! What a run came to: medians and spreads, ratios within each round, goals; as a table, as JSON and as pictures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::peers::Kind;
use crate::rows::{AGAINST_LEAST, GROWN, Goal, ROWS, Row};
use crate::scale::Costs;

/// From how much of the machine in others' hands on a measurement counts for nothing.
pub const DISTURBED: f64 = 0.05;

/// One measurement of one of them in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    pub round: usize,
    pub kind: Kind,
    /// By name, with the number of streams where there are several.
    pub values: BTreeMap<String, f64>,
    pub foreign: f64,
}

/// The least that a message takes on this machine: an echo, and Redis's pub/sub, at the same rate.
pub const LEAST: &str = "least";

/// What one of them came to over all rounds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Summary {
    median: f64,
    least: f64,
    most: f64,
    rounds: usize,
}

impl Summary {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            _ if values.is_empty() => return None,
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Some(Self {
            median,
            least: values[0],
            most: values[values.len() - 1],
            rounds: values.len(),
        })
    }

    /// With as many digits as it is good for.
    fn text(self) -> String {
        let number = |value: f64| match value.abs() {
            100.0.. => thousands(value),
            10.0.. => format!("{value:.0}"),
            _ => format!("{value:.1}"),
        };
        let (median, least, most) = (number(self.median), number(self.least), number(self.most));
        if least == most {
            median
        } else {
            format!("{median} ({least}–{most})")
        }
    }
}

/// As a whole number.
pub fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && digit.is_ascii_digit() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub struct Report {
    pub machine: String,
    pub command: String,
    pub records: Vec<Record>,
}

impl Report {
    /// Of one of them, in each round that nothing disturbed.
    fn values(&self, kind: Kind, name: &str) -> BTreeMap<usize, f64> {
        let undisturbed = self
            .records
            .iter()
            .filter(|record| record.kind == kind && record.foreign <= DISTURBED);
        undisturbed
            .filter_map(|record| Some((record.round, *record.values.get(name)?)))
            .collect()
    }

    fn summary(&self, kind: Kind, name: &str) -> Option<Summary> {
        Summary::of(self.values(kind, name).into_values().collect())
    }

    /// One's by the other's, of the same round: rounds apart are no ratio.
    fn ratio(&self, one: (Kind, &str), other: (Kind, &str)) -> Option<Summary> {
        let others = self.values(other.0, other.1);
        let ratios = self
            .values(one.0, one.1)
            .into_iter()
            .filter_map(|(round, value)| Some(value / others.get(&round)?))
            // Of what costs another nothing there is none.
            .filter(|ratio| ratio.is_finite());
        Summary::of(ratios.collect())
    }

    fn was_tried(&self, kind: Kind, name: &str) -> bool {
        self.records
            .iter()
            .any(|record| record.kind == kind && record.values.contains_key(name))
    }

    /// Ours, where all of them were measured.
    pub fn costs(&self) -> Option<Costs> {
        let of = |name: &str| Some(self.summary(Kind::Scanlogin, name)?.median);
        Some(Costs {
            login: of("login_cpu")? / 1e6,
            login_redis: of("login_cpu_redis")? / 1e6,
            idle: of("idle_cpu@50000")? / 1e6,
            rest: of("memory_at_rest@1000")? * 1e6,
            stream: (of("memory@50000")? + of("kernel_memory@50000")?) * 1e3,
            scene: (of("scene_memory@10000")? + of("redis_memory@10000")?) * 1e3,
            traffic: of("login_redis_bytes")?,
        })
    }

    /// As Markdown.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n\n`{}`\n\n", self.machine, self.command);
        if let Some(least) = self.summary(Kind::Floor, LEAST) {
            let _ = writeln!(
                text,
                "L, an echo and Redis's pub/sub at the same rate: {} µs.\n",
                least.text()
            );
        }
        text += "| what |";
        for kind in Kind::ALL {
            let _ = write!(text, " {} |", kind.name());
        }
        text += " ratios of ours, and goals |\n|---|---|---|---|---|---|\n";
        for row in ROWS {
            if !Kind::ALL.iter().any(|kind| self.was_tried(*kind, row.name)) {
                continue;
            }
            let unit = if row.unit.is_empty() {
                String::new()
            } else {
                format!(", {}", row.unit)
            };
            let _ = write!(text, "| {}{unit} |", row.title);
            for kind in Kind::ALL {
                let figure = match self.summary(kind, row.name) {
                    Some(summary) => summary.text(),
                    None if self.was_tried(kind, row.name) => "disturbed".to_owned(),
                    None => "–".to_owned(),
                };
                let _ = write!(text, " {figure} |");
            }
            let _ = writeln!(text, " {} |", self.ratios(row).join("; "));
        }
        text
    }

    fn ratios(&self, row: &Row) -> Vec<String> {
        let mut all = Vec::new();
        for kind in [Kind::Nchan, Kind::Node, Kind::Floor] {
            let Some(ratio) = self.ratio((Kind::Scanlogin, row.name), (kind, row.name)) else {
                continue;
            };
            let goal = row.goals.iter().find(|goal| goal.against == kind);
            let verdict = goal
                .map(|goal| goal.verdict(ratio.median, row.more_is_better))
                .unwrap_or_default();
            all.push(format!("{:.2} × {}{verdict}", ratio.median, kind.name()));
        }
        if row.name == "event_p50"
            && let Some(ratio) = self.ratio((Kind::Scanlogin, row.name), (Kind::Floor, LEAST))
        {
            all.push(format!(
                "{:.2} × L{}",
                ratio.median,
                AGAINST_LEAST.verdict(ratio.median, false)
            ));
        }
        if let Some(fewer) = row.grown_from
            && let Some(ratio) = self.ratio((Kind::Scanlogin, row.name), (Kind::Scanlogin, fewer))
        {
            let of = fewer.rsplit_once('@').map_or("above", |(_, of)| of);
            all.push(format!(
                "{:.2} × with {of}{}",
                ratio.median,
                GROWN.verdict(ratio.median, false)
            ));
        }
        all
    }

    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)?;
        let names: Vec<&String> = self.records.iter().flat_map(|record| record.values.keys()).collect();
        let mut figures: BTreeMap<&str, BTreeMap<&str, Summary>> = BTreeMap::new();
        for name in names {
            for kind in Kind::ALL {
                if let Some(summary) = self.summary(kind, name) {
                    figures.entry(name).or_default().insert(kind.name(), summary);
                }
            }
        }
        let all = serde_json::json!({
            "machine": self.machine,
            "command": self.command,
            "figures": figures,
            "records": self.records,
        });
        fs::write(dir.join("bench.json"), serde_json::to_string_pretty(&all)? + "\n")?;
        for row in ROWS {
            if let Some(picture) = self.picture(row) {
                fs::write(dir.join(format!("{}.svg", row.name.replace(['@', ' '], "-"))), picture)?;
            }
        }
        Ok(())
    }

    /// A bar for each of them, with its spread.
    fn picture(&self, row: &Row) -> Option<String> {
        let bars: Vec<(Kind, Summary)> = Kind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind, self.summary(kind, row.name)?)))
            .collect();
        let most = bars.iter().map(|(_, summary)| summary.most).fold(0.0, f64::max);
        if bars.len() < 2 || most <= 0.0 {
            return None;
        }
        let (left, wide, height) = (150.0, 380.0, 44 + 28 * bars.len());
        let better = if row.more_is_better {
            "more is better"
        } else {
            "less is better"
        };
        let mut svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 {height}" font-family="system-ui, sans-serif" font-size="13" role="img" aria-label="{}"><rect width="660" height="{height}" fill="#fff"/><text x="12" y="22" font-weight="600" fill="#111">{}</text><text x="648" y="22" text-anchor="end" fill="#666">{}{better}</text>"##,
            row.title,
            row.title,
            if row.unit.is_empty() {
                String::new()
            } else {
                format!("{}, ", row.unit)
            },
        );
        for (index, (kind, summary)) in bars.iter().enumerate() {
            let y = 38 + 28 * index;
            let at = |value: f64| left + value.max(0.0) / most * wide;
            let fill = if *kind == Kind::Scanlogin { "#07a35a" } else { "#9aa5b1" };
            let _ = write!(
                svg,
                r##"<text x="{:.0}" y="{}" text-anchor="end" fill="#111">{}</text><rect x="{left:.0}" y="{y}" width="{:.1}" height="18" fill="{fill}"/><path d="M{:.1} {}H{:.1}" stroke="#111" stroke-width="1.5"/><text x="{:.1}" y="{}" fill="#111">{}</text>"##,
                left - 8.0,
                y + 14,
                kind.name(),
                at(summary.median) - left,
                at(summary.least),
                y + 9,
                at(summary.most),
                at(summary.most) + 8.0,
                y + 14,
                summary.text(),
            );
        }
        Some(svg + "</svg>\n")
    }
}

impl Goal {
    fn verdict(&self, ratio: f64, more_is_better: bool) -> String {
        let told = |bound: f64| {
            if more_is_better {
                format!("≥ {:.1}", 1.0 / bound)
            } else {
                format!("≤ {bound:.2}")
            }
        };
        let holds = |bound: f64| {
            if more_is_better {
                ratio >= 1.0 / bound
            } else {
                ratio <= bound
            }
        };
        match self.stretch {
            Some(stretch) if holds(stretch) => format!(" (aim {}: **reached**)", told(stretch)),
            _ if holds(self.goal) => format!(" (goal {}: **met**)", told(self.goal)),
            _ => format!(" (goal {}: **missed**)", told(self.goal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(round: usize, kind: Kind, value: f64, foreign: f64) -> Record {
        let values = BTreeMap::from([("memory@1000".to_owned(), value)]);
        Record {
            round,
            kind,
            values,
            foreign,
        }
    }

    #[test]
    fn ratios_are_of_the_same_round_and_of_none_that_was_disturbed() {
        let report = Report {
            machine: String::new(),
            command: String::new(),
            records: vec![
                record(0, Kind::Scanlogin, 10.0, 0.0),
                record(0, Kind::Nchan, 20.0, 0.0),
                record(1, Kind::Scanlogin, 30.0, 0.01),
                record(1, Kind::Nchan, 1.0, 0.06),
                record(0, Kind::Node, 7.0, 0.9),
            ],
        };
        let name = "memory@1000";
        let ratio = report.ratio((Kind::Scanlogin, name), (Kind::Nchan, name)).unwrap();
        assert_eq!((ratio.rounds, format!("{:.1}", ratio.median)), (1, "0.5".to_owned()));
        let table = report.table();
        assert!(table.contains("| 20 (10–30) | – | 20 | disturbed |"), "{table}");
        assert!(table.contains("0.50 × nginx + nchan (goal ≤ 0.75: **met**)"), "{table}");
    }

    #[test]
    fn thousands_have_commas() {
        assert_eq!(
            [thousands(999.0), thousands(1000.0), thousands(1234567.0)],
            ["999", "1,000", "1,234,567"]
        );
    }
}
