//! What a guarded Redis asks for: users that may do no more than they must, and TLS.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use tempfile::TempDir;

use super::cli::OPERATOR;
use super::shape::{Security, Topology};
use super::temporary_directory;

/// The document that tells operators which rights the service needs; what is used here is read from there.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/redis.md");
    std::fs::read_to_string(path).expect("the document")
});

/// What the service is called there.
pub(crate) const SERVICE: &str = "scanlogin";

/// What the servers' replicas are called.
pub(crate) const REPLICA: &str = "replica";

/// The password of each user but the operator.
pub(crate) const PASSWORD: &str = "open-sesame";

/// Further ones of the service's users, here and at the sentinels: by its own a link tells one replica from the others.
pub(crate) const PASSWORDS: [&str; 3] = ["sesame-in-black", "sesame-in-white", "sesame-in-gold"];

/// Users and certificates. The files are gone with it.
#[derive(Debug)]
pub(crate) struct Guard {
    /// Where the certificates are, if there are any.
    dir: Option<TempDir>,
    /// The document's examples of what the service may do.
    service: Vec<&'static str>,
}

impl Guard {
    /// None where nobody is asked anything.
    pub(crate) fn new(topology: Topology, security: Security) -> Option<Self> {
        let dir = match security {
            Security::Plain => return None,
            Security::Acl => None,
            Security::AclTls => Some(temporary_directory()),
        };
        if let Some(dir) = &dir {
            certify(dir.path(), "IP:127.0.0.1");
        }
        let more = (topology == Topology::Cluster).then_some("SERVICE IN A CLUSTER");
        let service = std::iter::once("SERVICE").chain(more).collect();
        Some(Self { dir, service })
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.dir.is_some()
    }

    /// The commands that the service may use.
    pub(crate) fn commands(&self) -> Vec<String> {
        commands_of(&self.service)
    }

    /// The same of the sentinels' commands.
    pub(crate) fn sentinel_commands() -> Vec<String> {
        commands_of(&["CLIENT OF SENTINELS"])
    }

    /// Whom to trust.
    pub(crate) fn ca_file(&self) -> Option<PathBuf> {
        self.dir.as_ref().map(|dir| dir.path().join("ca.pem"))
    }

    /// What the service is told of servers of this kind, with one of its passwords.
    pub(crate) fn url(&self, password: &str, kind: &str, hosts: &str) -> String {
        let scheme = if self.has_tls() { "rediss" } else { "redis" };
        format!("{scheme}{kind}://{SERVICE}:{password}@{hosts}")
    }

    /// What each server is started with: the lines of a configuration, without their values' quotes.
    pub(crate) fn server_lines(&self, tls_port: u16) -> Vec<String> {
        let mut lines = self.tls_lines(tls_port);
        let masters = [("masteruser", REPLICA), ("masterauth", PASSWORD)];
        lines.extend(masters.map(|(name, value)| format!("{name} {value}")));
        lines.push("user default off".to_owned());
        lines.push(user(&["REPLICA"]));
        lines.push(user(&["SENTINEL"]));
        lines.push(with_all_passwords(&user(&self.service)));
        lines
    }

    /// What each sentinel is started with.
    pub(crate) fn sentinel_lines(&self, tls_port: u16, service: &str) -> Vec<String> {
        let mut lines = self.tls_lines(tls_port);
        lines.push(with_all_passwords(&user(&["CLIENT OF SENTINELS"])));
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
        let Some(dir) = &self.dir else { return Vec::new() };
        let file = |name: &str| dir.path().join(name).display().to_string();
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

fn with_all_passwords(user: &str) -> String {
    let mut user = user.to_owned();
    for password in PASSWORDS {
        user.push_str(" >");
        user.push_str(password);
    }
    user
}

fn commands_of(whose: &[&str]) -> Vec<String> {
    let rules = user(whose);
    let commands = rules.split(' ').filter_map(|rule| rule.strip_prefix('+'));
    commands.map(str::to_owned).collect()
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
