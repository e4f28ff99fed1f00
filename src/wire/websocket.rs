//! WebSocket (RFC 6455), the server's side: bytes ⇄ messages.
//!
//! A tracker has mostly idle connections and short messages, so a [`Decoder`] owns no buffer: it reads what has arrived
//! in place, and keeps bytes only of a message that has not arrived in full. Frames to the client are not masked and
//! never fragmented; each is made once, by one of the functions here, and then only copied to the connection.

mod decode;
mod deflate;

use data_encoding::BASE64;
use sha1::{Digest, Sha1};

pub use decode::Decoder;
pub use deflate::{AGREED, Deflater, Inflater, accepts};

/// Something whole that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A compressed message (RFC 7692): see [`Inflater`].
    Deflated {
        /// As it came.
        payload: &'a [u8],
        /// It must be UTF-8 when it is inflated.
        text: bool,
    },
    /// §5.5.2: to be answered with a pong of the same payload.
    Ping(&'a [u8]),
    /// §5.5.3.
    Pong,
    /// §5.5.1: nothing comes after it. It is to be answered with a close of the same code.
    Close(Option<CloseCode>),
}

/// Why a connection is closed (§7.4), as a number of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseCode(u16);

#[allow(missing_docs, reason = "§7.4.1 and the registry name and describe them")]
impl CloseCode {
    pub const NORMAL: Self = Self(1000);
    pub const GOING_AWAY: Self = Self(1001);
    pub const PROTOCOL_ERROR: Self = Self(1002);
    pub const INVALID_PAYLOAD: Self = Self(1007);
    pub const POLICY_VIOLATION: Self = Self(1008);
    pub const TOO_LARGE: Self = Self(1009);
    pub const TRY_AGAIN_LATER: Self = Self(1013);
}

impl CloseCode {
    /// A code that may stand in a close frame of a client. §7.4.1 keeps 1005, 1006 and 1015 from it; of those below 3000
    /// only the registered ones exist (1014 is for gateways), and 3000 to 4999 belong to libraries and applications.
    #[must_use]
    pub fn new(code: u16) -> Option<Self> {
        matches!(code, 1000..=1003 | 1007..=1013 | 3000..=4999).then_some(Self(code))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

/// What a client did that ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Its bytes are not frames of a client.
    #[error("not a WebSocket frame: {0}")]
    Framing(&'static str),
    /// §8.1: a text message or the reason of a close that is not UTF-8.
    #[error("text that is not UTF-8")]
    NotUtf8,
    /// A message past the limit.
    #[error("the message is too large")]
    TooLarge,
}

impl Violation {
    /// The code to close the connection with.
    #[must_use]
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::Framing(_) => CloseCode::PROTOCOL_ERROR,
            Self::NotUtf8 => CloseCode::INVALID_PAYLOAD,
            Self::TooLarge => CloseCode::TOO_LARGE,
        }
    }
}

/// §5.2, "Opcode".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn new(nibble: u8) -> Option<Self> {
        Some(match nibble {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    fn nibble(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// RFC 7692 §6: the bit of a frame's first byte that says its message is compressed.
const DEFLATED: u8 = 0x40;

/// §5.5: "All control frames MUST have a payload length of 125 bytes or less".
const MAX_CONTROL: usize = 125;

/// A text message to a client.
#[must_use]
pub fn text(message: &str) -> Vec<u8> {
    frame(Opcode::Text, message.as_bytes())
}

/// A text message of about so many bytes, which must be UTF-8, made in its place behind the frame's head.
#[must_use]
pub fn text_with(size_hint: usize, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    // Room for the head of a message of middling length, which nearly all are.
    const ROOM: usize = 4;
    let mut bytes = Vec::with_capacity(ROOM + size_hint);
    bytes.extend_from_slice(&[0; ROOM]);
    write(&mut bytes);
    let (head, length) = head(Opcode::Text, bytes.len() - ROOM);
    match bytes.get_mut(..length) {
        Some(room) if length == ROOM => room.copy_from_slice(&head[..length]),
        _ => drop(bytes.splice(..ROOM, head[..length].iter().copied())),
    }
    bytes
}

/// A ping with no payload.
#[must_use]
pub fn ping() -> Vec<u8> {
    frame(Opcode::Ping, &[])
}

/// The answer to a ping with this payload.
#[must_use]
pub fn pong(payload: &[u8]) -> Vec<u8> {
    frame(Opcode::Pong, payload)
}

/// A close with a reason of at most 123 bytes; without a code if there is none to give.
#[must_use]
pub fn close(code: Option<CloseCode>, reason: &str) -> Vec<u8> {
    debug_assert!(reason.len() + 2 <= MAX_CONTROL);
    match code {
        Some(CloseCode(code)) => frame(Opcode::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat()),
        None => frame(Opcode::Close, &[]),
    }
}

fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let (head, length) = head(opcode, payload.len());
    [&head[..length], payload].concat()
}

/// The head of a frame, and how many of these bytes it has. §5.2: FIN, no reserved bits, no mask, and the payload's
/// length in the fewest bytes.
fn head(opcode: Opcode, payload: usize) -> ([u8; 10], usize) {
    const FIN: u8 = 0x80;
    let mut head = [0; 10];
    head[0] = FIN | opcode.nibble();
    let length = match payload {
        short @ 0..=125 => {
            head[1] = short as u8;
            2
        }
        medium @ 126..=0xffff => {
            head[1] = 126;
            head[2..4].copy_from_slice(&(medium as u16).to_be_bytes());
            4
        }
        long => {
            head[1] = 127;
            head[2..].copy_from_slice(&(long as u64).to_be_bytes());
            10
        }
    };
    (head, length)
}

/// The |Sec-WebSocket-Accept| that proves to a client that its |Sec-WebSocket-Key| was read (§4.2.2).
#[must_use]
pub fn accept(key: &[u8]) -> String {
    let proof = Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    BASE64.encode(&proof)
}

#[cfg(test)]
mod tests;
