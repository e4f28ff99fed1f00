//! The doors over a DHT in memory: through the routers, and through a port where the connection itself matters.

mod following;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode};
use ed25519_dalek::SigningKey;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tower::ServiceExt;

use super::*;
use crate::config;
use crate::dht::Mode;
use crate::metrics;
use crate::records::PutOptions;
use crate::records::memory_dht::MemoryDht;
use crate::wire::id::InfoHash;
use crate::wire::item::{Salt, VerifiedItem};
use crate::wire::pointer;
use crate::wire::record_messages::{MAX_SUBSCRIPTIONS, Record};
use crate::wire::{bencode, hex};

struct Server {
    rooms: Rooms,
    network: Arc<MemoryDht>,
    _directory: TempDir,
}

impl Server {
    async fn start() -> Self {
        Self::start_with(config::Records::default()).await
    }

    async fn start_with(settings: config::Records) -> Self {
        let (tasks, directory, network) = (Tasks::new(), tempfile::tempdir().unwrap(), Arc::new(MemoryDht::default()));
        let metrics = Arc::new(Metrics::default());
        let dht_settings =
            config::Dht { listen: "127.0.0.1:0".parse().unwrap(), bootstrap: Vec::new(), ..config::Dht::default() };
        let dht = Dht::start(&dht_settings, Mode::Client, None, metrics::Dht::detached(), &tasks).await.unwrap();
        let records = Records::start_on(network.clone(), &settings, directory.path(), metrics.records.clone(), &tasks);
        let records = records.await.unwrap();
        let tracker = Tracker::start(&config::Tracker::default(), metrics.tracker.clone(), &tasks);
        Self { rooms: Rooms { tracker, records, dht, metrics, tasks }, network, _directory: directory }
    }

    fn public(&self) -> Router {
        self.public_with(&config::Web::default())
    }

    fn public_with(&self, settings: &config::Web) -> Router {
        public(self.rooms.clone(), settings)
    }

    async fn put(&self, item: &VerifiedItem) {
        self.rooms.records.put(item.as_signed().clone(), PutOptions::default()).await.unwrap();
    }

    /// Status and JSON body of a request to the public listener.
    async fn call(&self, method: &str, uri: &str, body: impl Into<Body>) -> (u16, Value) {
        let response = send(self.public(), method, uri, &[], body).await;
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&body_of(response).await).unwrap_or_default())
    }

    async fn page(&self) -> Page {
        let address = format!("ws://{}/announce", self.listen().await);
        Page { socket: tokio_tungstenite::connect_async(address).await.unwrap().0 }
    }

    /// A port that the public listener serves.
    async fn listen(&self) -> SocketAddr {
        self.listen_with(&config::Web::default()).await
    }

    async fn listen_with(&self, settings: &config::Web) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        serve(listener, self.public_with(settings), Opening::of(settings), &self.rooms.tasks);
        addr
    }
}

/// A page with a socket to the server.
struct Page {
    socket: tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>,
}

impl Page {
    async fn send(&mut self, frame: Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    async fn receive(&mut self) -> Value {
        let frame = self.socket.next().await.unwrap().unwrap().into_text().unwrap();
        serde_json::from_str(&frame).unwrap()
    }

    async fn ask(&mut self, frame: Value) -> Value {
        self.send(frame).await;
        self.receive().await
    }
}

async fn send(
    router: Router,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(body.into()).unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 5))));
    router.oneshot(request).await.unwrap()
}

async fn body_of(response: Response<Body>) -> Vec<u8> {
    to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()
}

fn header<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

fn sign(salt: &[u8], seq: i64, v: &[u8]) -> VerifiedItem {
    VerifiedItem::sign(&SigningKey::from_bytes(&[1; 32]), Salt::new(salt).unwrap(), seq, v.to_vec()).unwrap()
}

fn record(item: &VerifiedItem) -> Value {
    json!(Record::from(item))
}

fn with(mut value: Value, field: &str, other: impl Into<Value>) -> Value {
    value[field] = other.into();
    value
}

