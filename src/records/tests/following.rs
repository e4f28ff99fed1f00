//! Following, modes, quotas and floors.

use std::sync::Mutex;

use futures_util::FutureExt;
use tokio::sync::Notify;

use super::*;
use crate::wire::id::PublicKey;

/// Keeps what it is told.
#[derive(Default)]
pub(super) struct Heard {
    news: Mutex<Vec<VerifiedItem>>,
    changed: Notify,
}

impl Follower for Heard {
    fn newer(self: Arc<Self>, news: &Arc<News>) {
        self.news.lock().unwrap().push(news.item.clone());
        self.changed.notify_one();
    }
}

impl Heard {
    pub(super) fn versions(&self) -> Vec<VerifiedItem> {
        self.news.lock().unwrap().clone()
    }

    pub(super) fn so_far(&self) -> Vec<i64> {
        self.versions().iter().map(VerifiedItem::seq).collect()
    }

    /// How long it takes until the next news.
    async fn next(&self) -> Duration {
        let before = tokio::time::Instant::now();
        tokio::time::timeout(seconds(600), self.changed.notified()).await.expect("there are news");
        before.elapsed()
    }
}

pub(super) fn follow(node: &Node) -> (Following, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    let subject = (*version(0).key(), Salt::default());
    (node.records.follow(subject, heard.clone()).unwrap(), heard)
}

#[tokio::test(start_paused = true)]
async fn followers_hear_of_each_newer_version_however_it_comes() {
    let node = Node::start().await;
    let (following, heard) = follow(&node);
    let (_other, other) = follow(&node);
    node.put(&version(1), None).await.unwrap();
    assert_eq!((heard.so_far(), other.so_far()), (vec![1], vec![1]), "put here: at once");
    node.put(&version(1), None).await.unwrap();
    node.put(&version(0), None).await.unwrap_err();
    assert!(node.records.learn(version(2)).await, "from a peer");
    assert!(!node.records.learn(version(2)).await);
    assert!(!node.records.learn(version(1)).await);
    assert_eq!(heard.so_far(), [1, 2], "once each, and never back");
    drop(following);
    node.put(&version(3), None).await.unwrap();
    assert_eq!((heard.so_far(), other.so_far()), (vec![1, 2], vec![1, 2, 3]));
}

#[tokio::test(start_paused = true)]
async fn followers_share_a_poll_that_adapts() {
    let node = Node::start().await;
    let (_following, heard) = follow(&node);
    let _others: Vec<_> = (0..100).map(|_| follow(&node)).collect();
    heard.changed.notified().now_or_never();
    node.dht.publish(&version(1));
    assert!(heard.next().await < seconds(7));
    let gets = node.dht.gets.load(SeqCst);
    tokio::time::sleep(seconds(600)).await;
    let polls = node.dht.gets.load(SeqCst) - gets;
    assert!((8..22).contains(&polls), "{polls} polls in ten quiet minutes, for a hundred followers");
    node.dht.publish(&version(2));
    assert!(heard.next().await < seconds(80), "after a long quiet");
    node.dht.publish(&version(3));
    assert!(heard.next().await < seconds(7), "after a change");
    assert_eq!(heard.so_far(), [1, 2, 3]);
    let gets = node.dht.gets.load(SeqCst);
    drop((_following, _others));
    tokio::time::sleep(seconds(600)).await;
    assert_eq!(node.dht.gets.load(SeqCst), gets, "nobody follows, nobody asks");
}

