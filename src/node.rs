//! The composition root: the only file that sees every room. It opens the sockets, starts the rooms in the order they
//! need each other, and stops them.

use std::fs::{File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;

use crate::bridge::{self, Bridge};
use crate::config::{self, Config, Listen};
use crate::dht::{Dht, Mode};
use crate::gossip::{Gossip, Interest};
use crate::metrics::Metrics;
use crate::pins::{self, Pins};
use crate::records::{self, Follower, News, Records};
use crate::tasks::{Tasks, Threads};
use crate::tracker::{self, Tracker};
use crate::web::{self, Clients};
use crate::wire::id::PublicKey;
use crate::wire::item::{Salt, VerifiedItem};

/// Records that are followed from the start: those put here come first.
const FOLLOWED_AT_START: usize = 64;

/// A running server.
#[derive(Debug)]
pub struct Node {
    ready: Ready,
    tracker: Tracker,
    tasks: Tasks,
    /// Those of the bridge.
    _threads: Threads,
    /// Held for as long as the node runs: two servers on one data directory would destroy each other's work.
    _lock: File,
}

/// Every bound address, as `serve` prints them on standard output once all of them answer.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
    event: &'static str,
    /// The page, `/announce`, `/v1`.
    pub web: SocketAddr,
    /// `/metrics`, health.
    pub admin: SocketAddr,
    /// BEP 15.
    pub udp_tracker: SocketAddr,
    /// BEP 5. The first address, when there is one of each family.
    pub dht: SocketAddr,
    /// BEP 32: the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dht_ipv6: Option<SocketAddr>,
    /// BEP 3 over TCP.
    pub bittorrent: SocketAddr,
    /// All WebRTC peers.
    pub webrtc: SocketAddr,
    /// Where pages ask for their own address, if they may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stun: Option<SocketAddr>,
}

