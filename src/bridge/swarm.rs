//! What the parts of one joined torrent share: where it stands, who sits in it, and how many more may.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::contacts::{Contacts, Key};
use super::door::Blame;
use super::fetches::Fetches;
use super::policy::{Day, Refusal};
use super::stage::Stage;
use super::traffic::Traffic;
use super::visitors::Visitors;
use crate::gossip::Gossip;
use crate::metrics;
use crate::wire::id::{InfoHash, PeerId};
use crate::wire::peer_exchange::Told;

/// How long a page that had everything while we had everything is not met again. It offers at each announce.
const SATED: Duration = Duration::from_secs(600);

/// Peers of a topic swarm that are looked for. Records spread over few connections.
const TOPIC_PEERS: usize = 8;

/// What peers say of others that may wait for the dialler: messages.
const NAMED: usize = 16;

/// Pages remembered as sated, per torrent.
const MAX_SATED: usize = 1_000;

/// How a peer reached us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// A page.
    WebRtc,
    /// A native peer.
    Tcp,
    /// A native peer, over UDP (BEP 29).
    Utp,
}

impl Transport {
    /// The metrics' label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::WebRtc => "webrtc",
            Self::Tcp => "tcp",
            Self::Utp => "utp",
        }
    }
}

/// One joined torrent.
pub(super) struct Swarm {
    pub(super) info_hash: InfoHash,
    /// What peers are told of us.
    pub(super) ourselves: Ourselves,
    /// Largest metadata fetched.
    pub(super) max_metadata: usize,
    /// Written by the torrent's own task only, by [`Swarm::enter`].
    pub(super) stage: watch::Sender<Stage>,
    /// Verified metadata, on its way to the torrent's task.
    pub(super) metadata: mpsc::Sender<Bytes>,
    /// Peers that others named, on their way to the dialler.
    pub(super) named: mpsc::Sender<Named>,
    /// Whose turn it is to give metadata.
    pub(super) fetches: Fetches,
    /// Ends every connection.
    pub(super) token: CancellationToken,
    pub(super) metrics: metrics::Bridge,
    /// Absent in commands that know no records.
    pub(super) gossip: Option<Gossip>,
    max_peers: usize,
    /// Peers past which no more are looked for.
    enough_peers: usize,
    /// Places for peers over all torrents.
    places: Arc<Semaphore>,
    /// A std mutex: held for a look-up, also by the tracker, which asks synchronously.
    roster: Mutex<Roster>,
    /// A peer came or went.
    peers_changed: Notify,
    /// A std mutex: held for a step.
    contacts: Mutex<Contacts>,
    /// Somebody may be told something new of the contacts.
    pub(super) contacts_changed: watch::Sender<()>,
    /// What is on disk is to be checked again.
    check_again: Notify,
    day: Option<Arc<Day>>,
    /// Addresses, of which some are shut out.
    pub(super) visitors: Arc<Visitors>,
    /// A std mutex: held while a block is noted.
    blame: Mutex<Blame>,
    /// The bytes of the day are used up.
    day_full: Notify,
    /// A std mutex: held for an addition.
    traffic: Mutex<Traffic>,
}

/// What all swarms have in common.
pub(super) struct Shared {
    /// Places for peers over all torrents.
    pub(super) places: Arc<Semaphore>,
    /// What is counted against; absent for torrents that are the operator's own.
    pub(super) day: Option<Arc<Day>>,
    pub(super) visitors: Arc<Visitors>,
    pub(super) gossip: Option<Gossip>,
    pub(super) metrics: metrics::Bridge,
}

/// What a peer says of others.
#[derive(Debug)]
pub(super) struct Named {
    /// Where the one is who says it, and the connection to it.
    pub(super) by: (IpAddr, Key),
    pub(super) whom: Whom,
}

#[derive(Debug)]
pub(super) enum Whom {
    /// These are in the swarm.
    Others(Vec<Told>),
    /// This one connects to us now, and we shall to it, by uTP (BEP 55).
    Introduced(SocketAddr),
}

/// What reaches a torrent's task from its peers.
pub(super) struct FromPeers {
    /// Verified metadata.
    pub(super) metadata: mpsc::Receiver<Bytes>,
    /// Other peers.
    pub(super) named: mpsc::Receiver<Named>,
}

