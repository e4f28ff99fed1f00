//! The server-side cases of Autobahn's test suite, rebuilt (its sections are named at each table), and the comparison
//! with tungstenite on random frames. Every case is read whole, byte by byte and in other pieces: the same must come out.

use proptest::prelude::*;
use tungstenite::protocol::{Message, Role, WebSocketConfig};
use tungstenite::{Error, error::CapacityError};

use super::*;

const LIMIT: usize = 1 << 20;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const MORE: u8 = 0;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

/// What came out of a decoder, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
    /// The connection is closed with this code.
    Violated(u16),
}
use Event::{Binary, Close, Ping, Pong, Text, Violated};

impl From<Received<'_>> for Event {
    fn from(received: Received<'_>) -> Self {
        match received {
            Received::Text(text) => Text(text.into()),
            Received::Binary(bytes) => Binary(bytes.into()),
            Received::Deflated { .. } => unreachable!("nothing was agreed on"),
            Received::Ping(payload) => Ping(payload.into()),
            Received::Pong => Pong,
            Received::Close(code) => Close(code.map(CloseCode::get)),
        }
    }
}

/// A frame of a client: the whole first byte, the payload, and a mask that differs from frame to frame.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, first, payload.len() as u8];
    let mut out = vec![first];
    match payload.len() {
        short @ ..126 => out.push(FIN | short as u8),
        medium @ ..0x10000 => {
            out.push(FIN | 126);
            out.extend((medium as u16).to_be_bytes());
        }
        long => {
            out.push(FIN | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// What a decoder makes of `bytes` that arrive in these pieces; the last one repeats.
fn decode(bytes: &[u8], pieces: &[usize], limit: usize) -> Vec<Event> {
    let mut decoder = Decoder::new(limit, false);
    let mut events = Vec::new();
    let mut bytes = bytes.to_vec();
    let mut rest = bytes.as_mut_slice();
    let mut pieces = pieces.iter().chain(std::iter::repeat(pieces.last().unwrap()));
    while !rest.is_empty() {
        let size = (*pieces.next().unwrap()).clamp(1, rest.len());
        let (mut input, later) = rest.split_at_mut(size);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(received)) => events.push(Event::from(received)),
                Ok(None) => break,
                Err(violation) => events.push(Violated(violation.close_code().get())),
            }
            if let Some(Close(_) | Violated(_)) = events.last() {
                return events;
            }
        }
        assert!(input.is_empty());
        rest = later;
    }
    events
}

/// Decodes frames, each given as first byte and payload, in several ways.
#[track_caller]
fn check(frames: &[(u8, &[u8])], expected: &[Event]) {
    let bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| masked(*first, payload)).collect();
    check_bytes(&bytes, expected);
}

#[track_caller]
fn check_bytes(bytes: &[u8], expected: &[Event]) {
    for pieces in [&[usize::MAX][..], &[1], &[2, 3, 5, 7, 64], &[1_000]] {
        assert_eq!(decode(bytes, pieces, LIMIT), expected, "in pieces of {pieces:?}");
    }
}

#[test]
fn sizes() {
    // 1.1, 1.2: every form of the length. 9.1, 9.2: large ones.
    for size in [0, 125, 126, 127, 128, 65_535, 65_536, LIMIT] {
        let payload = vec![b'*'; size];
        check(&[(FIN | TEXT, &payload)], &[Text("*".repeat(size))]);
        check(&[(FIN | BINARY, &payload)], &[Binary(payload.clone())]);
    }
}

#[test]
fn pings_and_pongs() {
    let all: Vec<u8> = (0..125).map(|n| n * 2).collect();
    // 2.1 to 2.4, 2.6
    for payload in [&b""[..], b"Hello, world!", &[0x00, 0xff, 0xfe, 0xfd], &all] {
        check(&[(FIN | PING, payload)], &[Ping(payload.into())]);
    }
    // 2.5: a ping of 126 bytes
    check(&[(FIN | PING, &[0xfe; 126])], &[Violated(1002)]);
    // 2.7 to 2.9: pongs that nobody asked for
    check(&[(FIN | PONG, b""), (FIN | PONG, b"x"), (FIN | PING, b"p")], &[Pong, Pong, Ping(b"p".into())]);
    // 2.10, 2.11: ten pings
    let names: Vec<Vec<u8>> = (0..10).map(|n| format!("payload-{n}").into_bytes()).collect();
    let frames: Vec<(u8, &[u8])> = names.iter().map(|name| (FIN | PING, name.as_slice())).collect();
    check(&frames, &names.iter().cloned().map(Ping).collect::<Vec<_>>());
}

