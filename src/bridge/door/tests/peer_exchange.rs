//! Peers that name each other (BEP 11), and that are introduced to each other (BEP 55).

use std::collections::BTreeMap;

use super::*;
use crate::wire::extension::ExtendedHandshake;
use crate::wire::holepunch::{Holepunch, PunchError};
use crate::wire::peer_exchange::{Flags, PeerExchange, Told};

const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8));
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9));

/// The ids that the puppets want on the messages.
const UT_PEX: u8 = 5;
const UT_HOLEPUNCH: u8 = 6;

/// A public or a private torrent.
fn torrent(private: bool) -> Arc<Metainfo> {
    let private = if private { "7:privatei1e" } else { "" };
    let pieces = "p".repeat(20);
    let info = format!("d6:lengthi9e4:name1:x12:piece lengthi16384e6:pieces20:{pieces}{private}e");
    Arc::new(Metainfo::from_info(info.into_bytes().into()).unwrap())
}

/// A peer that takes connections at port 6881 and speaks of others; and what the door's hello offers it.
async fn speaker(swarm: &Arc<Swarm>, n: u8, from: IpAddr) -> (Puppet<DuplexStream>, Option<u8>) {
    let (mut peer, _visit) = puppet_from(swarm, PeerId([n; 20]), from).await;
    let extensions = BTreeMap::from([("ut_pex".to_owned(), UT_PEX), ("ut_holepunch".to_owned(), UT_HOLEPUNCH)]);
    let hello = ExtendedHandshake { extensions, port: Some(6881), ..Default::default() };
    peer.say(Message::Extended { id: 0, payload: &hello.encode() }).await;
    let offered = offered(&mut peer).await;
    (peer, offered)
}

/// The id of the next hello.
async fn offered(peer: &mut Puppet<DuplexStream>) -> Option<u8> {
    let hello = |_: &Frame, message: Message<'_>| match message {
        Message::Extended { id: 0, payload } => ExtendedHandshake::decode(payload).ok(),
        _ => None,
    };
    peer.hear(hello).await.extensions.get("ut_pex").copied()
}

async fn name(peer: &mut Puppet<DuplexStream>, addrs: &[&str]) {
    let added = addrs.iter().map(|addr| Told { addr: addr.parse().unwrap(), flags: Flags::SEED }).collect();
    let payload = PeerExchange { added, dropped: vec![] }.encode();
    peer.say(Message::Extended { id: 1, payload: &payload }).await;
}

/// The addresses of the next message about others.
async fn told(peer: &mut Puppet<DuplexStream>) -> Vec<String> {
    let heard = |_: &Frame, message: Message<'_>| match message {
        Message::Extended { id: UT_PEX, payload } => PeerExchange::decode(payload).ok(),
        _ => None,
    };
    peer.hear(heard).await.added.iter().map(|told| told.addr.to_string()).collect()
}

fn others(whom: Whom) -> Vec<Told> {
    match whom {
        Whom::Others(others) => others,
        Whom::Introduced(addr) => panic!("introduced to {addr}"),
    }
}

