//! Which trace something belongs to: W3C Trace Context (<https://www.w3.org/TR/trace-context/>), by its header `traceparent`.
//!
//! `tracestate` is neither read nor passed on, as the recommendation allows: it is of any length, and what stands in it is between
//! the caller and whoever made its tracing.

use std::fmt;

use rand::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The header.
pub const TRACEPARENT: &str = "traceparent";

/// The length of version 00, and of what each later version begins with.
const LEN: usize = 55;

/// A span of somebody's, as others are told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    trace_id: u128,
    span_id: u64,
    is_sampled: bool,
}

/// The name of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

impl Traceparent {
    /// The span of these names; `None` if one of them is all zeros, which names nothing.
    #[must_use]
    pub fn of(trace_id: [u8; 16], span_id: [u8; 8], is_sampled: bool) -> Option<Self> {
        let (trace_id, span_id) = (u128::from_be_bytes(trace_id), u64::from_be_bytes(span_id));
        (trace_id != 0 && span_id != 0).then_some(Self {
            trace_id,
            span_id,
            is_sampled,
        })
    }

    /// A span of a new trace, which nobody records.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        loop {
            let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
            rng.fill_bytes(&mut trace_id);
            rng.fill_bytes(&mut span_id);
            if let Some(drawn) = Self::of(trace_id, span_id, false) {
                return drawn;
            }
        }
    }

    /// Reads the header's value (§3.2); `None` when it names no span. A later version is read as far as it is known (§4.3).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (known, more) = text.split_at_checked(LEN)?;
        let mut parts = known.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = hex(parts.next()?, 2)?;
        let has_form = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more.starts_with('-'),
        };
        let parsed = Self::of(trace_id.to_be_bytes(), span_id.to_be_bytes(), flags & 1 == 1);
        parsed.filter(|_| has_form)
    }

    /// Its trace.
    #[must_use]
    pub fn trace_id(self) -> TraceId {
        TraceId(self.trace_id)
    }

    /// Its trace's name, in bytes.
    #[must_use]
    pub fn trace_bytes(self) -> [u8; 16] {
        self.trace_id.to_be_bytes()
    }

    /// Its own name, in bytes.
    #[must_use]
    pub fn span_bytes(self) -> [u8; 8] {
        self.span_id.to_be_bytes()
    }

    /// Whether whoever began the trace has it recorded.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.is_sampled
    }
}

/// A number of so many lower case digits: to a parser of numbers others would be one too.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == digits && text.bytes().all(is_hex))
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace_id, flags) = (self.trace_id(), u8::from(self.is_sampled));
        write!(f, "00-{trace_id}-{:016x}-{flags:02x}", self.span_id)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for Traceparent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// For a field that may be missing. What can't be read is none too: no login fails because of its trace.
///
/// # Errors
/// When the whole can't be read.
pub fn if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Traceparent>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_str().and_then(Traceparent::parse))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_traceparent_is_written_as_it_is_read() {
        for flags in ["00", "01"] {
            let text = format!("00-{TRACE}-{SPAN}-{flags}");
            let parsed = Traceparent::parse(&text).unwrap();
            assert_eq!(parsed.to_string(), text);
            assert_eq!(parsed.trace_id().to_string(), TRACE);
            assert_eq!(parsed.is_sampled(), flags == "01");
            assert_eq!(
                Traceparent::of(parsed.trace_bytes(), parsed.span_bytes(), parsed.is_sampled()),
                Some(parsed)
            );
        }
    }

    #[test]
    fn of_a_later_version_and_of_flags_only_what_is_known_is_taken() {
        let ours = Traceparent::parse(&format!("00-{TRACE}-{SPAN}-01"));
        assert!(ours.is_some());
        for text in [
            format!("00-{TRACE}-{SPAN}-ff"),
            format!("01-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-03"),
            format!("fe-{TRACE}-{SPAN}-01-what the future brings"),
            format!("01-{TRACE}-{SPAN}-01-"),
        ] {
            assert_eq!(Traceparent::parse(&text), ours, "{text}");
        }
    }

    #[test]
    fn what_names_no_span_is_none() {
        let upper = TRACE.to_uppercase();
        for wrong in [
            String::new(),
            "-".repeat(LEN),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-01 "),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-001"),
            format!("01-{TRACE}-{SPAN}-01x"),
            format!("0X-{TRACE}-{SPAN}-01"),
            format!("00-{upper}-{SPAN}-01"),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}0-{}-01", &SPAN[1..]),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}é-{SPAN}-01", &TRACE[2..]),
            format!("00-{TRACE}-{SPAN}-0\u{e9}"),
            format!("00_{TRACE}_{SPAN}_01"),
        ] {
            assert_eq!(Traceparent::parse(&wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn of_random_ones_each_names_a_trace_of_its_own_that_nobody_records() {
        let mut rng = StdRng::seed_from_u64(1);
        let (one, other) = (Traceparent::random(&mut rng), Traceparent::random(&mut rng));
        assert_ne!(one.trace_id(), other.trace_id());
        assert_eq!(Traceparent::parse(&one.to_string()), Some(one));
        assert!(!one.is_sampled());
    }
}
