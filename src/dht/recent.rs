//! Nodes that answered lately, wherever they are: a lookup starts from the nearest of them too.
//!
//! The table knows eight nodes for the far half of all targets, so each lookup there would begin with the same few: our
//! pace at them bounds all lookups together, and what other lookups have just learnt would be asked for again. These are
//! not looked after; who does not answer any more goes.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::table::QUESTIONABLE_AFTER;
use crate::net::{host, is_public};
use crate::wire::id::Target;
use crate::wire::krpc::Contact;

/// Nodes remembered: some 200 KiB. Past that, the half that was heard of last stays.
const MAX_NODES: usize = 2048;

/// By host, so that one of them has one place whatever ids it takes; on loopback and private networks by socket address.
#[derive(Debug, Default)]
pub(super) struct Recent(HashMap<(IpAddr, Option<u16>), Heard>);

#[derive(Debug)]
struct Heard {
    contact: Contact,
    at: Instant,
}

impl Recent {
    /// A node answered a query of ours.
    pub(super) fn answered(&mut self, now: Instant, contact: Contact) {
        let place = place(contact.addr);
        if self.0.len() >= MAX_NODES && !self.0.contains_key(&place) {
            self.forget_half();
        }
        self.0.insert(place, Heard { contact, at: now });
    }

    /// It did not answer, or under another id.
    pub(super) fn failed(&mut self, addr: SocketAddr) {
        self.0.remove(&place(addr));
    }

    /// The up to `count` nodes nearest to `target` that are good by BEP 5: "A good node is a node has responded to one of
    /// our queries within the last 15 minutes". In no order.
    pub(super) fn closest(&self, now: Instant, target: &Target, count: usize) -> Vec<Contact> {
        let good = self.0.values().filter(|heard| now.duration_since(heard.at) < QUESTIONABLE_AFTER);
        let mut closest: Vec<Contact> = good.map(|heard| heard.contact).collect();
        if closest.len() > count {
            closest.select_nth_unstable_by_key(count, |contact| contact.id.distance(target));
            closest.truncate(count);
        }
        closest
    }

    fn forget_half(&mut self) {
        let mut times: Vec<Instant> = self.0.values().map(|heard| heard.at).collect();
        let (_, middle, _) = times.select_nth_unstable(MAX_NODES / 2);
        let middle = *middle;
        self.0.retain(|_, heard| heard.at > middle);
    }
}

fn place(addr: SocketAddr) -> (IpAddr, Option<u16>) {
    if is_public(addr.ip()) { (host(addr.ip()), None) } else { (addr.ip(), Some(addr.port())) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wire::id::NodeId;

    const TARGET: Target = Target([0; 20]);

    /// Node `n`, at distance `n`.
    fn node(n: u16, addr: impl Into<SocketAddr>) -> Contact {
        let mut id = [0; 20];
        id[18..].copy_from_slice(&n.to_be_bytes());
        Contact { id: NodeId(id), addr: addr.into() }
    }

    fn distances(mut nodes: Vec<Contact>) -> Vec<u8> {
        nodes.sort_by_key(|contact| contact.id.distance(&TARGET));
        nodes.iter().map(|contact| contact.id.0[19]).collect()
    }

    #[test]
    fn the_nearest_that_answered_within_a_quarter_of_an_hour_are_named() {
        let start = Instant::now();
        let mut recent = Recent::default();
        let local = |n: u16| node(n, ([127, 0, 0, 1], 1000 + n));
        (1..=20).for_each(|n| recent.answered(start + Duration::from_secs(n.into()), local(n)));
        let soon = start + Duration::from_secs(60);
        assert_eq!(distances(recent.closest(soon, &TARGET, 4)), [1, 2, 3, 4]);
        recent.failed(local(2).addr);
        assert_eq!(distances(recent.closest(soon, &TARGET, 4)), [1, 3, 4, 5]);
        assert_eq!(distances(recent.closest(start + QUESTIONABLE_AFTER, &TARGET, 4)), [1, 3, 4, 5]);
        let later = start + QUESTIONABLE_AFTER + Duration::from_secs(18);
        assert_eq!(distances(recent.closest(later, &TARGET, 4)), [19, 20]);
    }

    #[test]
    fn a_public_host_has_one_place() {
        let start = Instant::now();
        let mut recent = Recent::default();
        recent.answered(start, node(1, ([8, 8, 8, 8], 1)));
        recent.answered(start, node(2, ([8, 8, 8, 8], 2)));
        recent.answered(start, node(3, ([8, 8, 4, 4], 1)));
        assert_eq!(distances(recent.closest(start, &TARGET, 8)), [2, 3]);
    }

    #[test]
    fn the_newest_stay_when_there_are_too_many() {
        let start = Instant::now();
        let mut recent = Recent::default();
        let public = |n: u32| SocketAddr::from(((0x0800_0000 + n).to_be_bytes(), 1));
        let at = |n: u32| start + Duration::from_millis(n.into());
        for n in 0..10 * MAX_NODES as u32 {
            recent.answered(at(n), node(n as u16, public(n)));
            assert!(recent.0.len() <= MAX_NODES);
        }
        let last = 10 * MAX_NODES as u32 - 1;
        let nodes = recent.closest(at(last), &TARGET, MAX_NODES);
        let oldest = last - MAX_NODES as u32 / 2 + 2;
        assert!((oldest..=last).all(|n| nodes.iter().any(|contact| contact.addr == public(n))));
    }
}
