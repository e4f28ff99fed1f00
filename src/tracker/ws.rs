//! One WebSocket: reads requests, asks the table, writes what is in its outbox.
//!
//! Everything a message asks for is done on the spot, or handed to a task of its own, so a session waits for nothing but
//! its socket. It is a hand-written state machine and not an `async fn`: there may be a hundred thousand of them that do
//! nothing, and this one is a tenth the size.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, timeout};

use super::connection::{Broken, Connection};
use super::frames::Frames;
use super::outbox::{Forced, Inbox};
use super::shard::Socket;
use super::table::SocketId;
use super::{Announced, Extension, Extensions, Inner, MAX_IN_FLIGHT};
use crate::tasks::Tasks;
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::tracker::Refusal;
use crate::wire::tracker_ws::{self, Announce, Failure, Intent, Message, Offer, Other, Reason, Request};
use crate::wire::websocket::{self, CloseCode, Received, Violation};

/// How long one write may take before the reader counts as gone.
const WRITE_DEADLINE: Duration = Duration::from_secs(20);

/// How long a closing socket may take to take the reason.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// Reads in a row before others have a turn: whoever sends announces without a pause, 32 KiB a read, holds a thread for
/// some milliseconds.
const READS_IN_A_ROW: usize = 4;

pub(super) struct Session {
    connection: Connection,
    desk: Desk,
    /// Frames that the system did not take at once. In a box: it is needed for the few that are slow.
    slow: Option<Box<Slow>>,
}

struct Slow {
    frames: Frames,
    deadline: Pin<Box<Sleep>>,
}

/// Where a socket's messages are dealt with.
struct Desk {
    tracker: Arc<Inner>,
    socket: Socket,
    inbox: Inbox,
    /// The peers this socket has announced and not stopped, sorted. (A set would take ten times the space for the one
    /// peer that most have.)
    peers: Vec<(InfoHash, PeerId)>,
    extension: Lazy,
    /// Places for extension messages in flight; made when the first one comes, which for most sockets is never.
    in_flight: Option<Arc<Semaphore>>,
}

/// The socket's extension, once it has been asked for something.
enum Lazy {
    Asleep(Arc<dyn Extensions>),
    Awake(Arc<dyn Extension>),
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client closed, or the connection broke.
    Client(Broken),
    /// It does not read what is sent to it.
    Slow,
    /// Something else ends it.
    Forced(Forced),
}

impl Session {
    /// The session of a socket that was let in.
    pub(super) fn new(
        tracker: Arc<Inner>,
        extensions: Arc<dyn Extensions>,
        connection: Connection,
        (id, from): (SocketId, IpAddr),
    ) -> Self {
        let inbox = Inbox::new(tracker.counters.clone());
        tracker.sockets.open(id, inbox.outbox());
        let socket = Socket { id, from, outbox: inbox.outbox() };
        let extension = Lazy::Asleep(extensions);
        let desk = Desk { tracker, socket, inbox, peers: Vec::new(), extension, in_flight: None };
        Self { connection, desk, slow: None }
    }

    /// Serves the socket until it ends, and takes everything it brought out of the swarms.
    #[allow(clippy::manual_async_fn, reason = "an `async fn` has room for its argument twice")]
    pub(super) fn run(mut self) -> impl Future<Output = ()> + Send {
        async move {
            let end = std::future::poll_fn(|cx| self.poll(cx)).await;
            self.desk.leave();
            self.desk.tracker.metrics.closed.with_label_values(&[end.label()]).inc();
            if let Some(frame) = end.close_frame() {
                farewell(self.connection, frame, &self.desk.tracker.tasks);
            }
        }
    }

