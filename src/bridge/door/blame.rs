//! Whose blocks were not the torrent's. No I/O.
//!
//! The engine asks one peer at a time for a piece, but when it takes the piece from a slow one and asks another, it keeps
//! the blocks that came. So a piece whose hash is wrong may be one peer's garbage and another's good blocks; the engine
//! hangs up on whoever gave the last of them, and says nothing of why. Being hung up on is therefore no proof. What is:
//!
//! - a piece that one peer gave from its first byte to its last, and whose hash is wrong ([`FirstPiece`]);
//! - a block that differs from the same block of the piece once that is verified ([`Blame`]), as libtorrent's smart ban
//!   has it.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::quality::RandomState;
use sha1::{Digest, Sha1};

use super::remote::Shape;
use crate::bridge::pieces::PieceSet;
use crate::wire::metainfo::Metainfo;
use crate::wire::peer::BLOCK_LEN;

/// Blocks remembered of one torrent: those of 256 MiB. Past it the piece that is remembered for longest is forgotten.
const MAX_BLOCKS: usize = 16_384;

/// The first piece that a peer gives whole and in order, checked at the door.
///
/// Only the first since the engine met the peer: the engine checks all of them, and a peer that gives one good piece for
/// each connection to the engine that it spoils is worth having.
#[derive(Debug)]
pub(super) enum FirstPiece {
    /// None is whole yet. The one that is on its way, and the offset of its next block.
    Coming(Option<(u32, u32, Sha1)>),
    /// It was good.
    Good,
}

impl FirstPiece {
    pub(super) fn new() -> Self {
        Self::Coming(None)
    }

    /// The peer gave a block that was asked for; whether it has now given a whole piece that is not the torrent's.
    pub(super) fn is_bad(
        &mut self,
        (index, begin, data): (u32, u32, &[u8]),
        shape: Shape,
        metainfo: &Metainfo,
    ) -> bool {
        let Self::Coming(coming) = self else { return false };
        if begin == 0 {
            *coming = Some((index, 0, Sha1::new()));
        }
        let Some((_, next, hash)) = coming.as_mut().filter(|(of, next, _)| (*of, *next) == (index, begin)) else {
            return false;
        };
        hash.update(data);
        *next = next.saturating_add(u32::try_from(data.len()).unwrap_or(u32::MAX));
        if u64::from(*next) < shape.piece(index) {
            return false;
        }
        let hash = <[u8; 20]>::from(std::mem::take(hash).finalize());
        *self = Self::Good;
        metainfo.piece_hash(index as usize) != Some(hash)
    }

    /// Whether the peer gave a whole piece, and it was good.
    pub(super) fn is_good(&self) -> bool {
        matches!(self, Self::Good)
    }
}

/// A peer that gives blocks.
#[derive(Debug)]
pub(in crate::bridge) struct Giver {
    /// Its address.
    pub(in crate::bridge) ip: IpAddr,
    /// It was found to have given something else than the torrent.
    lied: AtomicBool,
}

impl Giver {
    pub(super) fn new(ip: IpAddr) -> Arc<Self> {
        Arc::new(Self { ip, lied: AtomicBool::new(false) })
    }

    pub(in crate::bridge) fn lies(&self) {
        self.lied.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_lied(&self) -> bool {
        self.lied.load(Ordering::Relaxed)
    }
}

/// Who gave what of the pieces of one torrent that are not verified.
#[derive(Debug, Default)]
pub(in crate::bridge) struct Blame {
    /// Unknown to all, so that nobody can make garbage that has the digest of a good block.
    keys: RandomState,
    pieces: HashMap<u32, Piece>,
    /// Blocks of all pieces.
    blocks: usize,
    /// Pieces there ever were.
    begun: u64,
}

#[derive(Debug)]
struct Piece {
    begun: u64,
    blocks: Vec<Gave>,
}

#[derive(Debug)]
struct Gave {
    begin: u32,
    digest: u64,
    giver: Arc<Giver>,
}

impl Blame {
    /// A peer gave a block that was asked for.
    pub(super) fn gave(&mut self, giver: &Arc<Giver>, (index, begin, data): (u32, u32, &[u8])) {
        if self.blocks >= MAX_BLOCKS {
            let oldest = self.pieces.iter().min_by_key(|(_, piece)| piece.begun).map(|(index, _)| *index);
            let forgotten = oldest.and_then(|index| self.pieces.remove(&index));
            self.blocks -= forgotten.map_or(0, |piece| piece.blocks.len());
        }
        let piece = self.pieces.entry(index).or_insert_with(|| {
            self.begun += 1;
            Piece { begun: self.begun, blocks: Vec::new() }
        });
        piece.blocks.push(Gave { begin, digest: self.keys.hash_one(data), giver: giver.clone() });
        self.blocks += 1;
    }

