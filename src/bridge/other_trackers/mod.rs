//! Other WebSocket trackers, where readers of what is here may be: a client of each that the operator names.
//!
//! Each has a task with one connection, which is made again when it ends. Announced is what is here and meant for others:
//! torrents with pieces on disk that are not private, and no topics. Pages' offers are answered as those that come through
//! our own tracker. A page that was there before us
//! does not offer to us, nor does one that makes no offers at all. So a torrent's announce carries a few offers of ours the
//! first time, and later when the tracker counts more peers than have come; not always, since a page and we had better not
//! offer to each other at the same time.

mod book;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::RngExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::Inner;
use super::rtc::{OFFER_LIMIT, OfferPending};
use super::web::{self, Offer, Page};
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::tracker_client::{self, Announcing, Told};
use crate::wire::tracker_ws::OfferId;
use book::{Book, Due};

/// How long a tracker may take to let us in, and to take a message.
const PATIENCE: Duration = Duration::from_secs(20);

/// Wait before a connection is made again; it doubles up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// A connection that lasted this long was a good one: the next wait is the shortest again.
const GOOD: Duration = Duration::from_secs(120);

/// How often it is looked what is to be announced.
const TICK: Duration = Duration::from_secs(2);

/// How often the tracker is pinged.
const PING: Duration = Duration::from_secs(50);

/// How long it may say nothing, not even to a ping.
const SILENCE: Duration = Duration::from_secs(150);

/// Torrents announced at one tracker.
const MAX_TORRENTS: usize = 1_000;

/// Offers of ours that wait for an answer at one tracker. Each takes memory as a connection does, and a place among
/// [`super::rtc::MAX_ATTEMPTS`].
const MAX_WAITING: usize = 12;

/// Answers to pages that may wait for the socket; past it they are dropped, and the page offers again.
const ANSWERS: usize = 32;

/// Where pages are that come through these trackers, which do not say it: what bounds one address bounds them all together.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Longest message taken; an offer has some 2 KB.
const MAX_MESSAGE: usize = 64 << 10;

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error("{0}")]
    Socket(#[from] Box<tungstenite::Error>),
    #[error("it does not answer")]
    Silent,
    #[error("it closed the connection")]
    Closed,
}

impl Ending {
    /// The metrics' label.
    fn label(&self) -> &'static str {
        match self {
            Self::Socket(_) => "failed",
            Self::Silent => "silent",
            Self::Closed => "closed",
        }
    }
}

