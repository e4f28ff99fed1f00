//! The routing table (BEP 5): the nodes we know, more of them the nearer they are to us.
//!
//! One bucket of [`K`] for each length of the prefix shared with our own id, which is what splitting buckets as BEP 5
//! describes leads to. A node gets in by answering a query of ours, never by merely sending something.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use super::node_id;
use crate::net::{host, is_public};
use crate::wire::id::{NodeId, Target};
use crate::wire::krpc::Contact;

/// Nodes in a bucket, and nodes that keep an item. BEP 5: "K is currently eight".
pub(super) const K: usize = 8;

/// BEP 5: "After 15 minutes of inactivity, a node becomes questionable", and the age at which a bucket is refreshed.
pub(super) const QUESTIONABLE_AFTER: Duration = Duration::from_secs(15 * 60);

/// BEP 5: "Nodes become bad when they fail to respond to multiple queries in a row".
const BAD_AFTER: u8 = 2;

#[derive(Debug)]
pub(super) struct Table {
    own: NodeId,
    /// As many as the deepest node needs.
    buckets: Vec<Bucket>,
}

#[derive(Debug, Default)]
struct Bucket {
    nodes: Vec<Node>,
    /// Nodes that answered when the bucket was full, newest last: they replace those that turn bad.
    spares: VecDeque<Contact>,
    /// When a node was last added or answered; `None` until somebody looked.
    changed: Option<Instant>,
}

#[derive(Debug)]
struct Node {
    contact: Contact,
    seen: Instant,
    failures: u8,
}

impl Node {
    fn is_bad(&self) -> bool {
        self.failures >= BAD_AFTER
    }

    fn is_good(&self, now: Instant) -> bool {
        self.failures == 0 && now.duration_since(self.seen) < QUESTIONABLE_AFTER
    }

    /// Whether BEP 42 would rather have another node here.
    fn is_misplaced(&self) -> bool {
        !node_id::fits(&self.contact.id, self.contact.addr.ip())
    }
}

impl Table {
    pub(super) fn new(own: NodeId) -> Self {
        Self { own, buckets: Vec::new() }
    }

    pub(super) fn own_id(&self) -> NodeId {
        self.own
    }

    /// A node answered a query. Returns a node to ping when the new one can only have the place of one not heard of for
    /// long. BEP 5: "If there are any questionable nodes in the bucket […] the least recently seen node is pinged".
    #[must_use]
    pub(super) fn answered(&mut self, now: Instant, contact: Contact) -> Option<Contact> {
        if contact.id == self.own {
            return None;
        }
        match self.rival(&contact) {
            // A host that came back under a new id takes the place of its old self.
            Some(former) if former.addr == contact.addr => self.remove(&former),
            // Of public hosts that claim several ids, only one gets in.
            Some(_) => return None,
            None => {}
        }
        let bucket = self.bucket_mut(&contact.id)?;
        bucket.changed = Some(now);
        let node = Node { contact, seen: now, failures: 0 };
        if let Some(known) = bucket.nodes.iter_mut().find(|known| known.contact.id == contact.id) {
            // One id at two addresses: the one that is known and answers stays, or anybody could take its place.
            if known.contact.addr == contact.addr || known.failures > 0 {
                *known = node;
            }
        } else if bucket.nodes.len() < K {
            bucket.nodes.push(node);
        } else if let Some(bad) = bucket.nodes.iter_mut().find(|known| known.is_bad()) {
            *bad = node;
        } else if let Some(misplaced) =
            bucket.nodes.iter_mut().find(|known| known.is_misplaced() && !node.is_misplaced())
        {
            *misplaced = node;
        } else {
            return bucket.keep_spare(now, contact);
        }
        None
    }

