//! Answering the queries of other nodes.

use std::net::SocketAddr;
use std::time::Instant;

use rand::Rng;

use super::peers::Peers;
use super::scope::may_name;
use super::storage::{Item, Storage};
use super::table::{K, Table};
use super::token::Tokens;
use crate::wire::id::{NodeId, Target};
use crate::wire::item::{self, SignedItem};
use crate::wire::krpc::{Contact, ErrorReply, Held, Method, PROTOCOL_ERROR, PutItem, Query, Response, SERVER_ERROR};

/// What we keep for others.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) storage: Storage,
    pub(super) peers: Peers,
    pub(super) tokens: Tokens,
}

impl Shelf {
    pub(super) fn new(now: Instant, rng: &mut impl Rng, home: NodeId, max_items: usize, max_peers: usize) -> Self {
        Self { storage: Storage::new(home, max_items), peers: Peers::new(max_peers), tokens: Tokens::new(now, rng) }
    }

    /// Forgets what is too old, and changes the secret behind the tokens when it is time.
    pub(super) fn tidy(&mut self, now: Instant, rng: &mut impl Rng) {
        self.storage.expire(now);
        self.peers.expire(now);
        self.tokens.rotate(now, rng);
    }

    /// The answer to a query.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        table: &Table,
        from: SocketAddr,
        query: &Query,
    ) -> Result<Response, ErrorReply> {
        let bare = Response::new(table.own_id());
        let nodes = |target: &Target| Some(nodes_for(table, from, target));
        match &query.method {
            Method::Ping => Ok(bare),
            Method::FindNode { target } => Ok(Response { nodes: nodes(target), ..bare }),
            Method::GetPeers { info_hash } => {
                let values = self.peers.sample(now, info_hash, rng);
                let named: Vec<SocketAddr> = values.into_iter().filter(|peer| may_name(from.ip(), *peer)).collect();
                let values = (!named.is_empty()).then_some(named);
                let token = Some(self.tokens.issue(from.ip()));
                Ok(Response { values, token, nodes: nodes(&(*info_hash).into()), ..bare })
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
                Ok(Response { held, token: Some(self.tokens.issue(from.ip())), nodes: nodes(target), ..bare })
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

/// The nodes to name to `from`: the nearest that are of use there. A private address means nothing to the internet, and
/// is not its business.
fn nodes_for(table: &Table, from: SocketAddr, target: &Target) -> Vec<Contact> {
    let mut nodes = table.closest(target, usize::MAX);
    nodes.retain(|contact| may_name(from.ip(), contact.addr) && contact.addr != from);
    nodes.truncate(K);
    nodes
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
