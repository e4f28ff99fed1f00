//! Puts: compared with the newest version known, on disk before they are acknowledged, and in the DHT.

use std::future::Future;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::book::{Change, Entry, Refusal, Step};
use super::gets::Looked;
use super::service::{Inner, Records, now};
use super::writer::Slot;
use super::{Asker, GetError, PutError, PutOk, PutOptions, StoreError};
use crate::dht::PutOutcome;
use crate::wire::id::Target;
use crate::wire::item::{ItemError, SignedItem, VerifiedItem, check_value};

impl Records {
    /// Stores a version: on disk here, then in the DHT. With `cas`, only over the version of that number.
    ///
    /// Once begun it is carried to its end, also when nobody waits for it any more.
    ///
    /// # Errors
    /// The item is not valid, something newer is known, or it cannot be kept.
    pub async fn put(&self, item: SignedItem, options: PutOptions) -> Result<PutOk, PutError> {
        let result = match item.verify() {
            Ok(item) => self.put_if_need_be(item, options).await,
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

    /// What is refused anyway, or was published lately, is answered at once: that costs neither the disk nor the DHT
    /// anything, and so not the asker. Everything else is charged.
    async fn put_if_need_be(
        &self,
        item: VerifiedItem,
        PutOptions { cas, asker }: PutOptions,
    ) -> Result<PutOk, PutError> {
        if let Some(done) = self.inner.done_lately(&item) {
            return Ok(done);
        }
        if self.inner.book().refuses(&item) {
            let slot = self.inner.store.reserve().await?;
            if let Some(refusal) = self.inner.refuse(slot, &item, cas) {
                return Err(refusal.into());
            }
        }
        if !self.inner.take_put(asker) {
            return Err(PutError::OverQuota);
        }
        self.to_the_end(async move |records| records.put_verified(item, cas).await).await
    }

    async fn put_verified(&self, item: VerifiedItem, cas: Option<i64>) -> Result<PutOk, PutError> {
        match cas {
            None => self.put_over_anything(item).await,
            Some(cas) => self.put_over(cas, item).await,
        }
    }

    /// Kept, told and published, in this order: of two versions the newer wins, wherever they meet.
    async fn put_over_anything(&self, item: VerifiedItem) -> Result<PutOk, PutError> {
        let entry = self.keep_and_tell(&item, Vec::new()).await?;
        let outcome = self.publish(item.clone(), None).await;
        match outcome.newer.map(Box::new) {
            // What loses by the rules is told so at the next publication.
            Some(stands) if stands.replaces(&item) => Err(PutError::Stale(stands)),
            Some(stands) => {
                Ok(PutOk { target: item.target(), stored: outcome.stored, conflict: stands.conflicts_with(&item) })
            }
            None => Ok(PutOk { target: item.target(), stored: outcome.stored, conflict: entry.conflict }),
        }
    }

    /// Published, and then kept and told: another server may have a put of the same `cas` under way, and the DHT decides
    /// which of them was the first. Until it has, nobody is shown a version that may have lost.
    async fn put_over(&self, cas: i64, item: VerifiedItem) -> Result<PutOk, PutError> {
        let target = item.target();
        let _turn = self.inner.deciding.of(target).await;
        // The put itself was charged; what it has to know first is part of it. Where the book has the very version that it is
        // put over, a look would tell nothing: the DHT looks for a newer one before it stores.
        if self.inner.book().seq(&target) != Some(cas) {
            self.look_first(&item).await?;
        }
        let slot = self.inner.store.reserve().await?;
        let judged = self.inner.book().judge(&item, Some(cas));
        if let Err(refusal) = judged {
            if let Refusal::Stale(_) = refusal {
                // It may be a second value with a known number.
                self.inner.learn(slot, item);
            }
            return Err(refusal.into());
        }
        // What the disk would refuse does not reach the DHT.
        slot.write_durably(vec![Change::Intend(item.clone())]).await?;
        let outcome = self.publish_in_time(item.clone(), Some(cas)).await;
        let undecided = || Some(PutError::Unsure(GetError::TimedOut));
        let lost = match &outcome {
            None => undecided(),
            Some(PutOutcome { newer: Some(stands), .. }) => Some(PutError::CasMismatch(Box::new(stands.clone()))),
            // Refused by all, for something that was not to be found: it may still be the other's.
            Some(outcome) if outcome.stored == 0 && is_contested(outcome) => undecided(),
            Some(_) => None,
        };
        if let Some(lost) = lost {
            if let Ok(slot) = self.inner.store.reserve().await {
                slot.write(vec![Change::Decided(target)]);
            }
            return Err(lost);
        }
        let entry = self.keep_and_tell(&item, vec![Change::Decided(target)]).await?;
        let stored = outcome.map_or(0, |outcome| outcome.stored);
        self.inner.published(target, stored);
        Ok(PutOk { target, stored, conflict: entry.conflict })
    }

    /// Has the book know what the DHT does.
    async fn look_first(&self, item: &VerifiedItem) -> Result<(), PutError> {
        let (key, salt) = (*item.key(), item.salt().clone());
        match self.look_if_older(key, salt, Duration::ZERO, Asker::Us, |_| false).await {
            Ok(Some(Looked::TimedOut)) => Err(PutError::Unsure(GetError::TimedOut)),
            Ok(_) => Ok(()),
            Err(error) => Err(PutError::Unsure(error)),
        }
    }

    /// Keeps a version, together with `changes`, and tells followers of it.
    async fn keep_and_tell(&self, item: &VerifiedItem, changes: Vec<Change>) -> Result<Entry, PutError> {
        let (before, entry) = self.keep(item, changes).await?;
        if before.is_none_or(|known| item.replaces(&known.item)) {
            self.inner.tell(item);
        }
        self.inner.was_put(&entry.item);
        Ok(entry)
    }

    /// Takes a version to the disk, and only then into the book: what the disk refuses nobody has read. Puts of one record do
    /// this one after the other, so that the disk ends with what the book ends with. What was known before, and what is
    /// now. `changes` are written with it.
    async fn keep(&self, item: &VerifiedItem, changes: Vec<Change>) -> Result<(Option<Entry>, Entry), PutError> {
        let target = item.target();
        let _turn = self.inner.writing.of(target).await;
        let slot = self.inner.store.reserve().await?;
        let (before, writes, written) = {
            let mut book = self.inner.book();
            match book.judge(item, None) {
                Ok(entry) => {
                    let room = book.make_room(&target);
                    self.inner.schedule().cancel_deleted(&room);
                    let changes = [Change::Save(entry)].into_iter().chain(room).chain(changes).collect();
                    (book.peek(&target), book.writes(), slot.write_durably(changes))
                }
                Err(refusal) => {
                    // It may be another value with a known number, which is to be remembered.
                    slot.write(book.put(item.clone(), None).changes.into_iter().chain(changes).collect());
                    return Err(refusal.into());
                }
            }
        };
        self.inner.update_count();
        written.await?;
        let slot = self.inner.store.reserve().await?;
        let taken = {
            let mut book = self.inner.book();
            let is_as_before = book.writes() == writes;
            let Step { outcome, mut changes } = book.put(item.clone(), None);
            self.inner.schedule().cancel_deleted(&changes);
            // Unless others have written meanwhile, the disk has this entry as the book has it now.
            changes.retain(|change| !is_as_before || !matches!(change, Change::Save(_)));
            slot.write(changes);
            outcome
        };
        self.inner.update_count();
        Ok((before, taken?))
    }

    /// Sends a version to the DHT, keeps what stands in its way there, and notes when to do it again.
    pub(super) async fn publish(&self, item: VerifiedItem, cas: Option<i64>) -> PutOutcome {
        self.publish_in_time(item, cas).await.unwrap_or_default()
    }

    /// As [`Self::publish`]; `None` when the DHT did not answer in time: nobody knows what became of it.
    async fn publish_in_time(&self, item: VerifiedItem, cas: Option<i64>) -> Option<PutOutcome> {
        let target = item.target();
        let Some(mut outcome) = self.put_to_network(item.clone(), cas).await else {
            self.inner.published(target, 0);
            return None;
        };
        // Nodes had nothing in its way a moment ago, and have now: somebody puts another version at the same time.
        if outcome.newer.is_none() && is_contested(&outcome) {
            let look = self.inner.network.get(*item.key(), item.salt().clone(), None);
            outcome.newer = timeout(self.inner.settings.timeout, look).await.ok().and_then(|found| found.item);
        }
        // What stands in the way of `cas` may be this very version, or one before the version `cas` names, when a put of
        // that did not reach the DHT. In both cases the book has been asked already.
        if outcome.newer.as_ref().is_some_and(|stands| *stands == item || Some(stands.seq()) < cas) {
            outcome = self.put_to_network(item, None).await.unwrap_or_default();
        }
        if let Some(stands) = &outcome.newer
            && let Ok(slot) = self.inner.store.reserve().await
        {
            self.inner.learn(slot, stands.clone());
        }
        self.inner.published(target, outcome.stored);
        Some(outcome)
    }

    async fn put_to_network(&self, item: VerifiedItem, cas: Option<i64>) -> Option<PutOutcome> {
        timeout(self.inner.settings.timeout, self.inner.network.put(item, cas)).await.ok()
    }

    async fn put_checked_value(&self, v: Vec<u8>) -> Result<PutOk, ItemError> {
        let target = self.inner.values().insert(v.clone());
        let put = timeout(self.inner.settings.timeout, self.inner.network.put_immutable(v)).await;
        let outcome = put.unwrap_or_else(|_| Ok(PutOutcome::default()))?;
        Ok(PutOk { target, stored: outcome.stored, conflict: false })
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
}

/// Whether nodes refused it for the sake of another version.
fn is_contested(outcome: &PutOutcome) -> bool {
    outcome.rejected.iter().any(|(code, _)| matches!(code, 301 | 302))
}

impl From<Refusal> for PutError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::CasMismatch(current) => Self::CasMismatch(current),
            Refusal::Stale(current) => Self::Stale(current),
            Refusal::BelowFloor(floor) => Self::BelowFloor(floor),
        }
    }
}

