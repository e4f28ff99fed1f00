use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::wire::krpc::{Method, Query, Response};

/// Whether a ping from there is answered.
fn answers(node: &mut Node, now: Instant, rng: &mut StdRng, from: &str) -> bool {
    let query = Query { id: NodeId([7; 20]), read_only: true, want: None, method: Method::Ping };
    let ping = Message { transaction: vec![1, 2], version: None, ip: None, body: Body::Query(query) };
    let Effects { send, dropped, .. } = node.handle(now, rng, from.parse().unwrap(), &ping.encode());
    assert_eq!(dropped, send.is_empty().then_some("rate"), "what is not answered is counted");
    !send.is_empty()
}

/// The first lookups begin with the nodes of the table. Those after them wait for what these learn, but not for ever.
#[test]
fn few_lookups_wait_for_their_first_answer_at_once() {
    let start = Instant::now();
    let mut rng = StdRng::seed_from_u64(2);
    let mut node =
        Node::new(start, &mut rng, NodeId([1; 20]), Limits { mode: Mode::Client, max_items: 10, max_peers: 10 });
    let seeds: Vec<SocketAddr> = (1..=3).map(|port| ([127, 0, 0, 1], port).into()).collect();
    let (_, joining) = node.join(start, &mut rng, seeds);
    for (to, query) in joining.send {
        let transaction = Message::decode(&query).unwrap().transaction;
        let known = Response { nodes: Some(vec![]), ..Response::new(NodeId([to.port() as u8; 20])) };
        let answer = Message { transaction, version: None, ip: None, body: Body::Response(known) };
        let _ = node.handle(start, &mut rng, to, &answer.encode());
    }
    let (mut begun, mut first) = (0, None);
    while node.has_room(start) {
        begun += 1;
        let request = Request::GetPeers(crate::wire::id::InfoHash([begun; 20]));
        let (_, effects) = node.start(start, &mut rng, request);
        first = first.or(effects.send.into_iter().next());
    }
    assert_eq!(usize::from(begun), MAX_AT_FIRST, "lookups of {} nodes", node.good_nodes(start));

    let (to, query) = first.expect("queries were sent");
    let answer = Response { nodes: Some(vec![]), ..Response::new(NodeId([to.port() as u8; 20])) };
    let transaction = Message::decode(&query).unwrap().transaction;
    let answer = Message { transaction, version: None, ip: None, body: Body::Response(answer) };
    let _ = node.handle(start, &mut rng, to, &answer.encode());
    assert!(node.has_room(start), "one has its answer");
    let _ = node.start(start, &mut rng, Request::GetPeers(crate::wire::id::InfoHash([99; 20])));
    assert!(!node.has_room(start));
    assert!(node.has_room(start + Duration::from_millis(200)), "the others have waited long enough");
}

#[test]
fn an_address_that_asks_too_much_is_not_answered_and_others_are() {
    let start = Instant::now();
    let mut rng = StdRng::seed_from_u64(1);
    // Who floods, over ten seconds, and who goes on being answered at the same time.
    let table = [
        ("8.8.8.8:1", "8.8.8.8:2", "8.8.4.4:1"),
        ("[2a00::1]:1", "[2a00::2]:2", "[2a00:0:0:1::1]:1"),
        ("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:2"),
    ];
    for (first, second, other) in table {
        let limits = Limits { mode: Mode::Server, max_items: 10, max_peers: 10 };
        let mut node = Node::new(start, &mut rng, NodeId([1; 20]), limits);
        let mut answered = 0;
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            let from = if millis % 2 == 0 { first } else { second };
            answered += usize::from(answers(&mut node, now, &mut rng, from));
            assert!(millis % 100 != 0 || answers(&mut node, now, &mut rng, other), "{other} after {millis} ms");
        }
        assert!((250..=260).contains(&answered), "sixty at once and twenty a second: {answered} of {first}");
    }
}
