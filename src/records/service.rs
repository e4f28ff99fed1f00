//! Joins the book, the disk and the DHT.

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::timeout;

use super::book::{Book, Refusal};
use super::flights::Flights;
use super::listener::Listener;
use super::network::Network;
use super::quota::Quota;
use super::schedule::Schedule;
use super::store::{self, Slot, Store};
use super::topics::{Pace, Topics};
use super::values::Values;
use super::{
    Asker, GetError, GetOptions, Got, Mode, PutError, PutOk, PutOptions, Source, StartError, StoreError, poller,
    publisher,
};
use crate::dht::{Dht, PutOutcome};
use crate::tasks::Tasks;
use crate::wire::id::{InfoHash, PublicKey, Target};
use crate::wire::item::{ItemError, Salt, SignedItem, VerifiedItem, check_value, mutable_target};
use crate::{config, metrics};

/// An answer this young will do for everybody, also for those who ask for none older than now: several clients that ask
/// at the same moment get one lookup, and one client cannot make this server send a hundred packets with each request.
const MIN_AGE: Duration = Duration::from_secs(1);

/// Lookups under way at once; more wait for their turn. Each sends some hundred packets over a few seconds.
const LOOKUPS: usize = 64;

/// The record service. Clones are the same one.
#[derive(Clone)]
pub struct Records {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    settings: config::Records,
    pub(super) metrics: metrics::Records,
    pub(super) tasks: Tasks,
    network: Arc<dyn Network>,
    pub(super) store: Store,
    pub(super) listener: OnceLock<Arc<dyn Listener>>,
    // Std mutexes: each is held for a few synchronous lines, never across an await.
    book: Mutex<Book>,
    values: Mutex<Values>,
    schedule: Mutex<Schedule>,
    // Where two are held, topics before book.
    topics: Mutex<Topics>,
    lookups_left: Mutex<Quota>,
    puts_left: Mutex<Quota>,
    /// The schedule has something earlier than before.
    pub(super) rescheduled: Notify,
    /// A poll may be due earlier than before.
    pub(super) replanned: Notify,
    lookups: Semaphore,
    records_looked_up: Arc<Flights<Looked>>,
    values_looked_up: Arc<Flights<Result<Option<Vec<u8>>, GetError>>>,
}

