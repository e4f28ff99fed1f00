//! Our node of the BitTorrent DHT: BEP 5, 32, 42, 43 and 44.
//!
//! Everything that decides is pure state: no I/O, no clock, no randomness, so hundreds of nodes can be run in one test in
//! fake time. The DHT of IPv4 and that of IPv6 are two (BEP 32), and so are our nodes in them: each is owned, with its socket,
//! by a task, the driver. The rest of the program holds a [`Dht`], which is a handle to both and makes one answer of what
//! they say. Values are arbitrary bencode, kept as they came.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::{join_all, select_all};
use tokio::sync::{mpsc, oneshot};

use crate::wire::id::{InfoHash, NodeId, PublicKey, Target};
use crate::wire::item::{self, ItemError, Salt, VerifiedItem};
use crate::{config, metrics, tasks::Tasks};

mod answer;
mod both;
mod driver;
mod join;
mod lookup;
mod node;
mod node_id;
mod operation;
mod pace;
mod peers;
mod queries;
mod reachability;
mod recent;
mod state_file;
mod storage;
mod store;
mod table;
mod token;
mod unresponsive;

#[cfg(test)]
mod fuzz;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod simulation;
#[cfg(test)]
mod tests;

use both::Together;
use driver::{Command, FamilyNode};

/// `v` of our messages, bencoded: two letters and a version (BEP 5). Four bytes, or `mainline` nodes do not read them.
const VERSION: &[u8] = b"4:SG\x00\x01";

/// Commands waiting for the driver. A full queue makes callers wait.
const COMMAND_QUEUE: usize = 256;

/// Peers found and not yet taken by whoever looks for them. A full queue drops the newest: there are always more.
const PEER_QUEUE: usize = 256;

/// Newer and newer items found by one lookup and not yet taken. A full queue drops the newest, which is in the outcome.
const NEWS_QUEUE: usize = 16;

/// Whether this node is part of the network or only asks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Answers queries and keeps items and peers for others.
    Server,
    /// Answers nothing and says so with `ro` (BEP 43): for short-lived commands.
    Client,
}

/// How the node is doing, in both DHTs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Its id in the first of them. It changes once when the node learns its external address (BEP 42).
    pub id: NodeId,
    /// Good nodes in the routing tables.
    pub good_nodes: usize,
    /// Whether enough nodes are known to begin with, or the first attempt to join is over, also when it found nobody.
    pub ready: bool,
}

impl Info {
    fn is_joined(&self) -> bool {
        self.ready && self.good_nodes > 0
    }
}

/// What a `get` found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GetOutcome {
    /// The newest item. Never one older than the caller knows; one just as new only from nodes that send it
    /// unasked.
    pub item: Option<VerifiedItem>,
    /// Nodes asked.
    pub asked: usize,
    /// Nodes that answered.
    pub answered: usize,
    /// Nodes that hold the newest number found, also when the caller knows it already.
    pub holders: usize,
}

/// A `get` under way. Dropping it ends the lookup.
#[derive(Debug)]
pub struct Finding {
    items: mpsc::Receiver<VerifiedItem>,
    told: Option<VerifiedItem>,
    outcomes: Vec<oneshot::Receiver<GetOutcome>>,
}

impl Finding {
    /// Waits for an item that is newer than those returned before. `None` when the lookup is over.
    pub async fn next(&mut self) -> Option<VerifiedItem> {
        loop {
            let item = self.items.recv().await?;
            // The other DHT may come later with less.
            if self.told.as_ref().is_none_or(|told| item.replaces(told)) {
                self.told = Some(item.clone());
                return Some(item);
            }
        }
    }

    /// What the lookup comes to in the end.
    pub async fn outcome(self) -> GetOutcome {
        let outcomes = join_all(self.outcomes).await.into_iter().flatten();
        outcomes.reduce(Together::together).unwrap_or_default()
    }
}

/// What became of a `put`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutOutcome {
    /// Other nodes that hold the item now.
    pub stored: usize,
    /// Nodes that refused it, by KRPC error code.
    pub rejected: Vec<(i64, usize)>,
    /// The item that stands in the way: newer than the one put, or not the one `cas` expected. Nothing was sent then.
    pub newer: Option<VerifiedItem>,
}

/// A peer of a torrent, and who named it: a private address counts only when it comes from that network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FoundPeer {
    /// The peer.
    pub addr: SocketAddr,
    /// The node that named it.
    pub from: SocketAddr,
}

/// A handle to the node. It lives as long as its [`Tasks`]; after that every call finds nothing.
#[derive(Debug, Clone)]
pub struct Dht {
    /// At least one; IPv4 first.
    families: Arc<[FamilyNode]>,
    /// Who dials us reaches this address; `None` for whatever the host has.
    listener: Option<SocketAddr>,
}

