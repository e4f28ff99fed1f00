//! Following records: what [`Records`] offers to those who want to hear of newer versions, and how they are told.

use std::sync::Arc;

use super::service::{Inner, Records, now};
use super::topics::{Follower, News, Subject, TooMany};
use super::writer::Slot;
use crate::wire::id::{PublicKey, Target};
use crate::wire::item::{Salt, VerifiedItem, mutable_target};

/// A follower's place with one record. Dropping it ends the following.
pub struct Following {
    pub(super) records: Records,
    pub(super) target: Target,
    pub(super) number: u32,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.records.unfollow(&[(self.target, self.number)]);
    }
}

/// A follower's places with any number of records, 24 bytes each: there may be hundreds of thousands.
#[derive(Default)]
pub struct Followings {
    /// Each with the follower's number there.
    places: Vec<(Target, u32)>,
}

impl Followings {
    /// How many records are followed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether this record is followed.
    #[must_use]
    pub fn has(&self, target: &Target) -> bool {
        self.places.iter().any(|(known, _)| known == target)
    }

    fn add(&mut self, target: Target, number: u32) {
        if self.places.len() == self.places.capacity() {
            // Most follow one record, or a few, of which doubling would waste a third.
            self.places.reserve_exact(1 + self.places.len() / 4);
        }
        self.places.push((target, number));
    }

    fn remove(&mut self, target: &Target) -> Option<(Target, u32)> {
        let at = self.places.iter().position(|(known, _)| known == target)?;
        Some(self.places.swap_remove(at))
    }
}

impl Records {
    /// Has `follower` told of each newer version of the record, from now on. What is known now is for [`Self::get`]: asked
    /// after this, nothing falls between the two.
    ///
    /// # Errors
    /// As much is followed as may be.
    pub fn follow(&self, subject: Subject, follower: Arc<dyn Follower>) -> Result<Following, TooMany> {
        let target = mutable_target(&subject.0, &subject.1);
        let number = self.place(target, Some(subject), follower)?;
        Ok(Following { records: self.clone(), target, number })
    }

    /// As [`Self::follow`], for one who follows many, and of a record of which perhaps no more than the target is known:
    /// then the DHT cannot be asked, and news are only what comes otherwise. The place is with `followings` until
    /// [`Self::end`] or [`Self::end_all`]; one that is there already stays as it is.
    ///
    /// # Errors
    /// As much is followed as may be.
    pub fn follow_too(
        &self,
        followings: &mut Followings,
        target: Target,
        subject: Option<Subject>,
        follower: Arc<dyn Follower>,
    ) -> Result<(), TooMany> {
        if !followings.has(&target) {
            followings.add(target, self.place(target, subject, follower)?);
        }
        Ok(())
    }

    /// Ends the following of one record. Whether there was one.
    pub fn end(&self, followings: &mut Followings, target: &Target) -> bool {
        let place = followings.remove(target);
        place.inspect(|place| self.unfollow(&[*place])).is_some()
    }

    /// Ends all of them.
    pub fn end_all(&self, followings: &mut Followings) {
        self.unfollow(&std::mem::take(&mut followings.places));
    }

    /// Says whose record it is that somebody follows, which perhaps was not known when that began.
    pub fn name(&self, target: Target, subject: Subject) {
        self.inner.topics().name(target, subject, now(), &mut rand::rng());
        self.inner.replanned.notify_one();
    }

    fn place(&self, target: Target, subject: Option<Subject>, follower: Arc<dyn Follower>) -> Result<u32, TooMany> {
        if self.inner.topics().is_full() {
            return Err(TooMany);
        }
        self.place_regardless(target, subject, follower)
    }

    /// A place, however many follow something.
    pub(super) fn place_regardless(
        &self,
        target: Target,
        subject: Option<Subject>,
        follower: Arc<dyn Follower>,
    ) -> Result<u32, TooMany> {
        let inner = &self.inner;
        let subject = subject.or_else(|| {
            let item = inner.book().peek(&target)?.item;
            Some((*item.key(), item.salt().clone()))
        });
        let mut topics = inner.topics();
        let number = topics.follow(target, subject, follower, now(), &mut rand::rng())?;
        inner.count_followers(&topics);
        drop(topics);
        inner.replanned.notify_one();
        Ok(number)
    }

    fn unfollow(&self, places: &[(Target, u32)]) {
        let mut topics = self.inner.topics();
        for (target, number) in places {
            topics.unfollow(target, *number);
        }
        self.inner.count_followers(&topics);
    }

    /// Has `follower` told of each newer version of every record, and of what clients want, from now on. Only the first who
    /// asks for this is.
    pub fn follow_all(&self, follower: Arc<dyn Follower>) {
        let _ = self.inner.everything.set(follower);
    }

    /// The newest versions of the records that were used last; those that were put here first.
    #[must_use]
    pub fn recent(&self, max: usize) -> Vec<VerifiedItem> {
        self.inner.book().recent(max)
    }

    /// The newest version known here of the record at this target.
    #[must_use]
    pub fn known(&self, target: &Target) -> Option<Arc<News>> {
        let entry = self.inner.book().find(target)?;
        Some(Arc::new(News::new(entry.item, entry.conflict)))
    }

    /// Takes a version that a peer handed over. Whether it was news; then followers are told, and it is kept.
    pub async fn learn(&self, item: VerifiedItem) -> bool {
        let Ok(slot) = self.inner.store.reserve().await else { return false };
        self.inner.learn(slot, item)
    }
}

impl Inner {
    /// Takes what others had into the book, and tells whether it was news. The slot is used under the book's lock, so that
    /// the disk sees the changes in the order in which they were made.
    pub(super) fn learn(&self, slot: Slot, item: VerifiedItem) -> bool {
        let newer = {
            let mut book = self.book();
            let step = book.learn(item.clone());
            self.schedule().cancel_deleted(&step.changes);
            slot.write(step.changes);
            step.outcome
        };
        self.update_count();
        if newer {
            self.tell(&item);
        }
        newer
    }

    /// Tells followers that this version is the newest, unless the book has gone on: then they are told of a newer one.
    pub(super) fn tell(&self, item: &VerifiedItem) {
        let target = item.target();
        let everything = self.everything.get();
        let mut topics = self.topics();
        if everything.is_none() && !topics.has(&target) {
            return;
        }
        let Some(entry) = self.book().peek(&target).filter(|entry| entry.item == *item) else { return };
        let news = Arc::new(News::new(entry.item, entry.conflict));
        let told = topics.tell(&news, now(), &mut rand::rng());
        drop(topics);
        self.metrics.updates.inc_by(told as u64);
        self.replanned.notify_one();
        if let Some(everything) = everything {
            everything.clone().newer(&news);
        }
    }

    /// A client has put this version.
    pub(super) fn was_put(&self, item: &VerifiedItem) {
        if let Some(everything) = self.everything.get() {
            everything.was_put(item);
        }
    }

    /// A client asks for a record; `newest` is what is known of it.
    pub(super) fn wanted(&self, key: &PublicKey, salt: &Salt, newest: Option<&VerifiedItem>) {
        if let Some(everything) = self.everything.get() {
            everything.wanted(key, salt, newest);
        }
    }

    fn count_followers(&self, topics: &super::topics::Topics) {
        let (followers, followed) = topics.len();
        self.metrics.followers.set(followers as i64);
        self.metrics.followed.set(followed as i64);
    }
}
