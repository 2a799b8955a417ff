//! What comes over a connection that no HTTP library would send so: broken, endless, or very slow.

use std::os::fd::AsFd;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::Value;
use socket2::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep, timeout};

use crate::support::eventually;
use crate::support::roles::{Browser, Phone};
use crate::support::service::Service;

/// Sends these bytes and reads until the service closes.
async fn raw(service: &Service, bytes: &[u8]) -> String {
    let mut stream = connect(service).await;
    stream.write_all(bytes).await.unwrap();
    rest(&mut stream).await
}

async fn connect(service: &Service) -> TcpStream {
    TcpStream::connect(service.base.strip_prefix("http://").unwrap())
        .await
        .unwrap()
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    let _may_be_reset = read.expect("the service closes");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_body_that_turns_out_too_large_is_refused() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    let alice = Phone::that_scanned("alice", &service, &browser.scene).await;
    for (call, chunks, word) in [
        ("POST /scenes/S/confirm", 20, "\"body_too_large\""),
        ("PUT /scenes/S/avatar", 70, "\"body_too_large\""),
        ("POST /token", 20, "\"invalid_request\""),
    ] {
        let chunk = "x".repeat(1024);
        let line = call.replace("/S/", &format!("/{}/", browser.scene));
        let head = format!(
            "{line} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer {}\r\n\
             transfer-encoding: chunked\r\nconnection: close\r\n\r\n",
            alice.token
        );
        let body = format!("400\r\n{chunk}\r\n").repeat(chunks);
        let answer = raw(&service, format!("{head}{body}0\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{call}: {answer}");
        assert!(answer.contains(word), "{call}: {answer}");
    }
    alice.confirm(&service, &browser.scene).await.ok();
}

#[tokio::test]
async fn a_caller_in_the_middle_of_a_body_that_is_too_large_still_sees_the_answer() {
    let service = Service::start().await;
    let mut stream = connect(&service).await;
    let head = "POST /scenes HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 102400\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for tenth in 0..10 {
        let sent = stream.write_all(&[b' '; 10_240]).await;
        assert!(sent.is_ok(), "cut off after {tenth} tenths: {sent:?}");
        // As over a line that is not of the fastest.
        sleep(Duration::from_millis(50)).await;
    }
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn what_is_hardly_http_is_refused_and_breaks_nothing() {
    let service = Service::start().await;
    let long = "a".repeat(20_000);
    for (request, status) in [
        ("GARBAGE\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\nbroken header\r\n\r\n".to_owned(), "400"),
        (format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"), "4"),
        (format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {long}\r\n\r\n"), "431"),
        (
            "POST /scenes HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n".to_owned(),
            "400",
        ),
    ] {
        let answer = raw(&service, request.as_bytes()).await;
        let head = &request[..30.min(request.len())];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head:?}: {answer}");
    }
    let odd = b"GET /scenes/x HTTP/1.1\r\nhost: x\r\nx-request-id: \xff\r\ncookie: \xff=\xfe; ;;=\r\n\
        authorization: Bearer \xff\r\nlast-event-id: \xff\r\nuser-agent: \xff\r\nconnection: close\r\n\r\n";
    assert!(raw(&service, odd).await.starts_with("HTTP/1.1 404 "));
    Browser::start(&service).await;
}

#[tokio::test]
async fn t29_a_head_of_very_many_headers_is_refused() {
    let service = Service::start().await;
    // The second within the bytes that a head may have.
    for (count, header) in [(101, "x-header: value"), (4_000, "a:"), (5_000, "x-header: value")] {
        let bomb = format!(
            "GET / HTTP/1.1\r\nhost: x\r\n{}\r\n",
            format!("{header}\r\n").repeat(count)
        );
        let answer = raw(&service, bomb.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{count}: {answer}");
    }
    let many = format!(
        "GET / HTTP/1.1\r\nhost: x\r\n{}connection: close\r\n\r\n",
        "x-header: value\r\n".repeat(90)
    );
    assert!(raw(&service, many.as_bytes()).await.starts_with("HTTP/1.1 200 "));
}

/// To one of two readers the body ends later than to the other, and a request is hidden in what is between.
#[tokio::test]
async fn t29_a_request_whose_length_is_said_in_two_ways_hides_no_other() {
    let service = Service::start().await;
    let hidden = "GET /scenes/hidden HTTP/1.1\r\nhost: x\r\nx-request-id: hidden\r\nconnection: close\r\n\r\n";
    let length = hidden.len() + 5;
    for (lengths, is_taken) in [
        ("content-length: 5\r\ncontent-length: 6".to_owned(), false),
        ("content-length: 5, 6".to_owned(), false),
        ("content-length: +5".to_owned(), false),
        // The chunks count, as the standard has it.
        (format!("content-length: {length}\r\ntransfer-encoding: chunked"), true),
        (format!("transfer-encoding: chunked\r\ncontent-length: {length}"), true),
        (
            format!("content-length: {length}\r\ntransfer-encoding: identity"),
            false,
        ),
        (
            format!("transfer-encoding: xchunked\r\ncontent-length: {length}"),
            false,
        ),
    ] {
        let request = format!("POST /scenes HTTP/1.1\r\nhost: x\r\n{lengths}\r\n\r\n0\r\n\r\n{hidden}");
        let answer = raw(&service, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{lengths}: {answer}");
        // Without a body, a scene has no challenge.
        assert_eq!(answer.contains("code_challenge"), is_taken, "{lengths}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{lengths}: {answer}");
        assert!(!answer.contains("hidden"), "{lengths}: {answer}");
    }
    assert!(
        raw(&service, hidden.as_bytes()).await.starts_with("HTTP/1.1 404 "),
        "a request by itself"
    );
}

#[tokio::test]
async fn headers_that_trickle_in_are_cut_after_ten_seconds() {
    let service = Service::start().await;
    let mut stream = connect(&service).await;
    let began = Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut heard = [0; 64];
    let length = loop {
        if let Ok(read) = timeout(Duration::from_millis(500), stream.read(&mut heard)).await {
            break read.unwrap();
        }
        stream.write_all(b"x").await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(15), "still open");
    };
    assert!(began.elapsed() > Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(heard[..length].starts_with(b"HTTP/1.1 408 "), "{heard:?}");
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up_after_ten_seconds() {
    let service = Service::start().await;
    let mut stream = connect(&service).await;
    let head = "POST /scenes HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let trickle = async {
        loop {
            sleep(Duration::from_millis(500)).await;
            if write.write_all(b" ").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut answer = vec![0; 4096];
    let began = Instant::now();
    let length = tokio::select! {
        length = read.read(&mut answer) => length.unwrap(),
        () = trickle => 0,
        () = sleep(Duration::from_secs(15)) => panic!("no answer"),
    };
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let problem: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(problem["code"], "request_timeout");
    assert!(began.elapsed() > Duration::from_secs(8));
}

/// A heartbeat of a stream and this make a minute.
const UNHEARD_MAX: Duration = Duration::from_secs(60 - 15);

#[tokio::test]
async fn a_caller_that_is_gone_without_a_word_is_given_up_within_a_minute() {
    let service = Service::builder().with("HEARTBEAT", 1).start().await;
    let browser = Browser::start(&service).await;
    let (scene, secret) = (&browser.scene, &browser.secret);
    let request = format!(
        "GET /events/{scene} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\nauthorization: Bearer {secret}\r\n\r\n"
    );
    let mut caller = connect(&service).await;
    caller.write_all(request.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains("event: waiting") {
        caller.read_buf(&mut heard).await.unwrap();
    }
    let open = async || service.metric("scanlogin_streams_open", "").await;
    assert!(open().await > 0.0);
    lose_all(&caller);
    let gone = Instant::now();
    while open().await > 0.0 {
        assert!(gone.elapsed() < UNHEARD_MAX + Duration::from_secs(10), "still open");
        sleep(Duration::from_millis(500)).await;
    }
    assert!(
        gone.elapsed() > UNHEARD_MAX / 2,
        "{:?}: a short gap ends no stream",
        gone.elapsed()
    );
}

/// Throws away what arrives for this socket before the system can acknowledge it, and says nothing: as if the machine were gone.
fn lose_all(socket: &TcpStream) {
    let nothing = libc::sock_filter {
        code: u16::try_from(libc::BPF_RET | libc::BPF_K).unwrap(),
        jt: 0,
        jf: 0,
        k: 0,
    };
    // A copy of the descriptor: the socket is the same.
    let copy = socket.as_fd().try_clone_to_owned().unwrap();
    Socket::from(copy).attach_filter(&[nothing]).unwrap();
}

#[tokio::test]
async fn each_connection_has_a_limit_on_how_long_nothing_is_acknowledged() {
    let service = Service::start().await;
    for address in [&service.base, &service.ops] {
        let caller = TcpStream::connect(address.strip_prefix("http://").unwrap())
            .await
            .unwrap();
        let far_end = eventually("the connection is accepted", || async { far_end(&service, &caller) }).await;
        let unheard = eventually("it has a limit", || async { far_end.tcp_user_timeout().unwrap() }).await;
        assert!(unheard <= UNHEARD_MAX, "{unheard:?}");
    }
}

/// The service's end of a connection.
fn far_end(service: &Service, caller: &TcpStream) -> Option<Socket> {
    let id = service.process.id();
    let process = pidfd_open(service.process.pid(), PidfdFlags::empty()).unwrap();
    let numbers = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let sockets = numbers.filter_map(|number| {
        let copy = pidfd_getfd(&process, number, PidfdGetfdFlags::empty());
        copy.ok().map(Socket::from)
    });
    let near = caller.local_addr().unwrap();
    sockets
        .filter(|socket| socket.peer_addr().is_ok_and(|peer| peer.as_socket() == Some(near)))
        .last()
}
