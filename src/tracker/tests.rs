//! The tracker behind real sockets.

use std::sync::Mutex;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header::UPGRADE;
use axum::routing::get;
use futures_util::{FutureExt, SinkExt, StreamExt};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::Message as ClientFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::*;
use crate::wire::id::to_latin1;

mod churn;
mod native;
mod web;

/// Long enough for a busy machine; nothing waits for it to pass.
const DEADLINE: Duration = Duration::from_secs(20);

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(DEADLINE, what).await.expect("this should not take so long")
}

/// A tracker behind axum on a free port of loopback.
struct Server {
    addr: SocketAddr,
    tracker: Tracker,
    tasks: Tasks,
    metrics: metrics::Tracker,
    extension: Arc<TestExtension>,
    data_dir: TempDir,
}

impl Server {
    async fn start() -> Self {
        Self::with(config::Tracker::default()).await
    }

    async fn with(settings: config::Tracker) -> Self {
        let (tasks, metrics) = (Tasks::new(), metrics::Tracker::detached());
        let data_dir = tempfile::tempdir().unwrap();
        let tracker = Tracker::open(&settings, data_dir.path(), metrics.clone(), &tasks).unwrap();
        let extension = Arc::new(TestExtension { hold: Arc::new(Semaphore::new(0)), left: Mutex::default() });
        let app = Router::new()
            .route("/announce", get(announce))
            .route("/scrape", get(scrape))
            .with_state(Doors { tracker: tracker.clone(), extension: extension.clone() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let all = tasks.clone();
        tasks.spawn_cancellable(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let service = TowerToHyperService::new(app.clone());
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                all.spawn_cancellable(async move { drop(connection.with_upgrades().await) });
            }
        });
        Self { addr, tracker, tasks, metrics, extension, data_dir }
    }

    async fn page(&self) -> Page {
        self.page_at("127.0.0.1").await
    }

    /// A page whose address is this one, as a proxy would say.
    async fn page_at(&self, ip: &str) -> Page {
        let url = format!("ws://{}/announce?from={ip}", self.addr);
        let (socket, _) = within(tokio_tungstenite::connect_async_with_config(url, None, true)).await.unwrap();
        Page { socket }
    }

    /// Waits until the table holds this much. Between two looks everybody else has had a turn.
    async fn until_there_are(&self, web_peers: usize) {
        let probe = async {
            while self.tracker.stats().web_peers != web_peers {
                tokio::task::yield_now().await;
            }
        };
        within(probe).await;
    }
}

#[derive(Clone)]
struct Doors {
    tracker: Tracker,
    extension: Arc<TestExtension>,
}

async fn announce(
    State(Doors { tracker, extension }): State<Doors>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let query = query.unwrap_or_default();
    let from = query.strip_prefix("from=").map_or(IpAddr::from([127, 0, 0, 1]), |ip| ip.parse().unwrap());
    if request.headers().contains_key(UPGRADE) {
        return tracker.upgrade::<TcpStream>(request, from, Arc::new(TestExtensions(extension)));
    }
    tracker.http_announce("/announce", &query, from).into_response()
}

async fn scrape(State(doors): State<Doors>, RawQuery(query): RawQuery) -> Vec<u8> {
    doors.tracker.http_scrape("/scrape", &query.unwrap_or_default())
}

/// Handles `test_echo`, `test_hold` (answers once it is let) and `test_flood`.
struct TestExtension {
    hold: Arc<Semaphore>,
    left: Mutex<Vec<InfoHash>>,
}

/// The same one for every socket.
struct TestExtensions(Arc<TestExtension>);

impl Extensions for TestExtensions {
    fn open(&self, _: IpAddr) -> Arc<dyn Extension> {
        self.0.clone()
    }
}

impl Extension for TestExtension {
    fn handles(&self, action: &str) -> bool {
        action.starts_with("test_")
    }

