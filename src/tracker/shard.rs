//! Shards: the swarm table in parts, by info hash. Each is behind a lock of its own, and whoever needs a swarm takes the
//! lock for the microseconds that its announce takes.
//!
//! A task and a queue for each shard, which this was before, cost more than the announces themselves: two wake-ups for
//! each, on another processor as often as not. Nobody who holds a lock waits for anything, and what must be sent is sent
//! after it was given back, so no client can make another wait.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;

use super::completed::Recorder;
use super::counters::Counters;
use super::outbox::Outbox;
use super::table::{Downloads, Effect, Effects, Intervals, NativeQuestion, SocketId, Table, WebAnnounce};
use super::{AnswerTo, OfferTo, ResidentSlot, SilentPage, Stats, WebOffer};
use crate::tasks::Tasks;
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::tracker::{Counts, Refusal};
use crate::wire::tracker_ws::{Announce, Message};
use crate::{config, metrics};

/// Parts of the table. Many more than processors, so that two of them seldom want the same one; and what is done to a
/// whole part at once, as to grow it, is then never much.
const SHARDS: usize = 64;

/// Peers and swarms that expiry looks at while it holds a lock: a fraction of a millisecond's work.
const EXPIRY_SLICE: usize = 4_096;

/// Rounds of expiry in an interval.
const EXPIRY_ROUNDS: u32 = 4;

/// All shards. Clones reach the same ones.
#[derive(Debug, Clone)]
pub(super) struct Shards {
    shards: Arc<[Mutex<Shard>]>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shard {
    table: Table<Outbox>,
    rng: SmallRng,
}

struct Shared {
    totals: Totals,
    max_peers: usize,
    recorder: Recorder,
    resident: ResidentSlot,
    counters: Arc<Counters>,
    metrics: Arc<metrics::Tracker>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("totals", &self.totals).finish_non_exhaustive()
    }
}

/// One WebSocket, as shards see it.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) id: SocketId,
    pub(super) from: IpAddr,
    pub(super) outbox: Outbox,
}

impl Shards {
    /// An empty table, but for the counts that were kept, and the task that keeps it free of peers that are gone.
    pub(super) fn start(
        settings: &config::Tracker,
        resident: &ResidentSlot,
        (metrics, counters): (&Arc<metrics::Tracker>, &Arc<Counters>),
        (kept, recorder): (Vec<Downloads>, Recorder),
        tasks: &Tasks,
    ) -> Self {
        let now = tokio::time::Instant::now().into_std();
        let intervals = Intervals { web: settings.interval, native: settings.native_interval };
        let mut shards: Vec<Shard> = (0..SHARDS)
            .map(|_| Shard {
                table: Table::new(intervals, settings.max_completed.div_ceil(SHARDS), now),
                rng: rand::make_rng(),
            })
            .collect();
        for downloads in kept {
            shards[owner(&downloads.0)].table.remember(downloads);
        }
        let shared = Shared {
            totals: Totals::default(),
            max_peers: settings.max_peers,
            recorder,
            resident: resident.clone(),
            counters: counters.clone(),
            metrics: metrics.clone(),
        };
        let all = Self { shards: shards.into_iter().map(Mutex::new).collect(), shared: Arc::new(shared) };
        tasks.spawn_cancellable(all.clone().expire(settings.interval / EXPIRY_ROUNDS));
        all
    }

    /// Takes what a socket announced, and sends what follows from it.
    pub(super) fn web(&self, socket: &Socket, announce: Announce<'_>, resident: bool) {
        let announce = WebAnnounce {
            id: socket.id,
            socket: socket.outbox.clone(),
            resident,
            room: self.shared.has_room(),
            announce,
        };
        let info_hash = announce.announce.info_hash;
        let Effects(effects) = self.with(&info_hash, |shard, now| shard.table.web(now, &mut shard.rng, announce));
        for effect in effects {
            self.shared.perform(socket, effect);
        }
    }

    /// Takes what a socket brought out of the swarms.
    pub(super) fn closed(&self, socket: SocketId, brought: impl IntoIterator<Item = (InfoHash, PeerId)>) {
        for (info_hash, peer_id) in brought {
            self.with(&info_hash, |shard, _| shard.table.leave(info_hash, (peer_id, socket)));
        }
    }

    /// Announces a native peer, and tells `found` of others. One that is new needs `admit` to let it in.
    pub(super) fn native(
        &self,
        question: &NativeQuestion<'_>,
        admit: impl FnOnce() -> bool,
        found: &mut impl FnMut(SocketAddr, PeerId),
    ) -> Result<Counts, Refusal> {
        let admit = || match self.shared.has_room() {
            false => Err(Refusal::TrackerFull),
            true => admit().then_some(()).ok_or(Refusal::AddressFull),
        };
        self.with(&question.announce.info_hash, |shard, now| {
            shard.table.native(now, &mut shard.rng, question, admit, found)
        })
    }

