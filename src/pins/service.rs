//! Joins the ledger, the disk and the network: what the doors call.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, watch};

use super::events::Event;
use super::ids::{PinId, TokenId, Unix, Who};
use super::ledger::{Create, Effect, Ledger, Limits, RequestError, Step};
use super::pin::{Pin, Settings, Size, Status, Trouble};
use super::room::Room;
use super::store::{self, StartError, Store, StoreError};
use super::token::{Presented, Quota, Scope, Token};
use super::{Usage, driver, verifier};
use crate::bridge::{Bridge, Content, Progress};
use crate::records::{Publication, Records};
use crate::tasks::Tasks;
use crate::wire::id::{InfoHash, Target};
use crate::{config, metrics};

/// The pins of a server. Clones are the same ones.
#[derive(Clone)]
pub struct Pins {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) settings: config::Pins,
    pub(super) records: Records,
    pub(super) bridge: Bridge,
    pub(super) metrics: metrics::Pins,
    pub(super) tasks: Tasks,
    store: Store,
    // A std mutex: held for a step, never across an await.
    state: Mutex<State>,
    /// There are effects to be performed.
    pub(super) asked: Notify,
    /// Something that the clock has to do may be due earlier than before.
    pub(super) replanned: Notify,
    /// The number of the last event.
    last_event: watch::Sender<u64>,
    /// Torrents that somebody wants read back from disk now.
    pub(super) to_verify: Mutex<VecDeque<InfoHash>>,
    pub(super) verify_now: Notify,
    pub(super) room: Arc<Room>,
    /// The swarms that are joined, as the driver keeps them.
    pub(super) joined: Mutex<HashMap<InfoHash, driver::Joined>>,
}

struct State {
    ledger: Ledger,
    /// In the order of the steps. Bounded by what is pinned: a step adds a few for each pin that it touches.
    effects: VecDeque<Effect>,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The disk. The request may still be done, once there is space; it was not acknowledged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A pin, and all that can be said of it now.
#[derive(Debug, Clone)]
pub struct View {
    /// The pin.
    pub pin: Pin,
    /// How far it is.
    pub status: Status,
    /// What is wrong.
    pub trouble: Option<Trouble>,
    /// How far the torrent is that is fetched, or else served.
    pub progress: Option<Progress>,
    /// How the record's publication stands.
    pub publication: Option<Publication>,
}

/// What it takes to make a token.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// For people.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// How much.
    pub quota: Quota,
    /// Until when.
    pub expires: Option<Unix>,
}

