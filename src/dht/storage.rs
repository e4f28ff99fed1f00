//! BEP 44 items kept for other nodes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::wire::id::{Distance, NodeId, Target};
use crate::wire::item::{self, VerifiedItem};
use crate::wire::krpc::{CAS_MISMATCH, ErrorReply, SEQ_TOO_LOW, SERVER_ERROR};

/// BEP 44: "Without re-announcement, these items MAY expire in 2 hours."
const LIFETIME: Duration = Duration::from_secs(2 * 3600);

/// Items by their distance from our node id. When there are too many, the farthest goes: the nodes it belongs to are
/// elsewhere, and a flood of items cannot push out those that are ours to keep.
#[derive(Debug)]
pub(super) struct Storage {
    home: NodeId,
    max: usize,
    items: BTreeMap<Distance, Kept>,
    /// No item expires before.
    soonest: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    target: Target,
    item: Item,
    until: Instant,
}

/// A kept item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// Found by the hash of its value.
    Immutable(Vec<u8>),
    /// Found by the hash of its author and salt.
    Mutable(VerifiedItem),
}

impl Storage {
    pub(super) fn new(home: NodeId, max: usize) -> Self {
        Self { home, max, items: BTreeMap::new(), soonest: None }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// What is kept at `target`.
    pub(super) fn get(&self, now: Instant, target: &Target) -> Option<&Item> {
        self.items.get(&self.home.distance(target)).filter(|kept| kept.until > now).map(|kept| &kept.item)
    }

    /// Keeps a value.
    pub(super) fn put_immutable(&mut self, now: Instant, v: Vec<u8>) -> Result<(), ErrorReply> {
        item::check_value(&v)?;
        self.keep(now, item::immutable_target(&v), Item::Immutable(v))
    }

    /// Keeps a signed item, if it may replace what is there. BEP 44: "Only if the cas matches the stored sequence number
    /// is the put performed"; a lower number is refused; "If the sequence number is equal, and the value is also the
    /// same, the node SHOULD reset its timeout counter". Where BEP 44 refuses an equal number with another value, the
    /// bytewise larger value is taken, so that copies of such an accident converge instead of staying apart.
    pub(super) fn put_mutable(&mut self, now: Instant, item: VerifiedItem, cas: Option<i64>) -> Result<(), ErrorReply> {
        let target = item.target();
        if let Some(Item::Mutable(current)) = self.get(now, &target) {
            if cas.is_some_and(|cas| cas != current.seq()) {
                return Err(ErrorReply::new(
                    CAS_MISMATCH,
                    "the CAS number is not the current one; re-read and try again",
                ));
            }
            if !item.replaces(current) && (item.seq(), item.v()) != (current.seq(), current.v()) {
                return Err(ErrorReply::new(SEQ_TOO_LOW, "sequence number less than current"));
            }
        }
        self.keep(now, target, Item::Mutable(item))
    }

    /// Keeps an item of our own, which has been checked against what is there already.
    pub(super) fn keep_own(&mut self, now: Instant, item: Item) -> Result<(), ErrorReply> {
        match item {
            Item::Immutable(v) => self.put_immutable(now, v),
            Item::Mutable(item) => self.put_mutable(now, item, None),
        }
    }

    /// Forgets what was not put again in time.
    pub(super) fn expire(&mut self, now: Instant) {
        self.items.retain(|_, kept| kept.until > now);
        self.soonest = self.items.values().map(|kept| kept.until).min();
    }

    /// Moves to another node id.
    pub(super) fn rehome(&mut self, home: NodeId) {
        let items = std::mem::take(&mut self.items);
        self.home = home;
        self.items = items.into_values().map(|kept| (home.distance(&kept.target), kept)).collect();
    }

    fn keep(&mut self, now: Instant, target: Target, item: Item) -> Result<(), ErrorReply> {
        let distance = self.home.distance(&target);
        let until = now + LIFETIME;
        self.items.insert(distance, Kept { target, item, until });
        let soonest = *self.soonest.get_or_insert(until);
        if self.items.len() > self.max && soonest <= now {
            // What has expired and was not looked at since takes nobody's place.
            self.expire(now);
        }
        if self.items.len() > self.max {
            let farthest = self.items.pop_last().map(|(distance, _)| distance);
            if farthest == Some(distance) {
                return Err(ErrorReply::new(SERVER_ERROR, "full, and this item is the farthest of all"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::wire::item::Salt;

    fn signed(seq: i64, v: &[u8]) -> VerifiedItem {
        VerifiedItem::sign(&SigningKey::from_bytes(&[1; 32]), Salt::default(), seq, v.to_vec()).unwrap()
    }

    #[test]
    fn what_may_replace_what() {
        // What is there, what comes with which cas, and the answer.
        let table = [
            ((1, "1:a"), (2, "1:a"), None, Ok(())),
            ((1, "1:a"), (2, "1:a"), Some(1), Ok(())),
            ((1, "1:a"), (2, "1:a"), Some(0), Err(301)),
            ((1, "1:a"), (2, "1:a"), Some(2), Err(301)),
            ((2, "1:a"), (1, "1:b"), None, Err(302)),
            ((2, "1:a"), (1, "1:b"), Some(2), Err(302)),
            ((2, "1:a"), (1, "1:b"), Some(1), Err(301)),
            ((2, "1:a"), (2, "1:a"), None, Ok(())),
            ((2, "1:b"), (2, "1:a"), None, Err(302)),
            ((2, "1:a"), (2, "1:b"), None, Ok(())),
        ];
        let now = Instant::now();
        for (there, comes, cas, expected) in table {
            let mut storage = Storage::new(NodeId([0; 20]), 10);
            storage.put_mutable(now, signed(there.0, there.1.as_bytes()), Some(77)).unwrap();
            let item = signed(comes.0, comes.1.as_bytes());
            let answer = storage.put_mutable(now, item.clone(), cas).map_err(|error| error.code);
            assert_eq!(answer, expected, "{there:?} {comes:?} {cas:?}");
            let kept = if answer.is_ok() { item } else { signed(there.0, there.1.as_bytes()) };
            assert_eq!(storage.get(now, &kept.target()), Some(&Item::Mutable(kept)));
        }
    }

    #[test]
    fn items_expire_unless_put_again() {
        let start = Instant::now();
        let mut storage = Storage::new(NodeId([0; 20]), 10);
        storage.put_mutable(start, signed(1, b"1:a"), None).unwrap();
        storage.put_immutable(start, b"1:x".to_vec()).unwrap();
        storage.put_mutable(start + LIFETIME / 2, signed(1, b"1:a"), None).unwrap();
        let immutable = item::immutable_target(b"1:x");
        assert!(storage.get(start, &immutable).is_some());
        assert!(storage.get(start + LIFETIME, &immutable).is_none());
        assert!(storage.get(start + LIFETIME, &signed(1, b"1:a").target()).is_some());
        storage.expire(start + LIFETIME);
        assert_eq!(storage.len(), 1);
    }

    #[test]
    fn what_has_expired_takes_nobodys_place() {
        let start = Instant::now();
        let mut storage = Storage::new(NodeId([0; 20]), 1);
        let mut values = [b"1:x".to_vec(), b"1:y".to_vec()];
        values.sort_by_key(|v| NodeId([0; 20]).distance(&item::immutable_target(v)));
        let [near, far] = values;
        storage.put_immutable(start, near.clone()).unwrap();
        assert_eq!(storage.put_immutable(start, far.clone()).unwrap_err().code, 202);
        storage.put_immutable(start + LIFETIME / 2, near).unwrap();
        assert_eq!(storage.put_immutable(start + LIFETIME, far.clone()).unwrap_err().code, 202);
        storage.put_immutable(start + LIFETIME * 3 / 2, far).unwrap();
    }

    #[test]
    fn a_full_storage_keeps_the_nearest() {
        let now = Instant::now();
        let home = NodeId([0; 20]);
        let mut storage = Storage::new(home, 3);
        let mut values: Vec<Vec<u8>> = (10..20).map(|n| format!("2:{n}").into_bytes()).collect();
        for v in &values {
            let _ = storage.put_immutable(now, v.clone());
        }
        values.sort_by_key(|v| home.distance(&item::immutable_target(v)));
        let kept = |storage: &Storage| {
            values
                .iter()
                .filter(|v| storage.get(now, &item::immutable_target(v)).is_some())
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(&storage), values[..3]);
        assert_eq!(storage.put_immutable(now, values[9].clone()).unwrap_err().code, 202);
        storage.rehome(NodeId([0xff; 20]));
        assert_eq!(kept(&storage), values[..3], "they are found from the new place too");
    }

    #[test]
    fn values_are_checked() {
        let mut storage = Storage::new(NodeId([0; 20]), 3);
        let big = [b"1000:".as_slice(), &[0; 1000]].concat();
        assert_eq!(storage.put_immutable(Instant::now(), big).unwrap_err().code, 205);
        assert_eq!(storage.put_immutable(Instant::now(), b"junk".to_vec()).unwrap_err().code, 203);
    }
}