/// What peers are told of us.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ourselves {
    pub(super) peer_id: PeerId,
    /// Where native peers reach us, over TCP and uTP.
    pub(super) port: u16,
    /// uTP is not switched off.
    pub(super) utp: bool,
}

#[derive(Debug)]
struct Roster {
    seated: HashMap<PeerId, Transport>,
    invited: HashSet<PeerId>,
    sated: HashMap<PeerId, Instant>,
    web_peer_seen: Instant,
}

impl Swarm {
    pub(super) fn new(
        info_hash: InfoHash,
        ourselves: Ourselves,
        stage: Stage,
        settings: &crate::config::Bridge,
        shared: Shared,
        token: CancellationToken,
    ) -> (Arc<Self>, FromPeers) {
        let (metadata, metadata_rx) = mpsc::channel(1);
        let (named, named_rx) = mpsc::channel(NAMED);
        let roster = Roster {
            seated: HashMap::new(),
            invited: HashSet::new(),
            sated: HashMap::new(),
            web_peer_seen: Instant::now(),
        };
        let Shared { places, day, visitors, gossip, metrics } = shared;
        let max_peers = settings.max_peers_per_torrent;
        // A part of the seats is left for those who come by themselves.
        let enough_peers = if matches!(stage, Stage::Topic) { TOPIC_PEERS } else { max_peers - max_peers / 4 };
        metrics.torrents.with_label_values(&[stage.label()]).inc();
        let swarm = Self {
            info_hash,
            ourselves,
            max_metadata: usize::try_from(settings.max_metadata_size.as_u64()).unwrap_or(usize::MAX),
            stage: watch::channel(stage).0,
            metadata,
            named,
            fetches: Fetches::new(),
            token,
            metrics,
            gossip,
            max_peers,
            enough_peers: enough_peers.min(max_peers),
            places,
            roster: Mutex::new(roster),
            peers_changed: Notify::new(),
            contacts: Mutex::default(),
            contacts_changed: watch::channel(()).0,
            check_again: Notify::new(),
            day,
            visitors,
            blame: Mutex::default(),
            day_full: Notify::new(),
            traffic: Mutex::new(Traffic::new(Instant::now())),
        };
        (Arc::new(swarm), FromPeers { metadata: metadata_rx, named: named_rx })
    }

    /// Goes on to the next stage.
    pub(super) fn enter(&self, stage: Stage) {
        self.metrics.torrents.with_label_values(&[stage.label()]).inc();
        let before = self.stage.send_replace(stage);
        self.metrics.torrents.with_label_values(&[before.label()]).dec();
    }

    /// The last step: the torrent is no longer counted, and its files are no longer held.
    pub(super) fn leave(&self) {
        let before = self.stage.send_replace(Stage::Metadata);
        self.metrics.torrents.with_label_values(&[before.label()]).dec();
    }

