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

/// What is printed for debugging ends in a log some day.
#[test]
fn t22_what_holds_a_secret_does_not_print_it() {
    let is_secret = |name: &str| {
        name.contains("secret")
            || name.contains("token")
            || matches!(name, "code" | "code_verifier" | "wx_code" | "js_code" | "password")
    };
    let mut looked_at = 0;
    let mut offences = Vec::new();
    for file in rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        // The simulator's secrets are nobody's.
        if file.display().to_string().contains("wechat/simulator") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let mut prints = false;
        for line in text.lines().map(str::trim) {
            if let Some(derives) = line.strip_prefix("#[derive(") {
                prints = derives.contains("Debug");
            } else if line.starts_with('}') || line.ends_with(");") {
                prints = false;
            }
            let field = line
                .trim_start_matches("pub")
                .trim_start_matches("(super)")
                .trim_start_matches("(crate)");
            let Some((name, kind)) = field.trim().split_once(": ") else {
                continue;
            };
            let texts = ["String", "&", "Option<String", "Option<&"];
            let is_text = texts.iter().any(|text| kind.starts_with(text)) && !kind.contains("'static");
            let is_field = kind.ends_with(',') && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            looked_at += usize::from(is_field);
            if prints && is_field && is_text && is_secret(name) {
                offences.push(format!("{}: {line}", file.display()));
            }
        }
    }
    assert!(looked_at > 300, "{looked_at} fields: the sources are found");
    assert!(offences.is_empty(), "{offences:#?}");
}

/// The time that `==` takes tells how much of a guess was right.
#[test]
fn t23_secrets_are_compared_in_constant_time() {
    let mut offences = Vec::new();
    for file in rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let name = file.display().to_string();
        if name.contains("wechat/simulator") || name.contains("tests") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let compares = |line: &&str| {
            (line.contains("==") || line.contains("!="))
                && (line.contains("expose_secret()") || line.contains(".expose()"))
        };
        offences.extend(
            code.lines()
                .filter(compares)
                .map(|line| format!("{name}: {}", line.trim())),
        );
    }
    assert!(offences.is_empty(), "{offences:#?}");
    let secrets = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/scene/secret.rs")).unwrap();
    let equal = secrets
        .split("impl<K> PartialEq for Digest<K>")
        .nth(1)
        .expect("digests are compared by our own rule");
    assert!(equal.split('}').next().unwrap().contains("ct_eq"));
}
