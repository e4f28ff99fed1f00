//! The UDP tracker protocol (BEP 15), with the path of the tracker's URL after an announce (BEP 41). Numbers are
//! big-endian.

use std::net::SocketAddr;
use std::num::NonZeroU16;

use super::compact;
use super::id::{InfoHash, PeerId};
use super::tracker::{Counts, NativeAnnounce, Progress, Refusal};

/// "magic constant" that a connect request carries in place of a connection id.
const PROTOCOL_ID: u64 = 0x0417_2710_1980;

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;

/// BEP 15: "Up to about 74 torrents can be scraped at once."
pub const MAX_SCRAPED: usize = 74;

/// Datagrams of this size pass every IPv6 path unfragmented (RFC 8200 §5: 1280, less IP and UDP headers).
const MAX_REPLY: usize = 1_232;

/// The number by which a client tells replies apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionId(pub u32);

/// The number that proves that a client receives what is sent to its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionId(pub u64);

/// A datagram from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// It wants a connection id.
    Connect(TransactionId),
    /// It has one, or says so.
    Request(ConnectionId, TransactionId, Result<Request, Reason>),
}

/// What a client with a connection id may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Announces a peer.
    Announce {
        /// What is announced.
        announce: NativeAnnounce,
        /// The path and query of the tracker's URL, as the client was given it; empty if it does not say.
        url: Vec<u8>,
    },
    /// Asks for the counts of swarms.
    Scrape(Vec<InfoHash>),
}

/// Why a request was refused. The sentences are short: a refusal must not be longer than what it refuses, or this server
/// could be aimed at others as an amplifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each sentence documents its variant")]
pub enum Reason {
    #[error("connection id expired")]
    NotConnected,
    #[error("the port must not be 0")]
    NoPort,
    #[error("1 to 74 info hashes")]
    BadScrape,
    #[error("{}", in_short(*.0))]
    Refused(Refusal),
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn in_short(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotServed => "torrent not served here",
        Refusal::NoPasskey => "a passkey is needed",
        Refusal::TooOften => "too many announces",
        Refusal::TrackerFull => "the tracker is full",
        Refusal::AddressFull => "too many peers announced",
    }
}

/// Reads a datagram; `None` if it is not of this protocol.
#[must_use]
pub fn parse(datagram: &[u8]) -> Option<Packet> {
    let mut rest = datagram;
    let connection = u64::from_be_bytes(take(&mut rest)?);
    let action = u32::from_be_bytes(take(&mut rest)?);
    let transaction = TransactionId(u32::from_be_bytes(take(&mut rest)?));
    let request = match action {
        CONNECT if connection == PROTOCOL_ID => return Some(Packet::Connect(transaction)),
        ANNOUNCE => announce(&mut rest)?.map(|announce| Request::Announce { announce, url: url_data(rest) }),
        // Without a whole info hash it is shorter than a refusal.
        SCRAPE if rest.len() < InfoHash::LEN => return None,
        SCRAPE => match rest.chunks_exact(20) {
            hashes if hashes.remainder().is_empty() && (1..=MAX_SCRAPED).contains(&hashes.len()) => {
                Ok(Request::Scrape(hashes.filter_map(|hash| InfoHash::from_slice(hash).ok()).collect()))
            }
            _ => Err(Reason::BadScrape),
        },
        _ => return None,
    };
    Some(Packet::Request(ConnectionId(connection), transaction, request))
}

/// "Offset 16 … 98" of an announce request.
fn announce(rest: &mut &[u8]) -> Option<Result<NativeAnnounce, Reason>> {
    let info_hash = InfoHash(take(rest)?);
    let peer_id = PeerId(take(rest)?);
    let [_downloaded, left, _uploaded] = [take(rest)?, take(rest)?, take(rest)?].map(u64::from_be_bytes);
    let [event, _ip, _key] = [take(rest)?, take(rest)?, take(rest)?].map(u32::from_be_bytes);
    let numwant = i32::from_be_bytes(take(rest)?);
    let Some(port) = NonZeroU16::new(u16::from_be_bytes(take(rest)?)) else { return Some(Err(Reason::NoPort)) };
    // "0: none; 1: completed; 2: started; 3: stopped"
    let progress = match event {
        1 => Some(Progress::Completed),
        3 => None,
        _ if left == 0 => Some(Progress::Seeding),
        _ => Some(Progress::Leeching),
    };
    // "num_want: -1 default"
    let numwant = usize::try_from(numwant).ok();
    Some(Ok(NativeAnnounce { info_hash, peer_id, port, progress, numwant }))
}

