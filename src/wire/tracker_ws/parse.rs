//! Frames of clients → requests.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Announce, Description, Failure, Intent, MAX_OFFERS, MAX_SCRAPED, Offer, OfferId, Other, Reason, Request};
use crate::wire::id::{InfoHash, PeerId, latin1_array};
use crate::wire::tracker::Progress;

/// Longest foreign text (an unknown action, a request id, a malformed info hash) that is echoed in a failure, in bytes
/// of JSON. Longer ones are left out.
const MAX_ECHO: usize = 256;

/// Longest `bep46` field that is passed on, in bytes of JSON; a longer one is ignored, as unknown fields are. With a key
/// and the longest salt it takes some 250.
const MAX_BEP46: usize = 1024;

/// Reads one frame.
///
/// # Errors
/// The refusal to send back.
pub fn parse(frame: &str) -> Result<Request, Failure> {
    let fields: Fields<'_> = object(frame).ok_or(Failure::from(Reason::NotAnObject))?;
    let refuse = |reason| Failure {
        action: fields.action.and_then(text).filter(|action| action.len() <= MAX_ECHO).map(Cow::into_owned),
        info_hash: fields.info_hash.filter(|raw| raw.get().starts_with('"')).and_then(echo),
        id: fields.id.and_then(echo),
        reason,
    };
    match fields.action.and_then(text).as_deref() {
        Some("announce") => {
            let announce = announce(&fields).map_err(refuse)?;
            Ok(match fields.bep46.filter(|raw| raw.get().len() <= MAX_BEP46) {
                Some(raw) => Request::AnnounceWith { announce, bep46: raw.get().into() },
                None => Request::Announce(announce),
            })
        }
        Some("scrape") => scrape(&fields).map(Request::Scrape).map_err(refuse),
        Some(action) if action.len() <= MAX_ECHO => {
            Ok(Request::Other(Other { action: action.to_owned(), id: fields.id.and_then(echo) }))
        }
        Some(_) => Err(refuse(Reason::UnknownAction)),
        None => Err(refuse(Reason::NoAction)),
    }
}

/// The fields a message may have, each still text: whether they are of the right kind is found out one by one, so that a
/// mistake in one does not hide the others.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    action: Option<&'a RawValue>,
    info_hash: Option<&'a RawValue>,
    peer_id: Option<&'a RawValue>,
    event: Option<&'a RawValue>,
    left: Option<&'a RawValue>,
    numwant: Option<&'a RawValue>,
    offers: Option<&'a RawValue>,
    answer: Option<&'a RawValue>,
    to_peer_id: Option<&'a RawValue>,
    offer_id: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    bep46: Option<&'a RawValue>,
}

fn announce(fields: &Fields<'_>) -> Result<Announce, Reason> {
    let info_hash = InfoHash(twenty_bytes("info_hash", fields.info_hash)?);
    let peer_id = PeerId(twenty_bytes("peer_id", fields.peer_id)?);
    let event = fields.event.and_then(text);
    let intent = if let Some(answer) = fields.answer {
        Intent::Answer {
            to: PeerId(twenty_bytes("to_peer_id", fields.to_peer_id)?),
            offer_id: OfferId(twenty_bytes("offer_id", fields.offer_id)?),
            answer: Description::read(answer).ok_or(Reason::BadAnswer)?,
        }
    } else if event.as_deref() == Some("stopped") {
        Intent::Stop
    } else {
        let progress = match (event.as_deref(), fields.left.and_then(number)) {
            (Some("completed"), _) => Progress::Completed,
            (_, Some(0.0)) => Progress::Seeding,
            (_, Some(_)) => Progress::Leeching,
            (_, None) => Progress::Unsaid,
        };
        match offers(fields) {
            offers if offers.is_empty() => Intent::Update { progress },
            offers => Intent::Offers { progress, offers },
        }
    };
    Ok(Announce { info_hash, peer_id, intent })
}

