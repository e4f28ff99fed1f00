//! What a remote peer has told of itself, kept in bounded space while it waits for the torrent, and checked against the
//! torrent once that is known. Pure.

use bytes::{Bytes, BytesMut};

use super::Ending;
use crate::bridge::pieces::PieceSet;
use crate::wire::metainfo::MAX_PIECES;
use crate::wire::peer::{BLOCK_LEN, Block, Message};

/// A peer as it is known before the torrent's size is.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    bitfield: Option<Bytes>,
    /// Pieces by HAVE, as a growing bitfield.
    haves: Vec<u8>,
    unchoked: bool,
    interested: bool,
}

impl Waiting {
    /// Takes a message that is not an extended one.
    pub(super) fn take(&mut self, message: Message<'_>) -> Result<(), Ending> {
        match message {
            Message::Choke => self.unchoked = false,
            Message::Unchoke => self.unchoked = true,
            Message::Interested => self.interested = true,
            Message::NotInterested => self.interested = false,
            Message::Bitfield(bits) => self.bitfield = Some(Bytes::copy_from_slice(bits)),
            Message::Have(piece) => {
                let piece = piece as usize;
                if piece >= MAX_PIECES {
                    return Err(Ending::Misbehaved("a piece that cannot exist"));
                }
                self.haves.resize(self.haves.len().max(piece / 8 + 1), 0);
                self.haves[piece / 8] |= 0x80 >> (piece % 8);
            }
            // Nothing was unchoked and nothing asked for: requests and pieces mean nothing yet.
            Message::KeepAlive
            | Message::Request(_)
            | Message::Piece { .. }
            | Message::Cancel(_)
            | Message::Extended { .. }
            | Message::Unknown { .. } => {}
        }
        Ok(())
    }

    /// The peer, now that the torrent is known.
    pub(super) fn meet(self, shape: Shape) -> Result<Remote, Ending> {
        let wrong = Ending::Misbehaved("a bitfield of the wrong length");
        let mut has = match &self.bitfield {
            Some(bits) => PieceSet::from_bitfield(bits, shape.pieces).ok_or(wrong)?,
            None => PieceSet::none(shape.pieces),
        };
        let told = (0..self.haves.len() * 8).filter(|piece| self.haves[piece / 8] & (0x80 >> (piece % 8)) != 0);
        for piece in told {
            if piece >= shape.pieces {
                return Err(Ending::Misbehaved("a piece that does not exist"));
            }
            has.insert(piece);
        }
        Ok(Remote { shape, has, unchoked: self.unchoked, interested: self.interested })
    }
}

/// The measures of a torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) pieces: usize,
    pub(super) piece_length: u32,
    pub(super) total_length: u64,
}

impl Shape {
    /// How long a piece is; 0 past the last one.
    pub(super) fn piece(self, index: u32) -> u64 {
        let start = u64::from(index) * u64::from(self.piece_length);
        u64::from(self.piece_length).min(self.total_length.saturating_sub(start))
    }

    /// Whether the block is one of those every client asks for: on the 16 KiB grid of its piece, cut off only by the end
    /// of the piece. The engine drops peers that ask for others.
    fn is_block(self, block: Block) -> bool {
        let left = self.piece(block.index).saturating_sub(u64::from(block.begin));
        block.begin.is_multiple_of(BLOCK_LEN) && left > 0 && u64::from(block.length) == left.min(u64::from(BLOCK_LEN))
    }
}

/// A peer of a live torrent.
#[derive(Debug)]
pub(super) struct Remote {
    shape: Shape,
    has: PieceSet,
    unchoked: bool,
    interested: bool,
}

/// What is done with a message of a remote peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
    /// The engine gets it.
    Pass,
    /// The door answers it with a block.
    Give(Block),
    /// It takes such a request back.
    Withdraw(Block),
    /// The engine gets it, if it waits for it: a block.
    PassBlock {
        /// Its piece.
        index: u32,
        /// Its offset in the piece.
        begin: u32,
        /// Its bytes.
        data: &'a [u8],
    },
    /// It means nothing to the engine.
    Drop,
    /// It asks for what cannot be given; told apart from [`Verdict::Drop`] so that it can be counted.
    Refuse,
}

