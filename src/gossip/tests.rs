//! Two ends, message by message, in paused time.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use tokio::time::{advance, timeout};

use super::*;
use crate::wire::id::Target;
use crate::wire::peer::Frame;
use crate::wire::pointer;
use crate::wire::record_exchange::{self, Summary, Version};

/// A peer in gossip's eyes, with its mouth and ears.
struct Peer(Exchange);

const ID: u8 = 9;

impl Peer {
    fn greet(gossip: &Gossip, swarm: InfoHash) -> Self {
        let exchange = gossip.exchange(swarm).unwrap();
        exchange.greeted(ID);
        exchange.offered();
        Self(exchange)
    }

    /// What it is told next, if anything within a minute.
    async fn hears(&self) -> Option<ExchangeMessage> {
        let frame = timeout(Duration::from_secs(60), self.0.frame()).await.ok()?;
        let frame = Frame::split(&mut bytes::BytesMut::from(&frame[..]), 1 << 14).unwrap().unwrap();
        let Message::Extended { id: ID, payload } = frame.message().unwrap() else { panic!("its id") };
        Some(ExchangeMessage::decode(payload).unwrap())
    }

    fn has(&self, item: &VerifiedItem) {
        self.0.take(&record_exchange::have([&summary(item, true)])).unwrap();
    }

    fn lacks(&self, item: &VerifiedItem) {
        self.0.take(&record_exchange::have([&summary(item, false)])).unwrap();
    }

    fn brings(&self, item: &VerifiedItem) {
        self.0.take(&record_exchange::bring(item.as_signed())).unwrap();
    }
}

fn summary(item: &VerifiedItem, has: bool) -> Summary {
    Summary { key: *item.key(), salt: item.salt().clone(), version: has.then(|| Version::of(item)) }
}

fn sign(seq: i64, v: &[u8]) -> VerifiedItem {
    VerifiedItem::sign(&SigningKey::from_bytes(&[7; 32]), Salt::default(), seq, v.to_vec()).unwrap()
}

fn have(item: &VerifiedItem, has: bool) -> Option<ExchangeMessage> {
    Some(ExchangeMessage::Have(vec![summary(item, has)]))
}

fn record(item: &VerifiedItem) -> Option<ExchangeMessage> {
    Some(ExchangeMessage::Record(item.as_signed().clone()))
}

/// Gossip that follows the record of `item`.
fn following(item: &VerifiedItem, known: bool) -> (Gossip, mpsc::Receiver<VerifiedItem>) {
    let (gossip, news) = Gossip::new(&config::Gossip::default(), metrics::Gossip::detached());
    gossip.follow(*item.key(), item.salt().clone(), known.then_some(item), Interest::Asked);
    (gossip, news)
}

