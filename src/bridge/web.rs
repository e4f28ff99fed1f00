//! Web peers: their offers are answered, once for each page, those that make none are made one, and their channels are
//! brought to the door.

use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::door;
use super::rtc::{Channel, Endpoint, Pending, RtcError};
use super::silent::{Silent, Unanswered};
use super::swarm::{Invitation, Swarm, Transport};
use super::visitors::Presence;
use crate::tasks::Tasks;
use crate::tracker::WebOffer;
use crate::wire::id::PeerId;

/// Takes our peer id and our description back to a page.
pub(super) type Answer = Box<dyn FnOnce(PeerId, &str) + Send>;

/// An offer of a page.
pub(super) struct Offer {
    /// The page.
    pub(super) page: PeerId,
    /// Its session description.
    pub(super) sdp: String,
    /// The way back to it.
    pub(super) answer: Answer,
    /// Where it comes from.
    pub(super) from: IpAddr,
}

impl From<WebOffer> for Offer {
    fn from(offer: WebOffer) -> Self {
        let answer = Box::new(move |ours, sdp: &str| offer.answer.send(ours, sdp));
        Self { page: offer.peer_id, sdp: offer.sdp, answer, from: offer.from }
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("page", &self.page).finish_non_exhaustive()
    }
}

/// A page that is to be met.
#[derive(Debug)]
pub(super) enum Page {
    /// It offers.
    Offers(Offer),
    /// It does not.
    Silent(Silent),
}

impl Page {
    fn peer_id(&self) -> PeerId {
        match self {
            Self::Offers(offer) => offer.page,
            Self::Silent(silent) => silent.page,
        }
    }

    fn from(&self) -> IpAddr {
        match self {
            Self::Offers(offer) => offer.from,
            Self::Silent(silent) => silent.from,
        }
    }
}

/// Meets the pages of `swarm` for as long as it is polled.
pub(super) async fn welcome(
    swarm: Arc<Swarm>,
    (endpoint, unanswered): (Arc<Endpoint>, Arc<Unanswered>),
    mut pages: mpsc::Receiver<Page>,
    tasks: Tasks,
) -> Infallible {
    while let Some(page) = pages.recv().await {
        let attempt = swarm.visitors.attempt(page.from());
        match attempt.and_then(|attempt| Ok((attempt, swarm.invite(page.peer_id())?))) {
            Ok(places) => {
                let ways = (endpoint.clone(), unanswered.clone());
                tasks.spawn_cancellable(meet(swarm.clone(), ways, page, places));
            }
            Err(refusal) => swarm.metrics.offers.with_label_values(&[refusal.label()]).inc(),
        }
    }
    // The other end is kept with the torrent; without it nobody can come.
    std::future::pending().await
}

async fn meet(
    swarm: Arc<Swarm>,
    (endpoint, unanswered): (Arc<Endpoint>, Arc<Unanswered>),
    page: Page,
    (attempt, invitation): (Presence, Invitation),
) {
    let peer_id = page.peer_id();
    let opened = async {
        let pending = match page {
            Page::Offers(offer) => {
                let (sdp, pending) = endpoint.answer(&offer.sdp).await?;
                (offer.answer)(swarm.ourselves.peer_id, &sdp);
                pending
            }
            Page::Silent(silent) => unanswered.meet(&swarm, &endpoint, silent).await?,
        };
        pending.open().await
    };
    let opened = tokio::select! {
        opened = opened => opened,
        () = swarm.token.cancelled() => return,
    };
    drop(attempt);
    serve(&swarm, peer_id, opened, invitation).await;
}

/// Waits for a page that answered an offer of ours, and serves it.
pub(super) async fn open(swarm: Arc<Swarm>, page: PeerId, pending: Pending, invitation: Invitation) {
    let opened = tokio::select! {
        opened = pending.open() => opened,
        () = swarm.token.cancelled() => return,
    };
    serve(&swarm, page, opened, invitation).await;
}

async fn serve(swarm: &Arc<Swarm>, page: PeerId, opened: Result<Channel, RtcError>, invitation: Invitation) {
    let result = match &opened {
        Ok(_) => "opened",
        Err(RtcError::Description(_)) => "unusable",
        Err(RtcError::Busy) => "busy",
        Err(RtcError::Timeout) => "timeout",
        Err(RtcError::Closed) => "closed",
        Err(RtcError::Stack(_)) => "failed",
    };
    swarm.metrics.offers.with_label_values(&[result]).inc();
    match opened {
        Ok(channel) => {
            // The seat takes over from the invitation, which must not end before the page is greeted.
            let remote = channel.remote_addr();
            let from = remote.ip();
            let presence = match swarm.visitors.enter(from, Instant::now()) {
                Ok(presence) => presence,
                Err(refusal) => return swarm.metrics.refused.with_label_values(&[refusal.label()]).inc(),
            };
            let visit = door::agreed(channel, (Transport::WebRtc, remote), swarm).await;
            drop((invitation, presence));
            swarm.visitors.judge(from, &visit.ending, &swarm.metrics);
        }
        Err(error) => tracing::debug!(info_hash = %swarm.info_hash, %page, %error, "a page did not come"),
    }
}