#[test]
fn reserved_bits_and_opcodes() {
    // 3.1 to 3.7: every combination of reserved bits, on every kind of frame
    for bits in 1..8 {
        for opcode in [TEXT, BINARY, PING, PONG, CLOSE] {
            let hello = (FIN | TEXT, &b"hello"[..]);
            check(&[hello, (FIN | bits << 4 | opcode, b"x"), hello], &[Text("hello".into()), Violated(1002)]);
        }
    }
    // 4.1, 4.2: reserved opcodes, of messages and of control frames, with and without payload
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        check(&[(FIN | opcode, b"")], &[Violated(1002)]);
        check(&[(FIN | TEXT, b"a"), (FIN | opcode, b"x"), (FIN | PING, b"")], &[Text("a".into()), Violated(1002)]);
    }
}

#[test]
fn fragments() {
    let hello = || Text("fragment1fragment2".into());
    let (one, two): (&[u8], &[u8]) = (b"fragment1", b"fragment2");
    // 5.1, 5.2: control frames are not fragmented
    check(&[(PING, one), (FIN | MORE, two)], &[Violated(1002)]);
    check(&[(PONG, one), (FIN | MORE, two)], &[Violated(1002)]);
    // 5.3 to 5.5
    check(&[(TEXT, one), (FIN | MORE, two)], &[hello()]);
    // 5.6 to 5.8: a ping between the fragments
    check(&[(TEXT, one), (FIN | PING, b"ping"), (FIN | MORE, two)], &[Ping(b"ping".into()), hello()]);
    check(&[(TEXT, one), (FIN | PONG, b""), (FIN | MORE, two)], &[Pong, hello()]);
    // 5.9 to 5.14: a continuation of nothing
    for first in [FIN | MORE, MORE] {
        check(&[(first, one), (FIN | TEXT, b"hello")], &[Violated(1002)]);
        check(&[(TEXT, one), (FIN | MORE, two), (first, one)], &[hello(), Violated(1002)]);
    }
    // 5.15, 5.18: a message within a message
    check(&[(TEXT, one), (FIN | TEXT, two)], &[Violated(1002)]);
    check(&[(TEXT, one), (BINARY, two)], &[Violated(1002)]);
    // 5.19, 5.20: five fragments, pings between them, and another message
    check(
        &[
            (TEXT, b"1"),
            (MORE, b"2"),
            (FIN | PING, b"a"),
            (MORE, b"3"),
            (MORE, b"4"),
            (FIN | PING, b"b"),
            (FIN | MORE, b"5"),
        ],
        &[Ping(b"a".into()), Ping(b"b".into()), Text("12345".into())],
    );
    check(
        &[(BINARY, b"1"), (MORE, b""), (FIN | MORE, b""), (FIN | TEXT, b"next")],
        &[Binary(b"1".into()), Text("next".into())],
    );
    // 6.1.2, 6.1.3: empty fragments
    check(&[(TEXT, b""), (MORE, b""), (FIN | MORE, b"")], &[Text(String::new())]);
    check(&[(TEXT, b""), (MORE, b"middle"), (FIN | MORE, b"")], &[Text("middle".into())]);
}

#[test]
fn utf8() {
    // 6.2, 6.5 to 6.7, 6.9, 6.11, 6.13, 6.22: characters of every length, also cut in two
    let valid = [
        "Hello-µ@ßöäüàá-UTF-8!!",
        "κόσμε",
        "\u{0}",
        "\u{80}",
        "\u{800}",
        "\u{10000}",
        "\u{7f}",
        "\u{7ff}",
        "\u{ffff}",
        "\u{10ffff}",
        "\u{d7ff}",
        "\u{e000}",
        "\u{fffd}",
        "\u{fffe}",
        "\u{1fffe}",
        "\u{1ffff}",
        "\u{10fffe}",
    ];
    for text in valid {
        check(&[(FIN | TEXT, text.as_bytes())], &[Text(text.into())]);
        for at in 0..=text.len() {
            let (one, two) = text.as_bytes().split_at(at);
            check(&[(TEXT, one), (FIN | MORE, two)], &[Text(text.into())]);
            check(&[(TEXT, one), (FIN | PING, b""), (FIN | MORE, two)], &[Ping(Vec::new()), Text(text.into())]);
        }
    }
    // 6.3, 6.8, 6.10, 6.12, 6.14 to 6.21: lone continuations and beginnings, overlong forms, surrogates, past U+10FFFF
    let invalid: [&[u8]; 22] = [
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        b"\xfb\xbf\xbf\xbf\xbf",
        b"\xfd\xbf\xbf\xbf\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\x80",
        b"\xbf",
        b"\x80\xbf\x80",
        b"\xc0 \xc1 ",
        b"\xe0 ",
        b"\xf0 ",
        b"\xfe",
        b"\xff",
        b"\xfe\xfe\xff\xff",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xed\xa0\x80\xed\xb0\x80",
    ];
    for bytes in invalid {
        check(&[(FIN | TEXT, bytes)], &[Violated(1007)]);
        check(&[(TEXT, b"good"), (FIN | MORE, bytes)], &[Violated(1007)]);
        check(&[(FIN | BINARY, bytes)], &[Event::Binary(bytes.into())]);
    }
    // 6.1 of the RFC's own: a character that never ends
    check(&[(FIN | TEXT, b"\xce")], &[Violated(1007)]);
    check(&[(TEXT, b"\xce"), (FIN | MORE, b"")], &[Violated(1007)]);
}

