//! The torrent engine: librqbit, which picks, checks, stores and serves pieces, and is let near nobody.
//!
//! Everything it could do outward is off: no DHT, no trackers, no local discovery, no port mapping, no dialling. Its only
//! listener is on loopback, and its only peers are the door's spliced connections. If it is ever replaced, this file,
//! `storage.rs` and `door/splice.rs` change.

use std::io::{self, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use librqbit::api::{Api, TorrentIdOrHash};
use librqbit::storage::StorageFactoryExt;
use librqbit::{
    AddTorrent, AddTorrentOptions, ConnectionOptions, ListenerMode, ListenerOptions, ManagedTorrent,
    ManagedTorrentState, PeerConnectionOptions, Session, SessionOptions, SessionPersistenceConfig,
};
use librqbit_core::Id20;
use tokio::fs;
use tokio::io::AsyncSeek;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::pieces::{Have, PieceSet};
use super::storage::{Access, Folder, OpenFiles};
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::metainfo::Metainfo;

/// The engine drops a peer that is silent this long. The door sends keep-alives more often; the engine's own default of
/// 10 s would drop every idle peer.
const SILENCE: Duration = Duration::from_secs(180);

/// Torrents checked at once. Checking reads the disk as fast as it goes.
const CHECKS: usize = 2;

/// Files read ahead of their download at once, over all torrents. Each takes one of the eight places that the engine has
/// for work on the disk.
const PREFERENCES: usize = 4;

/// How often a running torrent is asked whether it failed; the engine has no event for it ...
const HEALTH_CHECK: Duration = Duration::from_secs(60);

/// ... and how often it is asked after the disk has refused something,
const CLOSE_CHECK: Duration = Duration::from_millis(200);

/// this many times.
const CLOSE_CHECKS: u32 = 25;

/// What the engine said when it failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct EngineError(String);

impl EngineError {
    fn new(error: &anyhow::Error) -> Self {
        // The causes in one line; the engine's own messages may end in a debug-printed backtrace.
        let causes: Vec<String> =
            error.chain().map(|cause| cause.to_string().lines().next().unwrap_or_default().into()).collect();
        Self(causes.join(": "))
    }
}

/// The engine.
pub(super) struct Engine {
    session: Arc<Session>,
    api: Api,
    addr: SocketAddr,
    open: OpenFiles,
    preferences: Arc<Semaphore>,
    folder: PathBuf,
    /// The engine would number torrents that are added at once alike.
    next_id: AtomicUsize,
}

impl Engine {
    /// Starts it. `folder` is its own, and emptied; every torrent is given another for its files.
    pub(super) async fn start(
        folder: PathBuf,
        peer_id: PeerId,
        max_peers: usize,
        token: CancellationToken,
    ) -> Result<Self, EngineError> {
        // The engine builds an HTTP client, which it has no use for here, and that wants a process-wide provider. An
        // error says that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        match fs::remove_dir_all(&folder).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(EngineError(error.to_string())),
            _ => {}
        }
        let timeouts = PeerConnectionOptions { read_write_timeout: Some(SILENCE), ..Default::default() };
        let options = SessionOptions {
            dht: None,
            disable_trackers: true,
            disable_local_service_discovery: true,
            // Never for finding torrents again, which is ours to do: for the bitfields of `known`, which the engine takes
            // only from its own folder.
            persistence: Some(SessionPersistenceConfig::Json { folder: Some(folder.clone()) }),
            fastresume: true,
            listen: Some(ListenerOptions {
                mode: ListenerMode::TcpOnly,
                listen_addr: (Ipv4Addr::LOCALHOST, 0).into(),
                enable_upnp_port_forwarding: false,
                ipv4_only: true,
                ..Default::default()
            }),
            // TCP cannot be switched off here; what keeps the engine from dialling is that nobody names it an address.
            connect: Some(ConnectionOptions { enable_tcp: true, proxy_url: None, peer_opts: Some(timeouts) }),
            ipv4_only: true,
            peer_id: Some(Id20::new(peer_id.0)),
            peer_limit: Some(max_peers),
            concurrent_init_limit: Some(CHECKS),
            cancellation_token: Some(token),
            client_name_and_version: Some(super::CLIENT.to_owned()),
            ..Default::default()
        };
        let session =
            Session::new_with_opts(folder.clone(), options).await.map_err(|error| EngineError::new(&error))?;
        let addr = session.listen_addr().ok_or_else(|| EngineError("it does not listen".to_owned()))?;
        Ok(Self {
            api: Api::new(session.clone(), None),
            session,
            addr,
            open: OpenFiles::default(),
            preferences: Arc::new(Semaphore::new(PREFERENCES)),
            folder,
            next_id: AtomicUsize::new(0),
        })
    }

    /// Checks what is on disk and makes the torrent live. Files lie at their paths below `root`. Of the pieces that are
    /// `known` to be there a few are checked, and none of the others; with nothing known all are.
    pub(super) async fn add(
        &self,
        metainfo: &Metainfo,
        root: PathBuf,
        access: Access,
        known: Option<&PieceSet>,
    ) -> Result<Running, EngineError> {
        let bitfield = self.folder.join(format!("{}.bitv", metainfo.info_hash().to_hex()));
        let noted = match known {
            Some(known) => fs::write(&bitfield, known.as_bitfield()).await,
            None => fs::remove_file(&bitfield).await.or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
        };
        noted.map_err(|error| EngineError(format!("cannot write {}: {error}", bitfield.display())))?;
        let have: Have = Arc::new(watch::channel(PieceSet::none(metainfo.pieces())).0);
        let files = Folder::new(metainfo, root.clone(), access, have.clone(), self.open.clone());
        let trouble = files.trouble();
        let options = AddTorrentOptions {
            overwrite: true,
            // Never used for a path: our storage knows its own.
            output_folder: Some(root.to_string_lossy().into_owned()),
            disable_trackers: true,
            preferred_id: Some(self.next_id.fetch_add(1, Ordering::Relaxed)),
            storage_factory: Some(files.clone().boxed()),
            ..Default::default()
        };
        let added = self.session.add_torrent(AddTorrent::from_bytes(metainfo.to_torrent()), Some(options)).await;
        let torrent = added.map_err(|error| EngineError::new(&error))?.into_handle();
        let torrent = torrent.ok_or_else(|| EngineError("it has no handle".to_owned()))?;
        torrent.wait_until_initialized().await.map_err(|error| EngineError::new(&error))?;
        let id = TorrentIdOrHash::Hash(torrent.info_hash());
        let (found, _) = self.api.api_dump_haves(id).map_err(|error| EngineError(error.to_string()))?;
        // A piece may have completed since the torrent went live; the union has it either way.
        have.send_modify(|have| {
            found.iter_ones().for_each(|piece| {
                have.insert(piece);
            })
        });
        Ok(Running { torrent, trouble, have, files, addr: self.addr, preferences: self.preferences.clone() })
    }

    /// Forgets a torrent, if it is there. Its files stay.
    pub(super) async fn remove(&self, info_hash: InfoHash) {
        let id = TorrentIdOrHash::Hash(Id20::new(info_hash.0));
        if let Err(error) = self.session.delete(id, false).await {
            tracing::debug!(%info_hash, %error, "the engine had nothing to remove");
        }
    }
}

