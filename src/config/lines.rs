//! Where in the settings file what stands, so that whatever is wrong in it is told with its line.

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, wrong};

/// The file, and where in it each of its settings is.
#[derive(Debug, Default)]
pub(super) struct Lines {
    path: PathBuf,
    /// By what leads there, such as `client.0.redirect_uris.1`.
    of: HashMap<String, Place>,
}

#[derive(Debug)]
struct Place {
    /// Counted from 1.
    line: usize,
    /// What its value takes of the text, in bytes.
    value: Range<usize>,
    /// What people call it, such as `client.redirect_uris`.
    name: String,
}

impl Lines {
    /// Of a file that is TOML; of another none is known.
    pub(super) fn of(text: &str, path: &Path) -> Self {
        let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
        let line_at = |at: usize| ends.partition_point(|end| *end < at) + 1;
        let mut of = HashMap::new();
        if let Ok(table) = DeTable::parse(text) {
            let mut note = |place: &str, name: &str, at: Range<usize>, value: Range<usize>| {
                let (line, name) = (line_at(at.start), name.to_owned());
                of.insert(place.to_owned(), Place { line, value, name });
            };
            visit(table.get_ref(), ["", ""], &mut note);
        }
        Self {
            path: path.to_owned(),
            of,
        }
    }

    /// Which setting of a `[[client]]` or `[[mini_program]]` table has its value at this byte, such as `entry_scenes.1048`.
    pub(super) fn setting_at(&self, at: usize) -> Option<&str> {
        let around = self.of.values().filter(|place| place.value.contains(&at));
        // A table begun by `[[client]]` may span no more than that line, so it is the innermost that counts.
        let inmost = around.max_by_key(|place| place.name.len())?;
        inmost.name.split_once('.').map(|(_, setting)| setting)
    }

    /// What is wrong there. Of what is not written at all, it is the line of the nearest around it.
    pub(super) fn wrong_at(&self, place: &str, problem: impl Display) -> ConfigError {
        let mut places = std::iter::successors(Some(place), |place| Some(place.rsplit_once('.')?.0));
        let line = places
            .find_map(|place| self.of.get(place))
            .map_or(1, |place| place.line);
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
        self.of.get(place).map_or(1, |place| place.line)
    }
}

/// Tells `note` of each setting what leads there, its name, where that is written, and where its value.
fn visit(table: &DeTable<'_>, within: [&str; 2], note: &mut impl FnMut(&str, &str, Range<usize>, Range<usize>)) {
    for (key, value) in table {
        let [place, name] = within.map(|within| format!("{within}{}", key.get_ref()));
        note(&place, &name, key.span(), value.span());
        visit_value(value, &place, &name, note);
    }
}

fn visit_value(
    value: &Spanned<DeValue<'_>>,
    place: &str,
    name: &str,
    note: &mut impl FnMut(&str, &str, Range<usize>, Range<usize>),
) {
    match value.get_ref() {
        DeValue::Table(table) => visit(table, [&format!("{place}."), &format!("{name}.")], note),
        DeValue::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                let place = format!("{place}.{n}");
                note(&place, name, item.span(), item.span());
                visit_value(item, &place, name, note);
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