#[test]
fn text_that_is_wrong_is_refused_as_soon_as_it_is() {
    // 6.4.1: in the first of two fragments. 6.4.3, 6.4.4: within a frame that has not arrived in full.
    let good = "κόσμε".as_bytes();
    let first = masked(TEXT, &[good, b"\xf4\x90\x80\x80"].concat());
    check_bytes(&first, &[Violated(1007)]);
    let whole = masked(FIN | TEXT, &[good, b"\xf4\x90\x80\x80", good].concat());
    let head = 6;
    let up_to = |payload: usize| decode(&whole[..head + payload], &[1], LIMIT);
    assert_eq!(up_to(good.len() + 1), []);
    assert_eq!(up_to(good.len() + 2), [Violated(1007)]);
}

#[test]
fn closes() {
    let hello = (FIN | TEXT, &b"hello"[..]);
    let close = |code: u16, reason: &[u8]| [&code.to_be_bytes(), reason].concat();
    // 7.1, 7.3: nothing is read after a close
    check(&[hello, (FIN | CLOSE, b""), (FIN | PING, b""), hello], &[Text("hello".into()), Close(None)]);
    check(&[(FIN | CLOSE, b"\x03")], &[Violated(1002)]);
    check(&[(TEXT, b"fragment"), (FIN | CLOSE, &close(1000, b"")), (FIN | MORE, b"")], &[Close(Some(1000))]);
    check(&[(FIN | CLOSE, &close(1000, "Hello Wörld!".as_bytes()))], &[Close(Some(1000))]);
    check(&[(FIN | CLOSE, &close(1000, &[b'*'; 123]))], &[Close(Some(1000))]);
    check(&[(FIN | CLOSE, &close(1000, &[b'*'; 124]))], &[Violated(1002)]);
    // 7.5: the reason is text
    check(&[(FIN | CLOSE, &close(1000, b"\xce\xba\xed\xa0\x80"))], &[Violated(1007)]);
    // 7.7, 7.9, 7.13: codes
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999] {
        check(&[(FIN | CLOSE, &close(code, b""))], &[Close(Some(code))]);
    }
    for code in [0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        check(&[(FIN | CLOSE, &close(code, b""))], &[Violated(1002)]);
    }
}

#[test]
fn what_no_client_sends() {
    check_bytes(b"\x81\x05hello", &[Violated(1002)]);
    check_bytes(b"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0", &[Violated(1002)]);
    check_bytes(b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", &[Violated(1009)]);
    check_bytes(b"GET / HTTP/1.1\r\n", &[Violated(1002)]);
}

#[test]
fn limits() {
    let at = |frames: &[(u8, &[u8])]| {
        let bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| masked(*first, payload)).collect();
        let whole = decode(&bytes, &[usize::MAX], 10);
        assert_eq!(decode(&bytes, &[1], 10), whole);
        whole
    };
    assert_eq!(at(&[(FIN | BINARY, &[1; 10])]), [Binary(vec![1; 10])]);
    assert_eq!(at(&[(FIN | BINARY, &[1; 11])]), [Violated(1009)]);
    assert_eq!(at(&[(BINARY, &[1; 6]), (FIN | MORE, &[1; 4])]), [Binary(vec![1; 10])]);
    assert_eq!(at(&[(BINARY, &[1; 6]), (FIN | MORE, &[1; 5])]), [Violated(1009)]);
    assert_eq!(at(&[(FIN | PING, &[1; 125])]), [Ping(vec![1; 125])], "the limit is for messages");
    // It is refused by its head; the payload is not waited for.
    assert_eq!(decode(&masked(FIN | BINARY, &[1; 11])[..6], &[1], 10), [Violated(1009)]);
}

#[test]
fn nothing_is_kept_between_messages() {
    let mut decoder = Decoder::new(LIMIT, false);
    for mut bytes in masked(FIN | TEXT, b"hello").chunks(3).map(<[u8]>::to_vec) {
        let mut input = bytes.as_mut_slice();
        while decoder.next(&mut input).unwrap().is_some() {}
    }
    assert_eq!(decoder.held(), 0);
}

