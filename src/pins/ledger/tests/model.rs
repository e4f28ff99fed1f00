//! Random steps. After each: what is on disk is what is in memory, the swarms joined are those that are needed, every owner
//! is charged for what is kept for him and nothing else. And when at last everything is to be had, every pin has it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Create { owner: u8, subject: u8, priority: i8 },
    Change { pin: usize, follow: bool, versions: u32, days: u32 },
    Delete { pin: usize },
    Restore { pin: usize, seq: i64 },
    Recover { pin: usize },
    Record { author: u8, seq: i64, torrent: u8 },
    NoRecord { author: u8 },
    Measured { torrent: u8 },
    Completed { torrent: u8 },
    Failed { torrent: u8, disk: bool },
    Pace { torrent: u8, moves: bool },
    Verified { torrent: u8, damaged: bool },
    Revoke { owner: u8, with_pins: bool },
    Later { seconds: u64 },
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let (owner, torrent, author, pin) = (0_u8..3, 0_u8..12, 0_u8..3, 0_usize..8);
    prop_oneof![
        4 => (owner.clone(), 0_u8..8, -2_i8..3).prop_map(|(owner, subject, priority)| Op::Create { owner, subject, priority }),
        2 => (pin.clone(), any::<bool>(), 0_u32..4, 0_u32..3)
            .prop_map(|(pin, follow, versions, days)| Op::Change { pin, follow, versions, days }),
        1 => pin.clone().prop_map(|pin| Op::Delete { pin }),
        2 => (pin.clone(), 0_i64..8).prop_map(|(pin, seq)| Op::Restore { pin, seq }),
        1 => pin.prop_map(|pin| Op::Recover { pin }),
        6 => (author.clone(), 0_i64..8, torrent.clone())
            .prop_map(|(author, seq, torrent)| Op::Record { author, seq, torrent }),
        1 => author.prop_map(|author| Op::NoRecord { author }),
        5 => torrent.clone().prop_map(|torrent| Op::Measured { torrent }),
        5 => torrent.clone().prop_map(|torrent| Op::Completed { torrent }),
        3 => (torrent.clone(), any::<bool>()).prop_map(|(torrent, disk)| Op::Failed { torrent, disk }),
        3 => (torrent.clone(), any::<bool>()).prop_map(|(torrent, moves)| Op::Pace { torrent, moves }),
        2 => (torrent, any::<bool>()).prop_map(|(torrent, damaged)| Op::Verified { torrent, damaged }),
        1 => (owner, any::<bool>()).prop_map(|(owner, with_pins)| Op::Revoke { owner, with_pins }),
        2 => (0_u64..200_000).prop_map(|seconds| Op::Later { seconds }),
        1 => Just(Op::Restart),
    ]
}

/// Torrent 11 is no torrent at all: the record of it points nowhere.
fn news(author: u8, seq: i64, torrent: u8) -> VerifiedItem {
    let value = if torrent == 11 { b"le".to_vec() } else { pointer::value(&hash(torrent)) };
    VerifiedItem::sign(&key(author), Salt::default(), seq, value).unwrap()
}

fn bytes_of(torrent: u8) -> Size {
    size(u64::from(torrent) * 13 % 60 + 1)
}

/// Few places, so that those that stand still get in each other's way.
const ONE_AT_ONCE: Limits = Limits { fetches: 1, ..LIMITS };

