//! Many readers of one torrent.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::bridge::puppet::blocks;
use crate::wire::peer::Block;

/// Readers of each kind.
const READERS: usize = 10;

/// Requests that an eager reader has outstanding; a modest one has one.
const EAGER: usize = 128;

/// Blocks after which the first reader is as far as it shall be: enough that who began a moment later has caught up.
const FAR: usize = 10_000;

/// Reads blocks as they are given, for as long as it is polled. It begins with the others.
async fn read(
    mut peer: Puppet<TcpStream>,
    (wanted, outstanding): (Vec<Block>, usize),
    all: Arc<Barrier>,
    (given, done): (Arc<AtomicUsize>, CancellationToken),
) {
    peer.say(Message::Interested).await;
    peer.hear(|_, message| (message == Message::Unchoke).then_some(())).await;
    all.wait().await;
    let mut wanted = wanted.iter().cycle();
    for block in wanted.by_ref().take(outstanding) {
        peer.say(Message::Request(*block)).await;
    }
    for block in wanted {
        peer.hear(|_, message| matches!(message, Message::Piece { .. }).then_some(())).await;
        if given.fetch_add(1, Ordering::Relaxed) + 1 == FAR {
            done.cancel();
        }
        peer.say(Message::Request(*block)).await;
    }
}

/// "Upload shared fairly, nobody starves": each reader has at least half of what the one has that was given most, among
/// those that ask for as much; and who asks for one block at a time gets them beside those who ask for many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_readers_are_given_alike() {
    let node = Node::start(BridgePolicy::Off).await;
    let (metainfo, _) = site(&node.dir.path().join("mine"), 1);
    let seed = node.bridge.seed(metainfo.clone(), node.dir.path().join("mine")).await.unwrap();
    let wanted: Vec<Block> = (0..metainfo.pieces()).flat_map(|piece| blocks(&metainfo, piece)).collect();
    let (all, done) = (Arc::new(Barrier::new(2 * READERS)), CancellationToken::new());
    let mut readers = JoinSet::new();
    let mut given = Vec::new();
    for n in 0..2 * READERS {
        let stream = TcpStream::connect(node.bridge.bittorrent_addr()).await.unwrap();
        let peer = Puppet::greet(stream, seed.info_hash(), PeerId([n as u8; 20])).await;
        let outstanding = if n < READERS { EAGER } else { 1 };
        let count = Arc::new(AtomicUsize::new(0));
        given.push(count.clone());
        readers.spawn(read(peer, (wanted.clone(), outstanding), all.clone(), (count, done.clone())));
    }
    timeout(DEADLINE, done.cancelled()).await.expect("somebody is far in time");
    let given: Vec<usize> = given.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    readers.shutdown().await;
    let (eager, modest) = given.split_at(READERS);
    for kind in [eager, modest] {
        let (least, most) = (kind.iter().min().unwrap(), kind.iter().max().unwrap());
        assert!(least * 2 >= *most, "eager {eager:?}, modest {modest:?}");
    }
    // Where every request has its turn, who has one outstanding has as many answered as each of an eager one's.
    assert!(modest.iter().all(|blocks| blocks * 2 >= FAR / EAGER), "eager {eager:?}, modest {modest:?}");
    drop(seed);
    node.stop().await;
}