/// The usable offers. A malformed one is skipped, and anything but a list is no offers: the announce counts all the same.
fn offers(fields: &Fields<'_>) -> Vec<Offer> {
    #[derive(Deserialize)]
    struct OfferFields<'a> {
        #[serde(borrow)]
        offer: Option<&'a RawValue>,
        offer_id: Option<&'a RawValue>,
    }
    // An announce that brings offers wants peers: zero, like nonsense, counts as not said.
    let wanted = fields.numwant.and_then(number).filter(|n| *n >= 1.0).map_or(MAX_OFFERS, |n| n as usize);
    let Some(FirstOf { items, .. }) = fields.offers.and_then(|raw| serde_json::from_str(raw.get()).ok()) else {
        return Vec::new();
    };
    let items: [Option<&RawValue>; MAX_OFFERS] = items;
    items
        .into_iter()
        .flatten()
        .filter_map(|raw| {
            let fields: OfferFields<'_> = object(raw.get())?;
            let id = OfferId(twenty_bytes("offer_id", fields.offer_id).ok()?);
            Some(Offer { id, description: Description::read(fields.offer?)? })
        })
        .take(wanted)
        .collect()
}

fn scrape(fields: &Fields<'_>) -> Result<Vec<InfoHash>, Reason> {
    match fields.info_hash {
        None => Ok(Vec::new()),
        Some(raw) if raw.get().starts_with('[') => {
            let list: FirstOf<'_, MAX_SCRAPED> =
                serde_json::from_str(raw.get()).map_err(|_| Reason::NotAnId("info_hash"))?;
            if list.more {
                return Err(Reason::TooManyScraped);
            }
            list.items.into_iter().flatten().map(|raw| Ok(InfoHash(twenty_bytes("info_hash", Some(raw))?))).collect()
        }
        raw => Ok(vec![InfoHash(twenty_bytes("info_hash", raw)?)]),
    }
}

impl Description {
    /// Any object with a string `sdp`. What else is in it is the two peers' affair.
    fn read(raw: &RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct Sdp<'a> {
            #[serde(borrow)]
            sdp: &'a RawValue,
        }
        let fields: Sdp<'_> = object(raw.get())?;
        fields.sdp.get().starts_with('"').then(|| Self(raw.get().into()))
    }
}

/// Reads a JSON object. (By itself, a derived struct would be read from an array as well.)
fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Option<T> {
    json.trim_start().starts_with('{').then(|| serde_json::from_str(json).ok())?
}

fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str(raw.get()).ok().map(|Text(text)| text)
}

fn number(raw: &RawValue) -> Option<f64> {
    serde_json::from_str(raw.get()).ok()
}

fn twenty_bytes(field: &'static str, raw: Option<&RawValue>) -> Result<[u8; 20], Reason> {
    let text = text(raw.ok_or(Reason::Missing(field))?).ok_or(Reason::NotAnId(field))?;
    latin1_array(&text).ok_or_else(|| match text.chars().count() {
        20 => Reason::NotAnId(field),
        got => Reason::NotTwenty { field, got },
    })
}

fn echo(raw: &RawValue) -> Option<Box<str>> {
    (raw.get().len() <= MAX_ECHO).then(|| raw.get().into())
}

/// The first `N` items of a list, however long it is.
struct FirstOf<'a, const N: usize> {
    items: [Option<&'a RawValue>; N],
    more: bool,
}

impl<'de, const N: usize> Deserialize<'de> for FirstOf<'de, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<const N: usize>;
        impl<'de, const N: usize> Visitor<'de> for Items<N> {
            type Value = FirstOf<'de, N>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut first = FirstOf { items: [None; N], more: false };
                for place in &mut first.items {
                    match seq.next_element()? {
                        Some(item) => *place = Some(item),
                        None => return Ok(first),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    first.more = true;
                }
                Ok(first)
            }
        }
        deserializer.deserialize_seq(Items)
    }
}
