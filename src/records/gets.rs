//! Gets: from the book, or with one lookup in the DHT for all who ask.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;

use super::network::Said;
use super::service::{Inner, Records, now};
use super::single_flight::Says;
use super::{Asker, GetError, GetOptions, Got, Mode, Source};
use crate::dht::GetOutcome;
use crate::wire::id::{PublicKey, Target};
use crate::wire::item::{Salt, VerifiedItem, mutable_target};

/// An answer this young will do for everybody, also for those who ask for none older than now: several clients that ask
/// at the same moment get one lookup, and one client cannot make this server send a hundred packets with each request.
const MIN_AGE: Duration = Duration::from_secs(1);

/// What a lookup of a record came to. The record itself is in the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    /// It goes on, and has found something.
    Found,
    Held,
    NotHeld,
    TimedOut,
}

impl Records {
    /// The newest version of the item of `key` and `salt`; never older than one that was answered before.
    ///
    /// # Errors
    /// Nothing is known here and the DHT cannot be asked; or it was to be asked in any case ([`Mode::Network`]).
    pub async fn get(&self, key: PublicKey, salt: Salt, options: GetOptions) -> Result<Got, GetError> {
        if let Some(got) = self.get_now(&key, &salt, &options) {
            return Ok(got);
        }
        let target = mutable_target(&key, &salt);
        let known = self.inner.book().peek(&target).map(|entry| entry.item);
        self.inner.wanted_if_known(&key, &salt, known.as_ref());
        // There is an age, or the book would have answered.
        let max_age = self.inner.max_age(&target, &options).unwrap_or_default();
        let enough = options.enough();
        let has_enough = |inner: &Inner| enough.is_some() && inner.book().seq(&target) >= enough;
        let looked = self.look_if_older(key, salt, max_age, options.asker, has_enough).await;
        let source = if matches!(looked, Ok(Some(Looked::Held | Looked::Found))) { Source::Dht } else { Source::Cache };
        let got = self.inner.known(&target, &options, source);
        let asked = matches!(looked, Ok(None | Some(Looked::Held | Looked::NotHeld | Looked::Found)));
        match (looked, got.item.is_some()) {
            (_, true) if asked || options.mode != Mode::Network => Ok(got),
            (Ok(Some(Looked::TimedOut)), _) => Err(GetError::TimedOut),
            (Ok(_), _) => Ok(got),
            (Err(error), _) => Err(error),
        }
    }

    /// As [`Self::get`], where the book has the answer; `None` where the DHT is to be asked. Cheap and synchronous.
    #[must_use]
    pub fn get_now(&self, key: &PublicKey, salt: &Salt, options: &GetOptions) -> Option<Got> {
        let target = mutable_target(key, salt);
        if let Some(max_age) = self.inner.max_age(&target, options)
            && !self.inner.is_fresh(&target, max_age)
        {
            return None;
        }
        let got = self.inner.known(&target, options, Source::Cache);
        self.inner.wanted_if_known(key, salt, got.item.as_ref());
        Some(got)
    }

    /// The value whose hash is `target`: the raw bencode.
    ///
    /// # Errors
    /// It is not known here and the DHT cannot be asked.
    pub async fn get_value(&self, target: Target, asker: Asker) -> Result<Option<Vec<u8>>, GetError> {
        if let Some(v) = self.value_now(&target) {
            return Ok(Some(v));
        }
        let look = |_| self.inner.clone().look_for_value(target);
        let admit = || self.inner.admit_lookup(asker);
        let looked = self.inner.values_looked_up.join(target, &self.inner.tasks, admit, look, |_| true).await;
        looked?.unwrap_or(Err(GetError::Stopping))
    }

    /// As [`Self::get_value`], of a value that is here.
    #[must_use]
    pub fn value_now(&self, target: &Target) -> Option<Vec<u8>> {
        self.inner.values().get(target)
    }

    /// Asks the DHT unless that was done at most `max_age` ago; `None` if it was. Whoever `has_enough` once something was
    /// found does not wait for the end.
    pub(super) async fn look_if_older(
        &self,
        key: PublicKey,
        salt: Salt,
        max_age: Duration,
        asker: Asker,
        has_enough: impl Fn(&Inner) -> bool,
    ) -> Result<Option<Looked>, GetError> {
        let target = mutable_target(&key, &salt);
        if self.inner.is_fresh(&target, max_age) {
            return Ok(None);
        }
        let known_seq = self.inner.book().seq(&target);
        self.join_look(key, salt, known_seq, asker, has_enough).await.map(Some)
    }

