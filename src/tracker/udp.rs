//! The UDP door (BEP 15).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sha1::{Digest, Sha1};
use tokio::net::UdpSocket;

use super::shard::Stopped;
use super::table::{Full, NativeQuestion};
use super::{Inner, Refused, native_peers_wanted};
use crate::wire::tracker::NativeAnnounce;
use crate::wire::tracker_udp::{self as wire, ConnectionId, Packet, Reason, Request, TransactionId};

/// Largest datagram read: an announce is 98 bytes and its BEP 41 options, a scrape at most 1,496.
const MAX_DATAGRAM: usize = 2_048;

/// Requests in progress at once. Past that, datagrams wait in the kernel's buffer, and it drops those that find no place:
/// clients ask again after 15 s.
const IN_PROGRESS: usize = 1_024;

/// Serves the socket until the node stops.
pub(super) async fn serve(tracker: &Inner, socket: UdpSocket) {
    let connections = Connections { key: rand::random(), start: Instant::now() };
    let mut stopping = std::pin::pin!(tracker.tasks.stopping());
    let mut buffer = [0; MAX_DATAGRAM];
    let mut in_progress = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = &mut stopping => return,
            Some((reply, to)) = in_progress.next(), if !in_progress.is_empty() => {
                if let Some(reply) = reply {
                    send(&socket, reply, to).await;
                }
            }
            received = socket.recv_from(&mut buffer), if in_progress.len() < IN_PROGRESS => {
                let Ok((length, from)) = received.inspect_err(|error| tracing::debug!(%error, "UDP tracker receive")) else {
                    // An error of an earlier reply, reported here (ICMP port unreachable); the socket is as good as before.
                    tokio::task::yield_now().await;
                    continue;
                };
                let now = Instant::now();
                match wire::parse(&buffer[..length]) {
                    Some(Packet::Connect(transaction)) => {
                        let connection = connections.issue(now, from.ip());
                        send(&socket, wire::encode_connected(transaction, connection), from).await;
                    }
                    Some(Packet::Request(connection, transaction, request)) => {
                        let connected = connections.accept(now, from.ip(), connection);
                        let request = if connected { request } else { Err(Reason::NotConnected) };
                        in_progress.push(async move {
                            (answer(tracker, from.ip().to_canonical(), transaction, request).await, from)
                        });
                    }
                    None => tracker.metrics.dropped.with_label_values(&["udp_malformed"]).inc(),
                }
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: Vec<u8>, to: SocketAddr) {
    if let Err(error) = socket.send_to(&reply, to).await {
        tracing::debug!(%error, "UDP tracker send");
    }
}

/// The reply to a request; none when the node stops.
async fn answer(
    tracker: &Inner,
    ip: IpAddr,
    transaction: TransactionId,
    request: Result<Request, Reason>,
) -> Option<Vec<u8>> {
    let reply = match request {
        Ok(Request::Announce { announce, url }) => match check(tracker, ip, &announce, &url) {
            Err(refused) => Err(refused.into()),
            Ok(()) => {
                let wanted = native_peers_wanted(announce.numwant);
                let question = NativeQuestion { ip, announce, wanted, both: false };
                let reply = tracker.shards.native(question).await.ok()?;
                reply.map_err(|Full| Reason::TrackerFull).map(|reply| {
                    let peers: Vec<SocketAddr> = reply.peers.iter().map(|(addr, _)| *addr).collect();
                    let interval = tracker.settings.native_interval.as_secs();
                    tracker.metrics.announces.with_label_values(&["udp"]).inc();
                    wire::encode_announced(transaction, interval, reply.counts, &peers)
                })
            }
        },
        // BEP 41 puts no address after a scrape, so on a private tracker nobody may ask this way.
        Ok(Request::Scrape(_)) if tracker.check_client("", "").is_err() => Err(Reason::NoPasskey),
        Ok(Request::Scrape(info_hashes)) => {
            let files = tracker.shards.scrape(&info_hashes).await.map_err(|Stopped| ()).ok()?;
            tracker.metrics.scrapes.with_label_values(&["udp"]).inc();
            Ok(wire::encode_scraped(transaction, &files))
        }
        Err(reason) => Err(reason),
    };
    Some(reply.unwrap_or_else(|reason| {
        tracker.metrics.errors.with_label_values(&["udp"]).inc();
        wire::encode_error(transaction, reason)
    }))
}

/// Whether the operator's rules take this announce; leaving is always allowed.
fn check(tracker: &Inner, ip: IpAddr, announce: &NativeAnnounce, url: &[u8]) -> Result<(), Refused> {
    let url = std::str::from_utf8(url).unwrap_or_default();
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    tracker.check_client(path, query)?;
    if announce.progress.is_none() {
        return Ok(());
    }
    tracker.check_pace(ip)?;
    tracker.check_torrent(&announce.info_hash)
}

impl From<Refused> for Reason {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Torrent => Self::NotServed,
            Refused::Passkey => Self::NoPasskey,
            Refused::Pace => Self::TooOften,
        }
    }
}

/// How long one connection id is given out.
const EPOCH: Duration = Duration::from_secs(60);

/// Epochs in which it is accepted: BEP 15 asks the tracker to "accept the connection_id until two minutes after it has
/// been sent", and it may have been sent at the end of its first.
const EPOCHS: u64 = 3;

/// Connection ids without a table: a keyed hash of the client's address and the time. Only who receives at an address
/// learns its id, so nobody can announce for, or have replies sent to, an address that is not his.
struct Connections {
    key: [u8; 32],
    start: Instant,
}

impl Connections {
    fn issue(&self, now: Instant, ip: IpAddr) -> ConnectionId {
        self.id(ip, self.epoch(now))
    }

    fn accept(&self, now: Instant, ip: IpAddr, id: ConnectionId) -> bool {
        let epoch = self.epoch(now);
        (epoch.saturating_sub(EPOCHS - 1)..=epoch).any(|epoch| self.id(ip, epoch) == id)
    }

    fn epoch(&self, now: Instant) -> u64 {
        now.duration_since(self.start).as_secs() / EPOCH.as_secs()
    }

    /// Every input has a fixed length, so prefixing the key makes the hash a keyed one.
    fn id(&self, ip: IpAddr, epoch: u64) -> ConnectionId {
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let digest: [u8; 20] = Sha1::new()
            .chain_update(self.key)
            .chain_update(ip.octets())
            .chain_update(epoch.to_be_bytes())
            .finalize()
            .into();
        let (id, _) = digest.split_first_chunk::<8>().expect("20 bytes have a first 8");
        ConnectionId(u64::from_be_bytes(*id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_ids_are_for_one_address_and_expire() {
        let start = Instant::now();
        let connections = Connections { key: [7; 32], start };
        let (ip, other) = ("1.2.3.4".parse().unwrap(), "1.2.3.5".parse().unwrap());
        let sent = start + Duration::from_secs(59);
        let id = connections.issue(sent, ip);
        assert!(connections.accept(sent, ip, id));
        assert!(connections.accept(sent + Duration::from_secs(120), ip, id), "two minutes after it was sent");
        assert!(!connections.accept(sent + Duration::from_secs(181), ip, id));
        assert!(!connections.accept(sent, other, id));
        assert!(!Connections { key: [8; 32], start }.accept(sent, ip, id));
    }
}
