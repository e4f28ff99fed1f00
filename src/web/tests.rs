//! The doors over a DHT in memory: through the routers, and through a port where the connection itself matters.

mod following;
mod limits;
mod listener;
mod operator;
mod pages;
mod records;

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
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
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
        let ice = Ice::new(&config::WebRtc::default(), None);
        let rooms = Rooms { tracker, records, dht, ice, metrics, tasks, pins: None };
        Self { rooms, network, _directory: directory }
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
        self.page_from("127.0.0.1").await
    }

    /// A page whose address is this: as a proxy on the same machine says, which the server trusts.
    async fn page_from(&self, address: &str) -> Page {
        page_at(self.listen_with(&behind_a_proxy()).await, address).await
    }

    /// The value of a metric, 0 of one with labels that was never counted.
    fn metric(&self, name: &str) -> u64 {
        let text = self.rooms.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        assert!(line.is_some() || name.contains('{'), "there is no metric {name}");
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// A port that the public listener serves.
    async fn listen(&self) -> SocketAddr {
        self.listen_with(&config::Web::default()).await
    }

    async fn listen_with(&self, settings: &config::Web) -> SocketAddr {
        self.listen_with_router(self.public_with(settings), settings).await
    }

    async fn listen_with_router(&self, router: Router, settings: &config::Web) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        serve(listener, router, Clients::of(settings, self.rooms.metrics.web.clone()), &self.rooms.tasks);
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

    /// Asks something that is answered at once: what was sent before has been dealt with by then, and all that came of it
    /// has arrived. Returns that.
    async fn settle(&mut self) -> Vec<Value> {
        let mut came = vec![self.ask(json!({"action": "dht_info", "id": "settle"})).await];
        while came.last().is_some_and(|last| last["id"] != "settle") {
            came.push(self.receive().await);
        }
        came.pop();
        came
    }
}

/// The operator's proxy runs on the same machine.
fn behind_a_proxy() -> config::Web {
    config::Web { trusted_proxies: vec!["127.0.0.1".parse().unwrap()], ..config::Web::default() }
}

/// A page whose address is this, as the proxy says.
async fn page_at(server: SocketAddr, address: &str) -> Page {
    let mut request = format!("ws://{server}/announce").into_client_request().unwrap();
    request.headers_mut().insert("x-forwarded-for", address.parse().unwrap());
    Page { socket: tokio_tungstenite::connect_async(request).await.unwrap().0 }
}

async fn send(
    router: Router,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Response<Body> {
    send_from("192.0.2.1", router, method, uri, headers, body).await
}

async fn send_from(
    address: &str,
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
    request.extensions_mut().insert(ConnectInfo(SocketAddr::new(address.parse().unwrap(), 5)));
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

/// A target as the info hash of an announce.
fn latin1(item: &VerifiedItem) -> String {
    item.target().0.iter().map(|&byte| char::from(byte)).collect()
}

fn with(mut value: Value, field: &str, other: impl Into<Value>) -> Value {
    value[field] = other.into();
    value
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