    /// Ends come first, then writing, then reading: a client that does not take its replies is not asked for more
    /// requests, and what it sends meanwhile waits in its own kernel.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut reads = 0;
        loop {
            if let Some(slow) = &mut self.slow {
                // A client that is being sent too much meanwhile is not waited for.
                if let Poll::Ready(end) = self.desk.inbox.poll_end(cx) {
                    return Poll::Ready(End::Forced(end));
                }
                if let Err(end) = ready!(slow.poll(&self.connection, cx)) {
                    return Poll::Ready(end);
                }
                self.slow = None;
            }
            match self.desk.inbox.take() {
                Err(end) => return Poll::Ready(End::Forced(end)),
                Ok(frames) if frames.is_empty() => {}
                Ok(frames) => {
                    if let Err(end) = self.write(cx, frames) {
                        return Poll::Ready(end);
                    }
                    continue;
                }
            }
            if reads == READS_IN_A_ROW {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            match self.connection.poll_read(cx, |message| self.desk.hear(message)) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(broken)) => return Poll::Ready(End::Client(broken)),
                Poll::Pending => ready!(self.desk.inbox.poll_ready(cx)),
            }
        }
    }

    /// Writes frames, or has them written as the client takes them.
    fn write(&mut self, cx: &mut Context<'_>, mut frames: Frames) -> Result<(), End> {
        self.connection.prepare(&mut frames);
        match self.connection.poll_write(cx, &mut frames) {
            Poll::Ready(written) => written.map_err(|_| End::Client(Broken::Lost)),
            Poll::Pending => {
                self.slow = Some(Box::new(Slow { frames, deadline: Box::pin(sleep(WRITE_DEADLINE)) }));
                Ok(())
            }
        }
    }
}

impl Slow {
    fn poll(&mut self, connection: &Connection, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        match connection.poll_write(cx, &mut self.frames) {
            Poll::Ready(written) => Poll::Ready(written.map_err(|_| End::Client(Broken::Lost))),
            Poll::Pending => self.deadline.as_mut().poll(cx).map(|()| Err(End::Slow)),
        }
    }
}

/// Closes a connection in a task of its own: what a goodbye takes is not kept ready in every session.
pub(super) fn farewell(connection: Connection, frame: Vec<u8>, tasks: &Tasks) {
    tasks.spawn(async move {
        // The client may be past hearing; it was told.
        let _ = timeout(CLOSE_DEADLINE, connection.finish(frame)).await;
    });
}

/// There is no room for this socket.
pub(super) fn turn_away(connection: Connection, tasks: &Tasks) {
    let frame = websocket::close(Some(CloseCode::TRY_AGAIN_LATER), "too many connections");
    farewell(connection, frame, tasks);
}

