//! Gossip: peers tell each other the newest version of the records they follow (`spec/record-exchange.md`).
//!
//! What is told to whom is decided in `state`, which is pure. This room opens no connection and knows no transport: the
//! bridge greets every peer, of torrents and of topic swarms, and hands the extension's messages to an [`Exchange`]. Local
//! discovery (`local`) tells the bridge's dialler who is near.

pub mod local;
#[cfg(test)]
mod simulation;
mod state;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::wire::id::{InfoHash, PublicKey};
use crate::wire::item::{ItemError, Salt, VerifiedItem};
use crate::wire::peer::Message;
use crate::wire::record_exchange::ExchangeMessage;
use crate::{config, metrics, tasks::Tasks};
use local::LocalDiscovery;
use state::{Claim, Effects, Learnt, Next, PeerKey, State};

pub use state::Interest;

/// Versions on their way to whoever keeps them. When it is full, versions are not taken from peers.
const NEWS: usize = 256;

/// What all connections share. Clones are the same.
#[derive(Clone)]
pub struct Gossip {
    inner: Arc<Inner>,
}

struct Inner {
    settings: config::Gossip,
    /// A std mutex: each step is a few synchronous lines; signatures are checked outside it.
    shared: Mutex<Shared>,
    news: mpsc::Sender<VerifiedItem>,
    topics: watch::Sender<()>,
    metrics: metrics::Gossip,
}

struct Shared {
    state: State,
    /// Rung when there may be something to tell.
    bells: HashMap<PeerKey, Arc<Notify>>,
    /// How many there have been.
    exchanges: PeerKey,
}

impl Gossip {
    /// Gossip about nothing so far. What peers bring that is new comes out of the receiver, verified.
    #[must_use]
    pub fn new(settings: &config::Gossip, metrics: metrics::Gossip) -> (Self, mpsc::Receiver<VerifiedItem>) {
        let (news, news_rx) = mpsc::channel(NEWS);
        let shared = Shared { state: State::new(settings.max_topics), bells: HashMap::new(), exchanges: 0 };
        let settings = settings.clone();
        let inner = Inner { settings, shared: Mutex::new(shared), news, topics: watch::channel(()).0, metrics };
        (Self { inner: Arc::new(inner) }, news_rx)
    }

    /// Follows a record, whose newest version here is `newest`. Pinned records are followed for good; others until more
    /// recently used ones need their place, those first of which no version is known.
    pub fn follow(&self, key: PublicKey, salt: Salt, newest: Option<&VerifiedItem>, why: Interest) {
        if !self.inner.settings.enabled {
            return;
        }
        self.step(|state| ((), state.follow(key, salt, why, Instant::now())));
        if let Some(item) = newest {
            self.learn(item);
        }
    }

    /// Tells those who follow its record of a version that was learnt elsewhere.
    pub fn learn(&self, item: &VerifiedItem) {
        self.step(|state| state.learn(item, None));
    }

    /// Starts local discovery for peers at `listener`, unless it is switched off.
    #[must_use]
    pub fn local_discovery(&self, listener: SocketAddr, tasks: &Tasks) -> Option<LocalDiscovery> {
        let start = || LocalDiscovery::start(listener, self.inner.metrics.clone(), tasks);
        self.inner.settings.local_discovery.then(start)
    }

    /// The swarms to be in: those of the records that are followed.
    #[must_use]
    pub fn topics(&self) -> Vec<InfoHash> {
        self.lock().state.topics().collect()
    }

    /// Whether this is the info hash of a record that is followed.
    #[must_use]
    pub fn is_topic(&self, info_hash: &InfoHash) -> bool {
        self.lock().state.is_topic(info_hash)
    }

    /// Changes when [`Gossip::topics`] does.
    #[must_use]
    pub fn topics_changed(&self) -> watch::Receiver<()> {
        self.inner.topics.subscribe()
    }

