//! The tracker: introduces web peers to each other over WebSocket, and native peers over HTTP and UDP.
//!
//! One swarm table serves all doors, so web and native peers of a torrent are counted together. The table is split into
//! shards by info hash, each behind a lock that is held for microseconds; a socket's session parses what it reads, has
//! the shard that owns the swarm take it, and writes what others put into its [`Outbox`]. Nobody holds a lock and waits.
//!
//! The room knows nothing of records, the DHT or the bridge. Those reach it through two traits: [`Extension`] takes the
//! messages that are not the tracker's, [`Resident`] meets web peers of swarms that somebody in this process is in.

mod access;
mod admission;
mod completed;
mod connection;
mod counters;
mod dense;
mod frames;
mod http;
mod outbox;
mod shard;
mod sockets;
mod swarm;
mod table;
mod udp;
mod upgrade;
mod ws;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UdpSocket};

use self::access::Access;
use self::admission::Admission;
use self::completed::Recorder;
use self::connection::{Connection, Terms};
use self::counters::Counters;
use self::shard::Shards;
use self::sockets::Sockets;
use self::table::{Downloads, NativeQuestion, SocketId};
use self::ws::Session;
use crate::tasks::Tasks;
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::tracker::{Counts, Refusal};
use crate::wire::tracker_ws::{Description, Message, Offer, OfferId};
use crate::{config, metrics};

pub use access::{ChangeError, LineError, List, ListError, Origin};
pub use completed::FILE;
pub use frames::Late;
pub use outbox::Outbox;
pub use table::Stats;

/// Somebody inside this process who wants to meet the web peers of some swarms (the bridge).
pub trait Resident: Send + Sync + 'static {
    /// Whether pages of this swarm are welcome. Called at each web announce: cheap and synchronous.
    fn wants(&self, info_hash: &InfoHash) -> bool;

    /// Takes one offer of the announcing page. Never blocks; may drop it. At most one offer of each announce comes here.
    fn offer(&self, offer: WebOffer);

    /// A page announced itself that has made no offer so far: it can be met only by an offer to it. Never blocks.
    fn silent(&self, page: SilentPage);

    /// Takes a page's answer, if it is to an offer of the resident's. Whether it was.
    fn answered(&self, answer: &WebAnswer<'_>) -> bool;
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

/// A page that makes no offers.
#[derive(Debug)]
pub struct SilentPage {
    /// The swarm.
    pub info_hash: InfoHash,
    /// The page.
    pub peer_id: PeerId,
    /// Where an offer to it goes.
    pub offer: OfferTo,
    /// The address the page's socket came from.
    pub from: IpAddr,
}

/// The way to a page that is to be offered a connection.
#[derive(Debug)]
pub struct OfferTo {
    outbox: Outbox,
    info_hash: InfoHash,
}

impl OfferTo {
    /// Sends an offer, as any web peer's is passed on. `peer_id` is the offerer's. Whether there was room for it.
    #[must_use]
    pub fn send(self, peer_id: PeerId, id: OfferId, sdp: &str) -> bool {
        let Self { outbox, info_hash } = self;
        let offer = Offer { id, description: Description::offer(sdp) };
        outbox.send_offer(&Message::Offer { info_hash, peer_id, offer })
    }
}

/// An answer that no web peer waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebAnswer<'a> {
    /// The swarm.
    pub info_hash: InfoHash,
    /// Who answers.
    pub peer_id: PeerId,
    /// Which offer.
    pub offer_id: OfferId,
    /// The session description.
    pub answer: Description<'a>,
}

/// The way back to the page that made an offer.
#[derive(Debug)]
pub struct AnswerTo {
    outbox: Outbox,
    info_hash: InfoHash,
    offer_id: OfferId,
}

impl AnswerTo {
    /// Relays an answer to the page, as any web peer's answer would be. `peer_id` is the answerer's.
    pub fn send(self, peer_id: PeerId, sdp: &str) {
        let Self { outbox, info_hash, offer_id } = self;
        let answer = Description::answer(sdp);
        if outbox.send_message(&Message::Answer { info_hash, peer_id, offer_id, answer }) {
            outbox.count_resident_answer();
        }
    }
}

/// Makes the [`Extension`] of a socket when it is first needed, which for most sockets is never.
pub trait Extensions: Send + Sync + 'static {
    /// That of one more socket, which comes from this address.
    fn open(&self, from: IpAddr) -> Arc<dyn Extension>;
}

