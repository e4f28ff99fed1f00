//! The tracker: introduces web peers to each other over WebSocket, and native peers over HTTP and UDP.
//!
//! One swarm table serves all doors, so web and native peers of a torrent are counted together. The table is split into
//! shards by info hash, each owned by one task; a socket's session parses what it reads, asks the shard that owns the
//! swarm, and writes what the shards put into its [`Outbox`]. Sessions never wait for one another.
//!
//! The room knows nothing of records, the DHT or the bridge. Those reach it through two traits: [`Extension`] takes the
//! messages that are not the tracker's, [`Resident`] takes offers of web peers that somebody in this process wants to meet.

mod outbox;
mod swarm;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use futures_util::future::BoxFuture;
use tokio::net::UdpSocket;

use crate::tasks::Tasks;
use crate::wire::id::{InfoHash, PeerId};
use crate::{config, metrics};

pub use outbox::Outbox;

/// Somebody inside this process who wants to meet the web peers of some swarms (the bridge).
pub trait Resident: Send + Sync + 'static {
    /// Whether offers of this swarm are welcome. Called at each web announce that carries offers: cheap and synchronous.
    fn wants(&self, info_hash: &InfoHash) -> bool;

    /// Takes one offer of the announcing page. Never blocks; may drop it. At most one offer of each announce comes here.
    fn offer(&self, offer: WebOffer);
}

/// An offer that a page made.
#[derive(Debug)]
pub struct WebOffer {
    /// The swarm.
    pub info_hash: InfoHash,
    /// The page.
    pub peer_id: PeerId,
    /// The session description, decoded.
    pub sdp: String,
    /// Where the answer goes.
    pub answer: AnswerTo,
    /// The address the page's socket came from.
    pub from: IpAddr,
}

/// The way back to the page that made an offer.
#[derive(Debug)]
pub struct AnswerTo {
    outbox: Outbox,
}

impl AnswerTo {
    /// Relays an answer to the page, as any web peer's answer would be. `peer_id` is the answerer's.
    pub fn send(self, peer_id: PeerId, sdp: &str) {
        let _ = (peer_id, sdp, self.outbox);
    }
}

/// Actions on a socket that the tracker itself does not know (`dht_*`).
pub trait Extension: Send + Sync + 'static {
    /// Whether this action is the extension's.
    fn handles(&self, action: &str) -> bool;

    /// Takes one whole frame; replies go through `out`. Runs as a task of its own. At most [`MAX_IN_FLIGHT`] run for one
    /// socket; a frame past that is answered with a failure reason and does not come here.
    fn message(&self, frame: String, from: IpAddr, out: Outbox) -> BoxFuture<'static, ()>;
}

/// Extension messages that one socket may have in flight.
pub const MAX_IN_FLIGHT: usize = 32;

/// How much there is in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Swarms with at least one peer.
    pub swarms: usize,
    /// Memberships of web peers.
    pub web_peers: usize,
    /// Memberships of native peers.
    pub native_peers: usize,
}

/// The tracker. Clones are the same tracker.
#[derive(Clone)]
pub struct Tracker {
    inner: Arc<Inner>,
}

struct Inner {
    settings: config::Tracker,
    metrics: metrics::Tracker,
    tasks: Tasks,
    resident: OnceLock<Arc<dyn Resident>>,
}

impl Tracker {
    /// Starts the shards. The doors are opened by whoever owns the listeners: see [`Self::serve_socket`],
    /// [`Self::http_announce`], [`Self::serve_udp`].
    #[must_use]
    pub fn start(settings: &config::Tracker, metrics: metrics::Tracker, tasks: &Tasks) -> Self {
        let inner = Inner { settings: settings.clone(), metrics, tasks: tasks.clone(), resident: OnceLock::new() };
        Self { inner: Arc::new(inner) }
    }

    /// Names the resident. Once, after start: the bridge needs the tracker and the tracker the bridge.
    pub fn set_resident(&self, resident: Arc<dyn Resident>) {
        let first = self.inner.resident.set(resident).is_ok();
        debug_assert!(first, "one resident per tracker");
    }

    /// Sets the limits of a WebSocket before it is upgraded. Every upgrade that ends in [`Self::serve_socket`] needs it:
    /// without it each connection costs a 128 KiB read buffer and accepts messages of 64 MiB.
    #[must_use]
    pub fn prepare(&self, upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
        upgrade.max_message_size(self.inner.settings.max_message_size.as_u64() as usize)
    }

    /// Serves one WebSocket until it closes or the node stops. `from` is the client's address as the operator wants it
    /// seen (behind a proxy, not the proxy's).
    pub async fn serve_socket(&self, socket: WebSocket, from: IpAddr, extension: Arc<dyn Extension>) {
        let _ = (socket, from, extension, &self.inner.tasks, &self.inner.metrics);
    }

    /// Answers `GET /announce` (BEP 3, 7, 23): the bencoded body, failures too. `query` is the raw query string.
    pub async fn http_announce(&self, query: &str, from: IpAddr) -> Vec<u8> {
        let _ = (query, from);
        Vec::new()
    }

    /// Answers `GET /scrape` (BEP 48): the bencoded body, failures too.
    pub async fn http_scrape(&self, query: &str) -> Vec<u8> {
        let _ = query;
        Vec::new()
    }

    /// Serves the UDP tracker (BEP 15) on `socket` until the node stops.
    pub async fn serve_udp(&self, socket: UdpSocket) {
        let _ = socket;
    }

    /// Addresses of native peers of a swarm, chosen at random. Each announced itself from that address.
    pub async fn native_peers(&self, info_hash: InfoHash, max: usize) -> Vec<SocketAddr> {
        let _ = (info_hash, max);
        Vec::new()
    }

    /// How much there is in the table now.
    pub async fn stats(&self) -> Stats {
        Stats::default()
    }
}
