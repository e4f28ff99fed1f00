//! Two or more endpoints over loopback: real sockets, the real stack.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::*;

/// Longer than any of this takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

struct Node {
    endpoint: Arc<Endpoint>,
    tasks: Tasks,
}

impl Node {
    async fn start() -> Self {
        Self::listening("127.0.0.1:0").await
    }

    async fn listening(listen: &str) -> Self {
        Self::with(config::WebRtc { listen: listen.parse().unwrap(), ..config::WebRtc::default() }).await
    }

    async fn with(settings: config::WebRtc) -> Self {
        let tasks = Tasks::new();
        let endpoint = Endpoint::bind(&settings, metrics::Bridge::detached(), &tasks).await.unwrap();
        Self { endpoint, tasks }
    }

    /// Waits until no connection is left: neither in the table nor as a task, save the one that reads the socket.
    async fn idle(&self) {
        let idle = async {
            while self.endpoint.mux.len() != (0, 0) || self.tasks.running() > 1 {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, idle).await.expect("connections remain");
    }
}

async fn connect(offering: &Node, answering: &Node) -> (Channel, Channel) {
    let (offer, offered) = offering.endpoint.offer().await.unwrap();
    let (answer, pending) = answering.endpoint.answer(&offer).await.unwrap();
    let accepted = offered.accept(&answer, |_| true).unwrap();
    let both = async { tokio::try_join!(accepted.open(), pending.open()) };
    timeout(DEADLINE, both).await.expect("opens in time").unwrap()
}

/// Bytes that a swapped, lost or doubled message would not leave intact.
fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| ((i + seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

async fn send(channel: &mut Channel, bytes: &[u8]) {
    channel.write_all(bytes).await.unwrap();
}

async fn receive(channel: &mut Channel, expected: &[u8]) {
    let mut read = vec![0; expected.len()];
    channel.read_exact(&mut read).await.unwrap();
    assert!(read == expected, "the bytes arrive as they were sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_megabytes_cross_both_ways_at_once() {
    let (a, b) = (Node::start().await, Node::start().await);
    let (mut here, mut there) = connect(&a, &b).await;
    assert_eq!((here.remote_addr(), there.remote_addr()), (b.endpoint.local_addr(), a.endpoint.local_addr()));
    let (up, down) = (pattern(20 << 20, 1), pattern(20 << 20, 2));
    let (mut here_reads, mut here_writes) = tokio::io::split(&mut here);
    let (mut there_reads, mut there_writes) = tokio::io::split(&mut there);
    let mut arrived = (vec![0; up.len()], vec![0; down.len()]);
    let all = async {
        tokio::try_join!(
            here_writes.write_all(&up),
            there_writes.write_all(&down),
            there_reads.read_exact(&mut arrived.0),
            here_reads.read_exact(&mut arrived.1),
        )
    };
    timeout(DEADLINE, all).await.expect("not stuck").unwrap();
    assert!(arrived == (up, down));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_port_carries_many_channels() {
    let server = Node::start().await;
    let mut transfers = tokio::task::JoinSet::new();
    for seed in 0..8 {
        let client = Node::start().await;
        let (mut here, mut there) = connect(&client, &server).await;
        transfers.spawn(async move {
            let bytes = pattern(1 << 20, seed);
            tokio::join!(send(&mut here, &bytes), receive(&mut there, &bytes));
            tokio::join!(send(&mut there, &bytes), receive(&mut here, &bytes));
            client
        });
    }
    timeout(DEADLINE, transfers.join_all()).await.expect("none is stuck");
    timeout(DEADLINE, server.idle()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_arrives_before_the_end() {
    let (a, b) = (Node::start().await, Node::start().await);
    for length in [0, 1, 400_000, 3 << 20] {
        let (mut here, mut there) = connect(&a, &b).await;
        let (bytes, mut read) = (pattern(length, 3), Vec::new());
        let writing = async {
            here.write_all(&bytes).await.unwrap();
            here.shutdown().await.unwrap();
            drop(here);
        };
        let both = async { tokio::join!(writing, there.read_to_end(&mut read)) };
        let (_, end) = timeout(DEADLINE, both).await.expect("not stuck");
        assert_eq!(end.unwrap(), length);
        assert!(read == bytes);
        drop(there);
        a.idle().await;
        b.idle().await;
    }
}

/// The writer is gone before the reader begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_arrives_late_too() {
    let (a, b) = (Node::start().await, Node::start().await);
    let (mut here, mut there) = connect(&a, &b).await;
    let (bytes, mut read) = (pattern(500_000, 3), Vec::new());
    timeout(DEADLINE, here.write_all(&bytes)).await.expect("fits").unwrap();
    drop(here);
    a.idle().await;
    timeout(DEADLINE, there.read_to_end(&mut read)).await.expect("not stuck").unwrap();
    assert!(read == bytes, "{} of {}", read.len(), bytes.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_the_writer_back_and_loses_nothing() {
    let (a, b) = (Node::start().await, Node::start().await);
    let (mut here, mut there) = connect(&a, &b).await;
    let bytes = pattern(32 << 20, 4);
    {
        let mut writing = std::pin::pin!(here.write_all(&bytes));
        // More than everything between the two may hold: it cannot finish while nobody reads.
        assert!(timeout(Duration::from_secs(1), &mut writing).await.is_err(), "bounded");
        timeout(DEADLINE, async { tokio::join!(writing, receive(&mut there, &bytes)) }).await.unwrap().0.unwrap();
    }
}

/// Time is real until the peer stands still. From then on it runs ahead, but not for the stack beneath: to that the peer
/// is there all the while.
#[tokio::test]
async fn a_peer_that_takes_nothing_for_long_is_let_go() {
    let (a, b) = (Node::start().await, Node::start().await);
    let (mut here, there) = connect(&a, &b).await;
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    let endless = async { while here.write_all(&[7; 16_384]).await.is_ok() {} };
    timeout(10 * stall::LIMIT, endless).await.expect("the channel ends");
    assert!(start.elapsed() >= stall::LIMIT, "after {:?}", start.elapsed());
    let end = timeout(DEADLINE, here.read(&mut [0; 1])).await.expect("for the reader as well");
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    drop(there);
    a.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_channel_ends_the_other_and_leaves_nothing() {
    let (a, b) = (Node::start().await, Node::start().await);
    for _ in 0..5 {
        let (here, mut there) = connect(&a, &b).await;
        drop(here);
        let end = timeout(DEADLINE, there.read(&mut [0; 1])).await.expect("the end is noticed");
        assert_eq!(end.unwrap(), 0);
        drop(there);
        a.idle().await;
        b.idle().await;
    }
    for node in [a, b] {
        drop(node.endpoint);
        assert_eq!(node.tasks.stop(DEADLINE).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_the_node_ends_its_channels_and_tells_the_peers() {
    let (a, b) = (Node::start().await, Node::start().await);
    let (mut here, mut there) = connect(&a, &b).await;
    assert_eq!(a.tasks.stop(Duration::from_secs(5)).await, 0);
    timeout(DEADLINE, here.read(&mut [0; 1])).await.expect("ended here").unwrap_err();
    let _: std::io::Result<usize> = timeout(DEADLINE, there.read(&mut [0; 1])).await.expect("and there");
}

/// Paused time runs ahead to the next timer whenever nothing else is to be done: a minute takes no time.
#[tokio::test(start_paused = true)]
async fn attempts_that_nobody_completes_expire() {
    let (a, b) = (Node::start().await, Node::start().await);
    let (offer, offered) = a.endpoint.offer().await.unwrap();
    let (_answer, answered) = b.endpoint.answer(&offer).await.unwrap();
    let start = tokio::time::Instant::now();
    assert!(matches!(answered.open().await, Err(RtcError::Timeout | RtcError::Closed)));
    assert!(start.elapsed() <= OPEN_LIMIT);
    assert!(matches!(offered.pending.open().await, Err(RtcError::Timeout)));
    assert!(start.elapsed() >= OFFER_LIMIT);
    a.idle().await;
    b.idle().await;
}

#[tokio::test]
async fn attempts_given_up_are_gone_at_once_and_their_number_is_bounded() {
    let node = Node::start().await;
    let mut offers = Vec::new();
    for _ in 0..MAX_ATTEMPTS {
        offers.push(node.endpoint.offer().await.unwrap());
    }
    assert!(matches!(node.endpoint.offer().await, Err(RtcError::Busy)));
    assert!(matches!(node.endpoint.answer(&offers[0].0).await, Err(RtcError::Busy)));
    offers.clear();
    node.idle().await;
    node.endpoint.offer().await.unwrap();
}

#[tokio::test]
async fn descriptions_from_strangers_are_refused_or_harmless() {
    let node = Node::start().await;
    let (offer, offered) = node.endpoint.offer().await.unwrap();
    for text in ["", "junk", "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n", &"a".repeat(1 << 20)] {
        assert!(matches!(node.endpoint.answer(text).await, Err(RtcError::Description(_))));
    }
    // Offers that are well-formed but cannot work are answered or refused, and never more than that.
    for damaged in
        [offer.replace("actpass", "passive"), offer.replace("actpass", "active"), offer.replace(":5000", ":0")]
    {
        drop(node.endpoint.answer(&damaged).await);
    }
    for answer in ["junk", &offer] {
        let (_, offered) = node.endpoint.offer().await.unwrap();
        assert!(matches!(offered.accept(answer, |_| true), Err(RtcError::Description(_))));
    }
    drop(offered);
    node.idle().await;
}

#[tokio::test]
async fn descriptions_list_the_shared_port_only() {
    for (public_ips, expected) in [("", "127.0.0.1"), ("203.0.113.7", "203.0.113.7")] {
        let public_ips = public_ips.split_whitespace().map(|ip| ip.parse().unwrap()).collect();
        let node = Node::with(config::WebRtc {
            listen: "127.0.0.1:0".parse().unwrap(),
            public_ips,
            ..config::WebRtc::default()
        })
        .await;
        let (offer, _offered) = node.endpoint.offer().await.unwrap();
        let read = Description::parse_offer(&offer).unwrap();
        assert_eq!(read.candidates, [SocketAddr::new(expected.parse().unwrap(), node.endpoint.local_addr().port())]);
    }
}

/// Nothing is sent to the addresses of an offer, and none to those of an answer that may not be dialled.
#[tokio::test]
async fn strangers_cannot_aim_the_port() {
    let node = Node::start().await;
    let aimed_at = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let aimed = |description: &str| {
        let port = aimed_at.local_addr().unwrap().port().to_string();
        description.replace(&node.endpoint.local_addr().port().to_string(), &port)
    };
    let (offer, offered) = node.endpoint.offer().await.unwrap();
    let (answer, _answering) = node.endpoint.answer(&aimed(&offer)).await.unwrap();
    let _accepted = offered.accept(&aimed(&answer), |_| false).unwrap();
    let datagram = timeout(Duration::from_secs(1), aimed_at.recv_from(&mut [0; 2000])).await;
    assert!(datagram.is_err(), "{datagram:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_on_the_port_harms_nobody() {
    let (a, b) = (Node::start().await, Node::start().await);
    let (mut here, mut there) = connect(&a, &b).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bytes = pattern(4 << 20, 5);
    let junk = async {
        for round in 0_usize..2000 {
            let mut datagram = pattern(round % 1400, round);
            if round % 3 == 0 {
                datagram = crate::wire::stun::tests::binding_request(&[(6, b"guessed:fragment"), (0x8022, &datagram)]);
            }
            stranger.send_to(&datagram, b.endpoint.local_addr()).await.unwrap();
        }
    };
    let all = async { tokio::join!(junk, send(&mut here, &bytes), receive(&mut there, &bytes)) };
    timeout(DEADLINE, all).await.expect("not stuck");
    assert_eq!(b.endpoint.mux.len(), (1, 1), "the stranger is not in the table");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_address_families_share_the_port() {
    let server = Node::listening("[::]:0").await;
    for listen in ["[::1]:0", "127.0.0.1:0"] {
        let client = Node::listening(listen).await;
        let (mut here, mut there) = connect(&client, &server).await;
        assert_eq!(there.remote_addr(), client.endpoint.local_addr());
        let bytes = pattern(1 << 18, 6);
        timeout(DEADLINE, async { tokio::join!(send(&mut here, &bytes), receive(&mut there, &bytes)) }).await.unwrap();
    }
}
