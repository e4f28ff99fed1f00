use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::wire::tracker::Counts;
use crate::wire::websocket;

#[tokio::test]
async fn two_pages_meet() {
    let server = Server::start().await;
    let (mut a, mut b) = (server.page().await, server.page().await);
    assert_eq!(a.ask(announcement(1, 10, &[])).await, announced(1, 0, 1));
    assert_eq!(b.ask(announcement(1, 11, &[7])).await, announced(1, 0, 2));

    let offer = json!({
        "action": "announce", "info_hash": id(1), "peer_id": id(11), "offer_id": id(7),
        "offer": {"type": "offer", "sdp": "offer 7\r\n"},
    });
    assert_eq!(a.receive().await, offer);
    let answer = json!({
        "action": "announce", "info_hash": id(1), "peer_id": id(10), "to_peer_id": id(11), "offer_id": id(7),
        "answer": {"type": "answer", "sdp": "answer 7\r\n"},
    });
    a.send(answer.to_string()).await;
    let mut relayed = answer;
    relayed.as_object_mut().unwrap().remove("to_peer_id");
    assert_eq!(b.receive().await, relayed);

    // An answer gets no reply, so the next thing that comes is the reply to the next request.
    assert_eq!(a.ask(announcement(1, 10, &[])).await, announced(1, 0, 2));
    let relayed = |kind| server.metrics.relayed.with_label_values(&[kind]).get();
    assert_eq!((relayed("offer"), relayed("answer")), (1, 1));
}

#[tokio::test]
async fn what_a_socket_brought_goes_when_it_closes() {
    let server = Server::start().await;
    let (mut a, mut b) = (server.page().await, server.page().await);
    a.ask(announcement(1, 10, &[])).await;
    a.ask(announcement(2, 10, &[])).await;
    a.ask(announcement(2, 11, &[])).await;
    assert_eq!(b.ask(announcement(2, 10, &[])).await, announced(2, 0, 3));
    drop(a);
    server.until_there_are(1).await;
    assert_eq!(b.ask(announcement(2, 10, &[])).await, announced(2, 0, 1));
    assert_eq!(server.tracker.stats(), Stats { swarms: 1, web_peers: 1, native_peers: 0 });
    within(b.socket.close(None)).await.unwrap();
    server.until_there_are(0).await;
    assert_eq!((server.metrics.swarms.get(), server.metrics.peers.with_label_values(&["web"]).get()), (0, 0));
}

#[tokio::test]
async fn a_burst_of_announces_is_answered_in_full() {
    let server = Server::start().await;
    let mut page = server.page().await;
    for hash in 0..200 {
        page.send(announcement(hash, 10, &[1, 2, 3, 4, 5]).to_string()).await;
    }
    let mut answered = Vec::new();
    for _ in 0..200 {
        answered.push(page.receive().await["info_hash"].as_str().unwrap().to_owned());
    }
    answered.sort_unstable();
    answered.dedup();
    assert_eq!(answered.len(), 200);
}

#[tokio::test]
async fn who_sends_without_a_pause_has_a_turn_and_then_others_have() {
    let server = Server::start().await;
    let listener = within(TcpListener::bind("127.0.0.1:0")).await.unwrap();
    let client = within(TcpStream::connect(listener.local_addr().unwrap())).await.unwrap();
    let (stream, _) = within(listener.accept()).await.unwrap();
    let text = announcement(1, 10, &[]).to_string();
    // A masked text frame (RFC 6455 §5.2), with a mask of zeros.
    let head = [&[0x81, 0x80 | 126], (text.len() as u16).to_be_bytes().as_slice(), &[0; 4]].concat();
    let frame = [head.as_slice(), text.as_bytes()].concat();
    let flood = frame.repeat(2_000);
    within(client.writable()).await.unwrap();
    let sent = client.try_write(&flood).unwrap() / frame.len();
    within(stream.readable()).await.unwrap();

    let from = IpAddr::from([127, 0, 0, 1]);
    let connection = Connection::new(stream, Vec::new(), Terms { max_message: 65_536, deflate: false });
    let extensions = Arc::new(TestExtensions(server.extension.clone()));
    let session = Session::new(server.tracker.inner.clone(), extensions, connection, (SocketId(1_000), from));
    assert!(session.run().now_or_never().is_none(), "it has more to do");
    let answered = server.metrics.announces.with_label_values(&["ws"]).get() as usize;
    assert!(answered > 0 && answered < sent.min(1_000), "{answered} of {sent} in one turn");
}

