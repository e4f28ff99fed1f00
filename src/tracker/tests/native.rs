use std::net::Ipv6Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::wire::{bencode, compact};

/// `GET path` over a connection of its own; the body.
async fn http_get(server: &Server, path: &str) -> Vec<u8> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut response = Vec::new();
    let exchange = async {
        let mut stream = TcpStream::connect(server.addr).await?;
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_end(&mut response).await
    };
    within(exchange).await.unwrap();
    let body = response.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    response.split_off(body)
}

fn query(hash: char, port: u16, more: &str) -> String {
    let hash = hash.to_string().repeat(20);
    format!("/announce?info_hash={hash}&peer_id=-XX0000-abcdefghijkl&port={port}&uploaded=0&downloaded=0{more}")
}

#[tokio::test]
async fn http_peers_meet_and_are_counted_with_web_peers() {
    let server = Server::start().await;
    server.page().await.ask(announcement(b'a', 10, &[])).await;
    server.until_there_are(0).await;
    let mut page = server.page().await;
    page.ask(announcement(b'a', 10, &[])).await;

    http_get(&server, &query('a', 1001, "&left=0&compact=1")).await;
    let body = http_get(&server, &query('a', 1002, "&left=5&compact=1")).await;
    let reply = bencode::decode(&body).unwrap();
    let int = |key: &str| reply.get(key.as_bytes()).and_then(bencode::Node::int);
    assert_eq!((int("complete"), int("incomplete"), int("interval")), (Some(1), Some(2), Some(1800)));
    let peers: Vec<SocketAddr> = compact::read_v4(reply.get(b"peers").unwrap().bytes().unwrap()).collect();
    assert_eq!(peers, [SocketAddr::from(([127, 0, 0, 1], 1001))], "native peers only, and not oneself");

    assert_eq!(page.ask(announcement(b'a', 10, &[])).await, announced(b'a', 1, 2));
    assert_eq!(server.tracker.native_peers(InfoHash([b'a'; 20]), 50).len(), 2);
    assert_eq!(
        http_get(&server, &format!("/scrape?info_hash={}", "a".repeat(20))).await,
        b"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei1e10:downloadedi0e10:incompletei2eeee"
    );

    let body = http_get(&server, &query('a', 1001, "&left=0&event=stopped")).await;
    assert_eq!(bencode::decode(&body).unwrap().get(b"complete").unwrap().int(), Some(0));
    assert_eq!(server.tracker.stats(), Stats { swarms: 1, web_peers: 1, native_peers: 1 });
    assert_eq!(
        http_get(&server, "/announce?info_hash=abc").await,
        b"d14:failure reason54:info_hash must be 20 bytes, percent-encoded, and has 3e"
    );
}

#[tokio::test]
async fn a_peer_is_where_its_announce_comes_from_whatever_it_says() {
    let server = Server::start().await;
    let claims = "&left=5&ip=192.0.2.7&ipv4=192.0.2.7:1003&ipv6=2001%3Adb8%3A%3A7&key=12345678";
    http_get(&server, &query('a', 1001, claims)).await;
    // Another key at the same address and port is the same peer.
    http_get(&server, &query('a', 1001, &claims.replace("12345678", "87654321"))).await;
    let peers = server.tracker.native_peers(InfoHash([b'a'; 20]), 50);
    assert_eq!(peers, [SocketAddr::from(([127, 0, 0, 1], 1001))]);
}

/// A UDP client that waits for each reply.
struct Client {
    socket: UdpSocket,
}

impl Client {
    /// A client of the server's UDP door, which is opened for it.
    async fn of(server: &Server) -> Self {
        Self::at("127.0.0.1:0", server).await
    }

    async fn at(loopback: &str, server: &Server) -> Self {
        let door = UdpSocket::bind(loopback).await.unwrap();
        let client = Self { socket: UdpSocket::bind(loopback).await.unwrap() };
        client.socket.connect(door.local_addr().unwrap()).await.unwrap();
        let tracker = server.tracker.clone();
        server.tasks.spawn(async move { tracker.serve_udp(door).await });
        client
    }