#[tokio::test]
async fn a_record_is_put_and_got() {
    let server = Server::start().await;
    let info_hash = InfoHash([7; 20]);
    let item = sign(b"blog", 4, &pointer::value(&info_hash));
    let uri = format!("/v1/records/{}?salt={}", item.key(), hex::encode(b"blog"));
    assert_eq!(server.call("GET", &uri, "").await.0, 404);
    let (status, stored) = server.call("PUT", &uri, record(&item).to_string()).await;
    assert_eq!((status, stored), (200, json!({"target": item.target().to_hex(), "seq": 4, "stored": 1})));

    let mut expected = record(&item);
    expected["target"] = item.target().to_hex().into();
    expected["ih"] = info_hash.to_hex().into();
    expected["source"] = "cache".into();
    assert_eq!(server.call("GET", &uri, "").await, (200, expected));
    assert_eq!(server.call("GET", &format!("/v1/records/{}", item.key()), "").await.0, 404, "without the salt");

    let response = send(server.public(), "GET", &uri, &[], "").await;
    assert_eq!((header(&response, "etag"), header(&response, "cache-control")), (Some("\"4\""), Some("no-cache")));
    let response = send(server.public(), "GET", &uri, &[("if-none-match", "\"4\"")], "").await;
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    assert!(body_of(response).await.is_empty());
    let response = send(server.public(), "GET", &uri, &[("if-none-match", "\"3\"")], "").await;
    assert_eq!(response.status(), StatusCode::OK);
}

/// Bodies of puts that fail, all to the key of [`sign`], which stands at number 4: what is put, then status and code.
fn bad_puts() -> Vec<(&'static str, Value, u16, Option<i64>)> {
    let good = record(&sign(b"", 5, b"2:hi"));
    let mut flipped = good["sig"].as_str().unwrap().to_owned();
    flipped.replace_range(0..1, if flipped.starts_with('0') { "1" } else { "0" });
    let stranger = hex::encode(SigningKey::from_bytes(&[2; 32]).verifying_key().as_bytes());
    vec![
        ("forged signature", with(good.clone(), "sig", flipped), 400, Some(206)),
        ("another's key", with(good.clone(), "k", stranger), 400, Some(203)),
        ("short signature", with(good.clone(), "sig", "00"), 400, Some(203)),
        (
            "value of 1001 bytes",
            with(good.clone(), "v", hex::encode(format!("997:{}", "x".repeat(997)).as_bytes())),
            400,
            Some(205),
        ),
        ("salt of 65 bytes", with(good.clone(), "salt", "ab".repeat(65)), 400, Some(207)),
        ("keys out of order", with(good.clone(), "v", hex::encode(b"d1:bi1e1:ai2ee")), 400, Some(203)),
        ("not bencode", with(good.clone(), "v", hex::encode(b"junk")), 400, Some(203)),
        ("not hexadecimal", with(good.clone(), "v", "xx"), 400, Some(203)),
        ("negative seq", with(good.clone(), "seq", -1), 400, Some(203)),
        ("seq of 2^53", with(good.clone(), "seq", 1_i64 << 53), 400, Some(203)),
        ("no seq", with(good.clone(), "seq", Value::Null), 400, Some(203)),
        ("seq goes back", record(&sign(b"", 3, b"2:hi")), 409, Some(302)),
        ("cas mismatch", with(good.clone(), "cas", 3), 412, Some(301)),
        ("cas is text", with(good.clone(), "cas", "4"), 400, Some(203)),
        ("not an object", json!([]), 400, Some(203)),
        ("too large", with(good, "later", "x".repeat(9000)), 413, None),
    ]
}

