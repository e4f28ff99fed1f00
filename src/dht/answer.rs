//! Answering the queries of other nodes.

use std::net::SocketAddr;
use std::time::Instant;

use rand::Rng;

use super::peers::Peers;
use super::storage::{Item, Storage};
use super::table::{K, Table};
use super::token::Tokens;
use crate::net::may_name;
use crate::wire::id::{NodeId, Target};
use crate::wire::item::{self, SignedItem};
use crate::wire::krpc::{
    Contact, ErrorReply, Held, Method, PROTOCOL_ERROR, PutItem, Query, Response, SERVER_ERROR, Want,
};

/// The nodes there are to name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    /// Those of the DHT that we are asked in.
    pub(super) table: &'a Table,
    /// Those of the other DHT (BEP 32), when we are in both.
    pub(super) others: &'a [Contact],
}

/// What we keep for others.
#[derive(Debug)]
pub(super) struct Responder {
    pub(super) storage: Storage,
    pub(super) peers: Peers,
    pub(super) tokens: Tokens,
}

impl Responder {
    pub(super) fn new(now: Instant, rng: &mut impl Rng, home: NodeId, max_items: usize, max_peers: usize) -> Self {
        Self { storage: Storage::new(home, max_items), peers: Peers::new(max_peers), tokens: Tokens::new(now, rng) }
    }

    /// Forgets what is too old, and changes the secret behind the tokens when it is time.
    pub(super) fn expire(&mut self, now: Instant, rng: &mut impl Rng) {
        self.storage.expire(now);
        self.peers.expire(now);
        self.tokens.rotate(now, rng);
    }

    /// The answer to a query.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        known: Known<'_>,
        from: SocketAddr,
        query: &Query,
    ) -> Result<Response, ErrorReply> {
        let bare = Response::new(known.table.own_id());
        let named = |target: &Target| known.named(from, target, query.want);
        match &query.method {
            Method::Ping => Ok(bare),
            Method::FindNode { target } => Ok(named(target)),
            Method::GetPeers { info_hash } => {
                let values = self.peers.sample(now, info_hash, rng);
                let peers: Vec<SocketAddr> = values.into_iter().filter(|peer| may_name(from.ip(), *peer)).collect();
                let values = (!peers.is_empty()).then_some(peers);
                let token = Some(self.tokens.issue(from.ip()));
                Ok(Response { values, token, ..named(&(*info_hash).into()) })
            }
            Method::AnnouncePeer { info_hash, port, implied_port, token } => {
                self.check_token(from, token)?;
                let port = if *implied_port { from.port() } else { *port };
                if self.peers.announce(now, *info_hash, SocketAddr::new(from.ip(), port)) {
                    Ok(bare)
                } else {
                    Err(ErrorReply::new(SERVER_ERROR, "too many peers"))
                }
            }
            Method::Get { target, seq } => {
                let held = self.storage.get(now, target).map(|item| held(item, *seq));
                Ok(Response { held, token: Some(self.tokens.issue(from.ip())), ..named(target) })
            }
            Method::Put { token, target, item } => {
                self.check_token(from, token)?;
                self.put(now, *target, item)?;
                Ok(bare)
            }
        }
    }

    fn put(&mut self, now: Instant, target: Option<Target>, item: &PutItem) -> Result<(), ErrorReply> {
        let meant = match item {
            PutItem::Immutable(v) => item::immutable_target(v),
            PutItem::Mutable { item: SignedItem { key, salt, .. }, .. } => item::mutable_target(key, salt),
        };
        if target.is_some_and(|target| target != meant) {
            return Err(ErrorReply::new(PROTOCOL_ERROR, "the target is not that of the item"));
        }
        match item {
            PutItem::Immutable(v) => self.storage.put_immutable(now, v.clone()),
            PutItem::Mutable { item, cas } => self.storage.put_mutable(now, item.clone().verify()?, *cas),
        }
    }

    fn check_token(&self, from: SocketAddr, token: &[u8]) -> Result<(), ErrorReply> {
        if self.tokens.is_valid(from.ip(), token) { Ok(()) } else { Err(ErrorReply::new(PROTOCOL_ERROR, "bad token")) }
    }
}

