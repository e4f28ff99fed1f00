//! Scripted peers at the door.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::bridge::pieces::PieceSet;
use crate::bridge::puppet::{DEADLINE, Puppet, blocks};
use crate::bridge::stage::{Live, Stage};
use crate::bridge::storage::{Access, Folder, OpenFiles};
use crate::bridge::swarm::{
    FromPeers, Whom,
    tests::{swarm, swarm_of},
};
use crate::metrics;
use crate::wire::extension::{METADATA_PIECE_LEN, MetadataMessage};
use crate::wire::id::PeerId;
use crate::wire::metainfo::Metainfo;
use crate::wire::peer::{Frame, HANDSHAKE_LEN, Message};

mod peer_exchange;

const PEER: PeerId = PeerId([9; 20]);
const OTHER: PeerId = PeerId([8; 20]);

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

fn metainfo(pieces: usize) -> Arc<Metainfo> {
    let files = [(vec!["file".to_owned()], pieces as u64 * 16_384)];
    Arc::new(Metainfo::build("x", &files, 1 << 14, &vec![[5; 20]; pieces]).unwrap())
}

/// A peer that comes by itself, and the visit it makes.
fn come(swarm: &Arc<Swarm>) -> (DuplexStream, JoinHandle<Visit>) {
    come_from(swarm, HERE)
}

fn come_from(swarm: &Arc<Swarm>, from: IpAddr) -> (DuplexStream, JoinHandle<Visit>) {
    let (ours, theirs) = duplex(1 << 20);
    let swarm = swarm.clone();
    let visit = tokio::spawn(async move {
        let metrics = metrics::Bridge::detached();
        let encryption = (Encryption::Allow, |_: &[u8; 20]| None);
        incoming(ours, (Transport::Tcp, SocketAddr::new(from, 40_000)), encryption, &metrics, |hash| {
            (*hash == swarm.info_hash).then(|| swarm.clone())
        })
        .await
    });
    (theirs, visit)
}

async fn puppet(swarm: &Arc<Swarm>, peer_id: PeerId) -> (Puppet<DuplexStream>, JoinHandle<Visit>) {
    puppet_from(swarm, peer_id, HERE).await
}

async fn puppet_from(swarm: &Arc<Swarm>, peer_id: PeerId, from: IpAddr) -> (Puppet<DuplexStream>, JoinHandle<Visit>) {
    let (stream, visit) = come_from(swarm, from);
    (Puppet::greet(stream, swarm.info_hash, peer_id).await, visit)
}

