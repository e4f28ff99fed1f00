//! The second half of a put or an announcement: storing on the nodes that a lookup found.

use std::collections::{BTreeMap, VecDeque};

use crate::wire::krpc::{CAS_MISMATCH, Contact, SEQ_TOO_LOW};

/// Nodes that are to keep an item. BEP 44 has no number, and K would be usual; but when half of the nodes are replaced in
/// the hour until it is put again, one item in 250 is then on none of eight, and in 4,000 on none of twelve.
pub(super) const COPIES: usize = 12;

/// A node to store on, with its token, and what its answer to the lookup said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoreNode {
    pub(super) contact: Contact,
    pub(super) token: Vec<u8>,
    /// What it holds at the target.
    pub(super) holds: Holds,
}

/// What a node holds at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Nothing,
    /// Another version, of this number.
    Another(i64),
    /// The very item that is to be stored.
    This,
}

/// Stores on so many of the nearest nodes. A node that does not answer or cannot take such an item is replaced by the next
/// one; one that has something better keeps its place. Whoever holds a former version gets the new one too, or it would
/// go on telling the old one.
///
/// Of two who put over the same version (`cas`) at the same moment, one is to win. So the first to be asked is the nearest
/// node that holds that version, which both know to be the nearest: whom it refuses has lost, and is stored nowhere.
#[derive(Debug)]
pub(super) struct Store {
    copies: usize,
    nodes: VecDeque<StoreNode>,
    in_flight: Vec<StoreNode>,
    stored: usize,
    rejected: BTreeMap<i64, usize>,
    /// The version that one node has yet to let it replace before others are asked.
    undecided: Option<i64>,
}

impl Store {
    /// `nodes` come nearest first. `over`: only over the version of that number.
    pub(super) fn new(nodes: Vec<StoreNode>, copies: usize, over: Option<i64>) -> Self {
        let (in_flight, rejected) = (Vec::new(), BTreeMap::new());
        Self { copies, nodes: nodes.into(), in_flight, stored: 0, rejected, undecided: over }
    }

    /// Where to store now.
    #[must_use]
    pub(super) fn next(&mut self) -> Vec<StoreNode> {
        if let Some(over) = self.undecided {
            if !self.in_flight.is_empty() {
                return Vec::new();
            }
            let decides = self.nodes.iter().position(|node| node.holds == Holds::Another(over));
            if let Some(node) = decides.and_then(|at| self.nodes.remove(at)) {
                self.in_flight.push(node.clone());
                return vec![node];
            }
            // Nobody has anything to put over.
            self.undecided = None;
        }
        let conflicts: usize = [CAS_MISMATCH, SEQ_TOO_LOW].iter().filter_map(|code| self.rejected.get(code)).sum();
        let wanted = self.copies.saturating_sub(self.stored + conflicts + self.in_flight.len()).min(self.nodes.len());
        let mut next: Vec<StoreNode> = self.nodes.drain(..wanted).collect();
        let (former, nodes) = self.nodes.drain(..).partition(|node| matches!(node.holds, Holds::Another(_)));
        self.nodes = nodes;
        next.extend::<VecDeque<StoreNode>>(former);
        self.in_flight.extend(next.iter().cloned());
        next
    }

    /// The node took it.
    pub(super) fn taken(&mut self, contact: &Contact) {
        if self.settle(contact).is_some() {
            self.stored += 1;
            self.undecided = None;
        }
    }

    /// Our own node is the nearest that holds a version, and has taken this one over it, or refused it with a code.
    pub(super) fn decided_here(&mut self, result: Result<(), i64>) {
        match result {
            Ok(()) => self.undecided = None,
            Err(code @ (CAS_MISMATCH | SEQ_TOO_LOW)) => {
                self.nodes.clear();
                *self.rejected.entry(code).or_default() += 1;
            }
            // It cannot be kept here, so it is for the next one to say.
            Err(_) => {}
        }
    }

    /// The node refused it. bittorrent-dht answers 302 to the item it holds already, which is as good as storing it.
    pub(super) fn refused(&mut self, contact: &Contact, code: i64) {
        match self.settle(contact) {
            Some(node) if code == SEQ_TOO_LOW && node.holds == Holds::This => self.stored += 1,
            Some(_) => {
                *self.rejected.entry(code).or_default() += 1;
                if self.undecided.is_some() && matches!(code, CAS_MISMATCH | SEQ_TOO_LOW) {
                    self.nodes.clear();
                }
            }
            None => {}
        }
    }

    /// The node did not answer.
    pub(super) fn failed(&mut self, contact: &Contact) {
        self.settle(contact);
    }

    /// Whether no node took it, and one at least has something that came before it.
    pub(super) fn is_beaten(&self) -> bool {
        self.stored == 0 && [CAS_MISMATCH, SEQ_TOO_LOW].iter().any(|code| self.rejected.contains_key(code))
    }