#[tokio::test]
async fn bad_puts_over_http_get_a_status_a_code_and_a_sentence() {
    let server = Server::start().await;
    let known = sign(b"", 4, b"2:v4");
    server.put(&known).await;
    let uri = format!("/v1/records/{}", known.key());
    for (comment, body, status, code) in bad_puts() {
        let (got, error) = server.call("PUT", &uri, body.to_string()).await;
        assert_eq!((got, error["code"].as_i64()), (status, code), "{comment}: {error}");
        assert!(error["error"].as_str().is_some_and(|sentence| sentence.len() > 10), "{comment}: {error}");
        let current = matches!(code, Some(301 | 302)).then(|| record(&known));
        assert_eq!(error.get("current"), current.as_ref(), "{comment}");
        assert_eq!(server.call("GET", &uri, "").await.1["seq"], 4, "{comment}");
    }
    for body in ["junk", "", "\u{0}"] {
        assert_eq!(server.call("PUT", &uri, body).await.0, 400);
    }
    assert_eq!(server.call("PUT", &uri, vec![0xff, 0xfe]).await.0, 400);
}

#[tokio::test]
async fn bad_puts_over_the_socket_get_a_code_and_a_sentence() {
    let server = Server::start().await;
    let known = sign(b"", 4, b"2:v4");
    server.put(&known).await;
    let mut page = server.page().await;
    for (comment, body, _, code) in bad_puts() {
        let Some(code) = code.filter(|_| body.is_object()) else { continue };
        // Over HTTP the address names the key, here only the record does.
        let code = if comment == "another's key" { 206 } else { code };
        let frame = with(with(body, "action", "dht_put"), "id", "x");
        let reply = page.ask(frame).await;
        assert_eq!(reply["code"], code, "{comment}: {reply}");
        assert_eq!((&reply["action"], &reply["id"]), (&json!("dht_put"), &json!("x")), "{comment}");
        assert!(reply["failure reason"].as_str().is_some_and(|sentence| sentence.len() > 10), "{comment}");
        let current = matches!(code, 301 | 302).then(|| record(&known));
        assert_eq!(reply.get("current"), current.as_ref(), "{comment}");
    }
}

#[tokio::test]
async fn the_dht_actions() {
    let server = Server::start().await;
    let mut page = server.page().await;
    let mut ask = async |frame: Value| page.ask(with(frame, "id", "x")).await;
    let item = sign(b"", 4, b"2:v4");
    let (k, target) = (item.key().to_hex(), item.target().to_hex());
    let get = json!({"action": "dht_get", "k": k});

    let info = ask(json!({"action": "dht_info"})).await;
    assert_eq!(info["limits"], json!({"v": 1000, "salt": 64, "seq": 9_007_199_254_740_991_i64, "subscriptions": 256}));
    assert_eq!(info["dht"]["nodes"], 0);
    assert_eq!(ask(get.clone()).await, json!({"action": "dht_get", "id": "x", "found": false, "target": target}));
    let stored = ask(with(record(&item), "action", "dht_put")).await;
    assert_eq!(stored, json!({"action": "dht_put", "id": "x", "target": target, "seq": 4, "stored": 1}));
    let found = ask(get.clone()).await;
    assert_eq!((&found["sig"], &found["source"]), (&record(&item)["sig"], &json!("cache")));
    assert_eq!(
        ask(with(get.clone(), "seq", 4)).await,
        json!({"action": "dht_get", "id": "x", "found": true, "target": target, "seq": 4, "unchanged": true})
    );
    assert_eq!(ask(with(get.clone(), "seq", 3)).await["v"], record(&item)["v"]);

    let stored = ask(json!({"action": "dht_put", "v": hex::encode(b"2:hi")})).await;
    let value = ask(json!({"action": "dht_get", "target": stored["target"]})).await;
    assert_eq!((&value["found"], &value["v"]), (&json!(true), &json!(hex::encode(b"2:hi"))));
    assert_eq!(ask(json!({"action": "dht_get", "target": "00".repeat(20)})).await["found"], false);
    assert_eq!(ask(json!({"action": "dht_dance"})).await["code"], 204);

    server.network.silent.store(true, SeqCst);
    tokio::time::pause();
    let reply = ask(json!({"action": "dht_get", "k": hex::encode(&[9; 32])})).await;
    assert_eq!((&reply["code"], &reply["failure reason"]), (&json!(202), &json!("the DHT did not answer in time")));
}

