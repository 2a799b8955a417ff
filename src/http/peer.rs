//! Whose request this is, by address: the connection's, unless a proxy that we trust says otherwise.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use ipnet::IpNet;

use super::AppState;

/// The proxies whose `X-Forwarded-For` counts.
#[derive(Debug, Default)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    warned: AtomicBool,
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
    /// These networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self {
            networks,
            warned: AtomicBool::new(false),
        }
    }

    /// The rightmost hop that is not a trusted proxy: whatever stands left of it, anybody can have written.
    fn peer(&self, connected: IpAddr, headers: &HeaderMap) -> IpAddr {
        let connected = connected.to_canonical();
        if !self.trust(connected) {
            self.warn_if_forwarded(connected, headers);
            return connected;
        }
        let chain = headers.get_all("x-forwarded-for").iter().rev();
        let hops = chain.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
        let mut nearest = connected;
        for hop in hops {
            // What is no address was not written by a proxy of ours; the last one that was stands.
            let Ok(ip) = hop.trim().parse::<IpAddr>() else { break };
            nearest = ip.to_canonical();
            if !self.trust(nearest) {
                break;
            }
        }
        nearest
    }

    fn trust(&self, ip: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&ip))
    }

    /// A proxy that nobody listed makes every browser look like itself: worth one line.
    fn warn_if_forwarded(&self, ip: IpAddr, headers: &HeaderMap) {
        let private = match ip {
            IpAddr::V4(v4) => v4.is_private() || v4.is_loopback(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local(),
        };
        if private && headers.contains_key("x-forwarded-for") && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(%ip, "a forwarded address from a private peer is not believed; list the proxy in SCANLOGIN_TRUSTED_PROXIES");
        }
    }
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
    use super::*;

    fn seen(forwarded: &[&str], connected: &str) -> String {
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        proxies.peer(connected.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_as_far_as_proxies_go() {
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
        ] {
            assert_eq!(seen(&forwarded, connected), expected, "{forwarded:?} from {connected}");
        }
    }
}
