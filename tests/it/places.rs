//! Where the browser is, by a database that the operator keeps: what the phone shows of it, and what no file can do.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use reqwest::RequestBuilder;
use scanlogin::scene::s256;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::reply::Reply;
use crate::support::roles::VERIFIER;
use crate::support::service::Service;
use crate::support::temporary_directory;

/// A MaxMind DB (format 2.0, IPv6 with IPv4 at ::/96, 24 bits a record), as its specification says.
struct Database {
    nodes: Vec<[Slot; 2]>,
    data: Vec<u8>,
    kind: &'static str,
}

#[derive(Clone, Copy)]
enum Slot {
    Nothing,
    Node(usize),
    /// How far within the data.
    Data(usize),
}

impl Database {
    fn new(kind: &'static str) -> Self {
        Self {
            nodes: vec![[Slot::Nothing; 2]],
            data: Vec::new(),
            kind,
        }
    }

    /// `network` is IPv6, or the hexadecimal form of an IPv4 one after `::`.
    fn with(mut self, network: &str, record: &Value) -> Self {
        let (address, length) = network.split_once('/').unwrap();
        let bits = u128::from(address.parse::<Ipv6Addr>().unwrap());
        let length: u32 = length.parse().unwrap();
        let at = self.data.len();
        put(&mut self.data, record);
        let mut node = 0;
        for depth in 0..length {
            let side = usize::from(bits >> (127 - depth) & 1 == 1);
            if depth + 1 == length {
                self.nodes[node][side] = Slot::Data(at);
                break;
            }
            node = if let Slot::Node(next) = self.nodes[node][side] {
                next
            } else {
                self.nodes.push([Slot::Nothing; 2]);
                let next = self.nodes.len() - 1;
                self.nodes[node][side] = Slot::Node(next);
                next
            };
        }
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let count = self.nodes.len();
        let mut bytes = Vec::new();
        for slot in self.nodes.iter().flatten() {
            let value = match slot {
                Slot::Nothing => count,
                Slot::Node(node) => *node,
                Slot::Data(at) => count + 16 + at,
            };
            bytes.extend(&u32::try_from(value).unwrap().to_be_bytes()[1..]);
        }
        bytes.extend([0; 16]);
        bytes.extend(&self.data);
        bytes.extend(b"\xab\xcd\xefMaxMind.com");
        bytes.push(0b1110_0000 + 9);
        let numbers = [
            ("node_count", 6, u32::try_from(count).unwrap()),
            ("record_size", 5, 24),
            ("ip_version", 5, 6),
            ("binary_format_major_version", 5, 2),
            ("binary_format_minor_version", 5, 0),
        ];
        for (name, kind, number) in numbers {
            put(&mut bytes, &json!(name));
            // 6 is a number of four bytes, 5 one of two.
            let size = if kind == 6 { 4 } else { 2 };
            bytes.push((kind << 5) + size);
            bytes.extend(&number.to_be_bytes()[4 - usize::from(size)..]);
        }
        put(&mut bytes, &json!("build_epoch"));
        bytes.extend([1, 2, 0]);
        put(&mut bytes, &json!("database_type"));
        put(&mut bytes, &json!(self.kind));
        put(&mut bytes, &json!("languages"));
        bytes.extend([0, 4]);
        put(&mut bytes, &json!("description"));
        bytes.push(0b1110_0000);
        bytes
    }

    fn in_file(&self) -> File {
        File::of(&self.bytes())
    }
}

/// One value: a string, or a map of such.
fn put(bytes: &mut Vec<u8>, value: &Value) {
    let (kind, size) = match value {
        Value::String(text) => (2, text.len()),
        Value::Object(map) => (7, map.len()),
        other => panic!("{other}"),
    };
    match size {
        0..29 => bytes.push((kind << 5) + u8::try_from(size).unwrap()),
        29..285 => bytes.extend([(kind << 5) + 29, u8::try_from(size - 29).unwrap()]),
        _ => {
            bytes.push((kind << 5) + 30);
            bytes.extend(u16::try_from(size - 285).unwrap().to_be_bytes());
        }
    }
    match value {
        Value::String(text) => bytes.extend(text.as_bytes()),
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            put(bytes, &json!(name));
            put(bytes, value);
        }),
        _ => {}
    }
}

pub(crate) struct File {
    pub(crate) path: PathBuf,
    _dir: TempDir,
}

impl File {
    fn of(bytes: &[u8]) -> Self {
        let dir = temporary_directory();
        let path = dir.path().join("places.mmdb");
        std::fs::write(&path, bytes).unwrap();
        Self { path, _dir: dir }
    }

    /// Behind a proxy, so that browsers come from wherever a test says.
    async fn service(&self) -> Service {
        let service = Service::builder().with("PLACES_FILE", self.path.display());
        service.with("TRUSTED_PROXIES", "127.0.0.0/8").start().await
    }
}

fn china() -> Value {
    json!({ "iso_code": "CN", "names": { "en": "China", "zh-CN": "中国" } })
}

fn hangzhou() -> Value {
    json!({ "country": china(), "city": { "names": { "en": "Hangzhou", "zh-CN": "杭州" } } })
}

/// With 203.0.113.0/24 in Hangzhou.
pub(crate) fn file() -> File {
    cities().in_file()
}

