//! Our node of the BitTorrent DHT: BEP 5, 42, 43 and 44, over IPv4.
//!
//! Everything that decides is pure state: no I/O, no clock, no randomness, so hundreds of nodes can be run in one test in
//! fake time. One task, the driver, owns the state and the socket; the rest of the program holds a [`Dht`], which is a
//! handle to that task. Values are arbitrary bencode, kept as they came.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot, watch};

use crate::wire::id::{InfoHash, NodeId, PublicKey, Target};
use crate::wire::item::{self, ItemError, Salt, VerifiedItem};
use crate::{config, metrics, tasks::Tasks};

mod answer;
mod driver;
mod join;
mod lookup;
mod node;
mod node_id;
mod operation;
mod pace;
mod peers;
mod queries;
pub mod scope;
mod state_file;
mod storage;
mod store;
mod table;
mod token;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use driver::Command;

/// `v` of our messages, bencoded: two letters and a version (BEP 5). Four bytes, or `mainline` nodes do not read them.
const VERSION: &[u8] = b"4:SG\x00\x01";

/// Commands waiting for the driver. A full queue makes callers wait.
const COMMAND_QUEUE: usize = 256;

/// Peers found and not yet taken by whoever looks for them. A full queue drops the newest: there are always more.
const PEER_QUEUE: usize = 256;

/// Whether this node is part of the network or only asks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Answers queries and keeps items and peers for others.
    Server,
    /// Answers nothing and says so with `ro` (BEP 43): for short-lived commands.
    Client,
}

/// How the node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Its id. It changes once when the node learns its external address (BEP 42).
    pub id: NodeId,
    /// Good nodes in the routing table.
    pub good_nodes: usize,
    /// Whether the first attempt to join the network is over, also when it found nobody.
    pub ready: bool,
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
    commands: mpsc::Sender<Command>,
    info: watch::Receiver<Info>,
    local_addr: SocketAddr,
}

impl Dht {
    /// Binds the socket. Joining the network goes on in the background and cannot fail: names that do not resolve and
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
        let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
        let (local_addr, info) = driver::start(settings, mode, state_file, metrics, tasks, queue).await?;
        Ok(Self { commands, info, local_addr })
    }

    /// Where the node listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// How the node is doing.
    #[must_use]
    pub fn info(&self) -> Info {
        *self.info.borrow()
    }

    /// Waits until the first attempt to join the network is over, also when it found nobody.
    pub async fn bootstrapped(&self) {
        let _ = self.info.clone().wait_for(|info| info.ready).await;
    }

    /// Looks for the newest item of `key` and `salt`, until the lookup has converged. With `known_seq`, nodes do not send
    /// values that are not newer (BEP 44 `seq`).
    pub async fn get(&self, key: PublicKey, salt: Salt, known_seq: Option<i64>) -> GetOutcome {
        self.ask(|reply| Command::Get { key, salt, known_seq, reply }).await.unwrap_or_default()
    }

    /// Looks for the value whose hash is `target`; the raw bencode.
    pub async fn get_immutable(&self, target: Target) -> Option<Vec<u8>> {
        self.ask(|reply| Command::GetImmutable { target, reply }).await.flatten()
    }

    /// Stores `item` on the nodes closest to its target, after a look at what they hold: if that is newer, or is not the
    /// number `cas` expects, nothing is sent and the outcome says what is there.
    pub async fn put(&self, item: VerifiedItem, cas: Option<i64>) -> PutOutcome {
        self.ask(|reply| Command::Put { item, cas, reply }).await.unwrap_or_default()
    }

    /// Stores the bencoded value `v` on the nodes closest to its hash.
    ///
    /// # Errors
    /// A value that no node would take.
    pub async fn put_immutable(&self, v: Vec<u8>) -> Result<PutOutcome, ItemError> {
        item::check_value(&v)?;
        Ok(self.ask(|reply| Command::PutImmutable { v, reply }).await.unwrap_or_default())
    }

    /// Looks for peers of a torrent. The channel closes when the lookup is over; dropping it ends the lookup.
    #[must_use]
    pub fn get_peers(&self, info_hash: InfoHash) -> mpsc::Receiver<FoundPeer> {
        let (found, receiver) = mpsc::channel(PEER_QUEUE);
        // A full queue means hundreds of lookups are waiting: an empty answer now is better than one more in the queue.
        let _ = self.commands.try_send(Command::GetPeers { info_hash, found });
        receiver
    }

    /// Tells the nodes closest to `info_hash` that this host is a peer of it at `port`. Returns how many took it.
    pub async fn announce(&self, info_hash: InfoHash, port: u16) -> usize {
        self.ask(|reply| Command::Announce { info_hash, port, reply }).await.unwrap_or_default()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}