    /// A node sent a query. Returns whether it is unknown and would be welcome: then a ping finds out if it answers.
    #[must_use]
    pub(super) fn queried(&mut self, now: Instant, contact: Contact) -> bool {
        if contact.id == self.own {
            return false;
        }
        if let Some(rival) = self.rival(&contact) {
            // `mainline` nodes make up an id for each query, and anybody may make up an address. As long as the node
            // known there answers, nothing has changed.
            return rival.addr == contact.addr && self.has_failed(&rival);
        }
        let Some(bucket) = self.bucket_mut(&contact.id) else { return false };
        match bucket.nodes.iter_mut().find(|known| known.contact == contact) {
            Some(known) => {
                known.seen = now;
                false
            }
            None => bucket.nodes.len() < K || bucket.nodes.iter().any(Node::is_bad),
        }
    }

    /// A node did not answer a query. Unless that is `sure`, it only becomes one to be pinged.
    pub(super) fn failed(&mut self, contact: &Contact, sure: bool) {
        let Some(bucket) = self.bucket_mut(&contact.id) else { return };
        let Some(at) = bucket.nodes.iter().position(|known| known.contact == *contact) else { return };
        let failures = bucket.nodes[at].failures;
        bucket.nodes[at].failures = if sure { failures.saturating_add(1) } else { failures.max(1) };
        if bucket.nodes[at].is_bad() {
            self.replace_by_spare(contact);
        }
    }

    /// The up to `count` nodes nearest to `target` that are not bad and are wanted, nearest first.
    pub(super) fn closest(&self, target: &Target, count: usize, is_wanted: impl Fn(&Contact) -> bool) -> Vec<Contact> {
        // Those of the bucket that the target would be in share more bits with it than with us, so they come first. Those
        // in deeper buckets share with it what we do, and those of each bucket farther out less and less.
        let shared = (self.own.distance(target).leading_zeros() as usize).min(self.buckets.len());
        let (farther, nearer) = self.buckets.split_at(shared);
        let (same, deeper) = nearer.split_at(nearer.len().min(1));
        let mut closest: Vec<Contact> = Vec::new();
        for buckets in [same, deeper].into_iter().chain(farther.rchunks(1)) {
            let from = closest.len();
            let nodes = buckets.iter().flat_map(|bucket| &bucket.nodes).filter(|node| !node.is_bad());
            closest.extend(nodes.map(|node| node.contact).filter(&is_wanted));
            closest[from..].sort_unstable_by_key(|contact| contact.id.distance(target));
            if closest.len() >= count {
                closest.truncate(count);
                break;
            }
        }
        closest
    }

    /// How many nodes are good now.
    pub(super) fn good_count(&self, now: Instant) -> usize {
        self.nodes().filter(|node| node.is_good(now)).count()
    }

    /// Every node that was not bad when last heard of, to be remembered over a restart.
    pub(super) fn contacts(&self) -> Vec<Contact> {
        self.nodes().filter(|node| !node.is_bad()).map(|node| node.contact).collect()
    }

