//! Native peers that come by themselves, over TCP and uTP, on one port number.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::swarm::{Swarm, Transport};
use super::torrent::Purpose;
use super::utp::Utp;
use super::{Inner, door};
use crate::tasks::Tasks;
use crate::wire::id::InfoHash;

/// Connections of one transport that have not said which torrent they want. Past it new ones are closed, or not accepted.
const MAX_STRANGERS: usize = 256;

/// How often a free port is looked for that both transports can have.
const PORT_ATTEMPTS: usize = 16;

/// Opens the TCP port and, with `utp`, the UDP port of the same number, for at most `max_peers` seated peers.
pub(super) async fn bind(
    addr: SocketAddr,
    utp: bool,
    max_peers: usize,
    tasks: &Tasks,
) -> io::Result<(TcpListener, Option<Utp>)> {
    let mut attempts = if addr.port() == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        let tcp = TcpListener::bind(addr).await?;
        if !utp {
            return Ok((tcp, None));
        }
        attempts -= 1;
        match Utp::bind(tcp.local_addr()?, max_peers.saturating_add(MAX_STRANGERS), tasks).await {
            Ok(utp) => return Ok((tcp, Some(utp))),
            Err(error) if attempts == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

/// Takes uTP peers for as long as it is polled.
pub(super) async fn run_utp(bridge: Arc<Inner>, utp: Utp) {
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    // Past the limit none is accepted: who asks is told by a reset that there is no room.
    while let Ok(stranger) = strangers.clone().acquire_owned().await {
        match utp.accept().await {
            Ok((stream, from)) => {
                tracing::trace!(%from, "a uTP peer came");
                let greeting = receive(bridge.clone(), stream, (Transport::Utp, from), stranger);
                bridge.tasks.spawn_cancellable(greeting);
            }
            // The socket is gone: at the node's end, or for a reason that the library has logged.
            Err(error) if bridge.tasks.is_stopping() => return tracing::debug!(%error, "no more uTP peers"),
            Err(error) => return tracing::error!(%error, "no uTP peers can be accepted any more"),
        }
    }
}

/// Takes TCP peers for as long as it is polled.
pub(super) async fn run(bridge: Arc<Inner>, listener: TcpListener) {
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: waiting is all one can do.
                tracing::warn!(%error, "cannot accept a TCP peer");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let Ok(stranger) = strangers.clone().try_acquire_owned() else {
            bridge.metrics.refused.with_label_values(&["strangers"]).inc();
            continue;
        };
        tracing::trace!(%from, "a TCP peer came");
        // Requests are small and each waits for its answer; Nagle's algorithm would hold them back.
        let _ = stream.set_nodelay(true);
        bridge.tasks.spawn_cancellable(receive(bridge.clone(), stream, (Transport::Tcp, from), stranger));
    }
}

async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    bridge: Arc<Inner>,
    stream: S,
    (transport, from): (Transport, SocketAddr),
    stranger: OwnedSemaphorePermit,
) {
    let presence = match bridge.visitors.enter(from.ip(), Instant::now()) {
        Ok(presence) => presence,
        Err(refusal) => return bridge.metrics.refused.with_label_values(&[refusal.label()]).inc(),
    };
    let find = |info_hash: &InfoHash| {
        drop(stranger);
        wanted(&bridge, info_hash)
    };
    let hidden = |name: &[u8; 20]| bridge.names.find(name);
    let visit = door::incoming(stream, (transport, from), (bridge.encryption, hidden), &bridge.metrics, find).await;
    drop(presence);
    bridge.visitors.judge(from.ip(), &visit.ending, &bridge.metrics);
}

/// The torrent a native peer wants: one that is joined, or one in the cache that the policy still covers. That a stranger
/// comes is no reason to join any other.
fn wanted(bridge: &Arc<Inner>, info_hash: &InfoHash) -> Option<Arc<Swarm>> {
    if let Some(torrent) = bridge.joined.find(info_hash) {
        return Some(torrent.swarm);
    }
    let again = bridge.cache.contains(info_hash) && bridge.admit(info_hash).is_ok();
    let join = || bridge.joined.join(bridge, *info_hash, Purpose::Bridge).unwrap_or_else(|joined| joined);
    again.then(|| join().swarm)
}
