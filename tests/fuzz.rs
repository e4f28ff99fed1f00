//! Fuzzing on stable Rust: real messages, damaged at random, into every parser that strangers reach the tracker and the
//! bridge by.
//!
//! Each target runs for `FUZZ_SECONDS` (a fifth of a second unless told) from `FUZZ_SEED`, which is printed. The swarm
//! table is fuzzed by operations, against a model, in `src/tracker/table/tests/model.rs`, and the bridge's door by whole
//! conversations in `src/bridge/door/fuzz.rs`; `make fuzz` runs all of them for long.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use std::time::{Duration, Instant};

use bytes::BytesMut;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use swarmgate::wire::extension::{ExtendedHandshake, MetadataMessage};
use swarmgate::wire::holepunch::Holepunch;
use swarmgate::wire::local_discovery::LocalAnnounce;
use swarmgate::wire::metainfo::Metainfo;
use swarmgate::wire::peer::{self, Frame, Handshake};
use swarmgate::wire::peer_exchange::{self, PeerExchange};
use swarmgate::wire::record_exchange::{ExchangeMessage, MAX_RECORDS};
use swarmgate::wire::tracker_ws::Message;
use swarmgate::wire::{proxy_protocol, stun, tracker_http, tracker_udp, tracker_ws};

/// Pieces that parsers treat specially, spliced in where chance has it.
const TOKENS: [&[u8]; 20] = [
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"-1",
    b"1e999",
    b"\\u0000",
    b"\\ud800",
    b"%00",
    b"%",
    b"&",
    b"=",
    b"\0",
    b"\xff",
    b"\xc3\xbf",
    b"announce",
    b"info_hash",
    b"999999999999999999999",
];

/// Damages `seed` a few times over.
fn damaged(rng: &mut SmallRng, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(0..6) {
        let at = rng.random_range(0..=bytes.len());
        let to = rng.random_range(at..=bytes.len().min(at + 40));
        match rng.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..to)),
            2 => drop(bytes.splice(at..at, TOKENS[rng.random_range(0..TOKENS.len())].iter().copied())),
            3 => bytes.extend_from_within(at..to),
            4 => drop(bytes.splice(at..to, other[other.len().min(at)..other.len().min(to)].iter().copied())),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.random_range(0..8);
                }
            }
        }
    }
    bytes
}

/// Feeds `target` for as long as it was asked to.
fn fuzz(name: &str, seeds: &[Vec<u8>], mut target: impl FnMut(&[u8])) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    // Every run of the tests is the same one; `make fuzz` looks further.
    let seed = number("FUZZ_SEED").unwrap_or(44);
    let time = number("FUZZ_SECONDS").map_or(Duration::from_millis(200), Duration::from_secs);
    eprintln!("{name}: FUZZ_SEED={seed}");
    let (mut rng, end, mut runs) = (SmallRng::seed_from_u64(seed), Instant::now() + time, 0_u64);
    while runs < 100 || Instant::now() < end {
        let mut pick = || &seeds[rng.random_range(0..seeds.len())];
        let (seed, other) = (pick(), pick());
        target(&damaged(&mut rng, seed, other));
        runs += 1;
    }
    eprintln!("{name}: {runs} runs");
}

fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

#[test]
fn json() {
    let seeds = texts(&[
        r#"{"numwant":5,"uploaded":0,"downloaded":0,"left":10,"event":"started","action":"announce","info_hash":"aaaaaaaaaaaaaaaaaaaa","peer_id":"bbbbbbbbbbbbbbbbbbbb","offers":[{"offer":{"type":"offer","sdp":"v=0\r\n"},"offer_id":"cccccccccccccccccccc"}]}"#,
        r#"{"action":"announce","info_hash":"ÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿ","peer_id":"bbbbbbbbbbbbbbbbbbbb","to_peer_id":"dddddddddddddddddddd","answer":{"type":"answer","sdp":"v=0\r\n"},"offer_id":"cccccccccccccccccccc"}"#,
        r#"{"action":"scrape","info_hash":["aaaaaaaaaaaaaaaaaaaa","bbbbbbbbbbbbbbbbbbbb"]}"#,
        r#"{"action":"dht_get","id":"1","k":"00"}"#,
    ]);
    fuzz("json", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let is_json = serde_json::from_str::<serde_json::Value>(&text).is_ok();
        // Fields that nobody asks for are not read further than to their end: `101e999` is a number there, whose value
        // nobody needs.
        let is_well_formed = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        match tracker_ws::parse(&text) {
            Ok(_) => assert!(is_well_formed || text.contains("\\u"), "taken, and no JSON: {text}"),
            // What is sent back can be read by whoever can read what it echoes: to serde_json half a surrogate pair is no
            // text, to JavaScript it is.
            Err(failure) => {
                let reply = Message::Failure(failure).encode();
                assert!(reply.len() < 4_096, "a refusal is short: {reply}");
                if is_json {
                    serde_json::from_str::<serde_json::Value>(&reply).unwrap();
                }
            }
        }
    });
}