    /// A peer was greeted in `swarm`. `None` when records are not exchanged at all.
    #[must_use]
    pub fn exchange(&self, swarm: InfoHash) -> Option<Exchange> {
        if !self.inner.settings.enabled {
            return None;
        }
        let bell = Arc::new(Notify::new());
        let mut shared = self.lock();
        shared.exchanges += 1;
        let key = shared.exchanges;
        shared.state.joined(key, swarm);
        shared.bells.insert(key, bell.clone());
        drop(shared);
        Some(Exchange { gossip: self.clone(), key, bell })
    }

    /// Changes the state and does what follows from it.
    fn step<T>(&self, change: impl FnOnce(&mut State) -> (T, Effects)) -> T {
        let mut shared = self.lock();
        let (outcome, effects) = change(&mut shared.state);
        for bell in effects.wake.iter().filter_map(|key| shared.bells.get(key)) {
            bell.notify_one();
        }
        if effects.topics_changed {
            self.inner.metrics.topics.set(shared.state.topics().count() as i64);
            drop(shared);
            self.inner.topics.send_replace(());
        }
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.inner.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to a peer, for as long as this is kept.
pub struct Exchange {
    gossip: Gossip,
    key: PeerKey,
    bell: Arc<Notify>,
}

impl Exchange {
    /// The extension was offered to the peer.
    pub fn offered(&self) {
        self.gossip.step(|state| ((), state.offered(self.key)));
    }

    /// The peer offered the extension under `id`, or withdrew it with 0.
    pub fn greeted(&self, id: u8) {
        self.gossip.step(|state| ((), state.greeted(self.key, id)));
    }

    /// Takes a payload of the extension.
    ///
    /// # Errors
    /// A record that does not verify: "the receiver SHOULD close the connection".
    pub fn take(&self, payload: &[u8]) -> Result<(), ItemError> {
        let metrics = &self.gossip.inner.metrics;
        let count = |kind: &str| metrics.messages.with_label_values(&["in", kind]).inc();
        let item = match ExchangeMessage::decode(payload) {
            Ok(ExchangeMessage::Have(summaries)) => {
                count("have");
                self.gossip.step(|state| ((), state.have(self.key, &summaries, Instant::now())));
                return Ok(());
            }
            Ok(ExchangeMessage::Record(item)) => item,
            Ok(ExchangeMessage::Unknown) | Err(_) => {
                count("other");
                return Ok(());
            }
        };
        count("record");
        let result = |result: &str| metrics.records.with_label_values(&[result]).inc();
        let dropped = match self.gossip.lock().state.claim(self.key, &item, Instant::now()) {
            Claim::Verify => None,
            Claim::Stale => Some("stale"),
            Claim::Unwanted => Some("unwanted"),
            Claim::Throttled => Some("throttled"),
        };
        if let Some(why) = dropped {
            result(why);
            return Ok(());
        }
        let item = item.verify().inspect_err(|_| result("forged"))?;
        // The place first: what is passed on is also kept.
        let Ok(place) = self.gossip.inner.news.try_reserve() else {
            result("busy");
            return Ok(());
        };
        match self.gossip.step(|state| state.learn(&item, Some(self.key))) {
            Learnt::New => result("new"),
            Learnt::Conflict => result("conflict"),
            Learnt::Old | Learnt::NotFollowed => {
                result("stale");
                return Ok(());
            }
        }
        place.send(item);
        Ok(())
    }

    /// The next frame for the peer, as soon as there is something to tell. May be dropped at any await.
    pub async fn frame(&self) -> Bytes {
        loop {
            let next = self.gossip.lock().state.next(self.key, Instant::now());
            match next {
                Next::Send { id, kind, payload } => {
                    self.gossip.inner.metrics.messages.with_label_values(&["out", kind]).inc();
                    return Message::Extended { id, payload: &payload }.encode();
                }
                Next::Wait(None) => self.bell.notified().await,
                Next::Wait(Some(at)) => tokio::select! {
                    () = self.bell.notified() => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut shared = self.gossip.lock();
        shared.state.left(self.key);
        shared.bells.remove(&self.key);
    }
}

#[cfg(test)]
mod tests;
