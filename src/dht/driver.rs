//! The task that owns the node's state and its socket: datagrams and commands in, datagrams and replies out.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};

use super::join::{self, Join};
use super::node::{Effects, Limits, Node};
use super::operation::{Outcome, Request};
use super::queries::OperationId;
use super::{FoundPeer, GetOutcome, Info, Mode, PutOutcome, node_id, state_file};
use crate::wire::id::{InfoHash, PublicKey, Target};
use crate::wire::item::{Salt, VerifiedItem};
use crate::{config, metrics, tasks::Tasks};

/// Bytes of datagrams the system may keep for us: the answers to hundreds of lookups at once come in bursts.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Bytes: the longest datagram there is. What is too long for the DHT is told so, and is not cut short here.
const LONGEST_DATAGRAM: usize = 65_535;

/// How long commands wait for the first attempt to join the network.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// How often the nodes we know are written down.
const SAVE_EVERY: Duration = Duration::from_secs(5 * 60);

/// What a [`super::Dht`] asks for.
#[derive(Debug)]
pub(super) enum Command {
    Get { key: PublicKey, salt: Salt, known_seq: Option<i64>, reply: oneshot::Sender<GetOutcome> },
    GetImmutable { target: Target, reply: oneshot::Sender<Option<Vec<u8>>> },
    Put { item: VerifiedItem, cas: Option<i64>, reply: oneshot::Sender<PutOutcome> },
    PutImmutable { v: Vec<u8>, reply: oneshot::Sender<PutOutcome> },
    GetPeers { info_hash: InfoHash, found: mpsc::Sender<FoundPeer> },
    Announce { info_hash: InfoHash, port: u16, reply: oneshot::Sender<usize> },
}

/// Who waits for an operation.
enum Waiting {
    Get(oneshot::Sender<GetOutcome>),
    Value(oneshot::Sender<Option<Vec<u8>>>),
    Put(oneshot::Sender<PutOutcome>),
    Peers(mpsc::Sender<FoundPeer>),
    Announce(oneshot::Sender<usize>),
    Join(oneshot::Sender<()>),
}

impl Waiting {
    /// Whether nobody wants the answer any more. What was to be stored is stored all the same.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Get(reply) => reply.is_closed(),
            Self::Value(reply) => reply.is_closed(),
            Self::Peers(found) => found.is_closed(),
            Self::Put(_) | Self::Announce(_) | Self::Join(_) => false,
        }
    }
}

struct Driver {
    socket: UdpSocket,
    node: Node,
    rng: StdRng,
    waiting: HashMap<OperationId, Waiting>,
    info: watch::Sender<Info>,
    metrics: metrics::Dht,
    state_file: Option<PathBuf>,
}

pub(super) async fn start(
    settings: &config::Dht,
    mode: Mode,
    state_file: Option<PathBuf>,
    metrics: metrics::Dht,
    tasks: &Tasks,
    commands: mpsc::Receiver<Command>,
) -> io::Result<(SocketAddr, watch::Receiver<Info>)> {
    let socket = bind(settings.listen)?;
    let local_addr = socket.local_addr()?;
    let saved = match &state_file {
        Some(path) => state_file::load(path).await,
        None => None,
    };
    let mut rng: StdRng = rand::make_rng();
    let (id, saved) = match saved {
        Some(saved) => (saved.id, saved.nodes),
        None => (node_id::random(&mut rng), Vec::new()),
    };
    let limits = Limits { mode, max_items: settings.max_items, max_peers: settings.max_peers };
    let node = Node::new(now(), &mut rng, id, limits);
    let (info, info_receiver) = watch::channel(Info { id, good_nodes: 0, ready: false });
    let (joins, join_requests) = mpsc::channel(1);
    let driver = Driver { socket, node, rng, waiting: HashMap::new(), info, metrics, state_file };
    let stopping = tasks.token().clone();
    tasks.spawn(async move {
        driver.run(commands, join_requests, stopping).await;
    });
    tasks.spawn_cancellable(join::keep_joined(settings.bootstrap.clone(), saved, joins, info_receiver.clone()));
    Ok((local_addr, info_receiver))
}

fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    if listen.is_ipv6() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the DHT node speaks IPv4 only; give it an IPv4 address",
        ));
    }
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    // The system grants what it allows (net.core.rmem_max); less is no reason not to start.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    UdpSocket::from_std(socket.into())
}

