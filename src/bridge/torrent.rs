//! The life of one joined torrent: metadata, the check of what is on disk, being live, and leaving.
//!
//! One task owns it. Beside the life itself it polls the two ways by which peers are met, the pages' offers and the
//! dialler; each peer then has a task of its own.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::cache::{CacheError, Kept};
use super::dialler;
use super::engine::Running;
use super::policy::admit_size;
use super::storage::Access;
use super::swarm::{Live, Stage, Swarm};
use super::web::{self, Offer};
use super::{Inner, Progress, TorrentError};
use crate::wire::metainfo::Metainfo;

/// How often a torrent is announced to the DHT. BEP 5 sets no interval; nodes forget a peer after about half an hour.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(20 * 60);

/// How soon an announce that no node took is repeated, at first; it doubles.
const ANNOUNCE_RETRY: Duration = Duration::from_secs(10);

/// How often a download's watchers are told how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Why a torrent is joined, and so where its files are.
pub(super) enum Purpose {
    /// Web peers want it: it is cached, and left when they are gone.
    Bridge,
    /// A record is exchanged; there is no torrent.
    Topic,
    /// The user's own files.
    Seed { metainfo: Metainfo, dir: PathBuf },
    /// The user wants it.
    Download { dir: PathBuf, peers: Vec<std::net::SocketAddr>, progress: watch::Sender<Progress> },
}

/// What comes to a torrent from outside its task.
pub(super) struct Inbox {
    pub(super) metadata: mpsc::Receiver<Bytes>,
    pub(super) offers: mpsc::Receiver<Offer>,
}

/// Runs a torrent until it fails, is no longer wanted, or is told to end. The error is why, if it did not go by itself.
pub(super) async fn run(
    bridge: Arc<Inner>,
    swarm: Arc<Swarm>,
    inbox: Inbox,
    mut purpose: Purpose,
) -> Option<TorrentError> {
    let given = match &mut purpose {
        Purpose::Download { peers, .. } => std::mem::take(peers),
        Purpose::Bridge | Purpose::Topic | Purpose::Seed { .. } => Vec::new(),
    };
    let lingers = matches!(purpose, Purpose::Bridge).then_some(bridge.settings.linger);
    let mut kept = None;
    let (reason, error) = tokio::select! {
        biased;
        () = swarm.token.cancelled() => ("told", Some(TorrentError::Stopping)),
        error = life(&bridge, &swarm, inbox.metadata, &purpose, &mut kept) => ("failed", Some(error)),
        () = unused(&swarm, lingers) => ("unused", None),
        never = web::welcome(swarm.clone(), bridge.endpoint.clone(), inbox.offers, bridge.tasks.clone()) => match never {},
        never = dialler::run(swarm.clone(), bridge.sources.clone(), given) => match never {},
    };
    // The peers first, then the engine's torrent, then the files' place.
    swarm.token.cancel();
    bridge.engine.remove(swarm.info_hash).await;
    swarm.leave();
    drop(kept);
    bridge.metrics.ended.with_label_values(&[reason]).inc();
    match (&error, reason) {
        (Some(error), "failed") => tracing::warn!(info_hash = %swarm.info_hash, %error, "a torrent failed"),
        _ => tracing::info!(info_hash = %swarm.info_hash, reason, "left a torrent"),
    }
    if let (Purpose::Download { progress, .. }, Some(error)) = (&purpose, &error) {
        progress.send_modify(|progress| progress.failed = Some(error.clone()));
    }
    error
}

/// From the info hash to being live, and on until something fails.
async fn life(
    bridge: &Arc<Inner>,
    swarm: &Swarm,
    mut metadata: mpsc::Receiver<Bytes>,
    purpose: &Purpose,
    kept: &mut Option<Kept>,
) -> TorrentError {
    if matches!(purpose, Purpose::Topic) {
        match announce_for_good(bridge, swarm).await {}
    }
    let live = async {
        let metainfo = Arc::new(learn(bridge, swarm, &mut metadata, purpose).await?);
        let (root, access) = place(bridge, &metainfo, purpose, kept).await?;
        swarm.enter(Stage::Checking(metainfo.clone()));
        let added = bridge.engine.add(&metainfo, root, access).await;
        let running = added.map_err(|error| match access {
            Access::ReadOnly => TorrentError::Mismatch(error.to_string()),
            Access::ReadWrite => TorrentError::Failed(error.to_string()),
        })?;
        let missing = metainfo.pieces() - running.have().borrow().count();
        if access == Access::ReadOnly && missing > 0 {
            let pieces = metainfo.pieces();
            return Err(TorrentError::Mismatch(format!("{missing} of {pieces} pieces differ")));
        }
        swarm.enter(Stage::Live(Live { metainfo, engine: running.addr(), have: running.have() }));
        Ok(running)
    };
    let live = tokio::select! {
        live = live => live,
        never = report(swarm, purpose) => match never {},
    };
    match live {
        Ok(running) => tokio::select! {
            error = running.failed() => TorrentError::Failed(error.to_string()),
            never = announce(bridge, swarm, &running, purpose) => match never {},
            never = report(swarm, purpose) => match never {},
        },
        Err(error) => error,
    }
}

