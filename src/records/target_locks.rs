//! One after the other, for each target by itself: puts of one record wait for each other, so that the second is compared with
//! what the first has done, not with what both have read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::OwnedMutexGuard;

use crate::wire::id::Target;

type Queue = Arc<tokio::sync::Mutex<()>>;

/// Who is at work, and who waits. As many as there are puts under way, which their doors bound.
#[derive(Debug, Default)]
pub(super) struct TargetLocks {
    // A std mutex: it is held for a few synchronous lines, never across an await.
    queues: Mutex<HashMap<Target, Queue>>,
}

/// A turn. Dropping it lets the next one begin.
#[derive(Debug)]
pub(super) struct TargetLock<'a> {
    turns: &'a TargetLocks,
    target: Target,
    held: Option<OwnedMutexGuard<()>>,
}

impl TargetLocks {
    /// Waits until nobody else is at work on `target`; first come, first served.
    pub(super) async fn of(&self, target: Target) -> TargetLock<'_> {
        // Made before the wait, so that whoever gives up waiting tidies up as well.
        let mut turn = TargetLock { turns: self, target, held: None };
        let queue = self.queues().entry(target).or_default().clone();
        turn.held = Some(queue.lock_owned().await);
        turn
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<Target, Queue>> {
        self.queues.lock().expect("nothing panics while holding it")
    }
}

impl Drop for TargetLock<'_> {
    fn drop(&mut self) {
        let mut queues = self.turns.queues();
        self.held = None;
        // The table's own is the only one left: nobody waits.
        if queues.get(&self.target).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            queues.remove(&self.target);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn one_at_a_time_in_order_and_nothing_is_left() {
        let (turns, target) = (TargetLocks::default(), Target([1; 20]));
        let first = turns.of(target).now_or_never().expect("nobody is at work");
        assert!(turns.of(Target([2; 20])).now_or_never().is_some(), "another target waits for nobody");
        let (mut second, mut third) = (Box::pin(turns.of(target)), Box::pin(turns.of(target)));
        let mut gives_up = Box::pin(turns.of(target));
        assert!(second.as_mut().now_or_never().is_none() && gives_up.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        drop(gives_up);
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "not before the second");
        let second = second.as_mut().now_or_never().expect("it is its turn");
        drop(second);
        drop(third.as_mut().now_or_never().expect("it is its turn"));
        drop(third);
        assert!(turns.queues().is_empty());
    }
}
