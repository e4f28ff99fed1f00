//! The task that owns a node's state and its socket: datagrams and commands in, datagrams and replies out. There is one for
//! each family. They share nothing; each tells the other which nodes it knows, and what it hears of the other's DHT.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};

use super::join::{self, FEW_NODES, Join};
use super::node::{Done, Effects, Limits, Node, Other};
use super::operation::{Outcome, Request};
use super::queries::OperationId;
use super::{COMMAND_QUEUE, FoundPeer, GetOutcome, Info, Mode, PutOutcome, node_id, state_file};
use crate::wire::id::{InfoHash, PublicKey, Target};
use crate::wire::item::{Salt, VerifiedItem};
use crate::wire::krpc::Contact;
use crate::{config, metrics, tasks::Tasks};

/// Bytes of datagrams the system may keep for us: the answers to hundreds of lookups at once come in bursts.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Bytes: the longest datagram there is. What is too long for the DHT is told so, and is not cut short here.
const LONGEST_DATAGRAM: usize = 65_535;

/// How long commands wait for the first attempt to join the network.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

/// Contacts that one node heard of for the other. A full queue drops the newest: they are heard of again.
const HEARD_QUEUE: usize = 4;

/// How often the nodes we know are told to our node in the other DHT.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How often the nodes we know are written down: as soon as some are known, after this pause, and then less and less
/// often. A node that is killed starts from what was written last.
const FIRST_SAVES: Duration = Duration::from_secs(10);
const SAVE_EVERY: Duration = Duration::from_secs(5 * 60);

/// What a [`super::Dht`] asks for.
#[derive(Debug)]
pub(super) enum Command {
    Get {
        key: PublicKey,
        salt: Salt,
        known_seq: Option<i64>,
        news: Option<mpsc::Sender<VerifiedItem>>,
        reply: oneshot::Sender<GetOutcome>,
    },
    GetImmutable {
        target: Target,
        reply: oneshot::Sender<Option<Vec<u8>>>,
    },
    Put {
        item: VerifiedItem,
        cas: Option<i64>,
        reply: oneshot::Sender<PutOutcome>,
    },
    PutImmutable {
        v: Vec<u8>,
        reply: oneshot::Sender<PutOutcome>,
    },
    GetPeers {
        info_hash: InfoHash,
        found: mpsc::Sender<FoundPeer>,
    },
    Announce {
        info_hash: InfoHash,
        port: u16,
        reply: oneshot::Sender<usize>,
    },
}

/// Who waits for an operation.
enum Waiting {
    Get(oneshot::Sender<GetOutcome>, Option<mpsc::Sender<VerifiedItem>>),
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
            Self::Get(reply, _) => reply.is_closed(),
            Self::Value(reply) => reply.is_closed(),
            Self::Peers(found) => found.is_closed(),
            Self::Put(_) | Self::Announce(_) | Self::Join(_) => false,
        }
    }
}

/// A node in one of the two DHTs, as its handle sees it.
#[derive(Debug, Clone)]
pub(super) struct FamilyNode {
    pub(super) local_addr: SocketAddr,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) info: watch::Receiver<Info>,
}

/// What a driver tells the other one.
struct Neighbour {
    nodes: watch::Receiver<Arc<[Contact]>>,
    info: watch::Receiver<Info>,
    heard: mpsc::Sender<Vec<SocketAddr>>,
}

struct Driver {
    family: &'static str,
    socket: UdpSocket,
    node: Node,
    rng: StdRng,
    waiting: HashMap<OperationId, Waiting>,
    info: watch::Sender<Info>,
    metrics: metrics::Dht,
    state_file: Option<PathBuf>,
    /// Our nodes, for the other one.
    nodes: watch::Sender<Arc<[Contact]>>,
    /// Nodes that the other one heard of.
    heard: mpsc::Receiver<Vec<SocketAddr>>,
    other: Option<Neighbour>,
}

