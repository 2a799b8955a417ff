//! Names in the environment that are nearly a setting, and those that Kubernetes puts there.

use super::{CANARY, Case, check, quiet};
use crate::support::process::Process;

const MISSPELT: &[Case] = &[
    Case(
        &[],
        &[("SCANLOGIN_REDIS_ULR", CANARY)],
        "",
        &["\"SCANLOGIN_REDIS_ULR\" is no setting", "\"SCANLOGIN_REDIS_URL\"?"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_TRUSTED_PROXY", "10.0.0.0/8")],
        "",
        &[
            "\"SCANLOGIN_TRUSTED_PROXY\" is no setting",
            "\"SCANLOGIN_TRUSTED_PROXIES\"?",
        ],
    ),
    Case(
        &["simulate"],
        &[("SCANLOGIN_SIMULATE_SERVICE_URI", "http://127.0.0.1:1")],
        "",
        &[
            "\"SCANLOGIN_SIMULATE_SERVICE_URI\" is no setting",
            "\"SCANLOGIN_SIMULATE_SERVICE_URL\"?",
        ],
    ),
    Case(
        &[],
        &[("SCANLOGIN_", "")],
        "",
        &["\"SCANLOGIN_\" is no setting", "`scanlogin --help`"],
    ),
    Case(
        &[],
        &[("SCANLOGIN_REDIS_PORT_NUMBER", "6379")],
        "",
        &["\"SCANLOGIN_REDIS_PORT_NUMBER\" is no setting"],
    ),
    // The environment is looked at first: what is missing may be what is misspelt.
    Case(
        &[],
        &[
            ("SCANLOGIN_WECHAT_APPID", "wx0123456789abcdef"),
            ("SCANLOGIN_WECHAT_SECRETS", CANARY),
        ],
        "",
        &[
            "\"SCANLOGIN_WECHAT_SECRETS\" is no setting",
            "\"SCANLOGIN_WECHAT_SECRET\"?",
        ],
    ),
];

#[test]
fn a_misspelt_variable_stops_the_start_and_the_nearest_setting_is_named() {
    check(MISSPELT);
}

#[tokio::test]
async fn what_kubernetes_says_of_its_services_stops_no_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = quiet(&dir, "");
    command.env("RUST_LOG", "info").envs([
        ("SCANLOGIN_SERVICE_HOST", "10.0.0.1"),
        ("SCANLOGIN_SERVICE_PORT", "80"),
        ("SCANLOGIN_SERVICE_PORT_HTTP", "80"),
        ("SCANLOGIN_PORT", "tcp://10.0.0.1:80"),
        ("SCANLOGIN_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("SCANLOGIN_PORT_80_TCP_PROTO", "tcp"),
        ("SCANLOGIN_PORT_80_TCP_PORT", "80"),
        ("SCANLOGIN_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("SCANLOGIN_REDIS_SERVICE_HOST", "10.0.0.2"),
        ("SCANLOGIN_REDIS_SERVICE_PORT", "6379"),
        ("SCANLOGIN_REDIS_PORT", "tcp://10.0.0.2:6379"),
        ("SCANLOGIN_REDIS_PORT_6379_TCP_ADDR", "10.0.0.2"),
        ("SCANLOGIN_DNS_PORT_53_UDP", "udp://10.0.0.3:53"),
    ]);
    let process = Process::start(&mut command);
    process.log().line_with(&["listening"]).await;
}
