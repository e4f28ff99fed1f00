//! Publishes the records that were put here, or adopted, again and again, so that the DHT does not forget them.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::service::{Records, now, wait_until_due};

/// Publications under way at once. Each takes a few seconds, so this keeps up with some ten thousand records an hour.
const AT_ONCE: usize = 8;

/// Runs until the node stops.
pub(super) async fn run(records: Records) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        wait_until_due(|| records.inner.schedule().next(), &records.inner.rescheduled).await;
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        let Some(target) = records.inner.schedule().pop(now()) else { continue };
        let Some(item) = records.inner.book().to_publish(&target) else {
            records.inner.schedule().remove(&target);
            continue;
        };
        let records = records.clone();
        records.inner.tasks.clone().spawn_cancellable(async move {
            let outcome = records.publish(item, None).await;
            let result = if outcome.stored > 0 { "stored" } else { "failed" };
            records.inner.metrics.republished.with_label_values(&[result]).inc();
            drop(turn);
        });
    }
}