#[tokio::test]
async fn nonsense_is_answered_and_the_socket_stays() {
    let server = Server::start().await;
    let mut page = server.page().await;
    let table = [
        "null",
        "5",
        "",
        "{",
        "[]",
        "{}",
        r#"{"action":"scrape","info_hash":5}"#,
        r#"{"action":"scrape"}"#,
        r#"{"action":"announce"}"#,
        r#"{"action":"dance"}"#,
        &json!({"action": "announce", "info_hash": "a".repeat(19), "peer_id": id(1)}).to_string(),
    ];
    for frame in table {
        page.send(frame).await;
        let reply = page.receive().await;
        let reason = reply["failure reason"].as_str().unwrap_or_else(|| panic!("{frame}: {reply}"));
        assert!(!reason.is_empty());
    }
    assert_eq!(server.metrics.errors.with_label_values(&["ws"]).get(), table.len() as u64);

    let mut announce = announcement(1, 10, &[]);
    announce["offers"] = json!([null]);
    assert_eq!(page.ask(announce.clone()).await, announced(1, 0, 1));
    within(page.socket.send(ClientFrame::binary(announce.to_string().into_bytes()))).await.unwrap();
    assert_eq!(page.receive().await, announced(1, 0, 1), "JSON in a binary frame is JSON");
    within(page.socket.send(ClientFrame::binary(vec![0xff, 0xfe]))).await.unwrap();
    assert!(page.receive().await["failure reason"].is_string());
}

#[tokio::test]
async fn scrapes() {
    let server = Server::start().await;
    let mut page = server.page().await;
    let mut seeder = announcement(1, 10, &[]);
    seeder["event"] = json!("completed");
    page.ask(seeder).await;
    page.ask(announcement(2, 10, &[])).await;
    let zero = json!({"complete": 0, "incomplete": 0, "downloaded": 0});
    let (one, two) = (
        json!({"complete": 1, "incomplete": 0, "downloaded": 1}),
        json!({"complete": 0, "incomplete": 1, "downloaded": 0}),
    );
    let hash = |n| to_latin1(&[n; 20]);
    let files = |files: Value| json!({"action": "scrape", "files": files});
    let asked = page.ask(json!({"action": "scrape", "info_hash": id(1)})).await;
    assert_eq!(asked, files(json!({hash(1): one})));
    let asked = page.ask(json!({"action": "scrape", "info_hash": [id(3), id(2), id(1)]})).await;
    assert_eq!(asked, files(json!({hash(1): one, hash(2): two, hash(3): zero})));
    let asked = page.ask(json!({"action": "scrape"})).await;
    assert_eq!(asked, files(json!({hash(1): one, hash(2): two})), "the swarms of this connection");
}

#[tokio::test]
async fn other_actions_go_to_the_extension_in_bounded_number() {
    let server = Server::start().await;
    let mut page = server.page().await;
    assert_eq!(
        page.ask(json!({"action": "dht_get", "id": "7"})).await,
        json!({"action": "dht_get", "id": "7", "failure reason": "this server does not know the action"})
    );
    assert_eq!(
        page.ask(json!({"action": "test_echo", "id": 1})).await,
        json!({"action": "test_echo", "id": 1, "from": "127.0.0.1"})
    );

    for n in 0..=MAX_IN_FLIGHT {
        page.send(json!({"action": "test_hold", "id": n}).to_string()).await;
    }
    let refused = page.receive().await;
    assert_eq!((&refused["action"], &refused["id"]), (&json!("test_hold"), &json!(MAX_IN_FLIGHT)));
    assert_eq!(refused["failure reason"], "too many requests of this connection are in progress");
    assert_eq!(page.ask(announcement(1, 10, &[])).await, announced(1, 0, 1), "the socket is not held up by them");

    server.extension.hold.add_permits(MAX_IN_FLIGHT);
    for _ in 0..MAX_IN_FLIGHT {
        assert_eq!(page.receive().await["from"], "127.0.0.1");
    }
    assert_eq!(page.ask(json!({"action": "test_echo", "id": 2})).await["id"], 2, "their places are free again");
}

