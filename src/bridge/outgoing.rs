//! Connections to native peers that we dial: over TCP, over uTP where TCP does not get through, and encrypted where the
//! peer takes no others.
//!
//! TCP goes first: the kernel's is quicker and costs a fraction of the CPU time. uTP follows after a head start (as RFC
//! 8305 has it for two families), or at once when TCP is refused; the first to open is kept. What only uTP reaches are
//! peers behind NATs and firewalls, and those whose users switched TCP off. A peer that hangs up without a greeting is
//! connected to once more at once, encrypted if the first connection was not; [`ways`](super::ways) remembers what worked.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::either::Either;

use super::door::{self, Ending, Visit};
use super::mse;
use super::swarm::{Swarm, Transport};
use super::utp::{self, Utp};
use super::ways::{Way, Ways};
use crate::config::Encryption;
use crate::metrics;

/// A peer that is there answers sooner.
const CONNECT_DEADLINE: Duration = Duration::from_secs(8);

/// RFC 8305 §5: "a delay of 250 milliseconds".
const HEAD_START: Duration = Duration::from_millis(250);

/// How long uTP is tried where TCP was refused: the machine is there and answers soon, if at all.
const REFUSED_DEADLINE: Duration = Duration::from_secs(3);

/// How long the encrypted handshake may take.
const ENCRYPTION_DEADLINE: Duration = Duration::from_secs(10);

type Native = Either<TcpStream, utp::Stream>;

/// A connection that nothing was said on yet.
pub(super) struct Line {
    addr: SocketAddr,
    way: Way,
    transport: Transport,
    stream: Native,
}

/// What dials.
pub(super) struct Connector {
    /// Absent where the configuration switches it off.
    utp: Option<Utp>,
    encryption: Encryption,
    /// A std mutex: held for a look-up.
    ways: Mutex<Ways>,
    metrics: metrics::Bridge,
}

impl Connector {
    pub(super) fn new(utp: Option<Utp>, encryption: Encryption, metrics: metrics::Bridge) -> Arc<Self> {
        Arc::new(Self { utp, encryption, ways: Mutex::new(Ways::new(encryption)), metrics })
    }

    /// Connects by whichever transport gets through.
    pub(super) async fn connect(&self, addr: SocketAddr) -> Option<Line> {
        let way = self.ways().first(addr);
        self.open(addr, way).await
    }

    /// Connects to a peer that connects to us at the same time, each opening its own NAT or firewall to the other (BEP 55).
    pub(super) async fn connect_by_utp(&self, addr: SocketAddr) -> Option<Line> {
        let way = self.ways().first(addr);
        let (stream, transport) = timeout(CONNECT_DEADLINE, self.over_utp(addr)).await.ok().flatten()?;
        Some(Line { addr, way, transport, stream })
    }

    /// Greets the peer and serves it until either side leaves.
    pub(super) async fn visit(&self, swarm: &Arc<Swarm>, line: Line) -> Visit {
        let (addr, way) = (line.addr, line.way);
        let visit = self.greet(swarm, line).await;
        if !was_hung_up(&visit) {
            self.ways().greeted(addr, way);
            return visit;
        }
        let second = self.ways().second(way);
        if let Some(way) = second
            && let Some(line) = self.open(addr, way).await
        {
            let visit = self.greet(swarm, line).await;
            if !was_hung_up(&visit) {
                self.ways().greeted(addr, way);
                return visit;
            }
        }
        self.ways().refused(addr);
        visit
    }

    async fn greet(&self, swarm: &Arc<Swarm>, Line { addr, way, transport, stream }: Line) -> Visit {
        let stream = if way.encrypted {
            let agreed = mse::initiate(stream, swarm.info_hash, mse::provides(self.encryption));
            timeout(ENCRYPTION_DEADLINE, agreed).await.unwrap_or(Err(Ending::Late))
        } else {
            Ok(mse::Stream::plain(stream, Bytes::new()))
        };
        let label = stream.as_ref().map_or("failed", mse::Stream::label);
        self.metrics.encryption.with_label_values(&["out", label]).inc();
        match stream {
            Ok(stream) => door::agreed(stream, (transport, addr), swarm).await,
            Err(ending) => Visit::turned_away(ending),
        }
    }

    async fn open(&self, addr: SocketAddr, way: Way) -> Option<Line> {
        let opened = timeout(CONNECT_DEADLINE, self.race(addr, way.utp_first)).await;
        let (stream, transport) = opened.ok().flatten()?;
        Some(Line { addr, way, transport, stream })
    }

    async fn race(&self, addr: SocketAddr, utp_first: bool) -> Option<(Native, Transport)> {
        if utp_first && let Ok(Some(open)) = timeout(REFUSED_DEADLINE, self.over_utp(addr)).await {
            return Some(open);
        }
        let mut tcp = pin!(self.over_tcp(addr));
        let first = tokio::select! {
            open = &mut tcp => Some(open),
            () = sleep(HEAD_START) => None,
        };
        match first {
            Some(Some(open)) => return Some(open),
            Some(None) => return timeout(REFUSED_DEADLINE, self.over_utp(addr)).await.ok().flatten(),
            None => {}
        }
        let mut utp = pin!(self.over_utp(addr));
        tokio::select! {
            open = &mut tcp => match open {
                Some(open) => Some(open),
                None => utp.await,
            },
            open = &mut utp => match open {
                Some(open) => Some(open),
                None => tcp.await,
            },
        }
    }

    async fn over_tcp(&self, addr: SocketAddr) -> Option<(Native, Transport)> {
        let connected = TcpStream::connect(addr).await;
        if let Ok(stream) = &connected {
            // Requests are small and each waits for its answer; Nagle's algorithm would hold them back.
            let _ = stream.set_nodelay(true);
        }
        self.count(Transport::Tcp, connected.map(Either::Left))
    }

    async fn over_utp(&self, addr: SocketAddr) -> Option<(Native, Transport)> {
        let connected = self.utp.as_ref()?.connect(addr).await;
        self.count(Transport::Utp, connected.map(Either::Right))
    }

    fn count(&self, transport: Transport, connected: io::Result<Native>) -> Option<(Native, Transport)> {
        let result = match &connected {
            Ok(_) => "open",
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => "refused",
            Err(error) if error.kind() == io::ErrorKind::TimedOut => "timeout",
            Err(_) => "failed",
        };
        self.metrics.connects.with_label_values(&[transport.label(), result]).inc();
        connected.ok().map(|stream| (stream, transport))
    }

    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the peer, or what stands before it, hung up on the way of speaking rather than on us.
fn was_hung_up(visit: &Visit) -> bool {
    let hung_up = matches!(visit.ending, Ending::Closed | Ending::Broken(_) | Ending::Wire(_) | Ending::Encryption(_));
    hung_up && !visit.seated
}
