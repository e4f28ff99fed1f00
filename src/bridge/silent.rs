//! Pages that make no offers: they are made one, and their answers find their way back here.
//!
//! One side offers, or both hang up: a page is offered to only while it is not on its way or here already, and an offer of
//! its own that comes meanwhile is not answered (see [`Swarm::invite`](super::swarm::Swarm::invite)).

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::rtc::{Endpoint, Pending, RtcError};
use super::swarm::Swarm;
use crate::tracker::{SilentPage, WebAnswer};
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::tracker_ws::OfferId;

/// Offers that wait for their answer at once, over all torrents: a quarter of [`super::rtc::MAX_ATTEMPTS`], so that the
/// pages that offer have the rest.
const MAX_WAITING: usize = 32;

/// How long an offer waits for its answer. WebTorrent gathers candidates for at most five seconds before it answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Takes our peer id, the offer's name and our description to a page; whether there was room for it.
pub(super) type Offering = Box<dyn FnOnce(PeerId, OfferId, &str) -> bool + Send>;

/// A page that makes no offers.
pub(super) struct Silent {
    /// The page.
    pub(super) page: PeerId,
    /// The way to it.
    pub(super) offer: Offering,
    /// Where it is.
    pub(super) from: IpAddr,
}

impl From<SilentPage> for Silent {
    fn from(SilentPage { peer_id, offer, from, .. }: SilentPage) -> Self {
        Self { page: peer_id, offer: Box::new(move |ours, id, sdp: &str| offer.send(ours, id, sdp)), from }
    }
}

impl fmt::Debug for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Silent").field("page", &self.page).finish_non_exhaustive()
    }
}

/// Our offers that no page has answered. A std mutex: the tracker hands answers over synchronously, and every use is a
/// look-up.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    waiting: Mutex<HashMap<OfferId, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    swarm: InfoHash,
    page: PeerId,
    answered: oneshot::Sender<String>,
}

impl Unanswered {
    /// Makes an offer to the page and waits for what it answers.
    pub(super) async fn meet(
        self: &Arc<Self>,
        swarm: &Swarm,
        endpoint: &Endpoint,
        Silent { page, offer, .. }: Silent,
    ) -> Result<Pending, RtcError> {
        let (place, answer) = self.place(swarm.info_hash, page).ok_or(RtcError::Busy)?;
        let (sdp, pending) = endpoint.offer().await?;
        if !offer(swarm.ourselves.peer_id, place.id, &sdp) {
            return Err(RtcError::Closed);
        }
        let answer = timeout(ANSWER_LIMIT, answer).await.map_err(|_| RtcError::Timeout)?;
        // The page reaches us by the addresses in our offer; of those it names none is dialled, as with any page.
        pending.accept(&answer.map_err(|_| RtcError::Closed)?, |_| false)
    }

    /// Takes an answer, if one is waited for by this name from this page.
    pub(super) fn take(&self, answer: &WebAnswer<'_>) -> bool {
        let mut waiting = self.lock();
        let is_it = |waiting: &Waiting| (waiting.swarm, waiting.page) == (answer.info_hash, answer.peer_id);
        if !waiting.get(&answer.offer_id).is_some_and(is_it) {
            return false;
        }
        if let (Some(waiting), Some(sdp)) = (waiting.remove(&answer.offer_id), answer.answer.sdp()) {
            // Who waited may have given up a moment ago.
            let _ = waiting.answered.send(sdp);
        }
        true
    }

    fn place(self: &Arc<Self>, swarm: InfoHash, page: PeerId) -> Option<(Place, oneshot::Receiver<String>)> {
        let (answered, answer) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.len() >= MAX_WAITING {
            return None;
        }
        let id = OfferId(rand::rng().random());
        waiting.insert(id, Waiting { swarm, page, answered });
        Some((Place { unanswered: self.clone(), id }, answer))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OfferId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An offer's place among those that wait.
struct Place {
    unanswered: Arc<Unanswered>,
    id: OfferId,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.unanswered.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tracker_ws::Description;

    const SWARM: InfoHash = InfoHash([1; 20]);
    const PAGE: PeerId = PeerId([2; 20]);

    #[test]
    fn only_the_page_that_was_offered_to_may_answer_and_once() {
        let unanswered = Arc::new(Unanswered::default());
        let (place, mut answer) = unanswered.place(SWARM, PAGE).unwrap();
        let id = place.id;
        let said = |info_hash, peer_id, offer_id| {
            unanswered.take(&WebAnswer { info_hash, peer_id, offer_id, answer: Description::answer("v=0") })
        };
        assert!(!said(InfoHash([9; 20]), PAGE, id) && !said(SWARM, PeerId([9; 20]), id));
        assert!(!said(SWARM, PAGE, OfferId([9; 20])));
        assert!(said(SWARM, PAGE, id) && !said(SWARM, PAGE, id));
        assert_eq!(answer.try_recv().as_deref(), Ok("v=0"));
    }

    #[test]
    fn few_wait_at_once() {
        let unanswered = Arc::new(Unanswered::default());
        let mut places: Vec<_> = (0..MAX_WAITING).map(|_| unanswered.place(SWARM, PAGE).unwrap()).collect();
        assert!(unanswered.place(SWARM, PAGE).is_none());
        places.pop();
        assert!(unanswered.place(SWARM, PAGE).is_some(), "who gave up makes room");
    }
}
