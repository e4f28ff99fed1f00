//! Asks the DHT about the records that somebody follows.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};

use super::service::{Records, now, wait_until_due};
use super::topics::Due;

/// Polls under way at once: half of all lookups, so that those whom somebody waits for find a turn.
const AT_ONCE: usize = 32;

/// Runs until the node stops. Polls start at an even pace, `polls_per_second` at most: past what that carries, every
/// topic's turn just comes later.
pub(super) async fn run(records: Records, polls_per_second: u32) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut pace = interval(Duration::from_secs(1) / polls_per_second.max(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        wait_until_due(|| records.inner.topics().next_poll(), &records.inner.replanned).await;
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        let Some(Due { target, subject: (key, salt), again }) = records.inner.topics().pop_due(now()) else { continue };
        let records = records.clone();
        records.inner.tasks.clone().spawn_cancellable(async move {
            let result = records.poll(key, salt, again).await;
            records.inner.metrics.polls.with_label_values(&[result]).inc();
            records.inner.topics().polled(target, now(), &mut rand::rng());
            records.inner.replanned.notify_one();
            drop(turn);
        });
    }
}