fn counted(swarm: &Swarm, result: &str) -> u64 {
    swarm.metrics.peer_exchange.with_label_values(&["in", result]).get()
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_names_reaches_the_dialler_with_its_name() {
    let (swarm, mut from_peers) = swarm(torrent(false).info_hash());
    let (mut peer, offered) = speaker(&swarm, 8, FIRST).await;
    assert_eq!(offered, Some(1));
    peer.say(Message::Extended { id: 1, payload: b"nonsense" }).await;
    name(&mut peer, &["1.1.1.1:1", "127.0.0.1:22", "[2a00::1]:1"]).await;
    let named = timeout(DEADLINE, from_peers.named.recv()).await.unwrap().unwrap();
    // The dialler judges them; see its own table.
    assert_eq!((named.by.0, others(named.whom).len()), (FIRST, 3));
    for _ in 0..100 {
        name(&mut peer, &["1.1.1.1:2"]).await;
    }
    name(&mut peer, &["1.1.1.1:3"]).await;
    while counted(&swarm, "too_soon") < 100 {
        tokio::task::yield_now().await;
    }
    assert_eq!([counted(&swarm, "malformed"), counted(&swarm, "taken")], [1, 2]);
    tokio::time::advance(Duration::from_secs(60)).await;
    name(&mut peer, &["1.1.1.1:4"]).await;
    let mut ports = Vec::new();
    while ports.last() != Some(&4) {
        let named = timeout(DEADLINE, from_peers.named.recv()).await.unwrap().unwrap();
        ports.extend(others(named.whom).iter().map(|told| told.addr.port()));
    }
    assert_eq!(ports, [2, 4]);
}

#[tokio::test(start_paused = true)]
async fn native_peers_are_told_of_each_other_once_the_torrent_is_known_to_be_public() {
    let metainfo = torrent(false);
    let (swarm, _from_peers) = swarm_of(metainfo.info_hash(), 4);
    let (mut first, _) = speaker(&swarm, 8, FIRST).await;
    let (mut second, _) = speaker(&swarm, 9, SECOND).await;
    let (mut inside, _) = speaker(&swarm, 7, IpAddr::from([10, 0, 0, 7])).await;
    // A minute passes, in which they are told that we live and nothing else.
    for peer in [&mut first, &mut second, &mut inside] {
        let frame = peer.next().await.expect("it stays");
        assert_eq!(frame.message(), Ok(Message::KeepAlive));
    }
    swarm.enter(Stage::Checking(metainfo));
    assert_eq!(told(&mut first).await, ["9.9.9.9:6881"]);
    assert_eq!(told(&mut second).await, ["8.8.8.8:6881"]);
    assert_eq!(told(&mut inside).await, ["8.8.8.8:6881", "9.9.9.9:6881"], "it may learn of strangers, not they of it");
    drop(second);
    let (_third, _) = speaker(&swarm, 6, IpAddr::from([1, 1, 1, 1])).await;
    let before = tokio::time::Instant::now();
    assert_eq!(told(&mut first).await, ["1.1.1.1:6881"]);
    assert!(before.elapsed() > Duration::from_secs(50), "one message a minute");
}

#[tokio::test(start_paused = true)]
async fn of_a_private_torrent_nobody_is_told_and_nothing_taken() {
    let metainfo = torrent(true);
    let (swarm, mut from_peers) = swarm(metainfo.info_hash());
    let (mut first, early) = speaker(&swarm, 8, FIRST).await;
    let (mut second, _) = speaker(&swarm, 9, SECOND).await;
    swarm.enter(Stage::Checking(metainfo));
    assert_eq!((early, offered(&mut first).await, offered(&mut second).await), (Some(1), Some(0), Some(0)));
    name(&mut first, &["1.1.1.1:1"]).await;
    for peer in [&mut first, &mut second] {
        let frame = peer.next().await.expect("it stays");
        assert_eq!(frame.message(), Ok(Message::KeepAlive), "for a minute nothing else is said");
    }
    assert!(from_peers.named.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn pages_are_told_of_nobody_and_nobody_of_them() {
    let metainfo = torrent(false);
    let (swarm, _from_peers) = swarm(metainfo.info_hash());
    swarm.enter(Stage::Checking(metainfo));
    let (ours, theirs) = duplex(1 << 20);
    let at_the_door = swarm.clone();
    tokio::spawn(async move { agreed(ours, (Transport::WebRtc, (FIRST, 7).into()), &at_the_door).await });
    let mut page = Puppet::greet(theirs, swarm.info_hash, PeerId([6; 20])).await;
    assert_eq!(offered(&mut page).await, None);
    let (mut native, _) = speaker(&swarm, 9, SECOND).await;
    let frame = native.next().await.expect("it stays");
    assert_eq!(frame.message(), Ok(Message::KeepAlive));
}

async fn punch(peer: &mut Puppet<DuplexStream>, message: Holepunch) {
    peer.say(Message::Extended { id: 2, payload: &message.encode() }).await;
}

/// The next message about introductions.
async fn introduction(peer: &mut Puppet<DuplexStream>) -> Holepunch {
    let heard = |_: &Frame, message: Message<'_>| match message {
        Message::Extended { id: UT_HOLEPUNCH, payload } => Holepunch::decode(payload),
        _ => None,
    };
    peer.hear(heard).await
}

#[tokio::test(start_paused = true)]
async fn two_peers_are_introduced_and_one_that_is_not_here_is_not() {
    let metainfo = torrent(false);
    let (swarm, _from_peers) = swarm(metainfo.info_hash());
    swarm.enter(Stage::Checking(metainfo));
    let (mut first, _) = speaker(&swarm, 8, FIRST).await;
    let (mut second, _) = speaker(&swarm, 9, SECOND).await;
    let (at_first, at_second) = ((FIRST, 6881).into(), (SECOND, 6881).into());
    punch(&mut first, Holepunch::Rendezvous(at_second)).await;
    assert_eq!(introduction(&mut first).await, Holepunch::Connect(at_second));
    assert_eq!(introduction(&mut second).await, Holepunch::Connect(at_first));
    let nowhere = "1.1.1.1:1".parse().unwrap();
    punch(&mut second, Holepunch::Rendezvous(nowhere)).await;
    assert_eq!(introduction(&mut second).await, Holepunch::Error(nowhere, PunchError::NotConnected));
}

#[tokio::test(start_paused = true)]
async fn who_named_a_peer_is_asked_to_introduce_us_and_the_dialler_hears_when_it_does() {
    let metainfo = torrent(false);
    let (swarm, mut from_peers) = swarm(metainfo.info_hash());
    swarm.enter(Stage::Checking(metainfo));
    let (mut relay, _) = speaker(&swarm, 8, FIRST).await;
    name(&mut relay, &["1.1.1.1:1"]).await;
    let named = timeout(DEADLINE, from_peers.named.recv()).await.unwrap().unwrap();
    // The dialler could not reach it.
    let (addr, key) = ("1.1.1.1:1".parse().unwrap(), named.by.1);
    assert!(swarm.contacts().ask(key, addr));
    swarm.contacts_changed.send_replace(());
    assert_eq!(introduction(&mut relay).await, Holepunch::Rendezvous(addr));
    punch(&mut relay, Holepunch::Connect(addr)).await;
    let named = timeout(DEADLINE, from_peers.named.recv()).await.unwrap().unwrap();
    assert!(matches!(named.whom, Whom::Introduced(at) if at == addr) && named.by == (FIRST, key));
}

#[tokio::test(start_paused = true)]
async fn in_a_private_torrent_nobody_is_introduced() {
    let metainfo = torrent(true);
    let (swarm, mut from_peers) = swarm(metainfo.info_hash());
    swarm.enter(Stage::Checking(metainfo));
    let (mut first, _) = speaker(&swarm, 8, FIRST).await;
    let (mut second, _) = speaker(&swarm, 9, SECOND).await;
    punch(&mut first, Holepunch::Connect("1.1.1.1:1".parse().unwrap())).await;
    punch(&mut first, Holepunch::Rendezvous((SECOND, 6881).into())).await;
    for peer in [&mut first, &mut second] {
        let frame = peer.next().await.expect("it stays");
        assert_eq!(frame.message(), Ok(Message::KeepAlive), "for a minute nothing else is said");
    }
    assert!(from_peers.named.try_recv().is_err());
}