    /// Every address, good or bad: where to look when the whole network seems gone.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes().map(|node| node.contact.addr).collect()
    }

    /// A node that should be pinged to see if it is still there.
    pub(super) fn questionable(&self, now: Instant) -> Option<Contact> {
        let due = self.nodes().filter(|node| !node.is_good(now) && !node.is_bad());
        due.min_by_key(|node| node.seen).map(|node| node.contact)
    }

    /// When there will be something to do: a node to be pinged, or a bucket to be refreshed. A time that has passed means
    /// now.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let pings = self.nodes().filter(|node| !node.is_bad());
        let pings = pings.map(|node| if node.failures > 0 { now } else { node.seen + QUESTIONABLE_AFTER });
        let deepest = self.buckets.iter().rposition(|bucket| !bucket.nodes.is_empty())?;
        let refresh = |bucket: &Bucket| bucket.changed.map_or(now, |at| at + QUESTIONABLE_AFTER);
        pings.chain(self.buckets[..=deepest].iter().map(refresh)).min()
    }

    /// A point in a bucket where nothing changed for 15 minutes, to be looked for. Buckets farther down than any node
    /// known are covered by looking for our own id.
    pub(super) fn stale_point(&mut self, now: Instant, rng: &mut impl Rng) -> Option<Target> {
        let deepest = self.buckets.iter().rposition(|bucket| !bucket.nodes.is_empty())?;
        let stale = |bucket: &Bucket| bucket.changed.is_none_or(|at| now.duration_since(at) >= QUESTIONABLE_AFTER);
        let index = self.buckets[..=deepest].iter().position(stale)?;
        self.buckets[index].changed = Some(now);
        Some(point_in_bucket(&self.own, index, rng))
    }

    /// Takes another id, keeping every node for which there is a place.
    pub(super) fn rehome(&mut self, own: NodeId) {
        let old = std::mem::replace(self, Self::new(own));
        for node in old.buckets.into_iter().flat_map(|bucket| bucket.nodes) {
            if let Some(bucket) = self.bucket_mut(&node.contact.id).filter(|bucket| bucket.nodes.len() < K) {
                bucket.nodes.push(node);
            }
        }
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.buckets.iter().flat_map(|bucket| &bucket.nodes)
    }

    fn bucket_mut(&mut self, id: &NodeId) -> Option<&mut Bucket> {
        let shared = self.own.distance(&Target(id.0)).leading_zeros() as usize;
        if shared >= 160 {
            return None;
        }
        if shared >= self.buckets.len() {
            self.buckets.resize_with(shared + 1, Bucket::default);
        }
        self.buckets.get_mut(shared)
    }

    /// Another node of the table at the same address, or, in public, on the same host.
    fn rival(&self, contact: &Contact) -> Option<Contact> {
        let is_public = is_public(contact.addr.ip());
        let is_same_place = |known: &Contact| {
            known.addr == contact.addr || (is_public && host(known.addr.ip()) == host(contact.addr.ip()))
        };
        let mut contacts = self.nodes().map(|node| node.contact);
        contacts.find(|known| known.id != contact.id && is_same_place(known))
    }

    /// Gives the place of a bad node to the newest spare, unless that has come in elsewhere since. A spare has answered once
    /// but not lately: it gets the place as a questionable node.
    fn replace_by_spare(&mut self, bad: &Contact) {
        while let Some(spare) = self.bucket_mut(&bad.id).and_then(|bucket| bucket.spares.pop_back()) {
            let is_known = self.nodes().any(|node| node.contact.id == spare.id)
                || self.rival(&spare).is_some_and(|rival| rival != *bad);
            let bucket = self.bucket_mut(&bad.id).filter(|_| !is_known);
            let place = bucket.and_then(|bucket| bucket.nodes.iter_mut().find(|node| node.contact == *bad));
            if let Some(place) = place {
                *place = Node { contact: spare, seen: place.seen, failures: 0 };
                return;
            }
        }
    }

    fn has_failed(&self, contact: &Contact) -> bool {
        self.nodes().any(|node| node.contact == *contact && node.failures > 0)
    }

    fn remove(&mut self, contact: &Contact) {
        if let Some(bucket) = self.bucket_mut(&contact.id) {
            bucket.nodes.retain(|known| known.contact != *contact);
        }
    }

    /// The nodes that are good now.
    #[cfg(test)]
    pub(super) fn good(&self, now: Instant) -> Vec<Contact> {
        self.nodes().filter(|node| node.is_good(now)).map(|node| node.contact).collect()
    }

    /// What must hold after every step.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        let mut addrs = std::collections::HashSet::new();
        for (shared, bucket) in self.buckets.iter().enumerate() {
            assert!(bucket.nodes.len() <= K && bucket.spares.len() <= K);
            for Node { contact, .. } in &bucket.nodes {
                assert_eq!(self.own.distance(&Target(contact.id.0)).leading_zeros() as usize, shared);
                assert!(addrs.insert(contact.addr), "two nodes at {}", contact.addr);
            }
        }
    }
}

