//! The life of one joined torrent: metadata, the check of what is on disk, being live, and leaving.
//!
//! One task owns it. Beside the life itself it polls the two ways by which peers are met, the pages' offers and the
//! dialler; each peer then has a task of its own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::cache::{CacheError, Kept};
use super::dialler;
use super::engine::Running;
use super::liars;
use super::pieces::PieceSet;
use super::policy::{Refusal, admit_size};
use super::progress::{self, Progress};
use super::resume::Resume;
use super::stage::{Live, Stage};
use super::storage::Access;
use super::swarm::{FromPeers, Swarm};
use super::web::{self, Page};
use super::{Inner, TorrentError};
use crate::wire::metainfo::Metainfo;

/// How often a torrent is announced to the DHT. BEP 5 sets no interval; nodes forget a peer after about half an hour.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(20 * 60);

/// How soon an announce that no node took is repeated, at first; it doubles.
const ANNOUNCE_RETRY: Duration = Duration::from_secs(10);

/// Announces to the DHT under way at once: with a few seconds each, a start with a thousand torrents takes minutes, in which
/// nodes still know where we were before, and not a hundred thousand packets in a moment.
pub(super) const ANNOUNCES: usize = 16;

/// How often it is looked up whether the operator has come to deny a torrent.
const LIST_CHECK: Duration = Duration::from_secs(30);

/// Why a torrent is joined, and so where its files are.
pub(super) enum Purpose {
    /// Web peers want it: it is cached, and left when they are gone.
    Bridge,
    /// A record is exchanged; there is no torrent.
    Topic,
    /// The user's own files.
    Seed { metainfo: Metainfo, dir: PathBuf },
    /// The user wants it.
    Download { dir: PathBuf, peers: Vec<SocketAddr>, progress: watch::Sender<Progress> },
    /// It is kept for good.
    Pin { metainfo: Option<Metainfo>, admit: Option<Admit>, peers: Vec<SocketAddr>, progress: watch::Sender<Progress> },
}

impl Purpose {
    fn progress(&self) -> Option<&watch::Sender<Progress>> {
        match self {
            Self::Download { progress, .. } | Self::Pin { progress, .. } => Some(progress),
            Self::Bridge | Self::Topic | Self::Seed { .. } => None,
        }
    }
}

/// Asked when a pin's metadata is known, before anything of it is downloaded; the error is the sentence that
/// [`TorrentError::Refused`] then carries.
pub type Admit = Arc<dyn Fn(&Metainfo) -> Result<(), String> + Send + Sync>;

/// What comes to a torrent from outside its task.
pub(super) struct Inbox {
    pub(super) from_peers: FromPeers,
    pub(super) pages: mpsc::Receiver<Page>,
}

/// Runs a torrent until it fails, is no longer wanted, or is told to end. The error is why, if it did not go by itself.
pub(super) async fn run(
    bridge: Arc<Inner>,
    swarm: Arc<Swarm>,
    inbox: Inbox,
    mut purpose: Purpose,
) -> Option<TorrentError> {
    let given = match &mut purpose {
        Purpose::Download { peers, .. } | Purpose::Pin { peers, .. } => std::mem::take(peers),
        Purpose::Bridge | Purpose::Topic | Purpose::Seed { .. } => Vec::new(),
    };
    let is_pin = matches!(purpose, Purpose::Pin { .. });
    let lingers = matches!(purpose, Purpose::Bridge).then_some(bridge.settings.linger);
    let Inbox { from_peers: FromPeers { metadata, named }, pages } = inbox;
    let (reason, error) = tokio::select! {
        biased;
        () = swarm.token.cancelled() => ("told", Some(TorrentError::Stopping)),
        error = life(&bridge, &swarm, metadata, &purpose) => ("failed", Some(error)),
        () = unused(&swarm, lingers) => ("unused", None),
        () = swarm.is_over() => ("day_full", None),
        refusal = denied(&bridge, &swarm) => ("denied", Some(TorrentError::Refused(refusal.to_string()))),
        never = web::welcome(swarm.clone(), (bridge.endpoint.clone(), bridge.unanswered.clone()), pages, bridge.tasks.clone()) => match never {},
        never = dialler::run(swarm.clone(), bridge.sources.clone(), (given, named), is_pin) => match never {},
    };
    // The peers first, then the engine's torrent, then, with the stage, the files' place.
    swarm.token.cancel();
    // What is whole is not written to any more, and each removal has the engine write its list of all torrents: a thousand
    // of them would take longer than stopping may.
    let is_whole = swarm.stage.borrow().is_complete();
    if !(is_whole && bridge.tasks.is_stopping()) {
        bridge.engine.remove(swarm.info_hash).await;
    }
    settle(&swarm, bridge.tasks.is_stopping()).await;
    swarm.leave();
    bridge.metrics.ended.with_label_values(&[reason]).inc();
    match (&error, reason) {
        (Some(error), "failed") => tracing::warn!(info_hash = %swarm.info_hash, %error, "a torrent failed"),
        _ => tracing::info!(info_hash = %swarm.info_hash, reason, "left a torrent"),
    }
    if let (Some(progress), Some(error)) = (purpose.progress(), &error) {
        progress.send_modify(|progress| progress.failed = Some(error.clone()));
    }
    error
}

