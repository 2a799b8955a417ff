//! How long a connection may do nothing. Time is paused, so each test says to the second when it ends.

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
            .route("/silent", get(silent));
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
    let mut caller = Caller::connect();
    caller.ask("/long").await;
    assert_eq!(caller.closed_after().await, Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_reads_slowly_gets_all_of_it() {
    let mut caller = Caller::connect();
    caller.ask("/long").await;
    let mut read = 0;
    while read < LONG {
        sleep(Duration::from_secs(29)).await;
        let length = caller.line.read(&mut [0; ROOM]).await.unwrap();
        assert_ne!(length, 0, "cut off after {read} bytes");
        read += length;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_has_nothing_to_say_lives_on() {
    let mut caller = Caller::connect();
    caller.ask("/silent").await;
    sleep(Duration::from_hours(1)).await;
    assert!(!caller.served.is_finished());
}