    fn message(&self, frame: &str, from: IpAddr, out: &Outbox) -> Option<BoxFuture<'static, ()>> {
        let request: Value = serde_json::from_str(frame).unwrap();
        let reply = json!({"action": request["action"], "id": request["id"], "from": from}).to_string();
        let (hold, out) = (self.hold.clone(), out.clone());
        if request["action"] == "test_hold" {
            let held = async move {
                hold.acquire().await.unwrap().forget();
                out.send(reply);
            };
            return Some(held.boxed());
        }
        if request["action"] == "test_flood" {
            let frame = "x".repeat(100_000);
            while out.send(&frame) {}
        }
        out.send(reply);
        None
    }

    fn announced(&self, announced: Announced, out: &Outbox) -> Option<BoxFuture<'static, ()>> {
        let Announced { bep46, interval, counts, from, .. } = announced;
        let said = json!({"bep46": &*bep46, "interval": interval, "incomplete": counts.incomplete, "from": from});
        let out = out.clone();
        Some(Box::pin(async move {
            out.send(said.to_string());
        }))
    }

    fn left(&self, info_hash: &InfoHash) {
        self.left.lock().unwrap().push(*info_hash);
    }
}

/// A resident that meets the pages of one swarm.
struct TestResident {
    wants: InfoHash,
    offers: Mutex<Vec<WebOffer>>,
    silent: Mutex<Vec<SilentPage>>,
    answers: Mutex<Vec<(PeerId, Option<String>)>>,
}

impl TestResident {
    fn of(wants: InfoHash) -> Arc<Self> {
        let (offers, silent, answers) = Default::default();
        Arc::new(Self { wants, offers, silent, answers })
    }
}

impl Resident for TestResident {
    fn wants(&self, info_hash: &InfoHash) -> bool {
        *info_hash == self.wants
    }

    fn offer(&self, offer: WebOffer) {
        self.offers.lock().unwrap().push(offer);
    }

    fn silent(&self, page: SilentPage) {
        self.silent.lock().unwrap().push(page);
    }

    fn answered(&self, answer: &WebAnswer<'_>) -> bool {
        let is_ours = answer.offer_id == OfferId([50; 20]);
        if is_ours {
            self.answers.lock().unwrap().push((answer.peer_id, answer.answer.sdp()));
        }
        is_ours
    }
}

/// A page with one socket.
struct Page {
    socket: tokio_tungstenite::WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>,
}

impl Page {
    async fn send(&mut self, frame: impl Into<String>) {
        within(self.socket.send(ClientFrame::text(frame.into()))).await.unwrap();
    }

    async fn receive(&mut self) -> Value {
        loop {
            match within(self.socket.next()).await {
                Some(Ok(ClientFrame::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(ClientFrame::Ping(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn ask(&mut self, request: Value) -> Value {
        self.send(request.to_string()).await;
        self.receive().await
    }

    /// Reads up to the end of the connection; the code it was closed with.
    async fn closed(&mut self) -> Option<CloseCode> {
        let mut code = None;
        while let Some(Ok(frame)) = within(self.socket.next()).await {
            if let ClientFrame::Close(Some(frame)) = frame {
                code = Some(frame.code);
            }
        }
        code
    }
}

fn id(n: u8) -> Value {
    Value::String(to_latin1(&[n; 20]))
}

/// An announce of peer `peer` in swarm `hash`, with offers named `offers`.
fn announcement(hash: u8, peer: u8, offers: &[u8]) -> Value {
    let offer = |n: &u8| json!({"offer": {"type": "offer", "sdp": format!("offer {n}\r\n")}, "offer_id": id(*n)});
    let offers: Vec<Value> = offers.iter().map(offer).collect();
    json!({"action": "announce", "info_hash": id(hash), "peer_id": id(peer), "numwant": 5, "offers": offers})
}

fn announced(hash: u8, complete: usize, incomplete: usize) -> Value {
    json!({"action": "announce", "info_hash": id(hash), "interval": 120, "complete": complete, "incomplete": incomplete})
}
