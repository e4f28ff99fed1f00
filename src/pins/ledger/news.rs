//! What records, swarms, the disk and the clock bring.

use std::time::Duration;

use super::{Effect, Ledger, Step};
use crate::pins::events::EventKind;
use crate::pins::ids::{PinId, Unix};
use crate::pins::pin::{Reason, Size, Subject, Trouble, VersionState};
use crate::wire::id::{InfoHash, Target};
use crate::wire::item::VerifiedItem;

/// A key whose record was not found is looked up again after half of the time since it was pinned, at least this ...
const SOONEST_LOOKUP: Duration = Duration::from_secs(15);

/// ... and at most this.
const LATEST_LOOKUP: Duration = Duration::from_secs(3600);

impl Ledger {
    /// A record that some pins may follow. What is no news changes nothing.
    pub(in crate::pins) fn record(&mut self, item: &VerifiedItem, now: Unix) -> Step<()> {
        let followers: Vec<PinId> = self.followed.get(&item.target()).into_iter().flatten().copied().collect();
        let mut adopted = false;
        for id in followers {
            let pin = self.pin(id);
            if !pin.newest.as_ref().is_none_or(|newest| item.replaces(newest)) {
                continue;
            }
            let pin = self.pin_mut(id);
            pin.newest = Some(item.clone());
            if pin.trouble.as_ref().is_some_and(|trouble| trouble.reason == Reason::RecordNotFound) {
                pin.trouble = None;
            }
            adopted = true;
            self.advance(id, now);
        }
        if adopted {
            self.effects.push(Effect::Adopt(item.clone()));
        }
        self.finish((), now)
    }

    /// A lookup found no record of a key.
    pub(in crate::pins) fn no_record(&mut self, target: &Target, why: &str, now: Unix) -> Step<()> {
        let followers: Vec<PinId> = self.followed.get(target).into_iter().flatten().copied().collect();
        for id in followers {
            let pin = self.pin(id);
            if pin.newest.is_some() {
                continue;
            }
            let wait = (now.since(pin.created) / 2).clamp(SOONEST_LOOKUP, LATEST_LOOKUP);
            let (reason, sentence) = (Reason::RecordNotFound, why.to_owned());
            self.pin_mut(id).trouble = Some(Trouble { reason, sentence, retry: Some(now.after(wait)) });
        }
        self.finish((), now)
    }

    /// The metadata of a torrent came, and tells how large it is.
    pub(in crate::pins) fn measured(&mut self, info_hash: &InfoHash, size: Size, now: Unix) -> Step<()> {
        let known = self.torrents.get(info_hash).is_some_and(|torrent| torrent.size.is_some());
        self.torrents.measured(info_hash, size);
        self.look_at_users(info_hash);
        let users: Vec<PinId> =
            self.torrents.get(info_hash).into_iter().flat_map(|torrent| torrent.users.keys().copied()).collect();
        for id in users.into_iter().filter(|_| !known) {
            let unweighed = |seq: &i64| self.pin(id).version(*seq).is_some_and(|version| version.size.is_none());
            let waiting: Vec<i64> = self.waiting_for(id, info_hash).into_iter().filter(unweighed).collect();
            for seq in waiting {
                self.weigh(id, seq, size);
            }
        }
        self.finish((), now)
    }

    /// All of a torrent is on disk, and verified.
    pub(in crate::pins) fn completed(&mut self, info_hash: &InfoHash, now: Unix) -> Step<()> {
        self.torrents.completed(info_hash);
        self.look_at_users(info_hash);
        let users: Vec<PinId> =
            self.torrents.get(info_hash).into_iter().flat_map(|torrent| torrent.users.keys().copied()).collect();
        for id in users {
            self.arrived(id, info_hash, now);
        }
        self.finish((), now)
    }

    /// A torrent failed; it is left, and tried again later.
    pub(in crate::pins) fn failed(
        &mut self,
        info_hash: &InfoHash,
        reason: Reason,
        sentence: String,
        now: Unix,
    ) -> Step<()> {
        self.fail(info_hash, reason, sentence, now);
        self.finish((), now)
    }

    /// Has a torrent tried again later, as part of a step.
    pub(super) fn fail(&mut self, info_hash: &InfoHash, reason: Reason, sentence: String, now: Unix) {
        let Some(torrent) = self.torrents.get(info_hash) else { return };
        let users: Vec<PinId> = torrent.users.keys().copied().collect();
        self.torrents.failed(info_hash, reason, sentence, now);
        self.effects.push(Effect::Leave { info_hash: *info_hash, forget: false });
        self.looked_at.extend(&users);
        for id in users {
            // If there is a newer version by now, that one is better tried.
            self.advance(id, now);
        }
    }

    /// Nothing comes of an active torrent at the moment, or something does again.
    pub(in crate::pins) fn pace(&mut self, info_hash: &InfoHash, moves: bool, now: Unix) -> Step<()> {
        match moves {
            true => self.torrents.moves(info_hash),
            false => self.torrents.stands_still(info_hash, now),
        }
        self.finish((), now)
    }

    /// Bytes on disk were read back. `damaged` says what is wrong with them, if anything is.
    pub(in crate::pins) fn verified(&mut self, info_hash: &InfoHash, damaged: Option<String>, now: Unix) -> Step<()> {
        let Some(torrent) = self.torrents.get(info_hash) else { return self.finish((), now) };
        let users: Vec<PinId> = torrent.users.keys().copied().collect();
        self.looked_at.extend(&users);
        match damaged {
            Some(sentence) => self.torrents.repairing(info_hash, sentence),
            None => {
                for id in users {
                    let of_it = |version: &&mut crate::pins::pin::Version| {
                        version.info_hash == *info_hash && version.state == VersionState::Kept
                    };
                    for version in self.pin_mut(id).versions.iter_mut().filter(of_it) {
                        // Never the second of the look before: whoever waits for this one must see that it was made.
                        let next = version.verified.map(|before| before.after(Duration::from_secs(1)));
                        version.verified = Some(next.map_or(now, |next| next.max(now)));
                    }
                }
            }
        }
        self.finish((), now)
    }

    /// The clock.
    pub(in crate::pins) fn tick(&mut self, now: Unix) -> Step<()> {
        for info_hash in self.torrents.retry(now) {
            self.look_at_users(&info_hash);
        }
        let all: Vec<PinId> = self.pins.keys().copied().collect();
        for id in all {
            let pin = self.pin(id);
            if pin.settings.expires.is_some_and(|expires| expires <= now) {
                self.remove(id, EventKind::Expired, now);
                continue;
            }
            let due = pin.trouble.as_ref().is_some_and(|trouble| trouble.retry.is_some_and(|at| at <= now));
            if due && let Subject::Site(key, salt) = &pin.subject {
                self.effects.push(Effect::LookUp(*key, salt.clone()));
                // Until it is known what came of it, it is being looked for.
                self.pin_mut(id).trouble = None;
            }
            self.trim(id, now);
        }
        self.finish((), now)
    }

    /// The versions of a pin that wait for a torrent.
    fn waiting_for(&self, id: PinId, info_hash: &InfoHash) -> Vec<i64> {
        let versions = self.pin(id).versions.iter();
        let waiting =
            versions.filter(|version| version.info_hash == *info_hash && version.state == VersionState::Wanted);
        waiting.map(|version| version.seq).collect()
    }
}
