//! Joins the book, the disk and the DHT.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use tokio::sync::{Notify, Semaphore};

use super::book::Book;
use super::gets::Looked;
use super::network::Network;
use super::quota::Quota;
use super::schedule::Schedule;
use super::single_flight::SingleFlight;
use super::store;
use super::target_locks::TargetLocks;
use super::topics::{Follower, Pace, Topics};
use super::values::Values;
use super::writer::Store;
use super::{GetError, StartError, poller, publisher};
use crate::dht::Dht;
use crate::tasks::Tasks;
use crate::wire::id::InfoHash;
use crate::{config, metrics};

/// Lookups under way at once; more wait for their turn. Each sends some hundred packets over a few seconds.
const LOOKUPS: usize = 64;

/// The record service. Clones are the same one.
#[derive(Clone)]
pub struct Records {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) settings: config::Records,
    pub(super) metrics: metrics::Records,
    pub(super) tasks: Tasks,
    pub(super) network: Arc<dyn Network>,
    pub(super) store: Store,
    /// Follows every record.
    pub(super) everything: OnceLock<Arc<dyn Follower>>,
    // Std mutexes: each is held for a few synchronous lines, never across an await.
    book: Mutex<Book>,
    values: Mutex<Values>,
    schedule: Mutex<Schedule>,
    // Where two are held, topics before book, and book before schedule.
    topics: Mutex<Topics>,
    lookups_left: Mutex<Quota>,
    puts_left: Mutex<Quota>,
    /// The schedule has something earlier than before.
    pub(super) rescheduled: Notify,
    /// A poll may be due earlier than before.
    pub(super) replanned: Notify,
    /// Of puts that are being written to disk.
    pub(super) writing: TargetLocks,
    /// Of puts with `cas`, until the DHT has decided.
    pub(super) deciding: TargetLocks,
    pub(super) lookups: Semaphore,
    pub(super) records_looked_up: Arc<SingleFlight<Looked>>,
    pub(super) values_looked_up: Arc<SingleFlight<Result<Option<Vec<u8>>, GetError>>>,
}

impl Records {
    /// Reads what is kept in `data_dir` and starts the service.
    ///
    /// # Errors
    /// The directory or the file in it cannot be used.
    pub async fn start(
        settings: &config::Records,
        data_dir: &Path,
        dht: Dht,
        metrics: metrics::Records,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        Self::start_on(Arc::new(dht), settings, data_dir, metrics, tasks).await
    }

    /// Starts the service on any network.
    pub(crate) async fn start_on(
        network: Arc<dyn Network>,
        settings: &config::Records,
        data_dir: &Path,
        metrics: metrics::Records,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let (directory, capacity, started) = (data_dir.to_owned(), settings.max_records, now());
        let mut schedule = Schedule::new(settings.republish_every);
        let opened = tokio::task::spawn_blocking(move || {
            let (mut book, mut changes) = (Book::new(capacity), Vec::new());
            let (connection, damaged) = store::open(&directory, |entry| {
                if entry.put_here {
                    schedule.loaded(entry.item.target(), started, &mut rand::rng());
                }
                changes.extend(book.load(entry));
            })?;
            schedule.cancel_deleted(&changes);
            for (target, seq) in store::read_floors(&connection, &directory)? {
                changes.extend(book.load_floor(target, seq));
            }
            Ok((connection, damaged, book, schedule, changes))
        });
        let (connection, damaged, book, schedule, changes) = opened.await.expect("opening the store does not panic")?;
        if damaged > 0 {
            tracing::warn!(damaged, "the record store holds rows that are not valid records; they are ignored");
        }
        let store = Store::start(connection, metrics.write_failures.clone(), tasks);
        if let Ok(slot) = store.reserve().await {
            slot.write(changes);
        }
        metrics.stored.set(book.len() as i64);
        let inner = Inner {
            settings: settings.clone(),
            metrics,
            tasks: tasks.clone(),
            network,
            store,
            everything: OnceLock::new(),
            book: Mutex::new(book),
            values: Mutex::default(),
            schedule: Mutex::new(schedule),
            topics: Mutex::new(Topics::new(
                Pace { quickest: settings.poll_quickest, slowest: settings.poll_slowest.max(settings.poll_quickest) },
                settings.max_subscriptions,
                now(),
            )),
            lookups_left: Mutex::new(Quota::new(settings.lookups_per_minute, settings.lookup_burst)),
            puts_left: Mutex::new(Quota::new(settings.puts_per_minute, settings.put_burst)),
            rescheduled: Notify::new(),
            replanned: Notify::new(),
            writing: TargetLocks::default(),
            deciding: TargetLocks::default(),
            lookups: Semaphore::new(LOOKUPS),
            records_looked_up: Arc::default(),
            values_looked_up: Arc::default(),
        };
        let records = Self { inner: Arc::new(inner) };
        tasks.spawn_cancellable(publisher::run(records.clone()));
        tasks.spawn_cancellable(poller::run(records.clone(), settings.polls_per_second));
        Ok(records)
    }

    /// How many records are kept.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inner.book().len()
    }

    /// How many records the clients at one address may follow.
    #[must_use]
    pub fn max_subscriptions_per_address(&self) -> usize {
        self.inner.settings.max_subscriptions_per_address
    }

    /// Whether a verified record names this torrent. Cheap and synchronous.
    #[must_use]
    pub fn points_to(&self, info_hash: &InfoHash) -> bool {
        self.inner.book().points_to(info_hash)
    }
}

impl Inner {
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nothing panics while holding it")
    }

    pub(super) fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().expect("nothing panics while holding it")
    }

    pub(super) fn topics(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().expect("nothing panics while holding it")
    }

    pub(super) fn lookups_left(&self) -> MutexGuard<'_, Quota> {
        self.lookups_left.lock().expect("nothing panics while holding it")
    }

    pub(super) fn puts_left(&self) -> MutexGuard<'_, Quota> {
        self.puts_left.lock().expect("nothing panics while holding it")
    }

    pub(super) fn values(&self) -> MutexGuard<'_, Values> {
        self.values.lock().expect("nothing panics while holding it")
    }

    pub(super) fn update_count(&self) {
        self.metrics.stored.set(self.book().len() as i64);
    }
}

/// The runtime's clock, which tests can stop and wind.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Waits until the `next` moment has come; `earlier` says that it may be another one by now.
pub(super) async fn wait_until_due(next: impl Fn() -> Option<Instant>, earlier: &Notify) {
    loop {
        let changed = earlier.notified();
        match next() {
            Some(at) if at <= now() => return,
            Some(at) => {
                tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => return,
                    () = changed => {}
                }
            }
            None => changed.await,
        }
    }
}
