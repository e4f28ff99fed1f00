//! Connections: when they are closed, and whose they are.

use super::*;

#[tokio::test]
async fn sockets_are_accepted_at_any_path() {
    let server = Server::start().await;
    let addr = server.listen().await;
    for path in ["/", "/announce", "/any/path?x=1", "/v1/records/x"] {
        let (mut socket, response) = tokio_tungstenite::connect_async(format!("ws://{addr}{path}")).await.unwrap();
        assert_eq!(response.status(), 101, "{path}");
        let item = sign(path.as_bytes(), 1, b"le");
        let frame = with(with(record(&item), "action", "dht_put"), "id", path);
        socket.send(Message::text(frame.to_string())).await.unwrap();
        let reply = socket.next().await.unwrap().unwrap().into_text().unwrap();
        let reply: Value = serde_json::from_str(&reply).unwrap();
        assert_eq!((&reply["id"], &reply["stored"]), (&json!(path), &json!(1)), "{reply}");
        assert_eq!(server.network.held(&item.target()), Some(item));
    }
    let broken = exchange(addr, "GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: close\r\n\r\n").await;
    assert!(broken.starts_with("HTTP/1.1 400"), "{broken}");
}

#[tokio::test(start_paused = true)]
async fn connections_that_say_nothing_are_closed() {
    let server = Server::start().await;
    let addr = server.listen().await;
    let before = tokio::time::Instant::now();
    for request in ["", "GET / HTTP/1.1\r\n", "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let answer = exchange(addr, request).await;
        assert_eq!(answer.contains("ok\n"), request.contains("livez"), "{answer}");
    }
    assert!(before.elapsed() >= Duration::from_secs(60), "each only after the deadline for heads");
    let slow = "PUT /v1/records/x HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    let slow = slow.replace("/x ", &format!("/{} ", "ab".repeat(32)));
    assert!(exchange(addr, &slow).await.starts_with("HTTP/1.1 408"));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(40_000));
    let answer = exchange(addr, &long).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test]
async fn whoever_sends_too_much_still_gets_the_answer() {
    let server = Server::start().await;
    let addr = server.listen().await;
    let record = format!("/v1/records/{}", "ab".repeat(32));
    for (method, path, status) in [("PUT", record.as_str(), "413"), ("POST", &record, "405"), ("PUT", "/livez", "405")]
    {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000\r\n\r\n");
        let mut stream = TcpStream::connect(addr).await.unwrap();
        // All of it before the first byte of the answer is read, as simple clients do.
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; 4_000_000]).await.expect("the connection takes the whole body");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("the answer comes whole");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{method} {path}: {answer}");
    }
}

#[tokio::test]
async fn stopping_ends_listeners_and_connections() {
    let server = Server::start().await;
    let addr = server.listen().await;
    let mut idle = TcpStream::connect(addr).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    assert_eq!(server.rooms.tasks.stop(Duration::from_secs(10)).await, 0);
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}

/// The address that an announce counts for, as its answer tells it (BEP 24).
fn external_ip(answer: &[u8]) -> Option<String> {
    let ip = bencode::decode(answer).ok()?.get(b"external ip")?.bytes()?.try_into().ok()?;
    Some(std::net::Ipv4Addr::from_octets(ip).to_string())
}

const ANNOUNCE: &str = "/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-XX0000-abcdefghijkl&port=1";

#[tokio::test]
async fn requests_through_a_trusted_proxy_count_for_its_client() {
    let server = Server::start().await;
    let behind = config::Web { trusted_proxies: vec!["192.0.2.0/24".parse().unwrap()], ..config::Web::default() };
    let forwarded = [("x-forwarded-for", "6.6.6.6, 198.51.100.7")];
    for (settings, expected) in [(config::Web::default(), "192.0.2.1"), (behind, "198.51.100.7")] {
        let answer = body_of(send(server.public_with(&settings), "GET", ANNOUNCE, &forwarded, "").await).await;
        assert_eq!(external_ip(&answer).as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn connections_may_have_to_begin_with_the_proxy_protocol() {
    let server = Server::start().await;
    let settings = |proxy: &str| config::Web {
        trusted_proxies: vec![proxy.parse().unwrap()],
        proxy_protocol: true,
        ..config::Web::default()
    };
    let (addr, closed) = (server.listen_with(&settings("127.0.0.1")).await, server.listen_with(&settings("::1")).await);
    let request = format!("GET {ANNOUNCE} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\x7f\0\0\x01\xd4\x31\x1f\x90";
    let answer = exchange_bytes(addr, &[header.as_slice(), request.as_bytes()].concat()).await;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(external_ip(&answer[body..]).as_deref(), Some("198.51.100.7"));
    assert_eq!(exchange_bytes(addr, request.as_bytes()).await, b"", "without a header");
    let answer = exchange_bytes(closed, &[header.as_slice(), request.as_bytes()].concat()).await;
    assert_eq!(answer, b"", "from somebody else");
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_no_more() {
    let server = Server::start().await;
    let settings = config::Web {
        trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
        proxy_protocol: true,
        max_connections_per_address: 2,
        ..config::Web::default()
    };
    let addr = server.listen_with(&settings).await;
    // A connection from 198.51.100.`last`, and how its first answer begins: not at all, if it was closed.
    let open = async |last: u8| {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let mut header = *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\x7f\0\0\x01\xd4\x31\x1f\x90";
        header[19] = last;
        let request = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n".as_slice();
        stream.write_all(&[&header, request].concat()).await.unwrap();
        let mut answer = [0; 12];
        let served = stream.read_exact(&mut answer).await.is_ok();
        assert!(!served || answer == *b"HTTP/1.1 200");
        served.then_some(stream)
    };
    let (first, _second) = (open(7).await.unwrap(), open(7).await.unwrap());
    assert!(open(7).await.is_none(), "it has two open");
    assert!(open(8).await.is_some(), "another has none");
    assert_eq!(server.rooms.metrics.web.refused.get(), 1);
    drop(first);
    let served_again = async { while open(7).await.is_none() {} };
    tokio::time::timeout(Duration::from_secs(10), served_again).await.expect("a closed connection counts no more");
}

#[tokio::test]
async fn sockets_are_for_pages_of_allowed_origins() {
    let server = Server::start().await;
    let settings = config::Web { allowed_origins: vec!["https://example.org".into()], ..config::Web::default() };
    let addr = server.listen_with(&settings).await;
    for (origin, status) in [
        ("origin: https://example.org\r\n", "101"),
        ("origin: HTTPS://Example.org\r\n", "101"),
        ("", "101"),
        ("origin: https://example.org.evil.test\r\n", "403"),
        ("origin: http://example.org\r\n", "403"),
        ("origin: null\r\n", "403"),
    ] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!(
            "GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{origin}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head, *format!("HTTP/1.1 {status}").as_bytes(), "{origin}");
    }
}
