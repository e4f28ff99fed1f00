//! Whose blocks a damaged piece was made of. Pure.
//!
//! The engine checks a piece when its last block is there, and hangs up on whoever sent that one when the hash is wrong.
//! It says nothing of why. But a peer who has sent every block of a piece that did not come to be, and is then hung up on,
//! has sent something else than the torrent.

use std::collections::HashMap;

use super::remote::Shape;
use crate::bridge::pieces::PieceSet;

/// Pieces on their way from one peer, past which those that have come to be are forgotten.
const TIDY: usize = 64;

/// What one peer has sent of pieces that are not verified.
#[derive(Debug, Default)]
pub(super) struct Blame {
    bytes: HashMap<u32, u64>,
}

impl Blame {
    /// The peer gave a block that was asked for.
    pub(super) fn gave(&mut self, index: u32, len: usize, have: &PieceSet) {
        if self.bytes.len() >= TIDY {
            self.bytes.retain(|index, _| !have.contains(*index as usize));
        }
        *self.bytes.entry(index).or_default() += len as u64;
    }

    /// Whether a piece of which the peer gave everything is not among those verified.
    pub(super) fn is_due(&self, have: &PieceSet, shape: Shape) -> bool {
        self.bytes.iter().any(|(index, bytes)| *bytes >= shape.piece(*index) && !have.contains(*index as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_gave_all_of_a_piece_is_blamed() {
        let shape = Shape { pieces: 3, piece_length: 40_000, total_length: 90_000 };
        let mut have = PieceSet::none(3);
        let mut blame = Blame::default();
        assert!(!blame.is_due(&have, shape));
        for len in [16_384, 16_384] {
            blame.gave(1, len, &have);
        }
        assert!(!blame.is_due(&have, shape), "a block is missing");
        blame.gave(1, 7_232, &have);
        assert!(blame.is_due(&have, shape));
        have.insert(1);
        assert!(!blame.is_due(&have, shape));
        blame.gave(2, 10_000, &have);
        assert!(blame.is_due(&have, shape), "the last piece is shorter");
    }
}
