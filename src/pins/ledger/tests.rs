//! What owners notice, step by step; and random steps, after each of which what must always hold is checked.

mod model;

use ed25519_dalek::SigningKey;

use super::*;
use crate::pins::pin::{Settings, Size, Subject, VersionState};
use crate::pins::token::Scope;
use crate::wire::pointer;

const LIMITS: Limits = Limits { fetches: 2, pins: 100, pin_bytes: 1000, pin_files: 9 };

fn hash(n: u8) -> InfoHash {
    InfoHash([n; 20])
}

fn key(author: u8) -> SigningKey {
    SigningKey::from_bytes(&[author; 32])
}

fn site(author: u8) -> Subject {
    Subject::Site(PublicKey(key(author).verifying_key().to_bytes()), Salt::default())
}

fn record(author: u8, seq: i64, torrent: u8) -> VerifiedItem {
    VerifiedItem::sign(&key(author), Salt::default(), seq, pointer::value(&hash(torrent))).unwrap()
}

fn size(bytes: u64) -> Size {
    Size { bytes, files: 1, pieces: 1 }
}

fn create(subject: Subject) -> Create {
    Create { subject, settings: Settings::default(), idempotency_key: None }
}

fn token(n: u64, quota: Quota) -> Token {
    use rand::SeedableRng;
    let mut rng = rand::rngs::StdRng::seed_from_u64(n);
    Token::new(String::new(), Scope::Write, quota, None, Unix(0), &mut rng).0
}

/// A ledger, its clock, and what it asked for.
struct Trial {
    ledger: Ledger,
    now: Unix,
    effects: Vec<Effect>,
    made: u8,
}

impl Trial {
    fn new() -> Self {
        Self { ledger: Ledger::new(LIMITS), now: Unix(1000), effects: Vec::new(), made: 0 }
    }

    fn take<T>(&mut self, step: Step<T>) -> T {
        self.effects.extend(step.effects);
        step.outcome
    }

    fn owner(&mut self, n: u64, quota: Quota) -> Who {
        let token = token(n, quota);
        let who = Who::Token(token.id);
        let step = self.ledger.add_token(token, self.now);
        self.take(step);
        who
    }

    fn pin(&mut self, who: Who, subject: Subject) -> PinId {
        self.try_pin(who, create(subject)).unwrap().0
    }

    fn try_pin(&mut self, who: Who, create: Create) -> Result<(PinId, bool), RequestError> {
        self.made += 1;
        let step = self.ledger.create(who, create, PinId([self.made; 16]), self.now);
        self.take(step)
    }

    fn record(&mut self, item: &VerifiedItem) {
        let step = self.ledger.record(item, self.now);
        self.take(step);
    }

    /// The metadata and then all of a torrent comes.
    fn fetched(&mut self, torrent: u8, bytes: u64) {
        self.measured(torrent, bytes);
        let step = self.ledger.completed(&hash(torrent), self.now);
        self.take(step);
    }

    fn measured(&mut self, torrent: u8, bytes: u64) {
        let step = self.ledger.measured(&hash(torrent), size(bytes), self.now);
        self.take(step);
    }

    fn fails(&mut self, torrent: u8, reason: Reason) {
        let step = self.ledger.failed(&hash(torrent), reason, "it failed".into(), self.now);
        self.take(step);
    }

    fn later(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
        let step = self.ledger.tick(self.now);
        self.take(step);
    }

    /// Status, reason, current version, version on its way.
    fn stands(&self, id: PinId) -> (&'static str, Option<&'static str>, Option<i64>, Option<i64>) {
        let pin = self.ledger.find(Who::Operator, &id).unwrap();
        let (status, trouble) = self.ledger.standing(pin);
        (status.name(), trouble.map(|trouble| trouble.reason.code()), pin.current, pin.wanted)
    }

    fn states(&self, id: PinId) -> Vec<(i64, VersionState)> {
        let pin = self.ledger.find(Who::Operator, &id).unwrap();
        pin.versions.iter().map(|version| (version.seq, version.state)).collect()
    }

    fn set(&mut self, who: Who, id: PinId, change: impl FnOnce(&mut Settings)) {
        let step = self.ledger.change(who, &id, None, change, self.now);
        self.take(step).unwrap();
    }

    fn took(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }
}

