//! What is exchanged with one peer beside the torrent itself: records, the addresses of other peers (BEP 11), and
//! introductions to them (BEP 55).
//!
//! What it is told of either is worked out when it can be written, so no queue grows for a slow reader.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use crate::bridge::contacts::{Contacts, Key, Next, Punched};
use crate::bridge::swarm::{Named, Swarm, Transport, Whom};
use crate::gossip::Exchange;
use crate::wire::extension::ExtendedHandshake;
use crate::wire::holepunch::Holepunch;
use crate::wire::item::ItemError;
use crate::wire::peer::Message;
use crate::wire::peer_exchange::PeerExchange;
use crate::wire::record_exchange;

/// The exchanges with one peer, which end when this is dropped.
pub(super) struct Exchanges {
    swarm: Arc<Swarm>,
    /// Where the peer is.
    remote: SocketAddr,
    records: Option<Exchange>,
    /// Its place among those who are told of each other. Pages have none: they take no connections and make none.
    contact: Option<Key>,
}

impl Exchanges {
    /// For a seated peer, which we dialled or which came, and which speaks the extension protocol or does not.
    pub(super) fn new(
        swarm: &Arc<Swarm>,
        (transport, remote, dialled): (Transport, SocketAddr, bool),
        speaks: bool,
    ) -> Self {
        let is_native = transport != Transport::WebRtc;
        let records = swarm.gossip.as_ref().filter(|_| speaks).and_then(|gossip| gossip.exchange(swarm.info_hash));
        let contact = is_native.then(|| swarm.contacts().joined(remote, transport, dialled));
        swarm.contacts_changed.send_replace(());
        Self { swarm: swarm.clone(), remote, records, contact }
    }

    /// The exchange of records, where it may be offered now.
    pub(super) fn records(&self) -> Option<&Exchange> {
        self.records.as_ref().filter(|_| self.swarm.is_known_public())
    }

    /// Whether addresses are exchanged with this peer at all, and if so, whether now. BEP 27: of a private torrent they are
    /// not; what comes before it is known whether it is one is taken, since who holds a private one sends none.
    pub(super) fn peers(&self) -> Option<bool> {
        self.contact.map(|_| !self.swarm.is_known_private())
    }

    /// The peer said what it speaks.
    pub(super) fn greeted(&self, hello: &ExtendedHandshake) {
        if let (Some(records), Some(id)) = (&self.records, hello.extensions.get(record_exchange::NAME)) {
            records.greeted(*id);
        }
        self.change(|contacts, key| contacts.greeted(key, hello));
    }

    /// The peer has every piece.
    pub(super) fn is_seed(&self) {
        self.change(|contacts, key| contacts.is_seed(key));
    }

    /// Takes a message about records.
    pub(super) fn take_records(&self, payload: &[u8]) -> Result<(), ItemError> {
        self.records.as_ref().map_or(Ok(()), |records| records.take(payload))
    }

    /// Takes a message about other peers: the dialler judges each address by who named it.
    pub(super) fn take_peers(&self, payload: &[u8]) {
        let (Some(key), Some(true)) = (self.contact, self.peers()) else { return };
        let taken = match PeerExchange::decode(payload) {
            Err(_) => "malformed",
            Ok(_) if !self.swarm.contacts().may_tell(key, Instant::now()) => "too_soon",
            Ok(message) => {
                if self.say(key, Whom::Others(message.added)) {
                    "taken"
                } else {
                    "busy"
                }
            }
        };
        self.swarm.metrics.peer_exchange.with_label_values(&["in", taken]).inc();
    }

    /// Whether peers are introduced to each other here, which they do by uTP.
    pub(super) fn introductions(&self) -> Option<bool> {
        self.peers().filter(|_| self.swarm.ourselves.utp)
    }

    /// Takes a message about introductions.
    pub(super) fn take_introduction(&self, payload: &[u8]) {
        let (Some(key), Some(true)) = (self.contact, self.introductions()) else { return };
        let Some(message) = Holepunch::decode(payload) else { return };
        let punched = self.swarm.contacts().punch(key, message, Instant::now());
        let result = match punched {
            Punched::Dial(addr) if self.say(key, Whom::Introduced(addr)) => "introduced",
            Punched::Dial(_) | Punched::Ignored => "ignored",
            Punched::Relayed => "relayed",
            Punched::Refused => "refused",
            Punched::Failed => "failed",
        };
        self.swarm.contacts_changed.send_replace(());
        self.swarm.metrics.introductions.with_label_values(&[result]).inc();
    }

    /// Says it to the dialler; whether that listens.
    fn say(&self, key: Key, whom: Whom) -> bool {
        self.swarm.named.try_send(Named { by: (self.remote.ip(), key), whom }).is_ok()
    }

    /// The next frame for the peer, as soon as there is something to tell. May be dropped at any await.
    pub(super) async fn frame(&self) -> Bytes {
        tokio::select! {
            frame = self.of_records() => frame,
            frame = self.of_peers() => frame,
        }
    }

    async fn of_records(&self) -> Bytes {
        match &self.records {
            Some(records) => records.frame().await,
            None => std::future::pending().await,
        }
    }

    async fn of_peers(&self) -> Bytes {
        let Some(key) = self.contact else { return std::future::pending().await };
        // Nothing is told before it is known that the torrent is not private.
        let mut stages = self.swarm.stage.subscribe();
        if stages.wait_for(|stage| stage.is_known_public()).await.is_err() {
            return std::future::pending().await;
        }
        let mut changed = self.swarm.contacts_changed.subscribe();
        loop {
            let next = self.swarm.contacts().next(key, Instant::now());
            match next {
                Next::Send(id, message) => {
                    self.swarm.metrics.peer_exchange.with_label_values(&["out", "sent"]).inc();
                    return Message::Extended { id, payload: &message.encode() }.encode();
                }
                Next::Introduce(id, message) => {
                    return Message::Extended { id, payload: &message.encode() }.encode();
                }
                // The swarm, and with it the sender, is kept here.
                Next::Wait(None) => drop(changed.changed().await),
                Next::Wait(Some(at)) => tokio::select! {
                    () = sleep_until(at) => {}
                    _ = changed.changed() => {}
                },
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Contacts, Key)) {
        if let Some(key) = self.contact {
            change(&mut self.swarm.contacts(), key);
            self.swarm.contacts_changed.send_replace(());
        }
    }
}

impl Drop for Exchanges {
    fn drop(&mut self) {
        self.change(Contacts::left);
    }
}