#[tokio::test]
async fn addresses_that_make_no_sense() {
    let server = Server::start().await;
    let key = "ab".repeat(32);
    let wrong_query = "max_age must be a whole number of seconds, min_seq a sequence number, and mode cache_first, cache_only or network";
    let table = [
        (
            "GET",
            format!("/v1/records/{}", "ab".repeat(31)),
            400,
            json!(203),
            "a public key must be 32 bytes (64 hexadecimal digits)",
        ),
        (
            "GET",
            format!("/v1/records/{}", "zz".repeat(32)),
            400,
            json!(203),
            "a public key must be 32 bytes (64 hexadecimal digits)",
        ),
        (
            "GET",
            format!("/v1/records/{key}?salt=xyz"),
            400,
            json!(203),
            "the field \"salt\" must be hexadecimal, two digits a byte",
        ),
        (
            "GET",
            format!("/v1/records/{key}?salt={}", "ab".repeat(65)),
            400,
            json!(207),
            "the salt is larger than 64 bytes",
        ),
        ("GET", format!("/v1/records/{key}?max_age=-1"), 400, json!(203), wrong_query),
        ("GET", format!("/v1/records/{key}?max_age=x"), 400, json!(203), wrong_query),
        ("GET", format!("/v1/records/{key}"), 404, Value::Null, "no record of this key and salt was found"),
        ("GET", format!("/v1/records/{key}?mode=later"), 400, json!(203), wrong_query),
        (
            "GET",
            format!("/v1/records/{key}/events?salt=xyz"),
            400,
            json!(203),
            "the field \"salt\" must be hexadecimal, two digits a byte",
        ),
        ("GET", "/v1/nothing".to_owned(), 404, Value::Null, "there is nothing at this address"),
        ("GET", "/v1".to_owned(), 404, Value::Null, "there is nothing at this address"),
        ("DELETE", format!("/v1/records/{key}"), 405, Value::Null, "this address takes GET and PUT"),
        ("POST", format!("/v1/records/{key}"), 405, Value::Null, "this address takes GET and PUT"),
    ];
    for (method, uri, status, code, sentence) in table {
        let (got, error) = server.call(method, &uri, "").await;
        assert_eq!((got, &error["code"], &error["error"]), (status, &code, &json!(sentence)), "{method} {uri}");
        let admin = send(admin(server.rooms.clone()), method, &uri, &[], "").await;
        assert_eq!(admin.status(), status, "admin {method} {uri}");
    }
}

#[tokio::test]
async fn pages_of_every_origin_may_use_records() {
    let server = Server::start().await;
    let uri = format!("/v1/records/{}", "ab".repeat(32));
    for (method, status) in [("OPTIONS", 204), ("GET", 404), ("PUT", 400), ("DELETE", 405)] {
        let response = send(server.public(), method, &uri, &[("origin", "https://example.org")], "").await;
        assert_eq!(response.status(), status);
        assert_eq!(header(&response, "access-control-allow-origin"), Some("*"), "{method}");
    }
    let preflight = send(server.public(), "OPTIONS", &uri, &[], "").await;
    assert_eq!(header(&preflight, "access-control-allow-methods"), Some("GET, HEAD, PUT"));
    assert_eq!(header(&preflight, "access-control-allow-headers"), Some("content-type, if-none-match, last-event-id"));
    let response = send(server.public(), "GET", "/stats.json", &[], "").await;
    assert_eq!(header(&response, "access-control-allow-origin"), None);
}