impl Remote {
    /// Whether the peer has every piece.
    pub(super) fn is_complete(&self) -> bool {
        self.has.is_complete()
    }

    /// Whether the peer would send us something that we have not.
    pub(super) fn offers_beyond(&self, ours: &PieceSet) -> bool {
        self.unchoked && self.has.beyond(ours).next().is_some()
    }

    /// Writes the messages that tell an engine which has just met the peer what it told before. An empty bitfield is not
    /// among them: the engine starts asking when it hears of the first piece, but having heard of none it would look
    /// again only after five seconds.
    pub(super) fn replay(&self, out: &mut BytesMut) {
        if self.has.count() > 0 {
            Message::Bitfield(self.has.as_bitfield()).write(out);
        }
        if self.unchoked {
            Message::Unchoke.write(out);
        }
        if self.interested {
            Message::Interested.write(out);
        }
    }

    /// Judges a message that is not an extended one. `ours`: the pieces the peer may ask for.
    pub(super) fn judge<'a>(&mut self, message: Message<'a>, ours: &PieceSet) -> Result<Verdict<'a>, Ending> {
        Ok(match message {
            Message::Choke | Message::Unchoke => {
                self.unchoked = message == Message::Unchoke;
                Verdict::Pass
            }
            Message::Interested | Message::NotInterested => {
                self.interested = message == Message::Interested;
                Verdict::Pass
            }
            Message::Have(piece) => {
                if piece as usize >= self.shape.pieces {
                    return Err(Ending::Misbehaved("a piece that does not exist"));
                }
                self.has.insert(piece as usize);
                Verdict::Pass
            }
            Message::Bitfield(bits) => {
                let wrong = Ending::Misbehaved("a bitfield of the wrong length");
                self.has = PieceSet::from_bitfield(bits, self.shape.pieces).ok_or(wrong)?;
                // See `replay` for what an empty one would do.
                if self.has.count() > 0 { Verdict::Pass } else { Verdict::Drop }
            }
            Message::Request(block) if self.shape.is_block(block) && ours.contains(block.index as usize) => {
                Verdict::Give(block)
            }
            Message::Request(_) => Verdict::Refuse,
            Message::Piece { index, begin, data } if data.len() <= BLOCK_LEN as usize => {
                Verdict::PassBlock { index, begin, data }
            }
            Message::Piece { .. } => return Err(Ending::Misbehaved("a block longer than any that was asked for")),
            Message::Cancel(block) => Verdict::Withdraw(block),
            // The engine is kept awake by the door's own keep-alives.
            Message::KeepAlive | Message::Extended { .. } | Message::Unknown { .. } => Verdict::Drop,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::peer::Frame;

    const SHAPE: Shape = Shape { pieces: 3, piece_length: 40_000, total_length: 90_000 };

    fn replayed(messages: &[Message<'_>]) -> Result<Vec<Bytes>, Ending> {
        let mut waiting = Waiting::default();
        messages.iter().try_for_each(|message| waiting.take(*message))?;
        let mut replay = BytesMut::new();
        waiting.meet(SHAPE)?.replay(&mut replay);
        let mut frames = Vec::new();
        while let Some(frame) = Frame::split(&mut replay, 1 << 10).unwrap() {
            frames.push(Bytes::copy_from_slice(frame.as_bytes()));
        }
        Ok(frames)
    }

    #[test]
    fn the_engine_is_told_what_was_said_while_waiting() {
        use Message::{Bitfield, Choke, Have, Interested, NotInterested, Unchoke};
        let table: &[(&[Message<'_>], &[Message<'_>])] = &[
            (&[], &[]),
            (&[Bitfield(&[0])], &[]),
            (&[Have(2)], &[Bitfield(&[0x20])]),
            (&[Bitfield(&[0x80]), Have(1), Have(1)], &[Bitfield(&[0xc0])]),
            (&[Bitfield(&[0xff])], &[Bitfield(&[0xe0])]),
            (&[Interested, Have(0), Unchoke], &[Bitfield(&[0x80]), Unchoke, Interested]),
            (&[Unchoke, Choke, Interested, NotInterested, Unchoke], &[Unchoke]),
            (&[Message::Unknown { id: 14, payload: &[] }, Message::KeepAlive], &[]),
        ];
        for (said, expected) in table {
            let expected: Vec<_> = expected.iter().map(Message::encode).collect();
            assert_eq!(replayed(said).unwrap(), expected, "{said:?}");
        }
    }

    #[test]
    fn lies_end_the_connection_and_floods_take_no_space() {
        for lie in [Message::Have(3), Message::Have(u32::MAX), Message::Bitfield(&[]), Message::Bitfield(&[0, 0])] {
            assert!(matches!(replayed(&[lie]), Err(Ending::Misbehaved(_))), "{lie:?}");
        }
        let mut waiting = Waiting::default();
        for piece in 0..MAX_PIECES as u32 {
            waiting.take(Message::Have(piece)).unwrap();
        }
        assert_eq!(waiting.haves.len(), MAX_PIECES / 8);
    }

    #[test]
    fn messages_are_judged() {
        let mut remote = Waiting::default().meet(SHAPE).unwrap();
        let ours = PieceSet::from_bitfield(&[0xa0], 3).unwrap();
        let block = |index, begin, length| Block { index, begin, length };
        let request = |index, begin, length| Message::Request(block(index, begin, length));
        let given = |index, begin, length| Some(Verdict::Give(block(index, begin, length)));
        let data = vec![0; BLOCK_LEN as usize + 1];
        let table = [
            (request(0, 0, 16_384), given(0, 0, 16_384)),
            (request(0, 32_768, 7_232), given(0, 32_768, 7_232)),
            (request(2, 0, 10_000), given(2, 0, 10_000)),
            (request(0, 32_768, 16_384), Some(Verdict::Refuse)),
            (request(2, 0, 16_384), Some(Verdict::Refuse)),
            (request(0, 1, 16_384), Some(Verdict::Refuse)),
            (request(0, 0, 32_768), Some(Verdict::Refuse)),
            (request(0, 49_152, 0), Some(Verdict::Refuse)),
            (request(1, 0, 16_384), Some(Verdict::Refuse)),
            (request(3, 0, 16_384), Some(Verdict::Refuse)),
            (request(u32::MAX, 0, 16_384), Some(Verdict::Refuse)),
            (
                Message::Piece { index: 0, begin: 0, data: &data[1..] },
                Some(Verdict::PassBlock { index: 0, begin: 0, data: &data[1..] }),
            ),
            (Message::Piece { index: 0, begin: 0, data: &data }, None),
            (Message::Cancel(block(0, 0, 1)), Some(Verdict::Withdraw(block(0, 0, 1)))),
            (Message::Unknown { id: 9, payload: &[0, 0] }, Some(Verdict::Drop)),
            (Message::Bitfield(&[0]), Some(Verdict::Drop)),
            (Message::Have(2), Some(Verdict::Pass)),
            (Message::Have(3), None),
            (Message::Bitfield(&[0xe0]), Some(Verdict::Pass)),
            (Message::Bitfield(&[0xe0, 0]), None),
            (Message::Interested, Some(Verdict::Pass)),
        ];
        for (message, expected) in table {
            assert_eq!(remote.judge(message, &ours).ok(), expected, "{message:?}");
        }
        assert!(remote.is_complete() && !remote.offers_beyond(&ours), "it has not unchoked us");
        remote.judge(Message::Unchoke, &ours).unwrap();
        assert!(remote.offers_beyond(&ours) && !remote.offers_beyond(&PieceSet::from_bitfield(&[0xe0], 3).unwrap()));
    }
}
