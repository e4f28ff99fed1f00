//! One lookup per target at a time: whoever asks while one is under way waits for its answer.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::GetError;
use crate::tasks::Tasks;
use crate::wire::id::Target;

/// Most lookups under way or waiting for their turn. Each costs some hundred packets; past it askers are turned away.
const MAX_UNDER_WAY: usize = 1024;

/// The lookups under way. `T` is their answer.
#[derive(Debug)]
pub(super) struct SingleFlight<T> {
    // A std mutex: it is held for a few synchronous lines, never across an await.
    under_way: Mutex<HashMap<Target, watch::Receiver<Option<T>>>>,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self { under_way: Mutex::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// Joins the lookup of `target`, or starts `look` as one if `admit` lets it: who joins pays nothing. The lookup is a
    /// task of its own: it goes on when those who asked leave. It may say how it stands before it is over; the answer is
    /// the first thing it says that is `enough`, or `None` when the node stops before that.
    pub(super) async fn join<F: Future<Output = T> + Send + 'static>(
        self: &Arc<Self>,
        target: Target,
        tasks: &Tasks,
        admit: impl FnOnce() -> Result<(), GetError>,
        look: impl FnOnce(Says<T>) -> F,
        enough: impl Fn(&T) -> bool,
    ) -> Result<Option<T>, GetError> {
        let mut receiver = self.join_or_start(target, tasks, admit, look)?;
        let said = receiver.wait_for(|said| said.as_ref().is_some_and(&enough)).await;
        Ok(said.ok().and_then(|answer| answer.clone()))
    }

    fn join_or_start<F: Future<Output = T> + Send + 'static>(
        self: &Arc<Self>,
        target: Target,
        tasks: &Tasks,
        admit: impl FnOnce() -> Result<(), GetError>,
        look: impl FnOnce(Says<T>) -> F,
    ) -> Result<watch::Receiver<Option<T>>, GetError> {
        let mut under_way = self.lock();
        if let Some(receiver) = under_way.get(&target) {
            return Ok(receiver.clone());
        }
        if under_way.len() >= MAX_UNDER_WAY {
            return Err(GetError::Busy);
        }
        admit()?;
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        let look = look(Says(sender.clone()));
        under_way.insert(target, receiver.clone());
        let landing = Landing { flights: self.clone(), target };
        tasks.spawn_cancellable(async move {
            let answer = look.await;
            // First off the list, then the answer: who asks from now on gets a new lookup, not an old answer.
            drop(landing);
            sender.send_replace(Some(answer));
        });
        Ok(receiver)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Target, watch::Receiver<Option<T>>>> {
        self.under_way.lock().expect("nothing panics while holding it")
    }
}

/// How a lookup tells those who wait how it stands.
#[derive(Debug)]
pub(super) struct Says<T>(Arc<watch::Sender<Option<T>>>);

impl<T> Says<T> {
    pub(super) fn say(&self, how_it_stands: T) {
        self.0.send_replace(Some(how_it_stands));
    }
}

/// Takes the lookup off the list when its task ends, also when it is cancelled.
struct Landing<T: Clone + Send + Sync + 'static> {
    flights: Arc<SingleFlight<T>>,
    target: Target,
}

impl<T: Clone + Send + Sync + 'static> Drop for Landing<T> {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.target);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    const TARGET: Target = Target([1; 20]);

    #[tokio::test]
    async fn many_askers_share_one_lookup_and_the_next_starts_another() {
        let (flights, tasks) = (Arc::new(SingleFlight::default()), Tasks::new());
        let lookups = Arc::new(AtomicUsize::new(0));
        for round in 1..=2 {
            let (open, gate) = watch::channel(false);
            let look = async |lookups: Arc<AtomicUsize>, mut gate: watch::Receiver<bool>| {
                let number = lookups.fetch_add(1, Ordering::SeqCst) + 1;
                gate.wait_for(|open| *open).await.unwrap();
                number
            };
            let ask = || {
                let look = look(lookups.clone(), gate.clone());
                flights.join(TARGET, &tasks, || Ok(()), |_| look, |_| true)
            };
            let mut leaves = Box::pin(ask());
            assert!(futures_util::poll!(&mut leaves).is_pending());
            drop(leaves);
            let askers = futures_util::future::join_all((0..10).map(|_| ask()));
            let open = async { open.send_replace(true) };
            assert_eq!(tokio::join!(askers, open).0, vec![Ok(Some(round)); 10]);
        }
        assert!(flights.lock().is_empty());
    }

    #[tokio::test]
    async fn who_has_enough_leaves_before_it_is_over() {
        let (flights, tasks) = (Arc::new(SingleFlight::default()), Tasks::new());
        let (open, mut gate) = watch::channel(false);
        let look = |says: Says<u32>| async move {
            says.say(1);
            gate.wait_for(|open| *open).await.unwrap();
            2
        };
        let early = flights.join(TARGET, &tasks, || Ok(()), look, |said| *said >= 1).await;
        assert_eq!(early, Ok(Some(1)));
        let never = |_| std::future::pending();
        let mut late = Box::pin(flights.join(TARGET, &tasks, || Ok(()), never, |said| *said >= 2));
        assert!(futures_util::poll!(&mut late).is_pending(), "it joins the one under way");
        open.send_replace(true);
        assert_eq!(late.await, Ok(Some(2)));
    }

    #[tokio::test]
    async fn stopping_wakes_those_who_wait_and_too_many_are_turned_away() {
        let (flights, tasks) = (Arc::new(SingleFlight::<()>::default()), Tasks::new());
        let target = |n: usize| Target(std::array::from_fn(|i| (n >> (8 * (i % 4))) as u8));
        let join = |n| flights.join(target(n), &tasks, || Ok(()), |_| std::future::pending(), |()| true);
        for n in 0..MAX_UNDER_WAY {
            assert!(flights.join_or_start(target(n), &tasks, || Ok(()), |_| std::future::pending()).is_ok());
        }
        assert_eq!(join(MAX_UNDER_WAY).await, Err(GetError::Busy));
        let (waiting, left) = tokio::join!(join(0), tasks.stop(Duration::from_secs(5)));
        assert_eq!((waiting, left), (Ok(None), 0), "joining one that is under way is no further one");
        assert!(flights.lock().is_empty());
    }
}
