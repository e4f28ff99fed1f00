//! TCP peers that come by themselves.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::swarm::{Swarm, Transport};
use super::torrent::Purpose;
use super::{Inner, door};
use crate::wire::id::InfoHash;

/// TCP connections that have not said which torrent they want. Past it new ones are closed.
const MAX_STRANGERS: usize = 256;

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
        bridge.tasks.spawn_cancellable(receive(bridge.clone(), stream, stranger));
    }
}

async fn receive(bridge: Arc<Inner>, stream: TcpStream, stranger: OwnedSemaphorePermit) {
    // Requests are small and each waits for its answer; Nagle's algorithm would hold them back.
    let _ = stream.set_nodelay(true);
    let find = |info_hash: &InfoHash| {
        drop(stranger);
        wanted(&bridge, info_hash)
    };
    door::incoming(stream, Transport::Tcp, &bridge.metrics, find).await;
}

/// The torrent a TCP peer wants: one that is joined, or one in the cache that the policy still covers. That a stranger
/// comes is no reason to join any other.
fn wanted(bridge: &Arc<Inner>, info_hash: &InfoHash) -> Option<Arc<Swarm>> {
    if let Some(torrent) = bridge.joined.find(info_hash) {
        return Some(torrent.swarm);
    }
    let again = bridge.cache.contains(info_hash) && bridge.admit(info_hash).is_ok();
    let join = || bridge.joined.join(bridge, *info_hash, Purpose::Bridge).unwrap_or_else(|joined| joined);
    again.then(|| join().swarm)
}