    /// Seats a greeted peer; it leaves when the seat is dropped.
    pub(super) fn seat(self: &Arc<Self>, peer_id: PeerId, transport: Transport) -> Result<Seat, Refusal> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| Refusal::PeersFull)?;
        let mut roster = self.roster();
        if roster.seated.contains_key(&peer_id) {
            return Err(Refusal::Duplicate);
        }
        if roster.seated.len() >= self.max_peers {
            return Err(Refusal::PeersFull);
        }
        roster.seated.insert(peer_id, transport);
        roster.saw(transport);
        self.metrics.peers.with_label_values(&[transport.label()]).inc();
        self.peers_changed.notify_one();
        Ok(Seat { swarm: self.clone(), peer_id, transport, _place: place })
    }

    /// Takes note of a page whose offer is about to be answered. Its connection takes seconds, in which it may offer
    /// again: a second answer would only make a second connection that fails.
    pub(super) fn invite(self: &Arc<Self>, page: PeerId) -> Result<Invitation, Refusal> {
        let mut roster = self.roster();
        roster.web_peer_seen = Instant::now();
        if roster.seated.contains_key(&page) || !roster.invited.insert(page) {
            return Err(Refusal::Duplicate);
        }
        // From here on dropping the invitation takes the page off the list.
        let invitation = Invitation { swarm: self.clone(), page };
        let sated = roster.sated.get(&page).is_some_and(|until| *until > Instant::now());
        let full = roster.seated.len() + roster.invited.len() > self.max_peers;
        drop(roster);
        match (sated && self.stage.borrow().is_complete(), full) {
            (true, _) => Err(Refusal::Sated),
            (_, true) => Err(Refusal::PeersFull),
            (false, false) => Ok(invitation),
        }
    }

    /// Remembers a peer that has everything while we have everything.
    pub(super) fn is_sated(&self, peer_id: PeerId) {
        let (mut roster, now) = (self.roster(), Instant::now());
        roster.sated.retain(|_, until| *until > now);
        if roster.sated.len() < MAX_SATED {
            roster.sated.insert(peer_id, now + SATED);
        }
    }

    /// Peers seated now.
    pub(super) fn peers(&self) -> usize {
        self.roster().seated.len()
    }

    /// Pages seated now.
    pub(super) fn pages(&self) -> usize {
        self.roster().seated.values().filter(|transport| **transport == Transport::WebRtc).count()
    }

    /// Peers seated now, by transport.
    pub(super) fn peers_by_transport(&self) -> BTreeMap<&'static str, usize> {
        let mut peers = BTreeMap::new();
        for transport in self.roster().seated.values() {
            *peers.entry(transport.label()).or_default() += 1;
        }
        peers
    }

    /// Resolves when a peer came or went since it last did. For one caller at a time.
    pub(super) async fn peers_changed(&self) {
        self.peers_changed.notified().await;
    }

    /// Has the torrent's task check what is on disk again.
    pub(super) fn check_again(&self) {
        self.check_again.notify_one();
    }

    /// Resolves when what is on disk is to be checked again.
    pub(super) async fn to_be_checked_again(&self) {
        self.check_again.notified().await;
    }

    /// Counts payload bytes from a peer.
    pub(super) fn received(&self, bytes: usize) {
        self.lock_traffic().received.add(bytes as u64, Instant::now());
        self.count(bytes);
    }

    /// Counts payload bytes to a peer.
    pub(super) fn sent(&self, bytes: usize) {
        self.lock_traffic().sent.add(bytes as u64, Instant::now());
        self.count(bytes);
    }

    fn count(&self, bytes: usize) {
        if self.day.as_ref().is_some_and(|day| day.add(bytes as u64, super::since_1970())) {
            self.day_full.notify_one();
        }
    }

    /// Resolves when the bytes of the day are used up.
    pub(super) async fn is_over(&self) {
        self.day_full.notified().await;
    }

    /// Payload bytes since the torrent was joined, and bytes a second: received, and sent.
    pub(super) fn traffic(&self) -> [(u64, u64); 2] {
        let (mut traffic, now) = (self.lock_traffic(), Instant::now());
        let Traffic { received, sent } = &mut *traffic;
        [received, sent].map(|meter| (meter.total(), meter.rate(now)))
    }

    /// Who gave what of the pieces that are not verified.
    pub(super) fn blame(&self) -> MutexGuard<'_, Blame> {
        self.blame.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the dialler should look for more.
    pub(super) fn wants_more(&self) -> bool {
        self.peers() < self.enough_peers
    }

    /// See [`Stage::is_known_public`].
    pub(super) fn is_known_public(&self) -> bool {
        self.stage.borrow().is_known_public()
    }

    /// Whether the metadata is known and says that the torrent is private.
    pub(super) fn is_known_private(&self) -> bool {
        self.stage.borrow().metainfo().is_some_and(|metainfo| metainfo.is_private())
    }

    /// Native peers, for being told of each other. Who changes what others are told rings [`Swarm::contacts_changed`].
    pub(super) fn contacts(&self) -> MutexGuard<'_, Contacts> {
        self.contacts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a page was last here, which is now if one is.
    pub(super) fn web_peer_seen(&self) -> Instant {
        let mut roster = self.roster();
        if roster.seated.values().any(|transport| *transport == Transport::WebRtc) {
            roster.web_peer_seen = Instant::now();
        }
        roster.web_peer_seen
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Roster {
    fn saw(&mut self, transport: Transport) {
        if transport == Transport::WebRtc {
            self.web_peer_seen = Instant::now();
        }
    }
}

/// A peer's place in a torrent.
pub(super) struct Seat {
    swarm: Arc<Swarm>,
    peer_id: PeerId,
    transport: Transport,
    _place: OwnedSemaphorePermit,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut roster = self.swarm.roster();
        roster.seated.remove(&self.peer_id);
        roster.saw(self.transport);
        self.swarm.metrics.peers.with_label_values(&[self.transport.label()]).dec();
        self.swarm.peers_changed.notify_one();
    }
}