impl Pins {
    /// Reads what is pinned from `data_dir`, and starts to keep it online.
    ///
    /// # Errors
    /// The file cannot be used.
    pub async fn start(
        settings: &config::Pins,
        data_dir: &Path,
        records: Records,
        bridge: Bridge,
        metrics: metrics::Pins,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let directory = data_dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || store::open(&directory)).await;
        let (connection, contents) = opened.expect("opening the store does not panic")?;
        if contents.damaged > 0 {
            tracing::warn!(damaged = contents.damaged, "the pin store holds rows that make no sense; they are ignored");
        }
        let limits = Limits {
            fetches: settings.fetches,
            pins: settings.max_pins,
            pin_bytes: settings.max_pin_size.as_u64(),
            pin_files: settings.max_pin_files,
        };
        let store = Store::start(connection, tasks);
        let pins = Self {
            inner: Arc::new(Inner {
                settings: settings.clone(),
                records,
                bridge,
                metrics,
                tasks: tasks.clone(),
                store,
                state: Mutex::new(State { ledger: Ledger::new(limits), effects: VecDeque::new() }),
                asked: Notify::new(),
                replanned: Notify::new(),
                last_event: watch::channel(0).0,
                to_verify: Mutex::default(),
                verify_now: Notify::new(),
                room: Room::new(data_dir.to_owned(), settings.keep_free.as_u64()),
                joined: Mutex::default(),
            }),
        };
        let store::Contents { tokens, pins: read, events, .. } = contents;
        // What is only being loaded was acknowledged long ago.
        let _ = pins.inner.step(move |ledger, now| ledger.load(tokens, read, events, now)).await;
        tasks.spawn_cancellable(driver::run(pins.clone()));
        tasks.spawn_cancellable(driver::clock(pins.clone()));
        tasks.spawn_cancellable(verifier::run(pins.clone()));
        Ok(pins)
    }

    /// Makes a pin, or finds the one that there is; whether it is new.
    ///
    /// # Errors
    /// See [`PinError`].
    pub async fn create(&self, who: Who, create: Create) -> Result<(View, bool), PinError> {
        let id = PinId::random(&mut rand::rng());
        let (id, new) = self.inner.request(move |ledger, now| ledger.create(who, create, id, now)).await?;
        Ok((self.view(who, &id).ok_or(RequestError::NoSuchPin)?, new))
    }

    /// Changes a pin's settings, if it still has the revision that the client saw.
    ///
    /// # Errors
    /// See [`PinError`].
    pub async fn change(
        &self,
        who: Who,
        id: PinId,
        seen: Option<u64>,
        change: impl FnOnce(&mut Settings) + Send,
    ) -> Result<View, PinError> {
        self.inner.request(|ledger, now| ledger.change(who, &id, seen, change, now)).await?;
        Ok(self.view(who, &id).ok_or(RequestError::NoSuchPin)?)
    }

    /// Deletes a pin. Its bytes are let go if no other pin keeps them.
    ///
    /// # Errors
    /// See [`PinError`].
    pub async fn delete(&self, who: Who, id: PinId, seen: Option<u64>) -> Result<(), PinError> {
        self.inner.request(|ledger, now| ledger.delete(who, &id, seen, now)).await
    }

    /// Keeps the bytes of an older version again, for good.
    ///
    /// # Errors
    /// See [`PinError`].
    pub async fn restore(&self, who: Who, id: PinId, seq: i64) -> Result<View, PinError> {
        self.inner.request(|ledger, now| ledger.restore(who, &id, seq, now)).await?;
        Ok(self.view(who, &id).ok_or(RequestError::NoSuchPin)?)
    }

    /// Tries now what would be tried later.
    ///
    /// # Errors
    /// See [`PinError`].
    pub async fn recover(&self, who: Who, id: PinId) -> Result<View, PinError> {
        self.inner.request(|ledger, now| ledger.recover(who, &id, now)).await?;
        Ok(self.view(who, &id).ok_or(RequestError::NoSuchPin)?)
    }

    /// Has everything that a pin keeps read back from disk soon.
    ///
    /// # Errors
    /// There is no such pin.
    pub fn verify(&self, who: Who, id: &PinId) -> Result<View, PinError> {
        let view = self.view(who, id).ok_or(RequestError::NoSuchPin)?;
        let mut queue = self.inner.to_verify.lock().expect("nothing panics while holding it");
        for version in &view.pin.versions {
            if version.state == super::VersionState::Kept && !queue.contains(&version.info_hash) {
                queue.push_back(version.info_hash);
            }
        }
        drop(queue);
        self.inner.verify_now.notify_one();
        Ok(view)
    }

    /// Puts the newest record of a site in the DHT now; how many nodes hold it. `None` for what has no record.
    ///
    /// # Errors
    /// There is no such pin.
    pub async fn republish(&self, who: Who, id: &PinId) -> Result<Option<usize>, PinError> {
        let target = self.inner.state().ledger.find(who, id).map(|pin| pin.subject.target());
        match target.ok_or(RequestError::NoSuchPin)? {
            Some(target) => Ok(self.inner.records.republish(&target).await),
            None => Ok(None),
        }
    }

    /// One pin.
    #[must_use]
    pub fn view(&self, who: Who, id: &PinId) -> Option<View> {
        let state = self.inner.state();
        let pin = state.ledger.find(who, id)?.clone();
        let (status, trouble) = state.ledger.standing(&pin);
        drop(state);
        Some(self.inner.view(pin, status, trouble))
    }

    /// Pins past `after`, oldest first: at most `most` of those that `wanted` takes; whether there are more.
    #[must_use]
    pub fn list(
        &self,
        who: Who,
        after: Option<(Unix, PinId)>,
        most: usize,
        wanted: impl Fn(&Pin, Status) -> bool,
    ) -> (Vec<View>, bool) {
        let state = self.inner.state();
        let standing = state.ledger.list(who, after).map(|pin| (pin, state.ledger.standing(pin)));
        let found: Vec<_> = standing
            .filter(|(pin, (status, _))| wanted(pin, *status))
            .take(most.saturating_add(1))
            .map(|(pin, standing)| (pin.clone(), standing))
            .collect();
        drop(state);
        let more = found.len() > most;
        let views = found.into_iter().take(most);
        (views.map(|(pin, (status, trouble))| self.inner.view(pin, status, trouble)).collect(), more)
    }

    /// What an owner uses, and may use.
    #[must_use]
    pub fn usage(&self, who: Who) -> (Usage, Quota) {
        self.inner.state().ledger.usage(who)
    }

    /// Who presents this token, and what he may do; `None` when it does not work.
    #[must_use]
    pub fn admit(&self, presented: &Presented) -> Option<(Who, Scope)> {
        let state = self.inner.state();
        let token = state.ledger.admit(presented, Unix::now())?;
        Some((Who::Token(token.id), token.scope))
    }

    /// Makes a token, and the text that is handed out, which cannot be had again.
    ///
    /// # Errors
    /// It could not be kept.
    pub async fn make_token(&self, new: NewToken) -> Result<(Token, String), PinError> {
        let NewToken { name, scope, quota, expires } = new;
        let (token, text) = Token::new(name, scope, quota, expires, Unix::now(), &mut rand::rng());
        let kept = token.clone();
        self.inner.step(|ledger, now| ledger.add_token(kept, now)).await?;
        Ok((token, text))
    }

    /// All tokens, oldest first, with what they use.
    #[must_use]
    pub fn tokens(&self) -> Vec<(Token, Usage)> {
        let state = self.inner.state();
        let tokens = state.ledger.tokens().into_iter();
        tokens.map(|token| (token.clone(), state.ledger.usage(Who::Token(token.id)).0)).collect()
    }

    /// Ends a token, and its pins if they are to go too.
    ///
    /// # Errors
    /// There is none.
    pub async fn revoke(&self, id: TokenId, with_pins: bool) -> Result<(), PinError> {
        self.inner.request(|ledger, now| ledger.revoke(&id, with_pins, now)).await
    }

    /// Events past `number` that `who` may see, at most `most`, and the number up to which these are all.
    #[must_use]
    pub fn events_after(&self, who: Who, number: u64, most: usize) -> (Vec<Event>, u64) {
        let state = self.inner.state();
        let events: Vec<Event> = state.ledger.events().after(who, number).take(most).cloned().collect();
        let last = state.ledger.events().last();
        let until = if events.len() == most { events.last().map_or(last, |event| event.number) } else { last };
        (events, until)
    }

    /// The number below which events are no longer kept.
    #[must_use]
    pub fn first_event(&self) -> u64 {
        self.inner.state().ledger.events().first()
    }

    /// Changes with each event; its value is the number of the last.
    #[must_use]
    pub fn events(&self) -> watch::Receiver<u64> {
        self.inner.last_event.subscribe()
    }

    /// Whether what is kept may be read over HTTP.
    #[must_use]
    pub fn content_door(&self) -> bool {
        self.inner.settings.content_door
    }

    /// Resolves when the node stops.
    pub async fn stopping(&self) {
        self.inner.tasks.stopping().await;
    }

    /// The files of a torrent that is pinned, or that the bridge has in its cache and serves now.
    #[must_use]
    pub fn content(&self, info_hash: &InfoHash) -> Option<Content> {
        self.inner.bridge.content(info_hash)
    }

    /// The torrent that is served for a site: the newest current version of any pin of it.
    #[must_use]
    pub fn served(&self, target: &Target) -> Option<(i64, InfoHash)> {
        let state = self.inner.state();
        let current = state.ledger.of_site(target).filter_map(Pin::current);
        current.map(|version| (version.seq, version.info_hash)).max()
    }

    /// How many pins there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inner.state().ledger.len()
    }
}

