//! Who follows which record, and when the DHT is asked about it. Pure: time and chance are arguments.
//!
//! However many follow a record, it is one topic: one poll of the DHT for all, and one [`News`] that all are handed. A
//! topic lives as long as somebody follows it.

use std::collections::hash_map::Entry;
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
    target: Target,
    frame: OnceLock<Arc<[u8]>>,
}

impl News {
    /// A version to tell followers of.
    #[must_use]
    pub fn new(item: VerifiedItem, conflict: bool) -> Self {
        Self { target: item.target(), item, conflict, frame: OnceLock::new() }
    }

    /// Of which record.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What is sent to say so, made by the first of all followers that needs it.
    pub fn frame(&self, make: impl FnOnce(&Self) -> Vec<u8>) -> Arc<[u8]> {
        self.frame.get_or_init(|| make(self).into()).clone()
    }
}

/// Somebody who follows one record ([`Records::follow`](super::Records::follow)) or all of them
/// ([`Records::follow_all`](super::Records::follow_all)).
pub trait Follower: Send + Sync + 'static {
    /// A newer version is known. Called while the topics are locked: cheap, never blocks, calls nothing of this room.
    fn newer(self: Arc<Self>, news: &Arc<News>);

    /// A client asks for a record; `newest` is what is known of it. Of one of which nothing is known only if that costs the
    /// client a lookup. Only who follows all records hears of this and the next. Cheap, never blocks, calls nothing of
    /// this room.
    fn wanted(&self, key: &PublicKey, salt: &Salt, newest: Option<&VerifiedItem>) {
        let _ = (key, salt, newest);
    }

    /// A client has put this version.
    fn was_put(&self, item: &VerifiedItem) {
        let _ = item;
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

/// Each poll that finds nothing new makes the next interval longer by half: from 2 seconds to a minute in nine polls.
const GROWTH: f64 = 1.5;

impl Pace {
    /// The pause after so many polls in a row that found nothing new.
    fn interval(&self, unchanged: u8) -> Duration {
        self.quickest.mul_f64(GROWTH.powi(unchanged.into())).min(self.slowest)
    }
}

/// Polls after a change that ask for the value even if its number is known: another device may have signed another one with
/// that number at the same moment, and nodes that are told a number do not send it.
const ASKED_AGAIN: u8 = 3;

/// A poll that is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) target: Target,
    pub(super) subject: Subject,
    /// Whether to ask for the value though its number is known.
    pub(super) again: bool,
}

/// A moment, small: in [`TICK`]s since the topics began, so for thirteen years.
type Moment = u32;

const TICK: Duration = Duration::from_millis(100);

/// One record. There may be as many as followers, so it is small: 104 bytes, and in the tables some 80 more.
struct Topic {
    followers: Followers,
    /// The last follower's number.
    last: u32,
    /// Unknown as long as only announces followed it, which name an info hash and no key.
    subject: Option<Subject>,
    /// Polls in a row that found nothing new, as far as they make the next pause longer.
    unchanged: u8,
    /// `None` while a poll is under way, or the subject is not known.
    due: Option<Moment>,
}

/// Those of one topic, by their numbers. Mostly there is one.
enum Followers {
    One(u32, Arc<dyn Follower>),
    /// Ordered, since numbers grow.
    Several(Vec<(u32, Arc<dyn Follower>)>),
}

impl Followers {
    fn add(&mut self, number: u32, follower: Arc<dyn Follower>) {
        match std::mem::replace(self, Self::Several(Vec::new())) {
            Self::One(first, known) => *self = Self::Several(vec![(first, known), (number, follower)]),
            Self::Several(mut known) => {
                known.push((number, follower));
                *self = Self::Several(known);
            }
        }
    }

    /// Whether it was there.
    fn remove(&mut self, number: u32) -> bool {
        match self {
            Self::One(known, _) if *known == number => *self = Self::Several(Vec::new()),
            Self::One(..) => return false,
            Self::Several(followers) => match followers.binary_search_by_key(&number, |(number, _)| *number) {
                Ok(at) => drop(followers.remove(at)),
                Err(_) => return false,
            },
        }
        true
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Several(followers) if followers.is_empty())
    }

    fn is_only(&self, number: u32) -> bool {
        match self {
            Self::One(known, _) => *known == number,
            Self::Several(followers) => matches!(followers.as_slice(), [(known, _)] if *known == number),
        }
    }

    /// How many were told.
    fn tell(&self, news: &Arc<News>) -> usize {
        match self {
            Self::One(_, follower) => {
                follower.clone().newer(news);
                1
            }
            Self::Several(followers) => {
                followers.iter().for_each(|(_, follower)| follower.clone().newer(news));
                followers.len()
            }
        }
    }
}

