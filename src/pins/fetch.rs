//! One swarm of a pinned torrent, from joining to leaving: tells the ledger what comes of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::pin::Reason;
use super::room::{Promise, Room};
use super::service::{Pins, size_of};
use super::torrents::Phase;
use crate::bridge::{self, Pinning, Progress, State, TorrentError};
use crate::wire::id::InfoHash;
use crate::wire::metainfo::Metainfo;

/// How often the ledger and the swarm are compared while they do not agree.
const UNSETTLED: Duration = Duration::from_secs(1);

/// A swarm that nothing came from for so long holds no place any more: others may be fetched beside it.
const STANDS_STILL: Duration = Duration::from_secs(3);

/// Runs until it is told to leave, or the torrent fails.
pub(super) async fn run(
    pins: &Pins,
    info_hash: InfoHash,
    peers: Vec<SocketAddr>,
    leave: CancellationToken,
    look_again: Arc<Notify>,
) {
    let disk_full = Arc::<AtomicBool>::default();
    let promise = pins.inner.room.open(info_hash);
    let pinning = Pinning { metainfo: None, peers, admit: Some(admit(pins.inner.room.clone(), disk_full.clone())) };
    let pin = match pins.inner.bridge.pin(info_hash, pinning).await {
        Ok(pin) => pin,
        Err(error) => return fail(pins, info_hash, &error, false).await,
    };
    let failed = tokio::select! {
        biased;
        () = leave.cancelled() => None,
        error = watch(pins, info_hash, &pin, &look_again, &promise) => Some(error),
    };
    pin.stop().await;
    match failed {
        None => {}
        Some(Ending::Failed(error)) => fail(pins, info_hash, &error, disk_full.load(Ordering::SeqCst)).await,
        Some(Ending::Stalled(reason, sentence)) => report(pins, info_hash, reason, sentence).await,
    }
}

/// How long a repair may take to begin: the bridge checks the disk again first.
const REPAIR_BEGINS: Duration = Duration::from_secs(20);

/// A repair that the ledger knows of. Until the swarm has left the state complete, that state is of before.
#[derive(Default)]
struct Repair {
    since: Option<Instant>,
    begun: bool,
}

impl Repair {
    /// Whether what the swarm says now is of after the repair.
    fn is_over(&mut self, phase: &Phase, state: State) -> bool {
        if !matches!(phase, Phase::Repairing(_)) {
            *self = Self::default();
            return true;
        }
        self.begun |= state != State::Complete;
        let since = *self.since.get_or_insert_with(Instant::now);
        state == State::Complete && (self.begun || since.elapsed() >= REPAIR_BEGINS)
    }
}

/// Why a swarm is left without having been told to.
enum Ending {
    Failed(TorrentError),
    Stalled(Reason, String),
}

async fn watch(pins: &Pins, info_hash: InfoHash, pin: &bridge::Pin, look_again: &Notify, promise: &Promise) -> Ending {
    let mut progress = pin.progress();
    let patience = pins.inner.settings.patience;
    let (mut seen, mut give_up) = ((false, 0), Instant::now() + patience);
    let (mut repair, mut pace) = (Repair::default(), Pace::new());
    loop {
        let now = progress.borrow_and_update().clone();
        if let Some(error) = now.failed {
            return Ending::Failed(error);
        }
        let moved = (now.metainfo.is_some(), now.pieces);
        if moved != seen || now.state == State::Checking {
            (seen, give_up) = (moved, Instant::now() + patience);
        }
        if now.state == State::Complete {
            promise.kept();
        }
        if pace.moves_again(&now) {
            pins.inner.tell(|ledger, at| ledger.pace(&info_hash, true, at)).await;
        }
        let settled = settle(pins, info_hash, &now, &mut repair).await;
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return Ending::Failed(TorrentError::Stopping) },
            () = look_again.notified() => {}
            () = sleep(UNSETTLED), if !settled => {}
            () = sleep_until(pace.still_at), if !now.finished && !pace.is_still => {
                pace.is_still = true;
                pins.inner.tell(|ledger, at| ledger.pace(&info_hash, false, at)).await;
            }
            () = sleep_until(give_up), if !now.finished => return Ending::stalled(&now),
        }
    }
}

/// Whether anything comes, if only a part of a piece.
struct Pace {
    seen: (bool, u64),
    still_at: Instant,
    is_still: bool,
}

impl Pace {
    fn new() -> Self {
        Self { seen: (false, 0), still_at: Instant::now() + STANDS_STILL, is_still: false }
    }

