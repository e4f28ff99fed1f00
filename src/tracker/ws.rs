//! One WebSocket: reads requests, takes them to the swarm table, writes what is in its outbox.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::connection::{Broken, Connection, Incoming};
use super::outbox::{Inbox, Overflowed};
use super::shard::Socket;
use super::{Announced, Extension, Inner, MAX_IN_FLIGHT, Refused};
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::tracker_ws::{self, Announce, Failure, Intent, Message, Offer, Other, Reason};
use crate::wire::websocket::{self, CloseCode, Violation};

/// How often a session looks whether its socket has fallen silent. Two of these stay below the minute after which
/// common proxies (nginx's `proxy_read_timeout`) cut an idle connection.
const LOOK_EVERY: Duration = Duration::from_secs(25);

/// How long one write may take before the reader counts as gone.
const WRITE_DEADLINE: Duration = Duration::from_secs(20);

/// How long a closing socket may take to take the reason.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

pub(super) struct Session {
    tracker: Arc<Inner>,
    extension: Arc<dyn Extension>,
    connection: Connection,
    socket: Socket,
    inbox: Inbox,
    /// The peers this socket has announced and not stopped.
    peers: HashSet<(InfoHash, PeerId)>,
    /// Places for extension messages in flight; made when the first one comes, which for most sockets is never.
    in_flight: Option<Arc<Semaphore>>,
    pulse: Pulse,
}

/// Why a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// The client closed, and hears this in return; or the connection broke.
    Client(Option<Box<[u8]>>),
    /// It did not answer to pings.
    Silent,
    /// It does not read what is sent to it.
    Slow,
    /// It sent something that is not WebSocket, or too much.
    Violated(Violation),
    /// The node stops.
    Stopping,
}

impl Session {
    pub(super) fn new(
        tracker: Arc<Inner>,
        extension: Arc<dyn Extension>,
        connection: Connection,
        socket: Socket,
        inbox: Inbox,
    ) -> Self {
        Self {
            tracker,
            extension,
            connection,
            socket,
            inbox,
            peers: HashSet::new(),
            in_flight: None,
            pulse: Pulse::default(),
        }
    }

    /// Serves the socket until it ends, and takes everything it brought out of the swarms.
    pub(super) async fn run(mut self) {
        let end = self.serve().await;
        self.tracker.admission.take_back(self.socket.from, self.peers.len());
        self.tracker.shards.closed(self.socket.id, self.peers);
        self.tracker.metrics.closed.with_label_values(&[end.label()]).inc();
        if let Some(frame) = end.close_frame() {
            // The client may be past hearing; it was told.
            let _ = timeout(CLOSE_DEADLINE, self.connection.finish(frame)).await;
        }
    }

    /// There is no room for this socket.
    pub(super) async fn turn_away(self) {
        let frame = websocket::close(Some(CloseCode::TRY_AGAIN_LATER), "too many connections");
        // Told or not, the connection ends here.
        let _ = timeout(CLOSE_DEADLINE, self.connection.finish(frame)).await;
    }

