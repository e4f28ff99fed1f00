//! Looks for native peers of one torrent and dials them. All dialling of the bridge is here.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::candidates::{BRIEF, Candidates, Outcome, Source, next_lookup};
use super::contacts::Key;
use super::door::Ending;
use super::outgoing::{Connector, Line};
use super::stage::Stage;
use super::swarm::{Named, Swarm, Whom};
use crate::dht::{Dht, FoundPeer};
use crate::gossip::local::{LocalDiscovery, Neighbours};
use crate::net::may_name;
use crate::tasks::Tasks;
use crate::tracker::Tracker;
use crate::wire::peer_exchange::Flags;

/// Connections of one torrent being opened at once.
const MAX_OPENING: usize = 8;

/// How often our own tracker is asked. It costs a look under the lock of a shard.
const TRACKER_POLL: Duration = Duration::from_secs(10);

/// How often the DHT is asked for peers of what a pin has whole: they find us, since it is announced, and a thousand pins
/// are no flood of lookups. Where nobody can connect to us, it is what a newcomer waits for.
const LEISURE: Duration = Duration::from_secs(600);

/// How long a pin waits before it asks the DHT for the first time: by then it is known what is on disk.
const PIN_PAUSE: Duration = Duration::from_secs(1);

/// Addresses taken from our own tracker at once.
const TRACKER_PEERS: usize = 50;

/// Where addresses come from, and what dialling needs.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) dht: Dht,
    pub(super) tracker: Option<Tracker>,
    pub(super) local: Option<LocalDiscovery>,
    /// Our own door for native peers.
    pub(super) listener: SocketAddr,
    pub(super) connector: Arc<Connector>,
    pub(super) tasks: Tasks,
}

/// What a dial reports.
enum Report {
    /// It is open, or never will be.
    Opened,
    /// It is over.
    Ended(SocketAddr, Outcome),
}