/// The options after an announce (BEP 41): "0x0" ends them, "0x1" is one byte of nothing, all others have a length, and
/// of these "0x2" is URLData: "the URL … may be split over several", in order. What is cut off counts as not there.
fn url_data(mut rest: &[u8]) -> Vec<u8> {
    const END_OF_OPTIONS: u8 = 0;
    const NOP: u8 = 1;
    const URL_DATA: u8 = 2;
    let mut url = Vec::new();
    while let [option, after @ ..] = rest {
        rest = match (*option, after) {
            (END_OF_OPTIONS, _) => break,
            (NOP, after) => after,
            (option, [length, data @ ..]) if data.len() >= usize::from(*length) => {
                let (data, after) = data.split_at(usize::from(*length));
                if option == URL_DATA {
                    url.extend(data);
                }
                after
            }
            _ => break,
        };
    }
    url
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// Writes the reply to a connect request.
pub fn write_connected(out: &mut Vec<u8>, transaction: TransactionId, connection: ConnectionId) {
    write_head(out, CONNECT, transaction);
    out.extend(connection.0.to_be_bytes());
}

/// The reply to an announce, as it is being written.
#[derive(Debug)]
pub struct Announced<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Announced<'a> {
    /// Where the counts are: "12 leechers, 16 seeders", 4 bytes each.
    const COUNTS: std::ops::Range<usize> = 12..20;

    /// Begins a reply, in an empty buffer. `interval` is in seconds.
    #[must_use]
    pub fn new(out: &'a mut Vec<u8>, transaction: TransactionId, interval: u64) -> Self {
        write_head(out, ANNOUNCE, transaction);
        out.extend(u32::try_from(interval).unwrap_or(u32::MAX).to_be_bytes());
        out.extend([0; Self::COUNTS.end - Self::COUNTS.start]);
        Self { out }
    }

    /// Names a peer, if there is still room. It must be of the family the request came over: "the size of an address is
    /// determined by the address family of the underlying UDP packet".
    pub fn add(&mut self, peer: SocketAddr) {
        if self.out.len() + 18 <= MAX_REPLY {
            compact::write_addr(self.out, peer);
        }
    }

    /// Fills in the counts, the last that is known.
    pub fn finish(self, counts: Counts) {
        let numbers = [number(counts.incomplete), number(counts.complete)];
        self.out[Self::COUNTS].copy_from_slice(numbers.as_flattened());
    }
}

/// Writes the reply to a scrape, in the order of the request.
pub fn write_scraped(out: &mut Vec<u8>, transaction: TransactionId, files: impl IntoIterator<Item = Counts>) {
    write_head(out, SCRAPE, transaction);
    for counts in files {
        out.extend(number(counts.complete));
        out.extend(number(counts.downloaded));
        out.extend(number(counts.incomplete));
    }
}

/// Writes a refusal.
pub fn write_error(out: &mut Vec<u8>, transaction: TransactionId, reason: Reason) {
    write_head(out, ERROR, transaction);
    out.extend(reason.to_string().as_bytes());
}

fn write_head(out: &mut Vec<u8>, action: u32, transaction: TransactionId) {
    out.extend(action.to_be_bytes());
    out.extend(transaction.0.to_be_bytes());
}