#[tokio::test]
async fn what_an_announce_says_beyond_the_trackers_is_the_extensions() {
    let server = Server::start().await;
    let mut page = server.page().await;
    let mut announcement_with = announcement(1, 10, &[]);
    announcement_with["bep46"] = json!({"seq": 3});
    assert_eq!(page.ask(announcement_with.clone()).await, announced(1, 0, 1), "the tracker's own reply is the same");
    let said = page.receive().await;
    assert_eq!((&said["bep46"], &said["incomplete"]), (&json!("{\"seq\":3}"), &json!(1)));
    announcement_with["event"] = json!("stopped");
    page.ask(announcement_with).await;
    assert_eq!(page.ask(json!({"action": "test_echo", "id": 1})).await["id"], 1, "leaving says nothing");
    assert_eq!(*server.extension.left.lock().unwrap(), [InfoHash([1; 20])]);
}

#[tokio::test]
async fn the_resident_is_met_like_a_web_peer() {
    let server = Server::start().await;
    let resident = TestResident::of(InfoHash([1; 20]));
    server.tracker.set_resident(resident.clone());
    let mut page = server.page().await;
    page.ask(announcement(2, 10, &[7])).await;
    assert!(resident.offers.lock().unwrap().is_empty(), "another swarm");

    page.ask(announcement(1, 10, &[7, 8])).await;
    // The reply was queued before the resident was called, and the next one is queued after.
    page.ask(announcement(1, 10, &[])).await;
    let mut offers = std::mem::take(&mut *resident.offers.lock().unwrap());
    let offer = offers.pop().unwrap();
    assert!(offers.is_empty(), "one offer of an announce at most");
    assert_eq!((offer.info_hash, offer.peer_id), (InfoHash([1; 20]), PeerId([10; 20])));
    assert_eq!((offer.sdp.as_str(), offer.from), ("offer 7\r\n", "127.0.0.1".parse().unwrap()));
    offer.answer.send(PeerId([99; 20]), "answer\r\n");
    assert_eq!(
        page.receive().await,
        json!({
            "action": "announce", "info_hash": id(1), "peer_id": id(99), "offer_id": id(7),
            "answer": {"type": "answer", "sdp": "answer\r\n"},
        })
    );
}

#[tokio::test]
async fn a_page_that_makes_no_offers_is_made_one_by_the_resident() {
    let server = Server::start().await;
    let resident = TestResident::of(InfoHash([1; 20]));
    server.tracker.set_resident(resident.clone());
    let (mut page, mut other) = (server.page().await, server.page().await);
    let silent = || resident.silent.lock().unwrap().pop();
    page.ask(announcement(2, 10, &[])).await;
    assert!(silent().is_none(), "another swarm");
    other.ask(announcement(1, 11, &[7])).await;
    // A page that has offered before is met by its offers: this is news of its progress.
    other.ask(announcement(1, 11, &[])).await;
    assert!(silent().is_none());

    page.ask(announcement(1, 10, &[])).await;
    page.ask(announcement(2, 10, &[])).await;
    let met = silent().expect("it makes no offers");
    assert_eq!((met.info_hash, met.peer_id), (InfoHash([1; 20]), PeerId([10; 20])));
    assert!(met.offer.send(PeerId([99; 20]), OfferId([50; 20]), "offer\r\n"));
    assert_eq!(
        page.receive().await,
        json!({
            "action": "announce", "info_hash": id(1), "peer_id": id(99), "offer_id": id(50),
            "offer": {"type": "offer", "sdp": "offer\r\n"},
        })
    );
    for (offer, dropped) in [(50, 0), (51, 1)] {
        page.send(
            json!({
                "action": "announce", "info_hash": id(1), "peer_id": id(10), "to_peer_id": id(99), "offer_id": id(offer),
                "answer": {"type": "answer", "sdp": "answer\r\n"},
            })
            .to_string(),
        )
        .await;
        page.ask(announcement(2, 10, &[])).await;
        assert_eq!(server.metrics.dropped.with_label_values(&["unexpected_answer"]).get(), dropped);
    }
    assert_eq!(*resident.answers.lock().unwrap(), [(PeerId([10; 20]), Some("answer\r\n".to_owned()))]);
}