/// Dials peers of `swarm` for as long as it is polled. `given` are addresses that the user named, `named` those that peers
/// name; `is_pin` has the DHT asked at leisure for what is all here.
pub(super) async fn run(
    swarm: Arc<Swarm>,
    sources: Sources,
    (given, mut named): (Vec<SocketAddr>, mpsc::Receiver<Named>),
    is_pin: bool,
) -> Infallible {
    let mut candidates = Candidates::new(rand::rng().random_range(0.0..0.5));
    for addr in given {
        candidates.add(addr, Source::Given, Instant::now());
    }
    let mut stages = swarm.stage.subscribe();
    let (reports_tx, mut reports) = mpsc::channel(MAX_OPENING);
    let mut opening = 0;
    let mut lookup: Option<mpsc::Receiver<FoundPeer>> = None;
    let mut neighbours: Option<Neighbours> = None;
    // A topic is often ours alone, and there are many: they are looked up at the pace of swarms that have peers.
    let is_topic = matches!(*swarm.stage.borrow(), Stage::Topic);
    let (mut lookups, mut found_anybody, mut lookup_at) = (0, false, Instant::now());
    if is_pin {
        lookup_at += PIN_PAUSE;
    }
    let mut was_idle = false;
    let mut tick = interval(TRACKER_POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // BEP 27: a private torrent's peers come from its own tracker only.
        let private = stages.borrow_and_update().metainfo().is_some_and(|metainfo| metainfo.is_private());
        if private {
            neighbours = None;
        } else if neighbours.is_none() {
            neighbours = sources.local.as_ref().map(|local| local.join(swarm.info_hash));
        }
        let complete = swarm.stage.borrow().is_complete();
        let is_idle = complete && is_pin;
        match (std::mem::replace(&mut was_idle, is_idle), is_idle) {
            // A start with a thousand torrents is no burst of lookups.
            (false, true) => lookup_at = Instant::now() + LEISURE.mul_f64(rand::rng().random_range(0.0..1.0)),
            // What was here is damaged: whoever has it is wanted now.
            (true, false) => (lookups, lookup_at) = (0, Instant::now()),
            _ => {}
        }
        // Nothing is fetched before it is known what is missing.
        let checking = matches!(*swarm.stage.borrow(), Stage::Checking(_));
        let wanted = swarm.wants_more();
        while wanted && opening < MAX_OPENING {
            let Some((addr, source)) = candidates.next(complete, Instant::now()) else { break };
            opening += 1;
            sources.tasks.spawn_cancellable(dial(swarm.clone(), sources.clone(), (addr, source), reports_tx.clone()));
        }
        let wake = candidates.wake(complete).filter(|_| wanted && opening < MAX_OPENING);
        tokio::select! {
            Some(report) = reports.recv() => match report {
                Report::Opened => opening -= 1,
                Report::Ended(addr, outcome) => candidates.ended(addr, outcome, Instant::now()),
            },
            found = next_found(&mut lookup), if lookup.is_some() => match found {
                Some(FoundPeer { addr, from }) => {
                    if sources.may_dial(addr, from.ip()) {
                        found_anybody |= candidates.add(addr, Source::Dht(from.ip()), Instant::now());
                    }
                }
                None => {
                    lookup = None;
                    let wait = if is_idle { LEISURE } else { next_lookup(lookups, found_anybody || is_topic) };
                    lookup_at = Instant::now() + wait;
                }
            },
            addr = next_neighbour(&mut neighbours), if neighbours.is_some() => {
                // It announced itself, so it is the one who named its address.
                if sources.may_dial(addr, addr.ip()) && !candidates.add(addr, Source::Local, Instant::now()) {
                    candidates.revive(addr, Instant::now());
                }
            }
            // BEP 27: nothing is taken from the peers of a private torrent, see `Exchanges::peers`; this is what was under way.
            Some(Named { by: (ip, key), whom }) = named.recv() => match whom {
                _ if private => {}
                Whom::Others(peers) => for told in peers {
                    let is_new = sources.may_dial(told.addr, ip)
                        && !swarm.contacts().has(told.addr)
                        && candidates.add(told.addr, source_of(told.flags, ip, key), Instant::now());
                    if is_new && told.flags.has(Flags::SEED) {
                        candidates.is_seed(told.addr);
                    }
                },
                Whom::Introduced(addr) => {
                    let source = Source::Introduced(ip);
                    let may_dial = wanted && opening < MAX_OPENING && sources.may_dial(addr, ip);
                    if may_dial && candidates.take_now(addr, source, Instant::now()) {
                        opening += 1;
                        let dial = dial(swarm.clone(), sources.clone(), (addr, source), reports_tx.clone());
                        sources.tasks.spawn_cancellable(dial);
                    }
                }
            },
            () = sleep_until(lookup_at), if lookup.is_none() && wanted && !private && !checking => {
                lookups += 1;
                lookup = Some(sources.dht.get_peers(swarm.info_hash));
            }
            _ = tick.tick() => {
                if let Some(tracker) = sources.tracker.as_ref().filter(|_| wanted && !private) {
                    for addr in tracker.native_peers(swarm.info_hash, TRACKER_PEERS) {
                        // Each announced itself from that address, so it is the one who named it.
                        if sources.may_dial(addr, addr.ip()) {
                            candidates.add(addr, Source::Tracker, Instant::now());
                        }
                    }
                }
            }
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            _ = stages.changed() => {}
        }
    }
}

impl Sources {
    fn may_dial(&self, addr: SocketAddr, source: IpAddr) -> bool {
        may_dial(self.listener, addr, source)
    }
}

/// Whether an address is dialled that `source` named, by a node that listens at `listener`.
fn may_dial(listener: SocketAddr, addr: SocketAddr, source: IpAddr) -> bool {
    let here = listener.ip();
    let ours =
        addr.port() == listener.port() && (addr.ip() == here || (here.is_unspecified() && addr.ip().is_loopback()));
    !ours && may_name(source, addr)
}

/// Of a peer that was named as one that can be introduced, who named it may do so.
fn source_of(flags: Flags, ip: IpAddr, key: Key) -> Source {
    Source::Pex(ip, flags.has(Flags::HOLEPUNCH).then_some(key))
}

async fn next_found(lookup: &mut Option<mpsc::Receiver<FoundPeer>>) -> Option<FoundPeer> {
    lookup.as_mut()?.recv().await
}

async fn next_neighbour(neighbours: &mut Option<Neighbours>) -> SocketAddr {
    match neighbours {
        Some(neighbours) => neighbours.next().await,
        None => std::future::pending().await,
    }
}