#[test]
fn a_torrent_from_queued_to_pinned() {
    let mut trial = Trial::new();
    let pins: Vec<PinId> = (1..4).map(|n| trial.pin(Who::Operator, Subject::Torrent(hash(n)))).collect();
    assert_eq!(trial.took(), [Effect::Join(hash(1), vec![]), Effect::Join(hash(2), vec![])], "two at once");
    assert_eq!(trial.stands(pins[0]), ("resolving", None, None, Some(0)));
    assert_eq!(trial.stands(pins[2]), ("queued", None, None, Some(0)));
    trial.measured(1, 10);
    assert_eq!(trial.stands(pins[0]), ("downloading", None, None, Some(0)));
    trial.fetched(1, 10);
    assert_eq!(trial.stands(pins[0]), ("pinned", None, Some(0), None));
    assert_eq!(trial.took(), [Effect::Join(hash(3), vec![])]);
    let events: Vec<_> = trial.ledger.events().after(Who::Operator, 0).filter(|event| event.pin == pins[0]).collect();
    let names: Vec<_> = events.iter().map(|event| event.kind.name()).collect();
    assert_eq!(names, ["created", "status", "status", "current", "status"], "resolving, downloading, pinned");
}

#[test]
fn a_newer_version_is_current_only_when_all_of_it_is_here() {
    let mut trial = Trial::new();
    let id = trial.pin(Who::Operator, site(1));
    assert_eq!(trial.stands(id), ("resolving", None, None, None));
    let Subject::Site(public, salt) = site(1) else { unreachable!() };
    assert_eq!(trial.took(), [Effect::Follow(public, salt)]);
    trial.record(&record(1, 5, 5));
    assert_eq!(trial.took(), [Effect::Adopt(record(1, 5, 5)), Effect::Join(hash(5), vec![])]);
    trial.fetched(5, 10);
    assert_eq!(trial.stands(id), ("pinned", None, Some(5), None));
    trial.record(&record(1, 6, 6));
    assert_eq!(trial.stands(id), ("resolving", None, Some(5), Some(6)));
    trial.measured(6, 10);
    assert_eq!(trial.stands(id), ("downloading", None, Some(5), Some(6)));
    trial.record(&record(1, 7, 7));
    assert_eq!(trial.stands(id), ("downloading", None, Some(5), Some(6)), "what is coming in is let come");
    trial.fetched(6, 10);
    assert_eq!(trial.stands(id), ("resolving", None, Some(6), Some(7)));
    trial.fails(7, Reason::NoPeers);
    assert_eq!(trial.stands(id), ("degraded", Some("no_peers"), Some(6), Some(7)));
    trial.record(&record(1, 4, 4));
    assert_eq!(trial.stands(id), ("degraded", Some("no_peers"), Some(6), Some(7)), "older ones are no news");
    trial.record(&record(1, 8, 8));
    assert_eq!(trial.stands(id), ("resolving", None, Some(6), Some(8)), "what failed is not waited for");
    trial.fetched(8, 10);
    assert_eq!(trial.stands(id), ("pinned", None, Some(8), None));
    let kept = [5, 6, 8].map(|seq| (seq, VersionState::Kept));
    assert_eq!(trial.states(id), kept);
}

#[test]
fn what_nobody_has_does_not_hold_up_what_somebody_has() {
    let mut trial = Trial::new();
    let dead: Vec<PinId> = (1..=18).map(|n| trial.pin(Who::Operator, Subject::Torrent(hash(n)))).collect();
    let pin = trial.pin(Who::Operator, Subject::Torrent(hash(19)));
    for n in 1..=18 {
        assert_eq!(trial.stands(dead[n - 1]).0, if n <= 17 { "resolving" } else { "queued" }, "torrent {n}");
        let step = trial.ledger.pace(&hash(n as u8), false, trial.now);
        trial.take(step);
    }
    assert_eq!(trial.stands(pin).0, "queued");
    trial.later(30);
    assert_eq!(trial.stands(pin).0, "resolving");
    let gave_way = dead.iter().filter(|id| trial.stands(**id) == ("failed", Some("no_peers"), None, Some(0)));
    assert_eq!(gave_way.count(), 2);
    trial.fetched(19, 10);
    assert_eq!(trial.stands(pin).0, "pinned");
}