/// A live torrent in the engine.
#[derive(Clone)]
pub(super) struct Running {
    torrent: Arc<ManagedTorrent>,
    trouble: Arc<Notify>,
    have: Have,
    files: Folder,
    addr: SocketAddr,
    preferences: Arc<Semaphore>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Running {
    /// The pieces on disk, now and as they come.
    pub(super) fn have(&self) -> watch::Receiver<PieceSet> {
        self.have.subscribe()
    }

    /// What is on disk.
    pub(super) fn files(&self) -> Folder {
        self.files.clone()
    }

    /// Where the engine takes peers.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Has a file fetched before others, from [`Preference::at`] on; `None` while as many are preferred as may be.
    pub(super) async fn prefer(&self, file: usize) -> Option<Preference> {
        let permit = self.preferences.clone().try_acquire_owned().ok()?;
        let stream = self.torrent.clone().stream(file).await.ok()?;
        Some(Preference { stream: Box::pin(stream), _permit: permit })
    }

    /// Resolves when the engine gives the torrent up: the disk is full, or files vanished.
    pub(super) async fn failed(&self) -> EngineError {
        let mut closely = 0_u32;
        loop {
            let pause = if closely > 0 { CLOSE_CHECK } else { HEALTH_CHECK };
            tokio::select! {
                () = self.trouble.notified() => closely = CLOSE_CHECKS,
                () = tokio::time::sleep(pause) => closely = closely.saturating_sub(1),
            }
            let error = self.torrent.with_state(|state| match state {
                ManagedTorrentState::Error(error) => Some(EngineError::new(error)),
                ManagedTorrentState::Live(_) => None,
                other => Some(EngineError(format!("the torrent is {}", other.name()))),
            });
            if let Some(error) = error {
                return error;
            }
        }
    }
}

/// A file that is fetched before others for as long as this lives.
pub(super) struct Preference {
    /// The engine's stream of the file, whose type has no public name.
    stream: Pin<Box<dyn AsyncSeek + Send + Sync>>,
    _permit: OwnedSemaphorePermit,
}

impl Preference {
    /// What lies at `offset` of the file, and shortly after, comes first.
    pub(super) fn at(&mut self, offset: u64) {
        // Fails past the end of the file, where there is nothing to fetch.
        let _ = self.stream.as_mut().start_seek(SeekFrom::Start(offset));
    }
}

impl std::fmt::Debug for Preference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Preference")
    }
}
