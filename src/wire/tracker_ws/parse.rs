//! Frames of clients → requests.

use std::borrow::Cow;

use super::{Announce, Description, Failure, Intent, MAX_OFFERS, MAX_SCRAPED, Offer, OfferId, Other, Reason, Request};
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::json::{self, Malformed, Reader};
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
pub fn parse(frame: &str) -> Result<Request<'_>, Failure> {
    let fields = Fields::read(frame).map_err(|Malformed| Failure::from(Reason::NotAnObject))?;
    let refuse = |reason| Failure {
        action: fields.action.and_then(json::string).filter(|action| action.len() <= MAX_ECHO).map(Cow::into_owned),
        info_hash: fields.info_hash.filter(|raw| raw.starts_with('"')).and_then(echo),
        id: fields.id.and_then(echo),
        reason,
    };
    match fields.action.and_then(json::string).as_deref() {
        Some("announce") => {
            let announce = announce(&fields).map_err(refuse)?;
            Ok(match fields.bep46.filter(|raw| raw.len() <= MAX_BEP46) {
                Some(raw) => Request::AnnounceWith { announce, bep46: raw },
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

/// The fields a message may have, most of them still text: whether they are of the right kind is found out one by one,
/// so that a mistake in one does not hide the others. A field that is `null` is not there; of one that is there twice,
/// the last counts, as for `JSON.parse`.
#[derive(Default)]
struct Fields<'a> {
    action: Option<&'a str>,
    info_hash: Option<&'a str>,
    peer_id: Option<&'a str>,
    event: Option<&'a str>,
    left: Option<&'a str>,
    numwant: Option<&'a str>,
    /// No more than [`MAX_OFFERS`].
    offers: Vec<OfferFields<'a>>,
    answer: Option<Described<'a>>,
    to_peer_id: Option<&'a str>,
    offer_id: Option<&'a str>,
    id: Option<&'a str>,
    bep46: Option<&'a str>,
}

/// One of the offers.
#[derive(Default)]
struct OfferFields<'a> {
    offer: Option<Described<'a>>,
    offer_id: Option<&'a str>,
}

/// What stands where a session description should.
#[derive(Clone, Copy)]
struct Described<'a> {
    raw: &'a str,
    /// It is an object with a string `sdp`. What else is in it is the two peers' affair.
    is_description: bool,
}

impl<'a> Fields<'a> {
    /// Offers and answers, which are nearly all of what a tracker reads, are passed over only once: so they are taken
    /// apart on the way, before it is known what the message wants.
    fn read(frame: &'a str) -> Result<Self, Malformed> {
        let mut fields = Self::default();
        let mut reader = Reader::new(frame);
        reader.object(|reader, key| {
            let field = match &*json::string(key).unwrap_or_default() {
                "offers" => {
                    fields.offers = offers(reader)?;
                    return Ok(());
                }
                "answer" => {
                    fields.answer = described(reader)?;
                    return Ok(());
                }
                "action" => &mut fields.action,
                "info_hash" => &mut fields.info_hash,
                "peer_id" => &mut fields.peer_id,
                "event" => &mut fields.event,
                "left" => &mut fields.left,
                "numwant" => &mut fields.numwant,
                "to_peer_id" => &mut fields.to_peer_id,
                "offer_id" => &mut fields.offer_id,
                "id" => &mut fields.id,
                "bep46" => &mut fields.bep46,
                _ => return reader.value().map(drop),
            };
            *field = not_null(reader.value()?);
            Ok(())
        })?;
        reader.end()?;
        Ok(fields)
    }
}

/// The first offers of a list, however long it is; none of anything else.
fn offers<'a>(reader: &mut Reader<'a>) -> Result<Vec<OfferFields<'a>>, Malformed> {
    let mut offers = Vec::new();
    if reader.peek() != Some(b'[') {
        reader.value()?;
        return Ok(offers);
    }
    let mut looked_at = 0;
    reader.array(|reader| {
        looked_at += 1;
        if looked_at <= MAX_OFFERS && reader.peek() == Some(b'{') {
            let mut fields = OfferFields::default();
            reader.object(|reader, key| {
                match &*json::string(key).unwrap_or_default() {
                    "offer" => fields.offer = described(reader)?,
                    "offer_id" => fields.offer_id = Some(reader.value()?),
                    _ => drop(reader.value()?),
                }
                Ok(())
            })?;
            offers.push(fields);
            Ok(())
        } else {
            reader.value().map(drop)
        }
    })?;
    Ok(offers)
}