/// Binds a socket for each address, and starts a node on it.
pub(super) async fn start(
    settings: &config::Dht,
    mode: Mode,
    state_file: Option<PathBuf>,
    metrics: metrics::Dht,
    tasks: &Tasks,
) -> io::Result<Vec<FamilyNode>> {
    let sockets = bind_all(settings.listen)?;
    let mut started = Vec::new();
    for socket in sockets {
        let file = state_file.as_ref().map(|path| of_family(path, &socket.0));
        let limits = Limits { mode, max_items: settings.max_items, max_peers: settings.max_peers };
        started.push(prepare(socket, limits, file, metrics.clone()).await);
    }
    if let [first, second] = started.as_mut_slice() {
        first.driver.other = Some(second.neighbour());
        second.driver.other = Some(first.neighbour());
    }
    let families = started.iter().map(|started| started.family.clone()).collect();
    for Started { driver, commands, saved, family, .. } in started {
        let (joins, join_requests) = mpsc::channel(1);
        let stopping = tasks.token().clone();
        tasks.spawn(driver.run(commands, join_requests, stopping));
        let is_ours = if family.local_addr.is_ipv4() { SocketAddr::is_ipv4 } else { SocketAddr::is_ipv6 };
        tasks.spawn_cancellable(join::keep_joined(is_ours, settings.bootstrap.clone(), saved, joins, family.info));
    }
    Ok(families)
}

/// A driver that does not run yet.
struct Started {
    driver: Driver,
    commands: mpsc::Receiver<Command>,
    saved: Vec<SocketAddr>,
    family: FamilyNode,
    heard: mpsc::Sender<Vec<SocketAddr>>,
}

impl Started {
    fn neighbour(&self) -> Neighbour {
        Neighbour { nodes: self.driver.nodes.subscribe(), info: self.family.info.clone(), heard: self.heard.clone() }
    }
}

async fn prepare(
    (local_addr, socket): (SocketAddr, UdpSocket),
    limits: Limits,
    state_file: Option<PathBuf>,
    metrics: metrics::Dht,
) -> Started {
    let saved = match &state_file {
        Some(path) => state_file::load(path).await,
        None => None,
    };
    let mut rng: StdRng = rand::make_rng();
    let (id, saved) = match saved {
        Some(saved) => (saved.id, saved.nodes),
        None => (node_id::random(&mut rng), Vec::new()),
    };
    let node = Node::new(now(), &mut rng, id, limits);
    let (info, info_receiver) = watch::channel(Info { id, good_nodes: 0, ready: false });
    let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
    let (heard, heard_receiver) = mpsc::channel(HEARD_QUEUE);
    let driver = Driver {
        family: if local_addr.is_ipv4() { "ipv4" } else { "ipv6" },
        socket,
        node,
        rng,
        waiting: HashMap::new(),
        info,
        metrics,
        state_file,
        nodes: watch::channel([].into()).0,
        heard: heard_receiver,
        other: None,
    };
    Started { driver, commands: queue, saved, family: FamilyNode { local_addr, commands, info: info_receiver }, heard }
}

/// The file of the IPv6 node lies beside that of the IPv4 node.
fn of_family(path: &Path, addr: &SocketAddr) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(if addr.is_ipv4() { "" } else { "-ipv6" });
    name.into()
}

