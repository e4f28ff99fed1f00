//! How far a joined torrent is, for those who ask.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::TorrentError;
use super::pieces::PieceSet;
use super::stage::Stage;
use super::swarm::Swarm;
use crate::wire::metainfo::Metainfo;

/// How often watchers are told at most.
const EVERY: Duration = Duration::from_millis(200);

/// How often watchers are told while peers come, go or send, though no piece completes: rates change.
const WHILE_BUSY: Duration = Duration::from_secs(1);

/// Where a torrent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Peers that know the metadata are looked for.
    #[default]
    Metadata,
    /// What is on disk is checked.
    Checking,
    /// Pieces come.
    Downloading,
    /// Every piece is on disk.
    Complete,
}

/// How far a torrent is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Where it stands.
    pub state: State,
    /// What it is, once the metadata is here.
    pub metainfo: Option<Arc<Metainfo>>,
    /// Pieces that are on disk and verified.
    pub pieces: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Peers connected now, by transport (`webrtc`, `tcp`, …); a transport without peers may be absent.
    pub peers: BTreeMap<&'static str, usize>,
    /// Payload bytes received from peers since the torrent was joined.
    pub received: u64,
    /// Payload bytes sent to peers since the torrent was joined.
    pub sent: u64,
    /// Bytes a second received, averaged over the last seconds.
    pub receive_rate: u64,
    /// Bytes a second sent, averaged over the last seconds.
    pub send_rate: u64,
    /// Every piece is on disk.
    pub finished: bool,
    /// Why it ended without having been told to. It is not tried again by itself.
    pub failed: Option<TorrentError>,
}

impl Progress {
    /// Peers connected now.
    #[must_use]
    pub fn peer_count(&self) -> usize {
        self.peers.values().sum()
    }

    /// How long the rest takes at the rate of the last seconds; `None` when nothing comes.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let left = self.metainfo.as_ref()?.total_length().saturating_sub(self.bytes);
        if left == 0 {
            return Some(Duration::ZERO);
        }
        left.checked_div(self.receive_rate).map(Duration::from_secs)
    }

    /// As it is now.
    pub(super) fn of(swarm: &Swarm) -> Self {
        let stage = swarm.stage.borrow().clone();
        let metainfo = stage.metainfo().cloned();
        let (pieces, bytes, finished) = stage.live().map_or((0, 0, false), |live| {
            let have = live.have.borrow();
            (have.count(), bytes_of(&have, &live.metainfo), have.is_complete())
        });
        let state = match stage {
            Stage::Topic | Stage::Metadata => State::Metadata,
            Stage::Checking(_) => State::Checking,
            Stage::Live(_) if finished => State::Complete,
            Stage::Live(_) => State::Downloading,
        };
        let [received, sent] = swarm.traffic();
        let peers = swarm.peers_by_transport();
        let ((received, receive_rate), (sent, send_rate)) = (received, sent);
        Self { state, metainfo, pieces, bytes, peers, received, sent, receive_rate, send_rate, finished, failed: None }
    }
}

/// Bytes of the pieces in `have`. The last piece may be shorter than the others.
fn bytes_of(have: &PieceSet, metainfo: &Metainfo) -> u64 {
    let piece = u64::from(metainfo.piece_length());
    let last = metainfo.pieces().saturating_sub(1);
    let short = piece * metainfo.pieces() as u64 - metainfo.total_length();
    have.count() as u64 * piece - if have.contains(last) { short } else { 0 }
}

/// Keeps watchers informed for as long as it is polled; wakes only when there may be news.
pub(super) async fn report(swarm: &Swarm, progress: &watch::Sender<Progress>) -> Infallible {
    let mut stages = swarm.stage.subscribe();
    loop {
        let live = stages.borrow_and_update().live().cloned();
        let now = Progress::of(swarm);
        let busy = now.peer_count() > 0 && (!now.finished || now.send_rate > 0);
        progress.send_if_modified(|last| {
            let news = now != *last;
            *last = now;
            news
        });
        sleep(EVERY).await;
        let pieces = async {
            match live {
                Some(mut live) => {
                    let known = progress.borrow().pieces;
                    // An error means that the engine let go; the stage tells what follows.
                    if live.have.wait_for(|have| have.count() != known).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = pieces => {}
            _ = stages.changed() => {}
            () = swarm.peers_changed() => {}
            () = sleep(WHILE_BUSY), if busy => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_time_left() {
        let metainfo = Metainfo::build("x", &[(vec!["a".into()], 40_000)], 1 << 14, &[[0; 20]; 3]).unwrap();
        let mut have = PieceSet::none(3);
        assert_eq!(bytes_of(&have, &metainfo), 0);
        have.insert(2);
        assert_eq!(bytes_of(&have, &metainfo), 40_000 - 2 * 16_384);
        have.insert(0);
        have.insert(1);
        assert_eq!(bytes_of(&have, &metainfo), 40_000);
        let metainfo = Some(Arc::new(metainfo));
        let with =
            |bytes, receive_rate| Progress { metainfo: metainfo.clone(), bytes, receive_rate, ..Progress::default() };
        assert_eq!(with(10_000, 10_000).time_left(), Some(Duration::from_secs(3)));
        assert_eq!(with(10_000, 0).time_left(), None);
        assert_eq!(with(40_000, 0).time_left(), Some(Duration::ZERO));
        assert_eq!(Progress::default().time_left(), None);
    }
}