async fn ending(visit: JoinHandle<Visit>) -> &'static str {
    timeout(DEADLINE * 10, visit).await.expect("the visit ends").unwrap().ending.label()
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_greet_properly_is_turned_away() {
    let (swarm, _from_peers) = swarm(metainfo(3).info_hash());
    let hello = |info_hash, peer_id| Handshake { reserved: Reserved::EXTENDED, info_hash, peer_id }.encode();
    let ours = swarm.ourselves.peer_id;
    let table = [
        (hello(swarm.info_hash, ours).to_vec(), "ourselves"),
        (hello(InfoHash([0; 20]), PEER).to_vec(), "unknown_torrent"),
        (
            b"GET / HTTP/1.1\r\nHost: example.org\r\nUser-Agent: somebody who knocks at any door\r\n".to_vec(),
            "not_peer_wire",
        ),
        (hello(swarm.info_hash, PEER)[..67].to_vec(), "late"),
        (Vec::new(), "late"),
    ];
    for (bytes, expected) in table {
        let (mut stream, visit) = come(&swarm);
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(ending(visit).await, expected, "{}", bytes.escape_ascii());
    }
    let (first, visit) = puppet(&swarm, PEER).await;
    let (_again, second) = puppet(&swarm, PEER).await;
    assert_eq!(ending(second).await, "duplicate");
    let (_other, _) = puppet(&swarm, PeerId([8; 20])).await;
    let (_third, third) = puppet(&swarm, PeerId([7; 20])).await;
    assert_eq!(ending(third).await, "peers_full");
    drop(first);
    assert_eq!(ending(visit).await, "closed");
    assert_eq!(swarm.peers(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_told_we_live_and_then_let_go() {
    let (swarm, _from_peers) = swarm(metainfo(3).info_hash());
    let (mut peer, visit) = puppet(&swarm, PEER).await;
    let began = tokio::time::Instant::now();
    let mut keep_alives = 0;
    while let Some(frame) = timeout(DEADLINE * 4, peer.next()).await.unwrap() {
        keep_alives += usize::from(frame.message() == Ok(Message::KeepAlive));
    }
    assert_eq!((keep_alives, began.elapsed()), (3, IDLE));
    assert_eq!(ending(visit).await, "idle");
}

#[tokio::test(start_paused = true)]
async fn metadata_is_fetched_from_one_peer_and_served_to_another() {
    let metainfo = metainfo(2000);
    let (swarm, mut from_peers) = swarm(metainfo.info_hash());
    let (mut waiting, _) = puppet(&swarm, PeerId([8; 20])).await;
    waiting.hello(None).await;
    assert_eq!(waiting.hear_hello().await, None);
    let (giver, _) = puppet(&swarm, PEER).await;
    let (served, content) = (metainfo.clone(), vec![0; 1]);
    tokio::spawn(async move { giver.seed(&served, &content).await });
    let arrived = timeout(DEADLINE, from_peers.metadata.recv()).await.unwrap().unwrap();
    assert_eq!(arrived, *metainfo.info());

    waiting.metadata(MetadataMessage::Request { piece: 0 }).await;
    assert_eq!(MetadataMessage::decode(&waiting.hear_metadata().await), Ok(MetadataMessage::Reject { piece: 0 }));
    swarm.enter(Stage::Checking(metainfo.clone()));
    assert_eq!(waiting.hear_hello().await, Some(metainfo.info().len()));
    waiting.metadata(MetadataMessage::Request { piece: 1 }).await;
    let payload = waiting.hear_metadata().await;
    let expected = metainfo.info().chunks(1 << 14).nth(1).unwrap();
    let total_size = Some(metainfo.info().len());
    assert_eq!(MetadataMessage::decode(&payload), Ok(MetadataMessage::Data { piece: 1, total_size, data: expected }));
}

/// What a peer does with the first request for metadata.
#[derive(Clone, Copy)]
enum Lie {
    Claim(usize),
    WrongBytes,
    Silence,
}

#[tokio::test(start_paused = true)]
async fn lying_about_metadata_ends_the_visit_and_hinders_nobody() {
    let metainfo = metainfo(3);
    let (swarm, mut from_peers) = swarm(metainfo.info_hash());
    let size = metainfo.info().len();
    let table =
        [(Lie::Claim(1 << 30), "bad_metadata"), (Lie::WrongBytes, "bad_metadata"), (Lie::Silence, "metadata_stalled")];
    for (lie, expected) in table {
        let (mut liar, visit) = puppet(&swarm, PEER).await;
        let claim = if let Lie::Claim(claim) = lie { claim } else { size };
        liar.hello(Some(claim)).await;
        if let Lie::WrongBytes = lie {
            liar.hear_metadata().await;
            let data = vec![0; size];
            liar.metadata(MetadataMessage::Data { piece: 0, total_size: Some(size), data: &data }).await;
        }
        assert_eq!(ending(visit).await, expected);
    }
    // One holds its tongue; an honest one comes last.
    let (mut silent, _) = puppet(&swarm, PEER).await;
    silent.hello(Some(size)).await;
    let (honest, _) = puppet_from(&swarm, PeerId([8; 20]), ELSEWHERE).await;
    let served = metainfo.clone();
    tokio::spawn(async move { honest.seed(&served, &[]).await });
    assert_eq!(timeout(DEADLINE, from_peers.metadata.recv()).await.unwrap().unwrap(), *metainfo.info());
    assert_eq!(swarm.fetches.free(), 2, "the silent one still has its turn");
}

/// As many peers as metadata is asked of at once claim the largest metadata there may be, and send each piece of it just in
/// time.
#[tokio::test(start_paused = true)]
async fn who_drips_metadata_delays_others_for_minutes_at_most_and_from_one_address_nobody() {
    let metainfo = metainfo(3);
    let apart = [1, 2, 3].map(|n| IpAddr::from([192, 0, 2, n]));
    // Whence the drips come → how long an honest peer may have to wait.
    for (drips, patience) in [(apart, Duration::from_secs(180)), ([apart[0]; 3], Duration::from_secs(1))] {
        let (swarm, mut from_peers) = swarm_of(metainfo.info_hash(), 4);
        for (n, from) in (2..).zip(drips) {
            let (mut peer, _) = puppet_from(&swarm, PeerId([n; 20]), from).await;
            peer.hello(Some(swarm.max_metadata)).await;
            tokio::spawn(async move {
                let (data, mut piece) = (vec![0; METADATA_PIECE_LEN], 0);
                let let_go = async |peer: &mut Puppet<_>| while peer.next().await.is_some() {};
                while timeout(Duration::from_secs(14), let_go(&mut peer)).await.is_err() {
                    peer.metadata(MetadataMessage::Data { piece, total_size: Some(8 << 20), data: &data }).await;
                    piece += 1;
                }
            });
        }
        let taken = async {
            while swarm.fetches.free() > if drips == apart { 0 } else { 2 } {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, taken).await.expect("the drips have their turn");
        let (honest, _) = puppet_from(&swarm, PEER, ELSEWHERE).await;
        let served = metainfo.clone();
        tokio::spawn(async move { honest.seed(&served, &[]).await });
        assert_eq!(timeout(patience, from_peers.metadata.recv()).await.expect("metadata").unwrap(), *metainfo.info());
    }
}

/// A torrent whose engine is the test. On disk each piece is filled with its number.
struct Spliced {
    swarm: Arc<Swarm>,
    _from_peers: FromPeers,
    have: Arc<watch::Sender<PieceSet>>,
    engine: TcpListener,
    dir: tempfile::TempDir,
}

impl Spliced {
    async fn new(metainfo: &Arc<Metainfo>) -> Self {
        let (swarm, from_peers) = swarm(metainfo.info_hash());
        let engine = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let have = Arc::new(watch::channel(PieceSet::none(metainfo.pieces())).0);
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..metainfo.pieces()).flat_map(|piece| [piece as u8; 16_384]).collect();
        fs::write(dir.path().join("file"), content).unwrap();
        let (root, open) = (dir.path().to_owned(), OpenFiles::default());
        let live = Live {
            metainfo: metainfo.clone(),
            engine: engine.local_addr().unwrap(),
            have: have.subscribe(),
            files: Folder::new(metainfo, root.clone(), Access::ReadWrite, have.clone(), open),
            root,
            kept: None,
            running: None,
        };
        swarm.enter(Stage::Live(live));
        Self { swarm, _from_peers: from_peers, have, engine, dir }
    }

    /// The engine's end of the next splice, greeted.
    async fn engine(&self) -> Engine {
        self.engine_for(PEER).await
    }

    async fn engine_for(&self, peer_id: PeerId) -> Engine {
        let (mut stream, _) = self.engine.accept().await.unwrap();
        let mut hello = [0; HANDSHAKE_LEN];
        stream.read_exact(&mut hello).await.unwrap();
        let hello = Handshake::decode(&hello).unwrap();
        assert_eq!(hello, Handshake { reserved: Reserved::default(), info_hash: self.swarm.info_hash, peer_id });
        stream.write_all(&Handshake { peer_id: PeerId([1; 20]), ..hello }.encode()).await.unwrap();
        Engine { stream, buffer: bytes::BytesMut::new() }
    }
}

struct Engine {
    stream: TcpStream,
    buffer: bytes::BytesMut,
}

impl Engine {
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::split(&mut self.buffer, 1 << 20).unwrap() {
                return Some(frame);
            }
            let read = timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await.expect("something comes");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn expect(&mut self, message: Message<'_>) {
        assert_eq!(self.next().await.unwrap().message(), Ok(message));
    }

    async fn say(&mut self, message: Message<'_>) {
        self.stream.write_all(&message.encode()).await.unwrap();
    }
}

#[tokio::test]
async fn messages_pass_between_peer_and_engine_and_extensions_do_not() {
    let metainfo = metainfo(3);
    let torrent = Spliced::new(&metainfo).await;
    let (mut peer, visit) = puppet(&torrent.swarm, PEER).await;
    let mut engine = torrent.engine().await;
    peer.hello(None).await;
    peer.say(Message::Unknown { id: 14, payload: &[] }).await;
    peer.say(Message::Extended { id: 1, payload: b"d5:added6:......e" }).await;
    peer.say(Message::KeepAlive).await;
    peer.say(Message::Interested).await;
    engine.expect(Message::Interested).await;
    peer.metadata(MetadataMessage::Request { piece: 0 }).await;
    let payload = peer.hear_metadata().await;
    assert!(payload.ends_with(metainfo.info()));

    engine.say(Message::Extended { id: 0, payload: b"de" }).await;
    engine.say(Message::Have(2)).await;
    engine.say(Message::Unchoke).await;
    let heard = |_: &Frame, message: Message<'_>| match message {
        Message::Unchoke => Some(()),
        Message::Have(piece) => panic!("the engine's own HAVE of {piece} came through"),
        _ => None,
    };
    peer.hear(heard).await;
    torrent.have.send_modify(|have| assert!(have.insert(0) && have.insert(2)));
    let mut haves = Vec::new();
    while haves.len() < 2 {
        haves.push(peer.hear(|_, message| if let Message::Have(piece) = message { Some(piece) } else { None }).await);
    }
    assert_eq!(haves, [0, 2]);

    peer.say(Message::Bitfield(&[0xe0])).await;
    engine.expect(Message::Bitfield(&[0xe0])).await;
    drop(engine);
    let visit = visit.await.unwrap();
    assert_eq!((visit.ending.label(), visit.seated, visit.complete), ("released", true, true));
    assert_eq!(peer.next().await, None, "the peer is told at once");
}

/// The piece of the next block.
async fn block<S: AsyncRead + AsyncWrite + Unpin>(peer: &mut Puppet<S>) -> u32 {
    let given = |_: &Frame, message: Message<'_>| match message {
        Message::Piece { index, begin: 0, data } => {
            assert!(data.len() == 16_384 && data.iter().all(|byte| u32::from(*byte) == index % 256), "of {index}");
            Some(index)
        }
        _ => None,
    };
    peer.hear(given).await
}

#[tokio::test]
async fn blocks_are_given_in_their_order_and_only_those_that_are_here_and_wanted() {
    let metainfo = metainfo(1000);
    let torrent = Spliced::new(&metainfo).await;
    torrent.have.send_modify(|have| (0..999).for_each(|piece| assert!(have.insert(piece))));
    let (mut peer, visit) = puppet(&torrent.swarm, PEER).await;
    let _engine = torrent.engine().await;
    let wanted = |piece| blocks(&metainfo, piece).next().unwrap();
    // What nobody has is not given and counts for nothing.
    peer.say(Message::Request(wanted(999))).await;
    for piece in 0..999 {
        peer.say(Message::Request(wanted(piece))).await;
    }
    for piece in 0..999 {
        assert_eq!(block(&mut peer).await, piece);
    }
    // Cancelled in one breath with being asked for, so that it is not on its way yet.
    let breath = [Message::Request(wanted(5)), Message::Request(wanted(6)), Message::Cancel(wanted(6))];
    peer.say_all(&[&breath[..], &[Message::Request(wanted(7))]].concat()).await;
    assert_eq!((block(&mut peer).await, block(&mut peer).await), (5, 7));

    fs::write(torrent.dir.path().join("file"), b"cut off").unwrap();
    peer.say(Message::Request(wanted(8))).await;
    assert_eq!(ending(visit).await, "disk");
}

#[tokio::test]
async fn a_peer_cannot_ask_for_more_than_it_takes() {
    let metainfo = metainfo(1);
    let torrent = Spliced::new(&metainfo).await;
    torrent.have.send_modify(|have| assert!(have.insert(0)));
    let (mut peer, _visit) = puppet(&torrent.swarm, PEER).await;
    let _engine = torrent.engine().await;
    let request = Message::Request(blocks(&metainfo, 0).next().unwrap()).encode();
    // It does not read. What it is given fills the way to it, then what it may ask for is used up, and then nobody listens:
    // the clock moves only once nobody has anything to do.
    tokio::time::pause();
    let asking = async {
        for _ in 0..200_000 {
            peer.write(&request).await;
        }
    };
    assert!(timeout(Duration::from_millis(300), asking).await.is_err(), "all of it was taken in");
}

#[tokio::test]
async fn lies_to_the_engine_end_the_visit() {
    let metainfo = metainfo(3);
    for (lie, expected) in [
        (Message::Have(3).encode(), "misbehaved"),
        (Message::Bitfield(&[0, 0]).encode(), "misbehaved"),
        (Message::Piece { index: 0, begin: 0, data: &[0; 16_385] }.encode(), "misbehaved"),
        (Bytes::from_static(&[0, 0, 0, 2, 0, 0]), "not_peer_wire"),
        (Bytes::from_static(&[0x7f, 0, 0, 0]), "not_peer_wire"),
    ] {
        let torrent = Spliced::new(&metainfo).await;
        let (mut stream, visit) = come(&torrent.swarm);
        let hello = Handshake { reserved: Reserved::EXTENDED, info_hash: torrent.swarm.info_hash, peer_id: PEER };
        stream.write_all(&hello.encode()).await.unwrap();
        let mut engine = torrent.engine().await;
        stream.write_all(&lie).await.unwrap();
        assert_eq!(ending(visit).await, expected);
        assert_eq!(engine.next().await, None);
    }
}

#[tokio::test]
async fn a_left_torrent_lets_its_peers_go() {
    let metainfo = metainfo(3);
    let torrent = Spliced::new(&metainfo).await;
    let (_peer, visit) = puppet(&torrent.swarm, PEER).await;
    let _engine = torrent.engine().await;
    torrent.swarm.token.cancel();
    assert_eq!(ending(visit).await, "torrent_left");
    assert_eq!(torrent.swarm.peers(), 0);
}

#[tokio::test]
async fn news_that_the_engine_does_not_use_make_it_meet_the_peer_anew() {
    let metainfo = metainfo(3);
    let torrent = Spliced::new(&metainfo).await;
    torrent.have.send_modify(|have| assert!(have.insert(0)));
    let (mut peer, _visit) = puppet(&torrent.swarm, PEER).await;
    let mut engine = torrent.engine().await;
    for message in [Message::Interested, Message::Have(1), Message::Unchoke] {
        peer.say(message).await;
        engine.expect(message).await;
    }
    // It is asked for nothing: the next engine is told everything.
    assert_eq!(engine.next().await, None);
    let mut engine = torrent.engine().await;
    for message in [Message::Bitfield(&[0x40]), Message::Unchoke, Message::Interested] {
        engine.expect(message).await;
    }
    peer.say(Message::Request(blocks(&metainfo, 0).next().unwrap())).await;
    assert_eq!(block(&mut peer).await, 0);

    // An engine that is asking already is left alone.
    let busy = blocks(&metainfo, 1).next().unwrap();
    engine.say(Message::Request(busy)).await;
    peer.hear(|_, message| (message == Message::Request(busy)).then_some(())).await;
    peer.say(Message::Have(2)).await;
    engine.expect(Message::Have(2)).await;
    // Another peer has news later, is asked for nothing, and is met anew: so would the first have been by then.
    let (mut idle, _visit) = puppet(&torrent.swarm, OTHER).await;
    let mut first = torrent.engine_for(OTHER).await;
    for message in [Message::Have(1), Message::Unchoke] {
        idle.say(message).await;
        first.expect(message).await;
    }
    assert_eq!(first.next().await, None);
    let _second = torrent.engine_for(OTHER).await;
    peer.say(Message::NotInterested).await;
    engine.expect(Message::NotInterested).await;
}