/// Stays connected to the tracker at `url` for as long as it is polled.
pub(super) async fn run(bridge: Arc<Inner>, url: String) {
    let mut wait = RETRY.0;
    loop {
        let began = Instant::now();
        let Err(ending) = visit(&bridge, &url).await;
        bridge.metrics.other_trackers.with_label_values(&[ending.label()]).inc();
        if began.elapsed() >= GOOD {
            wait = RETRY.0;
        }
        tracing::warn!(tracker = url, reason = %ending, again_after = ?wait, "no connection to another tracker");
        // Some way off, so that a tracker that restarts is not met by all its clients at once.
        let jitter = rand::rng().random_range(0.0..0.5);
        sleep(wait.mul_f64(1.0 + jitter)).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

async fn visit(bridge: &Arc<Inner>, url: &str) -> Result<std::convert::Infallible, Ending> {
    let limits = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let connected = timeout(PATIENCE, connect_async_with_config(url, Some(limits), true)).await;
    let (socket, _) = connected.map_err(|_| Ending::Silent)?.map_err(Box::new)?;
    tracing::info!(tracker = url, "connected to another tracker");
    bridge.metrics.other_trackers.with_label_values(&["connected"]).inc();
    let (answers, answers_rx) = mpsc::channel(ANSWERS);
    let client = Client { bridge: bridge.clone(), socket, book: Book::default(), waiting: HashMap::new(), answers };
    client.run(answers_rx).await
}

/// One connection.
struct Client {
    bridge: Arc<Inner>,
    socket: Socket,
    book: Book,
    /// Our offers that no page has answered.
    waiting: HashMap<OfferId, Waiting>,
    answers: mpsc::Sender<String>,
}

struct Waiting {
    info_hash: InfoHash,
    pending: OfferPending,
    since: Instant,
}

impl Client {
    async fn run(mut self, mut answers: mpsc::Receiver<String>) -> Result<std::convert::Infallible, Ending> {
        let mut heard = Instant::now();
        let [mut tick, mut ping] = [TICK, PING].map(interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = self.socket.next() => {
                    heard = Instant::now();
                    match message.ok_or(Ending::Closed)?.map_err(Box::new)? {
                        Message::Text(text) => self.take(&text),
                        Message::Close(_) => return Err(Ending::Closed),
                        // A ping is answered by the library.
                        _ => {}
                    }
                }
                Some(answer) = answers.recv() => self.send(Message::text(answer)).await?,
                _ = tick.tick() => self.announce().await?,
                _ = ping.tick() => {
                    if heard.elapsed() >= SILENCE {
                        return Err(Ending::Silent);
                    }
                    self.send(Message::Ping(bytes::Bytes::new())).await?;
                }
            }
        }
    }

    async fn send(&mut self, message: Message) -> Result<(), Ending> {
        let sent = timeout(PATIENCE, self.socket.send(message)).await;
        Ok(sent.map_err(|_| Ending::Silent)?.map_err(Box::new)?)
    }

    async fn announce(&mut self) -> Result<(), Ending> {
        let now = Instant::now();
        self.waiting.retain(|_, waiting| now - waiting.since < OFFER_LIMIT);
        let shared = self.bridge.joined.shared(MAX_TORRENTS);
        let info_hashes: Vec<_> = shared.iter().map(|(info_hash, _)| *info_hash).collect();
        for due in self.book.due(&info_hashes, now) {
            let (info_hash, event) = match due {
                Due::Start(info_hash) => (info_hash, Some("started")),
                Due::Again(info_hash) => (info_hash, None),
                Due::Stop(info_hash) => (info_hash, Some("stopped")),
            };
            let come = self.bridge.joined.find(&info_hash).map_or(0, |torrent| torrent.swarm.pages());
            let wanted = self.book.offers(due, come);
            let left = shared.iter().find(|(shared, _)| *shared == info_hash).map_or(0, |(_, left)| *left);
            let offers = self.offer(info_hash, wanted).await;
            let peer_id = self.bridge.ourselves.peer_id;
            let announcing = Announcing { info_hash, peer_id, left, event, offers: &offers };
            self.send(Message::text(announcing.encode())).await?;
        }
        Ok(())
    }

    /// Makes offers, as many as there is room for.
    async fn offer(&mut self, info_hash: InfoHash, wanted: usize) -> Vec<(OfferId, String)> {
        let mut offers = Vec::new();
        while offers.len() < wanted && self.waiting.len() < MAX_WAITING {
            let Ok((sdp, pending)) = self.bridge.endpoint.offer().await else { break };
            let id = OfferId(rand::rng().random());
            self.waiting.insert(id, Waiting { info_hash, pending, since: Instant::now() });
            offers.push((id, sdp));
        }
        offers
    }

    fn take(&mut self, frame: &str) {
        match tracker_client::parse(frame) {
            Told::Announced { info_hash, seconds, peers } => {
                self.book.announced(&info_hash, (seconds, peers), Instant::now());
            }
            Told::Offer { info_hash, page, id, sdp } => self.offered(info_hash, page, id, sdp),
            Told::Answer { page, id, sdp } => self.answered(page, &id, &sdp),
            Told::Refused(reason) => tracing::debug!(reason, "another tracker refuses"),
            Told::Other => {}
        }
    }

    /// A page offers: its torrent answers, if it is one that is announced here.
    fn offered(&self, info_hash: InfoHash, page: PeerId, id: OfferId, sdp: String) {
        let Some(torrent) = self.bridge.joined.find(&info_hash).filter(|_| self.book.contains(&info_hash)) else {
            return;
        };
        let answers = self.answers.clone();
        let answer = move |ours, sdp: &str| {
            let _ = answers.try_send(tracker_client::answer(info_hash, ours, page, id, sdp));
        };
        let offer = Offer { page, sdp, answer: Box::new(answer), from: ELSEWHERE };
        if torrent.pages.try_send(Page::Offers(offer)).is_err() {
            self.bridge.metrics.offers.with_label_values(&["flood"]).inc();
        }
    }

    /// A page answers an offer of ours.
    fn answered(&mut self, page: PeerId, id: &OfferId, sdp: &str) {
        let Some(Waiting { info_hash, pending, .. }) = self.waiting.remove(id) else { return };
        let Some(torrent) = self.bridge.joined.find(&info_hash) else { return };
        let swarm = torrent.swarm;
        match swarm.invite(page) {
            // It reaches us by the addresses in our offer; of those it names none is dialled, as with any page.
            Ok(invitation) => match pending.accept(sdp, |_| false) {
                Ok(pending) => {
                    self.bridge.tasks.spawn_cancellable(web::open(swarm, page, pending, invitation));
                }
                Err(error) => tracing::debug!(%page, %error, "a page's answer is of no use"),
            },
            Err(refusal) => swarm.metrics.offers.with_label_values(&[refusal.label()]).inc(),
        }
    }
}
