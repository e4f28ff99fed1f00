//! The node over real sockets on loopback: with itself, and with `mainline`.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures_util::StreamExt;

use super::*;
use crate::wire::pointer;

/// Long enough for a busy machine; nothing waits this long unless it fails.
const DEADLINE: Duration = Duration::from_secs(60);

const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";

async fn start_at(listen: &[&str], bootstrap: Vec<String>, mode: Mode, tasks: &Tasks) -> Dht {
    let listen = listen.iter().map(|addr| addr.parse().unwrap()).collect::<Vec<SocketAddr>>().try_into().unwrap();
    let settings = config::Dht { listen, bootstrap, ..config::Dht::default() };
    let dht = Dht::start(&settings, mode, None, metrics::Dht::detached(), tasks).await.unwrap();
    tokio::time::timeout(DEADLINE, dht.bootstrapped()).await.unwrap();
    dht
}

async fn start(bootstrap: Vec<String>, mode: Mode, tasks: &Tasks) -> Dht {
    start_at(&[V4], bootstrap, mode, tasks).await
}

/// `size` nodes of ours, each joined through the first.
async fn network(listen: &[&str], size: usize, tasks: &Tasks) -> Vec<Dht> {
    let mut nodes = vec![start_at(listen, Vec::new(), Mode::Server, tasks).await];
    for _ in 1..size {
        let first = nodes[0].local_addrs().map(|addr| addr.to_string()).collect();
        nodes.push(start_at(listen, first, Mode::Server, tasks).await);
    }
    nodes
}

/// Waits until the node knows so many others in the DHT of its nth address.
async fn knows(dht: &Dht, family: usize, nodes: usize) {
    let mut info = dht.families[family].info.clone();
    let known = tokio::time::timeout(DEADLINE, info.wait_for(|info| info.good_nodes >= nodes)).await;
    known.expect("it gets to know them").unwrap();
}

fn signed(seq: i64, salt: &[u8], v: Vec<u8>) -> VerifiedItem {
    VerifiedItem::sign(&SigningKey::from_bytes(&[9; 32]), Salt::new(salt).unwrap(), seq, v).unwrap()
}

/// The ports of the peers found, all on loopback.
async fn find_peers(dht: &Dht, info_hash: InfoHash) -> Vec<u16> {
    let mut found = dht.get_peers(info_hash);
    let mut peers = Vec::new();
    while let Some(peer) = tokio::time::timeout(DEADLINE, found.recv()).await.unwrap() {
        assert!(peer.addr.ip().is_loopback());
        peers.push(peer.addr.port());
    }
    peers.sort_unstable();
    peers.dedup();
    peers
}

#[tokio::test]
async fn records_values_and_peers_pass_between_nodes() {
    for listen in [V4, V6] {
        everything_passes(listen).await;
    }
}

async fn everything_passes(listen: &str) {
    let tasks = Tasks::new();
    let nodes = network(&[listen], 5, &tasks).await;
    let item = signed(1, b"salt", pointer::value(&InfoHash([3; 20])));
    let outcome = nodes[1].put(item.clone(), None).await;
    assert_eq!((outcome.stored, outcome.newer), (4, None));
    let got = nodes[4].get(*item.key(), item.salt().clone(), None).await;
    assert_eq!((got.item.as_ref(), got.asked, got.answered), (Some(&item), 4, 4));
    let same = nodes[4].get(*item.key(), item.salt().clone(), Some(2)).await;
    assert_eq!(same.item, None);
    assert_eq!(nodes[4].get(*item.key(), Salt::default(), None).await.item, None, "another salt, another item");

    let newer = signed(2, b"salt", b"1:x".to_vec());
    assert_eq!(nodes[2].put(newer.clone(), Some(1)).await.stored, 4);
    let late = nodes[3].put(signed(2, b"salt", b"1:a".to_vec()), Some(1)).await;
    assert_eq!((late.stored, late.newer), (0, Some(newer)));

    let v = b"li1e2:ate".to_vec();
    assert_eq!(nodes[0].put_immutable(v.clone()).await.unwrap().stored, 4);
    assert_eq!(nodes[3].get_immutable(item::immutable_target(&v)).await, Some(v));
    assert_eq!(nodes[0].put_immutable(b"junk".to_vec()).await, Err(ItemError::ValueNotBencode));

    assert_eq!(nodes[1].announce(InfoHash([5; 20]), 7777).await, 4);
    assert_eq!(find_peers(&nodes[3], InfoHash([5; 20])).await, [7777]);
    assert!(find_peers(&nodes[3], InfoHash([6; 20])).await.is_empty());
    assert_eq!(tasks.stop(Duration::from_secs(5)).await, 0);
    assert_eq!(nodes[0].get(*item.key(), Salt::default(), None).await, GetOutcome::default(), "stopped");
}