/// All topics.
pub(super) struct Topics {
    pace: Pace,
    most: usize,
    began: Instant,
    /// Boxed: a table has up to twice as many places as entries.
    topics: HashMap<Target, Box<Topic>>,
    due: BTreeSet<(Moment, Target)>,
    /// Followers of all topics.
    followers: usize,
    /// Those who can wait, of the few topics that have one: the follower's number, and how long.
    at_leisure: HashMap<Target, (u32, Duration)>,
}

impl Topics {
    /// At most `most` followers in all.
    pub(super) fn new(pace: Pace, most: usize, began: Instant) -> Self {
        let (topics, due, at_leisure) = (HashMap::new(), BTreeSet::new(), HashMap::new());
        Self { pace, most, began, topics, due, followers: 0, at_leisure }
    }

    /// Followers and topics.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.followers, self.topics.len())
    }

    pub(super) fn has(&self, target: &Target) -> bool {
        self.topics.contains_key(target)
    }

    /// Whether there are as many followers as there may be.
    pub(super) fn is_full(&self) -> bool {
        self.followers >= self.most
    }

    /// Adds a follower, for whom there is room or who needs none. Its number among those of the topic is returned.
    pub(super) fn follow(
        &mut self,
        target: Target,
        subject: Option<Subject>,
        follower: Arc<dyn Follower>,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Result<u32, TooMany> {
        let number = match self.topics.entry(target) {
            Entry::Vacant(free) => {
                let followers = Followers::One(0, follower);
                free.insert(Box::new(Topic { followers, last: 0, subject: None, unchanged: 0, due: None })).last
            }
            Entry::Occupied(mut known) => {
                let topic = known.get_mut();
                // Numbers end after four thousand million followers of a topic that was never without one.
                topic.last = topic.last.checked_add(1).ok_or(TooMany)?;
                topic.followers.add(topic.last, follower);
                topic.last
            }
        };
        self.followers += 1;
        if self.at_leisure.contains_key(&target)
            && let Some(topic) = self.topics.get_mut(&target).filter(|topic| topic.due.is_some())
        {
            // Somebody cannot wait.
            topic.unchanged = 0;
            self.plan(target, now, rng);
        }
        if let Some(subject) = subject {
            self.name(target, subject, now, rng);
        }
        Ok(number)
    }

    /// Notes whose record a topic is, if that was not known: from now on the DHT can be asked.
    pub(super) fn name(&mut self, target: Target, subject: Subject, now: Instant, rng: &mut impl Rng) {
        if let Some(topic) = self.topics.get_mut(&target).filter(|topic| topic.subject.is_none()) {
            topic.subject = Some(subject);
            self.plan(target, now, rng);
        }
    }

    /// Notes that a follower can wait. As long as it is alone, the topic is polled at its pace: first at some moment within
    /// `slowest`, so that those who begin together, at a start, are spread over it.
    pub(super) fn at_leisure(
        &mut self,
        target: &Target,
        number: u32,
        slowest: Duration,
        now: Instant,
        rng: &mut impl Rng,
    ) {
        self.at_leisure.insert(*target, (number, slowest));
        let pace = self.pace_of(target);
        let Some(topic) = self.topics.get_mut(target) else { return };
        if pace.slowest == slowest && topic.due.is_some() {
            while topic.unchanged < u8::MAX && pace.interval(topic.unchanged) < slowest {
                topic.unchanged += 1;
            }
            self.plan_after(*target, slowest.mul_f64(rng.random_range(0.0..1.0)), now);
        }
    }

    /// Takes a follower off; with the last one goes the topic.
    pub(super) fn unfollow(&mut self, target: &Target, number: u32) {
        let Some(topic) = self.topics.get_mut(target) else { return };
        if !topic.followers.remove(number) {
            return;
        }
        self.followers -= 1;
        if self.at_leisure.get(target).is_some_and(|(leisurely, _)| *leisurely == number) {
            self.at_leisure.remove(target);
        }
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
        let target = *news.target();
        let Some(topic) = self.topics.get_mut(&target) else { return 0 };
        let told = topic.followers.tell(news);
        topic.unchanged = 0;
        if topic.due.is_some() {
            self.plan(target, now, rng);
        }
        self.name(target, (*news.item.key(), news.item.salt().clone()), now, rng);
        told
    }

    /// When the next poll is due.
    pub(super) fn next_poll(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| self.began + TICK * *at)
    }

    /// Takes a topic whose poll is due. It is not due again before [`Self::polled`].
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Due> {
        self.next_poll().filter(|at| *at <= now)?;
        let (at, target) = *self.due.first()?;
        self.due.remove(&(at, target));
        let pace = self.pace_of(&target);
        let topic = self.topics.get_mut(&target)?;
        topic.due = None;
        let again = topic.unchanged < ASKED_AGAIN;
        topic.unchanged += u8::from(pace.interval(topic.unchanged) < pace.slowest && topic.unchanged < u8::MAX);
        Some(Due { target, subject: topic.subject.clone()?, again })
    }

    /// A poll is over. What it found has been told already.
    pub(super) fn polled(&mut self, target: Target, now: Instant, rng: &mut impl Rng) {
        self.plan(target, now, rng);
    }

    /// The next poll is an interval away, a fifth more or less, so that topics which began together drift apart.
    fn plan(&mut self, target: Target, now: Instant, rng: &mut impl Rng) {
        let Some(topic) = self.topics.get(&target) else { return };
        let interval = self.pace_of(&target).interval(topic.unchanged);
        self.plan_after(target, interval.mul_f64(rng.random_range(0.8..1.2)), now);
    }

    fn plan_after(&mut self, target: Target, pause: Duration, now: Instant) {
        let Some(topic) = self.topics.get_mut(&target) else { return };
        if let Some(before) = topic.due {
            self.due.remove(&(before, target));
        }
        let ticks = (now + pause).saturating_duration_since(self.began).as_millis() / TICK.as_millis();
        let at = Moment::try_from(ticks).unwrap_or(Moment::MAX);
        topic.due = Some(at);
        self.due.insert((at, target));
    }

    fn pace_of(&self, target: &Target) -> Pace {
        match (self.at_leisure.get(target), self.topics.get(target)) {
            (Some((number, slowest)), Some(topic)) if topic.followers.is_only(*number) => {
                Pace { slowest: (*slowest).max(self.pace.slowest), ..self.pace }
            }
            _ => self.pace,
        }
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
            let start = Instant::now();
            Self { topics: Topics::new(PACE, most, start), rng: StdRng::seed_from_u64(1), start }
        }

        fn at(&self, seconds: f64) -> Instant {
            self.start + Duration::from_secs_f64(seconds)
        }

        fn follow(&mut self, known: bool) -> (Result<u32, TooMany>, Arc<Heard>) {
            let (item, heard) = (version(0), Arc::new(Heard::default()));
            let subject = known.then(|| (*item.item.key(), Salt::default()));
            let number = match self.topics.is_full() {
                true => Err(TooMany),
                false => self.topics.follow(item.item.target(), subject, heard.clone(), self.start, &mut self.rng),
            };
            (number, heard)
        }

        /// When polls come until `end`, in seconds, if none finds anything.
        fn polls(&mut self, end: f64) -> Vec<f64> {
            let mut polls = Vec::new();
            while let Some(at) = self.topics.next_poll().filter(|at| *at <= self.at(end)) {
                let target = self.topics.pop_due(at).unwrap().target;
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
    fn who_can_wait_is_waited_for_until_somebody_cannot() {
        let mut trial = Trial::new(10);
        let number = trial.follow(true).0.unwrap();
        let target = version(0).item.target();
        trial.topics.at_leisure(&target, number, Duration::from_secs(900), trial.start, &mut trial.rng);
        let polls = trial.polls(6.0 * 3600.0);
        assert!((18..32).contains(&polls.len()), "{} in six hours", polls.len());
        trial.start += Duration::from_secs(6 * 3600);
        let hasty = trial.follow(true).0.unwrap();
        assert!(trial.topics.next_poll().unwrap() <= trial.at(6.0), "at once");
        assert!((10..20).contains(&trial.polls(600.0).len()));
        trial.topics.unfollow(&target, hasty);
        trial.start += Duration::from_secs(600);
        assert!(trial.polls(3600.0).len() < 15, "alone again");
        trial.topics.unfollow(&target, number);
        assert!(trial.topics.at_leisure.is_empty() && trial.topics.next_poll().is_none());
    }

    #[test]
    fn a_topic_is_small() {
        assert_eq!(size_of::<Topic>(), 104);
    }

    #[test]
    fn a_topic_without_a_subject_is_not_polled_until_somebody_names_it() {
        let item = version(1).item.clone();
        let subject = (*item.key(), Salt::default());
        let who_names: [&dyn Fn(&mut Trial); 3] = [
            &|trial| {
                trial.follow(true).0.unwrap();
            },
            &|trial| trial.topics.name(item.target(), subject.clone(), trial.start, &mut trial.rng),
            &|trial| {
                trial.topics.tell(&version(1), trial.start, &mut trial.rng);
            },
        ];
        for name in who_names {
            let mut trial = Trial::new(10);
            trial.follow(false).0.unwrap();
            assert_eq!(trial.topics.next_poll(), None);
            name(&mut trial);
            assert!((4.0..6.2).contains(&trial.polls(6.2)[0]), "soon");
        }
    }
}