#[test]
fn http_queries() {
    let seeds = texts(&[
        "info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%124Vx%9A&peer_id=-TR2940-k8hj0wgej6ch&port=51413&uploaded=0&left=1000&numwant=80&key=41eb2d20&compact=1&event=started",
        "info_hash=aaaaaaaaaaaaaaaaaaaa&info_hash=%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00",
    ]);
    fuzz("http queries", &seeds, |bytes| {
        let query = String::from_utf8_lossy(bytes);
        for refused in [tracker_http::parse_announce(&query).err(), tracker_http::parse_scrape(&query).err()] {
            let body = refused.map(tracker_http::encode_failure);
            assert!(body.is_none_or(|body| body.starts_with(b"d14:failure reason") && body.len() < 200));
        }
    });
}

#[test]
fn datagrams() {
    let mut announce = vec![0; 98];
    (announce[11], announce[97]) = (1, 80);
    announce.extend(b"\x02\x05/a?b=\x01\x00");
    let scrape = [[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 2, 3, 4].as_slice(), &[7; 40]].concat();
    let connect = b"\0\0\x04\x17\x27\x10\x19\x80\0\0\0\0\x05\x05\x05\x05".to_vec();
    fuzz("datagrams", &[announce, scrape, connect], |bytes| {
        if let Some(tracker_udp::Packet::Request(_, transaction, Err(reason))) = tracker_udp::parse(bytes) {
            let mut error = Vec::new();
            tracker_udp::write_error(&mut error, transaction, reason);
            assert!(error.len() <= bytes.len(), "a refusal amplifies nothing");
        }
    });
}

