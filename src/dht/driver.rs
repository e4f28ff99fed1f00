//! The task that owns the node's state and its socket.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};

use super::{FoundPeer, GetOutcome, Info, Mode, PutOutcome};
use crate::wire::id::{InfoHash, NodeId, PublicKey, Target};
use crate::wire::item::{Salt, VerifiedItem};
use crate::{config, metrics, tasks::Tasks};

/// What a [`super::Dht`] asks for.
#[derive(Debug)]
#[allow(dead_code)]
pub(super) enum Command {
    Get { key: PublicKey, salt: Salt, known_seq: Option<i64>, reply: oneshot::Sender<GetOutcome> },
    GetImmutable { target: Target, reply: oneshot::Sender<Option<Vec<u8>>> },
    Put { item: VerifiedItem, cas: Option<i64>, reply: oneshot::Sender<PutOutcome> },
    PutImmutable { v: Vec<u8>, reply: oneshot::Sender<PutOutcome> },
    GetPeers { info_hash: InfoHash, found: mpsc::Sender<FoundPeer> },
    Announce { info_hash: InfoHash, port: u16, reply: oneshot::Sender<usize> },
}

pub(super) async fn start(
    settings: &config::Dht,
    _mode: Mode,
    _state_file: Option<PathBuf>,
    _metrics: metrics::Dht,
    tasks: &Tasks,
    mut commands: mpsc::Receiver<Command>,
) -> io::Result<(SocketAddr, watch::Receiver<Info>)> {
    let socket = UdpSocket::bind(settings.listen).await?;
    let local_addr = socket.local_addr()?;
    let (info, receiver) = watch::channel(Info { id: NodeId([0; 20]), good_nodes: 0, ready: true });
    tasks.spawn_cancellable(async move {
        let _owned = (socket, info);
        while commands.recv().await.is_some() {}
    });
    Ok((local_addr, receiver))
}