fn number(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::hex;

    const T: TransactionId = TransactionId(0x0102_0304);
    const CONNECTION: ConnectionId = ConnectionId(0x1112_1314_1516_1718);

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    fn announced(counts: Counts, peers: &[SocketAddr]) -> Vec<u8> {
        written(|out| {
            let mut reply = Announced::new(out, T, 1800);
            peers.iter().for_each(|peer| reply.add(*peer));
            reply.finish(counts);
        })
    }

    fn announce_packet(event: u32, left: u64, numwant: i32, port: u16) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(CONNECTION.0.to_be_bytes());
        out.extend(ANNOUNCE.to_be_bytes());
        out.extend(T.0.to_be_bytes());
        out.extend([0xaa; 20]);
        out.extend([b'p'; 20]);
        out.extend(1u64.to_be_bytes());
        out.extend(left.to_be_bytes());
        out.extend(2u64.to_be_bytes());
        out.extend(event.to_be_bytes());
        out.extend([9; 4]);
        out.extend([8; 4]);
        out.extend(numwant.to_be_bytes());
        out.extend(port.to_be_bytes());
        assert_eq!(out.len(), 98);
        out
    }

    #[test]
    fn connect() {
        let packet = hex::decode("00000417271019800000000001020304").unwrap();
        assert_eq!(parse(&packet), Some(Packet::Connect(T)));
        assert_eq!(
            hex::encode(&written(|out| write_connected(out, T, CONNECTION))),
            "00000000010203041112131415161718"
        );
        let wrong_magic = hex::decode("00000417271019810000000001020304").unwrap();
        assert_eq!(parse(&wrong_magic), None);
    }

    #[test]
    fn announces() {
        let port = NonZeroU16::new(6881).unwrap();
        let table = [
            (2, 5, -1, Some(Progress::Leeching), None),
            (2, 0, 0, Some(Progress::Seeding), Some(0)),
            (1, 0, 30, Some(Progress::Completed), Some(30)),
            (0, 0, 30, Some(Progress::Seeding), Some(30)),
            (3, 0, 30, None, Some(30)),
            (77, 1, i32::MIN, Some(Progress::Leeching), None),
        ];
        for (event, left, numwant, progress, wanted) in table {
            let announce = NativeAnnounce {
                info_hash: InfoHash([0xaa; 20]),
                peer_id: PeerId([b'p'; 20]),
                port,
                progress,
                numwant: wanted,
            };
            let expected = Request::Announce { announce, url: Vec::new() };
            let packet = announce_packet(event, left, numwant, 6881);
            assert_eq!(parse(&packet), Some(Packet::Request(CONNECTION, T, Ok(expected))), "{event} {left}");
        }
        let no_port = announce_packet(2, 5, -1, 0);
        assert_eq!(parse(&no_port), Some(Packet::Request(CONNECTION, T, Err(Reason::NoPort))));

        let counts = Counts { complete: 2, incomplete: 3, downloaded: 9 };
        let reply = announced(counts, &["1.2.3.4:6881".parse().unwrap()]);
        assert_eq!(hex::encode(&reply), "0000000101020304000007080000000300000002010203041ae1");
    }

    #[test]
    fn options_after_an_announce() {
        let long = [b"\x02\xff".as_slice(), &[b'a'; 255], b"\x02\x01b"].concat();
        let table: [(&[u8], &[u8]); 10] = [
            (b"", b""),
            (b"\x00", b""),
            (b"\x02\x02/a\x00", b"/a"),
            (b"\x02\x02/a", b"/a"),
            (b"\x01\x01\x02\x02/a\x01\x02\x02/b\x00\x02\x01c", b"/a/b"),
            (b"\x07\x03abc\x02\x02/a", b"/a"),
            (b"\x02\x00", b""),
            (b"\x02\x05/a", b""),
            (b"\x02\x02/a\x02\x09b", b"/a"),
            (&long, &[[b'a'; 255].as_slice(), b"b"].concat()),
        ];
        for (options, expected) in table {
            let packet = [announce_packet(2, 5, -1, 6881).as_slice(), options].concat();
            let Some(Packet::Request(_, _, Ok(Request::Announce { url, .. }))) = parse(&packet) else { panic!() };
            assert_eq!(url, expected, "{}", options.escape_ascii());
        }
    }

    #[test]
    fn replies_fit_a_datagram() {
        let peers: Vec<SocketAddr> =
            (1..2000).map(|port| SocketAddr::from(([0x20, 1, 0, 0, 0, 0, 0, 1], port))).collect();
        assert!(announced(Counts::default(), &peers).len() <= MAX_REPLY);
        let files = [Counts::default(); MAX_SCRAPED];
        assert!(written(|out| write_scraped(out, T, files)).len() <= MAX_REPLY);
    }

    #[test]
    fn scrapes() {
        let packet = |hashes: &[u8]| {
            [CONNECTION.0.to_be_bytes().as_slice(), &SCRAPE.to_be_bytes(), &T.0.to_be_bytes(), hashes].concat()
        };
        let request = |request| Some(Packet::Request(CONNECTION, T, request));
        let (a, b) = (InfoHash([1; 20]), InfoHash([2; 20]));
        assert_eq!(parse(&packet(&[a.0, b.0].concat())), request(Ok(Request::Scrape(vec![a, b]))));
        for short in [0, 19] {
            assert_eq!(parse(&packet(&vec![0; short])), None, "{short} bytes");
        }
        for wrong in [21, 20 * (MAX_SCRAPED + 1)] {
            assert_eq!(parse(&packet(&vec![0; wrong])), request(Err(Reason::BadScrape)), "{wrong} bytes");
        }
        let counts = Counts { complete: 1, incomplete: 2, downloaded: 3 };
        assert_eq!(
            hex::encode(&written(|out| write_scraped(out, T, [counts]))),
            "0000000201020304000000010000000300000002"
        );
    }

    #[test]
    fn refusals_are_no_longer_than_requests() {
        assert_eq!(
            written(|out| write_error(out, T, Reason::NotConnected)),
            [3u32.to_be_bytes().as_slice(), &T.0.to_be_bytes(), b"connection id expired"].concat()
        );
        const SHORTEST_REQUEST: usize = 16 + 20;
        for reason in [
            Reason::NotConnected,
            Reason::NoPort,
            Reason::BadScrape,
            Refusal::NotServed.into(),
            Refusal::NoPasskey.into(),
            Refusal::TooOften.into(),
            Refusal::TrackerFull.into(),
            Refusal::AddressFull.into(),
        ] {
            assert!(written(|out| write_error(out, T, reason)).len() <= SHORTEST_REQUEST, "{reason}");
        }
    }

    proptest! {
        #[test]
        fn no_datagram_panics_and_what_is_cut_is_not_read(bytes: Vec<u8>, cut in 0usize..98, flip in 0usize..98) {
            let _ = parse(&bytes);
            let mut packet = announce_packet(2, 5, -1, 6881);
            prop_assert_eq!(parse(&packet[..cut]), None);
            packet[flip] ^= 0xff;
            let _ = parse(&packet);
        }
    }
}
