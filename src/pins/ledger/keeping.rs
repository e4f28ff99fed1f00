//! Which version of a pin is fetched, served and let go.

use std::time::Duration;

use super::{Effect, Ledger};
use crate::pins::events::EventKind;
use crate::pins::ids::{PinId, Unix, Who};
use crate::pins::pin::{Pin, Reason, Size, Subject, Trouble, Version, VersionState};
use crate::pins::torrents::Phase;
use crate::wire::id::InfoHash;
use crate::wire::pointer;

/// Versions of which only the record is remembered, per pin, so that they can be restored. The oldest are forgotten.
const REMEMBERED: usize = 100;

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Ledger {
    /// Has a pin that is new, or was read from disk, followed, fetched and charged for.
    pub(super) fn take_up(&mut self, id: PinId) {
        let pin = self.pin(id).clone();
        if let (Subject::Site(key, salt), Some(target)) = (&pin.subject, pin.subject.target()) {
            let followers = self.followed.entry(target).or_default();
            if followers.insert(id) && followers.len() == 1 {
                self.effects.push(Effect::Follow(*key, salt.clone()));
            }
            if let Some(newest) = &pin.newest {
                self.effects.push(Effect::Adopt(newest.clone()));
            }
        }
        for version in &pin.versions {
            match (version.state, version.size) {
                (VersionState::Released, _) => {}
                (VersionState::Kept, Some(size)) => {
                    self.accounts.charge(pin.owner, version.info_hash, size.bytes);
                    let new = self.torrents.get(&version.info_hash).is_none();
                    self.torrents.add(version.info_hash, id, pin.settings.priority, Some(size));
                    if new {
                        self.effects.push(Effect::Join(version.info_hash, pin.origins().collect()));
                    }
                }
                _ if !pin.is_charged(version) => {}
                (VersionState::Wanted | VersionState::Kept, size) => {
                    if let Some(size) = size {
                        self.accounts.charge(pin.owner, version.info_hash, size.bytes);
                    }
                    self.ask_for(id, version.info_hash);
                }
            }
        }
    }

    pub(super) fn unfollow(&mut self, pin: &Pin) {
        let Some(target) = pin.subject.target() else { return };
        if let Some(followers) = self.followed.get_mut(&target) {
            followers.remove(&pin.id);
            if followers.is_empty() {
                self.followed.remove(&target);
                self.effects.push(Effect::Unfollow(target));
            }
        }
    }

    /// What another pin knows of the same site is known to this one too.
    pub(super) fn look_at_news_of(&mut self, id: PinId, now: Unix) {
        let newest = self.pin(id).subject.target().and_then(|target| {
            let known = self.of_site(&target).filter_map(|pin| pin.newest.as_ref());
            known.max_by_key(|item| item.seq()).cloned()
        });
        if let Some(newest) = newest {
            self.pin_mut(id).newest = Some(newest);
            self.advance(id, now);
        }
    }

    /// Makes up which version is to be current next.
    pub(super) fn advance(&mut self, id: PinId, now: Unix) {
        let pin = self.pin(id);
        let Some(newest) = pin.newest.clone() else { return };
        let seq = newest.seq();
        if pin.current == Some(seq) || pin.wanted == Some(seq) || (pin.current.is_some() && !pin.settings.follow) {
            return;
        }
        let Some(info_hash) = pointer::info_hash(newest.v()) else {
            let sentence = format!("record {seq} does not point to a torrent");
            let trouble = Some(Trouble { reason: Reason::RecordNamesNoTorrent, sentence, retry: None });
            if pin.trouble != trouble {
                self.forget_wanted(id);
                self.pin_mut(id).trouble = trouble;
            }
            return;
        };
        if let Some(wanted) = pin.wanted() {
            // One that is coming in is let come: an author who publishes faster than can be fetched is followed too.
            let torrent = self.torrents.get(&wanted.info_hash);
            let coming = torrent.is_some_and(|torrent| {
                matches!(torrent.phase, Phase::Active | Phase::Still(_)) && torrent.size.is_some()
            });
            if coming && !pin.is_blocked() {
                return;
            }
            self.forget_wanted(id);
        }
        let pin = self.pin_mut(id);
        pin.trouble = None;
        pin.wanted = Some(seq);
        match pin.version_mut(seq) {
            // The same number again, with the larger value.
            Some(version) if version.info_hash != info_hash => {
                self.let_go(id, seq);
                let pin = self.pin_mut(id);
                pin.versions.retain(|version| version.seq != seq);
                pin.versions.push(Version::wanted(seq, info_hash, Some(newest)));
            }
            Some(version) => {
                if version.state == VersionState::Released {
                    version.state = VersionState::Wanted;
                }
            }
            None => pin.versions.push(Version::wanted(seq, info_hash, Some(newest))),
        }
        self.pin_mut(id).versions.sort_by_key(|version| version.seq);
        match self.pin(id).version(seq).map(|version| version.state) {
            Some(VersionState::Kept) => self.make_current(id, seq, now),
            _ => self.begin(id, seq, now),
        }
    }

    /// Begins to fetch a version that is not charged for: if it is known how large it is, only when there is room.
    pub(super) fn begin(&mut self, id: PinId, seq: i64, now: Unix) {
        let Some(version) = self.pin(id).version(seq) else { return };
        let (info_hash, known) = (version.info_hash, version.size);
        let (size, complete) = match self.torrents.get(&info_hash) {
            Some(torrent) => (torrent.size.or(known), torrent.phase == Phase::Complete),
            None => (known, false),
        };
        if let Some(size) = size
            && !self.weigh(id, seq, size)
        {
            return;
        }
        self.ask_for(id, info_hash);
        if complete {
            self.arrived(id, &info_hash, now);
        }
    }

    fn ask_for(&mut self, id: PinId, info_hash: InfoHash) {
        let priority = self.pin(id).settings.priority;
        self.torrents.add(info_hash, id, priority, None);
        self.looked_at.insert(id);
    }

    /// Fetches a version again whose bytes were let go.
    pub(super) fn fetch_again(&mut self, id: PinId, seq: i64) {
        let pin = self.pin_mut(id);
        let Some(version) = pin.version_mut(seq) else { return };
        version.state = VersionState::Wanted;
        let (info_hash, size, owner) = (version.info_hash, version.size, pin.owner);
        if let Some(size) = size {
            self.accounts.charge(owner, info_hash, size.bytes);
        }
        self.ask_for(id, info_hash);
        if self.torrents.get(&info_hash).is_some_and(|torrent| torrent.phase == Phase::Complete) {
            let at = self.pin(id).updated;
            self.arrived(id, &info_hash, at);
        }
    }

    /// The size of a version is known that was not charged for so far: charges its owner, or blocks it when there is no
    /// room. Whether there was.
    pub(super) fn weigh(&mut self, id: PinId, seq: i64, size: Size) -> bool {
        let pin = self.pin(id);
        let (owner, wanted) = (pin.owner, pin.wanted == Some(seq));
        let Some(info_hash) = pin.version(seq).map(|version| version.info_hash) else { return false };
        let refusal = self.refusal(pin, &info_hash, size);
        let pin = self.pin_mut(id);
        if let Some(version) = pin.version_mut(seq) {
            version.size = Some(size);
        }
        match refusal {
            None => {
                self.accounts.charge(owner, info_hash, size.bytes);
                true
            }
            Some(trouble) => {
                if wanted {
                    pin.trouble = Some(trouble);
                } else if let Some(version) = pin.version_mut(seq) {
                    (version.state, version.held) = (VersionState::Released, false);
                }
                self.drop_torrent(id, &info_hash);
                false
            }
        }
    }

    /// Why a version of this size is not fetched. What the pin itself would let go for it is room.
    fn refusal(&self, pin: &Pin, info_hash: &InfoHash, size: Size) -> Option<Trouble> {
        let quota = self.quota(pin.owner);
        let most = quota.pin_bytes.unwrap_or(u64::MAX).min(self.limits.pin_bytes);
        let refused = |reason, sentence| Some(Trouble { reason, sentence, retry: None });
        if size.bytes > most {
            return refused(
                Reason::TooLarge,
                format!("{} bytes are more than the {most} that one pin may take", size.bytes),
            );
        }
        let most_files = self.limits.pin_files;
        if size.files > most_files {
            return refused(
                Reason::TooLarge,
                format!("{} files are more than the {most_files} that a pin may have", size.files),
            );
        }
        let most = quota.bytes?;
        let replaceable = |version: &&Version| {
            version.state == VersionState::Kept && !version.held && version.info_hash != *info_hash
        };
        let own = pin.versions.iter().filter(replaceable);
        let given_up: u64 = own
            .filter(|version| self.accounts.charges(pin.owner, &version.info_hash) == 1)
            .filter_map(|version| version.size)
            .map(|size| size.bytes)
            .sum();
        let more = if self.accounts.charges(pin.owner, info_hash) > 0 { 0 } else { size.bytes };
        let others = self.accounts.usage(pin.owner).bytes.saturating_sub(given_up);
        if others.saturating_add(more) > most {
            let sentence = format!("{more} bytes more than the {others} in use would exceed the token's {most}");
            return refused(Reason::OverQuota, sentence);
        }
        None
    }

    /// Tries again what an owner had no room for.
    pub(super) fn try_blocked(&mut self, who: Who) {
        let blocked = |pin: &&Pin| pin.trouble.as_ref().is_some_and(|trouble| trouble.reason == Reason::OverQuota);
        let blocked: Vec<PinId> = match who {
            Who::Operator => Vec::new(),
            Who::Token(_) => self.list(who, None).filter(blocked).map(|pin| pin.id).collect(),
        };
        for id in blocked {
            self.unblock(id);
        }
    }

    /// Tries again whether there is room for the version that is wanted.
    pub(super) fn unblock(&mut self, id: PinId) {
        let pin = self.pin(id);
        let (Some(version), at) = (pin.wanted(), pin.updated) else { return };
        let (seq, size) = (version.seq, version.size);
        if pin.is_blocked() && size.is_some_and(|size| self.refusal(pin, &version.info_hash, size).is_none()) {
            self.pin_mut(id).trouble = None;
            self.begin(id, seq, at);
        }
    }

    /// All of a torrent is here: the versions of this pin that wanted it are kept, and the newest becomes current.
    pub(super) fn arrived(&mut self, id: PinId, info_hash: &InfoHash, now: Unix) {
        let pin = self.pin(id);
        let waiting = |version: &&Version| version.info_hash == *info_hash && version.state == VersionState::Wanted;
        let charged = |version: &&Version| pin.is_charged(version);
        let arrived: Vec<i64> =
            pin.versions.iter().filter(waiting).filter(charged).map(|version| version.seq).collect();
        if arrived.is_empty() {
            return;
        }
        let wanted = pin.wanted;
        let pin = self.pin_mut(id);
        for version in pin.versions.iter_mut().filter(|version| arrived.contains(&version.seq)) {
            version.state = VersionState::Kept;
            version.fetched.get_or_insert(now);
            version.verified = Some(now);
        }
        if let Some(seq) = wanted.filter(|seq| arrived.contains(seq)) {
            self.make_current(id, seq, now);
        }
    }

    /// Serves another version from now on.
    fn make_current(&mut self, id: PinId, seq: i64, now: Unix) {
        let pin = self.pin_mut(id);
        let (owner, before) = (pin.owner, pin.current);
        (pin.current, pin.wanted, pin.trouble) = (Some(seq), None, None);
        if let Some(before) = before.and_then(|before| pin.version_mut(before)) {
            before.replaced = Some(now);
        }
        let Some(info_hash) = pin.version(seq).map(|version| version.info_hash) else { return };
        self.happened(id, owner, EventKind::Current { seq, info_hash }, now);
        self.trim(id, now);
        self.advance(id, now);
    }

    /// Lets go of older versions past their number, their days, or the owner's quota.
    pub(super) fn trim(&mut self, id: PinId, now: Unix) {
        let pin = self.pin(id);
        let (owner, current) = (pin.owner, pin.current);
        let (keep, days) = (pin.settings.keep_versions as usize, DAY * pin.settings.keep_days);
        let older =
            |version: &&Version| version.state == VersionState::Kept && !version.held && Some(version.seq) != current;
        // Newest first.
        let older: Vec<(i64, Option<Unix>)> =
            pin.versions.iter().rev().filter(older).map(|version| (version.seq, version.replaced)).collect();
        let expired = |replaced: Option<Unix>| replaced.is_some_and(|replaced| now.since(replaced) >= days);
        let mut kept = Vec::new();
        for (at, (seq, replaced)) in older.into_iter().enumerate() {
            if at >= keep || expired(replaced) {
                self.let_go(id, seq);
            } else {
                kept.push(seq);
            }
        }
        if let Some(most) = self.quota(owner).bytes {
            while self.accounts.usage(owner).bytes > most
                && let Some(oldest) = kept.pop()
            {
                self.let_go(id, oldest);
            }
        }
        let released = |version: &&Version| version.state == VersionState::Released;
        let many = self.pin(id).versions.iter().filter(released).count().saturating_sub(REMEMBERED);
        if many > 0 {
            let mut left = many;
            self.pin_mut(id).versions.retain(|version| {
                let goes = left > 0 && version.state == VersionState::Released;
                left -= usize::from(goes);
                !goes
            });
        }
    }

    /// Lets a version's bytes go; its record is remembered.
    pub(super) fn let_go(&mut self, id: PinId, seq: i64) {
        let pin = self.pin(id);
        let owner = pin.owner;
        let Some(version) = pin.version(seq).filter(|version| version.state != VersionState::Released) else { return };
        let (info_hash, charged) = (version.info_hash, version.size.is_some() && pin.is_charged(version));
        if let Some(version) = self.pin_mut(id).version_mut(seq) {
            (version.state, version.held) = (VersionState::Released, false);
        }
        if charged {
            self.accounts.refund(owner, &info_hash);
            self.freed.insert(owner);
        }
        self.drop_torrent(id, &info_hash);
    }

    /// A newer version is wanted instead of the one that was on its way.
    fn forget_wanted(&mut self, id: PinId) {
        let Some(seq) = self.pin(id).wanted else { return };
        self.let_go(id, seq);
        let pin = self.pin_mut(id);
        (pin.wanted, pin.trouble) = (None, None);
        // Of one that never was here there is nothing to restore.
        pin.versions.retain(|version| version.seq != seq || version.fetched.is_some());
    }

    /// Takes the pin off a torrent that no version of it needs any more.
    fn drop_torrent(&mut self, id: PinId, info_hash: &InfoHash) {
        if self.used(id).any(|used| used == *info_hash) {
            return;
        }
        let joined = self.torrents.get(info_hash).is_some_and(|torrent| torrent.users.contains_key(&id));
        if joined && self.torrents.remove(info_hash, &id) {
            self.effects.push(Effect::Leave { info_hash: *info_hash, forget: true });
        }
    }

    /// The torrents that a pin keeps or fetches.
    pub(super) fn used(&self, id: PinId) -> impl Iterator<Item = InfoHash> + use<'_> {
        let pin = self.pin(id);
        pin.versions.iter().filter(move |version| pin.is_charged(version)).map(|version| version.info_hash)
    }
}
