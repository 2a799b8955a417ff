//! A log that nobody takes: whoever reads standard error is not whom the service works for.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::process::Process;
use crate::support::redis::free_addr;
use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::{Service, http_client};
use crate::support::{eventually, temporary_directory};

const PATIENCE: Duration = Duration::from_secs(30);
const DROPPED: &str = "scanlogin_log_lines_dropped_total";

async fn log_in(service: &Service) {
    let browser = Browser::start(service).await;
    let mut events = browser.events().await;
    events.next_is("waiting").await;
    let phone = Phone::that_scanned("alice", service, &browser.scene).await;
    events.next_is("scanned").await;
    phone.confirm(service, &browser.scene).await.ok();
    let confirmed = events.next_is("confirmed").await;
    let code = confirmed.data["code"].as_str().unwrap();
    Site::demo().redeem(service, code).await.ok();
}

#[tokio::test]
async fn logins_go_on_while_nobody_reads_the_log_and_lines_without_room_are_counted() {
    let mut service = Service::builder().rust_log("trace").start().await;
    service.log().stand_still();
    let until_dropped = async {
        while service.metric(DROPPED, "").await == 0.0 {
            for page in join_all((0..500).map(|_| service.get("/").send())).await {
                assert_eq!(page.expect("an answer").status(), 200);
            }
        }
        log_in(&service).await;
    };
    let went_on = timeout(PATIENCE, until_dropped).await;
    service.log().read_on();
    assert!(went_on.is_ok(), "somebody waits for who reads the log");

    let counted = service.metric(DROPPED, "").await;
    assert!(counted > 0.0, "{counted}");
    service.terminate();
    assert!(service.process.ended().await.success());
    // The last line of a good end, which came after all that were dropped.
    service.log().line_with(&["ended"]).await;
}

#[tokio::test]
async fn who_never_reads_the_log_again_does_not_hold_the_end_up_nor_is_a_word_of_it_on_standard_output() {
    let dir = temporary_directory();
    let output = dir.path().join("output");
    let mut service = Service::builder().rust_log("trace").output(&output).start().await;
    log_in(&service).await;
    service.log().stand_still();
    let until_dropped = async {
        while service.metric(DROPPED, "").await == 0.0 {
            join_all((0..500).map(|_| service.get("/").send())).await;
        }
    };
    timeout(PATIENCE, until_dropped).await.expect("the log is full");
    service.terminate();
    assert!(service.process.ended().await.success());
    // The audit log's alone.
    let output = fs::read_to_string(&output).unwrap();
    assert_eq!(output.lines().count(), 3, "{output}");
    for line in output.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

#[tokio::test]
async fn a_log_that_takes_nothing_stops_nothing_and_its_lines_are_counted() {
    let (public, ops) = (free_addr(), free_addr());
    let mut command = Service::builder()
        .with("LISTEN", public)
        .with("OPS_LISTEN", ops)
        .command()
        .await;
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .expect("a device that is full");
    let _process = Process::start_with_log_to(&mut command, Stdio::from(full));
    let http = http_client();
    eventually("it is ready", || async {
        let ready = http.get(format!("http://{ops}/readyz")).send().await;
        ready.ok().filter(|ready| ready.status().is_success())
    })
    .await;
    for _ in 0..20 {
        let wanted = json!({ "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM" });
        let started = http.post(format!("http://{public}/scenes")).json(&wanted).send().await;
        assert_eq!(started.expect("an answer").status(), 201);
    }
    // They are written behind the back of whoever is answered.
    eventually("each line is counted", || async {
        (dropped(&http, ops).await >= 20.0).then_some(())
    })
    .await;
}

async fn dropped(http: &Client, ops: SocketAddr) -> f64 {
    let metrics = http.get(format!("http://{ops}/metrics")).send().await.expect("metrics");
    let text = metrics.text().await.expect("text");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(DROPPED))
        .expect("the metric");
    line.trim().parse().expect("a number")
}
