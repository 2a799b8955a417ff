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
    (
        "webhook",
        &[
            "crate::scene",
            "crate::store",
            "crate::hub",
            "crate::login",
            "crate::http",
            "crate::config",
            "crate::wechat",
            "axum",
            "fred",
        ],
    ),
    (
        "audit",
        &[
            "crate::store",
            "crate::hub",
            "crate::login",
            "crate::http",
            "crate::config",
            "crate::wechat",
            "axum",
            "fred",
        ],
    ),
    (
        "telemetry",
        &[
            "crate::scene",
            "crate::store",
            "crate::hub",
            "crate::login",
            "crate::http",
            "crate::config",
            "crate::wechat",
            "axum",
            "fred",
        ],
    ),
    ("certificate", &["crate::", "axum", "tokio", "fred", "::now()"]),
    ("traceparent", &["crate::", "axum", "tokio", "fred", "::now()"]),
];

/// Words that only stand where they are at home.
const AT_HOME: &[(&str, &[&str])] = &[
    ("fred::", &["store/redis"]),
    ("redis_protocol", &["store/redis"]),
    ("prometheus", &["telemetry"]),
    ("opentelemetry", &["telemetry"]),
    ("axum::", &["http", "web", "wechat/simulator"]),
    // It sees everything, and nobody sees it.
    ("crate::doctor", &["doctor"]),
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

pub(crate) fn rust_files(folder: &Path) -> Vec<PathBuf> {
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

/// A field that holds a secret as text.
struct SecretField {
    /// Where it stands, and how.
    line: String,
    /// Whether whoever prints what it is part of prints it.
    is_printed: bool,
    kind: String,
}

/// All of them in the sources, the simulator's apart, whose secrets are nobody's.
fn secret_fields() -> Vec<SecretField> {
    let is_secret = |name: &str| {
        name.contains("secret")
            || name.contains("token")
            || matches!(name, "code" | "code_verifier" | "wx_code" | "js_code" | "password")
    };
    let texts = [
        "String",
        "&",
        "Option<String",
        "Option<&",
        "Zeroizing",
        "Option<Zeroizing",
    ];
    let mut looked_at = 0;
    let mut found = Vec::new();
    for file in rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        if file.display().to_string().contains("wechat/simulator") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let mut is_printed = false;
        for line in text.lines().map(str::trim) {
            if let Some(derives) = line.strip_prefix("#[derive(") {
                is_printed = derives.contains("Debug");
            } else if line.starts_with('}') || line.ends_with(");") {
                is_printed = false;
            }
            let field = line
                .trim_start_matches("pub")
                .trim_start_matches("(super)")
                .trim_start_matches("(crate)");
            let Some((name, kind)) = field.trim().split_once(": ") else {
                continue;
            };
            let is_text = texts.iter().any(|text| kind.starts_with(text)) && !kind.contains("'static");
            let is_field = kind.ends_with(',') && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            looked_at += usize::from(is_field);
            if is_field && is_text && is_secret(name) {
                found.push(SecretField {
                    line: format!("{}: {line}", file.display()),
                    is_printed,
                    kind: kind.to_owned(),
                });
            }
        }
    }
    assert!(looked_at > 300, "{looked_at} fields: the sources are found");
    found
}

/// What is printed for debugging ends in a log some day.
#[test]
fn t22_what_holds_a_secret_does_not_print_it() {
    let printed = secret_fields().into_iter().filter(|field| field.is_printed);
    let offences: Vec<String> = printed.map(|field| field.line).collect();
    assert!(offences.is_empty(), "{offences:#?}");
}

/// What a process no longer needs, nobody who reads its memory should find there.
#[test]
fn t22_what_holds_a_secret_wipes_it() {
    let is_kept = |field: &SecretField| field.kind.starts_with("String") || field.kind.starts_with("Option<String");
    let fields = secret_fields();
    let wiped = fields.iter().filter(|field| field.kind.contains("Zeroizing")).count();
    assert!(wiped > 5, "{wiped} fields: the sources are found");
    // An id_token tells who somebody is, and opens nothing here.
    let kept = fields.into_iter().filter(is_kept);
    let offences: Vec<String> = kept
        .map(|field| field.line)
        .filter(|line| !line.contains(" id_token: "))
        .collect();
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

/// What others wrote comes from the registry, as the lock file knows it; what we write can't be unsafe.
#[test]
fn t34_our_code_is_safe_and_every_crate_is_one_of_the_registry_by_its_hash() {
    let read = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let lock: toml::Table = read("Cargo.lock").parse().unwrap();
    let crates = lock["package"].as_array().unwrap();
    assert!(crates.len() > 200, "the lock file is found");
    for one in crates.iter().filter(|one| one["name"].as_str() != Some("scanlogin")) {
        let of = |field: &str| one.get(field).and_then(toml::Value::as_str).unwrap_or_default();
        assert_eq!(
            of("source"),
            "registry+https://github.com/rust-lang/crates.io-index",
            "{one}"
        );
        assert_eq!(of("checksum").len(), 64, "{one}");
    }
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    assert_eq!(manifest["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    assert!(manifest.get("patch").is_none());
    // To that scripts/dependencies holds them.
    let held: toml::Table = read("deny.toml").parse().unwrap();
    for kind in ["unknown-registry", "unknown-git"] {
        assert_eq!(held["sources"][kind].as_str(), Some("deny"), "{kind}");
    }
    assert!(held["sources"].get("allow-git").is_none() && held["sources"].get("allow-registry").is_none());
}

/// The container itself is built elsewhere; what it may do is written here.
#[test]
fn t35_the_container_may_do_no_more_than_it_needs() {
    let read = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let deployment = read("k8s/base/deployment.yaml");
    for line in [
        "automountServiceAccountToken: false",
        "runAsNonRoot: true",
        "type: RuntimeDefault",
        "allowPrivilegeEscalation: false",
        "readOnlyRootFilesystem: true",
        "drop: [ALL]",
    ] {
        assert!(deployment.lines().any(|found| found.trim() == line), "{line}");
    }
    let image = read("Dockerfile");
    let (_, last) = image.rsplit_once("\nFROM ").unwrap();
    assert_eq!(
        last.lines().next(),
        Some("scratch"),
        "it holds what is copied into it, and no shell"
    );
    assert!(last.contains("\nUSER 65532:65532\n"), "{last}");
}
