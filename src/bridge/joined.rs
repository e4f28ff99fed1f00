//! The torrents that are joined now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::policy::Load;
use super::stage::Stage;
use super::swarm::Swarm;
use super::torrent::{self, Inbox, Purpose};
use super::web::Page;
use super::{Inner, TorrentError};
use crate::wire::id::InfoHash;

/// How long a bridged torrent that failed is not joined again: a full disk does not get better by trying.
const COOLING: Duration = Duration::from_secs(60);

/// Failed torrents remembered.
const MAX_COOLING: usize = 1_000;

/// Pages of one torrent that may wait. They are taken at once; a flood is dropped.
const PAGES: usize = 32;

/// A joined torrent, as others hold it.
#[derive(Clone)]
pub(super) struct Torrent {
    pub(super) swarm: Arc<Swarm>,
    pub(super) pages: mpsc::Sender<Page>,
    /// It was joined for web peers, and so can be joined again for them.
    pub(super) bridged: bool,
    ended: watch::Receiver<Option<TorrentError>>,
}

impl Torrent {
    /// Resolves when its task is over.
    pub(super) async fn ended(&self) -> TorrentError {
        let mut ended = self.ended.clone();
        ended.wait_for(Option::is_some).await.ok().and_then(|error| error.clone()).unwrap_or(TorrentError::Stopping)
    }
}

/// The table. A std mutex: the tracker asks synchronously, and every use is a look-up.
#[derive(Default)]
pub(super) struct Joined {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    torrents: HashMap<InfoHash, Torrent>,
    cooling: HashMap<InfoHash, Instant>,
}

impl Joined {
    pub(super) fn find(&self, info_hash: &InfoHash) -> Option<Torrent> {
        self.lock().torrents.get(info_hash).cloned()
    }

    /// At most `most` torrents that may be announced where strangers are, and the bytes each lacks: those with something
    /// to give that are not private.
    pub(super) fn shared(&self, most: usize) -> Vec<(InfoHash, u64)> {
        let table = self.lock();
        let shared = table.torrents.iter().filter_map(|(info_hash, torrent)| {
            let stage = torrent.swarm.stage.borrow();
            let live = stage.live().filter(|live| !live.metainfo.is_private())?;
            let (have, pieces) = (live.have.borrow().count(), live.metainfo.pieces());
            let left = (pieces - have) as u64 * u64::from(live.metainfo.piece_length());
            (have > 0).then_some((*info_hash, left.min(live.metainfo.total_length())))
        });
        shared.take(most).collect()
    }

    /// How full the table is, seen from one torrent.
    pub(super) fn load(&self, info_hash: &InfoHash, free_peers: usize) -> Load {
        let table = self.lock();
        let torrent = table.torrents.get(info_hash);
        Load {
            joined: torrent.is_some(),
            ours: torrent.is_some_and(|torrent| !torrent.bridged),
            cooling_down: table.cooling.get(info_hash).is_some_and(|until| *until > Instant::now()),
            torrents: table.torrents.values().filter(|torrent| torrent.bridged).count(),
            free_peers,
            ..Load::default()
        }
    }

    /// Joins a torrent and starts its task, unless it is joined: then the one there is returned as the error.
    pub(super) fn join(&self, bridge: &Arc<Inner>, info_hash: InfoHash, purpose: Purpose) -> Result<Torrent, Torrent> {
        let mut table = self.lock();
        if let Some(torrent) = table.torrents.get(&info_hash) {
            return Err(torrent.clone());
        }
        let stage = if matches!(purpose, Purpose::Topic) { Stage::Topic } else { Stage::Metadata };
        let bridged = matches!(purpose, Purpose::Bridge);
        let (swarm, from_peers) = bridge.new_swarm(info_hash, stage, bridged);
        let (pages, pages_rx) = mpsc::channel(PAGES);
        let (ended_tx, ended) = watch::channel(None);
        let torrent = Torrent { swarm: swarm.clone(), pages, bridged, ended };
        table.torrents.insert(info_hash, torrent.clone());
        bridge.names.add(&info_hash);
        tracing::info!(%info_hash, bridged, "joined a torrent");
        let bridge = bridge.clone();
        bridge.tasks.clone().spawn(async move {
            let inbox = Inbox { from_peers, pages: pages_rx };
            let error = torrent::run(bridge.clone(), swarm, inbox, purpose).await;
            bridge.joined.left(info_hash, bridged && matches!(&error, Some(error) if error.is_lasting()));
            ended_tx.send_replace(Some(error.unwrap_or(TorrentError::Stopping)));
        });
        Ok(torrent)
    }

    fn left(&self, info_hash: InfoHash, cools: bool) {
        let (mut table, now) = (self.lock(), Instant::now());
        table.torrents.remove(&info_hash);
        table.cooling.retain(|_, until| *until > now);
        if cools && table.cooling.len() < MAX_COOLING {
            table.cooling.insert(info_hash, now + COOLING);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