/// A page that is on its way.
pub(super) struct Invitation {
    swarm: Arc<Swarm>,
    page: PeerId,
}

impl Drop for Invitation {
    fn drop(&mut self) {
        self.swarm.roster().invited.remove(&self.page);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config;

    /// A torrent that nobody runs, with places for two peers.
    pub(in crate::bridge) fn swarm(info_hash: InfoHash) -> (Arc<Swarm>, FromPeers) {
        swarm_of(info_hash, 2)
    }

    pub(in crate::bridge) fn swarm_of(info_hash: InfoHash, peers: usize) -> (Arc<Swarm>, FromPeers) {
        let settings = config::Bridge { max_peers_per_torrent: peers, ..config::Bridge::default() };
        let ourselves = Ourselves { peer_id: PeerId([1; 20]), port: 6881, utp: true };
        let (places, metrics) = (Arc::new(Semaphore::new(peers + 1)), metrics::Bridge::detached());
        let shared = Shared { places, day: None, visitors: Visitors::new(2), gossip: None, metrics };
        Swarm::new(info_hash, ourselves, Stage::Metadata, &settings, shared, CancellationToken::new())
    }

    #[tokio::test(start_paused = true)]
    async fn seats_are_bounded_and_unique() {
        let (swarm, _from_peers) = swarm(InfoHash([7; 20]));
        let first = swarm.seat(PeerId([2; 20]), Transport::Tcp).unwrap();
        assert_eq!(swarm.seat(PeerId([2; 20]), Transport::WebRtc).err(), Some(Refusal::Duplicate));
        assert!(swarm.wants_more());
        let second = swarm.seat(PeerId([3; 20]), Transport::WebRtc).unwrap();
        assert_eq!(swarm.seat(PeerId([4; 20]), Transport::Tcp).err(), Some(Refusal::PeersFull));
        assert!(!swarm.wants_more());
        assert_eq!(swarm.peers_by_transport(), BTreeMap::from([("tcp", 1), ("webrtc", 1)]));
        let both = swarm.places.clone().acquire_many_owned(1).await.unwrap();
        drop(first);
        drop(both);
        let third = swarm.seat(PeerId([2; 20]), Transport::Tcp).unwrap();
        assert_eq!((swarm.peers(), swarm.metrics.peers.with_label_values(&["tcp"]).get()), (2, 1));
        drop((second, third));
        assert_eq!((swarm.peers(), swarm.places.available_permits()), (0, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_is_answered_once() {
        let (swarm, _from_peers) = swarm(InfoHash([7; 20]));
        let page = PeerId([2; 20]);
        let invitation = swarm.invite(page).unwrap();
        assert_eq!(swarm.invite(page).err(), Some(Refusal::Duplicate), "it is on its way");
        let seat = swarm.seat(page, Transport::WebRtc).unwrap();
        drop(invitation);
        assert_eq!(swarm.invite(page).err(), Some(Refusal::Duplicate), "it is here");
        drop(seat);
        assert!(swarm.invite(page).is_ok());
        let _other = swarm.invite(PeerId([3; 20])).unwrap();
        let _third = swarm.invite(PeerId([4; 20])).unwrap();
        assert_eq!(swarm.invite(PeerId([5; 20])).err(), Some(Refusal::PeersFull));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_page_is_remembered() {
        let (swarm, _from_peers) = swarm(InfoHash([7; 20]));
        let native = swarm.seat(PeerId([2; 20]), Transport::Tcp).unwrap();
        let seat = swarm.seat(PeerId([3; 20]), Transport::WebRtc).unwrap();
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(swarm.web_peer_seen().elapsed(), Duration::ZERO);
        drop(seat);
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(swarm.web_peer_seen().elapsed(), Duration::from_secs(50));
        drop(native);
    }
}
