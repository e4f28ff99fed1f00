//! Fuzzing on stable Rust: conversations of real peers, damaged at random, through the whole door. Each target runs for
//! `FUZZ_SECONDS` (a fifth of a second unless told) from `FUZZ_SEED`; the parsers alone are fuzzed in `tests/fuzz.rs`.

use std::time::Instant;

use bytes::BytesMut;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};

use super::remote::{Shape, Verdict, Waiting};
use super::*;
use crate::bridge::pieces::PieceSet;
use crate::bridge::swarm::tests::swarm;
use crate::metrics;
use crate::wire::extension::{ExtendedHandshake, MetadataMessage};
use crate::wire::id::PeerId;
use crate::wire::peer::{Block, Frame, Message};

const TORRENT: InfoHash = InfoHash([4; 20]);
const SHAPE: Shape = Shape { pieces: 3, piece_length: 40_000, total_length: 90_000 };

/// Feeds `target` for as long as it was asked to.
fn fuzz(mut target: impl FnMut(&mut SmallRng)) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("FUZZ_SEED").unwrap_or(44);
    let time = number("FUZZ_SECONDS").map_or(Duration::from_millis(200), Duration::from_secs);
    let (mut rng, end, mut runs) = (SmallRng::seed_from_u64(seed), Instant::now() + time, 0);
    while runs < 100 || Instant::now() < end {
        target(&mut rng);
        runs += 1;
    }
}

/// What a peer might say: messages of every kind, in any order.
fn conversation(rng: &mut SmallRng, greets: bool) -> Vec<u8> {
    let mut out = BytesMut::new();
    if greets {
        let handshake = Handshake { reserved: Reserved::EXTENDED, info_hash: TORRENT, peer_id: PeerId([9; 20]) };
        out.extend_from_slice(&handshake.encode());
    }
    for _ in 0..rng.random_range(0..12) {
        let block = Block {
            index: rng.random_range(0..5),
            begin: rng.random_range(0..4) * 16_384,
            length: [16_384, 10_000, 7_232, 0, u32::MAX][rng.random_range(0..5)],
        };
        let extensions = [
            ("ut_metadata".to_owned(), rng.random()),
            ("sg_record".to_owned(), 5),
            ("ut_pex".to_owned(), 1),
            ("ut_holepunch".to_owned(), 2),
        ]
        .into();
        let metadata_size = Some(1_usize << rng.random_range(0..40));
        let hello = ExtendedHandshake { extensions, metadata_size, port: Some(1), ..Default::default() }.encode();
        let piece = rng.random_range(0..3);
        let data = MetadataMessage::Data { piece, total_size: metadata_size, data: &[7; 300] }.encode();
        let request = MetadataMessage::Request { piece }.encode();
        let messages = [
            Message::KeepAlive,
            Message::Choke,
            Message::Unchoke,
            Message::Interested,
            Message::Have(block.index),
            Message::Bitfield(&[0xe0]),
            Message::Request(block),
            Message::Cancel(block),
            Message::Piece { index: block.index, begin: block.begin, data: &[7; 500] },
            Message::Extended { id: 0, payload: &hello },
            Message::Extended { id: 3, payload: &data },
            Message::Extended { id: 3, payload: &request },
            Message::Extended { id: 2, payload: b"\0\0\x01\x02\x03\x04\x1a\xe1\0\0\0\0" },
            Message::Extended {
                id: 1,
                payload: b"d5:added12:\x01\x02\x03\x04\x1a\xe1\x7f\0\0\x01\0\x167:added.f2:\x12\0e",
            },
            Message::Unknown { id: 14, payload: &[] },
        ];
        messages[rng.random_range(0..messages.len())].write(&mut out);
    }
    damaged(rng, out.to_vec())
}

/// Half of the time as it was; else with bits flipped, parts repeated, and cut off.
fn damaged(rng: &mut SmallRng, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..[0, 0, 1, 4][rng.random_range(0..4)] {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..4) {
            0 => bytes.truncate(at),
            1 => bytes.extend_from_within(at..bytes.len().min(at + 60)),
            2 => drop(bytes.drain(at..bytes.len().min(at + 20))),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.random_range(0..8);
                }
            }
        }
    }
    bytes
}

/// Whatever is said, plain or in an encrypted handshake, the visit ends, in time, and leaves nothing behind.
#[test]
fn visits_end() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    fuzz(|rng| {
        let said = match rng.random_range(0..4) {
            // Anything else is taken for the key that an encrypted handshake begins with.
            0 => (0..rng.random_range(0..800)).map(|_| rng.random()).collect(),
            _ => conversation(rng, true),
        };
        runtime.block_on(async {
            let (swarm, _from_peers) = swarm(TORRENT);
            let (ours, theirs) = duplex(1 << 20);
            let (mut heard, mut saying) = split(theirs);
            let metrics = metrics::Bridge::detached();
            let names = (crate::config::Encryption::Allow, |_: &[u8; 20]| Some(TORRENT));
            let find = |hash: &InfoHash| (*hash == TORRENT).then(|| swarm.clone());
            let visit = incoming(ours, (Transport::Tcp, ([127, 0, 0, 1], 7).into()), names, &metrics, find);
            let talk = async {
                // The other end may hang up at any time.
                let _ = saying.write_all(&said).await;
                let _ = saying.shutdown().await;
                let mut all = Vec::new();
                let _ = heard.read_to_end(&mut all).await;
                all.len()
            };
            let ended = timeout(IDLE * 4, async { tokio::join!(visit, talk) }).await;
            let (visit, heard) = ended.expect("the visit ends");
            assert!(heard < said.len() + 4_096, "more is answered than was asked: {heard}");
            assert_eq!(swarm.peers(), 0, "{}", visit.ending);
        });
    });
}

/// Of a live torrent only blocks that are here are given, and none longer than were asked for get to the engine.
#[test]
fn the_engine_is_spared() {
    let ours = PieceSet::from_bitfield(&[0xa0], SHAPE.pieces).unwrap();
    fuzz(|rng| {
        let (early, late) = (conversation(rng, false), conversation(rng, false));
        let mut waiting = Waiting::default();
        let frames = |bytes: Vec<u8>| {
            let mut buffer = BytesMut::from(&bytes[..]);
            std::iter::from_fn(move || Frame::split(&mut buffer, 1 << 18).ok().flatten())
        };
        for frame in frames(early) {
            if frame.message().is_ok_and(|message| waiting.take(message).is_err()) {
                return;
            }
        }
        let Ok(mut remote) = waiting.meet(SHAPE) else { return };
        for frame in frames(late) {
            let Ok(message) = frame.message() else { return };
            match remote.judge(message, &ours) {
                Ok(Verdict::Give(block)) => {
                    assert!(ours.contains(block.index as usize) && block.length <= 16_384);
                    assert!(u64::from(block.begin) + u64::from(block.length) <= SHAPE.piece(block.index));
                }
                Ok(Verdict::PassBlock { data, .. }) => assert!(data.len() <= 16_384),
                Ok(_) => {}
                Err(_) => return,
            }
        }
        let mut replay = BytesMut::new();
        remote.replay(&mut replay);
        assert!(replay.len() < 32, "an engine is told no more than once");
    });
}