/// Tokio's clock, so that tests can stop it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Driver {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut joins: mpsc::Receiver<Join>,
        stopping: tokio_util::sync::CancellationToken,
    ) {
        let mut buffer = vec![0; LONGEST_DATAGRAM];
        let started = now();
        let mut save_at = started + SAVE_EVERY;
        loop {
            let wake = tokio::time::Instant::from_std(self.node.next_wake());
            // Commands wait in their queue for the network, and for those before them.
            let may_start = self.node.has_room() && (self.info.borrow().ready || now() - started > JOIN_PATIENCE);
            let effects = tokio::select! {
                () = stopping.cancelled() => break,
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((len, from)) => {
                        self.metrics.packets.with_label_values(&["in"]).inc();
                        self.node.handle(now(), &mut self.rng, from, &buffer[..len])
                    }
                    // An error here belongs to a datagram sent earlier (a host that is not there), not to the socket.
                    Err(error) => {
                        tracing::trace!(%error, "receiving from the DHT");
                        continue;
                    }
                },
                () = tokio::time::sleep_until(wake) => {
                    self.forget_abandoned();
                    self.node.tick(now(), &mut self.rng)
                }
                Some(join) = joins.recv() => self.join(join),
                Some(command) = commands.recv(), if may_start => self.command(command),
            };
            self.perform(effects).await;
            if now() >= save_at {
                save_at = now() + SAVE_EVERY;
                self.save().await;
            }
        }
        self.save().await;
    }

    fn join(&mut self, join: Join) -> Effects {
        let (id, effects) = self.node.join(now(), &mut self.rng, join.contacts);
        self.waiting.insert(id, Waiting::Join(join.over));
        effects
    }

    fn command(&mut self, command: Command) -> Effects {
        let (request, waiting) = match command {
            Command::Get { key, salt, known_seq, reply } => {
                (Request::Get { key, salt, known_seq }, Waiting::Get(reply))
            }
            Command::GetImmutable { target, reply } => (Request::GetImmutable(target), Waiting::Value(reply)),
            Command::Put { item, cas, reply } => (Request::Put { item, cas }, Waiting::Put(reply)),
            Command::PutImmutable { v, reply } => (Request::PutImmutable(v), Waiting::Put(reply)),
            Command::GetPeers { info_hash, found } => (Request::GetPeers(info_hash), Waiting::Peers(found)),
            Command::Announce { info_hash, port, reply } => {
                (Request::Announce { info_hash, port }, Waiting::Announce(reply))
            }
        };
        if waiting.is_abandoned() {
            return Effects::default();
        }
        let (id, effects) = self.node.start(now(), &mut self.rng, request);
        self.waiting.insert(id, waiting);
        effects
    }

    /// Ends operations whose asker has gone away.
    fn forget_abandoned(&mut self) {
        let Self { waiting, node, .. } = self;
        waiting.retain(|id, waiting| {
            let abandoned = waiting.is_abandoned();
            if abandoned {
                node.cancel(*id);
            }
            !abandoned
        });
    }

    async fn perform(&mut self, effects: Effects) {
        if let Some(method) = effects.answered {
            self.metrics.queries.with_label_values(&[method]).inc();
        }
        if let Some(reason) = effects.dropped {
            self.metrics.dropped.with_label_values(&[reason]).inc();
        }
        for (to, datagram) in effects.send {
            self.send(to, &datagram).await;
        }
        for (id, peer) in effects.found {
            self.found(id, peer);
        }
        self.publish_info(&effects.done);
        for (id, kind, outcome) in effects.done {
            self.metrics.lookups.with_label_values(&[kind, result(&outcome)]).inc();
            if let Some(waiting) = self.waiting.remove(&id) {
                reply(waiting, outcome);
            }
        }
    }

    /// Waits while the system's send buffer is full, which it is for microseconds.
    async fn send(&self, to: SocketAddr, datagram: &[u8]) {
        match self.socket.send_to(datagram, to).await {
            Ok(_) => self.metrics.packets.with_label_values(&["out"]).inc(),
            // No route, or not allowed: like a lost packet, which everything here is made to survive.
            Err(_) => self.metrics.dropped.with_label_values(&["send"]).inc(),
        }
    }

    fn found(&mut self, id: OperationId, peer: FoundPeer) {
        let Some(Waiting::Peers(found)) = self.waiting.get(&id) else { return };
        match found.try_send(peer) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => self.metrics.dropped.with_label_values(&["peer_queue"]).inc(),
            // Nobody listens any more: the operation is ended at the next tick.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    /// Before replies go out, so that whoever waited for joining sees the nodes it brought.
    fn publish_info(&mut self, done: &[(OperationId, &'static str, Outcome)]) {
        let joined = done.iter().any(|(id, ..)| matches!(self.waiting.get(id), Some(Waiting::Join(_))));
        let (id, good_nodes) = (self.node.id(), self.node.good_nodes(now()));
        self.info.send_if_modified(|info| {
            let new = Info { id, good_nodes, ready: info.ready || joined };
            std::mem::replace(info, new) != new
        });
        self.metrics.nodes.set(good_nodes.try_into().unwrap_or(i64::MAX));
        self.metrics.items.set(self.node.stored_items().try_into().unwrap_or(i64::MAX));
    }

    async fn save(&self) {
        let nodes = self.node.nodes();
        // A network that is gone for now is better remembered as it was.
        if let Some(path) = self.state_file.as_ref().filter(|_| !nodes.is_empty())
            && let Err(error) = state_file::save(path, self.node.id(), &nodes).await
        {
            tracing::warn!(path = %path.display(), %error, "cannot save the DHT's nodes");
        }
    }
}

/// Answers whoever waits; one that has gone away does not mind.
fn reply(waiting: Waiting, outcome: Outcome) {
    match (waiting, outcome) {
        (Waiting::Get(reply), Outcome::Get(outcome)) => drop(reply.send(outcome)),
        (Waiting::Value(reply), Outcome::Value(value)) => drop(reply.send(value)),
        (Waiting::Put(reply), Outcome::Put(outcome)) => drop(reply.send(outcome)),
        (Waiting::Announce(reply), Outcome::Announced(stored)) => drop(reply.send(stored)),
        (Waiting::Join(over), Outcome::Nodes) => drop(over.send(())),
        // The channel of a search for peers closes by being dropped.
        (Waiting::Peers(_), Outcome::Peers) => {}
        (_, outcome) => debug_assert!(false, "{outcome:?} is not what was asked for"),
    }
}

/// Names the outcome in the metrics.
fn result(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Nodes | Outcome::Peers => "done",
        Outcome::Get(GetOutcome { item: Some(_), .. }) | Outcome::Value(Some(_)) => "found",
        Outcome::Get(GetOutcome { holders: 1.., .. }) => "unchanged",
        Outcome::Get(_) | Outcome::Value(None) => "not_found",
        Outcome::Put(PutOutcome { newer: Some(_), .. }) => "conflict",
        Outcome::Put(PutOutcome { stored: 0, .. }) | Outcome::Announced(0) => "stored_nowhere",
        Outcome::Put(_) | Outcome::Announced(_) => "stored",
    }
}
