//! Whether others can reach this node. BEP 43 is for nodes that "cannot be reached": they say so with `ro`, so that nobody
//! puts them into a routing table, where they would only be waited for.
//!
//! A firewall lets in whoever was sent something shortly before. So a query proves something only when it comes from a host
//! to which nothing was sent lately. Nodes of the network ask whom they know at least every quarter of an hour, each in its
//! own time, so a node that can be reached has such proof within minutes, also when everybody knows everybody. On loopback
//! and private networks there is nothing to find out.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::net::{host, is_public};

/// How long a node that is part of the network may go without proof. That is twice the time after which others ask whom
/// they have not heard of (BEP 5: 15 minutes).
const PROBATION: Duration = Duration::from_secs(30 * 60);

/// How long a node that could not be reached stays out of the tables of others before it tries again.
const READ_ONLY_FOR: Duration = Duration::from_secs(60 * 60);

/// How long a firewall lets answers in: RFC 4787 asks for two minutes at least and recommends five. Hosts are remembered for
/// one to two of these.
const GENERATION: Duration = Duration::from_secs(3 * 60);

/// Hosts remembered in one generation. With more, the next begins early.
const MAX_HOSTS: usize = 2048;

/// Queries that must have been sent in a probation before hearing nothing means anything.
const ENOUGH_SENT: usize = 100;

#[derive(Debug)]
pub(super) struct Reachability {
    sent_to: HashSet<IpAddr>,
    sent_to_before: HashSet<IpAddr>,
    generation: Instant,
    /// Queries sent to the internet in this probation.
    sent: usize,
    /// When the present probation, or the present time of being read-only, began.
    since: Instant,
    is_read_only: bool,
}

impl Reachability {
    pub(super) fn new(now: Instant) -> Self {
        let (sent_to, sent_to_before) = (HashSet::new(), HashSet::new());
        Self { sent_to, sent_to_before, generation: now, sent: 0, since: now, is_read_only: false }
    }

    /// Whether queries are to carry `ro`.
    pub(super) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// A query is sent.
    pub(super) fn sent(&mut self, now: Instant, to: SocketAddr) {
        if !is_public(to.ip()) {
            return;
        }
        let age = now.duration_since(self.generation);
        if self.sent_to.len() >= MAX_HOSTS || age >= GENERATION {
            self.sent_to_before = std::mem::take(&mut self.sent_to);
            if age >= 2 * GENERATION {
                self.sent_to_before.clear();
            }
            self.generation = now;
        }
        self.sent += 1;
        self.sent_to.insert(host(to.ip()));
    }

    /// A query came in.
    pub(super) fn asked(&mut self, now: Instant, from: SocketAddr) {
        let from = host(from.ip());
        if is_public(from) && !self.sent_to.contains(&from) && !self.sent_to_before.contains(&from) {
            self.begin(now, false);
        }
    }

    /// Draws the conclusion when it is time.
    pub(super) fn conclude(&mut self, now: Instant) {
        let age = now.duration_since(self.since);
        if self.is_read_only && age >= READ_ONLY_FOR {
            self.begin(now, false);
        } else if !self.is_read_only && age >= PROBATION && self.sent >= ENOUGH_SENT {
            self.begin(now, true);
        }
    }

    fn begin(&mut self, now: Instant, is_read_only: bool) {
        (self.since, self.sent, self.is_read_only) = (now, 0, is_read_only);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(n: u8) -> SocketAddr {
        ([8, 8, 8, n], 6881).into()
    }

    /// Sends to the first hosts once a minute, has others ask, and tells whether the node is read-only in the end.
    fn after(minutes: u64, hosts: u8, private: bool, askers: &[(u64, u8)]) -> bool {
        let start = Instant::now();
        let mut reach = Reachability::new(start);
        for minute in 0..=minutes {
            let now = start + Duration::from_secs(60 * minute);
            for n in 0..hosts {
                reach.sent(now, if private { ([10, 0, 0, n], 6881).into() } else { public(n) });
            }
            for (_, n) in askers.iter().filter(|(at, _)| *at == minute) {
                reach.asked(now, public(*n));
            }
            reach.conclude(now);
        }
        reach.is_read_only()
    }

    #[test]
    fn who_is_asked_by_no_stranger_is_read_only_for_an_hour_and_tries_again() {
        let friends: Vec<(u64, u8)> = (0..200).map(|minute| (minute, (minute % 40) as u8)).collect();
        for (minutes, expected) in [(29, false), (30, true), (89, true), (90, false), (119, false), (120, true)] {
            assert_eq!(after(minutes, 40, false, &friends), expected, "{minutes}");
        }
        assert!(!after(40, 40, false, &[(15, 99)]), "a stranger asked within the half hour");
        assert!(after(46, 40, false, &[(15, 99)]), "but not again");
        assert!(!after(35, 40, false, &[(33, 99)]), "reached after all");
        assert!(!after(300, 40, true, &[]), "a network of one's own");
        assert!(!after(30, 3, false, &[]), "too few to tell");
    }

    #[test]
    fn hosts_are_forgotten_and_their_number_is_bounded() {
        let start = Instant::now();
        let mut reach = Reachability::new(start);
        for n in 0..3 * MAX_HOSTS as u32 {
            reach.sent(start, SocketAddr::from(((0x0800_0000 + n).to_be_bytes(), 1)));
        }
        assert!(reach.sent_to.len() <= MAX_HOSTS && reach.sent_to_before.len() <= MAX_HOSTS);
        reach.sent(start + GENERATION, public(1));
        reach.sent(start + 2 * GENERATION, public(2));
        assert_eq!((reach.sent_to.len(), reach.sent_to_before.len()), (1, 1));
        reach.sent(start + 9 * GENERATION, public(3));
        assert_eq!((reach.sent_to.len(), reach.sent_to_before.len()), (1, 0));
    }
}