/// Notes what is here, now that nothing is written any more, and whether the torrent is to be joined again at the next
/// start.
async fn settle(swarm: &Swarm, again: bool) {
    let live = swarm.stage.borrow().live().cloned();
    let Some(Live { metainfo, have, kept: Some(kept), .. }) = live else { return };
    if !again {
        kept.forget();
    }
    let have = have.borrow().clone();
    if let Err(error) = kept.resume(&metainfo).save(have, true).await {
        tracing::warn!(info_hash = %swarm.info_hash, %error, "cannot note which pieces are here");
    }
}

/// From the info hash to being live, and on until something fails.
async fn life(
    bridge: &Arc<Inner>,
    swarm: &Swarm,
    mut metadata: mpsc::Receiver<Bytes>,
    purpose: &Purpose,
) -> TorrentError {
    if matches!(purpose, Purpose::Topic) {
        match announce_for_good(bridge, swarm).await {}
    }
    let lived = async {
        let metainfo = Arc::new(learn(bridge, swarm, &mut metadata, purpose).await?);
        let place = place(bridge, &metainfo, purpose).await?;
        let resume = place.kept.as_ref().map(|kept| kept.resume(&metainfo));
        let mut known = match &resume {
            Some(resume) => resume.load().await,
            None => None,
        };
        loop {
            let (running, live) = go_live(bridge, swarm, &metainfo, &place, known.take()).await?;
            tokio::select! {
                error = running.failed() => return Err(TorrentError::Failed(error.to_string())),
                () = swarm.to_be_checked_again() => bridge.engine.remove(swarm.info_hash).await,
                never = announce(bridge, swarm, &running, purpose) => match never {},
                never = note(resume.as_ref(), &running) => match never {},
                never = liars::find(swarm, live) => match never {},
            }
        }
    };
    let lived: Result<Infallible, TorrentError> = tokio::select! {
        lived = lived => lived,
        never = reported(swarm, purpose) => match never {},
    };
    match lived {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Checks what is on disk, and lets the peers in.
async fn go_live(
    bridge: &Inner,
    swarm: &Swarm,
    metainfo: &Arc<Metainfo>,
    place: &Place,
    known: Option<PieceSet>,
) -> Result<(Running, Live), TorrentError> {
    let Place { root, access, kept } = place;
    swarm.enter(Stage::Checking(metainfo.clone()));
    let kind = if known.is_some() { "record" } else { "full" };
    bridge.metrics.checks.with_label_values(&[kind]).inc();
    let added = bridge.engine.add(metainfo, root.clone(), *access, known.as_ref()).await;
    let running = added.map_err(|error| match access {
        Access::ReadOnly => TorrentError::Mismatch(error.to_string()),
        Access::ReadWrite => TorrentError::Failed(error.to_string()),
    })?;
    let missing = metainfo.pieces() - running.have().borrow().count();
    if *access == Access::ReadOnly && missing > 0 {
        let pieces = metainfo.pieces();
        return Err(TorrentError::Mismatch(format!("{missing} of {pieces} pieces differ")));
    }
    let live = Live {
        metainfo: metainfo.clone(),
        engine: running.addr(),
        have: running.have(),
        root: root.clone(),
        files: running.files(),
        kept: kept.clone(),
        running: Some(running.clone()),
    };
    swarm.enter(Stage::Live(live.clone()));
    Ok((running, live))
}

/// Notes which pieces are here.
async fn note(resume: Option<&Resume>, running: &Running) -> Infallible {
    if let Some(resume) = resume {
        resume.keep(running.have()).await;
    }
    std::future::pending().await
}

/// The metainfo: given, found in the cache, or fetched from peers.
async fn learn(
    bridge: &Inner,
    swarm: &Swarm,
    metadata: &mut mpsc::Receiver<Bytes>,
    purpose: &Purpose,
) -> Result<Metainfo, TorrentError> {
    if let Purpose::Seed { metainfo, .. } | Purpose::Pin { metainfo: Some(metainfo), .. } = purpose {
        return Ok(metainfo.clone());
    }
    if let Some(metainfo) = bridge.cache.metainfo(swarm.info_hash).await {
        return Ok(metainfo);
    }
    let metadata = metadata.recv().await.ok_or(TorrentError::Stopping)?;
    Metainfo::from_info(metadata).map_err(|error| TorrentError::Refused(error.to_string()))
}

/// Where a torrent's files are.
struct Place {
    root: PathBuf,
    access: Access,
    kept: Option<Arc<Kept>>,
}

async fn place(bridge: &Inner, metainfo: &Metainfo, purpose: &Purpose) -> Result<Place, TorrentError> {
    let refused = |refusal: Refusal| {
        bridge.metrics.refused.with_label_values(&[refusal.label()]).inc();
        TorrentError::Refused(refusal.to_string())
    };
    let taken = |taken: Result<Kept, CacheError>| match taken {
        Ok(kept) => Ok(Place { root: kept.files(), access: Access::ReadWrite, kept: Some(Arc::new(kept)) }),
        Err(CacheError::Full(refusal)) => Err(refused(refusal)),
        Err(error @ CacheError::Io(_)) => Err(TorrentError::Failed(error.to_string())),
    };
    let outside = |root, access| Ok(Place { root, access, kept: None });
    match purpose {
        Purpose::Seed { dir, .. } => outside(dir.clone(), Access::ReadOnly),
        Purpose::Download { dir, .. } if metainfo.is_single_file() => outside(dir.clone(), Access::ReadWrite),
        Purpose::Download { dir, .. } => outside(dir.join(metainfo.name()), Access::ReadWrite),
        Purpose::Pin { admit, .. } => {
            admit.as_ref().map_or(Ok(()), |admit| admit(metainfo)).map_err(TorrentError::Refused)?;
            taken(bridge.cache.keep(metainfo).await)
        }
        // A topic comes to no place: it never has metadata.
        Purpose::Bridge | Purpose::Topic => {
            admit_size(&bridge.settings, metainfo).map_err(refused)?;
            taken(bridge.cache.take_in(metainfo).await)
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

/// Resolves when the operator's list names the torrent.
async fn denied(bridge: &Inner, swarm: &Swarm) -> Refusal {
    let mut tick = tokio::time::interval(LIST_CHECK);
    loop {
        tick.tick().await;
        if bridge.denies(&swarm.info_hash) {
            return Refusal::Denied;
        }
    }
}

/// Tells the DHT where native peers find us, as soon as there is something to give them.
async fn announce(bridge: &Inner, swarm: &Swarm, running: &Running, purpose: &Purpose) -> Infallible {
    let private = swarm.stage.borrow().metainfo().is_some_and(|metainfo| metainfo.is_private());
    let ours = matches!(purpose, Purpose::Bridge | Purpose::Seed { .. } | Purpose::Pin { .. });
    let anything = running.have().wait_for(|have| have.count() > 0).await.is_ok();
    if private || !ours || !anything {
        return std::future::pending().await;
    }
    announce_for_good(bridge, swarm).await
}

async fn announce_for_good(bridge: &Inner, swarm: &Swarm) -> Infallible {
    let mut retry = ANNOUNCE_RETRY;
    loop {
        let turn = bridge.announces.acquire().await;
        let told = bridge.sources.dht.announce(swarm.info_hash, swarm.ourselves.port).await;
        drop(turn);
        if told > 0 {
            retry = ANNOUNCE_RETRY;
            sleep(ANNOUNCE_EVERY).await;
        } else {
            sleep(retry).await;
            retry = (retry * 2).min(ANNOUNCE_EVERY);
        }
    }
}

async fn reported(swarm: &Swarm, purpose: &Purpose) -> Infallible {
    match purpose.progress() {
        Some(progress) => progress::report(swarm, progress).await,
        None => std::future::pending().await,
    }
}