fn described<'a>(reader: &mut Reader<'a>) -> Result<Option<Described<'a>>, Malformed> {
    if reader.peek() != Some(b'{') {
        let raw = not_null(reader.value()?);
        return Ok(raw.map(|raw| Described { raw, is_description: false }));
    }
    let mut is_description = false;
    let raw = reader.text_of(|reader| {
        reader.object(|reader, key| {
            let is_sdp = &*json::string(key).unwrap_or_default() == "sdp";
            let is_string = reader.peek() == Some(b'"');
            if is_sdp {
                is_description = is_string;
            }
            reader.value().map(drop)
        })
    })?;
    Ok(Some(Described { raw, is_description }))
}

fn not_null(raw: &str) -> Option<&str> {
    (raw != "null").then_some(raw)
}

fn announce<'a>(fields: &Fields<'a>) -> Result<Announce<'a>, Reason> {
    let info_hash = InfoHash(twenty_bytes("info_hash", fields.info_hash)?);
    let peer_id = PeerId(twenty_bytes("peer_id", fields.peer_id)?);
    let event = fields.event.and_then(json::string);
    let intent = if let Some(answer) = fields.answer {
        Intent::Answer {
            to: PeerId(twenty_bytes("to_peer_id", fields.to_peer_id)?),
            offer_id: OfferId(twenty_bytes("offer_id", fields.offer_id)?),
            answer: answer.description().ok_or(Reason::BadAnswer)?,
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
        match usable_offers(fields) {
            offers if offers.is_empty() => Intent::Update { progress },
            offers => Intent::Offers { progress, offers },
        }
    };
    Ok(Announce { info_hash, peer_id, intent })
}

/// A malformed offer is skipped: the announce counts all the same.
fn usable_offers<'a>(fields: &Fields<'a>) -> Vec<Offer<'a>> {
    // An announce that brings offers wants peers: zero, like nonsense, counts as not said.
    let wanted = fields.numwant.and_then(number).filter(|n| *n >= 1.0).map_or(MAX_OFFERS, |n| n as usize);
    let usable = fields.offers.iter().filter_map(|fields| {
        let id = OfferId(twenty_bytes("offer_id", fields.offer_id).ok()?);
        Some(Offer { id, description: fields.offer?.description()? })
    });
    usable.take(wanted).collect()
}

impl<'a> Described<'a> {
    fn description(self) -> Option<Description<'a>> {
        self.is_description.then_some(Description(Cow::Borrowed(self.raw)))
    }
}

fn scrape(fields: &Fields<'_>) -> Result<Vec<InfoHash>, Reason> {
    match fields.info_hash {
        None => Ok(Vec::new()),
        Some(raw) if raw.starts_with('[') => {
            let mut info_hashes = Vec::new();
            let mut result = Ok(());
            let list = Reader::new(raw).array(|reader| {
                let raw = reader.value()?;
                if info_hashes.len() == MAX_SCRAPED {
                    result = Err(Reason::TooManyScraped);
                } else if result.is_ok() {
                    result = twenty_bytes("info_hash", Some(raw)).map(|bytes| info_hashes.push(InfoHash(bytes)));
                }
                Ok(())
            });
            list.map_err(|Malformed| Reason::NotAnId("info_hash"))?;
            result.map(|()| info_hashes)
        }
        raw => Ok(vec![InfoHash(twenty_bytes("info_hash", raw)?)]),
    }
}

fn number(raw: &str) -> Option<f64> {
    serde_json::from_str(raw).ok()
}

fn twenty_bytes(field: &'static str, raw: Option<&str>) -> Result<[u8; 20], Reason> {
    let raw = raw.ok_or(Reason::Missing(field))?;
    json::latin1(raw).ok_or_else(|| match json::string(raw).map(|text| text.chars().count()) {
        None | Some(20) => Reason::NotAnId(field),
        Some(got) => Reason::NotTwenty { field, got },
    })
}

fn echo(raw: &str) -> Option<Box<str>> {
    (raw.len() <= MAX_ECHO).then(|| raw.into())
}
