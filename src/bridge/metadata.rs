//! Metadata (BEP 9): assembled from one peer's pieces, and served in pieces. Pure.

use bytes::Bytes;
use sha1::{Digest, Sha1};

use crate::wire::extension::{METADATA_PIECE_LEN, MetadataMessage};
use crate::wire::id::InfoHash;

/// Requests in flight to one peer. Clients answer metadata requests one by one; a few hide the round trip.
const IN_FLIGHT: usize = 4;

/// How many times over one peer may fetch the metadata: once, and again for each extension handshake we repeat.
const SERVINGS: usize = 3;

/// Why a peer's metadata is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    /// The peer claims more than the configuration allows.
    #[error("the metadata is larger than the configuration allows")]
    TooLarge,
    /// A piece that was not asked for, or has the wrong length.
    #[error("the peer sent a piece of metadata that does not fit")]
    WrongPiece,
    /// The whole is not what the info hash names.
    #[error("the metadata does not have the torrent's info hash")]
    WrongHash,
}

/// Metadata on its way from one peer. Memory is taken as pieces arrive, never on the peer's word.
#[derive(Debug)]
pub(super) struct Fetch {
    info_hash: InfoHash,
    size: usize,
    pieces: Vec<Option<Bytes>>,
    asked: usize,
    arrived: usize,
}

impl Fetch {
    /// `size` is what the peer's extension handshake claims.
    pub(super) fn new(info_hash: InfoHash, size: usize, max: usize) -> Result<Self, FetchError> {
        if size == 0 || size > max {
            return Err(FetchError::TooLarge);
        }
        Ok(Self { info_hash, size, pieces: vec![None; size.div_ceil(METADATA_PIECE_LEN)], asked: 0, arrived: 0 })
    }

    /// The pieces to ask for now.
    pub(super) fn requests(&mut self) -> std::ops::Range<usize> {
        let until = (self.arrived + IN_FLIGHT).min(self.pieces.len());
        let from = self.asked;
        self.asked = until.max(from);
        from..self.asked
    }

    /// Takes a piece. The metadata, once it is whole and its hash fits.
    pub(super) fn piece(&mut self, piece: usize, data: Bytes) -> Result<Option<Bytes>, FetchError> {
        let expected = METADATA_PIECE_LEN.min(self.size.saturating_sub(piece.saturating_mul(METADATA_PIECE_LEN)));
        let slot = self.pieces.get_mut(piece).filter(|slot| slot.is_none());
        let slot = slot.filter(|_| piece < self.asked && data.len() == expected).ok_or(FetchError::WrongPiece)?;
        *slot = Some(data);
        self.arrived += 1;
        if self.arrived < self.pieces.len() {
            return Ok(None);
        }
        let whole = self.pieces.iter().flatten().fold(Vec::with_capacity(self.size), |mut whole, piece| {
            whole.extend_from_slice(piece);
            whole
        });
        let hash: [u8; 20] = Sha1::digest(&whole).into();
        if hash == self.info_hash.0 { Ok(Some(Bytes::from(whole))) } else { Err(FetchError::WrongHash) }
    }
}

/// The metadata as served to one peer.
#[derive(Debug, Default)]
pub(super) struct Serving {
    served: usize,
}

impl Serving {
    /// Answers a request. Past what a peer can need, the answer is a rejection: a request is 40 bytes, a piece 16 KiB.
    pub(super) fn answer(&mut self, piece: usize, metadata: Option<&Bytes>) -> Vec<u8> {
        let reject = || MetadataMessage::Reject { piece }.encode();
        let Some(metadata) = metadata else { return reject() };
        let Some(data) = metadata.chunks(METADATA_PIECE_LEN).nth(piece) else { return reject() };
        if self.served >= SERVINGS * metadata.len().div_ceil(METADATA_PIECE_LEN) {
            return reject();
        }
        self.served += 1;
        MetadataMessage::Data { piece, total_size: Some(metadata.len()), data }.encode()
    }

    /// Whether anything was given.
    pub(super) fn has_served(&self) -> bool {
        self.served > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(len: usize) -> (Bytes, InfoHash) {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
        let hash = InfoHash(Sha1::digest(&bytes).into());
        (Bytes::from(bytes), hash)
    }

    #[test]
    fn what_one_serves_the_other_assembles() {
        for len in [1, METADATA_PIECE_LEN - 1, METADATA_PIECE_LEN, METADATA_PIECE_LEN + 1, 10 * METADATA_PIECE_LEN] {
            let (whole, hash) = metadata(len);
            let (mut fetch, mut serving) = (Fetch::new(hash, len, 1 << 20).unwrap(), Serving::default());
            let mut outstanding: Vec<usize> = Vec::new();
            let assembled = loop {
                outstanding.extend(fetch.requests());
                assert!(outstanding.len() <= IN_FLIGHT);
                let payload = serving.answer(outstanding.pop().unwrap(), Some(&whole));
                let Ok(MetadataMessage::Data { piece, total_size, data }) = MetadataMessage::decode(&payload) else {
                    panic!("{}", payload.escape_ascii())
                };
                assert_eq!(total_size, Some(len));
                if let Some(done) = fetch.piece(piece, Bytes::copy_from_slice(data)).unwrap() {
                    break done;
                }
            };
            assert_eq!(assembled, whole, "{len} bytes");
        }
    }

    #[test]
    fn lies_are_found_out() {
        let (whole, hash) = metadata(20_000);
        assert_eq!(Fetch::new(hash, 1 << 30, 1 << 20).unwrap_err(), FetchError::TooLarge);
        assert_eq!(Fetch::new(hash, 0, 1 << 20).unwrap_err(), FetchError::TooLarge);
        let fresh = || {
            let mut fetch = Fetch::new(hash, whole.len(), 1 << 20).unwrap();
            assert_eq!(fetch.requests(), 0..2);
            fetch
        };
        let first = whole.slice(..METADATA_PIECE_LEN);
        for (piece, data) in
            [(0, whole.slice(1..9)), (1, first.clone()), (2, first.clone()), (usize::MAX, first.clone())]
        {
            assert_eq!(fresh().piece(piece, data), Err(FetchError::WrongPiece));
        }
        let mut fetch = fresh();
        assert_eq!(fetch.piece(0, first.clone()), Ok(None));
        assert_eq!(fetch.piece(0, first.clone()), Err(FetchError::WrongPiece));
        assert_eq!(fetch.piece(1, Bytes::from(vec![0; 20_000 - METADATA_PIECE_LEN])), Err(FetchError::WrongHash));
        let mut unasked = Fetch::new(hash, whole.len(), 1 << 20).unwrap();
        assert_eq!(unasked.piece(0, first), Err(FetchError::WrongPiece));
    }

    #[test]
    fn servings_are_bounded() {
        let (whole, _) = metadata(20_000);
        let mut serving = Serving::default();
        let is_data = |payload: Vec<u8>| matches!(MetadataMessage::decode(&payload), Ok(MetadataMessage::Data { .. }));
        assert!(!is_data(serving.answer(0, None)) && !is_data(serving.answer(2, Some(&whole))));
        assert_eq!((0..100).filter(|n| is_data(serving.answer(n % 2, Some(&whole)))).count(), SERVINGS * 2);
    }
}