    async fn connect(&self) -> [u8; 8] {
        let connected = self.ask(b"\0\0\x04\x17\x27\x10\x19\x80\0\0\0\0\x05\x05\x05\x05").await;
        assert_eq!(connected[..8], *b"\0\0\0\0\x05\x05\x05\x05");
        connected[8..].try_into().unwrap()
    }

    async fn ask(&self, packet: &[u8]) -> Vec<u8> {
        let mut reply = [0; 2048];
        self.socket.send(packet).await.unwrap();
        let length = within(self.socket.recv(&mut reply)).await.unwrap();
        reply[..length].to_vec()
    }
}

fn udp_announce(connection: [u8; 8], event: u32, left: u64, port: u16) -> Vec<u8> {
    let mut out = connection.to_vec();
    out.extend([0, 0, 0, 1, 5, 5, 5, 5]);
    out.extend([b'a'; 20]);
    out.extend([b'p'; 20]);
    for n in [0, left, 0] {
        out.extend(u64::to_be_bytes(n));
    }
    for n in [event, 0, 0, u32::MAX] {
        out.extend(n.to_be_bytes());
    }
    out.extend(port.to_be_bytes());
    out
}

#[tokio::test]
async fn udp_peers_need_a_connection_and_meet() {
    let server = Server::start().await;
    let client = Client::of(&server).await;

    let refused = client.ask(&udp_announce([9; 8], 2, 5, 1001)).await;
    assert_eq!(refused, [b"\0\0\0\x03\x05\x05\x05\x05".as_slice(), b"connection id expired"].concat());
    assert_eq!(server.tracker.stats().native_peers, 0);

    client.socket.send(b"not of this protocol").await.unwrap();
    let connection = client.connect().await;
    let first = client.ask(&udp_announce(connection, 2, 0, 1001)).await;
    assert_eq!(first, b"\0\0\0\x01\x05\x05\x05\x05\0\0\x07\x08\0\0\0\0\0\0\0\x01", "1800 s, no leechers, one seeder");
    let second = client.ask(&udp_announce(connection, 2, 5, 1002)).await;
    assert_eq!(second[12..], *b"\0\0\0\x01\0\0\0\x01\x7f\0\0\x01\x03\xe9", "and the other's address");

    let scrape = [connection.as_slice(), b"\0\0\0\x02\x05\x05\x05\x05", &[b'b'; 20], &[b'a'; 20]].concat();
    let counts = client.ask(&scrape).await;
    assert_eq!(counts[8..20], [0; 12], "the first swarm asked for");
    assert_eq!(counts[20..], *b"\0\0\0\x01\0\0\0\0\0\0\0\x01");
    client.ask(&udp_announce(connection, 3, 5, 1002)).await;
    assert_eq!(server.tracker.stats().native_peers, 1);
    assert_eq!(server.metrics.dropped.with_label_values(&["udp_malformed"]).get(), 1);
    assert_eq!(server.tasks.stop(DEADLINE).await, 0);
}

#[tokio::test]
async fn udp_peers_over_ipv6_are_told_of_each_other_and_may_scrape() {
    let server = Server::start().await;
    let client = Client::at("[::1]:0", &server).await;
    let connection = client.connect().await;
    client.ask(&udp_announce(connection, 2, 0, 1001)).await;
    let reply = client.ask(&udp_announce(connection, 2, 5, 1002)).await;
    let peers: Vec<SocketAddr> = compact::read_v6(&reply[20..]).collect();
    assert_eq!(peers, [SocketAddr::from((Ipv6Addr::LOCALHOST, 1001))], "with 18 bytes each");
    let scrape = [connection.as_slice(), b"\0\0\0\x02\x05\x05\x05\x05", &[b'a'; 20], &[b'b'; 20]].concat();
    let counts = client.ask(&scrape).await;
    assert_eq!(counts[8..], [b"\0\0\0\x01\0\0\0\0\0\0\0\x01".as_slice(), &[0; 12]].concat());
}

