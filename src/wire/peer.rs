//! The peer wire (BEP 3): the handshake, and length-prefixed messages read one frame at a time.
//!
//! A frame keeps the bytes it came in ([`Frame`]), since most of them are passed on untouched; [`Frame::message`] tells
//! what they say.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::id::{InfoHash, PeerId};

/// Length of a handshake: 1 + 19 for the name of the protocol, 8 reserved, 20 info hash, 20 peer id.
pub const HANDSHAKE_LEN: usize = 68;

/// The block size all clients request (BEP 3: "All current implementations use 2^14 (16 kiB), and close connections
/// which request an amount greater than that").
pub const BLOCK_LEN: u32 = 1 << 14;

/// What a handshake begins with.
pub const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";

/// Why bytes are not the peer wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The first twenty bytes are not the name of the protocol.
    #[error("not a BitTorrent handshake")]
    NotAHandshake,
    /// A frame announces more bytes than its reader allows.
    #[error("a message of {len} bytes is longer than {max}")]
    TooLong {
        /// The length announced.
        len: usize,
        /// The length allowed.
        max: usize,
    },
    /// A message whose length does not fit its kind.
    #[error("message {id} has a wrong length")]
    WrongLength {
        /// The message's id.
        id: u8,
    },
}

/// The eight reserved bytes of a handshake, in which a peer says what it can do beyond BEP 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved(pub [u8; 8]);

impl Reserved {
    /// Only the extension protocol. BEP 10: "The bit selected for the extension protocol is bit 20 from the right
    /// (counting starts at 0)".
    pub const EXTENDED: Self = Self([0, 0, 0, 0, 0, 0x10, 0, 0]);

    /// Whether the peer speaks the extension protocol (BEP 10).
    #[must_use]
    pub fn extended(self) -> bool {
        self.0[5] & 0x10 != 0
    }

    /// Whether the peer speaks the fast extension (BEP 6).
    #[must_use]
    pub fn fast(self) -> bool {
        self.0[7] & 0x04 != 0
    }
}

/// The first 68 bytes of either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// What the sender can do.
    pub reserved: Reserved,
    /// The swarm the sender is in.
    pub info_hash: InfoHash,
    /// The sender.
    pub peer_id: PeerId,
}

impl Handshake {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HANDSHAKE_LEN] {
        let mut out = [0; HANDSHAKE_LEN];
        out[..20].copy_from_slice(PROTOCOL);
        out[20..28].copy_from_slice(&self.reserved.0);
        out[28..48].copy_from_slice(&self.info_hash.0);
        out[48..].copy_from_slice(&self.peer_id.0);
        out
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// Another protocol's first bytes.
    pub fn decode(bytes: &[u8; HANDSHAKE_LEN]) -> Result<Self, PeerError> {
        let (protocol, rest) = bytes.split_first_chunk::<20>().expect("68 bytes begin with 20");
        let (reserved, rest) = rest.split_first_chunk::<8>().expect("48 bytes begin with 8");
        let (info_hash, peer_id) = rest.split_first_chunk::<20>().expect("40 bytes begin with 20");
        if protocol != PROTOCOL {
            return Err(PeerError::NotAHandshake);
        }
        let peer_id = PeerId::from_slice(peer_id).expect("40 bytes end with 20");
        Ok(Self { reserved: Reserved(*reserved), info_hash: InfoHash(*info_hash), peer_id })
    }
}

/// A part of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Block {
    /// The piece.
    pub index: u32,
    /// Offset in the piece.
    pub begin: u32,
    /// Length in bytes.
    pub length: u32,
}

/// A message, borrowing its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "BEP 3 names them")]
pub enum Message<'a> {
    /// "Messages of length zero are keepalives, and ignored."
    KeepAlive,
    Choke,
    Unchoke,
    Interested,
    NotInterested,
    Have(u32),
    Bitfield(&'a [u8]),
    Request(Block),
    Piece {
        index: u32,
        begin: u32,
        data: &'a [u8],
    },
    Cancel(Block),
    /// BEP 10: "bittorrent message ID, = 20", then "extended message ID. 0 = handshake".
    Extended {
        id: u8,
        payload: &'a [u8],
    },
    /// Anything else: the fast extension, the DHT port, and what the future brings.
    Unknown {
        id: u8,
        payload: &'a [u8],
    },
}

