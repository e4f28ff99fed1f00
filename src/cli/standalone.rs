//! A DHT node, a bridge and gossip without a server around them, for `publish` and `get`.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;

use super::Failure;
use crate::bridge::{self, Bridge};
use crate::config::{BridgePolicy, Config};
use crate::dht::{Dht, Mode};
use crate::gossip::Gossip;
use crate::metrics;
use crate::tasks::Tasks;
use crate::wire::item::VerifiedItem;

/// How long an orderly stop may take.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The rooms and their tasks.
pub(super) struct Standalone {
    pub(super) dht: Dht,
    pub(super) bridge: Bridge,
    pub(super) gossip: Gossip,
    tasks: Tasks,
}

impl Standalone {
    /// Starts both and waits until the DHT is joined, or has been found to be empty.
    ///
    /// # Errors
    /// No socket can be opened, or the data directory cannot be used.
    pub(super) async fn start(config: &Config, mode: Mode) -> Result<Self, Failure> {
        let tasks = Tasks::new();
        let dht = Dht::start(&config.dht, mode, None, metrics::Dht::detached(), &tasks).await;
        let dht = dht.map_err(|error| Failure::Failed(format!("cannot open a UDP socket: {error}")))?;
        let mut settings = bridge::Settings {
            bridge: config.bridge.clone(),
            bittorrent: config.bittorrent.clone(),
            webrtc: config.webrtc.clone(),
        };
        settings.bridge.policy = BridgePolicy::Off;
        settings.webrtc.listen.set_port(0);
        // The configured port is the one a router forwards, so it is preferred; a server on this machine may have it.
        let listen = settings.bittorrent.listen;
        if TcpListener::bind(listen).await.is_err() || UdpSocket::bind(listen).await.is_err() {
            settings.bittorrent.listen.set_port(0);
        }
        let dht = dht.announcing(settings.bittorrent.listen);
        let (gossip, news) = Gossip::new(&config.gossip, metrics::Gossip::detached());
        // A command keeps no records: what peers tell is passed on and then of no use.
        tasks.spawn_cancellable(forget(news));
        let rooms = bridge::Rooms {
            dht: dht.clone(),
            tracker: None,
            gossip: Some(gossip.clone()),
            allowed: Arc::new(|_| false),
        };
        let metrics = metrics::Bridge::detached();
        let data_dir = config.data_dir.clone();
        let bridge = Bridge::start(settings, data_dir, rooms, metrics, &tasks).await;
        let bridge = bridge.map_err(Failure::failed)?;
        dht.bootstrapped().await;
        Ok(Self { dht, bridge, gossip, tasks })
    }

    /// Stops both.
    pub(super) async fn stop(self) {
        self.tasks.stop(STOP_DEADLINE).await;
    }
}

async fn forget(mut news: mpsc::Receiver<VerifiedItem>) {
    while news.recv().await.is_some() {}
}