impl Bucket {
    fn keep_spare(&mut self, now: Instant, contact: Contact) -> Option<Contact> {
        self.spares.retain(|spare| spare.id != contact.id && spare.addr != contact.addr);
        if self.spares.len() >= K {
            self.spares.pop_front();
        }
        self.spares.push_back(contact);
        let oldest = self.nodes.iter().min_by_key(|node| node.seen).filter(|node| !node.is_good(now));
        oldest.map(|node| node.contact)
    }
}

/// A random id that shares exactly `shared` leading bits with ours.
fn point_in_bucket(own: &NodeId, shared: usize, rng: &mut impl Rng) -> Target {
    let mut id: [u8; 20] = rng.random();
    for bit in 0..=shared {
        let (byte, mask) = (bit / 8, 0x80 >> (bit % 8));
        let own_bit = own.0[byte] & mask;
        let wanted = if bit == shared { own_bit ^ mask } else { own_bit };
        id[byte] = id[byte] & !mask | wanted;
    }
    Target(id)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const OWN: NodeId = NodeId([0; 20]);
    const MINUTE: Duration = Duration::from_secs(60);

    /// Node `n` of the farthest bucket, on loopback.
    fn far(n: u8) -> Contact {
        let mut id = [0x80; 20];
        id[19] = n;
        Contact { id: NodeId(id), addr: ([127, 0, 0, 1], 1000 + u16::from(n)).into() }
    }

    fn full(now: Instant) -> Table {
        let mut table = Table::new(OWN);
        for n in 0..K as u8 {
            assert_eq!(table.answered(now, far(n)), None);
        }
        table
    }

    fn holds(table: &Table, contact: Contact) -> bool {
        table.nodes().any(|node| node.contact == contact)
    }

    #[test]
    fn good_nodes_stay_when_a_bucket_is_full() {
        let now = Instant::now();
        let mut table = full(now);
        assert_eq!(table.answered(now, far(100)), None);
        assert!(!holds(&table, far(100)) && !table.queried(now, far(101)));
        assert_eq!(table.good_count(now), K);
    }

    #[test]
    fn a_questionable_node_is_pinged_and_replaced_when_it_fails_twice() {
        let start = Instant::now();
        let mut table = full(start);
        let later = start + QUESTIONABLE_AFTER + MINUTE;
        assert_eq!(table.questionable(later), Some(far(0)));
        for n in 1..K as u8 {
            assert_eq!(table.answered(later, far(n)), None);
        }
        assert_eq!(table.answered(later, far(100)), Some(far(0)), "the one to ping");
        (0..9).for_each(|_| table.failed(&far(0), false));
        assert!(holds(&table, far(0)) && table.questionable(later) == Some(far(0)), "datagrams are lost");
        table.failed(&far(0), true);
        assert!(!holds(&table, far(0)) && holds(&table, far(100)));
    }

    /// Without a look at who is there by now, one address would have been in the table twice.
    #[test]
    fn a_spare_that_came_back_under_another_id_is_no_spare_any_more() {
        let now = Instant::now();
        let mut table = full(now);
        assert_eq!(table.answered(now, far(100)), None);
        assert_eq!(table.answered(now, far(101)), None);
        let near = Contact { id: NodeId([0x40; 20]), addr: far(101).addr };
        assert_eq!(table.answered(now, near), None);
        (0..2).for_each(|_| table.failed(&far(0), true));
        assert!(holds(&table, far(100)) && holds(&table, near) && !holds(&table, far(101)));
        table.check_invariants();
    }

    #[test]
    fn a_bad_node_makes_room_and_is_not_named() {
        let now = Instant::now();
        let mut table = full(now);
        table.failed(&far(3), true);
        table.failed(&far(3), true);
        assert!(!table.closest(&Target(far(3).id.0), K, |_| true).contains(&far(3)));
        assert!(table.queried(now, far(100)), "a newcomer would be welcome");
        assert_eq!(table.answered(now, far(100)), None);
        assert!(holds(&table, far(100)) && !holds(&table, far(3)));
    }

    #[test]
    fn a_query_keeps_a_node_good_but_lets_nobody_in() {
        let start = Instant::now();
        let mut table = Table::new(OWN);
        assert!(table.queried(start, far(0)) && !holds(&table, far(0)));
        assert_eq!(table.answered(start, far(0)), None);
        let later = start + QUESTIONABLE_AFTER;
        assert_eq!(table.good_count(later), 0);
        assert!(!table.queried(later, far(0)));
        assert_eq!(table.good_count(later), 1);
    }

    #[test]
    fn an_id_or_an_address_cannot_be_taken_over() {
        let now = Instant::now();
        let mut table = Table::new(OWN);
        assert_eq!(table.answered(now, far(0)), None);
        let same_id = Contact { addr: far(1).addr, ..far(0) };
        assert_eq!(table.answered(now, same_id), None);
        assert!(holds(&table, far(0)) && !holds(&table, same_id), "the known one answers, so it stays");
        table.failed(&far(0), true);
        assert_eq!(table.answered(now, same_id), None);
        assert!(holds(&table, same_id), "it moved");
        let restarted = Contact { id: far(9).id, ..same_id };
        assert!(!table.queried(now, restarted), "the known node may still answer");
        table.failed(&same_id, true);
        assert!(table.queried(now, restarted) && holds(&table, same_id), "a query may be forged, so it is only asked");
        assert_eq!(table.answered(now, restarted), None);
        assert!(holds(&table, restarted) && !holds(&table, same_id), "a new id at the same address");
    }

    #[test]
    fn public_hosts_have_one_node_and_ids_that_fit_are_preferred() {
        let now = Instant::now();
        let mut rng = StdRng::seed_from_u64(1);
        let mut table = Table::new(OWN);
        let host = |n: u8, port: u16| Contact { id: far(n).id, addr: ([8, 8, 8, n], port).into() };
        for n in 0..K as u8 {
            assert_eq!(table.answered(now, host(n, 1)), None);
        }
        assert_eq!(table.answered(now, Contact { addr: host(0, 2).addr, ..far(50) }), None);
        assert_eq!(table.nodes().count(), K);
        let fitting = loop {
            let id = node_id::for_address([9, 9, 9, 9].into(), &mut rng);
            if id.0[0] & 0x80 != 0 {
                break Contact { id, addr: ([9, 9, 9, 9], 1).into() };
            }
        };
        assert_eq!(table.answered(now, fitting), None);
        assert!(holds(&table, fitting));
    }

    #[test]
    fn the_nearest_come_first_and_every_bucket_is_refreshed() {
        let now = Instant::now();
        let mut rng = StdRng::seed_from_u64(1);
        let mut table = Table::new(OWN);
        for shared in 0..20 {
            let point = point_in_bucket(&OWN, shared, &mut rng);
            let contact = Contact { id: NodeId(point.0), addr: ([127, 0, 0, 1], 1 + shared as u16).into() };
            assert_eq!(OWN.distance(&point).leading_zeros() as usize, shared);
            assert_eq!(table.answered(now, contact), None);
        }
        let nearest: Vec<u16> = table.closest(&Target([0; 20]), 3, |_| true).iter().map(|c| c.addr.port()).collect();
        assert_eq!(nearest, [20, 19, 18]);
        assert_eq!(table.stale_point(now, &mut rng), None);
        let later = now + QUESTIONABLE_AFTER;
        let refreshed = std::iter::from_fn(|| table.stale_point(later, &mut rng)).count();
        assert_eq!(refreshed, 20);
        table.rehome(NodeId([0x80; 20]));
        assert_eq!(
            table.nodes().count(),
            1 + K,
            "nodes that shared a long prefix with the old id are all far from the new"
        );
    }
}
