//! The bridge: a hybrid peer that joins a swarm on its web side and its native side and passes verified pieces across.
//!
//! One door for peers: every remote peer, WebRTC, TCP or uTP, whoever dialled, is greeted by [`door`] and then spliced to the
//! torrent engine over loopback. The engine never dials, never announces and never sees an outside address.
//!
//! ```text
//!  tracker ── offers ──► web ─┐                     ┌─ hold: metadata both ways
//!  listener ── TCP, uTP ──────┼──► door (a peer) ───┤
//!  DHT, tracker ──► dialler ──┘                     └─ splice ── loopback ──► engine ── storage ──► disk
//!                  └── torrent: the life of one, in joined: the table of all ──┘           └── cache
//! ```
//!
//! What others may ask of it: [`Bridge::pin`] keeps a torrent for good, [`Bridge::seed`] and [`Bridge::download`] are for
//! commands, [`Bridge::progress`] tells how far any joined torrent is, [`Bridge::content`] reads its files.
//!
//! The room knows the DHT (whom to dial), the tracker (whose offers to answer) and gossip, which it gives a voice in every
//! swarm, and topic swarms of its own, in which there is no torrent. It does not know records: whether a
//! record points to a torrent is a function it is handed.

mod cache;
mod candidates;
mod contacts;
mod content;
mod dialler;
mod door;
mod engine;
mod error;
mod fetches;
mod handles;
mod joined;
mod liars;
mod listener;
mod metadata;
mod mse;
mod other_trackers;
mod outgoing;
mod pieces;
mod policy;
mod portmap;
mod progress;
#[cfg(test)]
mod puppet;
mod resume;
pub mod rtc;
mod silent;
mod stage;
mod storage;
pub mod stun;
mod swarm;
#[cfg(test)]
mod tests;
mod topics;
mod torrent;
mod traffic;
mod utp;
mod visitors;
mod ways;
mod web;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::RngExt;
use tokio::sync::Semaphore;

use crate::dht::Dht;
use crate::gossip::Gossip;
use crate::tasks::Tasks;
use crate::tracker::{List, Resident, SilentPage, Tracker, WebAnswer, WebOffer};
use crate::wire::id::{InfoHash, PeerId};
use crate::{config, metrics};
use cache::Cache;
pub use content::{Content, ReadError, Reading};
use dialler::Sources;
use engine::Engine;
pub use error::{StartError, TorrentError};
pub use handles::{Download, Pin, Pinning, Seed, Verified};
use joined::{Joined, Torrent};
use mse::Names;
use outgoing::Connector;
use policy::{Day, Load, Refusal};
use portmap::{Around, Port, Protocol};
pub use progress::{Progress, State};
use rtc::Endpoint;
use silent::Unanswered;
use stage::Stage;
use swarm::{FromPeers, Ourselves, Shared, Swarm};
pub use torrent::Admit;
use torrent::Purpose;
use visitors::Visitors;
use web::Page;

/// What peers are told this is.
const CLIENT: &str = concat!("Swarmgate ", env!("CARGO_PKG_VERSION"));

/// The port of WebRTC peers, in the log.
const WEBRTC: &str = "WebRTC peers";

/// How our peer ids begin (BEP 20): client and version.
const PEER_ID_PREFIX: &[u8; 8] = b"-SG0100-";

/// What the bridge is configured by.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Policy and limits.
    pub bridge: config::Bridge,
    /// The door for TCP and uTP.
    pub bittorrent: config::BitTorrent,
    /// The WebRTC door.
    pub webrtc: config::WebRtc,
}

/// Whether a verified record points to a torrent.
pub type Allowed = Arc<dyn Fn(&InfoHash) -> bool + Send + Sync>;

/// The rooms that the bridge works with.
pub struct Rooms {
    /// Whom to dial, and who is told of us.
    pub dht: Dht,
    /// Absent in commands that have none.
    pub tracker: Option<Tracker>,
    /// Absent where nobody knows records.
    pub gossip: Option<Gossip>,
    /// The `sites` policy.
    pub allowed: Allowed,
}

/// The bridge. Clones are the same bridge.
#[derive(Clone)]
pub struct Bridge {
    inner: Arc<Inner>,
}

struct Inner {
    settings: config::Bridge,
    ourselves: Ourselves,
    allowed: Allowed,
    engine: Engine,
    endpoint: Arc<Endpoint>,
    sources: Sources,
    gossip: Option<Gossip>,
    cache: Arc<Cache>,
    joined: Joined,
    /// By which encrypted peers ask for torrents.
    names: Names,
    encryption: config::Encryption,
    /// Places for peers over all torrents.
    places: Arc<Semaphore>,
    /// Places for announces to the DHT.
    announces: Semaphore,
    /// What bridged torrents may pass on in a day.
    day: Arc<Day>,
    visitors: Arc<Visitors>,
    /// Our offers to pages that make none.
    unanswered: Arc<Unanswered>,
    metrics: metrics::Bridge,
    tasks: Tasks,
}

