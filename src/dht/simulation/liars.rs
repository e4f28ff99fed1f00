//! Nodes that lie: they take part in everything, and answer whatever may harm whoever asks.

use std::collections::HashMap;
use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use crate::wire::id::{NodeId, Target};
use crate::wire::item::VerifiedItem;
use crate::wire::krpc::{Body, Contact, Held, Message, Method, Query, Response};

/// What liars know. They know everything that was ever published, which is more than a real one does.
#[derive(Default)]
pub(super) struct Liars {
    published: HashMap<Target, VerifiedItem>,
}

impl Liars {
    /// The first version of an item: what a liar would like everybody to go on believing.
    pub(super) fn learn(&mut self, item: VerifiedItem) {
        self.published.entry(item.target()).or_insert(item);
    }

    /// The answer to a query; `None` for what a liar does as others do.
    pub(super) fn answer(&self, id: NodeId, to: SocketAddr, datagram: &[u8], rng: &mut StdRng) -> Option<Vec<u8>> {
        let Message { transaction, body: Body::Query(Query { method, .. }), .. } = Message::decode(datagram).ok()?
        else {
            return None;
        };
        let bare = Response::new(id);
        let response = match method {
            Method::Get { target, .. } => self.about(id, target, rng),
            Method::FindNode { target } => Response { nodes: Some(made_up(target, rng)), ..bare },
            // It takes what it is given, and forgets it.
            Method::Put { .. } | Method::AnnouncePeer { .. } => bare,
            Method::Ping | Method::GetPeers { .. } => return None,
        };
        // To the votes on the asker's address it adds a wrong one.
        let ip = Some(SocketAddr::from(([9, 9, 9, 9], to.port())));
        Some(Message { transaction, version: None, ip, body: Body::Response(response) }.encode())
    }

    /// About an item: that it is somewhere else, that it is another, that it never changed, or what it cannot be.
    fn about(&self, id: NodeId, target: Target, rng: &mut StdRng) -> Response {
        let mut response = Response { token: Some(vec![0; 8]), nodes: Some(made_up(target, rng)), ..Response::new(id) };
        let Some(item) = self.published.get(&target) else { return response };
        let (key, mut seq, mut sig, mut v) = (*item.key(), item.seq(), *item.sig(), item.v().to_vec());
        match rng.random_range(0..6) {
            0 => seq += 1_000_000,
            1 => sig.0[7] ^= 1,
            2 => v = b"6:forged".to_vec(),
            3 => response.id = near(target, rng),
            4 => {
                response.held = Some(Held::Unchanged { seq: i64::MAX });
                return response;
            }
            _ => {}
        }
        response.held = Some(Held::Mutable { key, seq, sig, v });
        response
    }
}

/// Nodes that are nearer to the target than any real one, and are not there.
fn made_up(target: Target, rng: &mut StdRng) -> Vec<Contact> {
    let mut contact = || {
        let addr = ([rng.random_range(100..120), rng.random(), rng.random(), rng.random()], 6881).into();
        Contact { id: near(target, rng), addr }
    };
    (0..8).map(|_| contact()).collect()
}

fn near(target: Target, rng: &mut impl Rng) -> NodeId {
    let mut id = target.0;
    rng.fill(&mut id[6..]);
    NodeId(id)
}
