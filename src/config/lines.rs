//! Where in the settings file what stands, so that whatever is wrong in it is told with its line.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, wrong};

/// The file, and the line of each of its settings.
#[derive(Debug, Default)]
pub(super) struct Lines {
    path: PathBuf,
    /// Counted from 1, by what leads there, such as `client.0.redirect_uris.1`.
    of: HashMap<String, usize>,
}

impl Lines {
    /// Of a file that is TOML; of another none is known.
    pub(super) fn of(text: &str, path: &Path) -> Self {
        let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
        let line_at = |at: usize| ends.partition_point(|end| *end < at) + 1;
        let mut of = HashMap::new();
        if let Ok(table) = DeTable::parse(text) {
            of_table(table.get_ref(), "", &line_at, &mut of);
        }
        Self {
            path: path.to_owned(),
            of,
        }
    }

    /// What is wrong there. Of what is not written at all, it is the line of the nearest around it.
    pub(super) fn wrong_at(&self, place: &str, problem: impl Display) -> ConfigError {
        let mut places = std::iter::successors(Some(place), |place| Some(place.rsplit_once('.')?.0));
        let line = places.find_map(|place| self.of.get(place)).copied().unwrap_or(1);
        self.wrong_in(line, problem)
    }

    /// The same, of a line that is known.
    pub(super) fn wrong_in(&self, line: usize, problem: impl Display) -> ConfigError {
        wrong(format!(
            "SCANLOGIN_CONFIG: {}: line {line}: {problem}",
            self.path.display()
        ))
    }

    /// The line of a setting or of a table that is there.
    pub(super) fn line(&self, place: &str) -> usize {
        self.of.get(place).copied().unwrap_or(1)
    }
}

/// Which setting of a `[[client]]` or `[[mini_program]]` table has its value at this byte, such as `entry_scenes.1048`.
pub(super) fn setting_at(text: &str, at: usize) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let named = named_in(table.get_ref(), at)?;
    named.split_once('.').map(|(_, setting)| setting.to_owned())
}

fn named_in(table: &DeTable<'_>, at: usize) -> Option<String> {
    let (name, value) = table.iter().find(|(_, value)| holds(value, at))?;
    let name = name.get_ref();
    Some(named_within(value, at).map_or_else(|| name.to_string(), |within| format!("{name}.{within}")))
}

fn named_within(value: &Spanned<DeValue<'_>>, at: usize) -> Option<String> {
    match value.get_ref() {
        DeValue::Table(table) => named_in(table, at),
        DeValue::Array(items) => items.iter().find_map(|item| named_within(item, at)),
        _ => None,
    }
}

/// A table begun by `[[client]]` may span no more than that line, so what is in it is looked at too.
fn holds(value: &Spanned<DeValue<'_>>, at: usize) -> bool {
    value.span().contains(&at) || named_within(value, at).is_some()
}

fn of_table(table: &DeTable<'_>, within: &str, line_at: &impl Fn(usize) -> usize, of: &mut HashMap<String, usize>) {
    for (name, value) in table {
        let place = format!("{within}{}", name.get_ref());
        of.insert(place.clone(), line_at(name.span().start));
        inside(value, &place, line_at, of);
    }
}

fn inside(
    value: &Spanned<DeValue<'_>>,
    place: &str,
    line_at: &impl Fn(usize) -> usize,
    of: &mut HashMap<String, usize>,
) {
    match value.get_ref() {
        DeValue::Table(table) => of_table(table, &format!("{place}."), line_at, of),
        DeValue::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                let place = format!("{place}.{n}");
                of.insert(place.clone(), line_at(item.span().start));
                inside(item, &place, line_at, of);
            }
        }
        _ => {}
    }
}

/// A table of the file, to tell what is wrong in it.
pub(super) struct At<'a> {
    /// Of the file.
    pub(super) lines: &'a Lines,
    /// Such as `client.0`.
    pub(super) table: String,
    /// Whose it is, such as `client blog`.
    pub(super) owner: String,
}

impl At<'_> {
    /// What is wrong with a setting, or with one of its list, such as `redirect_uris.1`.
    pub(super) fn wrong(&self, setting: &str, problem: impl Display) -> ConfigError {
        let place = format!("{}.{setting}", self.table);
        self.lines.wrong_at(&place, format!("{}: {problem}", self.owner))
    }

    /// Each of a list's values, as `check` finds it.
    pub(super) fn each(
        &self,
        setting: &str,
        values: &[String],
        such_as: &str,
        check: impl Fn(&str) -> Result<(), &'static str>,
    ) -> Result<(), ConfigError> {
        for (n, value) in values.iter().enumerate() {
            let problem = |problem| format!("{setting}: {value:?} {problem}; such as {such_as}");
            check(value).map_err(|found| self.wrong(&format!("{setting}.{n}"), problem(found)))?;
        }
        Ok(())
    }
}
