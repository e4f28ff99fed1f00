//! Every task has an owner that can cancel it and wait for it.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one node. Clones share the same set; rooms spawn through it and watch [`Tasks::stopping`].
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    token: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `task` until it ends by itself. It must end soon after [`Tasks::stopping`] resolves.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Runs `task` until it ends or the node stops, whichever comes first: for work that may be dropped at any await.
    pub fn spawn_cancellable(&self, task: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        self.tracker.spawn(async move {
            let _: Option<()> = token.run_until_cancelled(task).await;
        });
    }

    /// Resolves when the node stops.
    pub async fn stopping(&self) {
        self.token.cancelled().await;
    }

    /// Whether the node is stopping.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The token behind [`Tasks::stopping`], for code that wants one of its own below it (`child_token`).
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// How many tasks are running.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Asks every task to stop and waits for all of them, at most `deadline`. Returns how many were still running.
    pub async fn stop(&self, deadline: Duration) -> usize {
        self.token.cancel();
        self.tracker.close();
        let _ = tokio::time::timeout(deadline, self.tracker.wait()).await;
        self.tracker.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stopping_waits_for_tasks_and_counts_those_that_hang() {
        let tasks = Tasks::new();
        let polite = tasks.clone();
        tasks.spawn(async move { polite.stopping().await });
        tasks.spawn_cancellable(std::future::pending());
        assert_eq!(tasks.stop(Duration::from_secs(1)).await, 0);

        let tasks = Tasks::new();
        tasks.spawn(std::future::pending());
        assert_eq!(tasks.stop(Duration::from_secs(1)).await, 1);
    }
}