impl Known<'_> {
    /// An answer that names the nodes nearest to `target`. BEP 32: without `want`, those of the family that the query came
    /// over; otherwise those of the families wanted.
    fn named(&self, from: SocketAddr, target: &Target, want: Option<Want>) -> Response {
        let want = want.unwrap_or(Want { v4: from.is_ipv4(), v6: from.is_ipv6() });
        let is_of_use = |contact: &Contact| is_of_use(from, contact.addr);
        let nearest = |of_ours: bool| {
            if of_ours {
                self.table.closest(target, K, is_of_use)
            } else {
                nearest_first(self.others, target, is_of_use)
            }
        };
        Response {
            nodes: want.v4.then(|| nearest(from.is_ipv4())),
            nodes6: want.v6.then(|| nearest(from.is_ipv6())),
            ..Response::new(self.table.own_id())
        }
    }
}

fn nearest_first(contacts: &[Contact], target: &Target, is_of_use: impl Fn(&Contact) -> bool) -> Vec<Contact> {
    let mut nodes: Vec<Contact> = contacts.iter().copied().filter(is_of_use).collect();
    nodes.sort_unstable_by_key(|contact| contact.id.distance(target));
    nodes.truncate(K);
    nodes
}

/// Whether a node may be named to `from`. A private address means nothing to the internet, and is not its business. Nor does
/// a link-local address mean anything on another link, and which link that is cannot be said.
fn is_of_use(from: SocketAddr, named: SocketAddr) -> bool {
    may_name(from.ip(), named) && named != from && !is_link_local(named)
}

fn is_link_local(addr: SocketAddr) -> bool {
    matches!(addr, SocketAddr::V6(addr) if addr.ip().is_unicast_link_local())
}

fn held(item: &Item, above: Option<i64>) -> Held {
    match item {
        Item::Immutable(v) => Held::Immutable(v.clone()),
        Item::Mutable(item) if above.is_some_and(|above| item.seq() <= above) => Held::Unchanged { seq: item.seq() },
        Item::Mutable(item) => {
            Held::Mutable { key: *item.key(), seq: item.seq(), sig: *item.sig(), v: item.v().to_vec() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BEP 32: "If this parameter is omitted, the queried node […] returns the information of the family of the packet."
    #[test]
    fn nodes_of_the_families_wanted_are_named() {
        let contact = |n: u8, addr: &str| Contact { id: NodeId([n; 20]), addr: addr.parse().unwrap() };
        let (v4, v6) = (contact(1, "1.1.1.1:1"), contact(2, "[2a00::1]:1"));
        let (v4_only, v6_only) = (Some(Want { v4: true, v6: false }), Some(Want { v4: false, v6: true }));
        let (v4_asker, v6_asker) = ("8.8.8.8:8", "[2a00:8::8]:8");
        let table = [
            (v4_asker, None, Some(1), None),
            (v4_asker, v4_only, Some(1), None),
            (v4_asker, v6_only, None, Some(1)),
            (v4_asker, Some(Want { v4: true, v6: true }), Some(1), Some(1)),
            (v4_asker, Some(Want::default()), None, None),
            (v6_asker, None, None, Some(1)),
            (v6_asker, v4_only, Some(1), None),
            (v6_asker, Some(Want { v4: true, v6: true }), Some(1), Some(1)),
        ];
        for (from, want, nodes, nodes6) in table {
            let from: SocketAddr = from.parse().unwrap();
            let (ours, other) = if from.is_ipv4() { (v4, v6) } else { (v6, v4) };
            let mut routing = Table::new(NodeId([0; 20]));
            assert_eq!(routing.answered(Instant::now(), ours), None);
            // What is not the asker's business, and what is nobody's on another link.
            let others = [other, contact(3, "[fd00::1]:1"), contact(4, "10.0.0.1:1"), contact(5, "[fe80::1]:1")];
            let known = Known { table: &routing, others: &others };
            let answer = known.named(from, &Target([0; 20]), want);
            let counts = [answer.nodes, answer.nodes6].map(|nodes| nodes.map(|nodes| nodes.len()));
            assert_eq!(counts, [nodes, nodes6], "{from} wants {want:?}");
        }
    }
}
