//! A DHT in memory, for tests of whoever stands on the record service.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::Notify;

use super::network::{Network, Said};
use crate::dht::{GetOutcome, PutOutcome};
use crate::wire::id::{PublicKey, Target};
use crate::wire::item::{ItemError, Salt, VerifiedItem, check_value, immutable_target, mutable_target};

/// As one node that everybody shares.
#[derive(Default)]
pub(crate) struct MemoryDht {
    items: Mutex<HashMap<Target, VerifiedItem>>,
    values: Mutex<HashMap<Target, Vec<u8>>>,
    /// Nobody answers: gets find nothing, puts are stored nowhere.
    pub(crate) unreachable: AtomicBool,
    /// Gets wait for [`Self::answer`].
    pub(crate) silent: AtomicBool,
    /// Nodes answer one by one: this comes first, and what is held when [`Self::answer`] comes.
    pub(crate) first: Mutex<Option<VerifiedItem>>,
    /// Puts wait for it.
    pub(crate) slow_puts: AtomicBool,
    /// Nobody takes a put with `cas`, and nobody says why.
    pub(crate) refuses: AtomicBool,
    pub(crate) answer: Notify,
    /// What another server puts after the next put has looked and before it has stored; and whether some nodes get ours
    /// first.
    pub(crate) race: Mutex<Option<(VerifiedItem, bool)>>,
    /// Gets that came.
    pub(crate) gets: AtomicUsize,
    /// Puts that came.
    pub(crate) puts: AtomicUsize,
}

impl MemoryDht {
    /// What another server published.
    pub(crate) fn publish(&self, item: &VerifiedItem) {
        self.items.lock().unwrap().insert(item.target(), item.clone());
    }

    /// What the DHT holds.
    pub(crate) fn held(&self, target: &Target) -> Option<VerifiedItem> {
        self.items.lock().unwrap().get(target).cloned()
    }

    /// The items expire.
    pub(crate) fn forget(&self) {
        self.items.lock().unwrap().clear();
    }

    fn is_unreachable(&self) -> bool {
        self.unreachable.load(Ordering::SeqCst)
    }
}

impl Network for MemoryDht {
    fn find(&self, key: PublicKey, salt: Salt, known_seq: Option<i64>) -> BoxStream<'_, Said> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let first = self.first.lock().unwrap().take();
        let waits = first.is_some() || self.silent.load(Ordering::SeqCst);
        let over = async move {
            if waits {
                self.answer.notified().await;
            }
            let held = self.held(&mutable_target(&key, &salt)).filter(|_| !self.is_unreachable());
            let holders = usize::from(held.is_some());
            let item = held.filter(|item| known_seq.is_none_or(|known| item.seq() > known));
            Said::Over(GetOutcome { item, asked: 1, answered: 1, holders })
        };
        Box::pin(stream::iter(first.map(Said::Found)).chain(stream::once(over)))
    }

    fn get_immutable(&self, target: Target) -> BoxFuture<'_, Option<Vec<u8>>> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { self.values.lock().unwrap().get(&target).cloned() })
    }

    fn put(&self, item: VerifiedItem, cas: Option<i64>) -> BoxFuture<'_, PutOutcome> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            if self.slow_puts.load(Ordering::SeqCst) {
                self.answer.notified().await;
            }
            if self.is_unreachable() {
                return PutOutcome::default();
            }
            if cas.is_some() && self.refuses.load(Ordering::SeqCst) {
                self.forget();
                return PutOutcome { rejected: vec![(301, 8)], ..PutOutcome::default() };
            }
            let mut items = self.items.lock().unwrap();
            if let Some(held) = items.get(&item.target())
                && (held.replaces(&item) || cas.is_some_and(|cas| cas != held.seq()))
            {
                return PutOutcome { newer: Some(held.clone()), ..PutOutcome::default() };
            }
            if let Some((other, some_get_ours)) = self.race.lock().unwrap().take() {
                let newest = if some_get_ours && item.replaces(&other) { item } else { other };
                items.insert(newest.target(), newest);
                return PutOutcome { stored: some_get_ours.into(), rejected: vec![(301, 1)], newer: None };
            }
            items.insert(item.target(), item);
            PutOutcome { stored: 1, ..PutOutcome::default() }
        })
    }

    fn put_immutable(&self, v: Vec<u8>) -> BoxFuture<'_, Result<PutOutcome, ItemError>> {
        Box::pin(async move {
            check_value(&v)?;
            let stored = usize::from(!self.is_unreachable());
            if stored > 0 {
                self.values.lock().unwrap().insert(immutable_target(&v), v);
            }
            Ok(PutOutcome { stored, ..PutOutcome::default() })
        })
    }
}