impl Bridge {
    /// Binds both doors and starts the engine. Torrents that were bridged when the last process ended are joined again;
    /// others in the cache are left alone until somebody asks for them.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        settings: Settings,
        data_dir: PathBuf,
        rooms: Rooms,
        metrics: metrics::Bridge,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let Rooms { dht, tracker, gossip, allowed } = rooms;
        let Settings { bridge: settings, bittorrent, webrtc } = settings;
        let (native, udp) = (bittorrent.listen, webrtc.listen);
        let bound = listener::bind(native, bittorrent.utp, settings.max_peers, tasks).await;
        let bound = bound.and_then(|(tcp, utp)| Ok((tcp.local_addr()?, tcp, utp)));
        let (local, listener, utp) =
            bound.map_err(|source| StartError::Listen { what: "TCP and uTP peers", addr: native, source })?;
        let endpoint = Endpoint::bind(&webrtc, metrics.clone(), tasks).await;
        let endpoint = endpoint.map_err(|source| StartError::Listen { what: "WebRTC peers", addr: udp, source })?;
        let cache = Cache::open(&data_dir, settings.cache_size.as_u64(), metrics.clone());
        let cache = cache.map_err(|source| StartError::DataDir { path: data_dir.clone(), source })?;
        let ourselves = Ourselves { peer_id: new_peer_id(), port: local.port(), utp: utp.is_some() };
        // Twice, since a peer that the engine meets anew is there twice for a moment.
        let engine_peers = settings.max_peers_per_torrent.saturating_mul(2);
        let token = tasks.token().child_token();
        let engine = Engine::start(data_dir.join("engine"), ourselves.peer_id, engine_peers, token).await;
        let engine = engine.map_err(|error| StartError::Engine(error.to_string()))?;
        let neighbours = gossip.as_ref().and_then(|gossip| gossip.local_discovery(local, tasks));
        let connector = Connector::new(utp.clone(), bittorrent.encryption, metrics.clone());
        let names = Names::default();
        cache.torrents().iter().for_each(|info_hash| names.add(info_hash));
        let inner = Arc::new(Inner {
            ourselves,
            allowed,
            engine,
            endpoint,
            sources: Sources { dht, tracker, local: neighbours, listener: local, connector, tasks: tasks.clone() },
            gossip: gossip.clone(),
            cache,
            joined: Joined::default(),
            names,
            encryption: bittorrent.encryption,
            places: Arc::new(Semaphore::new(settings.max_peers)),
            announces: Semaphore::new(torrent::ANNOUNCES),
            visitors: Visitors::new(settings.max_peers_per_address),
            unanswered: Arc::default(),
            day: Arc::new(Day::new(settings.max_bytes_per_day.as_u64())),
            settings,
            metrics,
            tasks: tasks.clone(),
        });
        tasks.spawn_cancellable(listener::run(inner.clone(), listener));
        inner.clone().rejoin();
        if bittorrent.port_mapping {
            inner.clone().map_ports(inner.sources.dht.local_addr(), bittorrent.utp);
        }
        for url in inner.settings.trackers.clone() {
            tasks.spawn_cancellable(other_trackers::run(inner.clone(), url));
        }
        if let Some(utp) = utp {
            tasks.spawn_cancellable(listener::run_utp(inner.clone(), utp));
        }
        if let Some(gossip) = gossip {
            tasks.spawn_cancellable(topics::run(inner.clone(), gossip));
        }
        Ok(Self { inner })
    }

    /// Where native peers reach it, over TCP and uTP.
    #[must_use]
    pub fn bittorrent_addr(&self) -> SocketAddr {
        self.inner.sources.listener
    }

    /// Where WebRTC peers reach it.
    #[must_use]
    pub fn webrtc_addr(&self) -> SocketAddr {
        self.inner.endpoint.local_addr()
    }

    /// How far a torrent is that is joined, for whatever reason.
    #[must_use]
    pub fn progress(&self, info_hash: &InfoHash) -> Option<Progress> {
        self.inner.joined.find(info_hash).map(|torrent| Progress::of(&torrent.swarm))
    }

    /// The files of a torrent that is joined and past its check, for whatever reason; `None` for all others.
    #[must_use]
    pub fn content(&self, info_hash: &InfoHash) -> Option<Content> {
        let torrent = self.inner.joined.find(info_hash)?;
        let stage = torrent.swarm.stage.borrow();
        stage.live().cloned().map(Content::new)
    }

    /// Joins a torrent for the user. Where web peers had it joined, they are let go first: they come back at their next
    /// announce and find the files in their new place.
    async fn take_over(&self, info_hash: InfoHash, purpose: Purpose) -> Result<Torrent, TorrentError> {
        if let Some(torrent) = self.inner.joined.find(&info_hash) {
            if !torrent.bridged {
                return Err(TorrentError::InUse);
            }
            torrent.swarm.token.cancel();
            torrent.ended().await;
        }
        self.inner.joined.join(&self.inner, info_hash, purpose).map_err(|_| TorrentError::InUse)
    }
}

