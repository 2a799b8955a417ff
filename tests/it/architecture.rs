//! The rules of the house, kept by a test: who may mention whom.

use std::fs;
use std::path::{Path, PathBuf};

/// Under each path of `src/`: words that must not stand there.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "scene",
        &[
            "crate::store",
            "crate::hub",
            "crate::login",
            "crate::http",
            "axum",
            "tokio",
            "fred",
            "async fn",
            "::now()",
        ],
    ),
    (
        "store",
        &[
            "crate::hub",
            "crate::login",
            "crate::http",
            "crate::config",
            "crate::wechat",
            "axum",
        ],
    ),
    (
        "hub",
        &[
            "crate::login",
            "crate::http",
            "crate::config",
            "crate::wechat",
            "axum",
            "fred",
        ],
    ),
    ("login", &["crate::http", "crate::hub", "crate::config", "axum", "fred"]),
    (
        "wechat",
        &["crate::hub", "crate::login", "crate::http", "crate::config", "fred"],
    ),
    ("oidc", &["crate::http", "crate::store", "axum", "fred"]),
    ("http", &["crate::config", "fred", "std::env"]),
    ("web", &["crate::", "fred"]),
    ("telemetry", &["crate::", "axum", "fred"]),
];

/// Words that only stand where they are at home.
const AT_HOME: &[(&str, &[&str])] = &[
    ("fred::", &["store/redis"]),
    ("redis_protocol", &["store/redis"]),
    ("prometheus", &["telemetry"]),
    ("axum::", &["http", "web", "wechat/simulator"]),
    ("std::env", &["main", "config"]),
];

#[test]
fn imports_go_downward_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut offences = Vec::new();
    let files = rust_files(&src);
    assert!(files.len() > 40, "the sources are found");
    for file in files {
        let name = file
            .strip_prefix(&src)
            .unwrap()
            .with_extension("")
            .display()
            .to_string();
        let text = fs::read_to_string(&file).unwrap();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n");
        let of = |area: &str| name == area || name.starts_with(&format!("{area}/"));
        for (_, words) in FORBIDDEN.iter().filter(|(area, _)| of(area)) {
            offences.extend(
                words
                    .iter()
                    .filter(|word| code.contains(**word))
                    .map(|word| format!("{name}: {word}")),
            );
        }
        for (word, _) in AT_HOME.iter().filter(|(_, homes)| !homes.iter().any(|home| of(home))) {
            if code.contains(word) {
                offences.push(format!("{name}: {word}"));
            }
        }
    }
    assert!(offences.is_empty(), "{offences:#?}");
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