#[tokio::test]
async fn a_private_tracker_serves_those_with_a_passkey() {
    const KEY: &str = "0123456789abcdef";
    let passkeys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(passkeys.path(), KEY).unwrap();
    let settings = config::Tracker { passkeys_file: passkeys.path().to_owned(), ..config::Tracker::default() };
    let server = Server::with(settings).await;
    assert!(server.tracker.admits(&format!("/{KEY}/announce"), "") && !server.tracker.admits("/announce", ""));
    let announce = query('a', 1001, "&left=0&compact=1");
    let refused = http_get(&server, &announce).await;
    assert_eq!(refused, b"d14:failure reason58:this tracker is private: its address needs a valid passkeye");
    assert!(http_get(&server, &format!("{announce}&passkey={KEY}")).await.starts_with(b"d8:complete"));

    let client = Client::of(&server).await;
    let connection = client.connect().await;
    let announce = udp_announce(connection, 2, 5, 1001);
    let with_url = |url: String| [announce.as_slice(), &[2, u8::try_from(url.len()).unwrap()], url.as_bytes()].concat();
    let error = b"\0\0\0\x03\x05\x05\x05\x05a passkey is needed";
    assert_eq!(client.ask(&announce).await, error);
    assert_eq!(client.ask(&with_url("/another-passkey-x/announce".into())).await, error);
    assert_eq!(client.ask(&with_url(format!("/{KEY}/announce"))).await[..4], [0, 0, 0, 1]);
    let scrape = [connection.as_slice(), b"\0\0\0\x02\x05\x05\x05\x05", &[b'a'; 20]].concat();
    assert_eq!(client.ask(&scrape).await, error);
    let refused = server.metrics.not_taken.with_label_values(&["passkey"]).get();
    assert_eq!(refused, 5, "of which one was only a question");
}

#[tokio::test]
async fn a_denied_torrent_is_refused_at_every_door_and_may_be_left() {
    let server = Server::start().await;
    let mut page = server.page().await;
    page.ask(announcement(b'a', 10, &[])).await;
    server.tracker.list(List::Denied, InfoHash([b'a'; 20])).await.unwrap();
    assert!(server.data_dir.path().join("denied-infohashes").exists());

    let refused = page.ask(announcement(b'a', 10, &[1])).await;
    assert_eq!(refused["failure reason"], "this tracker does not serve this torrent");
    assert_eq!((&refused["action"], &refused["info_hash"]), (&json!("announce"), &id(b'a')));
    let mut stop = announcement(b'a', 10, &[]);
    stop["event"] = json!("stopped");
    assert_eq!(page.ask(stop).await, announced(b'a', 0, 0));
    assert!(http_get(&server, &query('a', 1001, "")).await.starts_with(b"d14:failure reason40:this tracker does"));
    let client = Client::of(&server).await;
    let announce = udp_announce(client.connect().await, 2, 5, 1001);
    assert_eq!(client.ask(&announce).await[8..], *b"torrent not served here");
    assert_eq!(page.ask(announcement(b'b', 10, &[])).await, announced(b'b', 0, 1));
    assert_eq!(server.metrics.not_taken.with_label_values(&["torrent"]).get(), 3);
}

#[tokio::test]
async fn completed_downloads_outlive_a_restart() {
    let server = Server::start().await;
    http_get(&server, &query('a', 1001, "&left=0&event=completed")).await;
    assert_eq!(server.tasks.stop(DEADLINE).await, 0);
    let tasks = Tasks::new();
    let open =
        || Tracker::open(&config::Tracker::default(), server.data_dir.path(), metrics::Tracker::detached(), &tasks);
    let scraped = open().unwrap().http_scrape("/scrape", "info_hash=aaaaaaaaaaaaaaaaaaaa");
    assert_eq!(scraped, b"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei0e10:downloadedi1e10:incompletei0eeee");
    assert_eq!(tasks.stop(DEADLINE).await, 0);
}