impl<'a> Message<'a> {
    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.write(&mut out);
        out.freeze()
    }

    /// Appends the frame.
    ///
    /// # Panics
    /// A payload of 4 GiB or more, which no caller has.
    pub fn write(&self, out: &mut BytesMut) {
        let (id, fields, payload): (u8, &[u32], &[u8]) = match self {
            Self::KeepAlive => return out.put_u32(0),
            Self::Choke => (0, &[], &[]),
            Self::Unchoke => (1, &[], &[]),
            Self::Interested => (2, &[], &[]),
            Self::NotInterested => (3, &[], &[]),
            Self::Have(index) => (4, &[*index], &[]),
            Self::Bitfield(bits) => (5, &[], bits),
            Self::Request(block) => (6, &[block.index, block.begin, block.length], &[]),
            Self::Piece { index, begin, data } => (7, &[*index, *begin], data),
            Self::Cancel(block) => (8, &[block.index, block.begin, block.length], &[]),
            Self::Extended { id, payload } => {
                out.put_u32(u32::try_from(2 + payload.len()).expect("a message is shorter than 4 GiB"));
                out.put_slice(&[20, *id]);
                return out.put_slice(payload);
            }
            Self::Unknown { id, payload } => (*id, &[], payload),
        };
        out.put_u32(u32::try_from(1 + 4 * fields.len() + payload.len()).expect("a message is shorter than 4 GiB"));
        out.put_u8(id);
        for field in fields {
            out.put_u32(*field);
        }
        out.put_slice(payload);
    }

    fn parse(body: &'a [u8]) -> Result<Self, PeerError> {
        let Some((&id, payload)) = body.split_first() else { return Ok(Self::KeepAlive) };
        let wrong = PeerError::WrongLength { id };
        let empty = |message| if payload.is_empty() { Ok(message) } else { Err(wrong) };
        let block = || {
            let [index, begin, length] = fields::<3>(payload).filter(|_| payload.len() == 12)?;
            Some(Block { index, begin, length })
        };
        match id {
            0 => empty(Self::Choke),
            1 => empty(Self::Unchoke),
            2 => empty(Self::Interested),
            3 => empty(Self::NotInterested),
            4 => fields::<1>(payload).filter(|_| payload.len() == 4).map(|[index]| Self::Have(index)).ok_or(wrong),
            5 => Ok(Self::Bitfield(payload)),
            6 => block().map(Self::Request).ok_or(wrong),
            7 => {
                let [index, begin] = fields::<2>(payload).ok_or(wrong)?;
                Ok(Self::Piece { index, begin, data: &payload[8..] })
            }
            8 => block().map(Self::Cancel).ok_or(wrong),
            20 => payload.split_first().map(|(&id, payload)| Self::Extended { id, payload }).ok_or(wrong),
            _ => Ok(Self::Unknown { id, payload }),
        }
    }
}

/// The first `N` big-endian 32-bit integers of `payload`.
fn fields<const N: usize>(payload: &[u8]) -> Option<[u32; N]> {
    let mut out = [0; N];
    for (field, bytes) in out.iter_mut().zip(payload.get(..4 * N)?.chunks_exact(4)) {
        *field = u32::from_be_bytes(bytes.try_into().expect("chunks of four"));
    }
    Some(out)
}

