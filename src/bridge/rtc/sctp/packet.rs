//! SCTP packets (RFC 9260 §3) as bytes. Pure.
//!
//! A packet is a common header and chunks, each padded to four bytes. What a data channel needs is parsed into [`Chunk`];
//! chunks of other types are passed over or end the packet, as their type's first bits say (§3.2).

use bytes::{Buf, Bytes};

/// Length of the common header, in bytes.
pub(super) const HEADER: usize = 12;

/// Length of the header of a DATA chunk, in bytes.
pub(super) const DATA_HEADER: usize = 16;

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SACK: u8 = 3;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ACK: u8 = 5;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;
/// RFC 6525.
const RE_CONFIG: u8 = 130;

const STATE_COOKIE: u16 = 7;
/// RFC 5061 §4.2.7: the chunk types that this side understands beyond the standard's.
const SUPPORTED_EXTENSIONS: u16 = 0x8008;
const OUTGOING_RESET: u16 = 13;
const RESET_RESPONSE: u16 = 16;

/// Gap blocks of one SACK that are read or written. With more, what is beyond waits for a later one.
const MAX_GAPS: usize = 64;

/// Flags of a DATA chunk (§3.3.1, RFC 7053).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct Flags {
    /// It wants to be acknowledged at once.
    pub(in super::super) immediate: bool,
    pub(in super::super) unordered: bool,
    /// It begins, and ends, a message.
    pub(in super::super) begins: bool,
    pub(in super::super) ends: bool,
}

/// Part of a message, or all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Data {
    pub(in super::super) tsn: u32,
    pub(in super::super) stream: u16,
    pub(in super::super) ssn: u16,
    pub(in super::super) protocol: u32,
    pub(in super::super) flags: Flags,
    pub(in super::super) payload: Bytes,
}

/// What INIT and INIT ACK have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Init {
    pub(super) tag: u32,
    /// Bytes that it takes.
    pub(super) window: u32,
    pub(super) outbound: u16,
    pub(super) inbound: u16,
    pub(super) tsn: u32,
}

/// What has arrived (§3.3.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sack {
    /// Everything up to this one.
    pub(super) cumulative: u32,
    /// Bytes that it takes beyond what has arrived.
    pub(super) window: u32,
    /// First and last of each run beyond, counted from `cumulative`.
    pub(super) gaps: Vec<(u16, u16)>,
}

/// What becomes of streams (RFC 6525 §4), as far as needed: its sender will send nothing more on some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reset {
    Request {
        number: u32,
        /// The last TSN it used.
        last: u32,
        /// None means all.
        streams: Vec<u16>,
    },
    Response {
        number: u32,
        result: u32,
    },
}

/// Results of a reset (RFC 6525 §4.4).
pub(super) const RESET_PERFORMED: u32 = 1;
pub(super) const RESET_IN_PROGRESS: u32 = 6;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chunk {
    Data(Data),
    Init(Init),
    InitAck(Init, Bytes),
    Sack(Sack),
    Heartbeat(Bytes),
    HeartbeatAck(Bytes),
    Abort,
    Shutdown,
    ShutdownAck,
    ShutdownComplete,
    CookieEcho(Bytes),
    CookieAck,
    ReConfig(Vec<Reset>),
}

/// Reads a packet: its verification tag and its chunks. `None` if it is damaged.
pub(super) fn parse(mut packet: Bytes) -> Option<(u32, Vec<Chunk>)> {
    if packet.len() < HEADER {
        return None;
    }
    let sum = u32::from_le_bytes(packet[8..12].try_into().ok()?);
    let rest = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&packet[..8]), &[0; 4]), &packet[HEADER..]);
    if sum != rest {
        return None;
    }
    let tag = u32::from_be_bytes(packet[4..8].try_into().ok()?);
    packet.advance(HEADER);
    let mut chunks = Vec::with_capacity(1);
    while packet.len() >= 4 {
        let (kind, flags) = (packet[0], packet[1]);
        let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        if length < 4 || length > packet.len() {
            return None;
        }
        match chunk(kind, flags, packet.slice(4..length)) {
            Some(chunk) => chunks.push(chunk),
            None if is_known(kind) => return None,
            // §3.2: the first bit says whether what follows counts.
            None if kind & 0x80 == 0 => break,
            None => {}
        }
        packet.advance(length.next_multiple_of(4).min(packet.len()));
    }
    Some((tag, chunks))
}

fn is_known(kind: u8) -> bool {
    matches!(kind, DATA..=SHUTDOWN_ACK | COOKIE_ECHO | COOKIE_ACK | SHUTDOWN_COMPLETE | RE_CONFIG)
}

