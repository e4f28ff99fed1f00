//! Who is asking: the one place that decides which address a request counts for.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::config::{self, ForwardedHeader, Network};

/// The client's address. An IPv4 client of an IPv6 socket is an IPv4 client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientAddress(pub(super) IpAddr);

impl ClientAddress {
    /// The address that a request came from.
    pub(super) fn of(parts: &Parts) -> Self {
        *parts.extensions.get::<Self>().expect("every router notes whom a request comes from")
    }
}

impl<S: Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts))
    }
}

/// Whose word about clients is taken.
#[derive(Debug)]
pub(super) struct Trust {
    proxies: Vec<Network>,
    header: ForwardedHeader,
}

impl Trust {
    pub(super) fn new(settings: &config::Web) -> Arc<Self> {
        Arc::new(Self { proxies: settings.trusted_proxies.clone(), header: settings.forwarded_header })
    }

    /// Whether this is a proxy of the operator's.
    pub(super) fn trusts(&self, ip: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(ip.to_canonical()))
    }

    /// The client's address, told from the connection's and the headers.
    ///
    /// Every proxy appends the address it was connected from, so the list is read from its end, and ends at the first
    /// address that is not a proxy of the operator's: whatever stands before it was written by that client. An entry that
    /// is no address (`unknown`, `_hidden`) ends it too: the request counts for the proxy that passed it on.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.trusts(client) {
            return client;
        }
        let (name, read): (HeaderName, fn(&str) -> Option<IpAddr>) = match self.header {
            ForwardedHeader::XForwardedFor => (HeaderName::from_static("x-forwarded-for"), node),
            ForwardedHeader::Forwarded => (header::FORWARDED, forwarded_for),
        };
        let values: Vec<&[u8]> = headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
        // RFC 9110 §5.3: several fields of one name are one list, in order.
        for hop in values.iter().rev().flat_map(|value| value.rsplit(|byte| *byte == b',')) {
            let Some(hop) = std::str::from_utf8(hop).ok().and_then(read) else { return client };
            client = hop.to_canonical();
            if !self.trusts(client) {
                return client;
            }
        }
        client
    }
}

/// Notes whom a request counts for, for every door behind.
pub(super) async fn note(State(trust): State<Arc<Trust>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.expect("the listener notes the peer on every request").0.ip();
    let client = ClientAddress(trust.client(peer, request.headers()));
    request.extensions_mut().insert(client);
    next.run(request).await
}

/// One element of `Forwarded` (RFC 7239 §4): `for=192.0.2.43;proto=https`, names in any case, values maybe in quotes.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    node(value.trim().trim_matches('"'))
}

/// An address, with or without a port (RFC 7239 §6; some proxies write one into `X-Forwarded-For` too).
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bracketed = || text.strip_prefix('[')?.split_once(']')?.0.parse().ok();
    text.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|addr| addr.ip())).or_else(bracketed)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn trust(header: ForwardedHeader) -> Trust {
        let proxies = ["10.0.0.0/8", "192.0.2.1", "2001:db8:ffff::/48"].map(|network| network.parse().unwrap());
        Trust { proxies: proxies.into(), header }
    }

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn the_rightmost_hop_that_is_not_ours() {
        let table: &[(&str, &[&str], &str)] = &[
            // Nobody's word is taken but a proxy's.
            ("198.51.100.1", &["1.2.3.4"], "198.51.100.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            ("::ffff:10.0.0.1", &["::ffff:1.2.3.4"], "1.2.3.4"),
            ("192.0.2.1", &["1.2.3.4"], "1.2.3.4"),
            ("192.0.2.2", &["1.2.3.4"], "192.0.2.2"),
            // What the client wrote itself stands to the left.
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["10.0.0.9, 1.2.3.4"], "1.2.3.4"),
            // Through several proxies of ours.
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.2, 192.0.2.1"], "1.2.3.4"),
            ("2001:db8:ffff::1", &["2001:db8:1::7,10.0.0.2"], "2001:db8:1::7"),
            // A client inside the operator's own network.
            ("10.0.0.1", &["10.0.0.7"], "10.0.0.7"),
            // With ports.
            ("10.0.0.1", &["1.2.3.4:5678"], "1.2.3.4"),
            ("10.0.0.1", &["[2001:db8:1::7]:5678"], "2001:db8:1::7"),
            ("10.0.0.1", &["[2001:db8:1::7]"], "2001:db8:1::7"),
            // What cannot be read counts for the proxy that passed it on.
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4, "], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4, \u{ff}"], "10.0.0.1"),
        ];
        for (peer, values, client) in table {
            let found = trust(ForwardedHeader::XForwardedFor)
                .client(peer.parse().unwrap(), &headers("x-forwarded-for", values));
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer} {values:?}");
        }
    }

    #[test]
    fn forwarded() {
        let table: &[(&[&str], &str)] = &[
            (&["for=1.2.3.4;proto=https;by=10.0.0.1"], "1.2.3.4"),
            (&["proto=https; FOR=1.2.3.4"], "1.2.3.4"),
            (&["for=6.6.6.6, for=1.2.3.4", "for=10.0.0.2"], "1.2.3.4"),
            (&["for=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
            (&["for=\"[2001:db8:cafe::17]\""], "2001:db8:cafe::17"),
            (&["for=\"1.2.3.4:80\""], "1.2.3.4"),
            (&["for=_gazonk"], "10.0.0.1"),
            (&["for=unknown"], "10.0.0.1"),
            (&["proto=https"], "10.0.0.1"),
            (&["1.2.3.4"], "10.0.0.1"),
        ];
        for (values, client) in table {
            let found =
                trust(ForwardedHeader::Forwarded).client("10.0.0.1".parse().unwrap(), &headers("forwarded", values));
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{values:?}");
        }
    }

    #[test]
    fn only_the_configured_header_is_believed() {
        let mut both = headers("x-forwarded-for", &["1.2.3.4"]);
        both.extend(headers("forwarded", &["for=6.6.6.6"]));
        let client = |header| trust(header).client("10.0.0.1".parse().unwrap(), &both).to_string();
        assert_eq!(client(ForwardedHeader::XForwardedFor), "1.2.3.4");
        assert_eq!(client(ForwardedHeader::Forwarded), "6.6.6.6");
    }
}
