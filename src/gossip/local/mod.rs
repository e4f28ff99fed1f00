//! Local discovery (BEP 14): peers of one network find each other by multicast, with no tracker and no DHT.
//!
//! What is said and when is decided in `table`, which is pure; `sockets` knows the machine's networks. One task owns the
//! sockets.

mod sockets;
mod table;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, interval, sleep_until};

use crate::metrics;
use crate::rate::{Bucket, Rate};
use crate::tasks::Tasks;
use crate::wire::hex;
use crate::wire::id::InfoHash;
use crate::wire::local_discovery::LocalAnnounce;
use sockets::{Networks, Sockets};
use table::Table;

/// How often the machine's networks are looked at: a laptop moves.
const LOOK_AROUND: Duration = Duration::from_secs(30);

/// Announces read. A network of a thousand clients sends some ten a second.
const READS: Rate = Rate { burst: 200, every: Duration::from_millis(20) };

/// Neighbours found and not yet taken by whoever looks for them. A full queue drops the newest: they announce again.
const FOUND: usize = 16;

/// Who is near. Clones are the same.
#[derive(Clone)]
pub struct LocalDiscovery {
    inner: Arc<Inner>,
}

struct Inner {
    /// A std mutex: each step is a few synchronous lines.
    shared: Mutex<Shared>,
    /// Something may be due at another time than before.
    changed: Notify,
    metrics: metrics::Gossip,
}

struct Shared {
    table: Table,
    /// Who looks for neighbours of a swarm, by number.
    seekers: HashMap<InfoHash, HashMap<u64, mpsc::Sender<SocketAddr>>>,
    seeks: u64,
}

impl LocalDiscovery {
    /// Starts to listen, and to announce peers at `listener`: on every network it is reachable from. A listener on
    /// loopback is on none.
    #[must_use]
    pub fn start(listener: SocketAddr, metrics: metrics::Gossip, tasks: &Tasks) -> Self {
        let cookie = hex::encode(&rand::rng().random::<[u8; 8]>());
        let shared = Shared { table: Table::new(cookie), seekers: HashMap::new(), seeks: 0 };
        let inner = Arc::new(Inner { shared: Mutex::new(shared), changed: Notify::new(), metrics });
        tasks.spawn_cancellable(inner.clone().run(listener));
        Self { inner }
    }

    /// Announces that we are in this swarm, for as long as what is returned is kept, and looks for others.
    #[must_use]
    pub fn join(&self, info_hash: InfoHash) -> Neighbours {
        let (sender, found) = mpsc::channel(FOUND);
        let mut shared = self.inner.lock();
        for addr in shared.table.join(info_hash, Instant::now()) {
            let _ = sender.try_send(addr);
        }
        shared.seeks += 1;
        let seek = shared.seeks;
        shared.seekers.entry(info_hash).or_default().insert(seek, sender);
        drop(shared);
        self.inner.changed.notify_one();
        Neighbours { inner: self.inner.clone(), info_hash, seek, found }
    }
}

/// Neighbours in a swarm.
pub struct Neighbours {
    inner: Arc<Inner>,
    info_hash: InfoHash,
    seek: u64,
    found: mpsc::Receiver<SocketAddr>,
}

impl Neighbours {
    /// The next one; the same may come again. It named its own address.
    pub async fn next(&mut self) -> SocketAddr {
        match self.found.recv().await {
            Some(addr) => addr,
            // The other end is kept for as long as this one.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        let mut shared = self.inner.lock();
        shared.table.leave(self.info_hash);
        if let Some(seekers) = shared.seekers.get_mut(&self.info_hash) {
            seekers.remove(&self.seek);
            if seekers.is_empty() {
                shared.seekers.remove(&self.info_hash);
            }
        }
    }
}

impl Inner {
    async fn run(self: Arc<Self>, listener: SocketAddr) {
        let (mut networks, mut sockets) = (Networks::default(), Sockets::default());
        let (mut look_around, mut reads) = (interval(LOOK_AROUND), Bucket::default());
        loop {
            let due = self.lock().table.due();
            tokio::select! {
                _ = look_around.tick() => {
                    let now = Networks::of(listener.ip());
                    if now != networks {
                        sockets = Sockets::open(&now);
                        networks = now;
                    }
                }
                (datagram, from) = sockets.receive() => {
                    let result = match reads.take(READS, Instant::now()) {
                        Ok(()) if networks.contain(from.ip()) => self.hear(&datagram, from),
                        Ok(()) => "stranger",
                        Err(_) => "flood",
                    };
                    self.metrics.local.with_label_values(&["in", result]).inc();
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && !networks.is_empty() => {
                    let announce = self.lock().table.announce(listener.port(), Instant::now());
                    if let Some(announce) = announce {
                        let sent = sockets.send(&networks, &announce).await;
                        let result = if sent { "sent" } else { "failed" };
                        self.metrics.local.with_label_values(&["out", result]).inc();
                    }
                }
                () = self.changed.notified() => {}
            }
        }
    }

    fn hear(&self, datagram: &[u8], from: SocketAddr) -> &'static str {
        let Some(announce) = LocalAnnounce::decode(datagram) else { return "malformed" };
        let mut shared = self.lock();
        let common = shared.table.hear(&announce, from, Instant::now());
        for (info_hash, addr) in common {
            for seeker in shared.seekers.get(&info_hash).into_iter().flat_map(HashMap::values) {
                let _ = seeker.try_send(addr);
            }
        }
        "heard"
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