#[test]
fn an_author_who_signs_the_same_content_again_costs_nothing() {
    let mut trial = Trial::new();
    let owner = trial.owner(1, Quota { bytes: Some(10), ..Quota::default() });
    let id = trial.pin(owner, site(1));
    trial.record(&record(1, 1, 1));
    trial.fetched(1, 10);
    trial.took();
    trial.record(&record(1, 2, 1));
    assert_eq!(trial.stands(id), ("pinned", None, Some(2), None));
    assert_eq!(trial.took(), [Effect::Adopt(record(1, 2, 1))]);
    assert_eq!(trial.ledger.usage(owner).0, Usage { pins: 1, bytes: 10 });
}

#[test]
fn versions_are_kept_by_number_and_by_days_and_come_back_when_asked_for() {
    let mut trial = Trial::new();
    let id = trial.pin(Who::Operator, site(1));
    trial.set(Who::Operator, id, |settings| (settings.keep_versions, settings.keep_days) = (2, 10));
    for n in 1..=4 {
        trial.record(&record(1, i64::from(n), n));
        trial.fetched(n, 10);
        trial.later(24 * 3600);
    }
    use VersionState::{Kept, Released, Wanted};
    assert_eq!(trial.states(id), [(1, Released), (2, Kept), (3, Kept), (4, Kept)]);
    assert!(trial.took().contains(&Effect::Leave { info_hash: hash(1), forget: true }));
    let step = trial.ledger.restore(Who::Operator, &id, 1, trial.now);
    trial.take(step).unwrap();
    assert_eq!(trial.took(), [Effect::Join(hash(1), vec![])]);
    assert_eq!(trial.stands(id), ("pinned", None, Some(4), None), "the site stays what its author made it");
    assert_eq!(trial.states(id)[0], (1, Wanted));
    trial.fetched(1, 10);
    trial.later(8 * 24 * 3600);
    assert_eq!(trial.states(id), [(1, Kept), (2, Released), (3, Kept), (4, Kept)], "ten days after it was replaced");
    trial.later(30 * 24 * 3600);
    assert_eq!(trial.states(id), [(1, Kept), (2, Released), (3, Released), (4, Kept)]);
    let step = trial.ledger.restore(Who::Operator, &id, 9, trial.now);
    assert_eq!(trial.take(step), Err(RequestError::NoSuchVersion(9)));
}

#[test]
fn past_the_quota_the_old_version_stays_until_there_is_room() {
    let mut trial = Trial::new();
    let owner = trial.owner(1, Quota { bytes: Some(100), pins: Some(2), pin_bytes: Some(90) });
    let (a, b) = (trial.pin(owner, site(1)), trial.pin(owner, Subject::Torrent(hash(50))));
    assert_eq!(trial.try_pin(owner, create(site(3))), Err(RequestError::TooManyPins(2)));
    trial.record(&record(1, 1, 1));
    trial.fetched(1, 40);
    trial.fetched(50, 50);
    trial.record(&record(1, 2, 2));
    trial.measured(2, 51);
    assert_eq!(
        trial.stands(a),
        ("degraded", Some("over_quota"), Some(1), Some(2)),
        "40 go, 51 come, 50 are the other's"
    );
    assert!(trial.took().contains(&Effect::Leave { info_hash: hash(2), forget: true }));
    assert_eq!(trial.ledger.usage(owner).0, Usage { pins: 2, bytes: 90 });
    trial.record(&record(1, 3, 3));
    trial.measured(3, 91);
    assert_eq!(trial.stands(a), ("degraded", Some("too_large"), Some(1), Some(3)));
    trial.record(&record(1, 4, 4));
    let step = trial.ledger.measured(&hash(4), Size { files: 10, ..size(1) }, trial.now);
    trial.take(step);
    assert_eq!(trial.stands(a), ("degraded", Some("too_large"), Some(1), Some(4)), "ten files are one too many");
    trial.record(&record(1, 5, 5));
    trial.measured(5, 60);
    assert_eq!(trial.stands(a).1, Some("over_quota"));
    let step = trial.ledger.delete(owner, &b, None, trial.now);
    trial.take(step).unwrap();
    assert_eq!(trial.stands(a), ("resolving", None, Some(1), Some(5)), "room came free");
    trial.fetched(5, 60);
    assert_eq!(trial.stands(a), ("pinned", None, Some(5), None));
    assert_eq!(trial.ledger.usage(owner).0, Usage { pins: 1, bytes: 100 });
    trial.record(&record(1, 6, 6));
    trial.fetched(6, 61);
    assert_eq!(trial.stands(a), ("pinned", None, Some(6), None));
    assert_eq!(
        trial.states(a).iter().filter(|(_, state)| *state == VersionState::Kept).count(),
        1,
        "the old made room"
    );
}

