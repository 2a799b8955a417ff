//! The table of docs/security.md: each row once, with tests that there are and a way to see them fail.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::architecture::rust_files;

/// How many rows there are: T1 to T38.
const ROWS: usize = 38;

/// One row: the tests, each with its file, and the patches that take its controls out.
struct Row {
    id: String,
    tests: Vec<(PathBuf, String)>,
    patches: Vec<PathBuf>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What stands in backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn table() -> Vec<Row> {
    let text = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let rows = text.lines().filter(|line| {
        let id = line.strip_prefix("| T").and_then(|rest| rest.split_once(" |"));
        id.is_some_and(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()))
    });
    rows.map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let &["", id, _, _, tests, patches, ""] = cells.as_slice() else {
            panic!("not five cells: {line}")
        };
        let mut file = None;
        let mut named = Vec::new();
        for word in quoted(tests) {
            match Path::new(word).extension().and_then(|extension| extension.to_str()) {
                Some("rs" | "mjs") => file = Some(word),
                _ => named.push((source(file.expect("a file before its tests")), word.to_owned())),
            }
        }
        Row {
            id: id.to_owned(),
            tests: named,
            patches: quoted(patches).map(patch).collect(),
        }
    })
    .collect()
}

/// Tests are in tests/it unless a path says otherwise.
fn source(file: &str) -> PathBuf {
    let path = root().join(file);
    if path.exists() {
        path
    } else {
        root().join("tests/it").join(file)
    }
}

/// Patches that bear a row's number are in tests/without, others are those of scripts/chaos.
fn patch(name: &str) -> PathBuf {
    let of_a_row = root().join("tests/without").join(format!("{name}.patch"));
    if of_a_row.exists() {
        of_a_row
    } else {
        root().join("tests/chaos/without").join(format!("{name}.patch"))
    }
}

/// The tests that a patch says it makes fail.
fn made_to_fail(patch: &Path) -> Vec<String> {
    let text = fs::read_to_string(patch).unwrap();
    let says = text.lines().next().unwrap_or_default();
    let fails = says.split_once("Fails ").map(|(_, fails)| fails);
    fails.map(quoted).into_iter().flatten().map(ToOwned::to_owned).collect()
}

#[test]
fn each_threat_stands_once_in_the_table_with_tests_and_a_way_to_take_its_control_out() {
    let rows = table();
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let expected: Vec<String> = (1..=ROWS).map(|number| format!("T{number}")).collect();
    assert_eq!(ids, expected);
    let mut wrong = Vec::new();
    for row in &rows {
        if row.tests.is_empty() || row.patches.is_empty() {
            wrong.push(format!("{}: no test, or no patch", row.id));
        }
        for (file, name) in &row.tests {
            let text = fs::read_to_string(file).unwrap_or_default();
            let ways = [
                format!("fn {name}("),
                format!("it('{}'", name.replace('\'', "\\'")),
                format!("test('{}'", name.replace('\'', "\\'")),
            ];
            if !ways.iter().any(|way| text.contains(way)) {
                wrong.push(format!("{}: {} has no test {name:?}", row.id, file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Rows whose control is of what is not there yet.
const TO_COME: [usize; 2] = [11, 12];

#[test]
fn each_row_has_a_test_of_its_number_and_each_such_test_stands_in_its_row() {
    let rows = table();
    let mut wrong = Vec::new();
    for (number, row) in (1..).zip(&rows) {
        let own = [format!("t{number:02}_"), format!("T{number}: ")];
        let is_own = |name: &str| own.iter().any(|own| name.starts_with(own.as_str()));
        if !TO_COME.contains(&number) && !row.tests.iter().any(|(_, name)| is_own(name)) {
            wrong.push(format!("{}: no test is named after it", row.id));
        }
    }
    let named: BTreeSet<&str> = rows
        .iter()
        .flat_map(|row| row.tests.iter().map(|(_, name)| name.as_str()))
        .collect();
    for folder in ["src", "tests"] {
        for file in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            let functions = text.split("fn t").skip(1).filter_map(|rest| rest.split_once('('));
            for (name, _) in functions {
                let is_numbered =
                    name.len() > 3 && name.as_bytes()[..2].iter().all(u8::is_ascii_digit) && &name[2..3] == "_";
                if is_numbered && !named.contains(format!("t{name}").as_str()) {
                    wrong.push(format!("{}: t{name} is in no row", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_patch_is_there_stands_in_its_row_and_names_tests_of_that_row() {
    let mut wrong = Vec::new();
    let mut named = BTreeSet::new();
    for row in table() {
        let of_row: BTreeSet<&str> = row.tests.iter().map(|(_, name)| name.as_str()).collect();
        for patch in &row.patches {
            if !patch.exists() {
                wrong.push(format!("{}: {} is not there", row.id, patch.display()));
                continue;
            }
            let is_of_a_row = patch.parent().unwrap().ends_with("tests/without");
            let tests = made_to_fail(patch);
            if is_of_a_row && tests.is_empty() {
                wrong.push(format!("{}: names no test in its first line", patch.display()));
            }
            for test in tests.iter().filter(|test| !of_row.contains(test.as_str())) {
                wrong.push(format!("{}: {test:?} is no test of {}", patch.display(), row.id));
            }
            named.insert(patch.clone());
        }
    }
    for entry in fs::read_dir(root().join("tests/without")).unwrap() {
        let path = entry.unwrap().path();
        if !named.contains(&path) {
            wrong.push(format!("{} stands in no row", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