fn bind_all(listen: config::Listen) -> io::Result<Vec<(SocketAddr, UdpSocket)>> {
    let mut sockets = Vec::new();
    for addr in listen.addresses() {
        match bind(addr) {
            Ok(socket) => sockets.push((socket.local_addr()?, socket)),
            // `[::]` says "IPv6, if there is any".
            Err(error) if !sockets.is_empty() && addr.is_ipv6() && addr.ip().is_unspecified() && is_missing(&error) => {
                tracing::info!(%error, "this host has no IPv6; the DHT node speaks IPv4 only");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

/// Whether the host lacks the whole address family.
fn is_missing(error: &io::Error) -> bool {
    /// "Address family not supported by protocol", for which the standard library has no name.
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.is_ipv6() {
        // IPv4 has a socket, a node and a DHT of its own.
        socket.set_only_v6(true)?;
    }
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
        let (mut save_at, mut pause, mut tell_at) = (started, FIRST_SAVES, started);
        loop {
            if self.other.is_some() && now() >= tell_at {
                tell_at = now() + TELL_EVERY;
                self.compare_notes();
            }
            let mut wake = self.node.next_wake();
            if self.other.is_some() {
                wake = wake.min(tell_at);
            }
            let wake = tokio::time::Instant::from_std(wake);
            // Commands wait in their queue for the network, and for those before them.
            let may_start = self.node.has_room(now()) && (self.info.borrow().ready || now() - started > JOIN_PATIENCE);
            let effects = tokio::select! {
                () = stopping.cancelled() => break,
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((len, from)) => {
                        self.metrics.packets.with_label_values(&[self.family, "in"]).inc();
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
                Some(contacts) = self.heard.recv() => self.node.hear(now(), &mut self.rng, contacts),
                Some(command) = commands.recv(), if may_start => self.command(command),
            };
            self.perform(effects).await;
            if now() >= save_at && self.info.borrow().is_joined() {
                save_at = now() + pause;
                pause = (pause * 2).min(SAVE_EVERY);
                self.save().await;
            }
        }
        self.save().await;
    }

    /// Tells the other node, and itself, what each knows.
    fn compare_notes(&mut self) {
        let Some(other) = &self.other else { return };
        self.nodes.send_replace(self.node.nodes().into());
        let is_wanted = other.info.borrow().good_nodes < FEW_NODES;
        self.node.set_other(Other { nodes: other.nodes.borrow().clone(), is_wanted });
    }

    fn join(&mut self, join: Join) -> Effects {
        let (id, effects) = self.node.join(now(), &mut self.rng, join.contacts);
        self.waiting.insert(id, Waiting::Join(join.over));
        effects
    }

    fn command(&mut self, command: Command) -> Effects {
        let (request, waiting) = match command {
            Command::Get { key, salt, known_seq, news, reply } => {
                (Request::Get { key, salt, known_seq }, Waiting::Get(reply, news))
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
        if let Some(other) = self.other.as_ref().filter(|_| !effects.heard.is_empty()) {
            let _ = other.heard.try_send(effects.heard);
        }
        for (to, datagram) in effects.send {
            self.send(to, &datagram).await;
        }
        for (id, peer) in effects.found {
            self.found(id, peer);
        }
        for (id, item) in effects.items {
            if let Some(Waiting::Get(_, Some(news))) = self.waiting.get(&id) {
                let _ = news.try_send(item);
            }
        }
        self.publish_info(&effects.done);
        for Done { id, kind, outcome, took, sent } in effects.done {
            self.metrics.lookups.with_label_values(&[kind, result(&outcome)]).inc();
            self.metrics.lookup_seconds.with_label_values(&[kind]).observe(took.as_secs_f64());
            self.metrics.lookup_queries.with_label_values(&[kind]).observe(sent as f64);
            if let Some(waiting) = self.waiting.remove(&id) {
                reply(waiting, outcome);
            }
        }
    }

    /// Waits while the system's send buffer is full, which it is for microseconds.
    async fn send(&self, to: SocketAddr, datagram: &[u8]) {
        match self.socket.send_to(datagram, to).await {
            Ok(_) => self.metrics.packets.with_label_values(&[self.family, "out"]).inc(),
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
    fn publish_info(&mut self, done: &[Done]) {
        let joined = done.iter().any(|done| matches!(self.waiting.get(&done.id), Some(Waiting::Join(_))));
        let (id, good_nodes) = (self.node.id(), self.node.good_nodes(now()));
        self.info.send_if_modified(|info| {
            let new = Info { id, good_nodes, ready: info.ready || joined || good_nodes >= FEW_NODES };
            std::mem::replace(info, new) != new
        });
        self.metrics.nodes.with_label_values(&[self.family]).set(good_nodes.try_into().unwrap_or(i64::MAX));
        self.metrics
            .items
            .with_label_values(&[self.family])
            .set(self.node.stored_items().try_into().unwrap_or(i64::MAX));
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
        (Waiting::Get(reply, _), Outcome::Get(outcome)) => drop(reply.send(outcome)),
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
