//! The HTTP door: `GET /announce` and `GET /scrape`.

use std::net::IpAddr;
use std::time::Duration;

use super::shard::Stopped;
use super::table::{Full, NativeQuestion};
use super::{Inner, native_peers_wanted};
use crate::wire::tracker_http::{self, Announced, Reason};

/// Clients may announce this soon again, for instance when a user asks for more peers.
const MIN_INTERVAL: Duration = Duration::from_secs(60);

pub(super) async fn announce(tracker: &Inner, query: &str, from: IpAddr) -> Vec<u8> {
    reply(tracker, &tracker.metrics.announces, try_announce(tracker, query, from).await)
}

pub(super) async fn scrape(tracker: &Inner, query: &str) -> Vec<u8> {
    reply(tracker, &tracker.metrics.scrapes, try_scrape(tracker, query).await)
}

async fn try_announce(tracker: &Inner, query: &str, ip: IpAddr) -> Result<Vec<u8>, Reason> {
    let tracker_http::Announce { announce, list } = tracker_http::parse_announce(query)?;
    let wanted = native_peers_wanted(announce.numwant);
    let question = NativeQuestion { ip, announce, wanted, both: true };
    let reply = tracker.shards.native(question).await.map_err(|Stopped| Reason::Stopping)?;
    let reply = reply.map_err(|Full| Reason::TrackerFull)?;
    let interval = tracker.settings.native_interval;
    let announced = Announced {
        counts: reply.counts,
        interval: interval.as_secs(),
        min_interval: interval.min(MIN_INTERVAL).as_secs(),
        external_ip: ip,
        peers: reply.peers,
    };
    Ok(announced.encode(list))
}

async fn try_scrape(tracker: &Inner, query: &str) -> Result<Vec<u8>, Reason> {
    let info_hashes = tracker_http::parse_scrape(query)?;
    let files = tracker.shards.scrape(&info_hashes).await.map_err(|Stopped| Reason::Stopping)?;
    Ok(tracker_http::encode_scraped(&files))
}

fn reply(tracker: &Inner, answered: &prometheus::IntCounterVec, result: Result<Vec<u8>, Reason>) -> Vec<u8> {
    let (counter, body) = match result {
        Ok(body) => (answered, body),
        Err(reason) => (&tracker.metrics.errors, tracker_http::encode_failure(reason)),
    };
    counter.with_label_values(&["http"]).inc();
    body
}
