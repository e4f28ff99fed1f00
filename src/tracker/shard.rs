//! Shards: the swarm table in parts, by info hash. Each is owned by one task and reached through a bounded queue.
//!
//! A shard never waits for anybody: what it sends goes into outboxes that refuse when full. So whoever waits for a place
//! in a shard's queue waits only for its processor time, and cannot be stopped by a slow client.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::completed::{Downloads, Recorder};
use super::outbox::Outbox;
use super::table::{Effect, Effects, Event, Full, Intervals, NativeQuestion, NativeReply, SocketId, Table};
use super::{AnswerTo, ResidentSlot, Stats, WebOffer};
use crate::tasks::Tasks;
use crate::wire::id::InfoHash;
use crate::wire::tracker::Counts;
use crate::wire::tracker_ws::{Announce, Message};
use crate::{config, metrics};

/// Commands that may wait for one shard. At some microseconds each, a full queue is a few milliseconds of work.
const QUEUE: usize = 1_024;

/// Calls in which expiry goes through all swarms, and how many such rounds there are in an interval.
const EXPIRY_SHARE: usize = 32;
const EXPIRY_ROUNDS: u32 = 4;

/// All shards. Clones reach the same ones.
#[derive(Debug, Clone)]
pub(super) struct Shards {
    queues: Arc<[mpsc::Sender<Command>]>,
    totals: Arc<Totals>,
    metrics: Arc<metrics::Tracker>,
}

/// The node stops: its shards are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stopped;

/// One WebSocket, as shards see it.
#[derive(Debug, Clone)]
pub(super) struct Socket {
    pub(super) id: SocketId,
    pub(super) from: IpAddr,
    pub(super) outbox: Outbox,
}

/// Held while an announce waits for its shard: a socket has only so many.
pub(super) type Turn = OwnedSemaphorePermit;

#[derive(Debug)]
enum Command {
    Web { socket: Socket, announce: Announce, resident: bool, turn: Turn },
    Closed { socket: SocketId },
    Native { question: NativeQuestion, reply: oneshot::Sender<Result<NativeReply, Full>> },
    NativePeers { info_hash: InfoHash, max: usize, reply: oneshot::Sender<Vec<SocketAddr>> },
    Scrape { info_hashes: Vec<InfoHash>, reply: oneshot::Sender<Vec<Counts>> },
}

impl Shards {
    /// Starts one shard per processor.
    pub(super) fn start(
        settings: &config::Tracker,
        resident: &ResidentSlot,
        metrics: &Arc<metrics::Tracker>,
        (kept, recorder): (Vec<Downloads>, Recorder),
        tasks: &Tasks,
    ) -> Self {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let totals = Arc::new(Totals::default());
        let intervals = Intervals { web: settings.interval, native: settings.native_interval };
        let queues = (0..count).map(|shard| {
            let (sender, queue) = mpsc::channel(QUEUE);
            let mut table = Table::new(intervals, settings.max_completed.div_ceil(count));
            for downloads in kept.iter().filter(|(info_hash, _)| owner(info_hash, count) == shard) {
                table.remember(*downloads);
            }
            let shard = Shard {
                table,
                recorder: recorder.clone(),
                sockets: HashMap::new(),
                rng: rand::make_rng(),
                max_peers: settings.max_peers,
                totals: totals.clone(),
                resident: resident.clone(),
                metrics: metrics.clone(),
            };
            tasks.spawn_cancellable(shard.run(queue, settings.interval));
            sender
        });
        Self { queues: queues.collect(), totals, metrics: metrics.clone() }
    }

    /// Hands over what a socket announced. Waits for a place in the queue; until then its socket is not read.
    pub(super) async fn web(
        &self,
        socket: Socket,
        announce: Announce,
        resident: bool,
        turn: Turn,
    ) -> Result<(), Stopped> {
        let shard = self.shard_of(&announce.info_hash);
        self.send(shard, Command::Web { socket, announce, resident, turn }).await
    }

    /// Takes everything that a socket brought out of these shards.
    pub(super) async fn closed(&self, socket: SocketId, shards: impl Iterator<Item = usize>) {
        for shard in shards {
            // A stopped shard has forgotten the socket already.
            let _ = self.send(shard, Command::Closed { socket }).await;
        }
    }

    /// Announces a native peer. Waits for a place in the queue.
    pub(super) async fn native(&self, question: NativeQuestion) -> Result<Result<NativeReply, Full>, Stopped> {
        let (reply, answer) = oneshot::channel();
        let shard = self.shard_of(&question.announce.info_hash);
        self.send(shard, Command::Native { question, reply }).await?;
        answer.await.map_err(|_| Stopped)
    }

    pub(super) async fn native_peers(&self, info_hash: InfoHash, max: usize) -> Result<Vec<SocketAddr>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(self.shard_of(&info_hash), Command::NativePeers { info_hash, max, reply }).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// The counts of several swarms, in the order they are asked for.
    pub(super) async fn scrape(&self, info_hashes: &[InfoHash]) -> Result<Vec<(InfoHash, Counts)>, Stopped> {
        let mut asked: Vec<Vec<InfoHash>> = vec![Vec::new(); self.queues.len()];
        for info_hash in info_hashes {
            asked[self.shard_of(info_hash)].push(*info_hash);
        }
        let mut answers = Vec::new();
        for (shard, info_hashes) in asked.into_iter().enumerate() {
            let (reply, answer) = oneshot::channel();
            if info_hashes.is_empty() {
                drop(reply);
            } else {
                self.send(shard, Command::Scrape { info_hashes, reply }).await?;
            }
            answers.push(answer);
        }
        let mut counts = Vec::new();
        for answer in answers {
            counts.push(answer.await.unwrap_or_default().into_iter());
        }
        let each = info_hashes.iter().map(|hash| Some((*hash, counts[self.shard_of(hash)].next()?)));
        each.collect::<Option<_>>().ok_or(Stopped)
    }