/// What a lookup of a record came to. The record itself is in the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Held,
    NotHeld,
    TimedOut,
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
        let opened = tokio::task::spawn_blocking(move || {
            let (mut book, mut schedule, mut changes) = (Book::new(capacity), Schedule::default(), Vec::new());
            let (connection, damaged) = store::open(&directory, |entry| {
                if entry.put_here {
                    schedule.loaded(entry.item.target(), started, &mut rand::rng());
                }
                changes.extend(book.load(entry));
            })?;
            for (target, seq) in store::read_floors(&connection, &directory)? {
                changes.extend(book.load_floor(target, seq));
            }
            Ok((connection, damaged, book, schedule, changes))
        });
        let (connection, damaged, book, schedule, changes) = opened.await.expect("opening the store does not panic")?;
        if damaged > 0 {
            tracing::warn!(damaged, "the record store holds rows that are not valid records; they are ignored");
        }
        let store = Store::start(connection, tasks);
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
            listener: OnceLock::new(),
            book: Mutex::new(book),
            values: Mutex::default(),
            schedule: Mutex::new(schedule),
            topics: Mutex::new(Topics::new(
                Pace { quickest: settings.poll_quickest, slowest: settings.poll_slowest.max(settings.poll_quickest) },
                settings.max_subscriptions,
            )),
            lookups_left: Mutex::new(Quota::new(settings.lookups_per_minute, settings.lookup_burst)),
            puts_left: Mutex::new(Quota::new(settings.puts_per_minute, settings.put_burst)),
            rescheduled: Notify::new(),
            replanned: Notify::new(),
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

    /// Whether a verified record names this torrent. Cheap and synchronous.
    #[must_use]
    pub fn points_to(&self, info_hash: &InfoHash) -> bool {
        self.inner.book().points_to(info_hash)
    }

    /// The newest version of the item of `key` and `salt`; never older than one that was answered before.
    ///
    /// # Errors
    /// Nothing is known here and the DHT cannot be asked; or it was to be asked in any case ([`Mode::Network`]).
    pub async fn get(&self, key: PublicKey, salt: Salt, options: GetOptions) -> Result<Got, GetError> {
        let target = mutable_target(&key, &salt);
        self.inner.asked(&key, &salt);
        let looked = match self.max_age(&target, &options) {
            Some(max_age) => self.look_if_older(key, salt, max_age, options.asker).await,
            None => Ok(None),
        };
        let source = if looked == Ok(Some(Looked::Held)) { Source::Dht } else { Source::Cache };
        let entry = self.inner.book().find(&target).filter(|entry| Some(entry.item.seq()) >= options.min_seq);
        let label = match (&entry, source) {
            (None, _) => "none",
            (Some(_), Source::Cache) => "cache",
            (Some(_), Source::Dht) => "dht",
        };
        self.inner.metrics.gets.with_label_values(&[label]).inc();
        let asked = matches!(looked, Ok(None | Some(Looked::Held | Looked::NotHeld)));
        let entry = entry.filter(|_| asked || options.mode != Mode::Network);
        match (entry, looked) {
            (Some(entry), _) => Ok(Got { item: Some(entry.item), source, conflict: entry.conflict }),
            (None, Ok(Some(Looked::TimedOut))) => Err(GetError::TimedOut),
            (None, Ok(_)) => Ok(Got { item: None, source, conflict: false }),
            (None, Err(error)) => Err(error),
        }
    }

    /// How long ago the DHT may have been asked for this get; `None` when it is not to be asked at all.
    fn max_age(&self, target: &Target, options: &GetOptions) -> Option<Duration> {
        let too_old = || options.min_seq.is_some() && self.inner.book().seq(target) < options.min_seq;
        match options.mode {
            Mode::CacheOnly => None,
            Mode::Network => Some(Duration::ZERO),
            Mode::CacheFirst if too_old() => Some(Duration::ZERO),
            Mode::CacheFirst => Some(options.max_age.unwrap_or(self.inner.settings.max_age)),
        }
    }

    /// The value whose hash is `target`: the raw bencode.
    ///
    /// # Errors
    /// It is not known here and the DHT cannot be asked.
    pub async fn get_value(&self, target: Target, asker: Asker) -> Result<Option<Vec<u8>>, GetError> {
        if let Some(v) = self.inner.values().get(&target) {
            return Ok(Some(v));
        }
        let look = self.inner.clone().look_for_value(target);
        let admit = || self.inner.admit_lookup(asker);
        let looked = self.inner.values_looked_up.join(target, &self.inner.tasks, admit, look).await;
        looked?.unwrap_or(Err(GetError::Stopping))
    }

    /// Stores a version: on disk here, then in the DHT. With `cas`, only over the version of that number.
    ///
    /// Once begun it is carried to its end, also when nobody waits for it any more.
    ///
    /// # Errors
    /// The item is not valid, something newer is known, or it cannot be kept.
    pub async fn put(&self, item: SignedItem, options: PutOptions) -> Result<PutOk, PutError> {
        let result = match item.verify() {
            Ok(item) if self.inner.admit_put(&item, options.asker) => {
                self.to_the_end(async move |records| records.put_verified(item, options.cas).await).await
            }
            Ok(_) => Err(PutError::OverQuota),
            Err(error) => Err(error.into()),
        };
        self.count_put(result.as_ref().map(|_| ()).map_err(PutError::code));
        result
    }

    /// Stores an immutable value in the DHT. It is kept here for a while only.
    ///
    /// # Errors
    /// The value is not one that nodes take.
    pub async fn put_value(&self, v: Vec<u8>, asker: Asker) -> Result<PutOk, PutError> {
        let result = match check_value(&v) {
            Ok(()) if !self.inner.take_put(asker) => Err(PutError::OverQuota),
            Ok(()) => self.to_the_end(async move |records| Ok(records.put_checked_value(v).await?)).await,
            Err(error) => Err(error.into()),
        };
        self.count_put(result.as_ref().map(|_| ()).map_err(PutError::code));
        result
    }

    async fn put_verified(&self, item: VerifiedItem, cas: Option<i64>) -> Result<PutOk, PutError> {
        if cas.is_some() {
            // The put itself was charged; what it has to know first is part of it.
            let looked = self.look_if_older(*item.key(), item.salt().clone(), Duration::ZERO, Asker::Us).await;
            match looked {
                Ok(Some(Looked::TimedOut)) => return Err(PutError::Unsure(GetError::TimedOut)),
                Ok(_) => {}
                Err(error) => return Err(PutError::Unsure(error)),
            }
        }
        let slot = self.inner.store.reserve().await?;
        let (is_news, taken, written) = {
            let mut book = self.inner.book();
            let is_news = book.peek(&item.target()).is_none_or(|known| item.replaces(&known.item));
            let step = book.put(item.clone(), cas);
            (is_news, step.outcome, slot.write_durably(step.changes))
        };
        self.update_count();
        let entry = taken.map_err(|refusal| match refusal {
            Refusal::CasMismatch(current) => PutError::CasMismatch(Box::new(current)),
            Refusal::Stale(current) => PutError::Stale(Box::new(current)),
            Refusal::BelowFloor(floor) => PutError::BelowFloor(floor),
        })?;
        written.await?;
        if is_news {
            self.inner.tell(&item);
        }
        self.inner.asked(item.key(), item.salt());
        let outcome = self.publish(entry.item, cas).await;
        if let Some(stands) = outcome.newer {
            return self.lost_to(stands, &item, cas);
        }
        Ok(PutOk { target: item.target(), stored: outcome.stored, conflict: entry.conflict })
    }

    /// Nodes hold a version that stands in the way, though a moment ago none was known: another server's client was
    /// faster. If by the rules it loses against ours, they are told at the next publication.
    fn lost_to(&self, stands: VerifiedItem, item: &VerifiedItem, cas: Option<i64>) -> Result<PutOk, PutError> {
        let stands = Box::new(stands);
        match cas {
            Some(_) => Err(PutError::CasMismatch(stands)),
            None if stands.replaces(item) => Err(PutError::Stale(stands)),
            None => Ok(PutOk { target: item.target(), stored: 0, conflict: stands.conflicts_with(item) }),
        }
    }

    /// Sends a version to the DHT, keeps what stands in its way there, and notes when to do it again.
    pub(super) async fn publish(&self, item: VerifiedItem, cas: Option<i64>) -> PutOutcome {
        let target = item.target();
        let mut outcome = self.put_to_network(item.clone(), cas).await;
        // What stands in the way of `cas` may be this very version, or one before the version `cas` names, when a put of
        // that did not reach the DHT. In both cases the book has been asked already.
        if outcome.newer.as_ref().is_some_and(|stands| *stands == item || Some(stands.seq()) < cas) {
            outcome = self.put_to_network(item, None).await;
        }
        if let Some(stands) = &outcome.newer
            && let Ok(slot) = self.inner.store.reserve().await
        {
            self.inner.learn(slot, stands.clone());
        }
        self.inner.book().checked(target, now());
        self.inner.schedule().published(target, outcome.stored, now(), &mut rand::rng());
        self.inner.rescheduled.notify_one();
        outcome
    }

    async fn put_to_network(&self, item: VerifiedItem, cas: Option<i64>) -> PutOutcome {
        timeout(self.inner.settings.timeout, self.inner.network.put(item, cas)).await.unwrap_or_default()
    }

    async fn put_checked_value(&self, v: Vec<u8>) -> Result<PutOk, ItemError> {
        let target = self.inner.values().insert(v.clone());
        let put = timeout(self.inner.settings.timeout, self.inner.network.put_immutable(v)).await;
        let outcome = put.unwrap_or_else(|_| Ok(PutOutcome::default()))?;
        Ok(PutOk { target, stored: outcome.stored, conflict: false })
    }

    /// Asks the DHT unless that was done at most `max_age` ago; `None` if it was.
    async fn look_if_older(
        &self,
        key: PublicKey,
        salt: Salt,
        max_age: Duration,
        asker: Asker,
    ) -> Result<Option<Looked>, GetError> {
        let target = mutable_target(&key, &salt);
        if self.inner.book().is_fresh(&target, max_age.max(MIN_AGE), now()) {
            return Ok(None);
        }
        let look = self.inner.clone().look(key, salt, target);
        let admit = || self.inner.admit_lookup(asker);
        let looked = self.inner.records_looked_up.join(target, &self.inner.tasks, admit, look).await;
        looked?.map(Some).ok_or(GetError::Stopping)
    }

    /// Asks the DHT for the sake of all who follow the record. What came of it, for the metric.
    pub(super) async fn poll(&self, key: PublicKey, salt: Salt) -> &'static str {
        let target = mutable_target(&key, &salt);
        let before = self.inner.book().seq(&target);
        match self.look_if_older(key, salt, self.inner.settings.poll_quickest / 2, Asker::Us).await {
            Ok(None) => "fresh",
            Ok(Some(Looked::TimedOut)) | Err(_) => "failed",
            Ok(Some(_)) if self.inner.book().seq(&target) > before => "changed",
            Ok(Some(_)) => "unchanged",
        }
    }

    /// Runs `work` as a task, so that it is not dropped half done when whoever asked goes away.
    async fn to_the_end<F, T>(&self, work: impl FnOnce(Records) -> F) -> Result<T, PutError>
    where
        F: Future<Output = Result<T, PutError>> + Send + 'static,
        T: Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let work = work(self.clone());
        self.inner.tasks.spawn_cancellable(async move {
            let _ = done.send(work.await);
        });
        result.await.unwrap_or(Err(PutError::Store(StoreError::Stopping)))
    }

    fn count_put(&self, result: Result<(), i64>) {
        let label = result.map_or_else(|code| code.to_string(), |()| "stored".to_owned());
        self.inner.metrics.puts.with_label_values(&[&label]).inc();
    }

    fn update_count(&self) {
        self.inner.update_count();
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

    fn lookups_left(&self) -> MutexGuard<'_, Quota> {
        self.lookups_left.lock().expect("nothing panics while holding it")
    }

    fn puts_left(&self) -> MutexGuard<'_, Quota> {
        self.puts_left.lock().expect("nothing panics while holding it")
    }

    fn values(&self) -> MutexGuard<'_, Values> {
        self.values.lock().expect("nothing panics while holding it")
    }

    async fn look(self: Arc<Self>, key: PublicKey, salt: Salt, target: Target) -> Looked {
        let known_seq = self.book().seq(&target);
        let Ok(outcome) = self.lookup(self.network.get(key, salt, known_seq)).await else { return Looked::TimedOut };
        let held = outcome.holders > 0 || outcome.item.is_some();
        if let Some(item) = outcome.item
            && let Ok(slot) = self.store.reserve().await
        {
            self.learn(slot, item);
        }
        self.book().checked(target, now());
        if held { Looked::Held } else { Looked::NotHeld }
    }

    async fn look_for_value(self: Arc<Self>, target: Target) -> Result<Option<Vec<u8>>, GetError> {
        let found = self.lookup(self.network.get_immutable(target)).await?;
        if let Some(v) = &found {
            self.values().insert(v.clone());
        }
        Ok(found)
    }

    /// Waits for its turn, then for the answer.
    async fn lookup<T>(&self, question: impl Future<Output = T>) -> Result<T, GetError> {
        let in_turn = async {
            let _permit = self.lookups.acquire().await;
            question.await
        };
        timeout(self.settings.timeout, in_turn).await.map_err(|_| GetError::TimedOut)
    }

    /// Takes what others had into the book, and tells whether it was news. The slot is used under the book's lock, so that
    /// the disk sees the changes in the order in which they were made.
    pub(super) fn learn(&self, slot: Slot, item: VerifiedItem) -> bool {
        let newer = {
            let mut book = self.book();
            let step = book.learn(item.clone());
            slot.write(step.changes);
            step.outcome
        };
        self.update_count();
        if newer {
            self.tell(&item);
            self.newer(&item);
        }
        newer
    }

    fn admit_lookup(&self, asker: Asker) -> Result<(), GetError> {
        if self.lookups_left().take(asker, now()) {
            return Ok(());
        }
        self.metrics.over_quota.with_label_values(&["lookup"]).inc();
        Err(GetError::OverQuota)
    }

    /// A put that the book refuses, or has already, costs the DHT nothing, and nobody anything.
    fn admit_put(&self, item: &VerifiedItem, asker: Asker) -> bool {
        let is_news = self.book().peek(&item.target()).is_none_or(|known| item.replaces(&known.item));
        !is_news || self.take_put(asker)
    }

    fn take_put(&self, asker: Asker) -> bool {
        let admitted = self.puts_left().take(asker, now());
        if !admitted {
            self.metrics.over_quota.with_label_values(&["put"]).inc();
        }
        admitted
    }

    fn update_count(&self) {
        self.metrics.stored.set(self.book().len() as i64);
    }
}

/// The runtime's clock, which tests can stop and wind.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
