//! What is announced on the local network and when, and what was heard there. Pure; time is handed in.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::rate::{Bucket, Rate};
use crate::wire::id::InfoHash;
use crate::wire::local_discovery::{LocalAnnounce, MAX_INFO_HASHES};

/// BEP 14: "a client should send no more than 1 announce per minute". In the long run we do not; the first few may follow
/// each other, so that what is opened now is found now.
const ANNOUNCES: Rate = Rate { burst: 4, every: Duration::from_secs(60) };

/// BEP 14: announces "should be sent […] every 5 minutes".
const AGAIN: Duration = Duration::from_secs(5 * 60);

/// What is joined at the same time goes into one datagram.
const GATHER: Duration = Duration::from_millis(200);

/// How long a peer is remembered: a lost announce must not make it unknown.
const REMEMBER: Duration = Duration::from_secs(11 * 60);

/// Swarms and peers of each that are remembered, whoever invents them.
const MAX_SWARMS: usize = 1_000;
const MAX_PEERS: usize = 16;

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    cookie: String,
    /// The swarms we are in: how often, and when each is announced next.
    joined: HashMap<InfoHash, Joined>,
    heard: BTreeMap<InfoHash, HashMap<SocketAddr, Instant>>,
    announces: Bucket,
    /// The rate allows nothing before then.
    held_until: Option<Instant>,
}

#[derive(Debug)]
struct Joined {
    holders: usize,
    due: Instant,
}

impl Table {
    /// An empty table; `cookie` marks our own announces.
    pub(super) fn new(cookie: String) -> Self {
        Self { cookie, joined: HashMap::new(), heard: BTreeMap::new(), announces: Bucket::default(), held_until: None }
    }

    /// Announces a swarm from now on. Returns who is known to be in it.
    pub(super) fn join(&mut self, info_hash: InfoHash, now: Instant) -> Vec<SocketAddr> {
        let joined = self.joined.entry(info_hash).or_insert(Joined { holders: 0, due: now + GATHER });
        joined.holders += 1;
        let peers = self.heard.get(&info_hash).into_iter().flatten();
        peers.filter(|(_, until)| **until > now).map(|(addr, _)| *addr).collect()
    }

    /// Does so no more, unless it was joined more than once.
    pub(super) fn leave(&mut self, info_hash: InfoHash) {
        if let Some(joined) = self.joined.get_mut(&info_hash) {
            joined.holders -= 1;
            if joined.holders == 0 {
                self.joined.remove(&info_hash);
            }
        }
    }

    /// When there is something to announce.
    pub(super) fn due(&self) -> Option<Instant> {
        // Who waits keeps its place: `due` says since when.
        self.joined.values().map(|joined| joined.due).min().map(|due| self.held_until.map_or(due, |held| due.max(held)))
    }

    /// What to announce now: the swarms that have waited longest, if the rate allows.
    pub(super) fn announce(&mut self, port: u16, now: Instant) -> Option<LocalAnnounce> {
        let mut due: Vec<_> = self.joined.iter().map(|(hash, joined)| (joined.due, *hash)).collect();
        due.retain(|(at, _)| *at <= now);
        if due.is_empty() {
            return None;
        }
        if let Err(at) = self.announces.take(ANNOUNCES, now) {
            self.held_until = Some(at.into());
            return None;
        }
        due.sort_unstable();
        due.truncate(MAX_INFO_HASHES);
        let info_hashes: Vec<_> = due.into_iter().map(|(_, hash)| hash).collect();
        for hash in &info_hashes {
            self.joined.get_mut(hash).expect("it was found there").due = now + AGAIN;
        }
        Some(LocalAnnounce { port, info_hashes, cookie: Some(self.cookie.clone()) })
    }

    /// Takes an announce of `from`. Returns the swarms of it that we are in, with the peer's
    /// address, unless it is our own.
    pub(super) fn hear(
        &mut self,
        announce: &LocalAnnounce,
        from: SocketAddr,
        now: Instant,
    ) -> Vec<(InfoHash, SocketAddr)> {
        if announce.cookie.as_ref() == Some(&self.cookie) {
            return Vec::new();
        }
        let addr = SocketAddr::new(from.ip(), announce.port);
        let addr = match (addr, from) {
            // A link-local address is none without the link it is on.
            (SocketAddr::V6(mut addr), SocketAddr::V6(from)) => {
                addr.set_scope_id(from.scope_id());
                addr.into()
            }
            (addr, _) => addr,
        };
        for hash in &announce.info_hashes {
            self.remember(*hash, addr, now);
        }
        let common = announce.info_hashes.iter().filter(|hash| self.joined.contains_key(*hash));
        common.map(|hash| (*hash, addr)).collect()
    }