fn chunk(kind: u8, flags: u8, mut body: Bytes) -> Option<Chunk> {
    Some(match kind {
        DATA => {
            // §3.3.1: a chunk without data is an error.
            if body.len() <= DATA_HEADER - 4 {
                return None;
            }
            let flags = Flags {
                immediate: flags & 8 != 0,
                unordered: flags & 4 != 0,
                begins: flags & 2 != 0,
                ends: flags & 1 != 0,
            };
            let (tsn, stream, ssn, protocol) = (body.get_u32(), body.get_u16(), body.get_u16(), body.get_u32());
            Chunk::Data(Data { tsn, stream, ssn, protocol, flags, payload: body })
        }
        INIT => Chunk::Init(init(&mut body)?),
        INIT_ACK => {
            let init = init(&mut body)?;
            let cookie = parameters(body)?.into_iter().find(|(kind, _)| *kind == STATE_COOKIE)?.1;
            Chunk::InitAck(init, cookie)
        }
        SACK => {
            if body.len() < 12 {
                return None;
            }
            let (cumulative, window, gaps, duplicates) =
                (body.get_u32(), body.get_u32(), usize::from(body.get_u16()), usize::from(body.get_u16()));
            if body.len() < 4 * (gaps + duplicates) {
                return None;
            }
            let gaps = (0..gaps.min(MAX_GAPS)).map(|_| (body.get_u16(), body.get_u16())).collect();
            Chunk::Sack(Sack { cumulative, window, gaps })
        }
        HEARTBEAT => Chunk::Heartbeat(body),
        HEARTBEAT_ACK => Chunk::HeartbeatAck(body),
        ABORT => Chunk::Abort,
        SHUTDOWN => Chunk::Shutdown,
        SHUTDOWN_ACK => Chunk::ShutdownAck,
        SHUTDOWN_COMPLETE => Chunk::ShutdownComplete,
        COOKIE_ECHO => Chunk::CookieEcho(body),
        COOKIE_ACK => Chunk::CookieAck,
        RE_CONFIG => {
            Chunk::ReConfig(parameters(body)?.into_iter().filter_map(|(kind, body)| reset(kind, body)).collect())
        }
        // ERROR tells why something of ours was of no use; nothing follows from it.
        _ => return None,
    })
}

fn init(body: &mut Bytes) -> Option<Init> {
    (body.len() >= 16).then(|| Init {
        tag: body.get_u32(),
        window: body.get_u32(),
        outbound: body.get_u16(),
        inbound: body.get_u16(),
        tsn: body.get_u32(),
    })
}

fn reset(kind: u16, mut body: Bytes) -> Option<Reset> {
    match kind {
        OUTGOING_RESET if body.len() >= 12 => {
            let (number, _, last) = (body.get_u32(), body.get_u32(), body.get_u32());
            Some(Reset::Request { number, last, streams: body.chunks_exact(2).map(|mut id| id.get_u16()).collect() })
        }
        RESET_RESPONSE if body.len() >= 8 => Some(Reset::Response { number: body.get_u32(), result: body.get_u32() }),
        _ => None,
    }
}

/// §3.2.1.
fn parameters(mut body: Bytes) -> Option<Vec<(u16, Bytes)>> {
    let mut parameters = Vec::new();
    while body.len() >= 4 {
        let (kind, length) =
            (u16::from_be_bytes([body[0], body[1]]), usize::from(u16::from_be_bytes([body[2], body[3]])));
        if length < 4 || length > body.len() {
            return None;
        }
        parameters.push((kind, body.slice(4..length)));
        body.advance(length.next_multiple_of(4).min(body.len()));
    }
    Some(parameters)
}

/// A packet that is being written.
#[derive(Debug)]
pub(super) struct Writer<'a>(&'a mut Vec<u8>);

impl<'a> Writer<'a> {
    /// Begins a packet in `buffer`, which is emptied first.
    pub(super) fn new(buffer: &'a mut Vec<u8>, port: u16, peer_port: u16, tag: u32) -> Self {
        buffer.clear();
        buffer.extend_from_slice(&port.to_be_bytes());
        buffer.extend_from_slice(&peer_port.to_be_bytes());
        buffer.extend_from_slice(&tag.to_be_bytes());
        buffer.extend_from_slice(&[0; 4]);
        Self(buffer)
    }

