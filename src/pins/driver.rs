//! Does what the ledger asks for, in order: follows records, joins and leaves swarms. Each swarm has a task of its own
//! (`fetch`), as has each lookup.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::fetch;
use super::ids::Unix;
use super::ledger::Effect;
use super::service::Pins;
use crate::records::{Follower, Following, GetError, GetOptions, News};
use crate::wire::id::{InfoHash, PublicKey, Target};
use crate::wire::item::{Salt, VerifiedItem, mutable_target};

/// A swarm that is joined, or being left.
pub(super) struct Joined {
    /// Cancelled when it is to be left.
    leave: CancellationToken,
    /// Whether its bytes then go.
    forget: watch::Sender<bool>,
    /// Closed when its task is over.
    over: watch::Receiver<()>,
    /// Wakes its task: the ledger may see it differently than before.
    pub(super) look_again: Arc<Notify>,
}

/// The wall clock has whole seconds, and what is due in the past must not be waited for busily.
const TICKS_APART: Duration = Duration::from_secs(1);

/// Each step may have planned something sooner than what the clock waits for. Steps come by the hundred at a start, and a
/// look is over all pins: those within this time are one look. What is planned is seconds away.
const GATHERED: Duration = Duration::from_millis(200);

/// Records that followers were told of, the newest of each.
#[derive(Default)]
struct Mailbox {
    // A std mutex: held for a few synchronous lines.
    news: Mutex<HashMap<Target, VerifiedItem>>,
    arrived: Notify,
}

impl Follower for Mailbox {
    fn newer(self: Arc<Self>, news: &Arc<News>) {
        let item = news.item.clone();
        self.news.lock().expect("nothing panics while holding it").insert(item.target(), item);
        self.arrived.notify_one();
    }
}

/// Runs until the node stops.
pub(super) async fn run(pins: Pins) {
    let mailbox = Arc::<Mailbox>::default();
    let mut following = HashMap::new();
    recover_disk(&pins).await;
    loop {
        for effect in pins.inner.take_effects() {
            perform(&pins, effect, &mailbox, &mut following).await;
        }
        tokio::select! {
            () = pins.inner.asked.notified() => {}
            () = mailbox.arrived.notified() => {
                let news = std::mem::take(&mut *mailbox.news.lock().expect("nothing panics while holding it"));
                for item in news.into_values() {
                    pins.inner.tell(|ledger, now| ledger.record(&item, now)).await;
                }
            }
        }
    }
}

/// The ledger's clock.
pub(super) async fn clock(pins: Pins) {
    let mut last = (Unix::now(), Instant::now());
    loop {
        let due = pins.inner.look(|ledger| ledger.next_tick(last.0));
        tokio::select! {
            () = sleep_until(due_at(due, last.1, Unix::now(), Instant::now())) => {
                last = (Unix::now(), Instant::now());
                pins.inner.tell(|ledger, now| ledger.tick(now)).await;
            }
            () = pins.inner.replanned.notified() => tokio::time::sleep(GATHERED).await,
        }
    }
}

/// When a moment of the wall clock is, as time is measured here; not sooner than a tick's distance after the last.
fn due_at(due: Unix, last: Instant, now: Unix, here: Instant) -> Instant {
    (here + due.since(now)).max(last + TICKS_APART)
}

/// A crash may have left torrents on disk that no pin keeps any more: they become part of the cache.
async fn recover_disk(pins: &Pins) {
    let on_disk = pins.inner.bridge.pinned_on_disk().unwrap_or_default();
    let orphans: Vec<InfoHash> =
        pins.inner.look(|ledger| on_disk.into_iter().filter(|hash| ledger.torrents().get(hash).is_none()).collect());
    for info_hash in orphans {
        if let Err(error) = pins.inner.bridge.release(info_hash).await {
            tracing::warn!(%info_hash, %error, "cannot let go of a torrent that no pin keeps");
        }
    }
}