impl Inner {
    /// Does one step with the ledger and waits until it is on disk.
    pub(super) async fn step<T>(&self, step: impl FnOnce(&mut Ledger, Unix) -> Step<T>) -> Result<T, StoreError> {
        let slot = self.store.reserve().await?;
        let (outcome, written) = {
            let mut state = self.state();
            let Step { outcome, changes, effects } = step(&mut state.ledger, Unix::now());
            state.effects.extend(effects);
            let last = state.ledger.events().last();
            self.count(&state.ledger);
            // The place in the queue is used under the lock: the disk sees steps in the order in which they were made.
            let written = slot.write(changes);
            drop(state);
            self.last_event.send_if_modified(|number| std::mem::replace(number, last) != last);
            (outcome, written)
        };
        self.asked.notify_one();
        self.replanned.notify_one();
        written.await?;
        Ok(outcome)
    }

    async fn request<T>(
        &self,
        step: impl FnOnce(&mut Ledger, Unix) -> Step<Result<T, RequestError>>,
    ) -> Result<T, PinError> {
        Ok(self.step(step).await??)
    }

    /// Tells the ledger what the network or the disk brought. That it is not on disk yet is logged; it comes again.
    pub(super) async fn tell(&self, step: impl FnOnce(&mut Ledger, Unix) -> Step<()>) {
        // The store has said what failed.
        let _ = self.step(step).await;
    }

    /// Looks into the ledger.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.state().ledger)
    }

    /// The effects of the steps so far, in order.
    pub(super) fn take_effects(&self) -> VecDeque<Effect> {
        std::mem::take(&mut self.state().effects)
    }

    fn view(&self, pin: Pin, status: Status, trouble: Option<Trouble>) -> View {
        let version = pin.wanted().or_else(|| pin.current());
        let progress = version.and_then(|version| self.bridge.progress(&version.info_hash));
        let publication = pin.subject.target().map(|target| self.records.publication(&target));
        View { pin, status, trouble, progress, publication }
    }

    fn count(&self, ledger: &Ledger) {
        let statuses = ledger.statuses();
        for status in Status::ALL {
            let count = statuses.get(&status).copied().unwrap_or(0);
            self.metrics.pins.with_label_values(&[status.name()]).set(count as i64);
        }
        let (active, queued, failing) = ledger.torrents().counts();
        for (state, count) in [("active", active), ("queued", queued), ("failing", failing)] {
            self.metrics.fetches.with_label_values(&[state]).set(count as i64);
        }
        self.metrics.bytes.set(i64::try_from(ledger.torrents().bytes()).unwrap_or(i64::MAX));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a step does not panic")
    }
}

/// How large a torrent is.
pub(super) fn size_of(metainfo: &crate::wire::metainfo::Metainfo) -> Size {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Size { bytes: metainfo.total_length(), files: count(metainfo.files().len()), pieces: count(metainfo.pieces()) }
}
