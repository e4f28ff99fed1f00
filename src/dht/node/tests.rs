use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::wire::krpc::{Method, Query};

/// Whether a ping from there is answered.
fn answers(node: &mut Node, now: Instant, rng: &mut StdRng, from: &str) -> bool {
    let query = Query { id: NodeId([7; 20]), read_only: true, want: None, method: Method::Ping };
    let ping = Message { transaction: vec![1, 2], version: None, ip: None, body: Body::Query(query) };
    let Effects { send, dropped, .. } = node.handle(now, rng, from.parse().unwrap(), &ping.encode());
    assert_eq!(dropped, send.is_empty().then_some("rate"), "what is not answered is counted");
    !send.is_empty()
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