    /// Whether everybody has answered or been given up; to be asked after [`Store::next`] returned nothing.
    pub(super) fn is_done(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Nodes that have it, and refusals by code.
    pub(super) fn result(self) -> (usize, Vec<(i64, usize)>) {
        (self.stored, self.rejected.into_iter().collect())
    }

    fn settle(&mut self, contact: &Contact) -> Option<StoreNode> {
        let at = self.in_flight.iter().position(|node| node.contact == *contact)?;
        Some(self.in_flight.swap_remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::table::K;
    use crate::wire::id::NodeId;

    fn node(n: u8, holds: Holds) -> StoreNode {
        let contact = Contact { id: NodeId([n; 20]), addr: ([127, 0, 0, 1], n.into()).into() };
        StoreNode { contact, token: vec![n], holds }
    }

    #[test]
    fn it_stores_on_eight_and_replaces_those_that_fail() {
        let mut store = Store::new((0..20).map(|n| node(n, Holds::Nothing)).collect(), K, None);
        let first = store.next();
        assert_eq!(first.len(), K);
        assert_eq!(store.next(), []);
        first[..5].iter().for_each(|p| store.taken(&p.contact));
        store.failed(&first[5].contact);
        store.refused(&first[6].contact, 203);
        store.refused(&first[7].contact, 302);
        let second = store.next();
        assert_eq!(second, [node(8, Holds::Nothing), node(9, Holds::Nothing)], "not for the one with a newer item");
        second.iter().for_each(|p| store.taken(&p.contact));
        store.taken(&second[0].contact);
        assert_eq!(store.next(), []);
        assert!(store.is_done());
        assert_eq!(store.result(), (7, vec![(203, 1), (302, 1)]));
    }

    #[test]
    fn who_holds_a_former_version_gets_the_new_one_wherever_it_is() {
        let holds = |n: u8| if n == 15 { Holds::Another(1) } else { Holds::Nothing };
        let mut store = Store::new((0..20).map(|n| node(n, holds(n))).collect(), K, None);
        let first = store.next();
        assert_eq!(first.iter().map(|p| p.token[0]).collect::<Vec<u8>>(), [0, 1, 2, 3, 4, 5, 6, 7, 15]);
        first.iter().for_each(|p| store.taken(&p.contact));
        assert_eq!(store.next(), []);
        assert_eq!(store.result(), (9, vec![]));
    }

    #[test]
    fn a_refusal_of_the_same_item_is_a_copy() {
        let nodes = vec![node(1, Holds::This), node(2, Holds::Another(7)), node(3, Holds::This)];
        let mut store = Store::new(nodes, K, None);
        let nodes = store.next();
        store.refused(&nodes[0].contact, 302);
        store.refused(&nodes[1].contact, 302);
        store.refused(&nodes[2].contact, 301);
        assert_eq!(store.result(), (1, vec![(301, 1), (302, 1)]));
    }

    /// Nodes 1 to 5, of which 2 and 4 hold the version that it is to be put over: 2 decides, or 4 when it cannot. 3 is behind.
    #[test]
    fn the_nearest_that_holds_what_it_is_put_over_decides() {
        let numbers = |nodes: &[StoreNode]| nodes.iter().map(|node| node.token[0]).collect::<Vec<_>>();
        let store = || {
            let holds = |n: u8| match n {
                2 | 4 => Holds::Another(7),
                3 => Holds::Another(6),
                _ => Holds::Nothing,
            };
            Store::new((1..=5).map(|n| node(n, holds(n))).collect(), K, Some(7))
        };
        let contact = |n| node(n, Holds::Nothing).contact;

        let mut taken = store();
        assert_eq!((numbers(&taken.next()), numbers(&taken.next())), (vec![2], vec![]));
        taken.taken(&contact(2));
        assert_eq!(numbers(&taken.next()), [1, 3, 4, 5]);

        let mut refused = store();
        assert_eq!(numbers(&refused.next()), [2]);
        refused.refused(&contact(2), 301);
        assert_eq!(refused.next(), []);
        assert!(refused.is_done() && refused.is_beaten());
        assert_eq!(refused.result(), (0, vec![(301, 1)]));

        let mut gone = store();
        assert_eq!(numbers(&gone.next()), [2]);
        gone.failed(&contact(2));
        assert_eq!(numbers(&gone.next()), [4]);
        gone.refused(&contact(4), 203);
        assert_eq!(numbers(&gone.next()), [1, 3, 5], "nobody is left who could tell");

        let mut here = store();
        here.decided_here(Ok(()));
        assert_eq!(numbers(&here.next()), [1, 2, 3, 4, 5]);
        let mut lost = store();
        lost.decided_here(Err(301));
        assert_eq!(lost.next(), []);
        assert!(lost.is_beaten());
    }
}