/// The metainfo: given, found in the cache, or fetched from peers.
async fn learn(
    bridge: &Inner,
    swarm: &Swarm,
    metadata: &mut mpsc::Receiver<Bytes>,
    purpose: &Purpose,
) -> Result<Metainfo, TorrentError> {
    if let Purpose::Seed { metainfo, .. } = purpose {
        return Ok(metainfo.clone());
    }
    if let Some(metainfo) = bridge.cache.metainfo(swarm.info_hash).await {
        return Ok(metainfo);
    }
    let metadata = metadata.recv().await.ok_or(TorrentError::Stopping)?;
    Metainfo::from_info(metadata).map_err(|error| TorrentError::Refused(error.to_string()))
}

/// Where the files are.
async fn place(
    bridge: &Inner,
    metainfo: &Metainfo,
    purpose: &Purpose,
    kept: &mut Option<Kept>,
) -> Result<(PathBuf, Access), TorrentError> {
    match purpose {
        Purpose::Seed { dir, .. } => Ok((dir.clone(), Access::ReadOnly)),
        Purpose::Download { dir, .. } if metainfo.is_single_file() => Ok((dir.clone(), Access::ReadWrite)),
        Purpose::Download { dir, .. } => Ok((dir.join(metainfo.name()), Access::ReadWrite)),
        // A topic comes to no place: it never has metadata.
        Purpose::Bridge | Purpose::Topic => {
            let refused = |refusal: super::policy::Refusal| {
                bridge.metrics.refused.with_label_values(&[refusal.label()]).inc();
                TorrentError::Refused(refusal.to_string())
            };
            admit_size(&bridge.settings, metainfo).map_err(refused)?;
            let place = bridge.cache.take_in(metainfo).await.map_err(|error| match error {
                CacheError::Full(refusal) => refused(refusal),
                CacheError::Io(_) => TorrentError::Failed(error.to_string()),
            })?;
            let files = place.files();
            *kept = Some(place);
            Ok((files, Access::ReadWrite))
        }
    }
}

/// Resolves when the last web peer has been gone for as long as torrents linger.
async fn unused(swarm: &Swarm, linger: Option<Duration>) {
    let Some(linger) = linger else { return std::future::pending().await };
    loop {
        let leave_at = swarm.web_peer_seen() + linger;
        if leave_at <= Instant::now() {
            return;
        }
        sleep_until(leave_at).await;
    }
}

/// Tells the DHT where native peers find us, as soon as there is something to give them.
async fn announce(bridge: &Inner, swarm: &Swarm, running: &Running, purpose: &Purpose) -> Infallible {
    let private = swarm.stage.borrow().metainfo().is_some_and(|metainfo| metainfo.is_private());
    let ours = matches!(purpose, Purpose::Bridge | Purpose::Seed { .. });
    let anything = running.have().wait_for(|have| have.count() > 0).await.is_ok();
    if private || !ours || !anything {
        return std::future::pending().await;
    }
    announce_for_good(bridge, swarm).await
}

async fn announce_for_good(bridge: &Inner, swarm: &Swarm) -> Infallible {
    let mut retry = ANNOUNCE_RETRY;
    loop {
        if bridge.sources.dht.announce(swarm.info_hash, swarm.ourselves.port).await > 0 {
            retry = ANNOUNCE_RETRY;
            sleep(ANNOUNCE_EVERY).await;
        } else {
            sleep(retry).await;
            retry = (retry * 2).min(ANNOUNCE_EVERY);
        }
    }
}

/// Keeps a download's watchers informed; wakes them only with news.
async fn report(swarm: &Swarm, purpose: &Purpose) -> Infallible {
    let Purpose::Download { progress, .. } = purpose else { return std::future::pending().await };
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    loop {
        tick.tick().await;
        let stage = swarm.stage.borrow().clone();
        let pieces = stage.live().map_or(0, |live| live.have.borrow().count());
        let (peers, finished) = (swarm.peers(), stage.is_complete());
        progress.send_if_modified(|progress| {
            let now = (pieces, peers, finished, stage.metainfo());
            let news = now != (progress.pieces, progress.peers, progress.finished, progress.metainfo.as_ref());
            *progress = Progress { metainfo: stage.metainfo().cloned(), pieces, peers, finished, failed: None };
            news
        });
    }
}
