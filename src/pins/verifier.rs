//! Reads what is kept back from disk, in turns, and compares it: bytes rot, and nobody notices until they are asked for.
//!
//! One torrent at a time, and most of the time none: a fifth of the time at most is spent on what nobody asked for.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::VersionState;
use super::ids::Unix;
use super::service::Pins;
use super::torrents::Phase;
use crate::wire::id::InfoHash;

/// How often it is looked what is due, at least: what was fetched meanwhile has its own moment.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The pause after reading for some time is this many times as long.
const REST: u32 = 4;

/// The pause after something that could not be read, since its swarm is being joined or left: it would be the next again.
const NOT_NOW: Duration = Duration::from_secs(1);

/// Runs until the node stops.
pub(super) async fn run(pins: Pins) {
    loop {
        let asked = pins.inner.to_verify.lock().expect("nothing panics while holding it").pop_front();
        let (next, wait) = match (asked, oldest(&pins)) {
            (Some(info_hash), _) => (Some(info_hash), Duration::ZERO),
            (None, Some((Duration::ZERO, info_hash))) => (Some(info_hash), Duration::ZERO),
            (None, Some((wait, _))) => (None, wait.min(LOOK_EVERY)),
            (None, None) => (None, LOOK_EVERY),
        };
        let Some(info_hash) = next else {
            let _ = timeout(wait, pins.inner.verify_now.notified()).await;
            continue;
        };
        let began = Instant::now();
        if !verify(&pins, info_hash).await {
            sleep(NOT_NOW).await;
        } else if asked.is_none() {
            sleep(began.elapsed() * REST).await;
        }
    }
}

/// The torrent whose bytes were not looked at for longest, and in how long they are to be.
fn oldest(pins: &Pins) -> Option<(Duration, InfoHash)> {
    let (now, every) = (Unix::now(), pins.inner.settings.verify_every);
    pins.inner.look(|ledger| {
        let complete = ledger.torrents().iter().filter(|(_, torrent)| torrent.phase == Phase::Complete);
        let users = complete.flat_map(|(info_hash, torrent)| torrent.users.keys().map(move |pin| (info_hash, pin)));
        let verified = users.filter_map(|(info_hash, pin)| {
            let pin = ledger.find(super::Who::Operator, pin)?;
            let kept =
                |version: &&super::Version| version.info_hash == *info_hash && version.state == VersionState::Kept;
            let verified = pin.versions.iter().find(kept)?.verified.unwrap_or(Unix(0));
            Some((verified, *info_hash))
        });
        verified.min().map(|(verified, info_hash)| (every.saturating_sub(now.since(verified)), info_hash))
    })
}

/// Whether it could be read.
async fn verify(pins: &Pins, info_hash: InfoHash) -> bool {
    let Some(content) = pins.inner.bridge.content(&info_hash) else { return false };
    let Some(verified) = pins.inner.bridge.verify(&info_hash).await else { return false };
    let (good, damaged) = (verified.good, verified.damaged.len());
    pins.inner.metrics.verified.with_label_values(&["good"]).inc_by(good as u64);
    pins.inner.metrics.verified.with_label_values(&["damaged"]).inc_by(damaged as u64);
    let of = content.metainfo().pieces();
    let trouble =
        (damaged > 0).then(|| format!("{damaged} of {of} pieces on disk are damaged; they are fetched again"));
    pins.inner.tell(|ledger, now| ledger.verified(&info_hash, trouble, now)).await;
    if let Some(joined) = pins.inner.joined.lock().expect("nothing panics while holding it").get(&info_hash) {
        joined.look_again.notify_one();
    }
    true
}