#[tokio::test(start_paused = true)]
async fn what_is_followed_is_bounded() {
    let settings = config::Records { max_subscriptions: 2, ..config::Records::default() };
    let node = Node::start_with(settings, tempfile::tempdir().unwrap(), Arc::default()).await;
    let following = (follow(&node), follow(&node));
    let subject = (*version(0).key(), Salt::default());
    assert!(matches!(node.records.follow(subject.clone(), Arc::<Heard>::default()), Err(TooMany)));
    drop(following);
    assert!(node.records.follow(subject, Arc::<Heard>::default()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn where_an_answer_may_come_from() {
    let node = Node::start().await;
    let ask = async |mode, min_seq| {
        let got = node.get_with(GetOptions { mode, min_seq, ..GetOptions::default() }).await;
        got.map(|got| got.item.map(|item| (item.seq(), got.source)))
    };
    node.dht.publish(&version(1));
    assert_eq!(ask(Mode::CacheOnly, None).await, Ok(None));
    assert_eq!(node.dht.gets.load(SeqCst), 0);
    assert_eq!(ask(Mode::CacheFirst, None).await, Ok(Some((1, Source::Dht))));
    tokio::time::advance(seconds(2)).await;
    node.dht.publish(&version(2));
    assert_eq!(ask(Mode::CacheFirst, None).await, Ok(Some((1, Source::Cache))));
    assert_eq!(ask(Mode::CacheOnly, Some(2)).await, Ok(None), "what is here is too old");
    assert_eq!(ask(Mode::CacheFirst, Some(2)).await, Ok(Some((2, Source::Dht))), "so the DHT is asked");
    tokio::time::advance(seconds(2)).await;
    assert_eq!(ask(Mode::CacheFirst, Some(3)).await, Ok(None));
    tokio::time::advance(seconds(2)).await;
    assert_eq!(ask(Mode::Network, None).await, Ok(Some((2, Source::Dht))));
    tokio::time::advance(seconds(2)).await;
    node.dht.silent.store(true, SeqCst);
    assert_eq!(ask(Mode::Network, None).await, Err(GetError::TimedOut));
    assert_eq!(ask(Mode::CacheOnly, None).await, Ok(Some((2, Source::Cache))));
}

#[tokio::test(start_paused = true)]
async fn quotas_count_what_the_dht_is_asked_and_nothing_else() {
    let settings = config::Records {
        lookup_burst: 2,
        lookups_per_minute: 1,
        put_burst: 2,
        puts_per_minute: 1,
        ..config::Records::default()
    };
    let node = Node::start_with(settings, tempfile::tempdir().unwrap(), Arc::default()).await;
    let asker = Asker::Address("192.0.2.1".parse().unwrap());
    let network = GetOptions { mode: Mode::Network, asker, ..GetOptions::default() };
    node.dht.publish(&version(1));
    let many = futures_util::future::join_all((0..20).map(|_| node.get_with(network))).await;
    assert!(many.iter().all(Result::is_ok), "who joins another's lookup pays nothing");
    tokio::time::advance(seconds(2)).await;
    assert!(node.get_with(network).await.is_ok());
    tokio::time::advance(seconds(2)).await;
    assert_eq!(node.get_with(network).await, Err(GetError::OverQuota));
    for _ in 0..100 {
        let got = node.get_with(GetOptions { asker, ..GetOptions::default() }).await.unwrap();
        assert_eq!(got.source, Source::Cache, "cache hits are free");
    }
    tokio::time::advance(seconds(20)).await;
    let stale = node.get_with(GetOptions { asker, ..GetOptions::default() }).await.unwrap();
    assert_eq!(stale.source, Source::Cache, "what is known is answered all the same");
    let other = Asker::Address("192.0.2.2".parse().unwrap());
    assert!(node.get_with(GetOptions { asker: other, ..network }).await.is_ok());
    tokio::time::advance(seconds(60)).await;
    assert!(node.get_with(network).await.is_ok(), "the bucket fills again");

    let put = async |seq, cas| {
        let result = node.records.put(version(seq).as_signed().clone(), PutOptions { cas, asker }).await;
        result.map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!((put(2, None).await, put(3, None).await), (Ok(()), Ok(())));
    assert_eq!(put(4, None).await, Err("this address has made too many puts; try again later".to_owned()));
    tokio::time::advance(seconds(2)).await;
    let asked = || (node.dht.gets.load(SeqCst), node.dht.puts.load(SeqCst));
    let before = asked();
    for cas in [None, Some(2), Some(3)] {
        assert_eq!(put(3, cas).await, Ok(()), "what was published lately costs nothing");
        assert!(put(2, cas).await.unwrap_err().contains("has sequence number 3"), "nor what is refused anyway");
    }
    assert_eq!(asked(), before, "since the DHT is not asked for it");
    assert_eq!(node.records.put_value(b"le".to_vec(), asker).await, Err(PutError::OverQuota));
    assert_eq!(node.seen(100).await.unwrap().0, 3);
}

#[tokio::test(start_paused = true)]
async fn the_floor_outlives_the_record_and_the_process() {
    let settings = config::Records { max_records: 1, ..config::Records::default() };
    let node = Node::start_with(settings, tempfile::tempdir().unwrap(), Arc::default()).await;
    node.put(&version(5), None).await.unwrap();
    let other = VerifiedItem::sign(&SigningKey::from_bytes(&[2; 32]), Salt::default(), 1, b"le".to_vec()).unwrap();
    node.put(&other, None).await.unwrap();
    let node = node.kill_and_restart().await;
    assert_eq!(node.records.count(), 1, "it had to make room");
    node.dht.publish(&version(4));
    assert_eq!(node.seen(0).await, None, "the DHT has only an older one");
    let error = node.put(&version(3), None).await.unwrap_err();
    assert_eq!((error.code(), error.current()), (302, None));
    node.put(&version(6), None).await.unwrap();
    assert_eq!(node.seen(100).await, Some((6, Source::Cache)));
}

/// The author's other server has it already: this one is to keep it as well.
#[tokio::test(start_paused = true)]
async fn what_was_fetched_is_put_like_any_other_version() {
    let settings = config::Records { put_burst: 1, puts_per_minute: 1, ..config::Records::default() };
    let node = Node::start_with(settings, tempfile::tempdir().unwrap(), Arc::default()).await;
    let asker = Asker::Address("192.0.2.1".parse().unwrap());
    let put = async |item: &VerifiedItem| {
        let result = node.records.put(item.as_signed().clone(), PutOptions { cas: None, asker }).await;
        result.map(|put| put.stored).map_err(|error| error.to_string())
    };
    let other = VerifiedItem::sign(&SigningKey::from_bytes(&[2; 32]), Salt::default(), 1, b"le".to_vec()).unwrap();
    for item in [&version(1), &other] {
        node.dht.publish(item);
        node.records.get(*item.key(), Salt::default(), GetOptions::default()).await.unwrap();
    }
    assert_eq!(put(&version(1)).await, Ok(1));
    assert_eq!((put(&version(1)).await, node.dht.puts.load(SeqCst)), (Ok(1), 1), "the second time it is known");
    assert_eq!(put(&other).await, Err("this address has made too many puts; try again later".to_owned()));
    node.dht.forget();
    tokio::time::sleep(seconds(4200)).await;
    assert_eq!(node.dht.held(&version(1).target()), Some(version(1)), "it is published every hour from now on");
    assert_eq!(node.dht.held(&other.target()), None);
}

/// Keeps the sequence numbers of what clients wanted, 0 where none was known.
#[derive(Default)]
struct Wanted(Mutex<Vec<i64>>);

impl Follower for Wanted {
    fn newer(self: Arc<Self>, _: &Arc<News>) {}

    fn wanted(&self, _: &PublicKey, _: &Salt, newest: Option<&VerifiedItem>) {
        self.0.lock().unwrap().push(newest.map_or(0, VerifiedItem::seq));
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_at_no_cost_makes_nobody_follow_what_does_not_exist() {
    let settings = config::Records { lookup_burst: 1, lookups_per_minute: 1, ..config::Records::default() };
    let node = Node::start_with(settings, tempfile::tempdir().unwrap(), Arc::default()).await;
    let wanted = Arc::new(Wanted::default());
    node.records.follow_all(wanted.clone());
    let asker = Asker::Address("192.0.2.1".parse().unwrap());
    let ask = async |salt: &[u8], mode| {
        let options = GetOptions { mode, asker, ..GetOptions::default() };
        node.records.get(*version(0).key(), Salt::new(salt).unwrap(), options).await.map(|got| got.item.is_some())
    };
    assert_eq!(ask(b"made up", Mode::CacheOnly).await, Ok(false));
    assert!(wanted.0.lock().unwrap().is_empty(), "nobody was asked");
    assert_eq!(ask(b"one", Mode::CacheFirst).await, Ok(false));
    assert_eq!(*wanted.0.lock().unwrap(), [0], "perhaps its peers know it");
    assert_eq!(ask(b"one", Mode::CacheFirst).await, Ok(false), "its absence is known");
    assert_eq!(ask(b"another", Mode::CacheFirst).await, Err(GetError::OverQuota));
    assert_eq!(*wanted.0.lock().unwrap(), [0]);
    assert!(node.records.learn(version(1)).await);
    assert_eq!(ask(b"", Mode::CacheOnly).await, Ok(true));
    assert_eq!(*wanted.0.lock().unwrap(), [0, 1], "this one exists");
}

#[tokio::test(start_paused = true)]
async fn who_follows_is_answered_with_what_is_found_first_and_told_of_what_is_newer() {
    let node = Node::start().await;
    let (_following, heard) = follow(&node);
    *node.dht.first.lock().unwrap() = Some(version(1));
    node.dht.publish(&version(2));
    let ask = |mode, min_seq| node.get_with(GetOptions { mode, min_seq, ..GetOptions::default() });
    let mut network = Box::pin(ask(Mode::Network, Some(1)));
    let mut second = Box::pin(ask(Mode::CacheFirst, Some(2)));
    let mut whatever = Box::pin(ask(Mode::CacheFirst, None));
    assert!((&mut whatever).now_or_never().is_none());

    let first = node.get_with(GetOptions::following(Asker::Us)).await.unwrap();
    assert_eq!((first.item, first.source), (Some(version(1)), Source::Dht));
    assert_eq!(ask(Mode::CacheFirst, Some(1)).await.unwrap().item, Some(version(1)), "new enough");
    assert_eq!(heard.so_far(), [1]);
    assert!((&mut network).now_or_never().is_none(), "who wants to be sure waits for the end");
    assert!((&mut second).now_or_never().is_none(), "and so does who wants a newer one");
    assert!((&mut whatever).now_or_never().is_none());

    node.dht.answer.notify_one();
    for waited in [network.await, second.await, whatever.await] {
        assert_eq!(waited.unwrap().item, Some(version(2)));
    }
    assert_eq!(heard.so_far(), [1, 2]);
    assert_eq!(node.dht.gets.load(SeqCst), 1, "one lookup for all");
}

/// Two devices sign the same number and do not say what they have read (`cas`): whoever was first hears of the other soon,
/// though nodes that are told a number do not send it again.
#[tokio::test(start_paused = true)]
async fn a_second_value_with_the_newest_number_is_found() {
    let (smaller, larger) = (sign(2, b"1:a"), sign(2, b"1:b"));
    for (ours, theirs) in [(&smaller, &larger), (&larger, &smaller)] {
        let node = Node::start().await;
        let (_following, heard) = follow(&node);
        node.put(ours, None).await.unwrap();
        node.dht.publish(theirs);
        tokio::time::sleep(seconds(10)).await;
        let got = node.get_with(GetOptions { mode: Mode::CacheOnly, ..GetOptions::default() }).await.unwrap();
        assert_eq!((got.item.as_ref(), got.conflict), (Some(&larger), true));
        assert_eq!(heard.versions().last(), Some(&larger));
        assert_eq!(heard.versions().len(), if theirs == &larger { 2 } else { 1 }, "the smaller one is no news");
    }
}
