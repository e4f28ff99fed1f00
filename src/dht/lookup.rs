//! One iterative lookup: asks nodes nearer and nearer to a target until the nearest live ones have all answered.
//!
//! Most of the time a lookup takes is time spent on nodes that are not there. So a node that is late holds no place
//! among those under way, and once what was looked for has been found, nobody waits for it.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::node_id;
use super::table::K;
use super::unresponsive::Standing;
use crate::net::{host, is_public, may_name};
use crate::wire::id::{Distance, NodeId, Target};
use crate::wire::krpc::{Contact, Method, Response};

mod candidate;
mod care;

use candidate::{Candidate, State};
pub(super) use care::Care;
use care::WIDE;

/// Queries under way at once, late ones not counted. More finds faster and costs more; libtorrent's
/// `dht_search_branching` is 5 too.
const ALPHA: usize = 5;

/// Answers with nodes that are enough to know the surroundings of the target.
const ENOUGH_VIEWS: usize = 3;

/// How many of the nearest [`K`] a quick lookup does without when our own pace holds them up. Nobody is asked in the place
/// of these: who has enough learns little from one more, and where one node is busy its neighbours soon are.
const MAX_SPARED: usize = 3;

/// Candidates kept. Nodes name eight each, most of them the same.
const MAX_CANDIDATES: usize = 200;

/// Nodes taken from one answer: `mainline` and bittorrent-dht name up to 20. One liar must not fill the candidates.
const MAX_NAMED: usize = 20;

/// What each node is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    Nodes,
    Peers,
    /// The item, unless its number is not above this one.
    Item(Option<i64>),
}

