//! What the IPv4 and the IPv6 DHT say together. BEP 32: "There are two distinct DHTs"; whoever is in both asks both.

use super::{GetOutcome, Info, PutOutcome};

/// One answer out of two.
pub(super) trait Together {
    /// The answer of both.
    fn together(self, other: Self) -> Self;
}

impl Together for GetOutcome {
    fn together(self, other: Self) -> Self {
        let (asked, answered) = (self.asked + other.asked, self.answered + other.answered);
        let (item, holders) = match (self.item, other.item) {
            (Some(ours), Some(theirs)) if ours.replaces(&theirs) => (Some(ours), self.holders),
            (Some(ours), Some(theirs)) if theirs.replaces(&ours) => (Some(theirs), other.holders),
            // The same version, or none that is newer than the asker knows.
            (ours, theirs) if ours.is_some() == theirs.is_some() => (ours, self.holders + other.holders),
            (Some(ours), _) => (Some(ours), self.holders),
            (None, theirs) => (theirs, other.holders),
        };
        Self { item, asked, answered, holders }
    }
}

impl Together for PutOutcome {
    fn together(self, other: Self) -> Self {
        let mut rejected = self.rejected;
        for (code, nodes) in other.rejected {
            match rejected.iter_mut().find(|(known, _)| *known == code) {
                Some((_, known)) => *known += nodes,
                None => rejected.push((code, nodes)),
            }
        }
        let newer = match (self.newer, other.newer) {
            (Some(ours), Some(theirs)) if theirs.replaces(&ours) => Some(theirs),
            (ours, theirs) => ours.or(theirs),
        };
        Self { stored: self.stored + other.stored, rejected, newer }
    }
}

impl Together for Option<Vec<u8>> {
    fn together(self, other: Self) -> Self {
        self.or(other)
    }
}

impl Together for usize {
    fn together(self, other: Self) -> Self {
        self + other
    }
}

impl Together for Info {
    fn together(self, other: Self) -> Self {
        // Who knows somebody in one of the two need not wait for the other, which may not reach this host at all.
        let ready = self.is_joined() || other.is_joined() || (self.ready && other.ready);
        Self { id: self.id, good_nodes: self.good_nodes + other.good_nodes, ready }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::wire::id::NodeId;
    use crate::wire::item::{Salt, VerifiedItem};

    fn item(seq: i64) -> VerifiedItem {
        VerifiedItem::sign(&SigningKey::from_bytes(&[1; 32]), Salt::default(), seq, b"1:x".to_vec()).unwrap()
    }

    #[test]
    fn the_newest_item_of_both_and_who_holds_it() {
        let got = |seq: Option<i64>, holders| GetOutcome { item: seq.map(item), asked: 3, answered: 2, holders };
        // IPv4, IPv6 → number, holders
        let table = [
            (got(Some(2), 5), got(Some(1), 7), Some(2), 5),
            (got(Some(1), 5), got(Some(2), 7), Some(2), 7),
            (got(Some(2), 5), got(Some(2), 7), Some(2), 12),
            (got(Some(2), 5), got(None, 7), Some(2), 5),
            (got(None, 5), got(Some(2), 7), Some(2), 7),
            (got(None, 5), got(None, 7), None, 12),
        ];
        for (v4, v6, seq, holders) in table {
            let together = v4.clone().together(v6.clone());
            let found = (together.item.as_ref().map(VerifiedItem::seq), together.holders);
            assert_eq!((found, together.asked, together.answered), ((seq, holders), 6, 4), "{v4:?} {v6:?}");
        }
    }

    #[test]
    fn what_stands_in_the_way_in_either_stands_in_the_way() {
        let put = |stored, rejected: &[(i64, usize)], newer: Option<i64>| PutOutcome {
            stored,
            rejected: rejected.to_vec(),
            newer: newer.map(item),
        };
        let table = [
            (put(8, &[], None), put(3, &[(205, 1)], None), put(11, &[(205, 1)], None)),
            (put(8, &[(302, 1)], None), put(0, &[(302, 4)], Some(9)), put(8, &[(302, 5)], Some(9))),
            (put(0, &[(301, 2)], Some(4)), put(0, &[(302, 4)], Some(9)), put(0, &[(301, 2), (302, 4)], Some(9))),
        ];
        for (v4, v6, expected) in table {
            assert_eq!(v4.together(v6), expected);
        }
    }

    #[test]
    fn one_that_is_joined_is_enough() {
        let info = |good_nodes, ready| Info { id: NodeId([1; 20]), good_nodes, ready };
        let table = [
            (info(3, true), info(0, false), true),
            (info(0, true), info(4, true), true),
            (info(0, true), info(0, false), false),
            (info(3, false), info(0, true), false),
            (info(0, true), info(0, true), true),
        ];
        for (v4, v6, ready) in table {
            assert_eq!(v4.together(v6).ready, ready, "{v4:?} {v6:?}");
            assert_eq!(v4.together(v6).good_nodes, v4.good_nodes + v6.good_nodes);
        }
    }
}