impl Resident for Bridge {
    fn wants(&self, info_hash: &InfoHash) -> bool {
        self.inner.admit(info_hash).is_ok()
    }

    fn offer(&self, offer: WebOffer) {
        self.inner.meet(offer.info_hash, Page::Offers(offer.into()));
    }

    /// Whoever makes no offers in the swarm of a record is told of new versions by the tracker already, and often has no
    /// use for a peer: it is left alone.
    fn silent(&self, page: SilentPage) {
        if self.inner.is_topic(&page.info_hash) {
            return;
        }
        self.inner.meet(page.info_hash, Page::Silent(page.into()));
    }

    fn answered(&self, answer: &WebAnswer<'_>) -> bool {
        self.inner.unanswered.take(answer)
    }
}

impl Inner {
    /// Whether the operator's list, which the tracker keeps, names the torrent.
    fn denies(&self, info_hash: &InfoHash) -> bool {
        self.sources.tracker.as_ref().is_some_and(|tracker| tracker.is_listed(List::Denied, info_hash).is_some())
    }

    fn admit(&self, info_hash: &InfoHash) -> Result<(), Refusal> {
        let load = Load {
            denied: self.denies(info_hash),
            day_full: self.day.add(0, since_1970()),
            ..self.joined.load(info_hash, self.places.available_permits())
        };
        // A topic is joined for its record's sake, whatever torrents are bridged.
        if load.joined && load.free_peers > 0 && !load.denied && self.is_topic(info_hash) {
            return Ok(());
        }
        policy::admit(&self.settings, load, || (self.allowed)(info_hash))
    }

    /// Whether it is the swarm of a record that gossip follows.
    fn is_topic(&self, info_hash: &InfoHash) -> bool {
        self.gossip.as_ref().is_some_and(|gossip| gossip.is_topic(info_hash))
    }

    /// Has a router forward the ports, where there is one.
    fn map_ports(self: Arc<Self>, dht: SocketAddr, utp: bool) {
        let (native, webrtc) = (self.sources.listener, self.endpoint.local_addr());
        let ports = [
            Port::of(Protocol::Tcp, native, "TCP peers"),
            Port::of(Protocol::Udp, native, "uTP peers").filter(|_| utp),
            Port::of(Protocol::Udp, dht, "DHT"),
            Port::of(Protocol::Udp, webrtc, WEBRTC),
        ];
        let (stopping, metrics) = (self.tasks.token().clone(), self.metrics.clone());
        let endpoint = self.endpoint.clone();
        let mapped = move |port: &Port, outside| {
            if port.what == WEBRTC {
                endpoint.reached_at(outside);
            }
        };
        let ports = ports.into_iter().flatten().collect();
        // Not one that is dropped when the node stops: it takes the mappings back.
        self.tasks.spawn(portmap::run(Around::real(), ports, mapped, metrics, stopping));
    }

    /// Joins what was bridged when the last process ended, orderly or not: its peers come back and find it.
    fn rejoin(self: Arc<Self>) {
        let before = self.cache.joined_before().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell which torrents were joined before");
            Vec::new()
        });
        for info_hash in before {
            if self.admit(&info_hash).is_ok() {
                // An error says that somebody was quicker.
                let _ = self.joined.join(&self, info_hash, Purpose::Bridge);
            }
        }
    }

    /// Brings a page to its torrent, which is joined for it if need be.
    fn meet(self: &Arc<Self>, info_hash: InfoHash, page: Page) {
        if let Err(refusal) = self.admit(&info_hash) {
            return self.metrics.offers.with_label_values(&[refusal.label()]).inc();
        }
        let torrent = self.joined.join(self, info_hash, Purpose::Bridge).unwrap_or_else(|joined| joined);
        if torrent.pages.try_send(page).is_err() {
            self.metrics.offers.with_label_values(&["flood"]).inc();
        }
    }

    fn new_swarm(&self, info_hash: InfoHash, stage: Stage, bridged: bool) -> (Arc<Swarm>, FromPeers) {
        let token = self.tasks.token().child_token();
        let day = bridged.then(|| self.day.clone());
        let (places, gossip, metrics) = (self.places.clone(), self.gossip.clone(), self.metrics.clone());
        let shared = Shared { places, day, visitors: self.visitors.clone(), gossip, metrics };
        Swarm::new(info_hash, self.ourselves, stage, &self.settings, shared, token)
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn new_peer_id() -> PeerId {
    let mut id: [u8; 20] = rand::rng().random();
    id[..8].copy_from_slice(PEER_ID_PREFIX);
    PeerId(id)
}
