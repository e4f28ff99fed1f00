//! Finds out who gave something else than the torrent, when the pieces that it was meant for are verified.

use std::convert::Infallible;

use tokio::task::spawn_blocking;

use super::content::read_whole;
use super::stage::Live;
use super::swarm::Swarm;

/// Shuts them out, for as long as it is polled.
pub(super) async fn find(swarm: &Swarm, live: Live) -> Infallible {
    let mut have = live.have.clone();
    loop {
        let contested = swarm.blame().verified(&have.borrow_and_update());
        for piece in contested {
            let (live, index) = (live.clone(), piece.index as usize);
            // What cannot be read, or has changed since, proves nothing.
            let Ok(Some(bytes)) = spawn_blocking(move || read_whole(&live, index)).await else { continue };
            for liar in piece.liars(&bytes) {
                liar.lies();
                swarm.visitors.shut_out(liar.ip, "it gave blocks that are not the torrent's", &swarm.metrics);
            }
        }
        if have.changed().await.is_err() {
            // The engine let go of the torrent.
            return std::future::pending().await;
        }
    }
}
