//! Every open WebSocket, and how all are looked after: one task does for all of them what would be a timer and a watch on
//! the node's end in each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::outbox::{Forced, Outbox};
use super::table::SocketId;
use crate::tasks::Tasks;

/// How often each socket is looked at, whether it has fallen silent. Two of these stay below the minute after which
/// common proxies (nginx's `proxy_read_timeout`) cut an idle connection.
const LOOK_EVERY: Duration = Duration::from_secs(25);

/// Parts the sockets are kept in, each looked at in its turn: one look is short, and pings are spread over time.
const PARTS: usize = 64;

/// All open sockets. Clones are the same ones.
#[derive(Clone)]
pub(super) struct Sockets {
    // Std mutexes: held to add or remove one, or to walk a 64th of the sockets.
    parts: Arc<[Mutex<Part>; PARTS]>,
}

#[derive(Default)]
struct Part {
    outboxes: HashMap<SocketId, Outbox>,
    /// The node stops: who comes now, may go.
    stopping: bool,
}

impl Sockets {
    /// None yet. From now on silent ones are pinged and given up, and all are told when the node stops.
    pub(super) fn watched(tasks: &Tasks) -> Self {
        let sockets = Self { parts: Arc::new(std::array::from_fn(|_| Mutex::default())) };
        tasks.spawn(sockets.clone().watch(tasks.clone()));
        sockets
    }

    pub(super) fn open(&self, id: SocketId, outbox: Outbox) {
        let mut part = self.part(id);
        if part.stopping {
            outbox.end(Forced::Stopping);
        }
        part.outboxes.insert(id, outbox);
    }

    pub(super) fn close(&self, id: SocketId) {
        let mut part = self.part(id);
        part.outboxes.remove(&id);
        if part.outboxes.len() < part.outboxes.capacity() / 4 {
            part.outboxes.shrink_to_fit();
        }
    }

    async fn watch(self, tasks: Tasks) {
        let mut looks = interval(LOOK_EVERY / PARTS as u32);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let looking = async {
            loop {
                for part in &*self.parts {
                    looks.tick().await;
                    lock(part).outboxes.values().for_each(Outbox::look);
                }
            }
        };
        let stopped: Option<()> = tasks.token().run_until_cancelled(looking).await;
        debug_assert!(stopped.is_none(), "looking has no end of its own");
        for part in &*self.parts {
            let mut part = lock(part);
            part.stopping = true;
            part.outboxes.values().for_each(|outbox| outbox.end(Forced::Stopping));
        }
    }

    fn part(&self, SocketId(id): SocketId) -> MutexGuard<'_, Part> {
        lock(&self.parts[id as usize % PARTS])
    }
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