fn cities() -> Database {
    let only = |name: &str| json!({ "names": { "en": name } });
    Database::new("GeoLite2-City")
        .with("::cb00:7100/120", &hangzhou()) // 203.0.113.0/24
        .with("::c633:6400/120", &json!({ "country": china() })) // 198.51.100.0/24
        .with(
            "::c000:200/120",
            &json!({ "country": only("Singapore"), "city": only("Singapore") }),
        ) // 192.0.2.0/24
        .with("::c612:0/112", &json!({ "country": { "iso_code": "AQ" } })) // 198.18.0.0/16
        .with("::c613:0/112", &json!({ "country": "nowhere" })) // 198.19.0.0/16
        .with("2001:db8:1::/48", &hangzhou())
        .with("::a00:0/104", &hangzhou()) // 10.0.0.0/8
        .with("::7f00:0/104", &hangzhou()) // 127.0.0.0/8
        .with("::6440:0/106", &hangzhou()) // 100.64.0.0/10
        .with("fd00::/8", &hangzhou())
}

/// What the phone that speaks `language` is told of a browser at `address`.
async fn place(service: &Service, address: &str, language: &str) -> Value {
    let from = |request: RequestBuilder| request.header("x-forwarded-for", address);
    let start = service.post("/scenes", &json!({ "code_challenge": s256(VERIFIER) }));
    let started = Reply::to(from(start)).await;
    assert_eq!(started.status, 201, "{}", started.text());
    let scene = started.json()["scene"].as_str().unwrap().to_owned();
    let scan = json!({ "code": service.wx_code("alice").await, "entry_scene": 1047 });
    let scan = service.post(&format!("/scenes/{scene}/scan"), &scan);
    let scanned = Reply::to(scan.header("accept-language", language)).await.ok();
    assert_eq!(scanned["browser"]["ip"], address, "{scanned}");
    scanned["browser"].get("place").cloned().unwrap_or(Value::Null)
}

#[tokio::test]
async fn t01_the_phone_is_told_where_the_browser_is_in_its_own_language() {
    let file = cities().in_file();
    let service = file.service().await;
    for (address, zh, en) in [
        ("203.0.113.7", "中国 杭州", "Hangzhou, China"),
        ("2001:db8:1:2::3", "中国 杭州", "Hangzhou, China"),
        ("198.51.100.1", "中国", "China"),
        ("192.0.2.9", "Singapore", "Singapore"),
        ("198.18.1.1", "AQ", "AQ"),
    ] {
        assert_eq!(place(&service, address, "zh-CN").await, zh, "{address}");
        assert_eq!(place(&service, address, "en").await, en, "{address}");
    }
}

#[tokio::test]
async fn no_place_is_told_of_an_address_that_nobody_knows_or_that_is_in_use_everywhere() {
    let file = cities().in_file();
    let service = file.service().await;
    for address in [
        "8.8.8.8",
        "2001:db8:2::1",
        "198.19.0.1",
        "10.1.2.3",
        "100.64.0.1",
        "fd00::1",
    ] {
        assert_eq!(place(&service, address, "en").await, Value::Null, "{address}");
    }
    assert_eq!(place(&service, "127.0.0.1", "en").await, Value::Null);
    let without = Service::builder().with("TRUSTED_PROXIES", "127.0.0.0/8").start().await;
    assert_eq!(place(&without, "203.0.113.7", "en").await, Value::Null);
}

#[tokio::test]
async fn a_file_writes_nothing_on_the_confirm_screen_but_a_short_name() {
    let names = |name: &str| json!({ "names": { "en": name, "zh-CN": name } });
    let long = format!("\u{202e}Tap\r\nconfirm\u{200b} {}", "x".repeat(4_000));
    let file = Database::new("Own-City").with(
        "::cb00:7100/120",
        &json!({ "country": names("\u{200b} "), "city": names(&long) }),
    );
    let file = file.in_file();
    let service = file.service().await;
    let shown = place(&service, "203.0.113.7", "en").await;
    let expected = format!("Tapconfirm {}", "x".repeat(29));
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn a_file_that_is_no_database_of_places_stops_the_start_with_one_line() {
    let whole = cities().bytes();
    let networks = Database::new("GeoLite2-ASN").with(
        "::cb00:7100/120",
        &json!({ "autonomous_system_organization": "Example" }),
    );
    let files = [
        File::of(b""),
        File::of(b"203.0.113.0/24,Hangzhou\n"),
        File::of(&whole[..whole.len() / 2]),
        File::of(&whole[whole.len() / 2..]),
        networks.in_file(),
        Database::new("GeoLite2-City").in_file(),
    ];
    let dir = temporary_directory();
    let others = [
        dir.path().join("missing.mmdb"),
        dir.path().to_owned(),
        "/dev/zero".into(),
    ];
    for path in files.iter().map(|file| &file.path).chain(&others) {
        let service = Service::builder().with("PLACES_FILE", path.display()).rust_log("error");
        let (code, said) = service.refused().await;
        assert_eq!(code, 2, "{}: {said}", path.display());
        assert_eq!(said.lines().count(), 1, "{said}");
        let path = path.display().to_string();
        for word in [
            "SCANLOGIN_PLACES_FILE",
            &path,
            "can't be used",
            "such as GeoLite2-City.mmdb",
        ] {
            assert!(said.contains(word), "{word} is not in {said}");
        }
    }
}
