//! Whose request this is, by address: the connection's, unless a proxy that we trust says otherwise.

use std::iter;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use super::AppState;

pub(super) const X_FORWARDED_FOR: &str = "x-forwarded-for";
pub(super) const FORWARDED: &str = "forwarded";

/// Where proxies say whom they pass on. One of the two: a proxy that writes one passes on the other as the caller wrote it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// What nearly all proxies write.
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// The proxies whose word on the caller's address counts.
#[derive(Debug, Default)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    header: ForwardedHeader,
    warned_of_stranger: AtomicBool,
    warned_of_other: AtomicBool,
}

/// The browser's or phone's address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) ip: IpAddr,
}

/// The address at the other end of the connection; the listener puts it into each request.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectedTo(pub(super) IpAddr);

impl TrustedProxies {
    /// These networks, by this header of theirs.
    #[must_use]
    pub fn new(networks: Vec<IpNet>, header: ForwardedHeader) -> Self {
        Self {
            networks,
            header,
            warned_of_stranger: AtomicBool::new(false),
            warned_of_other: AtomicBool::new(false),
        }
    }

    /// Whom the trusted proxies name.
    pub(super) fn peer(&self, connected: IpAddr, headers: &HeaderMap) -> IpAddr {
        let connected = connected.to_canonical();
        if !self.trust(connected) {
            if headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(FORWARDED) {
                self.warn_if_near(connected);
            }
            return connected;
        }
        let from_the_last = |name| headers.get_all(name).iter().rev().map(HeaderValue::as_bytes);
        match self.header {
            ForwardedHeader::XForwardedFor => {
                self.warn_if_only(FORWARDED, X_FORWARDED_FOR, headers);
                let hops = from_the_last(X_FORWARDED_FOR).flat_map(|value| value.rsplit(|byte| *byte == b','));
                self.named(connected, hops.map(text))
            }
            ForwardedHeader::Forwarded => {
                self.warn_if_only(X_FORWARDED_FOR, FORWARDED, headers);
                let hops = from_the_last(FORWARDED).flat_map(elements_from_the_last);
                self.named(connected, hops.map(|element| for_parameter(text(element))))
            }
        }
    }

    /// The first of the hops, which come from the last to the first, that is not a trusted proxy: whatever stands before it, anybody can
    /// have written, so it is not even looked at.
    fn named<'a>(&self, connected: IpAddr, hops: impl Iterator<Item = &'a str>) -> IpAddr {
        let mut nearest = connected;
        for hop in hops {
            // What is no address was not written by a proxy of ours; the last one that was stands.
            let Some(ip) = address(hop) else { break };
            nearest = ip.to_canonical();
            if !self.trust(nearest) {
                break;
            }
        }
        nearest
    }

    /// Whether this is one of them.
    pub(super) fn trust(&self, ip: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&ip))
    }

    /// A proxy that nobody listed makes every browser look like itself: worth one line.
    fn warn_if_near(&self, ip: IpAddr) {
        let private = match ip {
            IpAddr::V4(v4) => v4.is_private() || v4.is_loopback(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local(),
        };
        if private && !self.warned_of_stranger.swap(true, Ordering::Relaxed) {
            tracing::warn!(%ip, "a forwarded address from a private peer is not believed; list the proxy in SCANLOGIN_TRUSTED_PROXIES");
        }
    }

    /// A proxy that writes the other header makes every browser look like itself.
    fn warn_if_only(&self, other: &'static str, ours: &'static str, headers: &HeaderMap) {
        let is_only = headers.contains_key(other) && !headers.contains_key(ours);
        if is_only && !self.warned_of_other.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a trusted proxy sends {other} and no {ours}, so it is not believed: name the one that it writes in SCANLOGIN_FORWARDED_HEADER"
            );
        }
    }
}