#[test]
fn proxy_headers() {
    let v4 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\x7f\0\0\x01\xd4\x31\x1f\x90".to_vec();
    let v6 = [b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".as_slice(), &[0x20; 36]].concat();
    fuzz("proxy headers", &[v4, v6], |bytes| {
        let Some((head, rest)) = bytes.split_first_chunk() else { return };
        if let Ok(head) = proxy_protocol::read_head(*head) {
            assert!(head.rest <= proxy_protocol::MAX_REST);
            let _ = head.source(rest);
        }
    });
}

/// Longest message that a reader takes here.
const LONGEST: usize = 1 << 10;

#[test]
fn peer_wire() {
    let greeting = [peer::PROTOCOL.as_slice(), &[0, 0, 0, 0, 0, 0x10, 0, 4], &[7; 40]].concat();
    let messages = [
        b"\0\0\0\0\0\0\0\x01\x01\0\0\0\x05\x04\0\0\0\x02\0\0\0\x03\x05\xf0\x80".as_slice(),
        b"\0\0\0\x0d\x06\0\0\0\x01\0\0\x40\0\0\0\x40\0\0\0\0\x0b\x07\0\0\0\x01\0\0\0\0\xaa\xbb",
        b"\0\0\0\x1b\x14\0d1:md11:ut_metadatai3eee\0\0\0\x03\x09\x1a\xe1",
    ];
    fuzz("peer wire", &[greeting, messages.concat(), messages[0].repeat(9)], |bytes| {
        if let Some(Ok(greeting)) = bytes.first_chunk().map(Handshake::decode) {
            assert_eq!(greeting.encode(), bytes[..peer::HANDSHAKE_LEN], "what was understood is what was said");
        }
        let mut buffer = BytesMut::from(bytes);
        while let Ok(Some(frame)) = Frame::split(&mut buffer, LONGEST) {
            assert!(frame.as_bytes().len() <= 4 + LONGEST);
            if let Ok(message) = frame.message() {
                assert_eq!(message.encode(), frame.as_bytes(), "{message:?}");
            }
            assert!(frame.extended_payload().len() <= frame.as_bytes().len());
        }
    });
}

#[test]
fn extension_messages() {
    let record = format!("d1:k32:{}8:msg_typei1e3:seqi7e3:sig64:{}1:v3:i5ee", "k".repeat(32), "s".repeat(64));
    let have = format!("d8:msg_typei0e1:rld1:h20:{}1:k32:{}3:seqi7eeee", "h".repeat(20), "k".repeat(32));
    let seeds = texts(&[
        "d1:md11:ut_metadatai3e6:ut_pexi1e9:sg_recordi5ee13:metadata_sizei31235e1:pi6881e4:reqqi250e1:v13:Swarmgate 0.1e",
        "d8:msg_typei1e5:piecei0e10:total_sizei34256eexxxxxxxx",
        "d8:msg_typei0e5:piecei1ee",
        &record,
        &have,
    ]);
    let named = b"d5:added12:\x01\x02\x03\x04\x1a\xe1\x7f\0\0\x01\0\x167:added.f2:\x12\0e";
    let named6 =
        [b"d6:added618:".as_slice(), &[0x20; 18], b"8:added6.f1:\x047:dropped6:\x01\x02\x03\x04\x1a\xe1e"].concat();
    let seeds = [seeds, vec![named.to_vec(), named6, b"\x02\0\x01\x02\x03\x04\x1a\xe1\0\0\0\x02".to_vec()]].concat();
    fuzz("extension messages", &seeds, |bytes| {
        if let Ok(hello) = ExtendedHandshake::decode(bytes) {
            assert!(hello.client.as_ref().is_none_or(|name| name.len() <= 3 * 64) && hello.extensions.len() < 200);
            assert_eq!(ExtendedHandshake::decode(&hello.encode()).map(|again| again.extensions), Ok(hello.extensions));
        }
        if let Ok(message @ (MetadataMessage::Request { .. } | MetadataMessage::Data { .. })) =
            MetadataMessage::decode(bytes)
        {
            assert_eq!(MetadataMessage::decode(&message.encode()), Ok(message));
        }
        if let Some(message) = Holepunch::decode(bytes) {
            assert_eq!(Holepunch::decode(&message.encode()), Some(message));
        }
        if let Ok(message) = PeerExchange::decode(bytes) {
            let most = peer_exchange::MAX_ENTRIES;
            assert!(message.added.len() <= most && message.dropped.len() <= most);
            // Those of IPv4 come first when they are written.
            let again = PeerExchange::decode(&message.encode()).unwrap();
            assert_eq!((again.added.len(), again.dropped.len()), (message.added.len(), message.dropped.len()));
        }
        if let Ok(ExchangeMessage::Have(records)) = ExchangeMessage::decode(bytes) {
            assert!(records.len() <= MAX_RECORDS);
        }
    });
}

#[test]
fn metainfo() {
    let pieces = "p".repeat(40);
    let (single, several) = (
        format!("d6:lengthi70000e4:name1:x12:piece lengthi65536e6:pieces40:{pieces}e"),
        format!(
            "d5:filesld6:lengthi65536e4:pathl1:a1:beed4:attr1:p6:lengthi9e4:pathl4:.pad1:9eee4:name1:x12:piece \
             lengthi65536e6:pieces40:{pieces}7:privatei1ee"
        ),
    );
    let seeds = texts(&[&single, &several, &format!("d8:announce9:udp://a:14:info{single}e")]);
    fuzz("metainfo", &seeds, |bytes| {
        for info in [Metainfo::from_info(bytes.to_vec().into()), Metainfo::from_torrent(bytes)].into_iter().flatten() {
            let total: u64 = info.files().iter().map(|file| file.length).sum();
            assert_eq!(info.total_length(), total);
            assert_eq!(info.pieces() as u64, total.div_ceil(u64::from(info.piece_length())));
            for part in info.files().iter().flat_map(|file| &file.path) {
                let is_name = !part.is_empty() && part != "." && part != "..";
                assert!(is_name && !part.contains(['/', '\\', '\0']), "{part:?} would be a path");
            }
        }
    });
}

#[test]
fn peer_datagrams() {
    let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    request.extend([7; 12]);
    let named = [&[0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12], b"\0\x06\0\x03a:b\0"].concat();
    let search = b"BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\nInfohash: \
        0123456789abcdef0123456789abcdef01234567\r\ncookie: x\r\n\r\n\r\n";
    fuzz("peer datagrams", &[request, named, search.to_vec()], |bytes| {
        if let Some(answer) = stun::answer(bytes, ([192, 0, 2, 1], 7).into()) {
            assert!(answer.len() <= bytes.len() + 12, "an answer amplifies nothing");
        }
        assert!(stun::local_ufrag(bytes).is_none_or(|name| name.len() < bytes.len()));
        if let Some(announce) = LocalAnnounce::decode(bytes) {
            assert!(LocalAnnounce::decode(&announce.encode("239.192.152.143:6771")).is_some());
        }
    });
}
