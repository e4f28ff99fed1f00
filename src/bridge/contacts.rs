//! Which native peers of one torrent take connections, and who has been told of whom (BEP 11). Pure; time is handed in.
//!
//! What happens is numbered. A peer is told of what happened after the last number that it knows, so that nothing is kept
//! for each pair of peers.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::swarm::Transport;
use crate::net::may_name;
use crate::rate::{Bucket, Rate};
use crate::wire::extension::ExtendedHandshake;
use crate::wire::peer_exchange::{self, Flags, MAX_ENTRIES, PeerExchange, Told};

/// BEP 11: "There should be no more than one PEX message sent per minute."
const EVERY: Duration = Duration::from_secs(60);

/// What is taken of a peer: a message a minute, and one more, since clocks and paths differ.
const TAKEN: Rate = Rate { burst: 2, every: EVERY };

/// Departures remembered. Who is not told of one in time dials in vain once.
const MAX_GONE: usize = 200;

/// Names a connection.
pub(super) type Key = u64;

/// The table of one torrent. It has as many entries as there are seats.
#[derive(Debug, Default)]
pub(super) struct Contacts {
    peers: BTreeMap<Key, Peer>,
    gone: VecDeque<Gone>,
    /// What has happened so far.
    events: u64,
}

#[derive(Debug)]
struct Peer {
    /// The other end of the connection.
    remote: SocketAddr,
    transport: Transport,
    /// We connected to it.
    dialled: bool,
    /// It has every piece.
    seed: bool,
    /// Where it takes connections, and the event by which that came to be known.
    door: Option<(SocketAddr, u64)>,
    /// The id it wants on its messages.
    exchanges: Option<u8>,
    /// The last event that it was told of.
    told: u64,
    /// When it may be told more.
    next: Option<Instant>,
    taken: Bucket,
}

/// A peer that left.
#[derive(Debug)]
struct Gone {
    door: SocketAddr,
    came: u64,
    left: u64,
}

/// What a peer is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This, under the id that it wants.
    Send(u8, PeerExchange),
    /// Nothing before then; for good, until something happens.
    Wait(Option<Instant>),
}

impl Contacts {
    /// A native peer was seated. Of one that we dialled it is known where it takes connections.
    pub(super) fn joined(&mut self, remote: SocketAddr, transport: Transport, dialled: bool) -> Key {
        self.events += 1;
        let peer = Peer {
            remote,
            transport,
            dialled,
            seed: false,
            door: dialled.then_some((remote, self.events)),
            exchanges: None,
            told: 0,
            next: None,
            taken: Bucket::default(),
        };
        self.peers.insert(self.events, peer);
        self.events
    }

    /// The peer said what it speaks, and where it takes connections (BEP 10: `p`).
    pub(super) fn greeted(&mut self, key: Key, hello: &ExtendedHandshake) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(id) = hello.extensions.get(peer_exchange::NAME) {
            peer.exchanges = (*id != 0).then_some(*id);
        }
        if let (None, Some(port)) = (peer.door, hello.port) {
            self.events += 1;
            peer.door = Some((SocketAddr::new(peer.remote.ip(), port), self.events));
        }
    }

    /// The peer has every piece: other seeds have no use for it.
    pub(super) fn is_seed(&mut self, key: Key) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.seed = true;
        }
    }

    /// The peer left.
    pub(super) fn left(&mut self, key: Key) {
        let Some(Peer { door: Some((door, came)), .. }) = self.peers.remove(&key) else { return };
        self.events += 1;
        if self.gone.len() >= MAX_GONE {
            self.gone.pop_front();
        }
        self.gone.push_back(Gone { door, came, left: self.events });
    }

    /// Whether there is a connection to the peer at this address.
    pub(super) fn has(&self, addr: SocketAddr) -> bool {
        self.peers.values().any(|peer| peer.door.is_some_and(|(door, _)| door == addr))
    }

    /// Whether a message of the peer's is taken; one that comes too soon is not.
    pub(super) fn may_tell(&mut self, key: Key, now: Instant) -> bool {
        self.peers.get_mut(&key).is_some_and(|peer| peer.taken.take(TAKEN, now).is_ok())
    }

    /// What the peer is to be told now; it counts as told.
    #[must_use]
    pub(super) fn next(&mut self, key: Key, now: Instant) -> Next {
        let Some(peer) = self.peers.get(&key) else { return Next::Wait(None) };
        let Some(id) = peer.exchanges else { return Next::Wait(None) };
        if let Some(at) = peer.next.filter(|at| *at > now) {
            return Next::Wait(Some(at));
        }
        let (message, told) = self.news(key, peer);
        let sends = !message.is_empty();
        let peer = self.peers.get_mut(&key).expect("it was there a moment ago");
        peer.told = told;
        if !sends {
            return Next::Wait(None);
        }
        peer.next = Some(now + EVERY);
        Next::Send(id, message)
    }

    /// What the peer does not know yet, in the order of its happening, and the last event among it. What it must not learn
    /// is left out: addresses that mean nothing where it is, or mean another host.
    fn news(&self, key: Key, receiver: &Peer) -> (PeerExchange, u64) {
        let may_learn = |addr| may_name(receiver.remote.ip(), addr);
        let added = self.peers.iter().filter_map(|(other, peer)| {
            let (addr, since) = peer.door?;
            let is_news = *other != key && since > receiver.told && may_learn(addr);
            is_news.then(|| (since, Ok(Told { addr, flags: peer.flags() })))
        });
        let dropped = self.gone.iter().filter_map(|gone| {
            let is_news = gone.came <= receiver.told && gone.left > receiver.told;
            let is_gone = may_learn(gone.door) && !self.has(gone.door);
            (is_news && is_gone).then_some((gone.left, Err(gone.door)))
        });
        let mut news: Vec<_> = added.chain(dropped).collect();
        news.sort_unstable_by_key(|(event, _)| *event);
        let mut message = PeerExchange::default();
        for (event, what) in news {
            if message.added.len() == MAX_ENTRIES || message.dropped.len() == MAX_ENTRIES {
                return (message, event - 1);
            }
            match what {
                Ok(told) => message.added.push(told),
                Err(gone) => message.dropped.push(gone),
            }
        }
        (message, self.events)
    }
}