    /// Its length so far, in bytes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.len() <= HEADER
    }

    pub(super) fn finish(self) {
        let sum = crc32c::crc32c(self.0);
        self.0[8..HEADER].copy_from_slice(&sum.to_le_bytes());
    }

    pub(super) fn data(&mut self, data: &Data) {
        let Flags { immediate, unordered, begins, ends } = data.flags;
        let flags = u8::from(immediate) << 3 | u8::from(unordered) << 2 | u8::from(begins) << 1 | u8::from(ends);
        self.chunk(DATA, flags, |out| {
            out.extend_from_slice(&data.tsn.to_be_bytes());
            out.extend_from_slice(&data.stream.to_be_bytes());
            out.extend_from_slice(&data.ssn.to_be_bytes());
            out.extend_from_slice(&data.protocol.to_be_bytes());
            out.extend_from_slice(&data.payload);
        });
    }

    pub(super) fn control(&mut self, chunk: &Chunk) {
        match chunk {
            Chunk::Data(data) => self.data(data),
            Chunk::Init(init) => self.chunk(INIT, 0, |out| put_init(out, init, None)),
            Chunk::InitAck(init, cookie) => self.chunk(INIT_ACK, 0, |out| put_init(out, init, Some(cookie))),
            Chunk::Sack(sack) => self.chunk(SACK, 0, |out| {
                out.extend_from_slice(&sack.cumulative.to_be_bytes());
                out.extend_from_slice(&sack.window.to_be_bytes());
                let gaps = &sack.gaps[..sack.gaps.len().min(MAX_GAPS)];
                out.extend_from_slice(&(gaps.len() as u16).to_be_bytes());
                out.extend_from_slice(&[0; 2]);
                for (first, last) in gaps {
                    out.extend_from_slice(&first.to_be_bytes());
                    out.extend_from_slice(&last.to_be_bytes());
                }
            }),
            Chunk::Heartbeat(body) => self.chunk(HEARTBEAT, 0, |out| out.extend_from_slice(body)),
            Chunk::HeartbeatAck(body) => self.chunk(HEARTBEAT_ACK, 0, |out| out.extend_from_slice(body)),
            Chunk::Abort => self.chunk(ABORT, 0, |_| {}),
            Chunk::Shutdown => self.chunk(SHUTDOWN, 0, |_| {}),
            Chunk::ShutdownAck => self.chunk(SHUTDOWN_ACK, 0, |_| {}),
            Chunk::ShutdownComplete => self.chunk(SHUTDOWN_COMPLETE, 0, |_| {}),
            Chunk::CookieEcho(cookie) => self.chunk(COOKIE_ECHO, 0, |out| out.extend_from_slice(cookie)),
            Chunk::CookieAck => self.chunk(COOKIE_ACK, 0, |_| {}),
            Chunk::ReConfig(resets) => {
                self.chunk(RE_CONFIG, 0, |out| resets.iter().for_each(|reset| put_reset(out, reset)))
            }
        }
    }

    fn chunk(&mut self, kind: u8, flags: u8, body: impl FnOnce(&mut Vec<u8>)) {
        let at = self.0.len();
        self.0.extend_from_slice(&[kind, flags, 0, 0]);
        body(self.0);
        put_length(self.0, at);
        pad(self.0);
    }
}

fn put_init(out: &mut Vec<u8>, init: &Init, cookie: Option<&Bytes>) {
    out.extend_from_slice(&init.tag.to_be_bytes());
    out.extend_from_slice(&init.window.to_be_bytes());
    out.extend_from_slice(&init.outbound.to_be_bytes());
    out.extend_from_slice(&init.inbound.to_be_bytes());
    out.extend_from_slice(&init.tsn.to_be_bytes());
    if let Some(cookie) = cookie {
        put_parameter(out, STATE_COOKIE, |out| out.extend_from_slice(cookie));
    }
    put_parameter(out, SUPPORTED_EXTENSIONS, |out| out.push(RE_CONFIG));
}

fn put_reset(out: &mut Vec<u8>, reset: &Reset) {
    match reset {
        Reset::Request { number, last, streams } => put_parameter(out, OUTGOING_RESET, |out| {
            out.extend_from_slice(&number.to_be_bytes());
            // The number of a request of the other side that this one answers: none.
            out.extend_from_slice(&0_u32.to_be_bytes());
            out.extend_from_slice(&last.to_be_bytes());
            streams.iter().for_each(|id| out.extend_from_slice(&id.to_be_bytes()));
        }),
        Reset::Response { number, result } => put_parameter(out, RESET_RESPONSE, |out| {
            out.extend_from_slice(&number.to_be_bytes());
            out.extend_from_slice(&result.to_be_bytes());
        }),
    }
}

/// Writes a parameter after the padding of the one before. A chunk's length does not count the padding of its last one.
fn put_parameter(out: &mut Vec<u8>, kind: u16, body: impl FnOnce(&mut Vec<u8>)) {
    pad(out);
    let at = out.len();
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
    body(out);
    put_length(out, at);
}

/// Enters the length of what began at `at`.
fn put_length(out: &mut [u8], at: usize) {
    let length = (out.len() - at) as u16;
    out[at + 2..at + 4].copy_from_slice(&length.to_be_bytes());
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}
