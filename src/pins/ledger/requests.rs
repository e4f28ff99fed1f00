//! What owners ask for.

use super::{Change, Effect, Entry, Ledger, Step};
use crate::pins::events::EventKind;
use crate::pins::ids::{PinId, TokenId, Unix, Who};
use crate::pins::pin::{InvalidSetting, Pin, Reason, Settings, Subject, Version, VersionState};
use crate::pins::token::Token;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no such pin, or it is somebody else's: which of the two is nobody's business.
    #[error("there is no such pin")]
    NoSuchPin,
    /// There is no such version.
    #[error("the pin has no version {0}")]
    NoSuchVersion(i64),
    /// The pin was changed since the client read it.
    #[error("the pin was changed in the meantime: its revision is {0}")]
    Changed(u64),
    /// The `Idempotency-Key` made another pin.
    #[error("this Idempotency-Key was used for another target")]
    KeyReused,
    /// A setting past its bounds.
    #[error(transparent)]
    Invalid(#[from] InvalidSetting),
    /// As many pins as the token allows.
    #[error("the token allows {0} pins, and has them")]
    TooManyPins(u64),
    /// As many pins as the server takes.
    #[error("this server has as many pins as it takes")]
    ServerFull,
    /// It would take more bytes than the token allows.
    #[error("the token allows {0} bytes, which this would exceed")]
    OverQuota(u64),
    /// There is no such token.
    #[error("there is no such token")]
    NoSuchToken,
}

/// What it takes to make a pin.
#[derive(Debug, Clone)]
pub struct Create {
    /// What is to be kept.
    pub subject: Subject,
    /// How.
    pub settings: Settings,
    /// The request's `Idempotency-Key`.
    pub idempotency_key: Option<String>,
}

impl Ledger {
    /// Makes a pin, or finds the one that this owner has of the same subject, or made with the same key; whether it is new.
    pub(in crate::pins) fn create(
        &mut self,
        who: Who,
        create: Create,
        id: PinId,
        now: Unix,
    ) -> Step<Result<(PinId, bool), RequestError>> {
        let outcome = self.create_now(who, create, id, now);
        self.finish(outcome, now)
    }

    fn create_now(&mut self, who: Who, create: Create, id: PinId, now: Unix) -> Result<(PinId, bool), RequestError> {
        let Create { subject, settings, idempotency_key } = create;
        settings.check(now)?;
        if let Some(made) = idempotency_key.as_ref().and_then(|key| self.by_idempotency_key.get(&(who, key.clone()))) {
            return if self.pin(*made).subject == subject { Ok((*made, false)) } else { Err(RequestError::KeyReused) };
        }
        if let Some(same) = self.by_subject.get(&(who, subject.clone())) {
            return Ok((*same, false));
        }
        if let Some(most) = self.quota(who).pins.filter(|most| self.accounts.usage(who).pins >= *most) {
            return Err(RequestError::TooManyPins(most));
        }
        if self.pins.len() >= self.limits.pins {
            return Err(RequestError::ServerFull);
        }
        let torrent = match &subject {
            Subject::Torrent(info_hash) => Some(*info_hash),
            Subject::Site(..) => None,
        };
        let pin = Pin {
            id,
            owner: who,
            subject,
            settings,
            made_by: idempotency_key,
            created: now,
            updated: now,
            revision: 0,
            newest: None,
            versions: torrent.iter().map(|info_hash| Version::wanted(0, *info_hash, None)).collect(),
            current: None,
            wanted: torrent.map(|_| 0),
            trouble: None,
        };
        self.index(&pin);
        self.insert(pin);
        self.changed.insert(id);
        self.happened(id, who, EventKind::Created, now);
        match torrent {
            Some(_) => self.begin(id, 0, now),
            None => {
                self.take_up(id);
                self.look_at_news_of(id, now);
            }
        }
        let standing = self.standing_of(id);
        self.said(id, standing);
        Ok((id, true))
    }

    /// Changes a pin's settings, if it still has the revision that the client saw.
    pub(in crate::pins) fn change(
        &mut self,
        who: Who,
        id: &PinId,
        seen: Option<u64>,
        change: impl FnOnce(&mut Settings),
        now: Unix,
    ) -> Step<Result<(), RequestError>> {
        let found = self.find_revision(who, id, seen).map(drop);
        let outcome = found.and_then(|()| self.change_now(id, change, now));
        self.finish(outcome, now)
    }

    fn change_now(&mut self, id: &PinId, change: impl FnOnce(&mut Settings), now: Unix) -> Result<(), RequestError> {
        let pin = self.pin(*id);
        let mut settings = pin.settings.clone();
        change(&mut settings);
        settings.check(now)?;
        if settings == pin.settings {
            return Ok(());
        }
        self.pin_mut(*id).settings = settings;
        let torrents: Vec<_> = self.used(*id).collect();
        let priority = self.pin(*id).settings.priority;
        for info_hash in torrents {
            self.torrents.add(info_hash, *id, priority, None);
        }
        let owner = self.pin(*id).owner;
        self.happened(*id, owner, EventKind::Changed, now);
        self.advance(*id, now);
        self.trim(*id, now);
        Ok(())
    }

