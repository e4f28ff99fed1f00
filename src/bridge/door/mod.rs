//! The door that every remote peer passes, whatever its transport and whoever dialled.
//!
//! A peer is greeted (handshake, extension handshake), held until its torrent is live, meanwhile exchanging metadata, and
//! then spliced to the engine through a loopback connection. Everything a stranger can make us wait for has a deadline,
//! everything it can make us keep has a bound, and each way a connection ends is counted.

mod blame;
mod exchanges;
mod extensions;
mod frames;
#[cfg(test)]
mod fuzz;
mod hold;
mod ledger;
mod orders;
mod remote;
mod splice;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::metadata::FetchError;
use super::mse::{self, MseError};
use super::policy::Refusal;
use super::swarm::{Swarm, Transport};
use crate::config::Encryption;
use crate::wire::id::InfoHash;
use crate::wire::peer::{Handshake, PeerError, Reserved};
pub(super) use blame::Blame;
use exchanges::Exchanges;
use extensions::Extensions;
use frames::{FrameReader, FrameWriter};

/// How long a peer may take for its handshake. WebTorrent waits 25 s, libtorrent 10 s.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// How often we break our silence. BEP 3: "keepalives are generally sent once every two minutes"; clients drop a peer
/// after two minutes of nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(55);

/// A peer that says nothing for this long is gone.
const IDLE: Duration = Duration::from_secs(180);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ending {
    /// The peer closed it.
    #[error("the peer left")]
    Closed,
    /// The network did.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// No handshake in time.
    #[error("the peer did not greet in time")]
    Late,
    /// Nothing was heard of it.
    #[error("the peer fell silent")]
    Idle,
    /// It does not take what it is sent.
    #[error("the peer stopped reading")]
    Stuck,
    /// It answers no requests.
    #[error("the peer stopped answering requests")]
    Unresponsive,
    /// Bytes that are not the peer wire.
    #[error(transparent)]
    Wire(#[from] PeerError),
    /// The encrypted handshake failed, or there was none where the configuration asks for one.
    #[error(transparent)]
    Encryption(#[from] MseError),
    /// Messages that contradict the torrent.
    #[error("the peer sent {0}")]
    Misbehaved(&'static str),
    /// Its metadata is no good.
    #[error(transparent)]
    Metadata(#[from] FetchError),
    /// It stopped sending metadata.
    #[error("the peer stopped sending metadata")]
    MetadataStalled,
    /// A torrent that is not joined, or another than agreed.
    #[error("the peer wants a torrent that is not joined")]
    UnknownTorrent,
    /// It is this very process.
    #[error("the peer is ourselves")]
    Ourselves,
    /// No seat for it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The engine let it go: it has no use for it, or found it lying.
    #[error("the engine let the peer go")]
    Released,
    /// The torrent was left.
    #[error("the torrent was left")]
    TorrentLeft,
    /// What the peer asked for cannot be read.
    #[error("the disk: {0}")]
    Disk(#[source] io::Error),
}

impl Ending {
    /// The metrics' label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Closed | Self::Broken(_) => "closed",
            Self::Late => "late",
            Self::Idle => "idle",
            Self::Stuck => "stuck",
            Self::Unresponsive => "unresponsive",
            Self::Wire(_) => "not_peer_wire",
            Self::Encryption(_) => "encryption",
            Self::Misbehaved(_) => "misbehaved",
            Self::Metadata(_) => "bad_metadata",
            Self::MetadataStalled => "metadata_stalled",
            Self::UnknownTorrent => "unknown_torrent",
            Self::Ourselves => "ourselves",
            Self::Refused(refusal) => refusal.label(),
            Self::Released => "released",
            Self::TorrentLeft => "torrent_left",
            Self::Disk(_) => "disk",
        }
    }
}

impl Ending {
    /// Whether no honest peer's connection ends so.
    pub(super) fn is_lie(&self) -> bool {
        matches!(self, Self::Misbehaved(_) | Self::Metadata(FetchError::WrongPiece | FetchError::WrongHash))
    }
}

/// How a visit went.
#[derive(Debug)]
pub(super) struct Visit {
    /// Why it ended.
    pub(super) ending: Ending,
    /// The peer was greeted and seated.
    pub(super) seated: bool,
    /// The peer had every piece.
    pub(super) complete: bool,
    /// The peer was given metadata.
    pub(super) took_metadata: bool,
}

impl Visit {
    pub(super) fn turned_away(ending: Ending) -> Self {
        Self { ending, seated: false, complete: false, took_metadata: false }
    }
}

/// Serves a peer that came by itself, encrypted or not: it says which torrent it wants, and `find` tells whether that is
/// joined. `hidden` finds the torrent whose name an encrypted peer gives.
pub(super) async fn incoming<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    (transport, from): (Transport, SocketAddr),
    (encryption, hidden): (Encryption, impl Fn(&[u8; 20]) -> Option<InfoHash>),
    metrics: &crate::metrics::Bridge,
    find: impl FnOnce(&InfoHash) -> Option<Arc<Swarm>>,
) -> Visit {
    let greeted = async {
        let stream = mse::receive(stream, encryption, hidden).await;
        let label = stream.as_ref().map_or("failed", mse::Stream::label);
        metrics.encryption.with_label_values(&["in", label]).inc();
        let (reader, writer) = tokio::io::split(stream?);
        let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
        let theirs = reader.handshake().await?;
        let swarm = find(&theirs.info_hash).ok_or(Ending::UnknownTorrent)?;
        check(&theirs, &swarm)?;
        writer.send(&our_handshake(&swarm)).await?;
        let remote = SocketAddr::new(from.ip().to_canonical(), from.port());
        Ok((Connection { reader, writer, transport, remote, dialled: false, theirs }, swarm))
    };
    let greeted = timeout(HANDSHAKE_DEADLINE, greeted).await.unwrap_or(Err(Ending::Late));
    count_greeting(metrics, transport, greeted.as_ref().err());
    match greeted {
        Ok((peer, swarm)) => attend(&swarm, peer).await,
        Err(ending) => Visit::turned_away(ending),
    }
}

/// Serves a peer whom we agreed with on a torrent: one that we dialled, or a page whose offer we answered. We greet at
/// once, as both ends of a data channel do. `remote` is the other end.
pub(super) async fn agreed<S: AsyncRead + AsyncWrite>(
    stream: S,
    (transport, remote): (Transport, SocketAddr),
    swarm: &Arc<Swarm>,
) -> Visit {
    let (reader, writer) = tokio::io::split(stream);
    let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
    let greeted = async {
        writer.send(&our_handshake(swarm)).await?;
        let theirs = reader.handshake().await?;
        check(&theirs, swarm).map(|()| theirs)
    };
    let greeted = timeout(HANDSHAKE_DEADLINE, greeted).await.unwrap_or(Err(Ending::Late));
    count_greeting(&swarm.metrics, transport, greeted.as_ref().err());
    match greeted {
        Ok(theirs) => attend(swarm, Connection { reader, writer, transport, remote, dialled: true, theirs }).await,
        Err(ending) => Visit::turned_away(ending),
    }
}

/// A connection past its handshakes.
struct Connection<R, W> {
    reader: FrameReader<R>,
    writer: FrameWriter<W>,
    transport: Transport,
    /// Where it is.
    remote: SocketAddr,
    /// We connected to it.
    dialled: bool,
    theirs: Handshake,
}

/// Seats the peer and serves it until either side leaves.
async fn attend<R, W>(swarm: &Arc<Swarm>, mut peer: Connection<R, W>) -> Visit
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let seat = match swarm.seat(peer.theirs.peer_id, peer.transport) {
        Ok(seat) => seat,
        Err(refusal) => {
            swarm.metrics.refused.with_label_values(&[refusal.label()]).inc();
            return Visit::turned_away(refusal.into());
        }
    };
    let speaks = peer.theirs.reserved.extended();
    let exchanges = Exchanges::new(swarm, (peer.transport, peer.remote, peer.dialled), speaks);
    let mut complete = false;
    let mut extensions = Extensions::default();
    let served = async {
        let (waiting, live) = hold::until_live(swarm, &mut peer, &mut extensions, &exchanges).await?;
        let told = (waiting, &mut extensions);
        splice::run(&live, swarm, &mut peer, told, &exchanges, &mut complete).await
    };
    let ending = tokio::select! {
        ended = served => ended.err().unwrap_or(Ending::Closed),
        () = swarm.token.cancelled() => Ending::TorrentLeft,
    };
    peer.writer.close().await;
    if complete && swarm.stage.borrow().is_complete() {
        swarm.is_sated(peer.theirs.peer_id);
    }
    drop(seat);
    swarm.metrics.visits.with_label_values(&[peer.transport.label(), ending.label()]).inc();
    tracing::debug!(info_hash = %swarm.info_hash, transport = peer.transport.label(), %ending, "a peer's visit ended");
    Visit { ending, seated: true, complete, took_metadata: extensions.gave_metadata() }
}

/// The fast extension and the DHT's PORT message are not offered: the engine speaks neither.
fn our_handshake(swarm: &Swarm) -> [u8; crate::wire::peer::HANDSHAKE_LEN] {
    let peer_id = swarm.ourselves.peer_id;
    Handshake { reserved: Reserved::EXTENDED, info_hash: swarm.info_hash, peer_id }.encode()
}

fn check(theirs: &Handshake, swarm: &Swarm) -> Result<(), Ending> {
    match theirs {
        _ if theirs.info_hash != swarm.info_hash => Err(Ending::UnknownTorrent),
        _ if theirs.peer_id == swarm.ourselves.peer_id => Err(Ending::Ourselves),
        _ => Ok(()),
    }
}

fn count_greeting(metrics: &crate::metrics::Bridge, transport: Transport, failure: Option<&Ending>) {
    let result = failure.map_or("ok", Ending::label);
    metrics.greeted.with_label_values(&[transport.label(), result]).inc();
}
