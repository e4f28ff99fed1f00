//! One iterative lookup: asks nodes nearer and nearer to a target until the nearest have all answered.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::scope::{host, is_public, may_name};
use super::table::K;
use crate::wire::id::{Distance, NodeId, Target};
use crate::wire::krpc::{Contact, Method, Response};

/// Queries under way at once, slow ones not counted. More finds faster and costs more; libtorrent's
/// `dht_search_branching` is 5 too.
const ALPHA: usize = 5;

/// Answers with nodes that are enough to know the surroundings of the target.
const ENOUGH_VIEWS: usize = 3;

/// Candidates kept. Nodes name eight each, most of them the same.
const MAX_CANDIDATES: usize = 200;

/// What each node is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    Nodes,
    Peers,
    /// The item, unless its number is not above this one.
    Item(Option<i64>),
}

/// Whom to ask. The id is not known of nodes that configuration names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) addr: SocketAddr,
    pub(super) id: Option<NodeId>,
    /// Asked for nodes only, because its first answer had none.
    pub(super) again: bool,
}

#[derive(Debug)]
pub(super) struct Lookup {
    own: NodeId,
    target: Target,
    question: Question,
    /// By distance to the target, nearest first. Distance determines the id.
    candidates: BTreeMap<Distance, Candidate>,
    /// Addresses whose ids are not known, not yet asked.
    seeds: Vec<SocketAddr>,
    /// Nodes that answered without nodes: they are asked for them when too few others had some.
    again: Vec<Contact>,
    /// Answers with nodes.
    views: usize,
    in_flight: HashSet<Asked>,
    slow: HashSet<Asked>,
    public_hosts: HashSet<IpAddr>,
    asked: usize,
    answered: usize,
}

#[derive(Debug)]
struct Candidate {
    contact: Contact,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Fresh,
    Asked,
    Answered { token: Option<Vec<u8>> },
    Failed,
}

impl Lookup {
    /// Starts from the nodes of our table, and from `seeds`.
    pub(super) fn new(
        own: NodeId,
        target: Target,
        question: Question,
        nodes: Vec<Contact>,
        seeds: Vec<SocketAddr>,
    ) -> Self {
        let mut lookup = Self {
            own,
            target,
            question,
            candidates: BTreeMap::new(),
            seeds,
            again: Vec::new(),
            views: 0,
            in_flight: HashSet::new(),
            slow: HashSet::new(),
            public_hosts: HashSet::new(),
            asked: 0,
            answered: 0,
        };
        for contact in nodes {
            lookup.add(contact);
        }
        lookup
    }

