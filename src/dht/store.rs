//! The second half of a put or an announcement: storing on the nodes that a lookup found.

use std::collections::{BTreeMap, VecDeque};

use crate::wire::krpc::{CAS_MISMATCH, Contact, SEQ_TOO_LOW};

/// Nodes that are to keep an item. BEP 44 has no number, and K would be usual; but when half of the nodes are replaced in
/// the hour until it is put again, one item in 250 is then on none of eight, and in 4,000 on none of twelve.
pub(super) const COPIES: usize = 12;

/// A place to store: the node, its token, and what its answer to the lookup said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) contact: Contact,
    pub(super) token: Vec<u8>,
    /// What the node holds at the target.
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

/// Stores on so many of the nearest places. A node that does not answer or cannot take such an item is replaced by the next
/// one; one that has something better keeps its place. Whoever holds a former version gets the new one too, or it would
/// go on telling the old one.
#[derive(Debug)]
pub(super) struct Store {
    copies: usize,
    places: VecDeque<Place>,
    in_flight: Vec<Place>,
    stored: usize,
    rejected: BTreeMap<i64, usize>,
}

impl Store {
    /// `places` come nearest first.
    pub(super) fn new(places: Vec<Place>, copies: usize) -> Self {
        Self { copies, places: places.into(), in_flight: Vec::new(), stored: 0, rejected: BTreeMap::new() }
    }

    /// Where to store now.
    #[must_use]
    pub(super) fn next(&mut self) -> Vec<Place> {
        let conflicts: usize = [CAS_MISMATCH, SEQ_TOO_LOW].iter().filter_map(|code| self.rejected.get(code)).sum();
        let wanted = self.copies.saturating_sub(self.stored + conflicts + self.in_flight.len()).min(self.places.len());
        let mut next: Vec<Place> = self.places.drain(..wanted).collect();
        let (former, places) = self.places.drain(..).partition(|place| matches!(place.holds, Holds::Another(_)));
        self.places = places;
        next.extend::<VecDeque<Place>>(former);
        self.in_flight.extend(next.iter().cloned());
        next
    }

    /// The node took it.
    pub(super) fn taken(&mut self, contact: &Contact) {
        self.stored += usize::from(self.settle(contact).is_some());
    }

    /// The node refused it. bittorrent-dht answers 302 to the item it holds already, which is as good as storing it.
    pub(super) fn refused(&mut self, contact: &Contact, code: i64) {
        match self.settle(contact) {
            Some(place) if code == SEQ_TOO_LOW && place.holds == Holds::This => self.stored += 1,
            Some(_) => *self.rejected.entry(code).or_default() += 1,
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

    fn settle(&mut self, contact: &Contact) -> Option<Place> {
        let at = self.in_flight.iter().position(|place| place.contact == *contact)?;
        Some(self.in_flight.swap_remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dht::table::K;
    use crate::wire::id::NodeId;

    fn place(n: u8, holds: Holds) -> Place {
        let contact = Contact { id: NodeId([n; 20]), addr: ([127, 0, 0, 1], n.into()).into() };
        Place { contact, token: vec![n], holds }
    }

    #[test]
    fn it_stores_on_eight_and_replaces_those_that_fail() {
        let mut store = Store::new((0..20).map(|n| place(n, Holds::Nothing)).collect(), K);
        let first = store.next();
        assert_eq!(first.len(), K);
        assert_eq!(store.next(), []);
        first[..5].iter().for_each(|p| store.taken(&p.contact));
        store.failed(&first[5].contact);
        store.refused(&first[6].contact, 203);
        store.refused(&first[7].contact, 302);
        let second = store.next();
        assert_eq!(second, [place(8, Holds::Nothing), place(9, Holds::Nothing)], "not for the one with a newer item");
        second.iter().for_each(|p| store.taken(&p.contact));
        store.taken(&second[0].contact);
        assert_eq!(store.next(), []);
        assert!(store.is_done());
        assert_eq!(store.result(), (7, vec![(203, 1), (302, 1)]));
    }

    #[test]
    fn who_holds_a_former_version_gets_the_new_one_wherever_it_is() {
        let holds = |n: u8| if n == 15 { Holds::Another(1) } else { Holds::Nothing };
        let mut store = Store::new((0..20).map(|n| place(n, holds(n))).collect(), K);
        let first = store.next();
        assert_eq!(first.iter().map(|p| p.token[0]).collect::<Vec<u8>>(), [0, 1, 2, 3, 4, 5, 6, 7, 15]);
        first.iter().for_each(|p| store.taken(&p.contact));
        assert_eq!(store.next(), []);
        assert_eq!(store.result(), (9, vec![]));
    }

    #[test]
    fn a_refusal_of_the_same_item_is_a_copy() {
        let mut store = Store::new(vec![place(1, Holds::This), place(2, Holds::Another(7)), place(3, Holds::This)], K);
        let places = store.next();
        store.refused(&places[0].contact, 302);
        store.refused(&places[1].contact, 302);
        store.refused(&places[2].contact, 301);
        assert_eq!(store.result(), (1, vec![(301, 1), (302, 1)]));
    }
}