impl Desk {
    /// Deals with a message. Breaks off when there is so much to write that it had better be written first.
    fn hear(&mut self, message: Received<'_>) -> ControlFlow<()> {
        self.inbox.heard();
        match message {
            Received::Text(text) => self.request(text),
            // JSON is JSON, whatever the client calls it.
            Received::Binary(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => self.request(text),
                Err(_) => self.refuse(Reason::NotAnObject.into()),
            },
            Received::Ping(payload) => self.socket.outbox.pong(payload),
            // The connection has seen to those two.
            Received::Deflated { .. } | Received::Close(_) | Received::Pong => {}
        }
        if self.inbox.is_filling() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn request(&mut self, text: &str) {
        match tracker_ws::parse(text) {
            Ok(Request::Announce(announce)) => drop(self.announce(announce)),
            Ok(Request::AnnounceWith { announce, bep46 }) => self.announce_with(announce, bep46),
            Ok(Request::Scrape(info_hashes)) => self.scrape(info_hashes),
            Ok(Request::Other(message)) => self.extend(text, message),
            Err(failure) => self.refuse(failure),
        }
    }

    /// Whether the announce was taken.
    fn announce(&mut self, mut announce: Announce<'_>) -> bool {
        let Announce { info_hash, peer_id, ref mut intent } = announce;
        let mut resident = false;
        match intent {
            Intent::Offers { .. } | Intent::Update { .. } => {
                if let Err(reason) = self.enter(info_hash, peer_id) {
                    self.refuse(Failure::of_announce(&info_hash, reason));
                    return false;
                }
                if let Intent::Offers { offers, .. } = intent {
                    self.limit(offers);
                }
                resident = self.tracker.resident.get().is_some_and(|resident| resident.wants(&info_hash));
            }
            Intent::Stop => {
                if let Ok(place) = self.peers.binary_search(&(info_hash, peer_id)) {
                    self.peers.remove(place);
                    self.tracker.admission.take_back(self.socket.from, 1);
                }
                if let Lazy::Awake(extension) = &self.extension
                    && !self.is_in(&info_hash)
                {
                    extension.left(&info_hash);
                }
            }
            Intent::Answer { .. } => {}
        }
        self.tracker.shards.web(&self.socket, announce, resident);
        true
    }

    /// Notes that this socket brings a peer, if it may.
    fn enter(&mut self, info_hash: InfoHash, peer_id: PeerId) -> Result<(), Reason> {
        self.tracker.check_pace(self.socket.from)?;
        self.tracker.check_torrent(&info_hash)?;
        let Err(place) = self.peers.binary_search(&(info_hash, peer_id)) else { return Ok(()) };
        if self.peers.len() >= self.tracker.settings.max_peers_per_socket {
            return Err(self.tracker.refused("socket_peers", Reason::SocketFull));
        }
        if !self.tracker.admission.bring(Instant::now(), self.socket.from) {
            return Err(self.tracker.refused("address_peers", Reason::AddressFull));
        }
        if self.peers.is_empty() {
            self.peers.reserve_exact(1);
        }
        self.peers.insert(place, (info_hash, peer_id));
        Ok(())
    }

    /// Whether this socket brings a peer of the swarm.
    fn is_in(&self, info_hash: &InfoHash) -> bool {
        let place = self.peers.partition_point(|(known, _)| known < info_hash);
        self.peers.get(place).is_some_and(|(known, _)| known == info_hash)
    }

    /// Leaves out the offers that this address may not make yet.
    fn limit(&self, offers: &mut Vec<Offer<'_>>) {
        let made = offers.len();
        offers.truncate(self.tracker.admission.offers(Instant::now(), self.socket.from, made));
        self.tracker.counters.offer_pace.inc_by((made - offers.len()) as u64);
    }

    /// An announce of which a part is the extension's.
    fn announce_with(&mut self, announce: Announce<'_>, bep46: &str) {
        // An answer brings no peer, so it has passed none of the limits; and who stops wants no more.
        let joins = matches!(announce.intent, Intent::Offers { .. } | Intent::Update { .. });
        let info_hash = announce.info_hash;
        if !self.announce(announce) || !joins {
            return;
        }
        let counts = self.tracker.shards.scrape(&info_hash);
        let interval = self.tracker.settings.interval.as_secs().max(1);
        let announced = Announced { info_hash, bep46: bep46.into(), interval, counts, from: self.socket.from };
        let rest = self.extension().announced(announced, &self.socket.outbox);
        if let Some(rest) = rest
            && !self.run_bounded(rest)
        {
            self.refuse(Failure::of_announce(&info_hash, Reason::TooManyInFlight));
        }
    }

    /// A scrape that names no swarm is answered with those of this connection. Elsewhere it means all there are, but the
    /// list of what others share is nobody's business.
    fn scrape(&mut self, mut info_hashes: Vec<InfoHash>) {
        if info_hashes.is_empty() {
            info_hashes = self.peers.iter().map(|(info_hash, _)| *info_hash).collect();
            info_hashes.dedup();
            info_hashes.truncate(tracker_ws::MAX_SCRAPED);
        }
        if info_hashes.is_empty() {
            let action = Some("scrape".to_owned());
            return self.refuse(Failure { action, ..Reason::NothingToScrape.into() });
        }
        let files = info_hashes.iter().map(|info_hash| (*info_hash, self.tracker.shards.scrape(info_hash))).collect();
        self.socket.outbox.send_message(&Message::Scraped(files));
    }

    /// Gives a message that is not the tracker's to the extension. What has to wait does so in a task of its own: the socket
    /// is not held up.
    fn extend(&mut self, text: &str, message: Other) {
        let extension = self.extension();
        if !extension.handles(&message.action) {
            return self.refuse(Failure::of_other(message, Reason::UnknownAction));
        }
        let rest = extension.message(text, self.socket.from, &self.socket.outbox);
        if let Some(rest) = rest
            && !self.run_bounded(rest)
        {
            self.refuse(Failure::of_other(message, Reason::TooManyInFlight));
        }
    }

    fn extension(&mut self) -> Arc<dyn Extension> {
        if let Lazy::Asleep(extensions) = &self.extension {
            self.extension = Lazy::Awake(extensions.open(self.socket.from));
        }
        match &self.extension {
            Lazy::Awake(extension) => extension.clone(),
            Lazy::Asleep(extensions) => extensions.open(self.socket.from),
        }
    }

    /// Runs what the extension does as a task of its own, unless too many run already.
    fn run_bounded(&mut self, handling: BoxFuture<'static, ()>) -> bool {
        let places = self.in_flight.get_or_insert_with(|| Arc::new(Semaphore::new(MAX_IN_FLIGHT)));
        let Ok(place) = places.clone().try_acquire_owned() else { return false };
        self.tracker.tasks.spawn_cancellable(async move {
            handling.await;
            drop(place);
        });
        true
    }

    fn refuse(&self, failure: Failure) {
        self.socket.outbox.send_message(&Message::Failure(failure));
    }

    /// Takes everything the socket brought out of the swarms.
    fn leave(&mut self) {
        let Self { tracker, socket, peers, .. } = self;
        tracker.sockets.close(socket.id);
        tracker.admission.take_back(socket.from, peers.len());
        tracker.admission.release(socket.from);
        tracker.shards.closed(socket.id, std::mem::take(peers));
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            // Whether the client may come in was settled when its socket was opened.
            Refusal::NotServed | Refusal::NoPasskey => Self::NotServed,
            Refusal::TooOften => Self::TooOften,
            Refusal::TrackerFull => Self::TrackerFull,
            Refusal::AddressFull => Self::AddressFull,
        }
    }
}