    /// Deletes a pin. Bytes that no other pin keeps go too.
    pub(in crate::pins) fn delete(
        &mut self,
        who: Who,
        id: &PinId,
        seen: Option<u64>,
        now: Unix,
    ) -> Step<Result<(), RequestError>> {
        let outcome = self.find_revision(who, id, seen).map(drop);
        if outcome.is_ok() {
            self.remove(*id, EventKind::Deleted, now);
        }
        self.finish(outcome, now)
    }

    /// Keeps the bytes of an older version again, for good. The site stays what its author last made it.
    pub(in crate::pins) fn restore(
        &mut self,
        who: Who,
        id: &PinId,
        seq: i64,
        now: Unix,
    ) -> Step<Result<(), RequestError>> {
        let outcome = self.restore_now(who, id, seq);
        self.finish(outcome, now)
    }

    fn restore_now(&mut self, who: Who, id: &PinId, seq: i64) -> Result<(), RequestError> {
        let pin = self.find(who, id).ok_or(RequestError::NoSuchPin)?;
        let version = pin.version(seq).ok_or(RequestError::NoSuchVersion(seq))?.clone();
        let owner = pin.owner;
        if version.state == VersionState::Released
            && let Some(size) = version.size
            && let Some(most) = self.quota(owner).bytes
        {
            let more = if self.accounts.charges(owner, &version.info_hash) > 0 { 0 } else { size.bytes };
            if self.accounts.usage(owner).bytes.saturating_add(more) > most {
                return Err(RequestError::OverQuota(most));
            }
        }
        if !version.held {
            let version = self.pin_mut(*id).version_mut(seq).expect("it was just found");
            version.held = true;
        }
        if version.state == VersionState::Released {
            self.fetch_again(*id, seq);
        }
        Ok(())
    }

    /// Tries now what would be tried later. Whether there was anything to try.
    pub(in crate::pins) fn recover(&mut self, who: Who, id: &PinId, now: Unix) -> Step<Result<bool, RequestError>> {
        let outcome = match self.find(who, id) {
            None => Err(RequestError::NoSuchPin),
            Some(_) => Ok(self.recover_now(*id, now)),
        };
        self.finish(outcome, now)
    }

    fn recover_now(&mut self, id: PinId, now: Unix) -> bool {
        let torrents: Vec<_> = self.used(id).collect();
        let mut tried = false;
        for info_hash in &torrents {
            tried |= self.torrents.retry_now(info_hash);
            self.look_at_users(info_hash);
        }
        let pin = self.pin(id);
        match (pin.trouble.as_ref().map(|trouble| trouble.reason), &pin.subject) {
            (Some(Reason::RecordNotFound), Subject::Site(key, salt)) => {
                self.effects.push(Effect::LookUp(*key, salt.clone()));
                self.pin_mut(id).trouble = None;
                true
            }
            (Some(Reason::OverQuota | Reason::TooLarge), _) => {
                self.unblock(id);
                true
            }
            _ => {
                self.advance(id, now);
                tried
            }
        }
    }

    /// Takes a new token in.
    pub(in crate::pins) fn add_token(&mut self, token: Token, now: Unix) -> Step<()> {
        self.changes.push(Change::SaveToken(token.clone()));
        self.tokens.insert(token.id, token);
        self.finish((), now)
    }

    /// Ends a token. Its pins go with it, or stay as they are, within its quota, until they are deleted or expire: so long
    /// it is remembered, and can be ended again, with its pins.
    pub(in crate::pins) fn revoke(
        &mut self,
        id: &TokenId,
        with_pins: bool,
        now: Unix,
    ) -> Step<Result<(), RequestError>> {
        let outcome = match self.tokens.get_mut(id) {
            None => Err(RequestError::NoSuchToken),
            Some(token) => {
                token.revoked.get_or_insert(now);
                let saved = token.clone();
                self.changes.push(Change::SaveToken(saved));
                let pins: Vec<PinId> = self.list(Who::Token(*id), None).map(|pin| pin.id).collect();
                if with_pins {
                    pins.into_iter().for_each(|pin| self.remove(pin, EventKind::Deleted, now));
                }
                self.forget_token(Who::Token(*id));
                Ok(())
            }
        };
        self.finish(outcome, now)
    }

    /// Forgets a token that was ended, once nothing of it is pinned.
    fn forget_token(&mut self, who: Who) {
        if let Who::Token(id) = who
            && self.tokens.get(&id).is_some_and(|token| token.revoked.is_some())
            && self.accounts.usage(who).pins == 0
        {
            self.tokens.remove(&id);
            self.changes.push(Change::DeleteToken(id));
        }
    }

    pub(super) fn remove(&mut self, id: PinId, why: EventKind, now: Unix) {
        let versions: Vec<i64> = self.pin(id).versions.iter().map(|version| version.seq).collect();
        for seq in versions {
            self.let_go(id, seq);
        }
        let Some(Entry { pin, said }) = self.pins.remove(&id) else { return };
        *self.statuses.entry(said.0).or_default() -= 1;
        self.unindex(&pin);
        self.unfollow(&pin);
        self.freed.insert(pin.owner);
        self.forget_token(pin.owner);
        self.changes.push(Change::Delete(id));
        self.happened(id, pin.owner, why, now);
    }

    fn find_revision(&self, who: Who, id: &PinId, seen: Option<u64>) -> Result<&Pin, RequestError> {
        let pin = self.find(who, id).ok_or(RequestError::NoSuchPin)?;
        match seen {
            Some(seen) if seen != pin.revision => Err(RequestError::Changed(pin.revision)),
            _ => Ok(pin),
        }
    }
}