/// One message as it came, length prefix included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// Takes the first frame off `buffer`; `None` while it is incomplete. `max` bounds the message after its length
    /// prefix and is checked as soon as the prefix is there, so that nobody can announce memory into being.
    ///
    /// # Errors
    /// A longer message.
    pub fn split(buffer: &mut BytesMut, max: usize) -> Result<Option<Self>, PeerError> {
        let Some(prefix) = buffer.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > max {
            return Err(PeerError::TooLong { len, max });
        }
        Ok((buffer.len() >= 4 + len).then(|| Self(buffer.split_to(4 + len).freeze())))
    }

    /// What it says.
    ///
    /// # Errors
    /// A length that does not fit the kind of message.
    pub fn message(&self) -> Result<Message<'_>, PeerError> {
        Message::parse(&self.0[4..])
    }

    /// The bytes, length prefix included.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The payload of an extended message, sharing memory with the frame: what follows its length prefix, its id and
    /// its extended id.
    #[must_use]
    pub fn extended_payload(&self) -> Bytes {
        let mut payload = self.0.clone();
        payload.advance(6.min(payload.len()));
        payload
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HELLO: Handshake =
        Handshake { reserved: Reserved::EXTENDED, info_hash: InfoHash([0xaa; 20]), peer_id: PeerId([0xbb; 20]) };

    #[test]
    fn the_handshake_is_68_bytes() {
        let bytes = HELLO.encode();
        let hex = crate::wire::hex::encode(&bytes);
        assert_eq!(&hex[..56], "13426974546f7272656e742070726f746f636f6c0000000000100000");
        assert_eq!(Handshake::decode(&bytes), Ok(HELLO));
        // What a browser sends (WebTorrent 3): extension protocol and fast extension.
        let browser = Reserved([0, 0, 0, 0, 0, 0x10, 0, 0x04]);
        assert!(browser.extended() && browser.fast() && !Reserved::default().extended());
        let mut other = bytes;
        other[5] = b'b';
        assert_eq!(Handshake::decode(&other), Err(PeerError::NotAHandshake));
    }

    #[test]
    fn every_message_has_its_bytes() {
        let block = Block { index: 1, begin: 0x4000, length: BLOCK_LEN };
        let table: &[(Message<'_>, &str)] = &[
            (Message::KeepAlive, "00000000"),
            (Message::Choke, "0000000100"),
            (Message::Unchoke, "0000000101"),
            (Message::Interested, "0000000102"),
            (Message::NotInterested, "0000000103"),
            (Message::Have(7), "000000050400000007"),
            (Message::Bitfield(&[0x80]), "000000020580"),
            (Message::Request(block), "0000000d06000000010000400000004000"),
            (Message::Piece { index: 1, begin: 2, data: &[9] }, "0000000a07000000010000000209"),
            (Message::Cancel(block), "0000000d08000000010000400000004000"),
            (Message::Extended { id: 3, payload: b"de" }, "0000000414036465"),
            (Message::Unknown { id: 9, payload: &[0x1a, 0xe1] }, "00000003091ae1"),
        ];
        for (message, hex) in table {
            assert_eq!(crate::wire::hex::encode(&message.encode()), *hex);
            let frame = Frame::split(&mut BytesMut::from(&message.encode()[..]), 64).unwrap().unwrap();
            assert_eq!(frame.message().unwrap(), *message);
        }
    }

    #[test]
    fn lengths_must_fit() {
        for hex in ["000000020000", "0000000404000000", "000000060400000000ff", "0000000114", "00000005060000000100"] {
            let mut buffer = BytesMut::from(&crate::wire::hex::decode(hex).unwrap()[..]);
            let frame = Frame::split(&mut buffer, 64).unwrap().unwrap();
            assert!(matches!(frame.message(), Err(PeerError::WrongLength { .. })), "{hex}");
        }
        let mut huge = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        assert!(matches!(Frame::split(&mut huge, 1 << 17), Err(PeerError::TooLong { .. })));
    }

    #[test]
    fn frames_come_in_any_portions() {
        let stream = [Message::Have(1).encode(), Message::KeepAlive.encode(), Message::Bitfield(&[1, 2]).encode()];
        let stream = stream.concat();
        let mut buffer = BytesMut::new();
        let mut frames = Vec::new();
        for byte in stream.iter() {
            buffer.put_u8(*byte);
            frames.extend(Frame::split(&mut buffer, 64).unwrap());
        }
        assert!(buffer.is_empty());
        assert_eq!(frames.iter().map(Frame::as_bytes).collect::<Vec<_>>().concat(), stream);
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = Frame::split(&mut buffer, 1 << 10) {
                if let Ok(message) = frame.message() {
                    prop_assert_eq!(&message.encode()[..], frame.as_bytes());
                }
            }
        }

        #[test]
        fn any_handshake_round_trips(bytes in prop::collection::vec(any::<u8>(), 48)) {
            let mut hello = HELLO.encode();
            hello[20..].copy_from_slice(&bytes);
            prop_assert_eq!(Handshake::decode(&hello).unwrap().encode(), hello);
        }
    }
}