impl Dht {
    /// Binds the sockets. Joining the network goes on in the background and cannot fail: names that do not resolve and
    /// nodes that do not answer are tried again.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(
        settings: &config::Dht,
        mode: Mode,
        state_file: Option<PathBuf>,
        metrics: metrics::Dht,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let families = driver::start(settings, mode, state_file, metrics, tasks).await?;
        Ok(Self { families: families.into(), listener: None })
    }

    /// A handle that announces a listener at this address, and so only to the DHTs whose peers can reach it: one on `[::]`
    /// is reached by both.
    #[must_use]
    pub fn announcing(&self, listener: SocketAddr) -> Self {
        Self { listener: Some(listener), ..self.clone() }
    }

    /// Where the node listens: one address of each family that it speaks, IPv4 first.
    pub fn local_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.families.iter().map(|family| family.local_addr)
    }

    /// The first of them.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.families[0].local_addr
    }

    /// How the node is doing.
    #[must_use]
    pub fn info(&self) -> Info {
        let infos = self.families.iter().map(|family| *family.info.borrow());
        infos.reduce(Together::together).expect("there is one half at least")
    }

    /// Waits until the node is ready: see [`Info::ready`].
    pub async fn bootstrapped(&self) {
        let until = |is_so: fn(&Info) -> bool| {
            self.families.iter().map(move |family| {
                let mut info = family.info.clone();
                Box::pin(async move { info.wait_for(is_so).await.is_ok() })
            })
        };
        tokio::select! {
            _ = select_all(until(Info::is_joined)) => {}
            _ = join_all(until(|info| info.ready)) => {}
        }
    }

    /// Looks for the newest item of `key` and `salt`, until the lookup has converged. With `known_seq`, nodes do not send
    /// values that are not newer (BEP 44 `seq`).
    pub async fn get(&self, key: PublicKey, salt: Salt, known_seq: Option<i64>) -> GetOutcome {
        let get = |reply| Command::Get { key, salt: salt.clone(), known_seq, news: None, reply };
        self.ask(get).await.unwrap_or_default()
    }

    /// Like [`Dht::get`], but tells of each newer item as soon as it is found: the first one comes after one or two
    /// round trips, while the lookup goes on to make sure that there is none with a higher number.
    pub async fn find(&self, key: PublicKey, salt: Salt, known_seq: Option<i64>) -> Finding {
        let (news, items) = mpsc::channel(NEWS_QUEUE);
        let mut outcomes = Vec::new();
        for family in self.in_use() {
            let (reply, outcome) = oneshot::channel();
            let get = Command::Get { key, salt: salt.clone(), known_seq, news: Some(news.clone()), reply };
            let _ = family.commands.send(get).await;
            outcomes.push(outcome);
        }
        Finding { items, told: None, outcomes }
    }

    /// Looks for the value whose hash is `target`; the raw bencode.
    pub async fn get_immutable(&self, target: Target) -> Option<Vec<u8>> {
        self.ask(|reply| Command::GetImmutable { target, reply }).await.flatten()
    }

    /// Stores `item` on the nodes closest to its target, after a look at what they hold: if that is newer, or is not the
    /// number `cas` expects, nothing is sent and the outcome says what is there.
    pub async fn put(&self, item: VerifiedItem, cas: Option<i64>) -> PutOutcome {
        self.ask(|reply| Command::Put { item: item.clone(), cas, reply }).await.unwrap_or_default()
    }

    /// Stores the bencoded value `v` on the nodes closest to its hash.
    ///
    /// # Errors
    /// A value that no node would take.
    pub async fn put_immutable(&self, v: Vec<u8>) -> Result<PutOutcome, ItemError> {
        item::check_value(&v)?;
        Ok(self.ask(|reply| Command::PutImmutable { v: v.clone(), reply }).await.unwrap_or_default())
    }

    /// Looks for peers of a torrent. The channel closes when the lookup is over; dropping it ends the lookup.
    #[must_use]
    pub fn get_peers(&self, info_hash: InfoHash) -> mpsc::Receiver<FoundPeer> {
        let (found, receiver) = mpsc::channel(PEER_QUEUE);
        // A full queue means hundreds of lookups are waiting: an empty answer now is better than one more in the queue.
        for family in self.in_use() {
            let _ = family.commands.try_send(Command::GetPeers { info_hash, found: found.clone() });
        }
        receiver
    }

    /// Tells the nodes closest to `info_hash` that this host is a peer of it at `port`. Returns how many took it.
    pub async fn announce(&self, info_hash: InfoHash, port: u16) -> usize {
        let reaches = |family: &&FamilyNode| match self.listener {
            Some(SocketAddr::V4(_)) => family.local_addr.is_ipv4(),
            Some(SocketAddr::V6(addr)) => family.local_addr.is_ipv6() || addr.ip().is_unspecified(),
            None => true,
        };
        let families = self.in_use().into_iter().filter(reaches).collect();
        ask(families, |reply| Command::Announce { info_hash, port, reply }).await.unwrap_or_default()
    }

    async fn ask<T: Together>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Option<T> {
        ask(self.in_use(), command).await
    }

    /// The families to be asked: not one that knows nobody while the other one does.
    fn in_use(&self) -> Vec<&FamilyNode> {
        let joined: Vec<&FamilyNode> = self.families.iter().filter(|family| family.info.borrow().is_joined()).collect();
        if joined.is_empty() { self.families.iter().collect() } else { joined }
    }
}

/// Asks each of these, at the same time, and makes one answer of theirs. `None` when the node has stopped.
async fn ask<T: Together>(families: Vec<&FamilyNode>, command: impl Fn(oneshot::Sender<T>) -> Command) -> Option<T> {
    let answers = families.into_iter().map(|family| {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        async move {
            family.commands.send(command).await.ok()?;
            answer.await.ok()
        }
    });
    join_all(answers).await.into_iter().flatten().reduce(Together::together)
}