#[test]
fn owners_do_not_see_each_other_though_they_share_bytes() {
    let mut trial = Trial::new();
    let (a, b) = (trial.owner(1, Quota::default()), trial.owner(2, Quota::default()));
    let first = trial.pin(a, Subject::Torrent(hash(1)));
    trial.fetched(1, 10);
    trial.took();
    let second = trial.pin(b, Subject::Torrent(hash(1)));
    assert_ne!(first, second);
    assert_eq!((trial.stands(second).0, trial.took()), ("pinned", vec![]), "the bytes are here");
    let now = trial.now;
    let none = Err(RequestError::NoSuchPin);
    assert!(trial.ledger.find(b, &first).is_none() && trial.ledger.find(a, &first).is_some());
    assert_eq!(trial.ledger.list(b, None).map(|pin| pin.id).collect::<Vec<_>>(), [second]);
    assert_eq!(trial.ledger.list(Who::Operator, None).count(), 2);
    assert!(trial.ledger.events().after(b, 0).all(|event| event.pin == second));
    let step = trial.ledger.delete(b, &first, None, now);
    assert_eq!(trial.take(step), none);
    let step = trial.ledger.change(b, &first, None, |_| {}, now);
    assert_eq!(trial.take(step), none);
    let step = trial.ledger.restore(b, &first, 0, now);
    assert_eq!(trial.take(step), none);
    let step = trial.ledger.delete(a, &first, None, now);
    trial.take(step).unwrap();
    assert_eq!(trial.took(), [], "the other one keeps the bytes");
    let step = trial.ledger.delete(b, &second, None, now);
    trial.take(step).unwrap();
    assert_eq!(trial.took(), [Effect::Leave { info_hash: hash(1), forget: true }]);
}

#[test]
fn asking_twice_makes_one_pin_and_a_stale_change_none() {
    let mut trial = Trial::new();
    let with_key = |subject, key: &str| Create { idempotency_key: Some(key.into()), ..create(subject) };
    let id = trial.try_pin(Who::Operator, with_key(site(1), "k")).unwrap().0;
    assert_eq!(trial.try_pin(Who::Operator, with_key(site(1), "k")), Ok((id, false)));
    assert_eq!(trial.try_pin(Who::Operator, create(site(1))), Ok((id, false)));
    assert_eq!(trial.try_pin(Who::Operator, with_key(site(2), "k")), Err(RequestError::KeyReused));
    let revision = trial.ledger.find(Who::Operator, &id).unwrap().revision;
    let mut change = |seen| {
        let step = trial.ledger.change(Who::Operator, &id, seen, |settings| settings.name += "x", trial.now);
        step.outcome
    };
    assert_eq!(change(Some(revision)), Ok(()));
    assert_eq!(change(Some(revision)), Err(RequestError::Changed(revision + 1)));
    let step = trial.ledger.delete(Who::Operator, &id, Some(revision), trial.now);
    assert_eq!(step.outcome, Err(RequestError::Changed(revision + 1)));
}

#[test]
fn what_fails_is_tried_again_and_says_when() {
    let mut trial = Trial::new();
    let torrent = trial.pin(Who::Operator, Subject::Torrent(hash(1)));
    let lost = trial.pin(Who::Operator, site(1));
    let target = site(1).target().unwrap();
    let step = trial.ledger.no_record(&target, "nobody has it", trial.now);
    trial.take(step);
    trial.fails(1, Reason::DiskFull);
    assert_eq!(trial.stands(torrent), ("failed", Some("disk_full"), None, Some(0)));
    assert_eq!(trial.stands(lost), ("failed", Some("record_not_found"), None, None));
    let retry =
        |trial: &Trial, id| trial.ledger.standing(trial.ledger.find(Who::Operator, &id).unwrap()).1.unwrap().retry;
    assert_eq!((retry(&trial, torrent), retry(&trial, lost)), (Some(Unix(1015)), Some(Unix(1015))));
    trial.took();
    trial.later(15);
    let Subject::Site(public, salt) = site(1) else { unreachable!() };
    let effects = trial.took();
    assert!(effects.contains(&Effect::LookUp(public, salt)) && effects.contains(&Effect::Join(hash(1), vec![])));
    assert_eq!((trial.stands(torrent).0, trial.stands(lost).0), ("resolving", "resolving"));
}