#[tokio::test(start_paused = true)]
async fn the_newer_version_goes_to_who_lacks_it_and_only_once() {
    let (old, new) = (sign(1, b"1:a"), sign(2, b"1:b"));
    let topic = InfoHash::from(old.target());
    let (gossip, mut news) = following(&old, true);
    let (behind, ahead) = (Peer::greet(&gossip, topic), Peer::greet(&gossip, topic));
    assert_eq!(behind.hears().await, have(&old, true));
    assert_eq!(ahead.hears().await, have(&old, true));
    behind.lacks(&old);
    assert_eq!(behind.hears().await, record(&old));
    ahead.has(&new);
    assert_eq!(ahead.hears().await, None, "it is ahead");
    ahead.brings(&new);
    assert_eq!(news.recv().await, Some(new.clone()));
    assert_eq!(behind.hears().await, record(&new));
    ahead.brings(&new);
    behind.brings(&old);
    assert_eq!((ahead.hears().await, behind.hears().await), (None, None), "nothing is told twice");
    assert!(news.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_before_both_have_offered() {
    let item = sign(1, b"1:a");
    let (gossip, mut news) = following(&item, false);
    let exchange = gossip.exchange(item.target().into()).unwrap();
    exchange.greeted(ID);
    let peer = Peer(exchange);
    peer.brings(&item);
    assert_eq!(peer.hears().await, None);
    assert!(news.try_recv().is_err());
    peer.0.offered();
    assert_eq!(peer.hears().await, have(&item, false));
    peer.0.greeted(0);
    peer.has(&item);
    gossip.learn(&sign(2, b"1:b"));
    assert_eq!(peer.hears().await, None, "it withdrew");
}

#[tokio::test(start_paused = true)]
async fn lies_end_the_connection_and_change_nothing() {
    let item = sign(5, b"1:a");
    let (gossip, mut news) = following(&item, true);
    let peer = Peer::greet(&gossip, item.target().into());
    let forged = |change: &dyn Fn(&mut crate::wire::item::SignedItem)| {
        let mut item = sign(6, b"1:b").as_signed().clone();
        change(&mut item);
        peer.0.take(&record_exchange::bring(&item)).is_err()
    };
    assert!(forged(&|item| item.sig.0[0] ^= 1));
    assert!(forged(&|item| item.seq = 7));
    assert!(forged(&|item| item.v = b"1:c".to_vec()));
    assert!(forged(&|item| item.v = vec![b'x'; 1001]));
    assert!(!forged(&|item| item.key.0[0] ^= 1), "of no record of this swarm: not looked at");
    assert!(!forged(&|item| item.seq = 4), "old: not looked at");
    assert!(peer.0.take(b"junk").is_ok());
    peer.brings(&sign(4, b"1:z"));
    assert!(news.try_recv().is_err());
    assert_eq!(gossip.lock().state.newest(&item.target()), Some(&item));
}

#[tokio::test(start_paused = true)]
async fn two_values_of_one_number_end_as_one() {
    let (small, large) = (sign(1, b"1:a"), sign(1, b"1:b"));
    for (ours, theirs) in [(&small, &large), (&large, &small)] {
        let (gossip, mut news) = following(ours, true);
        let peer = Peer::greet(&gossip, ours.target().into());
        assert_eq!(peer.hears().await, have(ours, true));
        peer.has(theirs);
        assert_eq!(peer.hears().await, record(ours), "the hash differs");
        peer.brings(theirs);
        assert_eq!(news.recv().await.as_ref(), Some(theirs), "so that it is flagged");
        assert_eq!(gossip.lock().state.newest(&small.target()), Some(&large));
        peer.brings(theirs);
        assert!(news.try_recv().is_err(), "once");
    }
}

#[tokio::test(start_paused = true)]
async fn readers_of_the_old_torrent_learn_of_the_new_one() {
    let (hash, other) = (InfoHash([1; 20]), InfoHash([2; 20]));
    let (old, new) = (sign(1, &pointer::value(&hash)), sign(2, &pointer::value(&other)));
    let (gossip, _news) = following(&old, false);
    let early = Peer::greet(&gossip, hash);
    assert_eq!(early.hears().await, None, "nothing is known to point here");
    gossip.learn(&old);
    assert_eq!(early.hears().await, have(&old, true));
    early.has(&old);
    let elsewhere = Peer::greet(&gossip, InfoHash([3; 20]));
    elsewhere.lacks(&old);
    gossip.learn(&new);
    assert_eq!(early.hears().await, record(&new));
    assert_eq!(elsewhere.hears().await, None, "the record does not belong to that swarm, and is not mentioned");
}

#[tokio::test(start_paused = true)]
async fn a_hasty_author_is_passed_on_at_our_pace_and_only_the_newest_waits() {
    let first = sign(0, b"i0e");
    let (gossip, _news) = following(&first, true);
    let peer = Peer::greet(&gossip, first.target().into());
    assert_eq!(peer.hears().await, have(&first, true));
    peer.has(&first);
    let mut heard = Vec::new();
    for seq in 1..=50 {
        gossip.learn(&sign(seq, b"i0e"));
        while let Ok(Some(ExchangeMessage::Record(item))) = timeout(Duration::ZERO, peer.hears()).await {
            heard.push(item.seq);
        }
        advance(Duration::from_millis(100)).await;
    }
    assert_eq!(heard.len(), 4, "a burst: {heard:?}");
    assert_eq!(peer.hears().await, record(&sign(50, b"i0e")));
    assert_eq!(peer.hears().await, None);
}

#[tokio::test(start_paused = true)]
async fn topics_are_bounded_and_pinned_ones_stay() {
    let settings = config::Gossip { max_topics: 3, ..config::Gossip::default() };
    let (gossip, _news) = Gossip::new(&settings, metrics::Gossip::detached());
    let key = |n| PublicKey([n; 32]);
    let target = |n| InfoHash::from(crate::wire::item::mutable_target(&key(n), &Salt::default()));
    gossip.follow(key(1), Salt::default(), None, Interest::Pinned);
    let mut changed = gossip.topics_changed();
    for n in [2, 3, 2, 4] {
        gossip.follow(key(n), Salt::default(), None, Interest::Asked);
    }
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    let followed: Vec<_> = (1..=4).filter(|n| gossip.is_topic(&target(*n))).collect();
    assert_eq!(followed, [1, 2, 4], "3 was used least recently");
    gossip.follow(key(2), Salt::default(), None, Interest::Pinned);
    gossip.follow(key(4), Salt::default(), None, Interest::Pinned);
    gossip.follow(key(5), Salt::default(), None, Interest::Pinned);
    assert!(!gossip.is_topic(&target(5)) && !changed.has_changed().unwrap(), "all places are pinned");
    assert_eq!(gossip.topics().len(), 3);
    assert!(!gossip.is_topic(&InfoHash::from(Target([0; 20]))));
}

/// Somebody asks for one record after the other that does not exist.
#[tokio::test(start_paused = true)]
async fn made_up_records_push_nothing_out_and_keep_no_put_from_being_followed() {
    let settings = config::Gossip { max_topics: 10, ..config::Gossip::default() };
    let (gossip, _news) = Gossip::new(&settings, metrics::Gossip::detached());
    let by = |author| {
        let key = SigningKey::from_bytes(&[author; 32]);
        VerifiedItem::sign(&key, Salt::default(), 1, b"le".to_vec()).unwrap()
    };
    let follow = |item: &VerifiedItem, why| gossip.follow(*item.key(), Salt::default(), Some(item), why);
    let made_up = |n: u16| {
        let salt = Salt::new(n.to_be_bytes()).unwrap();
        gossip.follow(PublicKey([9; 32]), salt, None, Interest::Asked);
    };
    let is_followed = |item: &VerifiedItem| gossip.is_topic(&item.target().into());
    let [asked, put, late] = [1, 2, 3].map(by);
    follow(&asked, Interest::Asked);
    follow(&put, Interest::Put);
    for n in 0..500 {
        made_up(n);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!((is_followed(&asked), is_followed(&put), gossip.topics().len()), (true, true, 10));
    (500..600).for_each(made_up);
    follow(&late, Interest::Put);
    assert!(is_followed(&late), "nothing is left of what may be followed for those who ask");
    follow(&by(4), Interest::Asked);
    assert!(!is_followed(&by(4)));
}
