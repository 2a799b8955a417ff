//! What a guarded Redis asks for: TLS, and users that may do no more than they must.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::cli::OPERATOR;
use super::shape::Topology;
use super::temporary_directory;

/// The document that tells operators which rights the service needs; what is used here is read from there.
const DOCUMENT: &str = include_str!("../../docs/redis.md");

/// The password of each user but the operator.
const PASSWORD: &str = "open-sesame";

/// Certificates and users. The files are gone with it.
#[derive(Debug)]
pub(crate) struct Guard {
    dir: TempDir,
    /// The document's examples of what the service may do.
    service: Vec<&'static str>,
}

impl Guard {
    pub(crate) fn new(topology: Topology) -> Self {
        let dir = temporary_directory();
        certify(dir.path(), "IP:127.0.0.1");
        let more = (topology == Topology::Cluster).then_some("SERVICE IN A CLUSTER");
        let service = std::iter::once("SERVICE").chain(more).collect();
        Self { dir, service }
    }

    /// The commands that the service may use.
    pub(crate) fn commands(&self) -> Vec<String> {
        let rules = user(&self.service);
        let commands = rules.split(' ').filter_map(|rule| rule.strip_prefix('+'));
        commands.map(str::to_owned).collect()
    }

    /// Whom to trust.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The service's part of the URL.
    pub(crate) fn credentials() -> String {
        format!("scanlogin:{PASSWORD}@")
    }

    /// What a client of the sentinels has to say.
    pub(crate) fn sentinel_password() -> &'static str {
        PASSWORD
    }

    /// What each server is started with: the lines of a configuration, without their values' quotes.
    pub(crate) fn server_lines(&self, tls_port: u16) -> Vec<String> {
        let mut lines = self.tls_lines(tls_port);
        let masters = [("masteruser", "replica"), ("masterauth", PASSWORD)];
        lines.extend(masters.map(|(name, value)| format!("{name} {value}")));
        lines.push("user default off".to_owned());
        lines.push(format!("user {OPERATOR} on >{OPERATOR} ~* &* +@all"));
        lines.push(user(&["REPLICA"]));
        lines.push(user(&["SENTINEL"]));
        lines.push(user(&self.service));
        lines
    }

    /// What each sentinel is started with.
    pub(crate) fn sentinel_lines(&self, tls_port: u16, service: &str) -> Vec<String> {
        let mut lines = self.tls_lines(tls_port);
        lines.push(format!("user {OPERATOR} on >{OPERATOR} ~* &* +@all"));
        lines.push(user(&["CLIENT OF SENTINELS"]));
        lines.extend(
            [
                ("auth-user", format!("{service} sentinel")),
                ("auth-pass", format!("{service} {PASSWORD}")),
                ("sentinel-user", OPERATOR.to_owned()),
                ("sentinel-pass", OPERATOR.to_owned()),
            ]
            .map(|(name, value)| format!("sentinel {name} {value}")),
        );
        lines
    }

    fn tls_lines(&self, port: u16) -> Vec<String> {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        [
            ("tls-port", port.to_string()),
            ("tls-cert-file", file("server.pem")),
            ("tls-key-file", file("server.key")),
            ("tls-ca-cert-file", file("ca.pem")),
            ("tls-auth-clients", "no".to_owned()),
            ("tls-replication", "yes".to_owned()),
        ]
        .map(|(name, value)| format!("{name} {value}"))
        .into()
    }
}

/// What the document's examples that begin with `# <whose>` say of one user, as the line of a configuration.
fn user(whose: &[&str]) -> String {
    let examples = whose.iter().flat_map(|whose| {
        let (_, example) = DOCUMENT.split_once(&format!("# {whose}\n")).expect("the example");
        example.lines().map_while(|line| line.strip_prefix("ACL SETUSER "))
    });
    let (names, rules): (Vec<_>, Vec<_>) = examples.filter_map(|rule| rule.split_once(' ')).unzip();
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    format!("user {} {}", names[0], rules.join(" ").replace("PASSWORD", PASSWORD))
}

/// Makes `ca.pem`, a server's certificate by it for `names`, and another authority's `other.pem`.
pub(crate) fn certify(dir: &Path, names: &str) {
    let openssl = |words: &str| {
        let output = Command::new("openssl")
            .args(words.split_whitespace())
            .current_dir(dir)
            .output();
        let output = output.expect("openssl is not installed: `apt-get install openssl`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for name in ["ca", "other"] {
        openssl(&format!(
            "req -x509 {key} -keyout {name}.key -out {name}.pem -subj /CN={name} -days 2"
        ));
    }
    openssl(&format!(
        "req {key} -keyout server.key -out server.csr -subj /CN=server -addext subjectAltName={names}"
    ));
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -out server.pem -days 2 -copy_extensions copy");
}
