//! Who follows which record, and when the DHT is asked about it. Pure: time and chance are arguments.
//!
//! However many follow a record, it is one topic: one poll of the DHT for all, and one [`News`] that all are handed. A
//! topic lives as long as somebody follows it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use crate::wire::id::{PublicKey, Target};
use crate::wire::item::{Salt, VerifiedItem};

/// Whose record a target is: what it takes to ask the DHT.
pub type Subject = (PublicKey, Salt);

/// A newer version of a record.
#[derive(Debug)]
pub struct News {
    /// The version.
    pub item: VerifiedItem,
    /// Two values with this sequence number were seen.
    pub conflict: bool,
    frame: OnceLock<bytes::Bytes>,
}

impl News {
    /// A version to tell followers of.
    #[must_use]
    pub fn new(item: VerifiedItem, conflict: bool) -> Self {
        Self { item, conflict, frame: OnceLock::new() }
    }

    /// The message that says so, made by the first of all followers that needs it.
    pub fn frame(&self, make: impl FnOnce(&Self) -> String) -> bytes::Bytes {
        self.frame.get_or_init(|| make(self).into()).clone()
    }
}

/// Somebody who follows one record ([`Records::follow`](super::Records::follow)) or all of them
/// ([`Records::follow_all`](super::Records::follow_all)).
pub trait Follower: Send + Sync + 'static {
    /// A newer version is known. Called while the topics are locked: cheap, never blocks, calls nothing of this room.
    fn newer(self: Arc<Self>, news: &Arc<News>);

    /// A client asks for a record or puts it; `newest` is what is known of it. Only who follows all records hears of that.
    /// Cheap, never blocks, calls nothing of this room.
    fn wanted(&self, key: &PublicKey, salt: &Salt, newest: Option<&VerifiedItem>) {
        let _ = (key, salt, newest);
    }
}

/// As much is followed as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this server follows as many records as it may; try another one")]
pub struct TooMany;

/// How often the DHT is asked about one topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// After a change.
    pub(super) quickest: Duration,
    /// After a long time without one.
    pub(super) slowest: Duration,
}

/// Each poll that finds nothing new makes the next interval longer by half: from 5 seconds to a minute in seven polls.
const GROWTH: f64 = 1.5;

struct Topic {
    /// Ordered by number, since numbers grow.
    followers: Vec<(u64, Arc<dyn Follower>)>,
    /// Unknown as long as only announces followed it, which name an info hash and no key.
    subject: Option<Box<Subject>>,
    interval: Duration,
    /// `None` while a poll is under way, or the subject is not known.
    due: Option<Instant>,
}

/// All topics.
pub(super) struct Topics {
    pace: Pace,
    most: usize,
    topics: HashMap<Target, Topic>,
    due: BTreeSet<(Instant, Target)>,
    /// Followers of all topics.
    followers: usize,
    next: u64,
}

impl Topics {
    /// At most `most` followers in all.
    pub(super) fn new(pace: Pace, most: usize) -> Self {
        Self { pace, most, topics: HashMap::new(), due: BTreeSet::new(), followers: 0, next: 0 }
    }

