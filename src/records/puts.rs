//! Puts: compared with the newest version known, on disk before anything else, then in the DHT.

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
        if cas.is_some() {
            // The put itself was charged; what it has to know first is part of it.
            let looked = self.look_if_older(*item.key(), item.salt().clone(), Duration::ZERO, Asker::Us).await;
            match looked {
                Ok(Some(Looked::TimedOut)) => return Err(PutError::Unsure(GetError::TimedOut)),
                Ok(_) => {}
                Err(error) => return Err(PutError::Unsure(error)),
            }
        }
        let (before, entry) = self.keep(&item, cas).await?;
        if before.as_ref().is_none_or(|known| item.replaces(&known.item)) {
            self.inner.tell(&item);
        }
        self.inner.was_put(&entry.item);
        let outcome = self.publish(entry.item, cas).await;
        if let Some(stands) = outcome.newer {
            if cas.is_some() && item.replaces(&stands) {
                self.give_way(&item, before, stands.clone()).await;
            }
            return self.lost_to(stands, &item, cas);
        }
        Ok(PutOk { target: item.target(), stored: outcome.stored, conflict: entry.conflict })
    }

    /// Takes a version to the disk, and only then into the book: what the disk refuses nobody has read. Puts of one record do
    /// this one after the other, so that the disk ends with what the book ends with. What was known before, and what is
    /// now.
    async fn keep(&self, item: &VerifiedItem, cas: Option<i64>) -> Result<(Option<Entry>, Entry), PutError> {
        let target = item.target();
        let _turn = self.inner.writing.of(target).await;
        let slot = self.inner.store.reserve().await?;
        let (before, writes, written) = {
            let mut book = self.inner.book();
            match book.judge(item, cas) {
                Ok(entry) => {
                    let room = book.make_room(&target);
                    self.inner.schedule().cancel_deleted(&room);
                    let changes = [Change::Save(entry)].into_iter().chain(room).collect();
                    (book.peek(&target), book.writes(), slot.write_durably(changes))
                }
                Err(refusal) => {
                    // It may be another value with a known number, which is to be remembered.
                    slot.write(book.put(item.clone(), cas).changes);
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
            let Step { outcome, mut changes } = book.put(item.clone(), cas);
            self.inner.schedule().cancel_deleted(&changes);
            // Unless others have written meanwhile, the disk has this entry as the book has it now.
            changes.retain(|change| !is_as_before || !matches!(change, Change::Save(_)));
            slot.write(changes);
            outcome
        };
        self.inner.update_count();
        Ok((before, taken?))
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

    /// A version that lost, though by its bytes it would win over what stands: it must not come back from here.
    async fn give_way(&self, item: &VerifiedItem, before: Option<Entry>, stands: VerifiedItem) {
        let Ok(slot) = self.inner.store.reserve().await else { return };
        let taken_back = slot.write_durably(self.inner.book().take_back(item, before));
        // Where the disk takes no more, what was put is there; the next publication finds out again.
        let _ = taken_back.await;
        let Ok(slot) = self.inner.store.reserve().await else { return };
        self.inner.learn(slot, stands);
    }

    /// Sends a version to the DHT, keeps what stands in its way there, and notes when to do it again.
    pub(super) async fn publish(&self, item: VerifiedItem, cas: Option<i64>) -> PutOutcome {
        let target = item.target();
        let mut outcome = self.put_to_network(item.clone(), cas).await;
        // Nodes had nothing in its way a moment ago, and have now: somebody puts another version at the same time.
        if outcome.newer.is_none() && outcome.rejected.iter().any(|(code, _)| matches!(code, 301 | 302)) {
            let look = self.inner.network.get(*item.key(), item.salt().clone(), None);
            outcome.newer = timeout(self.inner.settings.timeout, look).await.ok().and_then(|found| found.item);
        }
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
        // It may have had to make room meanwhile.
        if self.inner.book().seq(&target).is_some() {
            self.inner.schedule().published(target, outcome.stored, now(), &mut rand::rng());
            self.inner.rescheduled.notify_one();
        }
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