/// What is no text is no address either.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// The elements of a `Forwarded` field (RFC 7239 §4), which quoted strings may hide the commas of. Read from its end: the last ones are
/// the proxies', and a quote that the caller never closed must not swallow them.
fn elements_from_the_last(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut left = Some(value);
    iter::from_fn(move || {
        let value = left?;
        let mut is_quoted = false;
        let comma = value.iter().enumerate().rposition(|(at, byte)| {
            let before = value.get(..at).unwrap_or_default();
            is_quoted ^= *byte == b'"' && !is_escaped(before);
            *byte == b',' && !is_quoted
        });
        let (before, element) = match comma {
            Some(at) => (value.get(..at), value.get(at + 1..)),
            None => (None, Some(value)),
        };
        left = before;
        element
    })
}

/// Whether what stands behind these bytes is part of a quoted string whatever it is.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// What an element says of who sent the request; nothing, where it says nothing.
fn for_parameter(element: &str) -> &str {
    let mut pairs = outside_quotes(element, ';').filter_map(|pair| pair.split_once('='));
    let found = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    let value = found.map_or("", |(_, value)| value.trim());
    value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value)
}

/// The parts between separators that stand in no quoted string.
fn outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |c| {
        let separates = c == separator && !is_quoted;
        is_quoted ^= c == '"' && !is_escaped;
        is_escaped = is_quoted && c == '\\' && !is_escaped;
        separates
    })
}

/// An address, with a port or without.
fn address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || {
        hop.strip_prefix('[')?
            .strip_suffix(']')?
            .parse::<Ipv6Addr>()
            .ok()
            .map(IpAddr::V6)
    };
    hop.parse().ok().or_else(with_port).or_else(in_brackets)
}