    fn remember(&mut self, hash: InfoHash, addr: SocketAddr, now: Instant) {
        if !self.heard.contains_key(&hash) && self.heard.len() >= MAX_SWARMS {
            self.heard.retain(|_, peers| peers.values().any(|until| *until > now));
            if self.heard.len() >= MAX_SWARMS {
                return;
            }
        }
        let peers = self.heard.entry(hash).or_default();
        peers.retain(|_, until| *until > now);
        if peers.len() < MAX_PEERS || peers.contains_key(&addr) {
            peers.insert(addr, now + REMEMBER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u16) -> InfoHash {
        let mut hash = [0; 20];
        hash[..2].copy_from_slice(&n.to_be_bytes());
        InfoHash(hash)
    }

    fn start() -> Instant {
        Instant::now() + Duration::from_secs(10_000)
    }

    fn announced(table: &mut Table, now: Instant) -> Vec<InfoHash> {
        table.announce(1, now).map(|announce| announce.info_hashes).unwrap_or_default()
    }

    #[test]
    fn announces_come_at_once_then_every_five_minutes() {
        let (start, mut table) = (start(), Table::new("me".into()));
        table.join(hash(1), start);
        table.join(hash(2), start);
        assert_eq!((table.due(), announced(&mut table, start)), (Some(start + GATHER), vec![]));
        assert_eq!(announced(&mut table, start + GATHER), [hash(1), hash(2)], "in one datagram");
        table.leave(hash(2));
        let again = start + GATHER + AGAIN;
        assert_eq!(table.due(), Some(again));
        assert_eq!(announced(&mut table, again), [hash(1)]);
        table.join(hash(1), again);
        table.leave(hash(1));
        assert!(table.due().is_some(), "somebody still holds it");
        table.leave(hash(1));
        assert_eq!(table.due(), None);
    }

    #[test]
    fn in_the_long_run_there_is_one_a_minute_and_everybody_gets_a_turn() {
        let (start, mut table) = (start(), Table::new("me".into()));
        for n in 0..200 {
            table.join(hash(n), start);
        }
        let (mut datagrams, mut seen) = (0, std::collections::HashSet::new());
        let mut now = start;
        while now < start + Duration::from_secs(3600) {
            now = table.due().unwrap().max(now);
            if let Some(announce) = table.announce(1, now) {
                assert!(announce.info_hashes.len() <= MAX_INFO_HASHES);
                datagrams += 1;
                seen.extend(announce.info_hashes);
            }
        }
        assert_eq!(seen.len(), 200);
        assert!(datagrams <= 60 + 5, "{datagrams}");
    }

    #[test]
    fn peers_are_remembered_for_a_while_and_bounded() {
        let (start, mut table) = (start(), Table::new("me".into()));
        let hear = |table: &mut Table, cookie: &str, n, from: &str, now| {
            let announce = LocalAnnounce { port: 7, info_hashes: vec![hash(n)], cookie: Some(cookie.into()) };
            table.hear(&announce, from.parse().unwrap(), now)
        };
        assert!(hear(&mut table, "you", 1, "10.0.0.2:6771", start).is_empty(), "we are not in it");
        assert_eq!(table.join(hash(1), start), ["10.0.0.2:7".parse::<SocketAddr>().unwrap()], "but we remember");
        assert_eq!(hear(&mut table, "you", 1, "10.0.0.4:6771", start), [(hash(1), "10.0.0.4:7".parse().unwrap())]);
        assert!(hear(&mut table, "me", 1, "10.0.0.3:6771", start).is_empty(), "it is ours");
        assert_eq!(table.join(hash(1), start).len(), 2);
        assert!(table.join(hash(1), start + REMEMBER).is_empty());
        for n in 0..2000 {
            for host in 1..30 {
                hear(&mut table, "you", n, &format!("10.0.1.{host}:6771"), start);
            }
        }
        assert_eq!(table.heard.len(), MAX_SWARMS);
        assert!(table.heard.values().all(|peers| peers.len() <= MAX_PEERS));
    }

    #[test]
    fn a_link_local_address_keeps_its_link() {
        let mut table = Table::new("me".into());
        let from = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 6771, 0, 3);
        let announce = LocalAnnounce { port: 7, info_hashes: vec![hash(1)], cookie: None };
        let _ = table.hear(&announce, from.into(), start());
        let expected = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, 3);
        assert_eq!(table.join(hash(1), start()), [SocketAddr::from(expected)]);
    }
}
