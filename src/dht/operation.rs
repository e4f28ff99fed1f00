//! What the node was asked to do: a lookup, what to make of its answers, and storing where that follows.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::lookup::{Asked, Care, Lookup, Question};
use super::storage::Item;
use super::store::{COPIES, Holds, Store, StoreNode};
use super::table::K;
use super::unresponsive::Standing;
use super::{FoundPeer, GetOutcome, PutOutcome};
use crate::net::{Scope, may_name, scope};
use crate::wire::id::{InfoHash, PublicKey, Target};
use crate::wire::item::{self, Salt, SignedItem, VerifiedItem};
use crate::wire::krpc::{CAS_MISMATCH, Contact, Held, Method, PutItem, Response, SEQ_TOO_LOW};

/// Nodes with the newest item from which on a get need not look farther.
const ENOUGH_HOLDERS: usize = 3;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// Get to know the nodes around a point.
    Nodes(Target),
    /// Find the newest item.
    Get { key: PublicKey, salt: Salt, known_seq: Option<i64> },
    /// Find a value by its hash.
    GetImmutable(Target),
    /// Store a signed item.
    Put { item: VerifiedItem, cas: Option<i64> },
    /// Store a value; it has been checked.
    PutImmutable(Vec<u8>),
    /// Find peers.
    GetPeers(InfoHash),
    /// Be found as a peer.
    Announce { info_hash: InfoHash, port: u16 },
}

impl Request {
    pub(super) fn target(&self) -> Target {
        match self {
            Self::Nodes(target) | Self::GetImmutable(target) => *target,
            Self::Get { key, salt, .. } => item::mutable_target(key, salt),
            Self::Put { item, .. } => item.target(),
            Self::PutImmutable(v) => item::immutable_target(v),
            Self::GetPeers(info_hash) | Self::Announce { info_hash, .. } => (*info_hash).into(),
        }
    }

    pub(super) fn question(&self) -> Question {
        match self {
            Self::Nodes(_) => Question::Nodes,
            Self::Get { known_seq, .. } => Question::Item(*known_seq),
            Self::GetImmutable(_) | Self::Put { .. } | Self::PutImmutable(_) => Question::Item(None),
            Self::GetPeers(_) | Self::Announce { .. } => Question::Peers,
        }
    }

    /// Names the kind in the metrics.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Nodes(_) => "find_node",
            Self::Get { .. } | Self::GetImmutable(_) => "get",
            Self::Put { .. } | Self::PutImmutable(_) => "put",
            Self::GetPeers(_) => "get_peers",
            Self::Announce { .. } => "announce_peer",
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Nodes,
    Get(GetOutcome),
    Value(Option<Vec<u8>>),
    Put(PutOutcome),
    Peers,
    Announced(usize),
}

#[derive(Debug)]
pub(super) struct Operation {
    request: Request,
    phase: Phase,
    found: Found,
}

#[derive(Debug)]
enum Phase {
    Looking(Lookup),
    Storing(Store, Payload),
    Over,
}

/// What is stored.
#[derive(Debug)]
enum Payload {
    Item(VerifiedItem, Option<i64>),
    Value(Vec<u8>),
    Peer(InfoHash, u16),
}

impl Payload {
    /// The query that stores it at `node`.
    fn method(&self, target: Target, node: &StoreNode) -> Method {
        let token = node.token.clone();
        match self {
            Self::Item(item, cas) => {
                // BEP 44: "When sending a put request to a node that did not return any data for the get, the cas field
                // SHOULD NOT be included." Nor to one that has this very item, or a version that others have replaced:
                // neither has the number that cas expects, and the one that is behind would stay so.
                let cas = cas.filter(|cas| node.holds == Holds::Another(*cas));
                let item = PutItem::Mutable { item: item.as_signed().clone(), cas };
                Method::Put { token, target: Some(target), item }
            }
            Self::Value(v) => Method::Put { token, target: Some(target), item: PutItem::Immutable(v.clone()) },
            Self::Peer(info_hash, port) => {
                Method::AnnouncePeer { info_hash: *info_hash, port: *port, implied_port: false, token }
            }
        }
    }
}

