//! Whose turn it is to give metadata: few peers of a torrent at once, and one of each host.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::net::host;

/// Peers of one torrent that metadata is fetched from at once: several, so that a slow one delays nobody, and few, since
/// each may cost the largest metadata allowed.
const FETCHES: usize = 3;

/// The turns of one torrent.
#[derive(Debug)]
pub(super) struct Fetches {
    permits: Semaphore,
    /// A std mutex: held for a look-up.
    hosts: Mutex<HashSet<IpAddr>>,
    /// A host has no turn any more.
    ended: Notify,
}

impl Fetches {
    pub(super) fn new() -> Self {
        Self { permits: Semaphore::new(FETCHES), hosts: Mutex::default(), ended: Notify::new() }
    }

    /// Resolves when it is the turn of a peer at `from`. May be given up at any await.
    pub(super) async fn turn(&self, from: IpAddr) -> Turn<'_> {
        let host = host(from);
        let claim = loop {
            // Made before the look, so that no end goes by unnoticed.
            let ended = self.ended.notified();
            if self.hosts().insert(host) {
                break Claim { fetches: self, host };
            }
            ended.await;
        };
        let permit = self.permits.acquire().await.expect("it is never closed");
        Turn { _permit: permit, _claim: claim }
    }

    /// How many more may have their turn.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.permits.available_permits()
    }

    fn hosts(&self) -> MutexGuard<'_, HashSet<IpAddr>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody's turn; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _permit: SemaphorePermit<'a>,
    _claim: Claim<'a>,
}

/// A host's place in the queue, or its turn.
#[derive(Debug)]
struct Claim<'a> {
    fetches: &'a Fetches,
    host: IpAddr,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.fetches.hosts().remove(&self.host);
        self.fetches.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn turns_are_few_and_one_a_host() {
        let fetches = Fetches::new();
        let ip = |n: u8| IpAddr::from([192, 0, 2, n]);
        let first = fetches.turn(ip(1)).await;
        let mut again = Box::pin(fetches.turn(ip(1)));
        assert!(again.as_mut().now_or_never().is_none(), "its host has a turn");
        let (_second, third) = (fetches.turn(ip(2)).await, fetches.turn(ip(3)).await);
        let mut fourth = Box::pin(fetches.turn(ip(4)));
        assert!(fourth.as_mut().now_or_never().is_none(), "as many have a turn as may");
        drop(third);
        let fourth = fourth.await;
        drop(first);
        let _again = again.await;
        drop(fourth);
        assert_eq!((fetches.free(), fetches.hosts().len()), (1, 2));
    }
}
