//! An event stream, read as a browser reads it (WHATWG HTML §9.2.6).

use std::time::Duration;

use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

use super::canaries;

/// One event, or a block of the stream that dispatches none.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_field_names, reason = "the stream's own names of its fields")]
pub(crate) struct Event {
    pub(crate) event: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

/// An open stream.
#[derive(Debug)]
pub(crate) struct EventStream {
    pub(crate) response: Response,
    unread: String,
    /// The newest `retry:`, in milliseconds.
    pub(crate) retry: Option<u64>,
    /// The newest `id:`: what a browser sends as `Last-Event-ID`.
    pub(crate) last_event_id: String,
    /// Comment lines so far.
    pub(crate) comments: usize,
}

impl EventStream {
    pub(crate) fn new(response: Response) -> Self {
        Self {
            response,
            unread: String::new(),
            retry: None,
            last_event_id: String::new(),
            comments: 0,
        }
    }

    /// The next event; `None` at the stream's end. Something must come within ten seconds.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.block_in_time().await?;
            if let Some(event) = self.take_in(&block) {
                return Some(event);
            }
        }
    }

    /// As [`Self::next`], however long it takes. May be dropped and called again.
    pub(crate) async fn read(&mut self) -> Option<Event> {
        loop {
            let block = self.next_block().await?;
            if let Some(event) = self.take_in(&block) {
                return Some(event);
            }
        }
    }

    /// The next event, which is there and of this name.
    pub(crate) async fn next_is(&mut self, event: &str) -> Event {
        let next = self
            .next()
            .await
            .unwrap_or_else(|| panic!("the stream ended before {event}"));
        assert_eq!(next.event, event, "{next:?}");
        next
    }

    /// Asserts that the stream ends without a further event.
    pub(crate) async fn ends(mut self) -> Self {
        let next = self.next().await;
        assert!(next.is_none(), "the stream should have ended: {next:?}");
        self
    }

    /// Reads until a heartbeat has come.
    pub(crate) async fn heartbeat(&mut self) {
        let before = self.comments;
        while self.comments == before {
            let block = self.block_in_time().await.expect("the stream goes on");
            let event = self.take_in(&block);
            assert!(event.is_none(), "an event instead of a heartbeat: {event:?}");
        }
    }

    async fn block_in_time(&mut self) -> Option<String> {
        timeout(Duration::from_secs(10), self.next_block())
            .await
            .expect("something on the stream within ten seconds")
    }

    /// What lies between two empty lines; `None` at the end.
    async fn next_block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.unread = rest;
                return Some(block);
            }
            // A connection cut off ends the stream for a browser just as well.
            let chunk = self.response.chunk().await.ok().flatten()?;
            self.unread.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    fn take_in(&mut self, block: &str) -> Option<Event> {
        let (mut event, mut data) = (String::new(), None::<String>);
        for line in block.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => self.comments += 1,
                "event" => value.clone_into(&mut event),
                "id" => value.clone_into(&mut self.last_event_id),
                "retry" => self.retry = Some(value.parse().expect("whole milliseconds")),
                "data" => {
                    assert!(data.is_none(), "data is one line: {block}");
                    data = Some(value.to_owned());
                }
                _ => panic!("no field of an event stream: {line}"),
            }
        }
        let data = serde_json::from_str(&data?).expect("JSON");
        canaries::learn_from(&data);
        Some(Event {
            event,
            id: self.last_event_id.clone(),
            data,
        })
    }
}
