//! The other side of [`tracker_ws`](super::tracker_ws): what a client of a WebTorrent tracker sends, and what it is sent.

use serde::Deserialize;
use serde_json::json;

use super::id::{InfoHash, PeerId, latin1_array, to_latin1};
use super::tracker_ws::OfferId;

/// An announce of a peer in a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcing<'a> {
    /// The swarm.
    pub info_hash: InfoHash,
    /// The peer.
    pub peer_id: PeerId,
    /// Bytes it lacks.
    pub left: u64,
    /// `started`, `stopped`, or nothing for a sign of life.
    pub event: Option<&'static str>,
    /// What it offers to others: name and session description. As many peers are wanted.
    pub offers: &'a [(OfferId, String)],
}

impl Announcing<'_> {
    /// The frame.
    #[must_use]
    pub fn encode(&self) -> String {
        let offers = self
            .offers
            .iter()
            .map(|(id, sdp)| json!({"offer_id": to_latin1(&id.0), "offer": {"type": "offer", "sdp": sdp}}));
        let mut message = json!({
            "action": "announce",
            "info_hash": to_latin1(&self.info_hash.0),
            "peer_id": to_latin1(&self.peer_id.0),
            "numwant": self.offers.len(),
            "uploaded": 0,
            "downloaded": 0,
            "left": self.left,
            "offers": offers.collect::<Vec<_>>(),
        });
        if let Some(event) = self.event {
            message["event"] = event.into();
        }
        message.to_string()
    }
}

/// The answer to an offer of `to`.
#[must_use]
pub fn answer(info_hash: InfoHash, peer_id: PeerId, to: PeerId, offer_id: OfferId, sdp: &str) -> String {
    json!({
        "action": "announce",
        "info_hash": to_latin1(&info_hash.0),
        "peer_id": to_latin1(&peer_id.0),
        "to_peer_id": to_latin1(&to.0),
        "offer_id": to_latin1(&offer_id.0),
        "answer": {"type": "answer", "sdp": sdp},
    })
    .to_string()
}

/// What a tracker sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The answer to an announce.
    Announced {
        /// The swarm.
        info_hash: InfoHash,
        /// When to announce again, from now.
        seconds: u64,
        /// How many there are, with and without all of it; none where the tracker does not say.
        peers: usize,
    },
    /// Another peer's offer.
    Offer {
        /// The swarm.
        info_hash: InfoHash,
        /// Who offers.
        page: PeerId,
        /// Its name.
        id: OfferId,
        /// The session description.
        sdp: String,
    },
    /// The answer to an offer of ours.
    Answer {
        /// Who answers.
        page: PeerId,
        /// The offer's name.
        id: OfferId,
        /// The session description.
        sdp: String,
    },
    /// It refuses something.
    Refused(String),
    /// Whatever else trackers say.
    Other,
}

#[derive(Deserialize)]
struct Fields {
    info_hash: Option<String>,
    peer_id: Option<String>,
    offer_id: Option<String>,
    offer: Option<Session>,
    answer: Option<Session>,
    interval: Option<u64>,
    complete: Option<usize>,
    incomplete: Option<usize>,
    #[serde(rename = "failure reason")]
    failure: Option<String>,
}

#[derive(Deserialize)]
struct Session {
    sdp: String,
}

/// Longest refusal kept, in characters.
const MAX_REFUSAL: usize = 200;

