use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::wire::item::Salt;

fn item(author: u8, seq: i64, v: &[u8]) -> VerifiedItem {
    VerifiedItem::sign(&SigningKey::from_bytes(&[author; 32]), Salt::default(), seq, v.to_vec()).unwrap()
}

fn pointer_item(author: u8, seq: i64, info_hash: u8) -> VerifiedItem {
    item(author, seq, &pointer::value(&InfoHash([info_hash; 20])))
}

impl Book {
    /// What holds after every step.
    fn check_invariants(&self) {
        let adopted = self.slots.keys().filter(|target| self.adopted.contains_key(*target)).count();
        assert!(self.slots.len() <= self.capacity.max(adopted + 1));
        assert_eq!(self.by_use.len(), self.slots.len());
        for (place, target) in &self.by_use {
            let slot = &self.slots[target];
            let rank = match (self.adopted.contains_key(target), slot.entry.put_here) {
                (true, _) => Rank::Adopted,
                (_, put_here) => {
                    if put_here {
                        Rank::PutHere
                    } else {
                        Rank::Seen
                    }
                }
            };
            assert_eq!((slot.place, slot.place.0, slot.entry.item.target()), (*place, rank, *target));
        }
        let mut pointers = HashMap::new();
        for slot in self.slots.values() {
            if let Some(info_hash) = pointer::info_hash(slot.entry.item.v()) {
                *pointers.entry(info_hash).or_default() += 1;
            }
        }
        assert_eq!(self.pointers, pointers);
    }
}