#[tokio::test]
async fn a_node_in_both_dhts_asks_both_and_tells_both() {
    let tasks = Tasks::new();
    let (v4, v6) = (network(&[V4], 3, &tasks).await, network(&[V6], 3, &tasks).await);
    let bootstrap = [&v4[0], &v6[0]].map(|node| node.local_addr().to_string());
    let both = start_at(&[V4, V6], bootstrap.into(), Mode::Server, &tasks).await;
    for family in [0, 1] {
        knows(&both, family, 3).await;
    }
    let item = signed(1, b"", b"1:x".to_vec());
    assert_eq!(both.put(item.clone(), None).await.stored, 6);
    for node in [&v4[2], &v6[2]] {
        let got = node.get(*item.key(), Salt::default(), None).await;
        assert_eq!(got.item, Some(item.clone()), "{}", node.local_addr());
    }
    let newer = signed(2, b"", b"1:y".to_vec());
    v6[1].put(newer.clone(), Some(1)).await;
    assert_eq!(v4[1].get(*item.key(), Salt::default(), None).await.item, Some(item), "the two are apart");
    assert_eq!(both.get(*newer.key(), Salt::default(), None).await.item, Some(newer.clone()));
    let late = both.put(signed(2, b"", b"1:a".to_vec()), Some(1)).await;
    assert_eq!(late.newer, Some(newer), "in one of them something stands in the way");

    let v = b"3:far".to_vec();
    v6[1].put_immutable(v.clone()).await.unwrap();
    assert_eq!(both.get_immutable(item::immutable_target(&v)).await, Some(v));

    // A listener is announced where it is reached.
    let (any, only_v4) = (InfoHash([1; 20]), InfoHash([2; 20]));
    assert_eq!(both.announcing("[::]:1".parse().unwrap()).announce(any, 7000).await, 6);
    assert_eq!(both.announcing("0.0.0.0:1".parse().unwrap()).announce(only_v4, 7000).await, 3);
    for (node, found) in [(&v4[1], vec![7000]), (&v6[1], vec![])] {
        assert_eq!(find_peers(node, any).await, [7000]);
        assert_eq!(find_peers(node, only_v4).await, found);
    }
    v6[2].announce(any, 7001).await;
    assert_eq!(find_peers(&both, any).await, [7000, 7001]);
    assert_eq!(tasks.stop(Duration::from_secs(5)).await, 0);
}