/// Reads a frame. Nothing a tracker may say is an error: what makes no sense is [`Told::Other`].
#[must_use]
pub fn parse(frame: &str) -> Told {
    let Ok(fields) = serde_json::from_str::<Fields>(frame) else { return Told::Other };
    if let Some(reason) = fields.failure {
        return Told::Refused(reason.chars().take(MAX_REFUSAL).collect());
    }
    let id = |text: &Option<String>| text.as_deref().and_then(latin1_array::<20>);
    let (info_hash, page) = (id(&fields.info_hash).map(InfoHash), id(&fields.peer_id).map(PeerId));
    let offer_id = id(&fields.offer_id).map(OfferId);
    match (info_hash, page, offer_id, fields) {
        (Some(info_hash), Some(page), Some(id), Fields { offer: Some(Session { sdp }), .. }) => {
            Told::Offer { info_hash, page, id, sdp }
        }
        (_, Some(page), Some(id), Fields { answer: Some(Session { sdp }), .. }) => Told::Answer { page, id, sdp },
        (Some(info_hash), _, _, Fields { interval: Some(seconds), complete, incomplete, .. }) => {
            let peers = complete.unwrap_or(0).saturating_add(incomplete.unwrap_or(0));
            Told::Announced { info_hash, seconds, peers }
        }
        _ => Told::Other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::tracker_ws::{self, Intent, Request};

    const SWARM: InfoHash = InfoHash([0xe9; 20]);
    const US: PeerId = PeerId([0x2d; 20]);
    const PAGE: PeerId = PeerId([0xff; 20]);

    #[test]
    fn a_tracker_understands_what_is_sent() {
        let offers = [(OfferId([1; 20]), "v=0\r\n".to_owned())];
        let announcing = Announcing { info_hash: SWARM, peer_id: US, left: 7, event: Some("started"), offers: &offers };
        let frame = announcing.encode();
        let Ok(Request::Announce(announce)) = tracker_ws::parse(&frame) else { panic!("an announce") };
        assert_eq!((announce.info_hash, announce.peer_id), (SWARM, US));
        let Intent::Offers { offers, .. } = announce.intent else { panic!("offers") };
        assert_eq!((offers.len(), offers[0].id), (1, OfferId([1; 20])));
        let stopped = Announcing { event: Some("stopped"), offers: &[], ..announcing };
        let frame = stopped.encode();
        let Ok(Request::Announce(announce)) = tracker_ws::parse(&frame) else { panic!("an announce") };
        assert_eq!(announce.intent, Intent::Stop);
        let answer = answer(SWARM, US, PAGE, OfferId([2; 20]), "v=0\r\n");
        let Ok(Request::Announce(announce)) = tracker_ws::parse(&answer) else { panic!("an answer") };
        assert!(matches!(announce.intent, Intent::Answer { to: PAGE, offer_id: OfferId([2, ..]), .. }));
    }

    #[test]
    fn what_trackers_say_is_read() {
        let (swarm, page, id) = (to_latin1(&SWARM.0), to_latin1(&PAGE.0), to_latin1(&[3; 20]));
        let session = json!({"type": "offer", "sdp": "v=0"});
        let sdp = "v=0".to_owned();
        for (message, expected) in [
            (
                json!({"info_hash": swarm, "interval": 120, "complete": 1, "incomplete": 3}),
                Told::Announced { info_hash: SWARM, seconds: 120, peers: 4 },
            ),
            (
                json!({"info_hash": swarm, "interval": 120}),
                Told::Announced { info_hash: SWARM, seconds: 120, peers: 0 },
            ),
            (
                json!({"action": "announce", "info_hash": swarm, "peer_id": page, "offer_id": id, "offer": session}),
                Told::Offer { info_hash: SWARM, page: PAGE, id: OfferId([3; 20]), sdp: sdp.clone() },
            ),
            (
                json!({"action": "announce", "info_hash": swarm, "peer_id": page, "offer_id": id, "answer": session}),
                Told::Answer { page: PAGE, id: OfferId([3; 20]), sdp },
            ),
            (json!({"failure reason": "no"}), Told::Refused("no".into())),
            (json!({"info_hash": swarm, "peer_id": "short", "offer_id": id, "offer": session}), Told::Other),
            (json!({"info_hash": "short", "interval": 1}), Told::Other),
            (json!({"interval": -1}), Told::Other),
            (json!([]), Told::Other),
        ] {
            assert_eq!(parse(&message.to_string()), expected, "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(frame in ".{0,200}") {
            let _ = parse(&frame);
        }
    }
}