/// Actions on a socket that the tracker itself does not know (`dht_*`).
pub trait Extension: Send + Sync + 'static {
    /// Whether this action is the extension's.
    fn handles(&self, action: &str) -> bool;

    /// Takes one whole frame; replies go through `out`. Called on the socket's own task: what does not wait is done here,
    /// and the rest is returned. That runs as a task of its own, of which a socket has at most [`MAX_IN_FLIGHT`]: past that
    /// it is dropped, and the frame answered with a failure reason.
    fn message(&self, frame: &str, from: IpAddr, out: &Outbox) -> Option<BoxFuture<'static, ()>>;

    /// Takes what an announce said that is not the tracker's, after the announce itself was taken: it brought a peer, or
    /// renewed one. Done, or returned and bounded, as in [`Self::message`].
    fn announced(&self, announced: Announced, out: &Outbox) -> Option<BoxFuture<'static, ()>>;

    /// The last peer of this socket has left the swarm. (When the socket ends, the extension is dropped.)
    fn left(&self, info_hash: &InfoHash);
}

/// An announce that carried a field for the extension, with what the tracker's own reply to it says.
#[derive(Debug)]
pub struct Announced {
    /// The swarm.
    pub info_hash: InfoHash,
    /// The field `bep46`, as JSON text.
    pub bep46: Box<str>,
    /// Seconds until the next announce is expected.
    pub interval: u64,
    /// The swarm's counts.
    pub counts: Counts,
    /// The address the socket came from.
    pub from: IpAddr,
}

/// Extension messages that one socket may have in flight.
pub const MAX_IN_FLIGHT: usize = 32;

/// Why the tracker cannot start: one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A list of the operator's.
    #[error(transparent)]
    List(#[from] ListError),
    /// The file of completed downloads.
    #[error("cannot use tracker.sqlite in the data directory: {0}")]
    Completed(#[from] rusqlite::Error),
}

/// The tracker. Clones are the same tracker.
#[derive(Clone)]
pub struct Tracker {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Tracker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracker").field("table", &self.inner.shards.stats()).finish_non_exhaustive()
    }
}

struct Inner {
    settings: config::Tracker,
    metrics: Arc<metrics::Tracker>,
    tasks: Tasks,
    resident: ResidentSlot,
    shards: Shards,
    access: Access,
    admission: Admission,
    sockets: Sockets,
    counters: Arc<Counters>,
    next_socket: AtomicU64,
}

/// Where the resident will be, once it is there.
type ResidentSlot = Arc<OnceLock<Arc<dyn Resident>>>;

impl Tracker {
    /// Starts the tracker with what it kept in `data_dir`. The doors are opened by whoever owns the listeners: see
    /// [`Self::upgrade`], [`Self::http_announce`], [`Self::serve_udp`].
    ///
    /// # Errors
    /// A list of info hashes or passkeys, or the kept counts, cannot be read.
    pub fn open(
        settings: &config::Tracker,
        data_dir: &Path,
        metrics: metrics::Tracker,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let access = Access::open(settings, data_dir.to_owned())?;
        access.watch(tasks);
        let completed = completed::open(data_dir, settings.max_completed, tasks)?;
        Ok(Self::with(settings, access, completed, metrics, tasks))
    }

    /// As [`Self::open`], but open to all, and nothing is kept.
    #[must_use]
    pub fn start(settings: &config::Tracker, metrics: metrics::Tracker, tasks: &Tasks) -> Self {
        Self::with(settings, Access::in_memory(), Default::default(), metrics, tasks)
    }

