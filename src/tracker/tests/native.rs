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
    assert_eq!(server.tracker.native_peers(InfoHash([b'a'; 20]), 50).await.len(), 2);
    assert_eq!(
        http_get(&server, &format!("/scrape?info_hash={}", "a".repeat(20))).await,
        b"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei1e10:downloadedi0e10:incompletei2eeee"
    );

    let body = http_get(&server, &query('a', 1001, "&left=0&event=stopped")).await;
    assert_eq!(bencode::decode(&body).unwrap().get(b"complete").unwrap().int(), Some(0));
    assert_eq!(server.tracker.stats().await, Stats { swarms: 1, web_peers: 1, native_peers: 1 });
    assert_eq!(
        http_get(&server, "/announce?info_hash=abc").await,
        b"d14:failure reason54:info_hash must be 20 bytes, percent-encoded, and has 3e"
    );
}

/// A UDP client that waits for each reply.
struct Client {
    socket: UdpSocket,
}

impl Client {
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
    let door = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = Client { socket: UdpSocket::bind("127.0.0.1:0").await.unwrap() };
    client.socket.connect(door.local_addr().unwrap()).await.unwrap();
    let tracker = server.tracker.clone();
    server.tasks.spawn(async move { tracker.serve_udp(door).await });

    let refused = client.ask(&udp_announce([9; 8], 2, 5, 1001)).await;
    assert_eq!(refused, [b"\0\0\0\x03\x05\x05\x05\x05".as_slice(), b"connection id expired"].concat());
    assert_eq!(server.tracker.stats().await.native_peers, 0);

    client.socket.send(b"not of this protocol").await.unwrap();
    let connected = client.ask(b"\0\0\x04\x17\x27\x10\x19\x80\0\0\0\0\x05\x05\x05\x05").await;
    assert_eq!(connected[..8], *b"\0\0\0\0\x05\x05\x05\x05");
    let connection: [u8; 8] = connected[8..].try_into().unwrap();
    let first = client.ask(&udp_announce(connection, 2, 0, 1001)).await;
    assert_eq!(first, b"\0\0\0\x01\x05\x05\x05\x05\0\0\x07\x08\0\0\0\0\0\0\0\x01", "1800 s, no leechers, one seeder");
    let second = client.ask(&udp_announce(connection, 2, 5, 1002)).await;
    assert_eq!(second[12..], *b"\0\0\0\x01\0\0\0\x01\x7f\0\0\x01\x03\xe9", "and the other's address");

    let scrape = [connection.as_slice(), b"\0\0\0\x02\x05\x05\x05\x05", &[b'b'; 20], &[b'a'; 20]].concat();
    let counts = client.ask(&scrape).await;
    assert_eq!(counts[8..20], [0; 12], "the first swarm asked for");
    assert_eq!(counts[20..], *b"\0\0\0\x01\0\0\0\0\0\0\0\x01");
    client.ask(&udp_announce(connection, 3, 5, 1002)).await;
    assert_eq!(server.tracker.stats().await.native_peers, 1);
    assert_eq!(server.metrics.dropped.with_label_values(&["udp_malformed"]).get(), 1);
    assert_eq!(server.tasks.stop(DEADLINE).await, 0);
}