#[test]
fn rot_is_told_and_repaired() {
    let mut trial = Trial::new();
    let id = trial.pin(Who::Operator, Subject::Torrent(hash(1)));
    trial.fetched(1, 10);
    let step = trial.ledger.verified(&hash(1), Some("1 of 1 pieces are damaged".into()), trial.now);
    trial.take(step);
    assert_eq!(trial.stands(id), ("degraded", Some("damaged"), Some(0), None));
    trial.fetched(1, 10);
    assert_eq!(trial.stands(id), ("pinned", None, Some(0), None));
}

#[test]
fn each_look_at_the_disk_can_be_told_from_the_one_before() {
    let mut trial = Trial::new();
    let id = trial.pin(Who::Operator, Subject::Torrent(hash(1)));
    trial.fetched(1, 10);
    let mut looks = Vec::new();
    for _ in 0..3 {
        let step = trial.ledger.verified(&hash(1), None, trial.now);
        trial.take(step);
        looks.push(trial.ledger.find(Who::Operator, &id).unwrap().versions[0].verified);
    }
    assert!(looks.is_sorted_by(|before, after| before < after), "{looks:?}");
}

#[test]
fn a_pin_expires_and_a_token_takes_its_pins_along_only_when_told_to() {
    let mut trial = Trial::new();
    let owner = trial.owner(1, Quota::default());
    let Who::Token(token) = owner else { unreachable!() };
    let (brief, lasting) = (trial.pin(owner, Subject::Torrent(hash(1))), trial.pin(owner, Subject::Torrent(hash(2))));
    trial.set(owner, brief, |settings| settings.expires = Some(Unix(2000)));
    trial.later(999);
    assert!(trial.ledger.find(owner, &brief).is_some());
    trial.later(1);
    assert!(trial.ledger.find(owner, &brief).is_none());
    assert_eq!(trial.ledger.events().after(owner, 0).last().unwrap().kind, EventKind::Expired);
    let step = trial.ledger.revoke(&token, false, trial.now);
    trial.take(step).unwrap();
    assert!(trial.ledger.find(Who::Operator, &lasting).is_some());
    assert_eq!(trial.ledger.tokens()[0].revoked, Some(trial.now), "it is remembered while there are pins of it");
    let step = trial.ledger.revoke(&token, true, trial.now);
    trial.take(step).unwrap();
    assert!(trial.ledger.find(Who::Operator, &lasting).is_none() && trial.ledger.tokens().is_empty());
    let step = trial.ledger.revoke(&token, true, trial.now);
    assert_eq!(trial.take(step), Err(RequestError::NoSuchToken));
}

#[test]
fn the_quota_of_an_ended_token_holds_for_the_pins_it_leaves() {
    let mut trial = Trial::new();
    let owner = trial.owner(1, Quota { bytes: Some(100), ..Quota::default() });
    let Who::Token(token) = owner else { unreachable!() };
    let id = trial.pin(owner, site(1));
    trial.record(&record(1, 1, 1));
    trial.fetched(1, 90);
    let step = trial.ledger.revoke(&token, false, trial.now);
    trial.take(step).unwrap();
    trial.record(&record(1, 2, 2));
    trial.fetched(2, 101);
    assert_eq!(trial.stands(id), ("degraded", Some("over_quota"), Some(1), Some(2)));
    trial.record(&record(1, 3, 3));
    trial.fetched(3, 100);
    assert_eq!(trial.stands(id), ("pinned", None, Some(3), None), "what fits is followed");
    let step = trial.ledger.delete(Who::Operator, &id, None, trial.now);
    trial.take(step).unwrap();
    assert!(trial.ledger.tokens().is_empty(), "nothing of it is left");
}
