//! Peers over WebRTC: data channels as byte streams, all of them on one UDP port.
//!
//! ```text
//!  Endpoint ── answer / offer ──► Session (a task per connection) ◄── messages ──► Channel (AsyncRead + AsyncWrite)
//!     │                              │
//!     │                              ▼ Connection: ICE and DTLS of the `rtc` crates, and our SCTP (`sctp/`)
//!     ▼                              │
//!    Mux ── datagrams ──► Routes ──► Inbox
//! ```
//!
//! **Why one port.** A firewall or a NAT in front of this server needs one rule, known beforehand, instead of tens of
//! thousands of ports; and one socket has one large kernel buffer, on which throughput depends most.
//!
//! **How datagrams find their connection.** Each connection is issued a random username fragment, which its peer puts
//! into the STUN checks it begins with (RFC 8445 §7.2.2). Such a check binds its sender's address to the connection;
//! everything else from that address then goes there. Who never showed a fragment we issued is not heard: `routes.rs`.
//! It follows that one remote address carries one connection at a time, which holds for browsers, since each of their
//! connections has ports of its own.
//!
//! **Who sends first.** The peer. An offer's candidates are never dialled, so a stranger's offer cannot aim datagrams
//! of this server at anyone, inside its network or outside. Nothing is lost by it while one of the addresses that our
//! description lists (`addresses.rs`) reaches us. The one exception is [`OfferPending::accept`], whose caller says which
//! addresses may be dialled.
//!
//! **Signalling** is not trickled: WebTorrent's trackers pass one offer and one answer. Descriptions are parsed into what
//! a data channel needs and written anew (`sdp.rs`).
//!
//! **What is bounded.** Attempts at once ([`MAX_ATTEMPTS`]), the time each may take ([`OPEN_LIMIT`], [`OFFER_LIMIT`]),
//! the length of a description, addresses and datagrams waiting per connection, bytes sent and not acknowledged, and how
//! long a peer may acknowledge nothing (`stall.rs`). The number of open channels is their owner's to bound: an idle one
//! takes little, and one whose owner does not read up to 1.3 MiB more. When a
//! [`Channel`] is dropped, its task, its route and its memory are gone within seconds, as soon as what was written has
//! arrived; when the [`Endpoint`] is, all of its channels at once.

mod addresses;
mod channel;
mod connection;
mod inbox;
mod mux;
mod routes;
mod sctp;
mod sdp;
mod session;
mod stall;
#[cfg(test)]
mod tests;
mod window;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use channel::Channel;
pub use sdp::DescriptionError;

use crate::config;
use crate::metrics;
use crate::tasks::Tasks;
use connection::Identity;
use mux::Mux;
use sdp::Description;
use session::{Role, Session};

/// Most connections being opened at once. One was measured at a millisecond of computing and 330 KB.
pub const MAX_ATTEMPTS: usize = 128;

/// How long a connection may take to open once it is answered. WebTorrent gives up a peer that has not sent its
/// handshake after 25 s.
pub const OPEN_LIMIT: Duration = Duration::from_secs(25);

