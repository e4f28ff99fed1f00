//! One connection, from its first description to its end: a task that carries datagrams between its share of the socket
//! and the stack, and bytes between the stack and its [`Channel`], and leaves nothing behind.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::RtcError;
use super::channel::{Channel, Driven};
use super::connection::{Connection, Credentials, Identity};
use super::mux::{Mux, Route};
use super::sdp::Description;
use super::stall::{self, Stall};

/// How long a disconnected peer may take to return. A tab that is closed says nothing: this is how it is noticed.
const RETURN_LIMIT: Duration = Duration::from_secs(5);

/// How long what was written before the end may take to arrive, and what arrived before it to be read.
const LINGER: Duration = Duration::from_secs(5);

/// Bytes written and not yet sent, beyond which no more are taken.
const QUEUE: usize = 64 << 10;

/// Most datagrams taken before others are sent, so that acknowledgements leave evenly and browsers send so.
const TAKEN: usize = 8;

/// Most datagrams sent before others are taken.
const BATCH: usize = 32;

/// Bytes read at once.
const READ: usize = 64 << 10;

/// The longest that a timer is set for: nothing waits that long.
const IDLE: Duration = Duration::from_secs(60);

/// How a connection comes about.
pub(super) enum Role {
    /// Somebody offered.
    Answer(Description),
    /// We offer; the answer follows.
    Offer(oneshot::Receiver<Description>),
}

/// Everything a connection needs to begin.
pub(super) struct Session {
    pub(super) mux: Arc<Mux>,
    pub(super) identity: Identity,
    /// Cancelled when the endpoint goes.
    pub(super) stopping: CancellationToken,
    pub(super) role: Role,
    /// How long opening may take.
    pub(super) limit: Duration,
    /// Held until the channel is open or the attempt has failed.
    pub(super) permit: OwnedSemaphorePermit,
    /// Takes our side's description, still without candidates that mean anything to others.
    pub(super) described: oneshot::Sender<Result<Description, RtcError>>,
    /// Takes the open channel. That nobody waits for it any more ends the attempt.
    pub(super) opened: oneshot::Sender<Result<Channel, RtcError>>,
}

impl Session {
    /// Runs the connection to its end.
    pub(super) async fn run(self) {
        let Self { mux, identity, stopping, role, limit, permit, described, opened } = self;
        let credentials = Credentials::random(&mut rand::rng());
        let route = mux.add(credentials.ufrag.clone());
        let offers = matches!(role, Role::Offer(_));
        match Connection::new(identity, &credentials, offers, Instant::now()) {
            Ok(connection) => {
                let mut pump = Pump::new(connection, route.clone());
                let life = pump.live(&credentials, role, limit, permit, described, opened);
                let _: Option<()> = stopping.run_until_cancelled(life).await;
                pump.end().await;
            }
            Err(error) => drop(described.send(Err(error.into()))),
        }
        route.leave();
    }
}

/// Whether there may be more to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flushed {
    All,
    Some,
}

/// Moves datagrams between a share of the socket and a connection.
struct Pump {
    connection: Connection,
    route: Arc<Route>,
    arrived: Vec<(SocketAddr, BytesMut)>,
    /// Datagrams of one length to one address, one after the other, which are sent at once.
    burst: Vec<u8>,
    timer: Pin<Box<Sleep>>,
    /// More datagrams may have arrived than were taken.
    busy: bool,
}

impl Pump {
    fn new(connection: Connection, route: Arc<Route>) -> Self {
        let timer = Box::pin(sleep_until(Instant::now() + IDLE));
        Self { connection, route, arrived: Vec::new(), burst: Vec::new(), timer, busy: false }
    }

    async fn live(
        &mut self,
        credentials: &Credentials,
        role: Role,
        limit: Duration,
        permit: OwnedSemaphorePermit,
        described: oneshot::Sender<Result<Description, RtcError>>,
        mut opened: oneshot::Sender<Result<Channel, RtcError>>,
    ) {
        let opening = timeout(limit, self.open(credentials, role, described));
        let outcome = tokio::select! {
            outcome = opening => outcome.unwrap_or(Err(RtcError::Timeout)),
            () = opened.closed() => return,
        };
        drop(permit);
        match outcome {
            Ok(max_message) => {
                let remote = self.route.peer().unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
                let (channel, driven) = Channel::new(remote, max_message);
                if opened.send(Ok(channel)).is_ok() {
                    self.drive(driven).await;
                }
            }
            Err(error) => drop(opened.send(Err(error))),
        }
    }

    /// Exchanges descriptions and waits for the data channel; returns the largest message that may be sent on it.
    async fn open(
        &mut self,
        Credentials { ufrag, password }: &Credentials,
        role: Role,
        described: oneshot::Sender<Result<Description, RtcError>>,
    ) -> Result<usize, RtcError> {
        let fingerprint = self.connection.fingerprint().to_owned();
        let ours = |offer| Description::ours(ufrag, password, &fingerprint, offer);
        let (us, peer) = match role {
            Role::Answer(offer) => {
                let us = ours(Some(&offer));
                described.send(Ok(us.clone())).map_err(|_| RtcError::Closed)?;
                (us, offer)
            }
            Role::Offer(answer) => {
                let us = ours(None);
                described.send(Ok(us.clone())).map_err(|_| RtcError::Closed)?;
                (us, answer.await.map_err(|_| RtcError::Closed)?)
            }
        };
        self.connection.begin(&us, &peer, Instant::now())?;
        loop {
            let _ = self.flush().await;
            if self.connection.is_open() {
                return Ok(peer.max_message_size());
            }
            if self.connection.is_gone() {
                return Err(RtcError::Closed);
            }
            self.set_timer(None);
            tokio::select! {
                () = self.route.receive(TAKEN, &mut self.arrived) => self.take_arrived(),
                () = &mut self.timer => self.connection.on_timeout(Instant::now()),
            }
        }
    }

