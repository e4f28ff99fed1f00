//! Following records: what [`Records`] offers to those who want to hear of newer versions, and how they are told.

use std::sync::Arc;

use super::service::{Inner, Records, now};
use super::topics::{Follower, News, Subject, TooMany};
use crate::wire::id::Target;
use crate::wire::item::{VerifiedItem, mutable_target};

/// A follower's place. Dropping it ends the following.
pub struct Following {
    records: Records,
    target: Target,
    number: u64,
}

impl Drop for Following {
    fn drop(&mut self) {
        let inner = &self.records.inner;
        let mut topics = inner.topics();
        topics.unfollow(&self.target, self.number);
        inner.count_followers(&topics);
    }
}

impl Records {
    /// Has `follower` told of each newer version of the record, from now on. What is known now is for [`Self::get`]: asked
    /// after this, nothing falls between the two.
    ///
    /// # Errors
    /// As much is followed as may be.
    pub fn follow(&self, subject: Subject, follower: Arc<dyn Follower>) -> Result<Following, TooMany> {
        self.follow_target(mutable_target(&subject.0, &subject.1), Some(subject), follower)
    }

    /// As [`Self::follow`], of a record of which perhaps no more than the target is known: then the DHT cannot be asked,
    /// and news are only what comes otherwise.
    ///
    /// # Errors
    /// As much is followed as may be.
    pub fn follow_target(
        &self,
        target: Target,
        subject: Option<Subject>,
        follower: Arc<dyn Follower>,
    ) -> Result<Following, TooMany> {
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
        Ok(Following { records: self.clone(), target, number })
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
    /// Tells followers that this version is the newest, unless the book has gone on: then they are told of a newer one.
    pub(super) fn tell(&self, item: &VerifiedItem) {
        let target = item.target();
        let mut topics = self.topics();
        if !topics.has(&target) {
            return;
        }
        let Some(entry) = self.book().peek(&target).filter(|entry| entry.item == *item) else { return };
        let told = topics.tell(&Arc::new(News::new(entry.item, entry.conflict)), now(), &mut rand::rng());
        drop(topics);
        self.metrics.updates.inc_by(told as u64);
        self.replanned.notify_one();
    }

    fn count_followers(&self, topics: &super::topics::Topics) {
        let (followers, followed) = topics.len();
        self.metrics.followers.set(followers as i64);
        self.metrics.followed.set(followed as i64);
    }
}
