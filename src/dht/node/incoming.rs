//! What arrives at a node: queries of others, answers to ours, and that no answer came.

use std::net::SocketAddr;

use rand::Rng;

use super::{Node, Turn};
use crate::dht::answer::Known;
use crate::dht::queries::{Purpose, TransactionId};
use crate::dht::{VERSION, node_id};
use crate::net::may_name;
use crate::wire::krpc::{Body, Contact, Message, Query, Response};

/// Nodes of the other family's DHT taken from one answer: honest ones name K.
const MAX_HEARD: usize = 8;

impl Node {
    pub(super) fn query(
        &mut self,
        turn: &mut Turn<'_, impl Rng>,
        from: SocketAddr,
        transaction: Vec<u8>,
        query: &Query,
    ) {
        self.reachability.asked(turn.now, from);
        if !self.may_answer(turn, from) {
            return;
        }
        self.unresponsive.heard(from);
        turn.effects.answered = Some(query.method.name());
        let known = Known { table: &self.table, others: &self.other.nodes };
        let body = match self.responder.answer(turn.now, turn.rng, known, from, query) {
            Ok(response) => Body::Response(response),
            Err(error) => Body::Error(error),
        };
        self.reply(turn, from, transaction, body);
        let contact = Contact { id: query.id, addr: from };
        // BEP 43: nodes that say they are read-only must not be put into routing tables.
        if !query.read_only && self.table.queried(turn.now, contact) {
            self.ping(turn, contact);
        }
    }

    pub(super) fn response(
        &mut self,
        turn: &mut Turn<'_, impl Rng>,
        from: SocketAddr,
        transaction: &[u8],
        our_address: Option<SocketAddr>,
        response: &Response,
        others: Vec<Contact>,
    ) {
        let Some(purpose) = self.queries.answered(turn.now, from, transaction) else {
            turn.effects.dropped = Some("unexpected");
            return;
        };
        self.unresponsive.heard(from);
        let heard = others.into_iter().map(|contact| contact.addr).filter(|addr| may_name(from.ip(), *addr));
        turn.effects.heard.extend(heard.take(MAX_HEARD));
        if let Some(other) = purpose.expected_id().filter(|id| *id != response.id) {
            self.table.failed(&Contact { id: other, addr: from }, true);
        }
        let answerer = Contact { id: response.id, addr: from };
        self.recent.answered(turn.now, answerer);
        if let Some(doubtful) = self.table.answered(turn.now, answerer) {
            self.ping(turn, doubtful);
        }
        match purpose {
            Purpose::Ping(_) => {
                self.pinging.remove(&from);
            }
            Purpose::Lookup(id, asked) => {
                let (mut found, mut news) = (Vec::new(), None);
                self.with_operation(turn, id, |operation| {
                    found = operation.answered(asked, response);
                    news = operation.news();
                });
                turn.effects.found.extend(found.into_iter().map(|peer| (id, peer)));
                turn.effects.items.extend(news.map(|item| (id, item)));
            }
            Purpose::Store(id, contact) => {
                self.with_operation(turn, id, |operation| operation.stored(&contact, Ok(())));
            }
        }
        if let Some(ip) = our_address.and_then(|ours| self.votes.count(from.ip(), ours.ip()))
            && !node_id::fits(&self.id(), ip)
        {
            let id = node_id::for_address(ip, turn.rng);
            self.table.rehome(id);
            self.responder.storage.rehome(id);
            self.look_around(turn, id.into());
        }
    }

    /// A query got no answer, or an error with a code.
    pub(super) fn unanswered(
        &mut self,
        turn: &mut Turn<'_, impl Rng>,
        addr: SocketAddr,
        purpose: Purpose,
        code: Option<i64>,
    ) {
        match purpose {
            Purpose::Ping(_) => {
                self.pinging.remove(&addr);
            }
            Purpose::Lookup(id, asked) => self.with_operation(turn, id, |operation| match code {
                Some(_) => operation.failed(asked),
                None => operation.gave_up(asked),
            }),
            Purpose::Store(id, contact) => {
                self.with_operation(turn, id, |operation| operation.stored(&contact, Err(code)));
            }
        }
    }

    /// A query got no answer yet. A store is repeated, since a lost one would cost a copy and storing twice does no harm,
    /// and so is a ping, or nodes would be thrown out for a lost datagram.
    pub(super) fn slow(&mut self, turn: &mut Turn<'_, impl Rng>, transaction: TransactionId, purpose: Purpose) {
        let (operation, again) = match purpose {
            Purpose::Ping(_) => (None, true),
            Purpose::Store(id, _) => (Some(id), true),
            Purpose::Lookup(id, asked) => {
                // Other lookups are not to wait for it as well.
                self.unresponsive.failed(turn.now, asked.addr, false);
                (Some(id), self.operations.get_mut(&id).is_some_and(|running| running.operation.slow(asked)))
            }
        };
        if again && let Some(repeated) = self.queries.repeat(turn.now, transaction) {
            turn.effects.send.push(repeated);
            if let Some(running) = operation.and_then(|id| self.operations.get_mut(&id)) {
                running.sent += 1;
            }
        }
        if let Some(id) = operation {
            self.advance(turn, id);
        }
    }

    /// Whether a query is to be answered at all.
    pub(super) fn may_answer(&mut self, turn: &mut Turn<'_, impl Rng>, from: SocketAddr) -> bool {
        turn.effects.dropped = if self.is_read_only() {
            // BEP 43: "It no longer responds to 'query' messages that it receives".
            Some("read_only")
        } else if from.port() == 0 || !self.incoming.admit(turn.now, from) {
            Some("rate")
        } else {
            None
        };
        turn.effects.dropped.is_none()
    }

    pub(super) fn reply(&mut self, turn: &mut Turn<'_, impl Rng>, to: SocketAddr, transaction: Vec<u8>, body: Body) {
        self.queries.charge(turn.now, to);
        let message = Message { transaction, version: Some(VERSION.to_vec()), ip: Some(to), body };
        turn.effects.send.push((to, message.encode()));
    }
}

/// A response with the nodes of the family that it came over where lookups look for them, and the nodes of the other one.
pub(super) fn of_family(from: SocketAddr, response: Response) -> (Response, Vec<Contact>) {
    let Response { nodes, nodes6, .. } = response;
    let (ours, others) = if from.is_ipv4() { (nodes, nodes6) } else { (nodes6, nodes) };
    (Response { nodes: ours, nodes6: None, ..response }, others.unwrap_or_default())
}
