//! How long a connection may do nothing. Time is paused, so each test says to the second when it ends.

use axum::Extension;
use axum::body::Body;
use axum::routing::get;
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::*;

/// What the line holds that nobody has read yet.
const ROOM: usize = 1024;
const LONG: usize = 8 * ROOM;

/// Two events, the second a minute after the first.
async fn lasting() -> (Extension<Lasts>, Body) {
    let events = stream::unfold(0, async |told| {
        sleep(Duration::from_mins(told)).await;
        (told < 2).then(|| (Ok::<_, Infallible>(format!("event {told}")), told + 1))
    });
    (Extension(Lasts), Body::from_stream(Box::pin(events)))
}

/// One end of a connection; the other is served.
struct Caller {
    line: DuplexStream,
    served: JoinHandle<()>,
    closing: CancellationToken,
}

impl Caller {
    fn connect() -> Self {
        let silent = || async { Body::from_stream(stream::pending::<Result<Vec<u8>, Infallible>>()) };
        let router = Router::new()
            .route("/short", get(|| async { "short" }))
            .route("/long", get(|| async { "x".repeat(LONG) }))
            .route("/silent", get(silent))
            .route("/lasting/silent", get(async move || (Extension(Lasts), silent().await)))
            .route("/lasting/long", get(async || (Extension(Lasts), "x".repeat(LONG))))
            .route("/lasting", get(lasting));
        let (line, far) = duplex(ROOM);
        let closing = CancellationToken::new();
        let talk = talk(far, [127, 0, 0, 1].into(), router, closing.clone());
        let served = TaskTracker::new().spawn(talk);
        Self { line, served, closing }
    }

    async fn ask(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        self.line.write_all(request.as_bytes()).await.unwrap();
    }

    /// All until the connection's end.
    async fn read_to_the_end(mut self) -> String {
        let mut answer = String::new();
        self.line.read_to_string(&mut answer).await.unwrap();
        self.served.await.unwrap();
        answer
    }

    async fn ask_and_read(&mut self) {
        self.ask("/short").await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"short") {
            assert_ne!(self.line.read_buf(&mut answer).await.unwrap(), 0, "closed");
        }
    }

    /// Waits for the end, and answers after how long it came.
    async fn closed_after(self) -> Duration {
        let began = Instant::now();
        let served = timeout(Duration::from_hours(1), self.served).await;
        served.expect("an end").unwrap();
        began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_on_its_way_when_all_is_closing_is_answered() {
    let mut caller = Caller::connect();
    caller.closing.cancel();
    let late = Duration::from_millis(400);
    sleep(late).await;
    caller.ask_and_read().await;
    assert_eq!(late + caller.closed_after().await, FIRST_WORD);

    let silent = Caller::connect();
    silent.closing.cancel();
    assert_eq!(silent.closed_after().await, FIRST_WORD);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_outlives_the_proxys_patience_and_not_much_more() {
    let mut caller = Caller::connect();
    for _ in 0..3 {
        caller.ask_and_read().await;
        sleep(Duration::from_secs(99)).await;
    }
    caller.ask_and_read().await;
    assert_eq!(caller.closed_after().await, Duration::from_secs(100));
    assert_eq!(
        Caller::connect().closed_after().await,
        Duration::from_secs(100),
        "never used"
    );
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_end_is_cut_after_ten_seconds_also_on_a_kept_connection() {
    let mut caller = Caller::connect();
    caller.ask_and_read().await;
    sleep(Duration::from_mins(1)).await;
    caller.line.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    assert_eq!(caller.closed_after().await, Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_never_reads_its_answer_is_cut_off() {
    for path in ["/long", "/lasting/long"] {
        let mut caller = Caller::connect();
        caller.ask(path).await;
        assert_eq!(caller.closed_after().await, Duration::from_secs(30), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_reads_slowly_gets_all_of_it() {
    for path in ["/long", "/lasting/long"] {
        let mut caller = Caller::connect();
        caller.ask(path).await;
        let mut read = 0;
        while read < LONG {
            sleep(Duration::from_secs(29)).await;
            let length = caller.line.read(&mut [0; ROOM]).await.unwrap();
            assert_ne!(length, 0, "{path}: cut off after {read} bytes");
            read += length;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_has_nothing_to_say_lives_on() {
    for path in ["/silent", "/lasting/silent"] {
        let mut caller = Caller::connect();
        caller.ask(path).await;
        sleep(Duration::from_hours(1)).await;
        assert!(!caller.served.is_finished(), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_lasts_is_told_as_it_comes_and_ends_its_connection() {
    let mut caller = Caller::connect();
    caller.ask_and_read().await;
    caller.ask("/lasting").await;
    let mut bytes = vec![0; ROOM];
    let length = caller.line.read(&mut bytes).await.unwrap();
    let text = str::from_utf8(&bytes[..length]).unwrap();
    let (head, told) = text.split_once("\r\n\r\n").expect("a whole head");
    assert_eq!(told, "7\r\nevent 0\r\n", "at once, with the head");
    let head: Vec<&str> = head.lines().collect();
    assert_eq!(head[0], "HTTP/1.1 200 OK");
    for line in ["transfer-encoding: chunked", "connection: close"] {
        assert!(head.contains(&line), "{line}: {head:?}");
    }
    assert!(head.iter().any(|line| line.starts_with("date: ")), "{head:?}");
    let began = Instant::now();
    assert_eq!(caller.read_to_the_end().await, "7\r\nevent 1\r\n0\r\n\r\n");
    assert_eq!(began.elapsed(), Duration::from_mins(3));
}

#[tokio::test(start_paused = true)]
async fn who_knows_no_chunks_gets_none_and_who_asks_for_the_head_gets_that() {
    let mut old = Caller::connect();
    old.line.write_all(b"GET /lasting HTTP/1.0\r\n\r\n").await.unwrap();
    let answer = old.read_to_the_end().await;
    assert!(answer.ends_with("\r\n\r\nevent 0event 1"), "{answer}");
    assert!(!answer.contains("transfer-encoding"), "{answer}");

    let mut caller = Caller::connect();
    caller
        .line
        .write_all(b"HEAD /lasting HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    caller.ask_and_read().await;
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_or_talks_without_end_is_told_no_more() {
    let mut caller = Caller::connect();
    caller.ask("/lasting/silent").await;
    sleep(Duration::from_secs(1)).await;
    drop(caller.line);
    assert!(timeout(Duration::from_secs(1), caller.served).await.is_ok(), "hung up");

    let mut caller = Caller::connect();
    caller.ask("/lasting/silent").await;
    sleep(Duration::from_secs(1)).await;
    let talk = async { while caller.line.write_all(&[b'x'; ROOM]).await.is_ok() {} };
    assert!(timeout(Duration::from_secs(1), talk).await.is_ok(), "talks on");
}

/// All closes while an answer lasts: it comes to its own end.
#[tokio::test(start_paused = true)]
async fn an_answer_that_lasts_is_not_cut_when_all_is_closing() {
    let mut caller = Caller::connect();
    caller.ask("/lasting").await;
    sleep(Duration::from_secs(1)).await;
    caller.closing.cancel();
    assert!(caller.read_to_the_end().await.ends_with("event 1\r\n0\r\n\r\n"));

    let mut late = Caller::connect();
    late.closing.cancel();
    late.ask("/lasting").await;
    assert!(late.read_to_the_end().await.ends_with("event 1\r\n0\r\n\r\n"));
}