    async fn serve(&mut self) -> End {
        let tasks = self.tracker.tasks.clone();
        let mut stopping = std::pin::pin!(tasks.stopping());
        let mut look = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Ends come first, then writing, then reading: a client that does not take its replies is not asked for
            // more requests, and what it sends meanwhile waits in its own kernel.
            let done = tokio::select! {
                biased;
                () = &mut stopping => Err(End::Stopping),
                frames = self.inbox.take() => match frames {
                    Ok(frames) => tokio::select! {
                        biased;
                        () = &mut stopping => Err(End::Stopping),
                        done = self.write(frames) => done,
                    },
                    Err(Overflowed) => Err(End::Slow),
                },
                _ = look.tick() => self.keep_alive().await,
                incoming = self.connection.read() => self.answer(incoming).await,
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// Writes frames. Seldom has to wait for it; a client that is being sent too much meanwhile is not waited for.
    async fn write(&self, mut frames: VecDeque<Box<[u8]>>) -> Result<(), End> {
        self.connection.write_now(&mut frames).map_err(|_| End::Client(None))?;
        if frames.is_empty() {
            return Ok(());
        }
        // In a box: it is needed for the few that are slow, and would make every session larger.
        let wait = Box::pin(async {
            tokio::select! {
                biased;
                Overflowed = self.inbox.overflowed() => Err(End::Slow),
                done = timeout(WRITE_DEADLINE, self.connection.write(frames)) => match done {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(End::Client(None)),
                    Err(_) => Err(End::Slow),
                },
            }
        });
        wait.await
    }

    async fn keep_alive(&mut self) -> Result<(), End> {
        match self.pulse.look() {
            Pulsing::Lively => Ok(()),
            Pulsing::Quiet => self.write([websocket::ping()].into()).await,
            Pulsing::Gone => Err(End::Silent),
        }
    }

    async fn answer(&mut self, incoming: Vec<Incoming>) -> Result<(), End> {
        self.pulse.heard();
        for incoming in incoming {
            match incoming {
                Incoming::Announce(announce, None) => drop(self.announce(announce)),
                Incoming::Announce(announce, Some(bep46)) => self.announce_with(announce, bep46),
                Incoming::Scrape(info_hashes) => self.scrape(info_hashes),
                Incoming::Other(message, frame) => self.extend(&frame, message),
                Incoming::Refused(failure) => self.refuse(failure),
                Incoming::Ping(payload) => self.write([websocket::pong(&payload)].into()).await?,
                Incoming::End(broken) => return Err(broken.into()),
            }
            // What one read brought may have more replies than the outbox has places.
            if self.inbox.is_filling() {
                self.write(self.inbox.take_now()).await?;
            }
        }
        Ok(())
    }

    /// Whether the announce was taken.
    fn announce(&mut self, mut announce: Announce) -> bool {
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
                    resident = self.tracker.resident.get().is_some_and(|resident| resident.wants(&info_hash));
                }
            }
            Intent::Stop => {
                if self.peers.remove(&(info_hash, peer_id)) {
                    self.tracker.admission.take_back(self.socket.from, 1);
                }
                self.extension.left(&info_hash);
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
        if self.peers.contains(&(info_hash, peer_id)) {
            return Ok(());
        }
        let refused = |rule| self.tracker.metrics.not_taken.with_label_values(&[rule]).inc();
        if self.peers.len() >= self.tracker.settings.max_peers_per_socket {
            refused("socket_peers");
            return Err(Reason::SocketFull);
        }
        if !self.tracker.admission.bring(std::time::Instant::now(), self.socket.from) {
            refused("address_peers");
            return Err(Reason::AddressFull);
        }
        self.peers.insert((info_hash, peer_id));
        Ok(())
    }

    /// Leaves out the offers that this address may not make yet.
    fn limit(&self, offers: &mut Vec<Offer>) {
        let made = offers.len();
        offers.truncate(self.tracker.admission.offers(std::time::Instant::now(), self.socket.from, made));
        let left_out = self.tracker.metrics.dropped.with_label_values(&["offer_pace"]);
        left_out.inc_by((made - offers.len()) as u64);
    }

    /// An announce of which a part is the extension's.
    fn announce_with(&mut self, announce: Announce, bep46: Box<str>) {
        let (info_hash, stays) = (announce.info_hash, !matches!(announce.intent, Intent::Stop));
        if !self.announce(announce) || !stays {
            return;
        }
        let counts = self.tracker.shards.scrape(&info_hash);
        let interval = self.tracker.settings.interval.as_secs().max(1);
        let announced = Announced { info_hash, bep46, interval, counts, from: self.socket.from };
        let handling = self.extension.announced(announced, self.socket.outbox.clone());
        if !self.run_bounded(handling) {
            self.refuse(Failure::of_announce(&info_hash, Reason::TooManyInFlight));
        }
    }

    /// A scrape that names no swarm is answered with those of this connection. Elsewhere it means all there are, but the
    /// list of what others share is nobody's business.
    fn scrape(&mut self, mut info_hashes: Vec<InfoHash>) {
        if info_hashes.is_empty() {
            info_hashes = self.peers.iter().map(|(info_hash, _)| *info_hash).collect();
            info_hashes.sort_unstable();
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
    fn extend(&mut self, frame: &str, message: Other) {
        if !self.extension.handles(&message.action) {
            return self.refuse(Failure::of_other(message, Reason::UnknownAction));
        }
        let rest = self.extension.message(frame, self.socket.from, &self.socket.outbox);
        if let Some(rest) = rest
            && !self.run_bounded(rest)
        {
            self.refuse(Failure::of_other(message, Reason::TooManyInFlight));
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
}

impl From<Refused> for Reason {
    fn from(refused: Refused) -> Self {
        match refused {
            // Whether the client may come in was settled when its socket was opened.
            Refused::Torrent | Refused::Passkey => Self::NotServed,
            Refused::Pace => Self::TooOften,
        }
    }
}

impl From<Broken> for End {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Closed(reply) => Self::Client(Some(reply)),
            // Pages that are closed or lose their network do not say goodbye.
            Broken::Lost => Self::Client(None),
            Broken::Violated(violation) => Self::Violated(violation),
        }
    }
}

impl End {
    fn label(&self) -> &'static str {
        match self {
            Self::Client(_) => "client",
            Self::Silent => "silent",
            Self::Slow => "slow",
            Self::Violated(Violation::TooLarge) => "too_large",
            Self::Violated(_) => "broken",
            Self::Stopping => "stopping",
        }
    }

    /// What the client is told, unless there is nobody to tell.
    fn close_frame(self) -> Option<Box<[u8]>> {
        let (code, reason) = match self {
            Self::Client(reply) => return reply,
            Self::Silent => return None,
            Self::Slow => (CloseCode::POLICY_VIOLATION, "this connection does not read what it is sent"),
            Self::Violated(violation) => {
                return Some(websocket::close(Some(violation.close_code()), &violation.to_string()));
            }
            Self::Stopping => (CloseCode::GOING_AWAY, "the server is stopping"),
        };
        Some(websocket::close(Some(code), reason))
    }
}

/// Whether the other end is still there, judged at every [`LOOK_EVERY`]. Whatever it sends counts, so a busy socket is
/// never pinged.
#[derive(Debug, Default)]
struct Pulse {
    silent_looks: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Pulsing {
    Lively,
    /// Nothing came since the last look: ping it.
    Quiet,
    /// Two pings have gone unanswered.
    Gone,
}

impl Pulse {
    fn heard(&mut self) {
        self.silent_looks = 0;
    }

    fn look(&mut self) -> Pulsing {
        self.silent_looks += 1;
        match self.silent_looks {
            1 => Pulsing::Lively,
            2 | 3 => Pulsing::Quiet,
            _ => Pulsing::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_socket_is_pinged_and_a_silent_one_given_up() {
        let mut pulse = Pulse::default();
        let looks = |pulse: &mut Pulse| [pulse.look(), pulse.look(), pulse.look(), pulse.look()];
        use Pulsing::{Gone, Lively, Quiet};
        assert_eq!(looks(&mut pulse), [Lively, Quiet, Quiet, Gone]);
        pulse.heard();
        assert_eq!(looks(&mut pulse), [Lively, Quiet, Quiet, Gone]);
    }
}