    /// Followers and topics.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.followers, self.topics.len())
    }

    pub(super) fn has(&self, target: &Target) -> bool {
        self.topics.contains_key(target)
    }

    /// Adds a follower, whose number is returned.
    pub(super) fn follow(
        &mut self,
        target: Target,
        subject: Option<Subject>,
        follower: Arc<dyn Follower>,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Result<u64, TooMany> {
        if self.followers >= self.most {
            return Err(TooMany);
        }
        let quickest = self.pace.quickest;
        let topic = self.topics.entry(target).or_insert_with(|| Topic {
            followers: Vec::new(),
            subject: None,
            interval: quickest,
            due: None,
        });
        if topic.followers.is_empty() {
            topic.followers.reserve_exact(1);
        }
        self.next += 1;
        self.followers += 1;
        topic.followers.push((self.next, follower));
        if let Some(subject) = subject
            && topic.subject.is_none()
        {
            topic.subject = Some(Box::new(subject));
            self.plan(target, now, rng);
        }
        Ok(self.next)
    }

    /// Takes a follower off; with the last one goes the topic.
    pub(super) fn unfollow(&mut self, target: &Target, number: u64) {
        let Some(topic) = self.topics.get_mut(target) else { return };
        let Ok(at) = topic.followers.binary_search_by_key(&number, |(number, _)| *number) else { return };
        topic.followers.remove(at);
        self.followers -= 1;
        if topic.followers.is_empty() {
            if let Some(due) = topic.due {
                self.due.remove(&(due, *target));
            }
            self.topics.remove(target);
        }
    }

    /// Hands the news to everybody who follows the target, and asks the DHT more often again: who changes something once
    /// often does so twice.
    pub(super) fn tell(&mut self, news: &Arc<News>, now: Instant, rng: &mut impl Rng) -> usize {
        let target = news.item.target();
        let Some(topic) = self.topics.get_mut(&target) else { return 0 };
        for (_, follower) in &topic.followers {
            follower.clone().newer(news);
        }
        let told = topic.followers.len();
        topic.interval = self.pace.quickest;
        if topic.due.is_some() {
            self.plan(target, now, rng);
        }
        told
    }

    /// When the next poll is due.
    pub(super) fn next_poll(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes a topic whose poll is due. It is not due again before [`Self::polled`].
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Target, Subject)> {
        let (at, target) = *self.due.first().filter(|(at, _)| *at <= now)?;
        self.due.remove(&(at, target));
        let topic = self.topics.get_mut(&target)?;
        topic.due = None;
        topic.interval = topic.interval.mul_f64(GROWTH).min(self.pace.slowest);
        Some((target, topic.subject.as_deref()?.clone()))
    }

    /// A poll is over. What it found has been told already.
    pub(super) fn polled(&mut self, target: Target, now: Instant, rng: &mut impl Rng) {
        self.plan(target, now, rng);
    }

    /// The next poll is an interval away, a fifth more or less, so that topics which began together drift apart.
    fn plan(&mut self, target: Target, now: Instant, rng: &mut impl Rng) {
        let Some(topic) = self.topics.get_mut(&target) else { return };
        if let Some(before) = topic.due {
            self.due.remove(&(before, target));
        }
        let at = now + topic.interval.mul_f64(rng.random_range(0.8..1.2));
        topic.due = Some(at);
        self.due.insert((at, target));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ed25519_dalek::SigningKey;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const PACE: Pace = Pace { quickest: Duration::from_secs(5), slowest: Duration::from_secs(60) };

    #[derive(Default)]
    struct Heard(Mutex<Vec<i64>>);

    impl Follower for Heard {
        fn newer(self: Arc<Self>, news: &Arc<News>) {
            self.0.lock().unwrap().push(news.item.seq());
        }
    }

    fn version(seq: i64) -> Arc<News> {
        let key = SigningKey::from_bytes(&[1; 32]);
        Arc::new(News::new(VerifiedItem::sign(&key, Salt::default(), seq, b"le".to_vec()).unwrap(), false))
    }

    struct Trial {
        topics: Topics,
        rng: StdRng,
        start: Instant,
    }

    impl Trial {
        fn new(most: usize) -> Self {
            Self { topics: Topics::new(PACE, most), rng: StdRng::seed_from_u64(1), start: Instant::now() }
        }

        fn at(&self, seconds: f64) -> Instant {
            self.start + Duration::from_secs_f64(seconds)
        }

        fn follow(&mut self, known: bool) -> (Result<u64, TooMany>, Arc<Heard>) {
            let (item, heard) = (version(0), Arc::new(Heard::default()));
            let subject = known.then(|| (*item.item.key(), Salt::default()));
            let number = self.topics.follow(item.item.target(), subject, heard.clone(), self.start, &mut self.rng);
            (number, heard)
        }

        /// When polls come until `end`, in seconds, if none finds anything.
        fn polls(&mut self, end: f64) -> Vec<f64> {
            let mut polls = Vec::new();
            while let Some(at) = self.topics.next_poll().filter(|at| *at <= self.at(end)) {
                let (target, _) = self.topics.pop_due(at).unwrap();
                assert_eq!(self.topics.pop_due(at), None, "one at a time");
                polls.push((at - self.start).as_secs_f64());
                self.topics.polled(target, at, &mut self.rng);
            }
            polls
        }
    }

    #[test]
    fn all_who_follow_are_told_once_each() {
        let mut trial = Trial::new(3);
        let followers: Vec<_> = (0..3).map(|_| trial.follow(true)).collect();
        assert_eq!(trial.follow(true).0, Err(TooMany));
        assert_eq!(trial.topics.len(), (3, 1));
        assert_eq!(trial.topics.tell(&version(1), trial.start, &mut trial.rng), 3);
        let target = version(0).item.target();
        trial.topics.unfollow(&target, followers[1].0.unwrap());
        trial.topics.unfollow(&target, followers[1].0.unwrap());
        assert_eq!(trial.topics.tell(&version(2), trial.start, &mut trial.rng), 2);
        let heard: Vec<_> = followers.iter().map(|(_, heard)| heard.0.lock().unwrap().clone()).collect();
        assert_eq!(heard, [vec![1, 2], vec![1], vec![1, 2]]);
        for n in [0, 2] {
            trial.topics.unfollow(&target, followers[n].0.unwrap());
        }
        assert_eq!((trial.topics.len(), trial.topics.next_poll()), ((0, 0), None), "nothing is left");
    }

    #[test]
    fn polls_slow_down_and_quicken_after_a_change() {
        let mut trial = Trial::new(10);
        trial.follow(true).0.unwrap();
        trial.follow(true).0.unwrap();
        let polls = trial.polls(600.0);
        assert!((4.0..6.0).contains(&polls[0]), "{polls:?}");
        let gaps: Vec<f64> = polls.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap <= 72.0) && gaps.last().unwrap() >= &48.0, "{gaps:?}");
        assert!((10..20).contains(&polls.len()), "one poll for both: {polls:?}");
        trial.topics.tell(&version(1), trial.at(600.0), &mut trial.rng);
        let next = trial.topics.next_poll().unwrap();
        assert!(next < trial.at(606.0));
    }

    #[test]
    fn a_topic_without_a_subject_is_not_polled_until_somebody_names_it() {
        let mut trial = Trial::new(10);
        trial.follow(false).0.unwrap();
        assert_eq!(trial.topics.next_poll(), None);
        trial.follow(true).0.unwrap();
        assert!(trial.topics.next_poll().is_some());
    }
}