struct World {
    ledger: Ledger,
    now: Unix,
    /// The disk.
    pins: BTreeMap<PinId, Pin>,
    tokens: BTreeMap<TokenId, Token>,
    events: Vec<Event>,
    /// The network.
    joined: BTreeSet<InfoHash>,
    followed: BTreeSet<Target>,
    made: u8,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            ledger: Ledger::new(ONE_AT_ONCE),
            now: Unix(1000),
            pins: BTreeMap::new(),
            tokens: BTreeMap::new(),
            events: Vec::new(),
            joined: BTreeSet::new(),
            followed: BTreeSet::new(),
            made: 0,
        };
        for n in [1, 2] {
            let quota = Quota { bytes: Some(40 + 60 * n), pins: Some(3), pin_bytes: Some(55) };
            let step = world.ledger.add_token(token(n, quota), world.now);
            world.take(step);
        }
        world
    }

    fn owner(n: u8) -> Who {
        if n == 0 { Who::Operator } else { Who::Token(token(u64::from(n), Quota::default()).id) }
    }

    fn take<T>(&mut self, step: Step<T>) -> T {
        for change in step.changes {
            match change {
                Change::Save(pin) => drop(self.pins.insert(pin.id, *pin)),
                Change::Delete(id) => assert!(self.pins.remove(&id).is_some()),
                Change::SaveToken(token) => drop(self.tokens.insert(token.id, token)),
                Change::DeleteToken(id) => assert!(self.tokens.remove(&id).is_some()),
                Change::Happened(event) => self.events.push(event),
            }
        }
        for effect in step.effects {
            match effect {
                Effect::Join(info_hash, _) => assert!(self.joined.insert(info_hash), "joined twice: {info_hash}"),
                // One that is only queued, or waits after a failure, is not joined and may be forgotten.
                Effect::Leave { info_hash, .. } => drop(self.joined.remove(&info_hash)),
                Effect::Follow(key, salt) => {
                    assert!(self.followed.insert(crate::wire::item::mutable_target(&key, &salt)));
                }
                Effect::Unfollow(target) => assert!(self.followed.remove(&target)),
                Effect::LookUp(..) | Effect::Adopt(_) => {}
            }
        }
        step.outcome
    }

    fn nth(&self, n: usize) -> Option<PinId> {
        self.pins.keys().nth(n).copied()
    }

    fn apply(&mut self, op: Op) {
        let now = self.now;
        match op {
            Op::Create { owner, subject, priority } => {
                self.made = self.made.wrapping_add(1);
                let subject = if subject < 3 { site(subject) } else { Subject::Torrent(hash(subject)) };
                let settings = Settings { priority, ..Settings::default() };
                let create = Create { subject, settings, idempotency_key: None };
                let step = self.ledger.create(Self::owner(owner), create, PinId([self.made; 16]), now);
                let _ = self.take(step);
            }
            Op::Change { pin, follow, versions, days } => {
                let Some(id) = self.nth(pin) else { return };
                let change = |settings: &mut Settings| {
                    (settings.follow, settings.keep_versions, settings.keep_days) = (follow, versions, days);
                };
                let step = self.ledger.change(Who::Operator, &id, None, change, now);
                self.take(step).unwrap();
            }
            Op::Delete { pin } => {
                let Some(id) = self.nth(pin) else { return };
                let step = self.ledger.delete(Who::Operator, &id, None, now);
                self.take(step).unwrap();
            }
            Op::Restore { pin, seq } => {
                let Some(id) = self.nth(pin) else { return };
                let step = self.ledger.restore(Who::Operator, &id, seq, now);
                let _ = self.take(step);
            }
            Op::Recover { pin } => {
                let Some(id) = self.nth(pin) else { return };
                let step = self.ledger.recover(Who::Operator, &id, now);
                self.take(step).unwrap();
            }
            Op::Record { author, seq, torrent } => {
                let step = self.ledger.record(&news(author, seq, torrent), now);
                self.take(step);
            }
            Op::NoRecord { author } => {
                let step = self.ledger.no_record(&site(author).target().unwrap(), "no", now);
                self.take(step);
            }
            Op::Measured { torrent } if self.joined.contains(&hash(torrent)) => self.measured(torrent),
            Op::Completed { torrent } if self.joined.contains(&hash(torrent)) => {
                self.measured(torrent);
                // Its only user may have had no room for it.
                if self.joined.contains(&hash(torrent)) {
                    let step = self.ledger.completed(&hash(torrent), now);
                    self.take(step);
                }
            }
            Op::Failed { torrent, disk } if self.joined.contains(&hash(torrent)) => {
                let reason = if disk { Reason::DiskFull } else { Reason::NoPeers };
                let step = self.ledger.failed(&hash(torrent), reason, "it failed".into(), now);
                self.take(step);
            }
            Op::Pace { torrent, moves } => {
                let step = self.ledger.pace(&hash(torrent), moves, now);
                self.take(step);
            }
            Op::Verified { torrent, damaged } => {
                let complete = |torrent: &crate::pins::torrents::Torrent| torrent.phase == Phase::Complete;
                if self.ledger.torrents().get(&hash(torrent)).is_some_and(complete) {
                    let step = self.ledger.verified(&hash(torrent), damaged.then(|| "rot".to_owned()), now);
                    self.take(step);
                }
            }
            Op::Revoke { owner, with_pins } => {
                let Who::Token(id) = Self::owner(owner) else { return };
                let step = self.ledger.revoke(&id, with_pins, now);
                let _ = self.take(step);
            }
            Op::Later { seconds } => {
                self.now = now.after(Duration::from_secs(seconds));
                let step = self.ledger.tick(self.now);
                self.take(step);
            }
            Op::Restart => {
                self.ledger = Ledger::new(ONE_AT_ONCE);
                self.joined.clear();
                self.followed.clear();
                let step = self.ledger.load(
                    self.tokens.values().cloned().collect(),
                    self.pins.values().cloned().collect(),
                    self.events.clone(),
                    now,
                );
                self.take(step);
            }
            Op::Measured { .. } | Op::Completed { .. } | Op::Failed { .. } => {}
        }
    }

    fn measured(&mut self, torrent: u8) {
        let step = self.ledger.measured(&hash(torrent), bytes_of(torrent), self.now);
        self.take(step);
    }

    fn check(&self) {
        let ledger = &self.ledger;
        ledger.torrents.check();
        let in_memory: BTreeMap<PinId, Pin> = ledger.pins.iter().map(|(id, entry)| (*id, entry.pin.clone())).collect();
        assert_eq!(in_memory, self.pins, "the disk has what memory has");
        assert!(ledger.tokens.values().eq(ledger.tokens.keys().map(|id| &self.tokens[id])));

        let mut users: BTreeMap<InfoHash, BTreeSet<PinId>> = BTreeMap::new();
        let mut charged: BTreeMap<Who, BTreeMap<InfoHash, u64>> = BTreeMap::new();
        for pin in self.pins.values() {
            assert!(pin.versions.windows(2).all(|pair| pair[0].seq < pair[1].seq), "{pin:?}");
            assert!(pin.current.is_none() || pin.current().unwrap().state == VersionState::Kept, "{pin:?}");
            assert!(pin.wanted.is_none() || pin.wanted().unwrap().state == VersionState::Wanted, "{pin:?}");
            assert!(pin.current.is_none() || pin.current != pin.wanted);
            for version in pin.versions.iter().filter(|version| pin.is_charged(version)) {
                users.entry(version.info_hash).or_default().insert(pin.id);
                if let Some(size) = version.size {
                    charged.entry(pin.owner).or_default().insert(version.info_hash, size.bytes);
                }
            }
            let (_, trouble) = ledger.standing(pin);
            assert!(trouble.is_none_or(|trouble| !trouble.sentence.is_empty()));
        }
        let table: BTreeMap<InfoHash, BTreeSet<PinId>> =
            ledger.torrents.iter().map(|(hash, torrent)| (*hash, torrent.users.keys().copied().collect())).collect();
        assert_eq!(table, users, "torrents are there for those who use them");
        let is_joined = |phase: &Phase| !matches!(phase, Phase::Queued | Phase::Failing(_));
        let needed = ledger.torrents.iter().filter(|(_, torrent)| is_joined(&torrent.phase));
        assert_eq!(self.joined, needed.map(|(hash, _)| *hash).collect(), "swarms are joined when they are needed");
        for owner in [0, 1, 2].map(Self::owner) {
            let bytes = charged.get(&owner).map_or(0, |charged| charged.values().sum());
            let pins = self.pins.values().filter(|pin| pin.owner == owner).count() as u64;
            assert_eq!(ledger.usage(owner).0, Usage { pins, bytes });
            let seen: Vec<PinId> = ledger.list(owner, None).map(|pin| pin.id).collect();
            let own = self.pins.values().filter(|pin| owner == Who::Operator || pin.owner == owner);
            assert_eq!(seen.iter().copied().collect::<BTreeSet<_>>(), own.map(|pin| pin.id).collect());
        }
        let followed: BTreeSet<Target> = self.pins.values().filter_map(|pin| pin.subject.target()).collect();
        assert_eq!(self.followed, followed);
        assert!(self.events.windows(2).all(|pair| pair[0].number + 1 == pair[1].number));
    }

    /// Everything is to be had from now on, and quotas are gone with the pins that they hold back.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.apply(Op::Later { seconds: 4000 });
            for torrent in 0..12 {
                self.apply(Op::Completed { torrent });
            }
            self.check();
        }
        for pin in self.pins.values() {
            let (status, trouble) = self.ledger.standing(pin);
            let reason = trouble.map(|trouble| trouble.reason);
            let newest = pin.newest.as_ref().map(VerifiedItem::seq);
            match (&pin.subject, reason) {
                (_, Some(Reason::OverQuota | Reason::TooLarge)) => assert_ne!(pin.owner, Who::Operator),
                (Subject::Site(..), Some(Reason::RecordNamesNoTorrent)) => {
                    assert!(pointer::info_hash(pin.newest.as_ref().unwrap().v()).is_none());
                }
                (Subject::Site(..), _) if newest.is_none() => assert!(status == Status::Resolving || reason.is_some()),
                (Subject::Site(..), _) => {
                    assert_eq!(status, Status::Pinned, "{pin:?} {reason:?}");
                    assert!(pin.current == newest || !pin.settings.follow, "{pin:?}");
                }
                (Subject::Torrent(_), _) => assert_eq!((status, pin.current), (Status::Pinned, Some(0)), "{pin:?}"),
            }
        }
    }
}

proptest! {
    // A tenth of the usual number, since each case is a long one; PROPTEST_CASES counts ten times as many.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.div_ceil(10), ..ProptestConfig::default() })]
    #[test]
    fn random_steps(ops in prop::collection::vec(op(), 1..80)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
            world.check();
        }
        world.settle();
    }
}