impl End {
    fn label(self) -> &'static str {
        match self {
            Self::Client(Broken::Violated(Violation::TooLarge)) => "too_large",
            Self::Client(Broken::Violated(_)) => "broken",
            // Pages that are closed or lose their network do not say goodbye.
            Self::Client(_) => "client",
            Self::Slow | Self::Forced(Forced::Overflowed) => "slow",
            Self::Forced(Forced::Silent) => "silent",
            Self::Forced(Forced::Stopping) => "stopping",
        }
    }

    /// What the client is told, unless there is nobody to tell.
    fn close_frame(self) -> Option<Vec<u8>> {
        let (code, reason) = match self {
            Self::Client(Broken::Closed(code)) => return Some(websocket::close(code, "")),
            Self::Client(Broken::Lost) | Self::Forced(Forced::Silent) => return None,
            Self::Client(Broken::Violated(violation)) => {
                return Some(websocket::close(Some(violation.close_code()), &violation.to_string()));
            }
            Self::Slow | Self::Forced(Forced::Overflowed) => {
                (CloseCode::POLICY_VIOLATION, "this connection does not read what it is sent")
            }
            Self::Forced(Forced::Stopping) => (CloseCode::GOING_AWAY, "the server is stopping"),
        };
        Some(websocket::close(Some(code), reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_small() {
        // Tokio's own 72 bytes come on top, and all is rounded up to a multiple of 128: one byte too many are 128.
        assert!(size_of::<Session>() <= 256, "{}", size_of::<Session>());
    }
}