    pub(super) fn native_peers(&self, info_hash: &InfoHash, max: usize) -> Vec<SocketAddr> {
        self.with(info_hash, |shard, _| shard.table.native_peers(&mut shard.rng, info_hash, max))
    }

    pub(super) fn scrape(&self, info_hash: &InfoHash) -> Counts {
        lock(&self.shards[owner(info_hash)]).table.scrape(info_hash)
    }

    pub(super) fn stats(&self) -> Stats {
        self.shared.totals.stats()
    }

    /// Does something to a shard, and accounts for it.
    fn with<T>(&self, info_hash: &InfoHash, change: impl FnOnce(&mut Shard, Instant) -> T) -> T {
        let now = tokio::time::Instant::now().into_std();
        self.shared.account(&self.shards[owner(info_hash)], |shard| change(shard, now))
    }

    /// Forgets peers that stopped announcing, round after round. Others get at a shard after each slice of it.
    async fn expire(self, round: Duration) {
        let mut rounds = tokio::time::interval(round.max(Duration::from_millis(10)));
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = rounds.tick().await.into_std();
            for shard in &*self.shards {
                while !self.shared.account(shard, |shard| shard.table.expire(now, EXPIRY_SLICE)) {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

/// Which shard owns a swarm. Info hashes are SHA-1 and spread by themselves; somebody who makes them up can at worst
/// have one shard as busy as one popular torrent would.
fn owner(info_hash: &InfoHash) -> usize {
    let [first, ..] = info_hash.0;
    usize::from(first) % SHARDS
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Changes a shard; the sums over all shards follow, and counts that must be kept go where they are kept.
    fn account<T>(&self, shard: &Mutex<Shard>, change: impl FnOnce(&mut Shard) -> T) -> T {
        let mut shard = lock(shard);
        let before = shard.table.stats();
        let result = change(&mut shard);
        let after = shard.table.stats();
        for downloads in shard.table.take_completions() {
            self.recorder.record(downloads);
        }
        drop(shard);
        if before != after {
            self.totals.replace(before, after);
            let change =
                |gauge: &prometheus::IntGauge, before: usize, after: usize| gauge.add(after as i64 - before as i64);
            change(&self.metrics.swarms, before.swarms, after.swarms);
            change(&self.metrics.peers.with_label_values(&["web"]), before.web_peers, after.web_peers);
            change(&self.metrics.peers.with_label_values(&["native"]), before.native_peers, after.native_peers);
        }
        result
    }

    /// Does what the table said about an announce that came from `origin`.
    fn perform(&self, origin: &Socket, effect: Effect<'_, Outbox>) {
        let Self { counters, resident, .. } = self;
        match effect {
            Effect::Send(to, message) => {
                if matches!(message, Message::Failure(_)) {
                    self.metrics.not_taken.with_label_values(&["table_full"]).inc();
                }
                if to.send_message(&message) && matches!(message, Message::Answer { .. }) {
                    counters.answers.inc();
                }
            }
            Effect::Offer { to, message } => {
                if to.send_offer(&message) {
                    counters.offers.inc();
                }
            }
            Effect::Resident { info_hash, peer_id, offer } => {
                let (Some(resident), Some(sdp)) = (resident.get(), offer.description.sdp()) else { return };
                let answer = AnswerTo { outbox: origin.outbox.clone(), info_hash, offer_id: offer.id };
                resident.offer(WebOffer { info_hash, peer_id, sdp, answer, from: origin.from });
                counters.resident_offers.inc();
            }
            Effect::Silent { info_hash, peer_id, socket } => {
                if let Some(resident) = resident.get() {
                    let offer = OfferTo { outbox: socket, info_hash };
                    resident.silent(SilentPage { info_hash, peer_id, offer, from: origin.from });
                }
            }
            Effect::Unexpected(answer) => {
                if !resident.get().is_some_and(|resident| resident.answered(&answer)) {
                    counters.unexpected_answer.inc();
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        let Stats { web_peers, native_peers, .. } = self.totals.stats();
        web_peers + native_peers < self.max_peers
    }
}

/// The sums over all shards, kept up to date by whoever changes one.
#[derive(Debug, Default)]
struct Totals {
    swarms: AtomicUsize,
    web_peers: AtomicUsize,
    native_peers: AtomicUsize,
}

impl Totals {
    fn stats(&self) -> Stats {
        Stats {
            swarms: self.swarms.load(Ordering::Relaxed),
            web_peers: self.web_peers.load(Ordering::Relaxed),
            native_peers: self.native_peers.load(Ordering::Relaxed),
        }
    }

    /// Replaces one shard's part in the sums. Wrapping, because a part may shrink.
    fn replace(&self, before: Stats, after: Stats) {
        let replace = |sum: &AtomicUsize, before: usize, after: usize| {
            if before != after {
                sum.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
            }
        };
        replace(&self.swarms, before.swarms, after.swarms);
        replace(&self.web_peers, before.web_peers, after.web_peers);
        replace(&self.native_peers, before.native_peers, after.native_peers);
    }
}