/// Why a node cannot start: one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be created, written or locked.
    #[error("cannot use the data directory {path}: {source}")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A socket cannot be opened.
    #[error("cannot listen on {address} ({key}): {source}")]
    Listen {
        /// The configuration key that names the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system grants no threads.
    #[error("cannot start threads: {0}")]
    Threads(#[source] io::Error),
    /// A socket of the DHT node cannot be opened.
    #[error("cannot listen on {addresses} (dht.listen): {source}")]
    ListenDht {
        /// One of them.
        addresses: Listen,
        /// What the system said.
        source: io::Error,
    },
    /// The record store.
    #[error(transparent)]
    Records(#[from] records::StartError),
    /// What the tracker keeps.
    #[error(transparent)]
    Tracker(#[from] tracker::StartError),
    /// The bridge.
    #[error(transparent)]
    Bridge(#[from] bridge::StartError),
    /// The pin store.
    #[error(transparent)]
    Pins(#[from] pins::StartError),
}

impl Node {
    /// Starts every room. When this returns, every address in [`Node::ready`] answers.
    ///
    /// # Errors
    /// See [`StartError`]. Whatever had been started by then is stopped again.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let tasks = Tasks::new();
        let started = Self::start_rooms(config, tasks.clone()).await;
        if started.is_err() {
            tasks.stop(Duration::from_secs(5)).await;
        }
        started
    }

    async fn start_rooms(config: &Config, tasks: Tasks) -> Result<Self, StartError> {
        let lock = lock_data_dir(&config.data_dir)?;
        let (web_listener, web) = listen_tcp("web.listen", config.web.listen)?;
        let (admin_listener, admin) = listen_tcp("admin.listen", config.admin.listen)?;
        let (udp_socket, udp_tracker) = bind_udp("tracker.udp_listen", config.tracker.udp_listen)?;

        let metrics = Arc::new(Metrics::default());
        let state_file = Some(config.data_dir.join("dht-nodes"));
        let dht = Dht::start(&config.dht, Mode::Server, state_file, metrics.dht.clone(), &tasks)
            .await
            .map_err(|source| StartError::ListenDht { addresses: config.dht.listen, source })?;
        let records =
            Records::start(&config.records, &config.data_dir, dht.clone(), metrics.records.clone(), &tasks).await?;
        let tracker = Tracker::open(&config.tracker, &config.data_dir, metrics.tracker.clone(), &tasks)?;
        let settings = bridge::Settings {
            bridge: config.bridge.clone(),
            bittorrent: config.bittorrent.clone(),
            webrtc: config.webrtc.clone(),
        };
        let (gossip, news) = Gossip::new(&config.gossip, metrics.gossip.clone());
        introduce(&records, &gossip, news, &tasks);
        // The bridge does not know records; it asks whether one points to a torrent.
        let sites = records.clone();
        let rooms = bridge::Rooms {
            dht: dht.announcing(config.bittorrent.listen),
            tracker: Some(tracker.clone()),
            gossip: Some(gossip),
            allowed: Arc::new(move |info_hash| sites.points_to(info_hash)),
        };
        let threads = Threads::half("bridge").map_err(StartError::Threads)?;
        let (data_dir, counted, there) = (config.data_dir.clone(), metrics.bridge.clone(), tasks.on(&threads));
        let bridge =
            threads.run(async move { Bridge::start(settings, data_dir, rooms, counted, &there).await }).await?;
        tracker.set_resident(Arc::new(bridge.clone()));
        let pins =
            Pins::start(&config.pins, &config.data_dir, records.clone(), bridge.clone(), metrics.pins.clone(), &tasks)
                .await?;

        let stun = match config.webrtc.stun {
            true => Some(bind_udp("webrtc.stun_listen", config.webrtc.stun_listen)?),
            false => None,
        };
        let stun = stun.map(|(socket, address)| {
            tasks.spawn_cancellable(bridge::stun::serve(socket, metrics.bridge.clone()));
            address
        });
        let serving = tracker.clone();
        tasks.spawn(async move { serving.serve_udp(udp_socket).await });
        let ready = Ready {
            event: "ready",
            web,
            admin,
            udp_tracker,
            dht: dht.local_addr(),
            dht_ipv6: dht.local_addrs().nth(1),
            bittorrent: bridge.bittorrent_addr(),
            webrtc: bridge.webrtc_addr(),
            stun,
        };
        let ice = web::Ice::new(&config.webrtc, stun);
        let public = Clients::of(&config.web, metrics.web.clone());
        let operators = Clients::of(&config::Web::default(), metrics.web.clone());
        let rooms =
            web::Rooms { tracker: tracker.clone(), records, dht, ice, metrics, tasks: tasks.clone(), pins: Some(pins) };
        web::serve(web_listener, web::public(rooms.clone(), &config.web), public, &tasks);
        web::serve(admin_listener, web::admin(rooms), operators, &tasks);
        Ok(Self { ready, tracker, tasks, _threads: threads, _lock: lock })
    }

    /// Every bound address.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The address to open in a browser on this machine.
    #[must_use]
    pub fn page_address(&self) -> String {
        let web = self.ready.web;
        if web.ip().is_unspecified() { format!("localhost:{}", web.port()) } else { web.to_string() }
    }

    /// Reads again what the operator may change while the node runs. What makes no sense is logged and not used.
    pub async fn reload(&self) {
        let _ = self.tracker.reload().await;
    }

    /// Stops every room and waits for it, at most `deadline`. Returns how many tasks were still running then.
    pub async fn stop(&self, deadline: Duration) -> usize {
        self.tasks.stop(deadline).await
    }
}

/// Lets records and gossip, which do not know each other, tell each other of new versions.
fn introduce(records: &Records, gossip: &Gossip, mut news: mpsc::Receiver<VerifiedItem>, tasks: &Tasks) {
    for item in records.recent(FOLLOWED_AT_START) {
        gossip.follow(*item.key(), item.salt().clone(), Some(&item), Interest::Put);
    }
    records.follow_all(Arc::new(Told(gossip.clone())));
    let records = records.clone();
    tasks.spawn_cancellable(async move {
        while let Some(item) = news.recv().await {
            records.learn(item).await;
        }
    });
}

/// Gossip follows what records is asked for, and tells of what it learns.
struct Told(Gossip);

impl Follower for Told {
    fn newer(self: Arc<Self>, news: &Arc<News>) {
        self.0.learn(&news.item);
    }

    fn wanted(&self, key: &PublicKey, salt: &Salt, newest: Option<&VerifiedItem>) {
        self.0.follow(*key, salt.clone(), newest, Interest::Asked);
    }

    fn was_put(&self, item: &VerifiedItem) {
        self.0.follow(*item.key(), item.salt().clone(), Some(item), Interest::Put);
    }
}

fn lock_data_dir(path: &Path) -> Result<File, StartError> {
    let fail = |source| StartError::DataDir { path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(fail)?;
    let lock = File::create(path.join("lock")).map_err(fail)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(fail(io::Error::new(io::ErrorKind::ResourceBusy, "another server is using it")))
        }
        Err(TryLockError::Error(error)) => Err(fail(error)),
    }
}

fn listen_tcp(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = || {
        let socket = dual_stack(address, Type::STREAM)?;
        socket.listen(ACCEPT_BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    bound().map_err(|source| StartError::Listen { key, address, source })
}

fn bind_udp(key: &'static str, address: SocketAddr) -> Result<(UdpSocket, SocketAddr), StartError> {
    let bound = || {
        let socket = UdpSocket::from_std(dual_stack(address, Type::DGRAM)?.into())?;
        let local = socket.local_addr()?;
        Ok((socket, local))
    };
    bound().map_err(|source| StartError::Listen { key, address, source })
}

/// Connections that may wait to be accepted; the kernel has a limit of its own (`net.core.somaxconn`).
const ACCEPT_BACKLOG: i32 = 1024;

/// A bound socket. One on `[::]` takes IPv4 too, whatever the system's default (`net.ipv6.bindv6only`) is.
fn dual_stack(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if kind == Type::STREAM {
        // A restart finds connections of the last run in TIME_WAIT.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