#[test]
fn frames_to_clients() {
    let table: [(Vec<u8>, &[u8]); 6] = [
        (text("Hello"), b"\x81\x05Hello"),
        (ping(), b"\x89\0"),
        (pong(b"ab"), b"\x8a\x02ab"),
        (close(None, ""), b"\x88\0"),
        (close(Some(CloseCode::GOING_AWAY), "bye"), b"\x88\x05\x03\xe9bye"),
        (text(&"x".repeat(126))[..4].into(), b"\x81\x7e\0\x7e"),
    ];
    for (frame, expected) in table {
        assert_eq!(*frame, *expected);
    }
    for size in [0, 125, 126, 65_535, 65_536, 100_000] {
        let message = "x".repeat(size);
        assert_eq!(text_with(10, |text| text.extend_from_slice(message.as_bytes())), text(&message));
        let read = std::io::Cursor::new(text(&message));
        let mut client = tungstenite::WebSocket::from_raw_socket(Duplex(read), Role::Client, None);
        assert_eq!(client.read().unwrap(), Message::text(message));
    }
}

#[test]
fn the_proof_of_the_handshake() {
    // §1.3
    assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

/// Reads from a buffer and writes to nowhere.
struct Duplex(std::io::Cursor<Vec<u8>>);

impl std::io::Read for Duplex {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        std::io::Read::read(&mut self.0, into)
    }
}

impl std::io::Write for Duplex {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What tungstenite's server makes of `bytes`.
fn oracle(bytes: &[u8], limit: usize) -> Vec<Event> {
    let config = WebSocketConfig::default().max_message_size(Some(limit)).max_frame_size(Some(limit));
    let read = std::io::Cursor::new(bytes.to_vec());
    let mut server = tungstenite::WebSocket::from_raw_socket(Duplex(read), Role::Server, Some(config));
    let mut events = Vec::new();
    loop {
        events.push(match server.read() {
            Ok(Message::Text(text)) => Text(text.to_string()),
            Ok(Message::Binary(bytes)) => Binary(bytes.into()),
            Ok(Message::Ping(payload)) => Ping(payload.into()),
            Ok(Message::Pong(_)) => Pong,
            // It hands a close with a forbidden code on with the code it answers.
            Ok(Message::Close(Some(frame))) if frame.reason == "Protocol violation" => Violated(1002),
            Ok(Message::Close(frame)) => Close(frame.map(|frame| frame.code.into())),
            Ok(Message::Frame(_)) => unreachable!("only sent"),
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => Violated(1009),
            Err(Error::Utf8(_)) => Violated(1007),
            // The end of the bytes.
            Err(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => return events,
            Err(Error::Protocol(_)) => Violated(1002),
            Err(other) => panic!("{other:?}"),
        });
        if let Some(Close(_) | Violated(_)) = events.last() {
            return events;
        }
    }
}

/// Frames as clients send them, and some as none does.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        4 => Just(FIN | TEXT),
        2 => Just(FIN | BINARY),
        3 => Just(TEXT),
        1 => Just(BINARY),
        3 => Just(MORE),
        4 => Just(FIN | MORE),
        3 => Just(FIN | PING),
        1 => Just(FIN | PONG),
        1 => Just(FIN | CLOSE),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        3 => "\\PC{0,40}".prop_map(String::into_bytes),
        1 => "[a-z]{100,200}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (990..1020u16, "[a-z]{0,5}").prop_map(|(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat()),
    ];
    (first, payload).prop_map(|(first, payload)| masked(first, &payload))
}

proptest! {
    #[test]
    fn random_frames_read_as_tungstenite_reads_them(
        frames in prop::collection::vec(any_frame(), 1..12),
        pieces in prop::collection::vec(1usize..90, 1..12),
        // No one frame is too large: where it is broken as well, which is said first differs.
        limit in 250usize..500,
    ) {
        let bytes = frames.concat();
        let whole = decode(&bytes, &[usize::MAX], limit);
        prop_assert_eq!(&decode(&bytes, &pieces, limit), &whole, "however it is cut");
        prop_assert_eq!(&whole, &oracle(&bytes, limit));
    }

    #[test]
    fn damaged_frames_never_panic_and_read_the_same_however_cut(
        frames in prop::collection::vec(any_frame(), 1..6),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        pieces in prop::collection::vec(1usize..90, 1..12),
    ) {
        let mut bytes = frames.concat();
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        prop_assert_eq!(decode(&bytes, &pieces, LIMIT), decode(&bytes, &[1], LIMIT));
    }
}