    pub(super) fn stats(&self) -> Stats {
        self.totals.stats()
    }

    /// Which shard owns a swarm. Info hashes are SHA-1 and spread by themselves; somebody who makes them up can at worst
    /// load one shard as one popular torrent would.
    pub(super) fn shard_of(&self, info_hash: &InfoHash) -> usize {
        owner(info_hash, self.queues.len())
    }

    async fn send(&self, shard: usize, command: Command) -> Result<(), Stopped> {
        match self.queues[shard].try_send(command) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Stopped),
            Err(mpsc::error::TrySendError::Full(command)) => {
                self.metrics.queue_full.inc();
                self.queues[shard].send(command).await.map_err(|_| Stopped)
            }
        }
    }
}

fn owner(info_hash: &InfoHash, shards: usize) -> usize {
    let [a, b, c, d, ..] = info_hash.0;
    u32::from_be_bytes([a, b, c, d]) as usize % shards
}

/// The sums over all shards, kept up to date by each.
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

struct Shard {
    table: Table,
    recorder: Recorder,
    /// The sockets that have announced something here.
    sockets: HashMap<SocketId, Outbox>,
    rng: SmallRng,
    max_peers: usize,
    totals: Arc<Totals>,
    resident: ResidentSlot,
    metrics: Arc<metrics::Tracker>,
}

impl Shard {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>, interval: Duration) {
        let every = interval / EXPIRY_ROUNDS / EXPIRY_SHARE as u32;
        let mut expiry = tokio::time::interval(every.max(Duration::from_millis(10)));
        expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let before = self.table.stats();
            // Expiry first: it is rare, and must come about also when there is always something in the queue.
            tokio::select! {
                biased;
                now = expiry.tick() => self.table.expire(now.into_std(), EXPIRY_SHARE),
                command = queue.recv() => match command {
                    Some(command) => self.handle(tokio::time::Instant::now().into_std(), command),
                    None => return,
                },
            }
            self.account(before);
            for downloads in self.table.take_completions() {
                self.recorder.record(downloads);
            }
        }
    }

    fn handle(&mut self, now: Instant, command: Command) {
        match command {
            Command::Web { socket, announce, resident, turn } => {
                let room = self.has_room();
                let event = Event::Announce { socket: socket.id, announce, resident, room };
                let Effects(effects) = self.table.handle(now, &mut self.rng, event);
                self.sockets.entry(socket.id).or_insert_with(|| socket.outbox.clone());
                for effect in effects {
                    self.perform(&socket, effect);
                }
                drop(turn);
            }
            Command::Closed { socket } => {
                self.sockets.remove(&socket);
                let Effects(nothing) = self.table.handle(now, &mut self.rng, Event::Closed { socket });
                debug_assert!(nothing.is_empty());
            }
            // Whoever no longer waits for a reply has lost nothing by it.
            Command::Native { question, reply } => {
                let room = self.has_room();
                let _ = reply.send(self.table.native(now, &mut self.rng, &question, room));
            }
            Command::NativePeers { info_hash, max, reply } => {
                let _ = reply.send(self.table.native_peers(&mut self.rng, &info_hash, max));
            }
            Command::Scrape { info_hashes, reply } => {
                let _ = reply.send(info_hashes.iter().map(|hash| self.table.scrape(hash)).collect());
            }
        }
    }

    /// Does what the table said about an announce that came from `origin`.
    fn perform(&self, origin: &Socket, effect: Effect) {
        let count = |kind| self.metrics.relayed.with_label_values(&[kind]).inc();
        match effect {
            Effect::Send(to, message) => {
                let sent = self.sockets.get(&to).is_some_and(|outbox| outbox.send_message(&message));
                if sent && matches!(message, Message::Answer { .. }) {
                    count("answer");
                }
            }
            Effect::Offer { to: (_, to), message } => {
                if self.sockets.get(&to).is_some_and(|outbox| outbox.send_offer(&message)) {
                    count("offer");
                }
            }
            Effect::Resident { info_hash, peer_id, offer } => {
                let (Some(resident), Some(sdp)) = (self.resident.get(), offer.description.sdp()) else { return };
                let answer = AnswerTo { outbox: origin.outbox.clone(), info_hash, offer_id: offer.id };
                resident.offer(WebOffer { info_hash, peer_id, sdp, answer, from: origin.from });
                count("resident_offer");
            }
            Effect::AnswerDropped => self.metrics.dropped.with_label_values(&["unexpected_answer"]).inc(),
        }
    }

    fn has_room(&self) -> bool {
        let Stats { web_peers, native_peers, .. } = self.totals.stats();
        web_peers + native_peers < self.max_peers
    }

    fn account(&self, before: Stats) {
        let after = self.table.stats();
        if before == after {
            return;
        }
        self.totals.replace(before, after);
        let change =
            |gauge: &prometheus::IntGauge, before: usize, after: usize| gauge.add(after as i64 - before as i64);
        change(&self.metrics.swarms, before.swarms, after.swarms);
        change(&self.metrics.peers.with_label_values(&["web"]), before.web_peers, after.web_peers);
        change(&self.metrics.peers.with_label_values(&["native"]), before.native_peers, after.native_peers);
    }
}
