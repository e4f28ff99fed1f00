//! The HTTP door: announces and scrapes.

use std::net::IpAddr;
use std::time::Duration;

use super::table::NativeQuestion;
use super::{Inner, native_peers_wanted};
use crate::wire::tracker_http::{self, Announced, Reason};

/// Clients may announce this soon again, for instance when a user asks for more peers.
const MIN_INTERVAL: Duration = Duration::from_secs(60);

pub(super) fn announce(tracker: &Inner, path: &str, query: &str, from: IpAddr) -> Vec<u8> {
    reply(tracker, &tracker.metrics.announces, try_announce(tracker, path, query, from))
}

pub(super) fn scrape(tracker: &Inner, path: &str, query: &str) -> Vec<u8> {
    reply(tracker, &tracker.metrics.scrapes, try_scrape(tracker, path, query))
}

fn try_announce(tracker: &Inner, path: &str, query: &str, ip: IpAddr) -> Result<Vec<u8>, Reason> {
    tracker.check_client(path, query)?;
    let tracker_http::Announce { announce, list } = tracker_http::parse_announce(query)?;
    if announce.progress.is_some() {
        tracker.check_pace(ip)?;
        tracker.check_torrent(&announce.info_hash)?;
    }
    let wanted = native_peers_wanted(announce.numwant);
    let question = NativeQuestion { ip, announce: &announce, wanted, both: true };
    let mut peers = Vec::new();
    let counts = tracker.native(&question, &mut |addr, peer_id| peers.push((addr, peer_id)))?;
    let interval = tracker.settings.native_interval;
    let announced = Announced {
        counts,
        interval: interval.as_secs(),
        min_interval: interval.min(MIN_INTERVAL).as_secs(),
        external_ip: ip,
        peers,
    };
    Ok(announced.encode(list))
}

fn try_scrape(tracker: &Inner, path: &str, query: &str) -> Result<Vec<u8>, Reason> {
    tracker.check_client(path, query)?;
    let info_hashes = tracker_http::parse_scrape(query)?;
    Ok(tracker_http::encode_scraped(
        info_hashes.into_iter().map(|info_hash| (info_hash, tracker.shards.scrape(&info_hash))),
    ))
}

fn reply(tracker: &Inner, answered: &prometheus::IntCounterVec, result: Result<Vec<u8>, Reason>) -> Vec<u8> {
    let (counter, body) = match result {
        Ok(body) => (answered, body),
        Err(reason) => (&tracker.metrics.errors, tracker_http::encode_failure(reason)),
    };
    counter.with_label_values(&["http"]).inc();
    body
}
