//! Which native peers of one torrent take connections, who has been told of whom (BEP 11), and who is introduced to whom
//! that cannot be reached otherwise (BEP 55). Pure; time is handed in.
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
use crate::wire::holepunch::{self, Holepunch, PunchError};
use crate::wire::peer_exchange::{self, Flags, MAX_ENTRIES, PeerExchange, Told};

/// BEP 11: "There should be no more than one PEX message sent per minute."
const EVERY: Duration = Duration::from_secs(60);

/// How long news is gathered before it is told. Who comes with others, as at the start of a swarm, is told of them together
/// with the rest, and not a minute later.
const GATHERED: Duration = Duration::from_secs(2);

/// What is taken of a peer: a message a minute, and one more, since clocks and paths differ.
const TAKEN: Rate = Rate { burst: 2, every: EVERY };

/// Introductions that a peer may ask for, and that it may have us dial: some at once, since it comes to know many at once,
/// then one in a while.
const INTRODUCED: Rate = Rate { burst: 10, every: Duration::from_secs(6) };

/// Introductions that wait for being written to a peer. Past it they are dropped: who asked does without, or asks again.
const MAX_INTRODUCTIONS: usize = 10;

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
    /// When news that it has not been told has been gathered for long enough.
    gathered: Option<Instant>,
    taken: Bucket,
    /// The id it wants on messages about introductions.
    punches: Option<u8>,
    introduced: Bucket,
    introductions: VecDeque<Holepunch>,
}

/// A peer that left.
#[derive(Debug)]
struct Gone {
    door: SocketAddr,
    came: u64,
    left: u64,
}

/// What follows from a peer's message about introductions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Punched {
    /// This address is to be dialled by uTP, now.
    Dial(SocketAddr),
    /// Two peers have been introduced.
    Relayed,
    /// They have not, and who asked is told.
    Refused,
    /// Somebody else did not introduce us.
    Failed,
    /// Nothing: it says too much, or could not be answered.
    Ignored,
}

/// What a peer is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// An introduction, under the id that it wants.
    Introduce(u8, Holepunch),
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
            gathered: None,
            taken: Bucket::default(),
            punches: None,
            introduced: Bucket::default(),
            introductions: VecDeque::new(),
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
        if let Some(id) = hello.extensions.get(holepunch::NAME) {
            peer.punches = (*id != 0).then_some(*id);
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

    /// Asks a peer to introduce us to another. Whether it can be asked.
    pub(super) fn ask(&mut self, relay: Key, addr: SocketAddr) -> bool {
        let relay = self.peers.get_mut(&relay);
        relay.is_some_and(|relay| relay.punches.is_some() && relay.introduce(Holepunch::Rendezvous(addr)))
    }

    /// Takes a peer's message about introductions.
    #[must_use]
    pub(super) fn punch(&mut self, key: Key, message: Holepunch, now: Instant) -> Punched {
        let Some(peer) = self.peers.get_mut(&key) else { return Punched::Ignored };
        // Who takes no such messages cannot be answered.
        if peer.punches.is_none() || peer.introduced.take(INTRODUCED, now).is_err() {
            return Punched::Ignored;
        }
        match message {
            Holepunch::Connect(addr) => Punched::Dial(addr),
            Holepunch::Error(..) => Punched::Failed,
            Holepunch::Rendezvous(addr) => match self.relay(key, addr) {
                Ok(()) => Punched::Relayed,
                Err(error) => {
                    if let Some(peer) = self.peers.get_mut(&key) {
                        peer.introduce(Holepunch::Error(addr, error));
                    }
                    Punched::Refused
                }
            },
        }
    }

    /// BEP 55: "If the relaying peer is connected to both peers and both support the extension it sends a connect message to
    /// each". Addresses that one of them must not learn are as unknown.
    fn relay(&mut self, initiator: Key, addr: SocketAddr) -> Result<(), PunchError> {
        let is_at = |peer: &Peer| peer.remote == addr || peer.door.is_some_and(|(door, _)| door == addr);
        let target = self.peers.iter().find(|(key, peer)| **key != initiator && is_at(peer));
        let (target, other) = target.ok_or(PunchError::NotConnected)?;
        let (one, target) = (self.peers.get(&initiator).ok_or(PunchError::NoSuchPeer)?, *target);
        let from = one.utp_address().ok_or(PunchError::NoSuchPeer)?;
        if !may_name(one.remote.ip(), addr) || !may_name(other.remote.ip(), from) {
            return Err(PunchError::NotConnected);
        }
        if other.punches.is_none() {
            return Err(PunchError::NoSupport);
        }
        for (key, addr) in [(initiator, addr), (target, from)] {
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.introduce(Holepunch::Connect(addr));
            }
        }
        Ok(())
    }

    /// What the peer is to be told now; it counts as told.
    #[must_use]
    pub(super) fn next(&mut self, key: Key, now: Instant) -> Next {
        let Some(peer) = self.peers.get_mut(&key) else { return Next::Wait(None) };
        if let (Some(id), Some(introduction)) = (peer.punches, peer.introductions.pop_front()) {
            return Next::Introduce(id, introduction);
        }
        let Some(peer) = self.peers.get(&key) else { return Next::Wait(None) };
        let Some(id) = peer.exchanges else { return Next::Wait(None) };
        if let Some(at) = peer.next.max(peer.gathered).filter(|at| *at > now) {
            return Next::Wait(Some(at));
        }
        let (message, told) = self.news(key, peer);
        let peer = self.peers.get_mut(&key).expect("it was there a moment ago");
        if message.is_empty() {
            (peer.told, peer.gathered) = (told, None);
            return Next::Wait(None);
        }
        if peer.gathered.is_none() {
            peer.gathered = Some(now + GATHERED);
            return Next::Wait(peer.gathered);
        }
        (peer.told, peer.gathered) = (told, None);
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
        let punches = Flags::HOLEPUNCH.only_if(self.punches.is_some());
        utp.and(Flags::SEED.only_if(self.seed)).and(punches).and(Flags::REACHABLE.only_if(self.dialled))
    }

    /// Where it takes uTP connections: where it is seen to be by others, if by uTP; else the port it takes TCP connections
    /// at, which nearly all clients use for both.
    fn utp_address(&self) -> Option<SocketAddr> {
        if self.transport == Transport::Utp { Some(self.remote) } else { self.door.map(|(door, _)| door) }
    }

    /// Whether there was room for it.
    fn introduce(&mut self, introduction: Holepunch) -> bool {
        let has_room = self.introductions.len() < MAX_INTRODUCTIONS;
        if has_room {
            self.introductions.push_back(introduction);
        }
        has_room
    }
}

#[cfg(test)]
mod tests;