/// Which candidates are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    /// Those to whom a query can be sent now. The others are passed over: somebody else may lead nearer meanwhile.
    Idle,
    /// Also those to whom our own pace has it wait for its turn.
    Anybody,
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
    /// Asked, and an answer may be expected any moment.
    in_flight: HashSet<Asked>,
    /// Asked, and an answer would be a surprise: slow, doubtful from the start, or the query still waits for its turn.
    late: HashSet<Asked>,
    /// How many doubtful nodes were asked and have not answered.
    doubtful: usize,
    public_hosts: HashSet<IpAddr>,
    /// The nearest had their say, and those farther out are asked.
    is_wide: bool,
    /// They had theirs too, and those who never answered are tried once more.
    is_retrying: bool,
    asked: usize,
    answered: usize,
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
            late: HashSet::new(),
            doubtful: 0,
            public_hosts: HashSet::new(),
            is_wide: false,
            is_retrying: false,
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

    /// Queries to be sent now. `standing` tells what to expect of a node.
    #[must_use]
    pub(super) fn next(&mut self, care: Care, standing: &dyn Fn(SocketAddr) -> Standing) -> Vec<(Asked, Method)> {
        let mut queries = Vec::new();
        let mut whom = Whom::Idle;
        while self.in_flight.len() < ALPHA {
            let Some((asked, method, standing)) = self.next_query(care, whom, standing) else {
                // Nobody is left but those whose turn will come.
                let is_enough = care == Care::Quick && self.is_answered(care);
                if whom == Whom::Idle && self.in_flight.is_empty() && !is_enough {
                    whom = Whom::Anybody;
                    continue;
                }
                break;
            };
            if standing == Standing::Fine {
                self.in_flight.insert(asked)
            } else {
                self.late.insert(asked)
            };
            queries.push((asked, method));
        }
        queries
    }

    /// Whether there is nothing left to wait for: BEP 5's "until it is unable to find any closer" nodes, with the nearest
    /// [`K`] having answered. To be asked after [`Lookup::next`] returned nothing.
    pub(super) fn is_done(&self, care: Care) -> bool {
        let is_in_flight = |asked: &Asked| asked.again || asked.id.is_none();
        if self.needs_views() || self.in_flight.iter().any(is_in_flight) {
            return false;
        }
        if !self.timely(care).all(Candidate::is_answered) {
            return false;
        }
        if !self.is_answered(care) {
            let answered = self.timely(care).count();
            // A small network, or a bad moment: whoever is late is missed. But those who are only busy will answer.
            let few = if self.candidates.values().any(Candidate::is_put_off) { K - MAX_SPARED } else { ENOUGH_VIEWS };
            let is_enough = care == Care::Quick && answered >= few;
            return is_enough || (self.seeds.is_empty() && self.in_flight.is_empty() && self.late.is_empty());
        }
        !care.minds_each() || self.nearest(care.width()).all(Candidate::is_answered)
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
        for contact in response.nodes.iter().flatten().take(MAX_NAMED) {
            if may_name(asked.addr.ip(), contact.addr) {
                self.add(*contact);
            }
        }
    }

    /// No answer yet: the node no longer holds a place among the [`ALPHA`], but its answer is still welcome. Returns
    /// whether it should be asked once more: a datagram may have been lost, and this is one of those that matter.
    pub(super) fn slow(&mut self, asked: Asked, care: Care) -> bool {
        if !self.settle(asked) {
            return false;
        }
        self.late.insert(asked);
        self.set(&asked, State::Late);
        let matters = |id: NodeId| self.nearest(care.width()).any(|candidate| candidate.contact.id == id);
        let is_alone = self.answered == 0;
        is_alone || asked.id.is_none_or(|id| care.minds_each() && matters(id))
    }

    /// Our own id.
    pub(super) fn own(&self) -> NodeId {
        self.own
    }

    /// The query waits for its turn: it keeps its place among the [`ALPHA`], but if enough is found meanwhile, nobody waits
    /// for it.
    pub(super) fn put_off(&mut self, asked: Asked) {
        self.set(&asked, State::Waiting);
    }

    /// No answer any more.
    pub(super) fn gave_up(&mut self, asked: Asked) {
        self.end(asked, State::Silent);
    }

    /// An error, or the query could not be sent.
    pub(super) fn failed(&mut self, asked: Asked) {
        self.end(asked, State::Failed);
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

    /// Whether as many have answered as a quick lookup asks.
    fn is_answered(&self, care: Care) -> bool {
        self.timely(care).filter(|candidate| candidate.is_answered()).count() == self.places(care)
    }

    /// The nearest of whom something is to be expected soon.
    fn timely(&self, care: Care) -> impl Iterator<Item = &Candidate> {
        self.candidates.values().filter(|candidate| !candidate.is_past()).take(self.places(care))
    }

    /// How many of these are asked first.
    fn places(&self, care: Care) -> usize {
        if care != Care::Quick {
            return K;
        }
        let nearest = self.candidates.values().filter(|candidate| !candidate.is_past() || candidate.is_put_off());
        K - nearest.take(K).filter(|candidate| candidate.is_put_off()).count().min(MAX_SPARED)
    }

    fn next_query(
        &mut self,
        care: Care,
        whom: Whom,
        standing: &dyn Fn(SocketAddr) -> Standing,
    ) -> Option<(Asked, Method, Standing)> {
        // A few of them show the way; the others are for when that leads nowhere.
        if self.answered < ENOUGH_VIEWS
            && let Some(seed) = self.next_seed()
        {
            return Some(seed);
        }
        let mut next = self.next_candidate(self.places(care), whom, standing);
        if next.is_none() && care.width() > K {
            self.is_wide |= whom == Whom::Anybody && self.in_flight.is_empty();
            next = if self.is_wide { self.next_candidate(care.width(), whom, standing) } else { None };
        }
        if let Some((contact, standing)) = next {
            let asked = Asked { addr: contact.addr, id: Some(contact.id), again: false };
            self.asked += 1;
            return Some((asked, self.method(), standing));
        }
        if care == Care::Thorough
            && let Some(contact) = self.next_retry()
        {
            let asked = Asked { addr: contact.addr, id: Some(contact.id), again: false };
            return Some((asked, self.method(), Standing::Fine));
        }
        if self.answered < K
            && let Some(seed) = self.next_seed()
        {
            return Some(seed);
        }
        let contact = if self.in_flight.is_empty() && self.needs_views() { self.again.pop() } else { None }?;
        let asked = Asked { addr: contact.addr, id: Some(contact.id), again: true };
        Some((asked, Method::FindNode { target: self.target }, Standing::Fine))
    }

    fn next_seed(&mut self) -> Option<(Asked, Method, Standing)> {
        let addr = self.seeds.pop()?;
        self.asked += 1;
        Some((Asked { addr, id: None, again: false }, self.method(), Standing::Fine))
    }

    /// The nearest fresh candidate that may be asked, if it is among so many nearest that are not past.
    fn next_candidate(
        &mut self,
        mut places: usize,
        whom: Whom,
        standing: &dyn Fn(SocketAddr) -> Standing,
    ) -> Option<(Contact, Standing)> {
        for candidate in self.candidates.values_mut() {
            if candidate.state == State::Fresh {
                let standing = standing(candidate.contact.addr);
                candidate.is_busy = standing == Standing::Busy;
                match standing {
                    Standing::Busy if whom == Whom::Idle => {}
                    Standing::Fine | Standing::Busy => {
                        candidate.state = State::Asked;
                        return Some((candidate.contact, Standing::Fine));
                    }
                    Standing::Doubtful if self.doubtful < K => {
                        self.doubtful += 1;
                        candidate.is_doubtful = true;
                        candidate.state = State::Late;
                        return Some((candidate.contact, Standing::Doubtful));
                    }
                    Standing::Doubtful | Standing::Dead => {
                        candidate.state = State::Silent;
                        continue;
                    }
                }
            }
            places -= usize::from(!candidate.is_past());
            if places == 0 {
                break;
            }
        }
        None
    }

    /// One that never answered, to be tried once more when everybody else has had their say. A liar can name any number
    /// of nodes that are not there, but hardly one whose id fits its address (BEP 42).
    fn next_retry(&mut self) -> Option<Contact> {
        self.is_retrying |= self.in_flight.is_empty() && self.nearest(WIDE).all(Candidate::is_answered);
        if !self.is_retrying {
            return None;
        }
        let mut answered = self.candidates.iter().filter(|(_, candidate)| candidate.is_answered());
        let edge = *answered.by_ref().take(WIDE).last()?.0;
        let mut within = self.candidates.range_mut(..edge).map(|(_, candidate)| candidate);
        let candidate = within.find(|candidate| {
            let Contact { id, addr } = candidate.contact;
            candidate.state == State::Silent && !candidate.is_retried && node_id::fits(&id, addr.ip())
        })?;
        candidate.is_retried = true;
        candidate.state = State::Asked;
        Some(candidate.contact)
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

    fn nearest(&self, count: usize) -> impl Iterator<Item = &Candidate> {
        let is_there = |candidate: &&Candidate| !matches!(candidate.state, State::Silent | State::Failed);
        self.candidates.values().filter(is_there).take(count)
    }

    fn end(&mut self, asked: Asked, state: State) {
        if self.settle(asked) {
            self.set(&asked, state);
        }
    }

    fn set(&mut self, asked: &Asked, state: State) {
        if let Some(candidate) = self.candidate_mut(asked) {
            candidate.state = state;
        }
    }

    fn settle(&mut self, asked: Asked) -> bool {
        self.in_flight.remove(&asked) | self.late.remove(&asked)
    }

    fn candidate_mut(&mut self, asked: &Asked) -> Option<&mut Candidate> {
        let id = asked.id.filter(|_| !asked.again)?;
        self.candidates.get_mut(&id.distance(&self.target))
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
        let candidate = Candidate::new(answerer, state);
        let former = self.candidates.insert(answerer.id.distance(&self.target), candidate);
        self.doubtful -= usize::from(former.is_some_and(|former| former.is_doubtful));
        if is_new_host && response.nodes.is_none() && self.question != Question::Nodes {
            self.again.push(answerer);
        }
    }

    fn add(&mut self, contact: Contact) {
        if contact.id == self.own {
            return;
        }
        let candidate = Candidate::new(contact, State::Fresh);
        self.candidates.entry(contact.id.distance(&self.target)).or_insert(candidate);
        if self.candidates.len() > MAX_CANDIDATES {
            self.candidates.pop_last();
        }
    }
}

#[cfg(test)]
mod tests;