    /// Asks the DHT for the sake of all who follow the record; with `again`, also for another value with the number that
    /// is known. What came of it, for the metric.
    pub(super) async fn poll(&self, key: PublicKey, salt: Salt, again: bool) -> &'static str {
        let target = mutable_target(&key, &salt);
        if self.inner.is_fresh(&target, self.inner.settings.poll_quickest / 2) {
            return "fresh";
        }
        let before = self.inner.book().peek(&target).map(|entry| entry.item);
        let known_seq = before.as_ref().map(VerifiedItem::seq).filter(|_| !again);
        match self.join_look(key, salt, known_seq, Asker::Us, |_| false).await {
            Ok(Looked::TimedOut) | Err(_) => "failed",
            Ok(_) if self.inner.book().peek(&target).map(|entry| entry.item) != before => "changed",
            Ok(_) => "unchanged",
        }
    }

    async fn join_look(
        &self,
        key: PublicKey,
        salt: Salt,
        known_seq: Option<i64>,
        asker: Asker,
        has_enough: impl Fn(&Inner) -> bool,
    ) -> Result<Looked, GetError> {
        let target = mutable_target(&key, &salt);
        let look = |says| self.inner.clone().look(key, salt.clone(), known_seq, says);
        let admit = || {
            self.inner.admit_lookup(asker)?;
            // Peers may have what the DHT does not.
            if asker != Asker::Us && self.inner.book().seq(&target).is_none() {
                self.inner.wanted(&key, &salt, None);
            }
            Ok(())
        };
        let enough = |looked: &Looked| *looked != Looked::Found || has_enough(&self.inner);
        let looked = self.inner.records_looked_up.join(target, &self.inner.tasks, admit, look, enough).await;
        looked?.ok_or(GetError::Stopping)
    }
}

impl Inner {
    /// How long ago the DHT may have been asked for this get; `None` when it is not to be asked at all.
    fn max_age(&self, target: &Target, options: &GetOptions) -> Option<Duration> {
        let too_old = || options.min_seq.is_some() && self.book().seq(target) < options.min_seq;
        match options.mode {
            Mode::CacheOnly => None,
            Mode::Network => Some(Duration::ZERO),
            Mode::CacheFirst if too_old() => Some(Duration::ZERO),
            Mode::CacheFirst => Some(options.max_age.unwrap_or(self.settings.max_age)),
        }
    }

    /// Whoever asks for what is not known here may be asking for what does not exist: that costs him a lookup first.
    fn wanted_if_known(&self, key: &PublicKey, salt: &Salt, known: Option<&VerifiedItem>) {
        if known.is_some() {
            self.wanted(key, salt, known);
        }
    }

    /// Whether the DHT was asked at most `max_age` ago.
    fn is_fresh(&self, target: &Target, max_age: Duration) -> bool {
        self.book().is_fresh(target, max_age.max(MIN_AGE), now())
    }

    /// What the book has, if it is new enough.
    fn known(&self, target: &Target, options: &GetOptions, source: Source) -> Got {
        let entry = self.book().find(target).filter(|entry| Some(entry.item.seq()) >= options.min_seq);
        let label = match (&entry, source) {
            (None, _) => "none",
            (Some(_), Source::Cache) => "cache",
            (Some(_), Source::Dht) => "dht",
        };
        self.metrics.gets.with_label_values(&[label]).inc();
        match entry {
            Some(entry) => Got { conflict: entry.conflict, item: Some(entry.item), source },
            None => Got { item: None, source, conflict: false },
        }
    }

    /// One lookup. What it finds is in the book, and told to followers, as soon as it is found.
    async fn look(self: Arc<Self>, key: PublicKey, salt: Salt, known_seq: Option<i64>, says: Says<Looked>) -> Looked {
        let target = mutable_target(&key, &salt);
        let search = async {
            let mut search = self.network.find(key, salt, known_seq);
            let mut over = GetOutcome::default();
            while let Some(said) = search.next().await {
                match said {
                    Said::Found(item) => {
                        self.found(item).await;
                        says.say(Looked::Found);
                    }
                    Said::Over(outcome) => over = outcome,
                }
            }
            over
        };
        let Ok(outcome) = self.lookup(search).await else { return Looked::TimedOut };
        let held = match outcome.item {
            Some(item) => {
                let number = item.seq();
                self.found(item).await;
                Some(number) >= self.book().seq(&target)
            }
            None => outcome.holders > 0,
        };
        self.book().checked(target, now());
        if held { Looked::Held } else { Looked::NotHeld }
    }

    async fn found(&self, item: VerifiedItem) {
        if let Ok(slot) = self.store.reserve().await {
            self.learn(slot, item);
        }
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

    fn admit_lookup(&self, asker: Asker) -> Result<(), GetError> {
        if self.lookups_left().take(asker, now()) {
            return Ok(());
        }
        self.metrics.over_quota.with_label_values(&["lookup"]).inc();
        Err(GetError::OverQuota)
    }
}