/// One connection, from its first packet to its end.
async fn dial(
    swarm: Arc<Swarm>,
    sources: Sources,
    (addr, source): (SocketAddr, Source),
    reports: mpsc::Sender<Report>,
) {
    // A peer that is here already would turn us away, as we would it.
    if swarm.visitors.is_banned(addr.ip(), Instant::now()) || swarm.contacts().has(addr) {
        let _ = reports.send(Report::Opened).await;
        let _ = reports.send(Report::Ended(addr, Outcome::Failed)).await;
        return;
    }
    let connecting = async {
        match source {
            Source::Introduced(_) => sources.connector.connect_by_utp(addr).await,
            _ => sources.connector.connect(addr).await,
        }
    };
    let connected = tokio::select! {
        connected = connecting => connected,
        () = swarm.token.cancelled() => None,
    };
    let result = if connected.is_some() { "connected" } else { "failed" };
    swarm.metrics.dials.with_label_values(&[source.label(), result]).inc();
    let _ = reports.send(Report::Opened).await;
    let outcome = match connected {
        Some(line) => visit(&swarm, &sources, line, addr.ip()).await,
        None => {
            if let Source::Pex(_, Some(relay)) = source
                && swarm.contacts().ask(relay, addr)
            {
                swarm.contacts_changed.send_replace(());
            }
            Outcome::Failed
        }
    };
    let _ = reports.send(Report::Ended(addr, outcome)).await;
}

async fn visit(swarm: &Arc<Swarm>, sources: &Sources, line: Line, ip: IpAddr) -> Outcome {
    let began = Instant::now();
    let visit = sources.connector.visit(swarm, line).await;
    swarm.visitors.judge(ip, &visit.ending, &swarm.metrics);
    match visit.ending {
        Ending::Ourselves => Outcome::Ourselves,
        _ if visit.seated => Outcome::Left {
            complete: visit.complete,
            brief: began.elapsed() < BRIEF,
            took_metadata: visit.took_metadata,
        },
        _ => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "A loopback, private or link-local address is dialled only when the source that named it is itself on that network
    /// […], never on a stranger's word".
    #[test]
    fn a_stranger_does_not_make_us_dial_inward() {
        let loopback = ["127.0.0.9", "::1"];
        let others = [
            "8.8.8.8",
            "2a00::8",
            "10.0.0.8",
            "172.31.0.8",
            "192.168.7.8",
            "100.64.0.8",
            "169.254.0.8",
            "fe80::8",
            "fd00::8",
        ];
        // Address, who may name it apart from this machine, and whether this machine may.
        let table: [(&str, &[&str], bool); 19] = [
            ("9.9.9.9:6881", &others, true),
            ("[2a00::9]:6881", &others, true),
            ("10.0.0.9:22", &["10.0.0.8"], true),
            ("172.16.0.9:22", &["172.31.0.8"], true),
            ("192.168.0.9:80", &["192.168.7.8"], true),
            ("100.64.0.9:80", &["100.64.0.8"], true),
            ("127.0.0.1:8081", &[], true),
            ("[::1]:8081", &[], true),
            ("[::ffff:127.0.0.1]:8081", &[], true),
            ("169.254.169.254:80", &["169.254.0.8", "fe80::8"], true),
            ("[fe80::9]:80", &["169.254.0.8", "fe80::8"], true),
            ("[fd00::9]:80", &["fd00::8"], true),
            ("[64:ff9b::a00:9]:80", &["10.0.0.8"], true),
            // Nobody is there, or nobody can be.
            ("9.9.9.9:0", &[], false),
            ("0.0.0.0:80", &[], false),
            ("224.0.0.1:80", &[], false),
            ("255.255.255.255:80", &[], false),
            ("[ff02::1]:80", &[], false),
            // Ourselves.
            ("127.0.0.1:6881", &[], false),
        ];
        let listener = "0.0.0.0:6881".parse().unwrap();
        for (addr, namers, this_machine) in table {
            let dialled = |source: &&str| may_dial(listener, addr.parse().unwrap(), source.parse().unwrap());
            for source in &others {
                assert_eq!(dialled(source), namers.contains(source), "{addr} named by {source}");
            }
            for source in &loopback {
                assert_eq!(dialled(source), this_machine, "{addr} named by {source}");
            }
        }
    }
}