/// BEP 32 `want`: who knows nobody in one of the two DHTs asks the nodes of the other.
#[tokio::test]
async fn one_dht_leads_to_the_other() {
    let tasks = Tasks::new();
    let both = network(&[V4, V6], 3, &tasks).await;
    knows(&both[0], 1, 2).await;
    let over_v4 = vec![both[0].local_addr().to_string()];
    let newcomer = start_at(&[V4, V6], over_v4, Mode::Server, &tasks).await;
    knows(&newcomer, 1, 2).await;
    assert_eq!(tasks.stop(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn a_lone_node_whose_bootstrap_is_nobody_works_by_itself() {
    let tasks = Tasks::new();
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let hosts = vec!["no.such.host.invalid:6881".into(), nobody.local_addr().unwrap().to_string()];
    let alone = start(hosts, Mode::Server, &tasks).await;
    assert_eq!((alone.info().good_nodes, alone.info().ready), (0, true));
    let item = signed(1, b"", b"1:x".to_vec());
    assert_eq!(alone.put(item.clone(), None).await, PutOutcome::default());
    assert_eq!(alone.get(*item.key(), Salt::default(), None).await.item, Some(item.clone()));
    // The network comes to it.
    let second = start(vec![alone.local_addr().to_string()], Mode::Client, &tasks).await;
    assert_eq!(second.get(*item.key(), Salt::default(), None).await.item, Some(item));
    assert_eq!(tasks.stop(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn a_restarted_node_finds_both_networks_by_what_it_remembers() {
    let tasks = Tasks::new();
    let nodes = network(&[V4, V6], 3, &tasks).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dht.state");
    let mut ids = Vec::new();
    for bootstrap in [nodes[0].local_addrs().map(|addr| addr.to_string()).collect(), Vec::new()] {
        let tasks = Tasks::new();
        let metrics = metrics::Dht::detached();
        let listen = [V4, V6].map(|addr| addr.parse().unwrap()).to_vec().try_into().unwrap();
        let settings = config::Dht { listen, bootstrap, ..config::Dht::default() };
        let dht = Dht::start(&settings, Mode::Server, Some(file.clone()), metrics, &tasks).await.unwrap();
        for family in [0, 1] {
            knows(&dht, family, 1).await;
            ids.push(dht.families[family].info.borrow().id);
        }
        assert_eq!(tasks.stop(Duration::from_secs(5)).await, 0);
    }
    assert_eq!(ids[..2], ids[2..]);
    assert_eq!(tasks.stop(Duration::from_secs(5)).await, 0);
}

/// A node that is killed says no more; it starts again from what it had written by then.
#[test]
fn what_is_remembered_survives_a_kill() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let (lasting, killed) = (runtime(), runtime());
    let tasks = Tasks::new();
    let nodes = lasting.block_on(network(&[V4], 5, &tasks));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dht.state");
    let start = async |bootstrap| {
        let listen = V4.parse::<SocketAddr>().unwrap().into();
        let settings = config::Dht { listen, bootstrap, ..config::Dht::default() };
        let metrics = metrics::Dht::detached();
        let dht = Dht::start(&settings, Mode::Server, Some(file.clone()), metrics, &tasks).await.unwrap();
        knows(&dht, 0, 1).await;
        dht.info().id
    };
    let id = killed.block_on(async {
        let id = start(vec![nodes[0].local_addr().to_string()]).await;
        let written = async {
            let mut look = tokio::time::interval(Duration::from_millis(5));
            while !file.exists() {
                look.tick().await;
            }
        };
        tokio::time::timeout(DEADLINE, written).await.expect("long before it is stopped");
        id
    });
    killed.shutdown_background();
    assert_eq!(lasting.block_on(start(Vec::new())), id);
}

#[tokio::test]
async fn a_port_in_use_is_an_error() {
    let tasks = Tasks::new();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let settings = config::Dht { listen: taken.local_addr().unwrap().into(), ..config::Dht::default() };
    let error = Dht::start(&settings, Mode::Server, None, metrics::Dht::detached(), &tasks).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

/// Both ways between us and the `mainline` crate, whose values are byte strings only.
#[tokio::test]
async fn mainline_reads_what_we_put_and_we_read_what_it_puts() {
    let testnet = tokio::task::spawn_blocking(|| mainline::Testnet::builder(10).build().unwrap()).await.unwrap();
    let tasks = Tasks::new();
    let ours = start(testnet.bootstrap.clone(), Mode::Server, &tasks).await;
    let theirs = testnet.nodes[3].clone().as_async();

    for salt in [b"".as_slice(), b"salt"] {
        let item = signed(1, salt, b"5:hello".to_vec());
        let outcome = ours.put(item.clone(), None).await;
        assert!(outcome.stored >= 7, "{outcome:?}");
        let their_salt = (!salt.is_empty()).then_some(salt);
        let read = theirs.get_mutable_most_recent(&item.key().0, their_salt).await.expect("mainline finds our item");
        assert_eq!((read.value(), read.seq(), read.signature()), (b"hello".as_slice(), 1, &item.sig().0));

        let key = mainline::SigningKey::from_bytes(&[11; 32]);
        let put = mainline::MutableItem::new(key, b"from mainline", 7, their_salt);
        theirs.put_mutable(put.clone(), None).await.unwrap();
        let got = ours.get(PublicKey(*put.key()), Salt::new(salt).unwrap(), None).await;
        assert!(got.holders >= 5, "{got:?}");
        let item = got.item.expect("we find mainline's item");
        assert_eq!((item.v(), item.seq(), &item.sig().0), (b"13:from mainline".as_slice(), 7, put.signature()));
    }

    let v = b"9:immutable".to_vec();
    assert!(ours.put_immutable(v.clone()).await.unwrap().stored >= 7);
    let target = mainline::Id::from_bytes(item::immutable_target(&v).0).unwrap();
    assert_eq!(theirs.get_immutable(target).await.as_deref(), Some(b"immutable".as_slice()));
    let target = theirs.put_immutable(b"theirs").await.unwrap();
    assert_eq!(ours.get_immutable(Target(*target.as_bytes())).await, Some(b"6:theirs".to_vec()));

    let info_hash = InfoHash([7; 20]);
    assert!(ours.announce(info_hash, 6881).await >= 7);
    let their_hash = mainline::Id::from_bytes(info_hash.0).unwrap();
    let found: Vec<_> = theirs.get_peers(their_hash).collect::<Vec<_>>().await.concat();
    assert!(found.contains(&"127.0.0.1:6881".parse().unwrap()), "{found:?}");
    theirs.announce_peer(their_hash, Some(7000)).await.unwrap();
    let peers = find_peers(&ours, info_hash).await;
    assert_eq!(peers, [6881, 7000]);
    assert_eq!(tasks.stop(Duration::from_secs(5)).await, 0);
}