/// What the answers brought.
#[derive(Debug, Default)]
struct Found {
    /// The newest item, ours included.
    newest: Option<VerifiedItem>,
    /// The number of the version in our own storage, when that is not the very one to be put.
    ours: Option<i64>,
    /// The one of them that the asker was told of last.
    told: Option<VerifiedItem>,
    /// The value asked for by its hash.
    value: Option<Vec<u8>>,
    /// What each node holds.
    copies: HashMap<SocketAddr, Copy>,
    /// Peers, and how near those were who named them: that is all that matters of who it was.
    peers: HashSet<(SocketAddr, Option<Scope>)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Copy {
    Item {
        seq: i64,
        v: Vec<u8>,
    },
    /// The number alone, in answer to a `seq` that is not below it.
    Number(i64),
    Value,
}

/// What an operation wants done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Ask(Asked, Method),
    Store(Contact, Method),
    /// Keep this in our own storage too: we are a node like the others.
    Keep(Item),
    /// Keep this over the version of that number, before any other node is asked, and tell what came of it.
    Decide(VerifiedItem, i64),
    Done(Outcome),
}

impl Operation {
    /// `own_item` is what our own storage has at the target.
    pub(super) fn new(request: Request, lookup: Lookup, own_item: Option<Item>) -> Self {
        let mut found = Found::default();
        match (own_item, &request) {
            (Some(Item::Mutable(item)), Request::Get { .. }) => found.newest = Some(item),
            (Some(Item::Mutable(item)), Request::Put { item: put, .. }) => {
                found.ours = (item != *put).then(|| item.seq());
                found.newest = Some(item);
            }
            (Some(Item::Immutable(v)), Request::GetImmutable(_)) => found.value = Some(v),
            _ => {}
        }
        Self { request, phase: Phase::Looking(lookup), found }
    }