    /// Nodes asked, and how many of them answered.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.asked, self.answered)
    }

    /// Queries to be sent now.
    #[must_use]
    pub(super) fn next(&mut self) -> Vec<(Asked, Method)> {
        let mut queries = Vec::new();
        while self.in_flight.len() < ALPHA {
            let Some((asked, method)) = self.next_query() else { break };
            self.in_flight.insert(asked);
            queries.push((asked, method));
        }
        queries
    }

    /// Whether there is nothing left to wait for: BEP 5's "until it is unable to find any closer" nodes, with the
    /// nearest [`K`] having answered.
    pub(super) fn is_done(&self) -> bool {
        self.seeds.is_empty()
            && !self.needs_views()
            && !self.in_flight.iter().chain(&self.slow).any(|asked| asked.again || asked.id.is_none())
            && self.nearest().all(|candidate| matches!(candidate.state, State::Answered { .. }))
    }

    /// Takes an answer.
    pub(super) fn answered(&mut self, asked: Asked, response: &Response) {
        if !self.settle(asked) {
            return;
        }
        let answerer = Contact { id: response.id, addr: asked.addr };
        if !asked.again {
            self.answered += 1;
            self.mark(asked, answerer, response);
        }
        self.views += usize::from(response.nodes.is_some());
        for contact in response.nodes.iter().flatten() {
            if may_name(asked.addr.ip(), contact.addr) {
                self.add(*contact);
            }
        }
    }

    /// No answer yet: the node no longer holds a place among the [`ALPHA`], but its answer is still welcome.
    pub(super) fn slow(&mut self, asked: Asked) {
        if self.in_flight.remove(&asked) {
            self.slow.insert(asked);
        }
    }

    /// No answer any more, or an error.
    pub(super) fn failed(&mut self, asked: Asked) {
        if self.settle(asked)
            && !asked.again
            && let Some(candidate) = asked.id.and_then(|id| self.candidates.get_mut(&id.distance(&self.target)))
        {
            candidate.state = State::Failed;
        }
    }

    /// The nodes that answered with a token, nearest first: where to store.
    pub(super) fn into_stores(self) -> Vec<(Contact, Vec<u8>)> {
        self.candidates
            .into_values()
            .filter_map(|candidate| match candidate.state {
                State::Answered { token: Some(token) } => Some((candidate.contact, token)),
                _ => None,
            })
            .collect()
    }

    fn next_query(&mut self) -> Option<(Asked, Method)> {
        if let Some(addr) = self.seeds.pop() {
            self.asked += 1;
            return Some((Asked { addr, id: None, again: false }, self.method()));
        }
        // Slow nodes do not fill up the nearest K here: while they may still answer, the next ones are asked instead.
        let slow: HashSet<Option<NodeId>> = self.slow.iter().map(|asked| asked.id).collect();
        let fresh = self
            .candidates
            .values_mut()
            .filter(|candidate| candidate.state != State::Failed && !slow.contains(&Some(candidate.contact.id)))
            .take(K)
            .find(|candidate| candidate.state == State::Fresh);
        if let Some(fresh) = fresh {
            fresh.state = State::Asked;
            let asked = Asked { addr: fresh.contact.addr, id: Some(fresh.contact.id), again: false };
            self.asked += 1;
            return Some((asked, self.method()));
        }
        let contact = if self.in_flight.is_empty() && self.needs_views() { self.again.pop() } else { None }?;
        let asked = Asked { addr: contact.addr, id: Some(contact.id), again: true };
        Some((asked, Method::FindNode { target: self.target }))
    }

    /// bittorrent-dht answers a question it knows the answer to without nodes. If such nodes were all we know, the lookup
    /// would end at them; so some of them are asked for nodes too.
    fn needs_views(&self) -> bool {
        self.views < ENOUGH_VIEWS && !self.again.is_empty()
    }

    fn method(&self) -> Method {
        match self.question {
            Question::Nodes => Method::FindNode { target: self.target },
            Question::Peers => Method::GetPeers { info_hash: self.target.into() },
            Question::Item(seq) => Method::Get { target: self.target, seq },
        }
    }

    fn nearest(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.values().filter(|candidate| candidate.state != State::Failed).take(K)
    }

    fn settle(&mut self, asked: Asked) -> bool {
        self.in_flight.remove(&asked) | self.slow.remove(&asked)
    }

    fn mark(&mut self, asked: Asked, answerer: Contact, response: &Response) {
        // A node that came back under another id is not where it was thought to be.
        if let Some(id) = asked.id.filter(|id| *id != answerer.id)
            && let Some(candidate) = self.candidates.get_mut(&id.distance(&self.target))
        {
            candidate.state = State::Failed;
        }
        if answerer.id == self.own {
            return;
        }
        let ip = answerer.addr.ip();
        // One public host is one node here, however many ids it has near the target.
        let is_new_host = !is_public(ip) || self.public_hosts.insert(host(ip));
        let state = if is_new_host { State::Answered { token: response.token.clone() } } else { State::Failed };
        self.candidates.insert(answerer.id.distance(&self.target), Candidate { contact: answerer, state });
        if is_new_host && response.nodes.is_none() && self.question != Question::Nodes {
            self.again.push(answerer);
        }
    }

    fn add(&mut self, contact: Contact) {
        if contact.id == self.own {
            return;
        }
        let candidate = Candidate { contact, state: State::Fresh };
        self.candidates.entry(contact.id.distance(&self.target)).or_insert(candidate);
        if self.candidates.len() > MAX_CANDIDATES {
            self.candidates.pop_last();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target = Target([0; 20]);

    /// Node `n`, at distance `n`.
    fn node(n: u8) -> Contact {
        let mut id = [0; 20];
        id[19] = n;
        Contact { id: NodeId(id), addr: ([127, 0, 0, 1], 1000 + u16::from(n)).into() }
    }

    fn lookup(question: Question, known: &[u8]) -> Lookup {
        Lookup::new(NodeId([0xff; 20]), TARGET, question, known.iter().map(|n| node(*n)).collect(), Vec::new())
    }

    fn response(from: u8, nodes: &[u8]) -> Response {
        let nodes = Some(nodes.iter().map(|n| node(*n)).collect());
        Response { nodes, token: Some(vec![from]), ..Response::new(node(from).id) }
    }

    fn asks(lookup: &mut Lookup) -> Vec<Asked> {
        lookup.next().into_iter().map(|(asked, _)| asked).collect()
    }

    fn numbers(asked: &[Asked]) -> Vec<u16> {
        asked.iter().map(|asked| asked.addr.port() - 1000).collect()
    }

    #[test]
    fn it_walks_towards_the_target_and_stops_there() {
        let mut lookup = lookup(Question::Item(None), &[200]);
        let first = asks(&mut lookup);
        assert_eq!(numbers(&first), [200]);
        lookup.answered(first[0], &response(200, &[100, 101, 102]));
        let second = asks(&mut lookup);
        assert_eq!(numbers(&second), [100, 101, 102]);
        lookup.answered(second[0], &response(100, &[1, 2, 3, 4, 5, 6, 7, 8]));
        let third = asks(&mut lookup);
        assert_eq!(numbers(&third), [1, 2, 3], "the nearest first, two of five being under way");
        for asked in &third {
            lookup.answered(*asked, &response(asked.addr.port() as u8 - 232, &[1, 2]));
        }
        let fourth = asks(&mut lookup);
        assert_eq!(numbers(&fourth), [4, 5, 6]);
        for asked in &fourth {
            assert!(!lookup.is_done());
            lookup.answered(*asked, &response(asked.addr.port() as u8 - 232, &[]));
        }
        for asked in asks(&mut lookup) {
            lookup.answered(asked, &response(asked.addr.port() as u8 - 232, &[]));
        }
        assert!(lookup.is_done(), "101 and 102 are not waited for");
        let stores: Vec<u16> = lookup.into_stores().iter().map(|(c, _)| c.addr.port() - 1000).take(8).collect();
        assert_eq!(stores, [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn slow_nodes_hold_nobody_up_and_dead_ones_are_passed_over() {
        let mut lookup = lookup(Question::Nodes, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        let first = asks(&mut lookup);
        assert_eq!(numbers(&first), [1, 2, 3, 4, 5]);
        assert_eq!(asks(&mut lookup), []);
        first.iter().for_each(|asked| lookup.slow(*asked));
        let second = asks(&mut lookup);
        assert_eq!(numbers(&second), [6, 7, 8, 9, 10]);
        lookup.answered(first[0], &response(1, &[]));
        second.iter().for_each(|asked| lookup.answered(*asked, &response(asked.addr.port() as u8 - 232, &[])));
        assert!(!lookup.is_done());
        first[1..].iter().for_each(|asked| lookup.failed(*asked));
        let third = asks(&mut lookup);
        assert_eq!(numbers(&third), [11]);
        assert_eq!(lookup.counts(), (11, 6));
        lookup.failed(third[0]);
        assert!(lookup.is_done());
    }

    /// bittorrent-dht answers a `get` it holds with the value and no nodes.
    #[test]
    fn a_node_that_answers_without_nodes_is_asked_for_them() {
        let mut lookup = lookup(Question::Item(None), &[9]);
        let first = asks(&mut lookup);
        let no_nodes = Response { nodes: None, ..response(9, &[]) };
        lookup.answered(first[0], &no_nodes);
        assert!(!lookup.is_done());
        let again = lookup.next();
        assert_eq!(again[0].1, Method::FindNode { target: TARGET });
        lookup.answered(again[0].0, &response(9, &[3]));
        let last = asks(&mut lookup);
        assert_eq!(numbers(&last), [3]);
        lookup.answered(last[0], &response(3, &[]));
        assert!(lookup.is_done());
        assert_eq!(lookup.counts(), (2, 2), "the second question is not counted");
    }

    #[test]
    fn seeds_become_candidates_by_answering() {
        let seed = node(7).addr;
        let mut lookup = Lookup::new(NodeId([0xff; 20]), TARGET, Question::Nodes, Vec::new(), vec![seed]);
        let first = asks(&mut lookup);
        assert_eq!(first, [Asked { addr: seed, id: None, again: false }]);
        assert!(!lookup.is_done());
        lookup.answered(first[0], &response(7, &[]));
        assert!(lookup.is_done());
        assert_eq!(lookup.into_stores().len(), 1);
    }

    #[test]
    fn an_empty_lookup_is_done_at_once_and_our_own_id_is_no_candidate() {
        assert!(lookup(Question::Peers, &[]).is_done());
        let own = Contact { id: NodeId([0xff; 20]), addr: node(1).addr };
        assert!(Lookup::new(own.id, TARGET, Question::Nodes, vec![own], Vec::new()).is_done());
    }

    #[test]
    fn a_node_under_another_id_counts_where_it_really_is() {
        let mut lookup = lookup(Question::Nodes, &[1]);
        let first = asks(&mut lookup);
        lookup.answered(first[0], &response(50, &[]));
        assert!(lookup.is_done());
        let stores = lookup.into_stores();
        assert_eq!((stores.len(), stores[0].0.id), (1, node(50).id));
    }

    #[test]
    fn strangers_cannot_point_inward_and_one_public_host_counts_once() {
        let public = |n: u8, host: u8| Contact { id: node(n).id, addr: ([8, 8, 8, host], u16::from(n) + 1).into() };
        let mut lookup = Lookup::new(NodeId([0xff; 20]), TARGET, Question::Nodes, vec![public(9, 1)], Vec::new());
        let first = asks(&mut lookup);
        let nodes = Some(vec![node(1), public(2, 2), public(3, 2), public(4, 1)]);
        lookup.answered(first[0], &Response { nodes, token: Some(vec![1]), ..Response::new(node(9).id) });
        let second = asks(&mut lookup);
        assert_eq!(second.len(), 3, "the node on loopback is not asked");
        for asked in second {
            let id = asked.id.unwrap();
            lookup.answered(asked, &Response { nodes: Some(vec![]), token: Some(vec![1]), ..Response::new(id) });
        }
        assert!(lookup.is_done());
        assert_eq!(lookup.into_stores().len(), 2);
    }
}