    /// Forgets the pieces that are verified. Returns those of them that several peers gave blocks of, or one peer some
    /// block of more than once: of the others every block is good.
    pub(in crate::bridge) fn verified(&mut self, have: &PieceSet) -> Vec<Contested> {
        let verified: Vec<u32> = self.pieces.keys().copied().filter(|index| have.contains(*index as usize)).collect();
        let mut contested = Vec::new();
        for index in verified {
            let Some(Piece { mut blocks, .. }) = self.pieces.remove(&index) else { continue };
            self.blocks -= blocks.len();
            blocks.sort_by_key(|block| block.begin);
            let mut pairs = blocks.iter().zip(blocks.iter().skip(1));
            if pairs.any(|(a, b)| a.begin == b.begin || !Arc::ptr_eq(&a.giver, &b.giver)) {
                contested.push(Contested { index, blocks, keys: self.keys.clone() });
            }
        }
        contested
    }
}

/// A piece that is verified now, and who gave blocks of it before.
#[derive(Debug)]
pub(in crate::bridge) struct Contested {
    /// Which piece.
    pub(in crate::bridge) index: u32,
    blocks: Vec<Gave>,
    keys: RandomState,
}

impl Contested {
    /// Who gave a block that is not what the piece, of which these are the verified bytes, has there. Each once.
    pub(in crate::bridge) fn liars(&self, verified: &[u8]) -> Vec<Arc<Giver>> {
        let mut liars: Vec<Arc<Giver>> = Vec::new();
        for Gave { begin, digest, giver } in &self.blocks {
            let block = verified.get(*begin as usize..).unwrap_or_default();
            let block = &block[..block.len().min(BLOCK_LEN as usize)];
            if self.keys.hash_one(block) != *digest && !liars.iter().any(|liar| Arc::ptr_eq(liar, giver)) {
                liars.push(giver.clone());
            }
        }
        liars
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = BLOCK_LEN as usize;

    /// Three pieces, the last of which is shorter.
    fn torrent() -> (Vec<u8>, Shape, Metainfo) {
        let content: Vec<u8> = (0..90_000_u32).map(|n| (n.wrapping_mul(31) >> 3) as u8).collect();
        let hashes: Vec<[u8; 20]> = content.chunks(40_000).map(|piece| Sha1::digest(piece).into()).collect();
        let metainfo = Metainfo::build("x", &[(vec!["a".into()], 90_000)], 40_000, &hashes).unwrap();
        (content, Shape { pieces: 3, piece_length: 40_000, total_length: 90_000 }, metainfo)
    }

    fn block(piece: &[u8], begin: usize) -> (u32, &[u8]) {
        (begin as u32, &piece[begin..piece.len().min(begin + BLOCK)])
    }

    #[test]
    fn who_gave_all_of_a_bad_piece_is_known_at_once_and_nobody_else() {
        let (content, shape, metainfo) = torrent();
        let bad = vec![7; 40_000];
        let (good, garbage) = (&content[40_000..80_000], bad.as_slice());
        // what is given of piece 1, at which offsets → after which of them it is bad; whether it was good
        type Block<'a> = (&'a [u8], usize);
        let table: [(&[Block<'_>], Option<usize>, bool); 7] = [
            (&[(good, 0), (good, BLOCK)], None, false),
            (&[(good, 0), (good, BLOCK), (good, 2 * BLOCK)], None, true),
            (&[(garbage, 0), (garbage, BLOCK), (garbage, 2 * BLOCK)], Some(2), true),
            (&[(good, 0), (good, BLOCK), (garbage, 2 * BLOCK)], Some(2), true),
            (&[(garbage, BLOCK), (garbage, 2 * BLOCK)], None, false),
            (&[(garbage, 0), (garbage, 2 * BLOCK), (garbage, BLOCK)], None, false),
            (&[(garbage, 0), (good, 0), (good, BLOCK), (good, 2 * BLOCK)], None, true),
        ];
        for (row, (given, bad_at, is_good)) in table.into_iter().enumerate() {
            let mut first = FirstPiece::new();
            let bad = given.iter().position(|(piece, begin)| {
                let (begin, data) = block(piece, *begin);
                first.is_bad((1, begin, data), shape, &metainfo)
            });
            assert_eq!((bad, first.is_good()), (bad_at, is_good), "row {row}");
        }
        let mut first = FirstPiece::new();
        assert!(!first.is_bad((2, 0, &content[80_000..]), shape, &metainfo) && first.is_good(), "the last is shorter");
    }

    /// One peer spoils the last block of a piece and stalls; another is asked for all of it, and is the one the engine
    /// hangs up on.
    #[test]
    fn of_a_mixed_piece_who_gave_the_garbage_is_blamed_and_who_finished_it_is_not() {
        let (content, _, _) = torrent();
        let (spoiler, honest) = (Giver::new("192.0.2.1".parse().unwrap()), Giver::new("192.0.2.2".parse().unwrap()));
        let piece = &content[..40_000];
        let garbage = [7; 40_000 - 2 * BLOCK];
        let mut blame = Blame::default();
        let mut have = PieceSet::none(3);
        blame.gave(&spoiler, (0, 2 * BLOCK as u32, &garbage));
        for begin in [0, BLOCK, 2 * BLOCK] {
            let (begin, data) = block(piece, begin);
            blame.gave(&honest, (0, begin, data));
            blame.gave(&honest, (1, begin, data));
        }
        assert!(blame.verified(&have).is_empty(), "nobody is blamed for what may yet come to be");
        have.insert(0);
        have.insert(1);
        let contested = blame.verified(&have);
        assert_eq!(contested.iter().map(|piece| piece.index).collect::<Vec<_>>(), [0], "one peer gave all of 1");
        let liars = contested[0].liars(piece);
        assert!(liars.len() == 1 && Arc::ptr_eq(&liars[0], &spoiler));
        assert_eq!((blame.blocks, blame.pieces.len()), (0, 0));
    }

    #[test]
    fn who_gave_garbage_first_and_good_blocks_later_is_blamed_and_repeating_oneself_is_not_lying() {
        let (content, _, _) = torrent();
        let mut have = PieceSet::none(3);
        have.insert(0);
        for (first, lied) in [(vec![7; BLOCK], true), (content[..BLOCK].to_vec(), false)] {
            let giver = Giver::new("192.0.2.1".parse().unwrap());
            let mut blame = Blame::default();
            blame.gave(&giver, (0, 0, &first));
            blame.gave(&giver, (0, 0, &content[..BLOCK]));
            let contested = blame.verified(&have);
            assert_eq!(!contested[0].liars(&content[..40_000]).is_empty(), lied);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let giver = Giver::new("192.0.2.1".parse().unwrap());
        let mut blame = Blame::default();
        for index in 0..2 * MAX_BLOCKS as u32 {
            blame.gave(&giver, (index / 2, index % 2 * BLOCK_LEN, &[]));
        }
        assert!(blame.blocks <= MAX_BLOCKS && !blame.pieces.contains_key(&0));
        assert_eq!(blame.blocks, blame.pieces.values().map(|piece| piece.blocks.len()).sum::<usize>());
    }
}