#[test]
fn what_a_put_meets() {
    const ONE: &[u8] = b"1:a";
    const OTHER: &[u8] = b"1:b";
    /// Sequence number and value.
    type Version = (i64, &'static [u8]);
    // known, put, cas → code of the refusal
    let table: &[(Version, Version, Option<i64>, Option<i64>)] = &[
        ((4, ONE), (5, ONE), None, None),
        ((4, ONE), (5, ONE), Some(4), None),
        ((4, ONE), (9, ONE), Some(4), None),
        ((4, ONE), (5, ONE), Some(3), Some(301)),
        ((4, ONE), (5, ONE), Some(5), Some(301)),
        ((4, ONE), (3, OTHER), None, Some(302)),
        ((4, ONE), (3, OTHER), Some(4), Some(302)),
        ((4, ONE), (3, OTHER), Some(3), Some(301)),
        ((4, ONE), (4, ONE), None, None),
        ((4, ONE), (4, ONE), Some(3), None),
        ((4, ONE), (4, OTHER), None, None),
        ((4, ONE), (4, OTHER), Some(3), Some(301)),
        ((4, OTHER), (4, ONE), None, Some(302)),
    ];
    for (known, put, cas, code) in table {
        let mut book = Book::new(10);
        let known = item(1, known.0, known.1);
        let _ = book.learn(known.clone());
        let put = item(1, put.0, put.1);
        let step = book.put(put.clone(), *cas);
        let refused = match &step.outcome {
            Ok(_) => None,
            Err(Refusal::CasMismatch(current)) => Some((301, current.as_ref())),
            Err(Refusal::Stale(current)) => Some((302, current.as_ref())),
            Err(Refusal::BelowFloor(_)) => unreachable!("the record is there"),
        };
        let expected = code.map(|code| (code, &known));
        assert_eq!(refused, expected, "{known:?} {put:?} {cas:?}");
        let left = book.find(&known.target()).unwrap();
        assert_eq!(left.item, if code.is_none() { put.clone() } else { known.clone() });
        assert_eq!(left.put_here, code.is_none());
        let disk = Change::Save(left);
        assert_eq!(
            step.changes.first(),
            (code.is_none() || put.conflicts_with(&known) && *code == Some(302)).then_some(&disk)
        );
        book.check_invariants();
    }
}

#[test]
fn room_is_made_for_one_more_and_no_more() {
    let mut book = Book::new(2);
    let [one, two, three] = [1, 2, 3].map(|author| item(author, 1, b"le"));
    assert_eq!(book.make_room(&one.target()), []);
    let _ = (book.learn(one.clone()), book.learn(two.clone()));
    assert_eq!(book.make_room(&one.target()), [], "it has its room");
    let room = book.make_room(&three.target());
    assert_eq!(room, [Change::Delete(one.target()), Change::Floor(one.target(), 1)]);
    assert_eq!(book.make_room(&three.target()), []);
    assert_eq!(book.put(three, None).changes.len(), 1, "nothing else has to go");
    book.check_invariants();
}

#[test]
fn cas_over_nothing_is_ignored() {
    assert!(Book::new(1).put(item(1, 7, b"le"), Some(6)).outcome.is_ok());
}

#[test]
fn two_values_with_one_number_are_flagged_until_the_next_number() {
    let mut book = Book::new(10);
    let target = item(1, 1, b"1:a").target();
    let _ = book.learn(item(1, 1, b"1:b"));
    assert!(!book.find(&target).unwrap().conflict);
    let step = book.learn(item(1, 1, b"1:a"));
    assert_eq!(step.changes, [Change::Save(book.find(&target).unwrap())]);
    assert!(book.find(&target).unwrap().conflict);
    assert!(book.learn(item(1, 1, b"1:a")).changes.is_empty(), "known already");
    assert!(book.put(item(1, 1, b"1:b"), None).outcome.unwrap().conflict);
    let _ = book.learn(item(1, 2, b"1:a"));
    assert!(!book.find(&target).unwrap().conflict);
}

#[test]
fn freshness_is_the_time_since_the_dht_was_asked() {
    let (mut book, start) = (Book::new(10), Instant::now());
    let target = item(1, 1, b"le").target();
    let seconds = Duration::from_secs;
    assert!(!book.is_fresh(&target, seconds(10), start));
    book.checked(target, start);
    assert!(book.is_fresh(&target, seconds(10), start + seconds(3)), "absent a moment ago");
    assert!(!book.is_fresh(&target, seconds(10), start + seconds(8)), "absence is believed for a shorter time");
    let _ = book.put(item(1, 1, b"le"), None);
    assert!(!book.is_fresh(&target, seconds(10), start), "what others may have is not known yet");
    book.checked(target, start);
    assert!(book.is_fresh(&target, seconds(10), start + seconds(10)));
    assert!(!book.is_fresh(&target, seconds(10), start + seconds(11)));
    let _ = book.learn(item(1, 2, b"le"));
    assert!(book.is_fresh(&target, seconds(10), start + seconds(10)), "a new version does not make it older");
}

#[test]
fn the_index_follows_the_newest_version() {
    let mut book = Book::new(2);
    let hash = |n| InfoHash([n; 20]);
    let _ = book.learn(pointer_item(1, 1, 7));
    let _ = book.learn(pointer_item(2, 1, 7));
    let _ = book.learn(pointer_item(1, 2, 8));
    assert!(book.points_to(&hash(7)) && book.points_to(&hash(8)), "author 2 still points to the first");
    let _ = book.learn(pointer_item(2, 2, 8));
    assert!(!book.points_to(&hash(7)));
    let _ = book.learn(pointer_item(3, 1, 9));
    let _ = book.learn(pointer_item(4, 1, 9));
    assert!(!book.points_to(&hash(8)), "evicted with the records");
    book.check_invariants();
}

#[test]
fn the_least_recently_used_goes_and_what_was_put_here_last() {
    let mut book = Book::new(3);
    let target = |author| item(author, 1, b"le").target();
    let _ = book.put(item(1, 1, b"le"), None);
    let _ = book.learn(item(2, 1, b"le"));
    let _ = book.learn(item(3, 1, b"le"));
    book.find(&target(2));
    let gone = |author| [Change::Delete(target(author)), Change::Floor(target(author), 1)];
    assert_eq!(book.learn(item(4, 1, b"le")).changes[1..], gone(3));
    let _ = book.put(item(5, 1, b"le"), None);
    let _ = book.put(item(6, 1, b"le"), None);
    assert_eq!(book.learn(item(7, 1, b"le")).changes[1..], gone(1), "only puts are left");
    assert!(book.find(&target(7)).is_some(), "what was just learnt stays for whoever waits for it");
    book.check_invariants();
}

#[test]
fn what_is_adopted_stays_however_many_others_come() {
    let mut book = Book::new(2);
    let target = |author| item(author, 1, b"le").target();
    assert_eq!(book.adopt(target(1), 1), None, "before it is there, as at a start");
    for author in 1..=3 {
        let _ = book.learn(item(author, 1, b"le"));
    }
    assert_eq!((book.adopt(target(1), 1), book.adopt(target(3), 1)), (Some(1), None));
    for author in 4..=9 {
        let _ = book.put(item(author, 1, b"le"), None);
        book.check_invariants();
    }
    assert_eq!(book.to_publish(&target(1)), Some(item(1, 1, b"le")));
    assert_eq!((book.len(), book.to_publish(&target(8))), (3, None), "of the others the last one alone has room");
    let _ = book.learn(item(3, 2, b"le"));
    assert_eq!(book.to_publish(&target(3)), Some(item(3, 2, b"le")));
    book.abandon(&target(1));
    assert_eq!(book.to_publish(&target(1)), None);
    let _ = book.learn(item(9, 2, b"le"));
    assert_eq!((book.len(), book.peek(&target(1))), (2, None), "it makes room again");
    book.check_invariants();
}

#[test]
fn an_evicted_record_does_not_come_back_older() {
    let mut book = Book::new(1);
    let target = item(1, 5, b"le").target();
    let _ = book.learn(item(1, 5, b"le"));
    let _ = book.learn(item(2, 1, b"le"));
    let step = book.learn(item(1, 4, b"le"));
    assert_eq!((step.outcome, step.changes), (false, vec![]));
    assert_eq!(book.put(item(1, 4, b"le"), None).outcome, Err(Refusal::BelowFloor(5)));
    assert_eq!(book.find(&target), None);
    assert!(book.put(item(1, 5, b"le"), None).outcome.is_ok());
    let _ = book.learn(item(2, 1, b"le"));
    assert!(!book.learn(item(1, 4, b"le")).outcome, "the floor is still there");
    book.check_invariants();

    let mut restarted = Book::new(1);
    assert_eq!(restarted.load_floor(target, 5), []);
    assert!(!restarted.learn(item(1, 4, b"le")).outcome && restarted.learn(item(1, 6, b"le")).outcome);
}

#[derive(Debug, Clone)]
enum Op {
    Learn { author: u8, seq: i64, v: u8 },
    Put { author: u8, seq: i64, v: u8, cas: Option<i64> },
    Find { author: u8 },
    Adopt { author: u8 },
    Abandon { author: u8 },
}

fn op() -> impl Strategy<Value = Op> {
    let version = (1..4_u8, 0..4_i64, b'a'..b'd');
    prop_oneof![
        version.clone().prop_map(|(author, seq, v)| Op::Learn { author, seq, v }),
        (version, proptest::option::of(0..4_i64)).prop_map(|((author, seq, v), cas)| Op::Put { author, seq, v, cas }),
        (1..4_u8).prop_map(|author| Op::Find { author }),
        (1..4_u8).prop_map(|author| Op::Adopt { author }),
        (1..4_u8).prop_map(|author| Op::Abandon { author }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens, each author's newest version wins, refused puts change nothing that readers see, and the disk
    /// that applies the changes in order holds what the book holds.
    #[test]
    fn random_operations_agree_with_a_simple_model(ops in proptest::collection::vec(op(), 1..40)) {
        let mut book = Book::new(10);
        let mut model: HashMap<u8, (i64, u8)> = HashMap::new();
        let mut disk: HashMap<Target, Entry> = HashMap::new();
        for op in ops {
            let changes = match op {
                Op::Learn { author, seq, v } => {
                    let newest = model.entry(author).or_insert((seq, v));
                    *newest = (*newest).max((seq, v));
                    book.learn(item(author, seq, &[b'1', b':', v])).changes
                }
                Op::Put { author, seq, v, cas } => {
                    let step = book.put(item(author, seq, &[b'1', b':', v]), cas);
                    let known = model.get(&author).copied();
                    let taken = known.is_none_or(|known| {
                        known == (seq, v) || (known < (seq, v) && cas.is_none_or(|cas| cas == known.0))
                    });
                    prop_assert_eq!(step.outcome.is_ok(), taken);
                    if taken {
                        model.insert(author, (seq, v));
                    }
                    step.changes
                }
                Op::Find { author } => {
                    let found = book.find(&item(author, 0, b"le").target()).map(|e| (e.item.seq(), e.item.v()[2]));
                    prop_assert_eq!(found, model.get(&author).copied());
                    Vec::new()
                }
                Op::Adopt { author } => {
                    let _ = book.adopt(item(author, 0, b"le").target(), 0);
                    Vec::new()
                }
                Op::Abandon { author } => {
                    book.abandon(&item(author, 0, b"le").target());
                    Vec::new()
                }
            };
            for change in changes {
                match change {
                    Change::Save(entry) => disk.insert(entry.item.target(), entry),
                    Change::Delete(target) => disk.remove(&target),
                    Change::Floor(..) | Change::ForgetFloor(_) | Change::Intend(_) | Change::Decided(_) => None,
                };
            }
            book.check_invariants();
        }
        let kept: HashMap<Target, Entry> = book.slots.iter().map(|(t, slot)| (*t, slot.entry.clone())).collect();
        prop_assert_eq!(disk, kept);
    }
}
