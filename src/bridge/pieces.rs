//! A set of pieces, kept as the wire's bitfield.

use std::sync::Arc;

use tokio::sync::watch;

/// Which pieces somebody has. BEP 3: "The first byte of the bitfield corresponds to indices 0 - 7 from high bit to low
/// bit, respectively. […] Spare bits at the end are set to zero."
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PieceSet {
    bits: Vec<u8>,
    pieces: usize,
}

impl PieceSet {
    /// No pieces of a torrent that has `pieces`.
    pub(super) fn none(pieces: usize) -> Self {
        Self { bits: vec![0; pieces.div_ceil(8)], pieces }
    }

    /// Reads a bitfield; `None` for any length but the right one. Spare bits are cleared, not believed.
    pub(super) fn from_bitfield(bits: &[u8], pieces: usize) -> Option<Self> {
        let mut set = Self { bits: bits.to_vec(), pieces };
        if let (Some(last), 1..) = (set.bits.last_mut(), pieces % 8) {
            *last &= 0xff << (8 - pieces % 8);
        }
        (bits.len() == pieces.div_ceil(8)).then_some(set)
    }

    /// Adds a piece; whether it is new. One that does not exist is not.
    pub(super) fn insert(&mut self, piece: usize) -> bool {
        let new = piece < self.pieces && !self.contains(piece);
        if new {
            self.bits[piece / 8] |= 0x80 >> (piece % 8);
        }
        new
    }

    /// Adds all pieces of a set of the same torrent.
    pub(super) fn extend(&mut self, other: &Self) {
        for (bits, more) in self.bits.iter_mut().zip(&other.bits) {
            *bits |= more;
        }
    }

    pub(super) fn contains(&self, piece: usize) -> bool {
        self.bits.get(piece / 8).is_some_and(|byte| byte & (0x80 >> (piece % 8)) != 0)
    }

    pub(super) fn count(&self) -> usize {
        self.bits.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.count() == self.pieces
    }

    /// The pieces in this set that are not in `other`, in order.
    pub(super) fn beyond<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        let news = self.bits.iter().zip(&other.bits).enumerate().filter(|(_, (ours, theirs))| *ours & !*theirs != 0);
        news.flat_map(|(at, (ours, theirs))| {
            (0..8).filter(move |bit| ours & !theirs & (0x80 >> bit) != 0).map(move |bit| at * 8 + bit)
        })
    }

    /// The wire's bitfield.
    pub(super) fn as_bitfield(&self) -> &[u8] {
        &self.bits
    }
}

/// The pieces of a torrent that are on disk and verified, watched by everyone who passes them on. A watcher that was slow
/// finds the newest set, and what it had not told yet is the difference: nothing can be missed.
pub(super) type Have = Arc<watch::Sender<PieceSet>>;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bits_run_from_high_to_low_and_spare_bits_are_zero() {
        let mut set = PieceSet::none(10);
        assert!(set.insert(0) && set.insert(9) && !set.insert(9) && !set.insert(10));
        assert_eq!(set.as_bitfield(), [0x80, 0x40]);
        let lying = PieceSet::from_bitfield(&[0xff, 0xff], 10).unwrap();
        assert_eq!(lying.as_bitfield(), [0xff, 0xc0]);
        assert!(lying.is_complete() && !lying.contains(10));
        assert_eq!(PieceSet::from_bitfield(&[0xff], 10), None);
        assert_eq!(PieceSet::from_bitfield(&[0xff; 3], 10), None);
        assert_eq!(PieceSet::from_bitfield(&[0xff], 8).unwrap().as_bitfield(), [0xff]);
    }

    proptest! {
        #[test]
        fn the_difference_is_what_is_missing(pieces in 1_usize..100, ours: Vec<usize>, theirs: Vec<usize>) {
            let fill = |indices: &[usize]| {
                let mut set = PieceSet::none(pieces);
                indices.iter().for_each(|i| { set.insert(i % pieces); });
                set
            };
            let (ours, mut theirs) = (fill(&ours), fill(&theirs));
            let expected: Vec<_> = (0..pieces).filter(|&i| ours.contains(i) && !theirs.contains(i)).collect();
            prop_assert_eq!(ours.beyond(&theirs).collect::<Vec<_>>(), expected);
            theirs.extend(&ours);
            prop_assert_eq!(ours.beyond(&theirs).count(), 0);
        }
    }
}