#[tokio::test]
async fn too_large_a_message_ends_the_connection_and_64_kib_does_not() {
    let settings = config::Tracker { max_message_size: bytesize::ByteSize::kib(80), ..config::Tracker::default() };
    let server = Server::with(settings).await;
    let mut page = server.page().await;
    let padded = |size: usize| {
        let mut announce = announcement(1, 10, &[1]);
        announce["padding"] = json!("x".repeat(size));
        announce
    };
    assert_eq!(page.ask(padded(70_000)).await, announced(1, 0, 1));
    page.send(padded(90_000).to_string()).await;
    assert_eq!(page.closed().await, Some(CloseCode::Size));
    server.until_there_are(0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_others_are_not() {
    let server = Server::start().await;
    let (mut slow, mut other) = (server.page().await, server.page().await);
    slow.ask(announcement(1, 10, &[])).await;
    slow.send(json!({"action": "test_flood"}).to_string()).await;
    other.ask(announcement(1, 11, &[])).await;
    server.until_there_are(1).await;
    assert!(server.metrics.dropped.with_label_values(&["slow_reader"]).get() > 0);
    assert_eq!(other.ask(announcement(1, 11, &[])).await, announced(1, 0, 1));
}

#[tokio::test]
async fn limits() {
    let settings =
        config::Tracker { max_sockets: 2, max_peers_per_socket: 2, max_peers: 3, ..config::Tracker::default() };
    let server = Server::with(settings).await;
    let (mut a, mut b) = (server.page().await, server.page().await);
    assert_eq!(server.page().await.closed().await, Some(CloseCode::Again));

    a.ask(announcement(1, 10, &[])).await;
    assert_eq!(a.ask(announcement(2, 10, &[])).await, announced(2, 0, 1));
    let refused = a.ask(announcement(3, 10, &[])).await;
    assert_eq!(refused["failure reason"], "this connection brings as many peers as one connection may");
    assert_eq!((&refused["action"], &refused["info_hash"]), (&json!("announce"), &id(3)));
    assert_eq!(a.ask(announcement(2, 10, &[])).await, announced(2, 0, 1), "those it has it may announce");

    assert_eq!(b.ask(announcement(2, 11, &[])).await, announced(2, 0, 2));
    assert_eq!(b.ask(announcement(2, 12, &[])).await["failure reason"], "the tracker is full");
    let mut stop = announcement(2, 10, &[]);
    stop["event"] = json!("stopped");
    assert_eq!(a.ask(stop).await, announced(2, 0, 1));
    assert_eq!(b.ask(announcement(2, 12, &[])).await, announced(2, 0, 2));

    drop(a);
    server.until_there_are(2).await;
    let mut again = server.page().await;
    assert_eq!(again.ask(announcement(1, 10, &[])).await, announced(1, 0, 1));
    let refused = ["socket_peers", "table_full"].map(|rule| server.metrics.not_taken.with_label_values(&[rule]).get());
    assert_eq!(refused, [1, 1]);
}

#[tokio::test]
async fn an_address_has_its_limits_over_all_its_sockets() {
    let settings =
        config::Tracker { max_peers_per_address: 2, max_announces_per_second: 1, ..config::Tracker::default() };
    let server = Server::with(settings).await;
    let refused = |rule| server.metrics.not_taken.with_label_values(&[rule]).get();
    let (mut a, mut b) = (server.page_at("1.2.3.4").await, server.page_at("1.2.3.4").await);
    assert_eq!(a.ask(announcement(1, 10, &[])).await, announced(1, 0, 1));
    assert_eq!(b.ask(announcement(1, 11, &[])).await, announced(1, 0, 2));
    assert_eq!(
        b.ask(announcement(2, 11, &[])).await["failure reason"],
        "this address brings as many peers as one address may"
    );
    assert_eq!((refused("address_peers"), refused("pace")), (1, 0));
    let mut other = server.page_at("1.2.3.5").await;
    assert_eq!(other.ask(announcement(2, 12, &[])).await, announced(2, 0, 1));

    // As many as it may make in twenty seconds, at once; it has made three of them.
    let mut taken = 3;
    while a.ask(announcement(1, 10, &[])).await.get("failure reason").is_none() {
        taken += 1;
    }
    assert!(taken >= 20, "{taken}");
    assert_eq!(refused("pace"), 1);
}

#[tokio::test]
async fn stopping_tells_every_client_and_leaves_no_task() {
    let server = Server::start().await;
    let mut page = server.page().await;
    page.ask(announcement(1, 10, &[])).await;
    page.send(json!({"action": "test_hold"}).to_string()).await;
    assert_eq!(server.tasks.stop(DEADLINE).await, 0);
    assert_eq!(page.closed().await, Some(CloseCode::Away));
    assert_eq!(server.tracker.stats(), Stats::default());
}

#[tokio::test]
async fn frames_at_the_edges_of_a_connection() {
    let server = Server::start().await;
    let masked = |first: u8, payload: &str| {
        let mut frame = vec![first, 0x80 | 126];
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(payload.as_bytes());
        frame
    };
    let handshake = "GET /announce HTTP/1.1\r\nHost: x\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let announce = announcement(1, 10, &[]).to_string();
    let (one, two) = announce.split_at(40);

    // Right behind the handshake, in two fragments with a ping between them, then something that is no frame.
    let mut bytes = handshake.as_bytes().to_vec();
    bytes.extend(masked(0x01, one));
    bytes.extend(b"\x89\x82\0\0\0\0hi");
    bytes.extend(masked(0x80, two));
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    within(stream.write_all(&bytes)).await.unwrap();
    let mut answer = Vec::new();
    let counts = Counts { complete: 0, incomplete: 1, downloaded: 0 };
    let reply = Message::Announced { info_hash: InfoHash([1; 20]), interval: 120, counts };
    let reply = websocket::text(&reply.encode());
    let expected = [b"\x8a\x02hi", &*reply].concat();
    while !answer.ends_with(&expected) {
        assert_ne!(within(stream.read_buf(&mut answer)).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
    assert_eq!(server.tracker.stats().web_peers, 1);

    answer.clear();
    within(stream.write_all(b"\x81\x02no mask")).await.unwrap();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer[..4], [0x88, answer.len() as u8 - 2, 0x03, 0xea], "closed with 1002");
    drop(stream);
    server.until_there_are(0).await;
    assert_eq!(server.metrics.closed.with_label_values(&["broken"]).get(), 1);
}

#[tokio::test]
async fn handshakes_that_are_none() {
    let server = Server::start().await;
    let whole = "GET /announce HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    let table = [
        ("", "", "101"),
        ("connection: upgrade\r\n", "", "400"),
        ("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", "400"),
        ("sec-websocket-version: 13\r\n", "", "426"),
        ("version: 13", "version: 8", "426"),
    ];
    for (part, instead, status) in table {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        within(stream.write_all(whole.replacen(part, instead, 1).as_bytes())).await.unwrap();
        let mut answer = [0; 12];
        within(stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer, *format!("HTTP/1.1 {status}").as_bytes(), "without {part}");
    }
}