impl FromRequestParts<AppState> for Peer {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Self::Rejection> {
        let connected = parts
            .extensions
            .get::<ConnectedTo>()
            .map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
        Ok(Self {
            ip: state.trusted_proxies.peer(connected, &parts.headers),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen_by(headers: &[(&'static str, &str)], connected: &str) -> String {
        let header = match headers.first() {
            Some((FORWARDED, _)) => ForwardedHeader::Forwarded,
            _ => ForwardedHeader::XForwardedFor,
        };
        let networks = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let proxies = TrustedProxies::new(networks, header);
        let mut sent = HeaderMap::new();
        for (name, value) in headers {
            sent.append(*name, value.parse().unwrap());
        }
        proxies.peer(connected.parse().unwrap(), &sent).to_string()
    }

    fn seen(forwarded: &[&str], connected: &str) -> String {
        let headers: Vec<_> = forwarded.iter().map(|value| (X_FORWARDED_FOR, *value)).collect();
        seen_by(&headers, connected)
    }

    #[test]
    fn t32_only_a_trusted_proxy_is_believed_and_only_as_far_as_proxies_go() {
        for (forwarded, connected, expected) in [
            (vec![], "203.0.113.9", "203.0.113.9"),
            (vec!["198.51.100.1"], "203.0.113.9", "203.0.113.9"),
            (vec!["198.51.100.1"], "10.0.0.1", "198.51.100.1"),
            (vec!["1.1.1.1, 198.51.100.1"], "10.0.0.1", "198.51.100.1"),
            (vec!["1.1.1.1, 198.51.100.1, 10.2.3.4"], "10.0.0.1", "198.51.100.1"),
            (vec!["1.1.1.1", "198.51.100.1, 10.2.3.4"], "10.0.0.1", "198.51.100.1"),
            (vec!["1.1.1.1, rubbish, 10.2.3.4"], "10.0.0.1", "10.2.3.4"),
            (vec![""], "10.0.0.1", "10.0.0.1"),
            (vec!["2001:db8::1"], "::1", "2001:db8::1"),
            (vec!["::ffff:198.51.100.1"], "::ffff:10.0.0.1", "198.51.100.1"),
            (vec!["198.51.100.1:4711, 10.2.3.4:80"], "10.0.0.1", "198.51.100.1"),
            (vec!["[2001:db8::1]:4711"], "10.0.0.1", "2001:db8::1"),
            (vec!["[2001:db8::1]"], "10.0.0.1", "2001:db8::1"),
            (vec!["198.51.100.1,"], "10.0.0.1", "10.0.0.1"),
            (vec!["1.1.1.1 198.51.100.1"], "10.0.0.1", "10.0.0.1"),
            (vec!["10.9.9.9, 10.2.3.4"], "10.0.0.1", "10.9.9.9"),
        ] {
            assert_eq!(seen(&forwarded, connected), expected, "{forwarded:?} from {connected}");
        }
    }

    #[test]
    fn a_proxy_may_say_it_as_rfc_7239_does() {
        for (forwarded, connected, expected) in [
            (vec!["for=198.51.100.1"], "10.0.0.1", "198.51.100.1"),
            (vec!["for=198.51.100.1"], "203.0.113.9", "203.0.113.9"),
            (
                vec!["For=198.51.100.1;proto=https;by=10.0.0.2"],
                "10.0.0.1",
                "198.51.100.1",
            ),
            (vec!["proto=https; for = 198.51.100.1"], "10.0.0.1", "198.51.100.1"),
            (
                vec!["for=1.1.1.1, for=198.51.100.1, for=10.2.3.4"],
                "10.0.0.1",
                "198.51.100.1",
            ),
            (vec!["for=1.1.1.1", "for=198.51.100.1"], "10.0.0.1", "198.51.100.1"),
            (vec!["for=\"[2001:db8::1]:4711\""], "10.0.0.1", "2001:db8::1"),
            (vec!["for=\"198.51.100.1:4711\""], "10.0.0.1", "198.51.100.1"),
            (vec!["for=1.1.1.1;host=\"a, for=9.9.9.9\""], "10.0.0.1", "1.1.1.1"),
            (
                vec!["for=9.9.9.9;host=\"a\\\", for=8.8.8.8\", for=1.1.1.1"],
                "10.0.0.1",
                "1.1.1.1",
            ),
            (vec!["for=unknown"], "10.0.0.1", "10.0.0.1"),
            (vec!["for=1.1.1.1, for=_hidden"], "10.0.0.1", "10.0.0.1"),
            (vec!["proto=https"], "10.0.0.1", "10.0.0.1"),
            (vec!["for=\"198.51.100.1"], "10.0.0.1", "10.0.0.1"),
            (vec![""], "10.0.0.1", "10.0.0.1"),
        ] {
            let headers: Vec<_> = forwarded.iter().map(|value| (FORWARDED, *value)).collect();
            assert_eq!(seen_by(&headers, connected), expected, "{forwarded:?} from {connected}");
        }
    }

    #[test]
    fn neither_an_open_quote_nor_bytes_that_are_no_text_hide_what_proxies_add() {
        for said in ["for=\"1.1.1.1", "for=\"a\\", "\"", "for=\u{e9}", "\u{ff}\", "] {
            let added = format!("{said}, for=198.51.100.1, for=\"10.2.3.4:80\";host=\"a\\\", b\"");
            assert_eq!(seen_by(&[(FORWARDED, &added)], "10.0.0.1"), "198.51.100.1", "{added}");
            let added = format!("{said}, 198.51.100.1, 10.2.3.4");
            assert_eq!(seen(&[&added], "10.0.0.1"), "198.51.100.1", "{added}");
        }
    }

    #[test]
    fn the_header_that_the_proxies_do_not_write_is_the_callers_and_changes_nothing() {
        for said in ["for=1.1.1.1", "for=198.51.100.1", "for=x", "proto=https", ""] {
            let both = [(X_FORWARDED_FOR, "198.51.100.1"), (FORWARDED, said)];
            assert_eq!(seen_by(&both, "10.0.0.1"), "198.51.100.1", "{said}");
        }
        for said in ["1.1.1.1", "198.51.100.1", "x", ""] {
            let both = [(FORWARDED, "for=198.51.100.1"), (X_FORWARDED_FOR, said)];
            assert_eq!(seen_by(&both, "10.0.0.1"), "198.51.100.1", "{said}");
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_left_of_the_nearest_stranger_changes_nothing(left in "[ -~]{0,80}", custom: bool) {
            let (name, value) = if custom {
                (X_FORWARDED_FOR, format!("{left}, 198.51.100.1, 10.2.3.4"))
            } else {
                (FORWARDED, format!("{left}, for=198.51.100.1, for=10.2.3.4"))
            };
            prop_assert_eq!(seen_by(&[(name, &value)], "10.0.0.1"), "198.51.100.1");
        }
    }
}