impl Peer {
    fn flags(&self) -> Flags {
        let utp = Flags::UTP.only_if(self.transport == Transport::Utp);
        utp.and(Flags::SEED.only_if(self.seed)).and(Flags::REACHABLE.only_if(self.dialled))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = EVERY;

    fn hello(exchanges: u8, port: u16) -> ExtendedHandshake {
        let extensions = [(peer_exchange::NAME.to_owned(), exchanges)].into();
        ExtendedHandshake { extensions, port: Some(port), ..Default::default() }
    }

    /// A peer that came by itself and says that it listens on port 1.
    fn come(table: &mut Contacts, ip: &str) -> Key {
        let key = table.joined(SocketAddr::new(ip.parse().unwrap(), 40_000), Transport::Tcp, false);
        table.greeted(key, &hello(7, 1));
        key
    }

    /// The addresses that a peer is told of now, and those it is told are gone.
    fn told(table: &mut Contacts, key: Key, now: Instant) -> (Vec<String>, Vec<String>) {
        match table.next(key, now) {
            Next::Send(id, PeerExchange { added, dropped }) => {
                assert_eq!(id, 7);
                (
                    added.iter().map(|told| told.addr.to_string()).collect(),
                    dropped.iter().map(SocketAddr::to_string).collect(),
                )
            }
            Next::Wait(_) => (vec![], vec![]),
        }
    }

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn peers_are_told_of_each_other_once_and_once_a_minute() {
        let (mut table, start) = (Contacts::default(), Instant::now());
        let first = come(&mut table, "1.1.1.1");
        assert_eq!(table.next(first, start), Next::Wait(None), "there is nobody else");
        let second = come(&mut table, "2.2.2.2");
        assert_eq!(told(&mut table, first, start), (owned(&["2.2.2.2:1"]), vec![]));
        assert_eq!(told(&mut table, second, start), (owned(&["1.1.1.1:1"]), vec![]));
        let third = come(&mut table, "3.3.3.3");
        assert_eq!(table.next(first, start + MINUTE / 2), Next::Wait(Some(start + MINUTE)));
        assert_eq!(told(&mut table, third, start).0, owned(&["1.1.1.1:1", "2.2.2.2:1"]));
        table.left(second);
        // It was there and is gone; whom nobody was told of is not said to be gone.
        let brief = come(&mut table, "4.4.4.4");
        table.left(brief);
        assert_eq!(told(&mut table, first, start + MINUTE), (owned(&["3.3.3.3:1"]), owned(&["2.2.2.2:1"])));
        assert_eq!(told(&mut table, third, start + MINUTE), (vec![], owned(&["2.2.2.2:1"])));
        assert_eq!(table.next(third, start + MINUTE * 2), Next::Wait(None), "nothing is new");
    }

    #[test]
    fn who_came_back_is_not_gone() {
        let (mut table, now) = (Contacts::default(), Instant::now());
        let (first, second) = (come(&mut table, "1.1.1.1"), come(&mut table, "2.2.2.2"));
        assert_eq!(told(&mut table, first, now).0.len(), 1);
        table.left(second);
        come(&mut table, "2.2.2.2");
        assert_eq!(told(&mut table, first, now + MINUTE), (owned(&["2.2.2.2:1"]), vec![]));
    }

    #[test]
    fn only_who_takes_connections_is_told_of_and_only_who_asks_is_told() {
        let (mut table, now) = (Contacts::default(), Instant::now());
        let asks = come(&mut table, "1.1.1.1");
        let dialled = table.joined("2.2.2.2:51413".parse().unwrap(), Transport::Utp, true);
        let _silent = table.joined("3.3.3.3:40000".parse().unwrap(), Transport::Tcp, false);
        table.is_seed(dialled);
        // Where it was reached is believed rather than what it says.
        table.greeted(dialled, &hello(0, 9));
        let Next::Send(7, PeerExchange { added, .. }) = table.next(asks, now) else { panic!("there is news") };
        let flags = Flags::UTP.and(Flags::SEED).and(Flags::REACHABLE);
        assert_eq!(added, [Told { addr: "2.2.2.2:51413".parse().unwrap(), flags }]);
        assert_eq!(table.next(dialled, now), Next::Wait(None), "id 0 switches it off");
        assert!(table.has("2.2.2.2:51413".parse().unwrap()) && !table.has("3.3.3.3:40000".parse().unwrap()));
    }

    /// "Peer exchange filtered of every address a stranger must not learn".
    #[test]
    fn nobody_learns_an_address_that_means_nothing_to_it() {
        let everybody =
            ["9.9.9.9", "10.0.0.9", "192.168.0.9", "127.0.0.9", "169.254.0.9", "2a00::9", "fd00::9", "fe80::9"];
        // Where it is → whom it is told of.
        let table = [
            ("8.8.8.8", vec!["9.9.9.9", "2a00::9"]),
            ("2a00::8", vec!["9.9.9.9", "2a00::9"]),
            ("10.0.0.8", vec!["9.9.9.9", "10.0.0.9", "2a00::9"]),
            ("192.168.0.8", vec!["9.9.9.9", "192.168.0.9", "2a00::9"]),
            ("169.254.0.8", vec!["9.9.9.9", "169.254.0.9", "2a00::9", "fe80::9"]),
            ("fd00::8", vec!["9.9.9.9", "2a00::9", "fd00::9"]),
            ("127.0.0.8", everybody.to_vec()),
            ("::1", everybody.to_vec()),
        ];
        for (here, expected) in table {
            let mut contacts = Contacts::default();
            for ip in everybody {
                come(&mut contacts, ip);
            }
            let receiver = come(&mut contacts, here);
            let (told, _) = told(&mut contacts, receiver, Instant::now());
            let expected: Vec<_> =
                expected.into_iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 1).to_string()).collect();
            assert_eq!(told, expected, "told to {here}");
        }
    }

    #[test]
    fn a_message_a_minute_is_taken() {
        let (mut table, start) = (Contacts::default(), Instant::now());
        let key = come(&mut table, "1.1.1.1");
        let taken =
            [0, 0, 1, 30, 59, 60, 61, 90, 119, 120].map(|s| table.may_tell(key, start + Duration::from_secs(s)));
        assert_eq!(taken, [true, true, false, false, false, true, false, false, false, true]);
        assert!(!table.may_tell(key + 1, start));
    }

    #[test]
    fn a_crowd_is_told_of_in_turns() {
        let (mut table, mut now) = (Contacts::default(), Instant::now());
        let receiver = come(&mut table, "1.1.1.1");
        let keys: Vec<_> = (1..=120).map(|n| come(&mut table, &format!("2.2.2.{n}"))).collect();
        let mut sizes = Vec::new();
        for _ in 0..4 {
            sizes.push(told(&mut table, receiver, now).0.len());
            now += MINUTE;
        }
        assert_eq!(sizes, [50, 50, 20, 0]);
        keys.into_iter().for_each(|key| table.left(key));
        let gone: Vec<_> = (0..4).map(|n| told(&mut table, receiver, now + MINUTE * n).1.len()).collect();
        assert_eq!(gone, [50, 50, 20, 0]);
    }

    proptest! {
        /// Whatever happens: who is told of all in the end believes in exactly those that are here, and nothing grows.
        #[test]
        fn in_the_end_everybody_knows_who_is_here(events in prop::collection::vec((0_u8..3, 0_u8..8), 0..120)) {
            let (mut table, mut now) = (Contacts::default(), Instant::now());
            let receiver = come(&mut table, "1.1.1.1");
            let (mut here, mut believes) = (BTreeMap::new(), std::collections::BTreeSet::new());
            let mut listen = |table: &mut Contacts, now| {
                let (added, dropped) = told(table, receiver, now);
                for gone in dropped {
                    assert!(believes.remove(&gone), "{gone} was never told of");
                }
                believes.extend(added);
                believes.clone()
            };
            for (what, n) in events {
                match what {
                    0 => {
                        here.entry(n).or_insert_with(|| come(&mut table, &format!("2.2.2.{n}")));
                    }
                    1 => here.remove(&n).into_iter().for_each(|key| table.left(key)),
                    _ => {
                        now += MINUTE;
                        listen(&mut table, now);
                    }
                }
                prop_assert!(table.gone.len() <= MAX_GONE && table.peers.len() <= 9);
            }
            let believes = listen(&mut table, now + MINUTE);
            prop_assert_eq!(believes, here.keys().map(|n| format!("2.2.2.{n}:1")).collect());
        }
    }
}