/// Holds with and without the app in the build.
#[tokio::test]
async fn documents_are_locked_down_and_everything_is_safe() {
    let server = Server::start().await;
    for uri in ["/", "/index.html"] {
        let response = send(server.public(), "GET", uri, &[], "").await;
        let policy = header(&response, "content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(header(&response, "content-type").unwrap().starts_with("text/html"));
    }
    for uri in
        ["/", "/nothing", "/../Cargo.toml", "/%2e%2e/Cargo.toml", "/livez", "/v1/nothing", "/announce", "/stats.json"]
    {
        let response = send(server.public(), "GET", uri, &[], "").await;
        assert_eq!(header(&response, "x-content-type-options"), Some("nosniff"), "{uri}");
        assert_eq!(header(&response, "referrer-policy"), Some("no-referrer"), "{uri}");
        if uri.contains("Cargo") {
            assert_eq!(response.status(), 404, "{uri}");
        }
    }
    assert_eq!(send(server.public(), "POST", "/", &[], "").await.status(), 405);
}

#[tokio::test]
async fn health_counts_and_who_may_see_metrics() {
    let server = Server::start().await;
    server.put(&sign(b"", 1, b"le")).await;
    assert_eq!(server.call("GET", "/stats.json", "").await.1["records"], 1);
    let page = send(server.public(), "GET", "/stats", &[], "").await;
    assert!(header(&page, "content-security-policy").unwrap().starts_with("default-src 'none'"));
    let page = String::from_utf8(body_of(page).await).unwrap();
    assert!(page.contains("<th scope=row>Records<td>1<td>") && !page.contains("script"), "{page}");
    assert_eq!(
        header(&send(server.public(), "GET", "/stats.css", &[], "").await, "content-type").unwrap(),
        "text/css; charset=utf-8"
    );
    assert_eq!(send(server.public(), "GET", "/metrics", &[], "").await.status(), 404);
    let response = send(admin(server.rooms.clone()), "GET", "/metrics", &[], "").await;
    let text = String::from_utf8(body_of(response).await).unwrap();
    assert!(text.contains("swarmgate_records_puts_total{result=\"stored\"} 1"), "{text}");
    for (uri, running, stopping) in [("/livez", 200, 200), ("/readyz", 200, 503)] {
        let server = Server::start().await;
        assert_eq!(send(server.public(), "GET", uri, &[], "").await.status(), running);
        server.rooms.tasks.token().cancel();
        assert_eq!(send(admin(server.rooms.clone()), "GET", uri, &[], "").await.status(), stopping);
    }
}

/// What comes back over one connection until the other end closes it.
async fn exchange(addr: SocketAddr, request: &str) -> String {
    String::from_utf8_lossy(&exchange_bytes(addr, request.as_bytes()).await).into_owned()
}

async fn exchange_bytes(addr: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

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

#[tokio::test]
async fn the_operator_denies_a_torrent_and_allows_it_again() {
    let server = Server::start().await;
    let hash = "ab".repeat(20);
    let announce = format!("/announce?info_hash={}&peer_id=-XX0000-abcdefghijkl&port=1", "%ab".repeat(20));
    let on_admin = async |method: &str, uri: &str| -> (u16, Value) {
        let response = send(admin(server.rooms.clone()), method, uri, &[], "").await;
        (response.status().as_u16(), serde_json::from_slice(&body_of(response).await).unwrap_or_default())
    };
    let announced = async || body_of(send(server.public(), "GET", &announce, &[], "").await).await;
    let uri = format!("/v1/tracker/denied/{hash}");
    assert_eq!(on_admin("GET", &uri).await, (404, json!({"error": "this info hash is not on the list"})));
    assert!(announced().await.starts_with(b"d8:complete"));
    assert_eq!(on_admin("PUT", &uri).await.0, 204);
    assert_eq!(announced().await, b"d14:failure reason40:this tracker does not serve this torrente");
    let entry = json!({"infohash": hash, "source": "api"});
    assert_eq!(on_admin("GET", &uri).await, (200, entry.clone()));
    assert_eq!(on_admin("GET", "/v1/tracker/denied").await, (200, json!({"infohashes": [entry]})));
    assert_eq!(on_admin("GET", "/v1/tracker/allowed").await, (200, json!({"infohashes": []})));
    assert_eq!(on_admin("DELETE", &uri).await.0, 204);
    assert_eq!(on_admin("DELETE", &uri).await.0, 404);
    assert!(announced().await.starts_with(b"d8:complete"));

    assert_eq!(on_admin("PUT", "/v1/tracker/denied/xyz").await.0, 400);
    assert_eq!(on_admin("PUT", &uri.replace("denied", "other")).await.0, 404);
    for method in ["GET", "PUT", "DELETE"] {
        assert_eq!(send(server.public(), method, &uri, &[], "").await.status(), 404, "the public has no say");
    }
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
