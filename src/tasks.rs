//! Every task has an owner that can cancel it and wait for it.

use std::future::Future;
use std::io;
use std::num::NonZero;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one node. Clones share the same set; rooms spawn through it and watch [`Tasks::stopping`].
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    token: CancellationToken,
    tracker: TaskTracker,
    /// Where they run; `None` is wherever they are spawned from.
    threads: Option<Handle>,
}

impl Tasks {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same set, but what is spawned through this clone runs on `threads`.
    #[must_use]
    pub fn on(&self, threads: &Threads) -> Self {
        Self { threads: Some(threads.handle.clone()), ..self.clone() }
    }

    /// Runs `task` until it ends by itself. It must end soon after [`Tasks::stopping`] resolves.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &self.threads {
            Some(threads) => self.tracker.spawn_on(task, threads),
            None => self.tracker.spawn(task),
        };
    }

    /// Runs `task` until it ends or the node stops, whichever comes first: for work that may be dropped at any await.
    pub fn spawn_cancellable(&self, task: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        self.spawn(async move {
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

/// Threads of their own for a room whose tasks wake each other all the time: on one thread that costs nothing, across
/// threads it was a quarter of what the bridge takes (`benches/README.md`). What runs there is dropped with this.
#[derive(Debug)]
pub struct Threads {
    handle: Handle,
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

impl Threads {
    /// As many as half of the processors, one at least: the rest of the node has threads for all of them.
    ///
    /// # Errors
    /// When the system grants none.
    pub fn half(name: &str) -> io::Result<Self> {
        let count = available_parallelism().map_or(1, NonZero::get).div_ceil(2);
        let runtime = Builder::new_multi_thread().worker_threads(count).thread_name(name).enable_all().build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// What `work` comes to, which runs there; what it spawns without an owner does, too.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.handle.spawn(work).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

impl Drop for Threads {
    /// Does not wait: who owns the tasks has done so, and tokio forbids to block where this may be dropped.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn thread() -> Option<String> {
        std::thread::current().name().map(str::to_owned)
    }

    #[tokio::test]
    async fn what_is_spawned_on_other_threads_is_owned_all_the_same() {
        let (tasks, threads) = (Tasks::new(), Threads::half("others").unwrap());
        let (tell, told) = oneshot::channel();
        let polite = tasks.clone();
        tasks.on(&threads).spawn(async move {
            tell.send(thread()).unwrap();
            polite.stopping().await;
        });
        assert_eq!(told.await.unwrap().as_deref(), Some("others"));
        assert_eq!(threads.run(async { thread() }).await.as_deref(), Some("others"));
        assert_eq!(tasks.running(), 1);
        assert_eq!(tasks.stop(Duration::from_secs(10)).await, 0);
    }

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