    pub(super) fn kind(&self) -> &'static str {
        self.request.kind()
    }

    /// Whether somebody has answered, or nobody is waited for.
    pub(super) fn is_heard(&self) -> bool {
        let Phase::Looking(lookup) = &self.phase else { return true };
        lookup.counts().1 > 0
    }

    /// A node answered a step of the lookup. Returns the peers it named that nobody like it had named before.
    #[must_use]
    pub(super) fn answered(&mut self, asked: Asked, response: &Response) -> Vec<FoundPeer> {
        let Phase::Looking(lookup) = &mut self.phase else { return Vec::new() };
        lookup.answered(asked, response);
        if let (Some(held), false) = (&response.held, asked.again) {
            self.found.take(&self.request, asked.addr, held);
        }
        let from = asked.addr;
        let named = response.values.iter().flatten().filter(|addr| may_name(from.ip(), **addr));
        let new = named.filter(|addr| self.found.peers.insert((**addr, scope(from.ip()))));
        new.map(|addr| FoundPeer { addr: *addr, from }).collect()
    }

    /// The newest item, when there is one that was not told before and the asker does not know.
    pub(super) fn news(&mut self) -> Option<VerifiedItem> {
        let Request::Get { known_seq, .. } = self.request else { return None };
        let newest = self.found.newest.as_ref().filter(|item| Some(item.seq()) >= known_seq)?;
        if self.found.told.as_ref().is_some_and(|told| !newest.replaces(told)) {
            return None;
        }
        self.found.told = Some(newest.clone());
        self.found.told.clone()
    }

    /// A node is slow. Returns whether it should be asked once more.
    #[must_use]
    pub(super) fn slow(&mut self, asked: Asked) -> bool {
        let care = self.care();
        match &mut self.phase {
            Phase::Looking(lookup) => lookup.slow(asked, care),
            _ => false,
        }
    }

    /// The query to a node waits for its turn.
    pub(super) fn put_off(&mut self, asked: Asked) {
        if let Phase::Looking(lookup) = &mut self.phase {
            lookup.put_off(asked);
        }
    }

    /// A node answered with an error, or could not be asked.
    pub(super) fn failed(&mut self, asked: Asked) {
        if let Phase::Looking(lookup) = &mut self.phase {
            lookup.failed(asked);
        }
    }

    /// A node did not answer.
    pub(super) fn gave_up(&mut self, asked: Asked) {
        if let Phase::Looking(lookup) = &mut self.phase {
            lookup.gave_up(asked);
        }
    }

    /// A node answered to storing: with an error code, or not at all for `None` as the error.
    pub(super) fn stored(&mut self, contact: &Contact, result: Result<(), Option<i64>>) {
        if let Phase::Storing(store, _) = &mut self.phase {
            match result {
                Ok(()) => store.taken(contact),
                Err(Some(code)) => store.refused(contact, code),
                Err(None) => store.failed(contact),
            }
        }
    }

    /// What to do now, until there is nothing.
    #[must_use]
    pub(super) fn next(&mut self, standing: &dyn Fn(SocketAddr) -> Standing) -> Vec<Step> {
        let care = self.care();
        match &mut self.phase {
            // The hash says that it is the value; there cannot be a newer one.
            Phase::Looking(_) if self.found.value.is_some() => vec![self.finish()],
            Phase::Looking(lookup) => {
                let asks: Vec<Step> =
                    lookup.next(care, standing).into_iter().map(|(asked, method)| Step::Ask(asked, method)).collect();
                if asks.is_empty() && lookup.is_done(care) { self.looked() } else { asks }
            }
            Phase::Storing(store, payload) => {
                let nodes = store.next();
                if nodes.is_empty() && store.is_done() {
                    return self.keep().into_iter().chain([self.finish()]).collect();
                }
                let target = self.request.target();
                nodes.iter().map(|node| Step::Store(node.contact, payload.method(target, node))).collect()
            }
            Phase::Over => Vec::new(),
        }
    }

    /// Time is up: what is known now is the outcome. A lookup that was to store does so on the nodes found so far.
    #[must_use]
    pub(super) fn hurry(&mut self) -> Vec<Step> {
        match self.phase {
            Phase::Looking(_) => self.looked(),
            Phase::Storing(..) => self.keep().into_iter().chain([self.finish()]).collect(),
            Phase::Over => Vec::new(),
        }
    }

    /// Our own copy comes last: what every other node refused, for something that came in between, is not to live on here.
    fn keep(&self) -> Option<Step> {
        let Phase::Storing(store, _) = &self.phase else { return None };
        if store.is_beaten() {
            return None;
        }
        match &self.request {
            Request::Put { item, .. } => Some(Step::Keep(Item::Mutable(item.clone()))),
            Request::PutImmutable(v) => Some(Step::Keep(Item::Immutable(v.clone()))),
            _ => None,
        }
    }

    /// How much the lookup is to wait for. One that is to store is careful: a copy on a node that is not among the nearest
    /// is found by few, and the copy it should have replaced by many.
    fn care(&self) -> Care {
        match self.request {
            Request::Nodes(_) => Care::Quick,
            Request::GetPeers(_) | Request::Announce { .. } => Care::Careful(K),
            Request::Put { .. } | Request::PutImmutable(_) => Care::Careful(COPIES),
            // A few that are left of a former version, or who lie, do not speak for everybody.
            Request::Get { known_seq, .. } if self.found.holders(known_seq) < ENOUGH_HOLDERS => Care::Thorough,
            Request::GetImmutable(_) => Care::Thorough,
            Request::Get { .. } => Care::Quick,
        }
    }

    /// The lookup is over: store if that is what it was for.
    fn looked(&mut self) -> Vec<Step> {
        let mut over = None;
        let payload = match &self.request {
            Request::Put { item, cas } => {
                if let Some(conflict) = self.found.in_the_way(item, *cas) {
                    self.phase = Phase::Over;
                    return vec![Step::Done(Outcome::Put(conflict))];
                }
                over = *cas;
                Payload::Item(item.clone(), *cas)
            }
            Request::PutImmutable(v) => Payload::Value(v.clone()),
            Request::Announce { info_hash, port } => Payload::Peer(*info_hash, *port),
            _ => return vec![self.finish()],
        };
        let Phase::Looking(lookup) = std::mem::replace(&mut self.phase, Phase::Over) else { return Vec::new() };
        let (own, target) = (lookup.own(), self.request.target());
        let nodes = lookup.into_stores().into_iter().map(|(contact, token)| {
            let holds = self.found.holds(&self.request, &contact.addr);
            StoreNode { contact, token, holds }
        });
        let nodes: Vec<StoreNode> = nodes.collect();
        let copies = if let Payload::Peer(..) = payload { K } else { COPIES };
        let step = match (&payload, over) {
            (Payload::Item(item, _), Some(cas)) if self.found.ours == Some(cas) => {
                let decides = nodes.iter().find(|node| node.holds == Holds::Another(cas));
                let we_are_nearer =
                    decides.is_none_or(|node| own.distance(&target) < node.contact.id.distance(&target));
                we_are_nearer.then(|| Step::Decide(item.clone(), cas))
            }
            _ => None,
        };
        self.phase = Phase::Storing(Store::new(nodes, copies, over), payload);
        match step {
            Some(step) => vec![step],
            None => self.next(&|_| Standing::Fine),
        }
    }

    /// What came of [`Step::Decide`]: nothing, or an error code.
    pub(super) fn decided(&mut self, result: Result<(), i64>) {
        if let Phase::Storing(store, _) = &mut self.phase {
            store.decided_here(result);
        }
    }

    fn finish(&mut self) -> Step {
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        let (asked, answered) = match &phase {
            Phase::Looking(lookup) => lookup.counts(),
            _ => (0, 0),
        };
        let (stored, rejected) = match phase {
            Phase::Storing(store, _) => store.result(),
            _ => (0, Vec::new()),
        };
        Step::Done(match &self.request {
            Request::Nodes(_) => Outcome::Nodes,
            Request::GetPeers(_) => Outcome::Peers,
            Request::GetImmutable(_) => Outcome::Value(self.found.value.take()),
            Request::Announce { .. } => Outcome::Announced(stored),
            Request::Put { .. } | Request::PutImmutable(_) => {
                Outcome::Put(PutOutcome { stored, rejected, newer: None })
            }
            Request::Get { known_seq, .. } => {
                let holders = self.found.holders(*known_seq);
                let item = self.found.newest.take().filter(|item| Some(item.seq()) >= *known_seq);
                Outcome::Get(GetOutcome { item, asked, answered, holders })
            }
        })
    }
}