    /// Moves bytes both ways until either side ends the channel or the connection is lost.
    async fn drive(&mut self, driven: Driven) {
        let mut driven = driven;
        let mut unread = Bytes::new();
        let (mut stall, mut look) = (Stall::new(Instant::now()), Instant::now() + stall::LOOK);
        let mut sent = 0;
        // Until when what was written may arrive, and what arrived be read, once nothing more comes.
        let (mut writes, mut ends) = (true, None::<Instant>);
        loop {
            while writes && self.connection.queued() < QUEUE {
                match driven.outbound.try_recv() {
                    Ok(message) => {
                        sent += message.len() as u64;
                        self.connection.write(message.freeze());
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        writes = false;
                        ends = ends.or(Some(Instant::now() + LINGER));
                        self.connection.close();
                    }
                }
            }
            let flushed = self.flush().await;
            // While there is much to do, others have their turn: above all the one who reads the socket, whose buffer is
            // small.
            if flushed == Flushed::Some || std::mem::take(&mut self.busy) {
                tokio::task::yield_now().await;
            }
            let reads = !driven.inbound.is_closed();
            if unread.is_empty() {
                unread = self.connection.read(READ);
            }
            if !unread.is_empty() {
                if !reads {
                    unread.clear();
                    continue;
                }
                if let Ok(permit) = driven.inbound.try_reserve() {
                    permit.send(std::mem::take(&mut unread));
                    continue;
                }
            }
            let now = Instant::now();
            let (gone, closed) = (self.connection.is_gone(), self.connection.is_closed_by_peer());
            if unread.is_empty() && closed {
                driven.closed_by_peer();
                return;
            }
            if gone && (unread.is_empty() || !reads) {
                return;
            }
            // Nothing can be read any more by anyone, and the other side has heard that nothing more comes.
            if !writes && self.connection.has_closed() && !reads {
                return;
            }
            if gone {
                ends = ends.or(Some(now + LINGER));
            }
            if ends.is_some_and(|end| end <= now) {
                return;
            }
            let silent = self.connection.silent_since().map(|since| since + RETURN_LIMIT);
            if silent.is_some_and(|limit| limit <= now) {
                return;
            }
            if look <= now {
                look = now + stall::LOOK;
                let outstanding = self.connection.outstanding();
                if stall.is_over(sent, outstanding, now) {
                    tracing::debug!(outstanding, "a WebRTC peer acknowledges nothing: closing");
                    return;
                }
            }
            if flushed == Flushed::Some {
                continue;
            }
            self.set_timer([Some(look), ends, silent].into_iter().flatten().min());
            let room = writes && self.connection.queued() < QUEUE;
            tokio::select! {
                () = self.route.receive(TAKEN, &mut self.arrived) => self.take_arrived(),
                message = driven.outbound.recv(), if room => match message {
                    Some(message) => {
                        sent += message.len() as u64;
                        self.connection.write(message.freeze());
                    }
                    None => {
                        writes = false;
                        ends = ends.or(Some(Instant::now() + LINGER));
                        self.connection.close();
                    }
                },
                permit = driven.inbound.reserve(), if !unread.is_empty() => {
                    if let Ok(permit) = permit {
                        permit.send(std::mem::take(&mut unread));
                    }
                }
                () = &mut self.timer => self.connection.on_timeout(Instant::now()),
            }
        }
    }

    /// Tells the peer that it is over.
    async fn end(&mut self) {
        self.connection.end(Instant::now());
        let _ = self.flush().await;
    }

    fn take_arrived(&mut self) {
        let now = Instant::now();
        self.busy = self.arrived.len() == TAKEN;
        for (from, datagram) in self.arrived.drain(..) {
            self.connection.receive(from, datagram, now);
        }
        self.connection.on_timeout(now);
    }

    /// Sends what may be sent now, some of it at a time.
    async fn flush(&mut self) -> Flushed {
        let now = Instant::now();
        let most = self.route.max_segments();
        let (mut to, mut segment, mut count) = (None, 0, 0);
        let mut flushed = Flushed::All;
        for left in (0..BATCH).rev() {
            let Some((address, datagram)) = self.connection.transmit(now) else { break };
            if left == 0 {
                flushed = Flushed::Some;
            }
            let fits =
                to == Some(address) && count < most && datagram.len() <= segment && self.burst.len() == count * segment;
            if !fits {
                self.send(to, segment).await;
                (to, segment, count) = (Some(address), datagram.len(), 0);
            }
            self.burst.extend_from_slice(&datagram);
            count += 1;
        }
        self.send(to, segment).await;
        flushed
    }

    async fn send(&mut self, to: Option<SocketAddr>, segment: usize) {
        if let Some(to) = to.filter(|_| !self.burst.is_empty()) {
            self.route.send(to, &self.burst, segment).await;
        }
        self.burst.clear();
    }

    fn set_timer(&mut self, at: Option<Instant>) {
        let idle = Instant::now() + IDLE;
        let at = [at, self.connection.timeout()].into_iter().flatten().min().unwrap_or(idle);
        // Waking too early does no harm, and setting a timer costs more.
        let set = self.timer.deadline();
        if at < set || self.timer.is_elapsed() {
            self.timer.as_mut().reset(at);
        }
    }
}
