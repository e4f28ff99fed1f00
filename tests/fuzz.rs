//! Fuzzing on stable Rust: real messages, damaged at random, into every parser that strangers reach the tracker by.
//!
//! Each target runs for `FUZZ_SECONDS` (a fifth of a second unless told) from `FUZZ_SEED`, which is printed. The swarm
//! table is fuzzed by operations, against a model, in `src/tracker/table/tests/model.rs`; `make fuzz` runs both for long.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use swarmgate::wire::tracker_ws::Message;
use swarmgate::wire::{proxy_protocol, tracker_http, tracker_udp, tracker_ws};

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