    fn with(
        settings: &config::Tracker,
        access: Access,
        completed: (Vec<Downloads>, Recorder),
        metrics: metrics::Tracker,
        tasks: &Tasks,
    ) -> Self {
        let (metrics, counters) = (Arc::new(metrics.clone()), Arc::new(Counters::new(&metrics)));
        let resident = ResidentSlot::default();
        let inner = Inner {
            shards: Shards::start(settings, &resident, (&metrics, &counters), completed, tasks),
            sockets: Sockets::watched(tasks),
            counters,
            access,
            admission: Admission::new(settings, metrics.clone()),
            settings: settings.clone(),
            metrics,
            tasks: tasks.clone(),
            resident,
            next_socket: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Names the resident. Once, after start: the bridge needs the tracker and the tracker the bridge.
    pub fn set_resident(&self, resident: Arc<dyn Resident>) {
        let first = self.inner.resident.set(resident).is_ok();
        debug_assert!(first, "one resident per tracker");
    }

    /// Answers a request for a WebSocket, and serves it in a task of the node's until it closes or the node stops.
    /// `from` is the client's address as the operator wants it seen (behind a proxy, not the proxy's).
    /// `Io` is the connection that hyper serves.
    pub fn upgrade<Io>(&self, mut request: Request, from: IpAddr, extensions: Arc<dyn Extensions>) -> Response
    where
        Io: AsyncRead + AsyncWrite + Into<TcpStream> + Unpin + Send + 'static,
    {
        let (response, upgrade, deflate) = match upgrade::handshake(&mut request, self.inner.settings.compression) {
            Ok(accepted) => accepted,
            Err(refused) => return refused.into_response(),
        };
        let inner = self.inner.clone();
        // Two tasks, so that the one that lives as long as the socket is no larger than it must be.
        self.inner.tasks.spawn_cancellable(async move {
            let Some((stream, early)) = upgrade::upgraded::<Io>(upgrade).await else { return };
            let (tasks, from) = (inner.tasks.clone(), from.to_canonical());
            let max_message = usize::try_from(inner.settings.max_message_size.as_u64()).unwrap_or(usize::MAX);
            let connection = Connection::new(stream, early, Terms { max_message, deflate });
            if inner.admission.admit(from) {
                let id = SocketId(inner.next_socket.fetch_add(1, Ordering::Relaxed));
                tasks.spawn(Session::new(inner, extensions, connection, (id, from)).run());
            } else {
                ws::turn_away(connection, &tasks);
            }
        });
        response
    }

    /// Answers an announce (BEP 3, 7, 23): the bencoded body, failures too. `query` is the raw query string.
    #[must_use]
    pub fn http_announce(&self, path: &str, query: &str, from: IpAddr) -> Vec<u8> {
        http::announce(&self.inner, path, query, from.to_canonical())
    }

    /// Answers a scrape (BEP 48): the bencoded body, failures too.
    #[must_use]
    pub fn http_scrape(&self, path: &str, query: &str) -> Vec<u8> {
        http::scrape(&self.inner, path, query)
    }

    /// Whether a WebSocket that asks for this address may be opened: on a private tracker it needs a passkey.
    #[must_use]
    pub fn admits(&self, path: &str, query: &str) -> bool {
        self.inner.check_client(path, query).is_ok()
    }

    /// Serves the UDP tracker (BEP 15) on `socket` until the node stops.
    pub async fn serve_udp(&self, socket: UdpSocket) {
        udp::serve(self.inner.clone(), socket).await;
    }

    /// Addresses of native peers of a swarm, chosen at random. Each announced itself from that address.
    #[must_use]
    pub fn native_peers(&self, info_hash: InfoHash, max: usize) -> Vec<SocketAddr> {
        self.inner.shards.native_peers(&info_hash, max)
    }

    /// What is on a list, sorted, and who put it there.
    #[must_use]
    pub fn listed(&self, list: List) -> Vec<(InfoHash, Origin)> {
        self.inner.access.entries(list)
    }

    /// Whether an info hash is on a list, and who put it there.
    #[must_use]
    pub fn is_listed(&self, list: List, info_hash: &InfoHash) -> Option<Origin> {
        self.inner.access.origin(list, info_hash)
    }

    /// Puts an info hash on a list. Its peers are refused from now on, and those it has expire.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn list(&self, list: List, info_hash: InfoHash) -> Result<(), ChangeError> {
        self.inner.access.add(list, info_hash).await
    }

    /// Takes an info hash off a list.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn unlist(&self, list: List, info_hash: InfoHash) -> Result<(), ChangeError> {
        self.inner.access.remove(list, info_hash).await
    }

    /// Reads the operator's lists again.
    ///
    /// # Errors
    /// A list that makes no sense: all stay as they were, and the log says so too.
    pub async fn reload(&self) -> Result<(), ListError> {
        self.inner.access.reload().await
    }

    /// How much there is in the table now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.shards.stats()
    }
}

impl Inner {
    /// Counts an announce that is refused, by the rule that it met.
    fn refused<E>(&self, rule: &str, why: E) -> E {
        self.metrics.not_taken.with_label_values(&[rule]).inc();
        why
    }

    fn check_client(&self, path: &str, query: &str) -> Result<(), Refusal> {
        self.access.client(path, query).map_err(|why| self.refused("passkey", why))
    }

    /// Whether an address may announce again already.
    fn check_pace(&self, from: IpAddr) -> Result<(), Refusal> {
        match self.admission.announce(Instant::now(), from) {
            true => Ok(()),
            false => Err(self.refused("pace", Refusal::TooOften)),
        }
    }

    fn check_torrent(&self, info_hash: &InfoHash) -> Result<(), Refusal> {
        self.access.torrent(info_hash).map_err(|why| self.refused("torrent", why))
    }

    /// Announces a native peer whose request has passed the checks.
    fn native(
        &self,
        question: &NativeQuestion<'_>,
        found: &mut impl FnMut(SocketAddr, PeerId),
    ) -> Result<Counts, Refusal> {
        let admit = || self.admission.bring_native(Instant::now(), question.ip);
        self.shards.native(question, admit, found).map_err(|why| {
            let rule = if why == Refusal::TrackerFull { "table_full" } else { "address_peers" };
            self.refused(rule, why)
        })
    }
}

/// Peers named to a native client that does not say how many it wants.
const PEERS: usize = 50;

/// Most peers named in one reply.
const MAX_PEERS: usize = 200;

fn native_peers_wanted(numwant: Option<usize>) -> usize {
    numwant.unwrap_or(PEERS).min(MAX_PEERS)
}

#[cfg(test)]
mod tests;