async fn perform(pins: &Pins, effect: Effect, mailbox: &Arc<Mailbox>, following: &mut HashMap<Target, Following>) {
    match effect {
        Effect::Follow(key, salt) => {
            let target = mutable_target(&key, &salt);
            let slowest = pins.inner.settings.poll_slowest;
            match pins.inner.records.follow_at_leisure((key, salt.clone()), mailbox.clone(), slowest) {
                Ok(place) => drop(following.insert(target, place)),
                Err(error) => tracing::warn!(%error, "a pinned site is not followed"),
            }
            // What is known already is polled in its turn: a start with a thousand sites is no burst of lookups.
            if pins.inner.look(|ledger| ledger.of_site(&target).all(|pin| pin.newest.is_none())) {
                look_up(pins, key, salt);
            }
        }
        Effect::LookUp(key, salt) => look_up(pins, key, salt),
        Effect::Unfollow(target) => {
            following.remove(&target);
            pins.inner.records.abandon(&target);
        }
        Effect::Adopt(item) => pins.inner.records.adopt(item).await,
        Effect::Join(info_hash, origins) => {
            let (over_tx, over) = watch::channel(());
            let (forget, forgets) = watch::channel(false);
            let (leave, look_again) = (pins.inner.tasks.token().child_token(), Arc::<Notify>::default());
            let joined = Joined { leave: leave.clone(), forget, over, look_again: look_again.clone() };
            let before = joined_table(pins).insert(info_hash, joined);
            let pins = pins.clone();
            pins.inner.tasks.clone().spawn(async move {
                if let Some(mut before) = before.map(|before| before.over) {
                    // It was told to leave before this was asked for.
                    while before.changed().await.is_ok() {}
                }
                fetch::run(&pins, info_hash, origins, leave.clone(), look_again).await;
                if *forgets.borrow() {
                    let _ = pins.inner.bridge.release(info_hash).await;
                }
                let mut table = joined_table(&pins);
                if table.get(&info_hash).is_some_and(|joined| joined.leave == leave) {
                    table.remove(&info_hash);
                }
                drop((table, over_tx));
            });
        }
        Effect::Leave { info_hash, forget } => {
            let was_joined = joined_table(pins).get(&info_hash).is_some_and(|joined| {
                joined.forget.send_replace(forget);
                joined.leave.cancel();
                true
            });
            if forget && !was_joined {
                // There may be a part of it on disk.
                let _ = pins.inner.bridge.release(info_hash).await;
            }
        }
    }
}

fn joined_table(pins: &Pins) -> std::sync::MutexGuard<'_, HashMap<InfoHash, Joined>> {
    pins.inner.joined.lock().expect("nothing panics while holding it")
}

/// Looks a record up, as a task.
fn look_up(pins: &Pins, key: PublicKey, salt: Salt) {
    let pins = pins.clone();
    pins.inner.tasks.clone().spawn_cancellable(async move {
        let target = mutable_target(&key, &salt);
        let found = pins.inner.records.get(key, salt, GetOptions::default()).await;
        match found {
            Ok(got) => match got.item {
                Some(item) => pins.inner.tell(|ledger, now| ledger.record(&item, now)).await,
                None => {
                    let why = "no record of this key was found in the DHT";
                    pins.inner.tell(|ledger, now| ledger.no_record(&target, why, now)).await;
                }
            },
            Err(GetError::Stopping) => {}
            Err(error) => {
                let why = format!("the record could not be looked up: {error}");
                pins.inner.tell(|ledger, now| ledger.no_record(&target, &why, now)).await;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However often the clock is asked anew, because something else happened, the moment stays where it is.
    #[test]
    fn what_is_due_is_not_put_off_by_what_happens_meanwhile() {
        let (start, seconds) = (Instant::now(), Duration::from_secs);
        let at = |due, passed| due_at(Unix(due), start, Unix(1000).after(seconds(passed)), start + seconds(passed));
        for passed in 0..15 {
            assert_eq!(at(1015, passed), start + seconds(15), "after {passed} s");
        }
        assert_eq!(at(1015, 20), start + seconds(20), "late is now");
        assert_eq!(at(900, 0), start + TICKS_APART);
    }
}
