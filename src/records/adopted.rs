//! Records that somebody inside this process keeps alive in the DHT, though no client put them here: a pin does. The
//! signed item is published again as it is, which needs no key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::following::Following;
use super::service::{Records, now};
use super::topics::{Follower, Subject, TooMany};
use crate::wire::id::Target;
use crate::wire::item::{VerifiedItem, mutable_target};

/// What became of publishing a record, and when it is done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Publication {
    /// How long ago it was put last, if it was since the start.
    pub ago: Option<Duration>,
    /// Nodes that held it then.
    pub holders: usize,
    /// In how long it is put again.
    pub next: Option<Duration>,
}

impl Records {
    /// Keeps a record alive until [`Records::abandon`]: published now if it is news, and hourly.
    pub async fn adopt(&self, item: VerifiedItem) {
        let target = item.target();
        let seq = item.seq();
        let before = self.inner.book().adopt(target, seq);
        self.learn(item).await;
        if before.is_some_and(|before| before < seq) {
            self.inner.schedule().set_soon(target, now());
        } else if !self.inner.schedule().has(&target) {
            self.inner.schedule().loaded(target, now(), &mut rand::rng());
        }
        self.inner.rescheduled.notify_one();
    }

    /// Leaves a record to itself, unless a client put it here.
    pub fn abandon(&self, target: &Target) {
        let mut book = self.inner.book();
        book.abandon(target);
        if book.to_publish(target).is_none() {
            self.inner.schedule().remove(target);
        }
    }

    /// How the publication of a record stands.
    #[must_use]
    pub fn publication(&self, target: &Target) -> Publication {
        let (last, next) = self.inner.schedule().of(target);
        let since = |at: Instant| now().saturating_duration_since(at);
        Publication {
            ago: last.map(|(at, _)| since(at)),
            holders: last.map_or(0, |(_, holders)| holders),
            next: next.map(|at| at.saturating_duration_since(now())),
        }
    }

    /// Publishes a record now. How many nodes hold it, or `None` when it is not known here.
    pub async fn republish(&self, target: &Target) -> Option<usize> {
        let item = self.inner.book().to_publish(target)?;
        Some(self.publish(item, None).await.stored)
    }

    /// As [`Records::follow`], for somebody who can wait: if nobody else follows the record, the DHT is asked only every
    /// `slowest` when nothing changes, and first at some moment within it. It is not refused because others follow as much
    /// as may be.
    ///
    /// # Errors
    /// The topic has had four thousand million followers.
    pub fn follow_at_leisure(
        &self,
        subject: Subject,
        follower: Arc<dyn Follower>,
        slowest: Duration,
    ) -> Result<Following, TooMany> {
        let target = mutable_target(&subject.0, &subject.1);
        let number = self.place_regardless(target, Some(subject), follower)?;
        self.inner.topics().at_leisure(&target, number, slowest, now(), &mut rand::rng());
        Ok(Following { records: self.clone(), target, number })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::records::News;
    use crate::records::memory_dht::MemoryDht;
    use crate::tasks::Tasks;
    use crate::wire::item::Salt;
    use crate::{config, metrics};

    fn version(seq: i64) -> VerifiedItem {
        VerifiedItem::sign(&SigningKey::from_bytes(&[1; 32]), Salt::default(), seq, b"le".to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_room_in_the_book_takes_no_adopted_record_s_place() {
        let (directory, dht, tasks) = (tempfile::tempdir().unwrap(), Arc::new(MemoryDht::default()), Tasks::new());
        let settings = config::Records { max_records: 2, ..config::Records::default() };
        let started =
            Records::start_on(dht.clone(), &settings, directory.path(), metrics::Records::detached(), &tasks).await;
        let records = started.unwrap();
        let of =
            |author| VerifiedItem::sign(&SigningKey::from_bytes(&[author; 32]), Salt::default(), 1, b"le".to_vec());
        let adopted = of(1).unwrap();
        records.adopt(adopted.clone()).await;
        for author in 2..=9 {
            records.learn(of(author).unwrap()).await;
        }
        tokio::time::sleep(Duration::from_secs(3960)).await;
        assert_eq!(dht.held(&adopted.target()), Some(adopted));
        tasks.stop(Duration::from_secs(5)).await;
    }

    #[derive(Default)]
    struct Heard(tokio::sync::Notify);

    impl Follower for Heard {
        fn newer(self: Arc<Self>, _: &Arc<News>) {
            self.0.notify_one();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_pinned_is_followed_however_much_the_public_follows() {
        let (directory, dht, tasks) = (tempfile::tempdir().unwrap(), Arc::new(MemoryDht::default()), Tasks::new());
        let settings = config::Records { max_subscriptions: 1, ..config::Records::default() };
        let started = Records::start_on(dht, &settings, directory.path(), metrics::Records::detached(), &tasks).await;
        let (records, subject) = (started.unwrap(), (*version(1).key(), Salt::default()));
        let _public = records.follow(subject.clone(), Arc::<Heard>::default()).unwrap();
        assert!(records.follow(subject.clone(), Arc::<Heard>::default()).is_err());
        let heard = Arc::<Heard>::default();
        let _pinned = records.follow_at_leisure(subject, heard.clone(), Duration::from_secs(60)).unwrap();
        assert!(records.learn(version(1)).await);
        tokio::time::timeout(Duration::from_secs(10), heard.0.notified()).await.expect("it is told");
        tasks.stop(Duration::from_secs(5)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_adopted_record_is_put_every_hour_without_its_key_until_it_is_abandoned() {
        let (directory, dht, tasks) = (tempfile::tempdir().unwrap(), Arc::new(MemoryDht::default()), Tasks::new());
        let settings = config::Records::default();
        let started =
            Records::start_on(dht.clone(), &settings, directory.path(), metrics::Records::detached(), &tasks).await;
        let records = started.unwrap();
        let target = version(1).target();
        assert_eq!(records.republish(&target).await, None);
        records.adopt(version(1)).await;
        assert!(records.publication(&target).ago.is_none() && records.publication(&target).next.is_some());
        // The DHT forgets items after two hours; here it forgets at once.
        for hours in 1..=5 {
            dht.forget();
            tokio::time::sleep(Duration::from_secs(3960)).await;
            assert_eq!(dht.held(&target), Some(version(1)), "after {hours} hours");
        }
        let publication = records.publication(&target);
        assert!(publication.holders == 1 && publication.ago.unwrap() < Duration::from_secs(3960));
        let puts = dht.puts.load(SeqCst);
        assert!((5..=7).contains(&puts), "{puts} puts in five and a half hours");
        // A poll, or a peer, brings it to the book before whoever adopts it hears of it.
        assert!(records.learn(version(2)).await);
        records.adopt(version(2)).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(dht.held(&target), Some(version(2)), "a newer one goes out at once");
        records.abandon(&target);
        dht.forget();
        tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
        assert_eq!(dht.held(&target), None);
        tasks.stop(Duration::from_secs(5)).await;
    }
}