    /// Whether something came after it was said that nothing does.
    fn moves_again(&mut self, now: &Progress) -> bool {
        let seen = (now.metainfo.is_some(), now.received);
        if seen == self.seen && now.state != State::Checking {
            return false;
        }
        (self.seen, self.still_at) = (seen, Instant::now() + STANDS_STILL);
        std::mem::take(&mut self.is_still)
    }
}

impl Ending {
    fn stalled(now: &Progress) -> Self {
        match (&now.metainfo, now.peer_count()) {
            (None, 0) => Self::Stalled(Reason::NoPeers, "no peer that has this torrent was found".into()),
            (None, peers) => {
                Self::Stalled(Reason::NoPeers, format!("none of the {peers} peers found has the torrent's metadata"))
            }
            (Some(metainfo), peers) => {
                let (have, of) = (now.pieces, metainfo.pieces());
                Self::Stalled(
                    Reason::Stalled,
                    format!("{have} of {of} pieces are here, and {peers} peers send no more"),
                )
            }
        }
    }
}

/// Tells the ledger what it does not know yet. Whether it and the swarm agree.
async fn settle(pins: &Pins, info_hash: InfoHash, now: &Progress, repair: &mut Repair) -> bool {
    let Some((phase, measured)) = pins.inner.look(|ledger| {
        let torrent = ledger.torrents().get(&info_hash)?;
        Some((torrent.phase.clone(), torrent.size.is_some()))
    }) else {
        return true;
    };
    if let Some(metainfo) = now.metainfo.as_ref().filter(|_| !measured) {
        let size = size_of(metainfo);
        pins.inner.tell(|ledger, at| ledger.measured(&info_hash, size, at)).await;
    }
    let current = repair.is_over(&phase, now.state);
    match (phase, now.state) {
        (Phase::Repairing(_), _) if !current => false,
        (Phase::Active | Phase::Still(_) | Phase::Repairing(_), State::Complete) => {
            pins.inner.tell(|ledger, at| ledger.completed(&info_hash, at)).await;
            true
        }
        // What was thought to be here is not: files were damaged or removed while nobody looked.
        (Phase::Complete, State::Downloading) => {
            let pieces = now.metainfo.as_ref().map_or(0, |metainfo| metainfo.pieces());
            let (missing, good) = (pieces.saturating_sub(now.pieces), now.pieces);
            pins.inner.metrics.verified.with_label_values(&["damaged"]).inc_by(missing as u64);
            pins.inner.metrics.verified.with_label_values(&["good"]).inc_by(good as u64);
            let sentence =
                format!("{missing} of {pieces} pieces on disk are damaged or missing; they are fetched again");
            pins.inner.tell(|ledger, at| ledger.verified(&info_hash, Some(sentence), at)).await;
            true
        }
        (Phase::Complete, _) => true,
        _ => false,
    }
}

/// Asked before anything is downloaded: whether the disk has room. Quotas are the ledger's.
fn admit(room: Arc<Room>, disk_full: Arc<AtomicBool>) -> bridge::Admit {
    Arc::new(move |metainfo: &Metainfo| room.promise(metainfo).inspect_err(|_| disk_full.store(true, Ordering::SeqCst)))
}

async fn fail(pins: &Pins, info_hash: InfoHash, error: &TorrentError, disk_full: bool) {
    let sentence = error.to_string();
    let reason = match error {
        TorrentError::Stopping => return,
        _ if disk_full || is_disk_full(&sentence) => Reason::DiskFull,
        TorrentError::Refused(_) => Reason::NotATorrent,
        TorrentError::InUse | TorrentError::Mismatch(_) | TorrentError::Failed(_) => Reason::Failed,
    };
    let sentence = if reason == Reason::DiskFull && !disk_full {
        format!("the disk is full, or as full as this server may make it ({sentence})")
    } else {
        sentence
    };
    report(pins, info_hash, reason, sentence).await;
}

async fn report(pins: &Pins, info_hash: InfoHash, reason: Reason, sentence: String) {
    pins.inner.metrics.failures.with_label_values(&[reason.code()]).inc();
    pins.inner.tell(|ledger, now| ledger.failed(&info_hash, reason, sentence, now)).await;
}

/// The engine passes the system's error on as text: ENOSPC, EDQUOT, and EFBIG of a limit on file sizes.
fn is_disk_full(sentence: &str) -> bool {
    ["(os error 28)", "(os error 122)", "(os error 27)"].iter().any(|error| sentence.contains(error))
}