impl Inner {
    /// Notes that a record was just put to so many nodes, and when to do it again; if it is kept here, that is: it may have
    /// had to make room, or not be decided yet.
    fn published(&self, target: Target, stored: usize) {
        self.book().checked(target, now());
        if self.book().seq(&target).is_some() {
            self.schedule().published(target, stored, now(), &mut rand::rng());
            self.rescheduled.notify_one();
        }
    }

    /// What a put comes to that only repeats one of this server's, because there was no reply. (A version that was merely
    /// seen is put like any other: the author may want this server to keep it, too.)
    fn done_lately(&self, item: &VerifiedItem) -> Option<PutOk> {
        let target = item.target();
        let known = self.book().peek(&target).filter(|known| known.put_here && known.item == *item)?;
        let stored = self.schedule().holders(&target, now())?;
        Some(PutOk { target, stored, conflict: known.conflict })
    }

    /// Refuses a version that one here replaces; `None` if none does any more.
    fn refuse(&self, slot: Slot, item: &VerifiedItem, cas: Option<i64>) -> Option<Refusal> {
        let mut book = self.book();
        if !book.refuses(item) {
            return None;
        }
        let Step { outcome, changes } = book.put(item.clone(), cas);
        slot.write(changes);
        outcome.err()
    }

    fn take_put(&self, asker: Asker) -> bool {
        let admitted = self.puts_left().take(asker, now());
        if !admitted {
            self.metrics.over_quota.with_label_values(&["put"]).inc();
        }
        admitted
    }
}
