//! Which connection a datagram is for. Pure: no socket, and time is an argument.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::wire::stun;

/// Most remote addresses of one connection. A browser checks from one port per network of its machine. A peer that forged
/// others' addresses could otherwise grow the table, and have each of them sent a few checks.
const MAX_ADDRESSES: usize = 8;

/// How long after its last datagram an address stays its connection's own. Peers that are there are heard every 2 to
/// 5 s, because RFC 7675 has them renew consent; so a live address cannot be taken by somebody who forges its source,
/// while a NAT that hands the same port to the next connection waits this long at most.
const ADDRESS_HELD: Duration = Duration::from_secs(6);

/// Names a connection in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RouteId(u64);

/// The table: the connections whose fragment we issued, and the addresses that have since proved to know it.
#[derive(Debug)]
pub(super) struct Routes<T> {
    next: u64,
    by_ufrag: HashMap<String, RouteId>,
    by_address: HashMap<SocketAddr, Heard>,
    routes: HashMap<RouteId, Route<T>>,
}

#[derive(Debug)]
struct Route<T> {
    ufrag: String,
    addresses: Vec<SocketAddr>,
    target: T,
}

#[derive(Debug)]
struct Heard {
    route: RouteId,
    at: Instant,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { next: 0, by_ufrag: HashMap::new(), by_address: HashMap::new(), routes: HashMap::new() }
    }
}

impl<T> Routes<T> {
    /// Enters a connection by the fragment issued to it, which must be unique (it is random and long).
    pub(super) fn add(&mut self, ufrag: String, target: T) -> RouteId {
        let id = RouteId(self.next);
        self.next += 1;
        self.by_ufrag.insert(ufrag.clone(), id);
        self.routes.insert(id, Route { ufrag, addresses: Vec::new(), target });
        id
    }

    /// Forgets a connection and every address that led to it.
    pub(super) fn remove(&mut self, id: RouteId) {
        let Some(route) = self.routes.remove(&id) else { return };
        self.by_ufrag.remove(&route.ufrag);
        for address in route.addresses {
            self.by_address.remove(&address);
        }
    }

    /// The connection that `datagram` is for, or `None` if it must be dropped.
    ///
    /// A binding request goes where its fragment says and binds its sender's address there; anything else goes where
    /// its sender's address is bound.
    pub(super) fn route(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Option<&T> {
        let id = match stun::local_ufrag(datagram) {
            Some(ufrag) => {
                let id = *self.by_ufrag.get(ufrag)?;
                self.bind(now, from, id)?;
                id
            }
            None => {
                let heard = self.by_address.get_mut(&from)?;
                heard.at = now;
                heard.route
            }
        };
        self.routes.get(&id).map(|route| &route.target)
    }

    /// Binds `from` to a connection, unless it is another's or the connection has enough.
    fn bind(&mut self, now: Instant, from: SocketAddr, id: RouteId) -> Option<()> {
        let previous = match self.by_address.get_mut(&from) {
            Some(heard) if heard.route == id => {
                heard.at = now;
                return Some(());
            }
            Some(heard) if now.saturating_duration_since(heard.at) < ADDRESS_HELD => return None,
            Some(heard) => Some(heard.route),
            None => None,
        };
        let addresses = &mut self.routes.get_mut(&id)?.addresses;
        if addresses.len() >= MAX_ADDRESSES {
            return None;
        }
        addresses.push(from);
        self.by_address.insert(from, Heard { route: id, at: now });
        if let Some(route) = previous.and_then(|id| self.routes.get_mut(&id)) {
            route.addresses.retain(|address| *address != from);
        }
        Some(())
    }

    /// Connections and addresses in the table.
    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.routes.len(), self.by_address.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::stun::tests::binding_request;

    const DTLS: &[u8] = &[22, 254, 253, 0];

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn request_for(ufrag: &str) -> Vec<u8> {
        binding_request(&[(6, format!("{ufrag}:theirs").as_bytes())])
    }

    impl<T> Routes<T> {
        fn check_invariants(&self) {
            assert_eq!(self.by_ufrag.len(), self.routes.len());
            assert_eq!(self.by_address.len(), self.routes.values().map(|route| route.addresses.len()).sum::<usize>());
            for (id, route) in &self.routes {
                assert_eq!(self.by_ufrag[&route.ufrag], *id);
                assert!(route.addresses.len() <= MAX_ADDRESSES);
                assert!(route.addresses.iter().all(|address| self.by_address[address].route == *id));
            }
        }
    }

    #[test]
    fn an_address_counts_only_after_it_named_a_fragment_we_issued() {
        let (mut routes, now) = (Routes::default(), Instant::now());
        let id = routes.add("issued".into(), 'a');
        assert_eq!(routes.route(now, addr(1), DTLS), None, "unknown sender");
        assert_eq!(routes.route(now, addr(1), &request_for("guessed")), None, "unknown fragment");
        assert_eq!(routes.route(now, addr(1), DTLS), None, "a guess binds nothing");
        assert_eq!(routes.route(now, addr(1), &request_for("issued")), Some(&'a'));
        assert_eq!(routes.route(now, addr(1), DTLS), Some(&'a'));
        assert_eq!(routes.route(now, addr(2), DTLS), None, "its neighbour is still unknown");
        routes.remove(id);
        assert_eq!(routes.route(now, addr(1), DTLS), None);
        assert_eq!(routes.route(now, addr(1), &request_for("issued")), None);
        assert_eq!(routes.len(), (0, 0));
    }

    #[test]
    fn a_live_address_is_not_taken_over_and_a_silent_one_is() {
        let (mut routes, start) = (Routes::default(), Instant::now());
        routes.add("first".into(), 1);
        routes.add("second".into(), 2);
        routes.route(start, addr(1), &request_for("first"));
        let heard = start + ADDRESS_HELD;
        assert_eq!(routes.route(heard, addr(1), DTLS), Some(&1));
        let soon = heard + ADDRESS_HELD - Duration::from_millis(1);
        assert_eq!(routes.route(soon, addr(1), &request_for("second")), None, "heard just now");
        assert_eq!(routes.route(heard + ADDRESS_HELD, addr(1), &request_for("second")), Some(&2));
        assert_eq!(routes.route(heard + ADDRESS_HELD, addr(1), DTLS), Some(&2));
        routes.check_invariants();
    }

    #[test]
    fn one_connection_cannot_fill_the_table() {
        let (mut routes, now) = (Routes::default(), Instant::now());
        routes.add("issued".into(), ());
        let bound = (0..100).filter(|port| routes.route(now, addr(*port), &request_for("issued")).is_some()).count();
        assert_eq!(bound, MAX_ADDRESSES);
        routes.check_invariants();
    }

    proptest! {
        /// Random operations: the three maps never disagree, and nothing is left once all connections are gone.
        #[test]
        fn the_maps_agree(steps in prop::collection::vec((0u8..4, 0usize..6, 0u16..24, 0u64..8), 0..200)) {
            let (mut routes, mut now, mut ids) = (Routes::default(), Instant::now(), Vec::new());
            for (step, which, port, seconds) in steps {
                now += Duration::from_secs(seconds);
                match step {
                    0 => ids.push(routes.add(format!("u{}", ids.len()), ids.len())),
                    1 if which < ids.len() => routes.remove(ids[which]),
                    2 => { routes.route(now, addr(port), &request_for(&format!("u{which}"))); }
                    _ => { routes.route(now, addr(port), DTLS); }
                }
                routes.check_invariants();
            }
            ids.into_iter().for_each(|id| routes.remove(id));
            prop_assert_eq!(routes.len(), (0, 0));
        }
    }
}