impl Found {
    /// Takes what a node says it holds, if it proves to be what was asked for.
    fn take(&mut self, request: &Request, from: SocketAddr, held: &Held) {
        let copy = match (request, held) {
            (Request::Get { key, salt, .. }, Held::Mutable { .. }) => self.take_item(key, salt, held),
            (Request::Put { item, .. }, Held::Mutable { .. }) => self.take_item(item.key(), item.salt(), held),
            // A number above the one asked about should have come with its value.
            (Request::Get { known_seq: Some(known), .. }, Held::Unchanged { seq }) if seq <= known => {
                Some(Copy::Number(*seq))
            }
            (Request::GetImmutable(target), Held::Immutable(v)) if item::immutable_target(v) == *target => {
                self.value.get_or_insert_with(|| v.clone());
                Some(Copy::Value)
            }
            (Request::PutImmutable(ours), Held::Immutable(v)) if ours == v => Some(Copy::Value),
            _ => None,
        };
        if let Some(copy) = copy {
            self.copies.insert(from, copy);
        }
    }

    fn take_item(&mut self, key: &PublicKey, salt: &Salt, held: &Held) -> Option<Copy> {
        let Held::Mutable { key: claimed, seq, sig, v } = held else { return None };
        if claimed != key {
            return None;
        }
        let claim = SignedItem { key: *key, salt: salt.clone(), seq: *seq, v: v.clone(), sig: *sig };
        // Most holders return the same bytes; those are verified once.
        if self.newest.as_ref().is_none_or(|newest| *newest.as_signed() != claim) {
            let item = claim.verify().ok()?;
            if self.newest.as_ref().is_none_or(|newest| item.replaces(newest)) {
                self.newest = Some(item);
            }
        }
        Some(Copy::Item { seq: *seq, v: v.clone() })
    }

    /// What forbids to put `item`: something newer, or not what `cas` expects.
    fn in_the_way(&self, item: &VerifiedItem, cas: Option<i64>) -> Option<PutOutcome> {
        let newest = self.newest.as_ref()?;
        if (newest.seq(), newest.v()) == (item.seq(), item.v()) {
            return None;
        }
        let code = if cas.is_some_and(|cas| cas != newest.seq()) {
            CAS_MISMATCH
        } else if newest.replaces(item) {
            SEQ_TOO_LOW
        } else {
            return None;
        };
        // When only our own storage has it, we are the one node.
        let nodes = self.holders(None).max(1);
        Some(PutOutcome { stored: 0, rejected: vec![(code, nodes)], newer: Some(newest.clone()) })
    }

    /// Nodes that hold the newest item found, or the one the asker knows if there is no newer.
    fn holders(&self, known_seq: Option<i64>) -> usize {
        let newest = self.newest.as_ref().filter(|item| Some(item.seq()) >= known_seq);
        let holds_newest = |copy: &&Copy| match (copy, newest) {
            (Copy::Item { seq, v }, Some(newest)) => (*seq, v.as_slice()) == (newest.seq(), newest.v()),
            (Copy::Number(seq), Some(newest)) => *seq == newest.seq(),
            (Copy::Number(seq), None) => Some(*seq) == known_seq,
            _ => false,
        };
        self.copies.values().filter(holds_newest).count()
    }

    fn holds(&self, request: &Request, addr: &SocketAddr) -> Holds {
        match (self.copies.get(addr), request) {
            (None, _) => Holds::Nothing,
            (Some(Copy::Value), _) => Holds::This,
            (Some(Copy::Item { seq, v }), Request::Put { item, .. })
                if (*seq, v.as_slice()) == (item.seq(), item.v()) =>
            {
                Holds::This
            }
            (Some(Copy::Item { seq, .. } | Copy::Number(seq)), _) => Holds::Another(*seq),
        }
    }
}

#[cfg(test)]
mod tests;
