//! `scanlogin healthcheck`, as a container engine runs it: what it says, and the status that it ends with.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use scanlogin::config::Cli;
use tokio::net::TcpListener;

use crate::support::eventually;
use crate::support::process::scanlogin;
use crate::support::redis::{RedisServer, free_addr};
use crate::support::service::Service;
use crate::support::stopwatch::Stopwatch;

/// Asks beside a service that was told to listen for its operators there.
fn asked(ops_listen: &str) -> Command {
    let mut command = scanlogin();
    command.arg("healthcheck").env("SCANLOGIN_OPS_LISTEN", ops_listen);
    command
}

async fn of(ops_listen: impl Into<String>) -> Output {
    let ops_listen = ops_listen.into();
    let asking = tokio::task::spawn_blocking(move || asked(&ops_listen).output());
    asking.await.unwrap().expect("the program starts")
}

fn ops(service: &Service) -> SocketAddr {
    service.ops.trim_start_matches("http://").parse().unwrap()
}

/// The one line of a replica that must not be sent anybody.
fn unhealthy(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(output.stdout, b"");
    let line = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

#[tokio::test]
async fn a_replica_that_serves_is_healthy_wherever_it_listens() {
    let service = Service::start().await;
    let ops = ops(&service);
    for ops_listen in [ops.to_string(), format!("0.0.0.0:{}", ops.port())] {
        let output = of(&ops_listen).await;
        assert_eq!(output.status.code(), Some(0), "{ops_listen}: {output:?}");
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said["status"], "ready");
    }
}

#[tokio::test]
async fn one_that_ends_is_not_while_it_still_serves() {
    let service = Service::builder().with("DRAIN_DELAY", 20).start().await;
    service.terminate();
    let said = eventually("it says that it is draining", || async {
        let output = of(ops(&service).to_string()).await;
        (output.status.code() != Some(0)).then(|| unhealthy(&output))
    });
    assert!(said.await.contains("answers 503: {\"status\":\"draining\""));
}

#[tokio::test]
async fn one_whose_redis_was_never_there_is_not_and_one_whose_redis_went_away_is() {
    let mut redis = RedisServer::start();
    let service = Service::builder().redis(&redis).start().await;
    redis.kill();
    eventually("it says that it is degraded", || async {
        let output = of(ops(&service).to_string()).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("degraded")
            .then_some(())
    })
    .await;
    let other = service.replica().start_unready().await;
    assert!(unhealthy(&of(ops(&other).to_string()).await).contains("answers 503: {\"status\":\"starting\""));
}

#[tokio::test]
async fn nothing_there_and_nobody_who_answers_are_told_by_the_setting() {
    let nowhere = of(free_addr().to_string()).await;
    assert!(unhealthy(&nowhere).contains("SCANLOGIN_OPS_LISTEN"), "{nowhere:?}");
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let asked = Stopwatch::start();
    let unanswered = of(deaf.local_addr().unwrap().to_string()).await;
    assert!(
        unhealthy(&unanswered).contains("SCANLOGIN_OPS_LISTEN"),
        "{unanswered:?}"
    );
    asked.took_less_than(Duration::from_secs(4));
}

#[test]
fn a_listener_on_all_addresses_is_asked_at_loopback() {
    for (listens, asked) in [
        ("0.0.0.0:9090", "127.0.0.1:9090"),
        ("[::]:9090", "[::1]:9090"),
        ("192.0.2.7:9090", "192.0.2.7:9090"),
    ] {
        let (cli, _) = Cli::read(["scanlogin", "--ops-listen", listens].map(OsString::from)).unwrap();
        assert_eq!(cli.settings.own_ops_address().unwrap().to_string(), asked);
    }
}

#[tokio::test]
async fn a_port_that_is_left_open_can_not_be_asked_at() {
    let output = of("127.0.0.1:0").await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(
        line.contains("SCANLOGIN_OPS_LISTEN") && line.lines().count() == 1,
        "{line}"
    );
}