/// How long our offer waits for its answer and then for the connection. WebTorrent lets unused offers expire after 50 s.
pub const OFFER_LIMIT: Duration = Duration::from_secs(50);

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum RtcError {
    /// The other side's description is unusable.
    #[error(transparent)]
    Description(#[from] DescriptionError),
    /// [`MAX_ATTEMPTS`] are being opened.
    #[error("too many WebRTC connections are being opened")]
    Busy,
    /// It did not open in time.
    #[error("the WebRTC connection did not open in time")]
    Timeout,
    /// The peer or this node closed it before it was open, or no path between them worked.
    #[error("the WebRTC connection closed before it was open")]
    Closed,
    /// The stack refused.
    #[error("WebRTC: {0}")]
    Stack(#[from] rtc_shared::error::Error),
}

/// The shared port. Dropping it closes every channel.
#[derive(Debug)]
pub struct Endpoint {
    mux: Arc<Mux>,
    identity: Identity,
    public_ips: Vec<IpAddr>,
    /// Where a router forwards the port from. A std mutex: held for a copy.
    outside: Mutex<Option<SocketAddr>>,
    attempts: Arc<Semaphore>,
    tasks: Tasks,
    stopping: CancellationToken,
    _stop: DropGuard,
}

impl Endpoint {
    /// Binds the port.
    ///
    /// # Errors
    /// The socket's.
    pub async fn bind(settings: &config::WebRtc, metrics: metrics::Bridge, tasks: &Tasks) -> io::Result<Arc<Self>> {
        let mux = Mux::bind(settings.listen, metrics)?;
        let stopping = tasks.token().child_token();
        let (receiving, stopped) = (mux.clone().receive(), stopping.clone());
        tasks.spawn(async move {
            let _: Option<()> = stopped.run_until_cancelled_owned(receiving).await;
        });
        let identity = Identity::new().map_err(io::Error::other)?;
        Ok(Arc::new(Self {
            mux,
            identity,
            public_ips: settings.public_ips.clone(),
            outside: Mutex::default(),
            attempts: Arc::new(Semaphore::new(MAX_ATTEMPTS)),
            tasks: tasks.clone(),
            _stop: stopping.clone().drop_guard(),
            stopping,
        }))
    }

    /// The bound address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.mux.local_addr()
    }

    /// A router forwards the port: descriptions made from now on list `outside` first.
    pub(super) fn reached_at(&self, outside: SocketAddr) {
        *self.outside.lock().unwrap_or_else(PoisonError::into_inner) = Some(outside);
    }

    /// Answers an offer: returns our description, to be sent to who offered, and the channel to come.
    ///
    /// # Errors
    /// The offer is unusable, or there is no room for another attempt.
    pub async fn answer(&self, offer_sdp: &str) -> Result<(String, Pending), RtcError> {
        let mut offer = Description::parse_offer(offer_sdp)?;
        // They reach us; see "who sends first" above.
        offer.candidates.clear();
        self.begin(Role::Answer(offer), OPEN_LIMIT).await
    }

    /// Makes an offer: returns it, and what its answer goes to.
    ///
    /// # Errors
    /// There is no room for another attempt.
    pub async fn offer(&self) -> Result<(String, OfferPending), RtcError> {
        let (answer, answered) = oneshot::channel();
        let (offer, pending) = self.begin(Role::Offer(answered), OFFER_LIMIT).await?;
        Ok((offer, OfferPending { answer, pending }))
    }

    async fn begin(&self, role: Role, limit: Duration) -> Result<(String, Pending), RtcError> {
        let permit = self.attempts.clone().try_acquire_owned().map_err(|_| RtcError::Busy)?;
        let (describe, described) = oneshot::channel();
        let (open, opened) = oneshot::channel();
        let session = Session {
            mux: self.mux.clone(),
            identity: self.identity.clone(),
            stopping: self.stopping.clone(),
            role,
            limit,
            permit,
            described: describe,
            opened: open,
        };
        self.tasks.spawn(session.run());
        let mut description = described.await.unwrap_or(Err(RtcError::Closed))?;
        description.candidates = addresses::reachable(self.local_addr(), &self.public_ips, &addresses::interfaces());
        // What the operator says counts more than what a router does.
        if self.public_ips.is_empty() {
            let outside = *self.outside.lock().unwrap_or_else(PoisonError::into_inner);
            description.candidates.splice(0..0, outside);
        }
        Ok((description.to_string(), Pending { opened }))
    }
}

/// A channel that is being opened. Dropping it gives the attempt up.
#[derive(Debug)]
pub struct Pending {
    opened: oneshot::Receiver<Result<Channel, RtcError>>,
}

impl Pending {
    /// Resolves when the channel is open.
    ///
    /// # Errors
    /// It did not open, or not in time ([`OPEN_LIMIT`], [`OFFER_LIMIT`]).
    pub async fn open(self) -> Result<Channel, RtcError> {
        self.opened.await.unwrap_or(Err(RtcError::Closed))
    }
}

/// An offer that waits for its answer. Dropping it withdraws the offer.
#[derive(Debug)]
pub struct OfferPending {
    answer: oneshot::Sender<Description>,
    pending: Pending,
}

impl OfferPending {
    /// Takes the answer. Of the addresses it names, those that `may_dial` allows are dialled; none need be, as a browser
    /// reaches us by the addresses in our offer.
    ///
    /// # Errors
    /// The answer is unusable, or came too late.
    pub fn accept(self, answer_sdp: &str, may_dial: impl Fn(SocketAddr) -> bool) -> Result<Pending, RtcError> {
        let mut answer = Description::parse_answer(answer_sdp)?;
        answer.candidates.retain(|address| may_dial(*address));
        self.answer.send(answer).map_err(|_| RtcError::Timeout)?;
        Ok(self.pending)
    }
}
