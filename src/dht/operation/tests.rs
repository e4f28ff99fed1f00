use ed25519_dalek::SigningKey;

use super::*;
use crate::wire::id::NodeId;

fn node(n: u8) -> Contact {
    Contact { id: NodeId([n; 20]), addr: ([127, 0, 0, 1], 1000 + u16::from(n)).into() }
}

fn item(seq: i64, v: &str) -> VerifiedItem {
    let v = format!("{}:{v}", v.len()).into_bytes();
    VerifiedItem::sign(&SigningKey::from_bytes(&[1; 32]), Salt::default(), seq, v).unwrap()
}

fn held(item: &VerifiedItem) -> Held {
    Held::Mutable { key: *item.key(), seq: item.seq(), sig: *item.sig(), v: item.v().to_vec() }
}

/// Runs an operation in a network of nodes that know nobody else and hold what is given. Returns what was stored where
/// (with `cas`), and the outcome.
fn run(request: Request, own: Option<Item>, network: &[Option<Held>], refuse: &[i64]) -> (Vec<(u8, Method)>, Outcome) {
    run_as(NodeId([0xff; 20]), Ok(()), request, own, network, refuse)
}

/// As [`run`], by the node of this id, which decides so when it is asked to.
fn run_as(
    id: NodeId,
    decision: Result<(), i64>,
    request: Request,
    own: Option<Item>,
    network: &[Option<Held>],
    refuse: &[i64],
) -> (Vec<(u8, Method)>, Outcome) {
    let contacts = (1..).zip(network).map(|(n, _)| node(n)).collect();
    let lookup = Lookup::new(id, request.target(), request.question(), contacts, Vec::new());
    let mut operation = Operation::new(request, lookup, own);
    let mut stored = Vec::new();
    let mut steps = operation.next(&|_| Standing::Fine);
    loop {
        for step in std::mem::take(&mut steps) {
            match step {
                Step::Ask(asked, _) => {
                    let n = asked.id.unwrap().0[0];
                    let held = network[usize::from(n) - 1].clone();
                    let nodes = Some(Vec::new());
                    let response = Response { held, nodes, token: Some(vec![n]), ..Response::new(node(n).id) };
                    assert_eq!(operation.answered(asked, &response), []);
                }
                Step::Store(contact, method) => {
                    let n = contact.id.0[0];
                    stored.push((n, method));
                    let code = refuse.get(usize::from(n) - 1).copied().filter(|code| *code != 0);
                    operation.stored(&contact, code.map_or(Ok(()), |code| Err(Some(code))));
                }
                Step::Keep(_) => stored.push((0, Method::Ping)),
                Step::Decide(..) => {
                    assert!(stored.is_empty(), "before anybody else");
                    stored.push((0, Method::Ping));
                    operation.decided(decision);
                }
                Step::Done(outcome) => {
                    stored.sort_by_key(|(n, _)| *n);
                    return (stored, outcome);
                }
            }
        }
        steps = operation.next(&|_| Standing::Fine);
        assert!(!steps.is_empty(), "neither done nor anything to do");
    }
}

fn get(known_seq: Option<i64>) -> Request {
    Request::Get { key: *item(1, "a").key(), salt: Salt::default(), known_seq }
}

fn got(known_seq: Option<i64>, own: Option<VerifiedItem>, network: &[Option<Held>]) -> (Option<i64>, usize) {
    match run(get(known_seq), own.map(Item::Mutable), network, &[]).1 {
        Outcome::Get(outcome) => {
            assert_eq!((outcome.asked, outcome.answered), (network.len(), network.len()));
            (outcome.item.map(|item| item.seq()), outcome.holders)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_get_returns_the_newest_that_verifies() {
    let (old, new) = (item(1, "a"), item(2, "b"));
    let forged = Held::Mutable { key: *new.key(), seq: 9, sig: *new.sig(), v: b"1:b".to_vec() };
    let other_key = VerifiedItem::sign(&SigningKey::from_bytes(&[2; 32]), Salt::default(), 9, b"1:x".to_vec()).unwrap();
    let network =
        [None, Some(held(&old)), Some(held(&new)), Some(forged), Some(held(&other_key)), Some(Held::Immutable(vec![]))];
    assert_eq!(got(None, None, &network), (Some(2), 1));
    assert_eq!(got(None, None, &[None, None]), (None, 0));
    assert_eq!(got(None, None, &[]), (None, 0));
    assert_eq!(got(None, Some(item(3, "c")), &network), (Some(3), 0), "our own storage is asked too");
}

#[test]
fn holders_of_a_known_number_are_counted_without_its_value() {
    let unchanged = |seq| Some(Held::Unchanged { seq });
    assert_eq!(got(Some(2), None, &[unchanged(2), unchanged(2), unchanged(1), None]), (None, 2));
    assert_eq!(got(Some(2), None, &[unchanged(2), Some(held(&item(3, "c")))]), (Some(3), 1));
    assert_eq!(got(Some(2), None, &[unchanged(77)]), (None, 0), "a higher number must come with its value");
    assert_eq!(got(Some(2), None, &[Some(held(&item(1, "a")))]), (None, 0));
}

#[test]
fn of_two_values_with_one_number_the_larger_is_returned() {
    for network in [[held(&item(1, "a")), held(&item(1, "b"))], [held(&item(1, "b")), held(&item(1, "a"))]] {
        match run(get(None), None, &network.map(Some), &[]).1 {
            Outcome::Get(outcome) => assert_eq!((outcome.item, outcome.holders), (Some(item(1, "b")), 1)),
            other => panic!("{other:?}"),
        }
    }
}

fn put(seq: i64, cas: Option<i64>) -> Request {
    Request::Put { item: item(seq, "new"), cas }
}

fn put_outcome(outcome: Outcome) -> (usize, Vec<(i64, usize)>, Option<i64>) {
    match outcome {
        Outcome::Put(outcome) => (outcome.stored, outcome.rejected, outcome.newer.map(|item| item.seq())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_put_carries_target_and_token_and_cas_only_where_data_was_returned() {
    let (stored, outcome) = run(put(2, Some(1)), None, &[None, Some(held(&item(1, "a"))), None], &[]);
    assert_eq!(put_outcome(outcome), (3, vec![], None));
    assert_eq!(stored[0].0, 0, "and in our own storage");
    for (n, method) in &stored[1..] {
        let expected = PutItem::Mutable { item: item(2, "new").as_signed().clone(), cas: (*n == 2).then_some(1) };
        let target = Some(item(1, "a").target());
        assert_eq!(*method, Method::Put { token: vec![*n], target, item: expected });
    }
}

/// Two put over the same version at the same moment: whoever comes second to the nearest node that holds it has lost, and
/// is stored nowhere. That node may be our own.
#[test]
fn with_cas_one_node_decides() {
    let first = item(1, "a");
    let network: Vec<_> = (0..8).map(|_| Some(held(&first))).collect();
    let nearest = {
        let nodes = (1..=8).map(node);
        nodes.min_by_key(|node| node.id.distance(&first.target())).unwrap().id.0[0]
    };
    let refuses = |by: u8| (1..=8).map(|n| if n == by { 301 } else { 0 }).collect::<Vec<i64>>();
    let farthest = NodeId(first.target().0.map(|byte| !byte));
    let put_by = |id, decision, own: Option<&VerifiedItem>, refuse: &[i64]| {
        let own = own.cloned().map(Item::Mutable);
        let (stored, outcome) = run_as(id, decision, put(2, Some(1)), own, &network, refuse);
        (stored.len(), put_outcome(outcome))
    };
    let we = NodeId(first.target().0);
    let table = [
        (put_by(farthest, Ok(()), Some(&first), &[]), (9, (8, vec![], None))),
        (put_by(farthest, Ok(()), Some(&first), &refuses(nearest)), (1, (0, vec![(301, 1)], None))),
        (put_by(we, Ok(()), Some(&first), &[]), (10, (8, vec![], None))),
        (put_by(we, Err(301), Some(&first), &[]), (1, (0, vec![(301, 1)], None))),
        (put_by(we, Err(301), None, &refuses(nearest)), (1, (0, vec![(301, 1)], None))),
    ];
    for (number, (found, expected)) in table.into_iter().enumerate() {
        assert_eq!(found, expected, "case {number}");
    }
}

#[test]
fn cas_is_not_asked_of_a_node_that_missed_the_last_version() {
    let network = [Some(held(&item(1, "a"))), Some(held(&item(2, "b")))];
    let (stored, outcome) = run(put(3, Some(2)), None, &network, &[]);
    assert_eq!(put_outcome(outcome), (2, vec![], None));
    let cas: Vec<Option<i64>> = stored[1..]
        .iter()
        .map(|(_, method)| match method {
            Method::Put { item: PutItem::Mutable { cas, .. }, .. } => *cas,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(cas, [None, Some(2)]);
}

#[test]
fn nothing_is_sent_when_something_stands_in_the_way() {
    let table = [
        // What is there, what is put with which cas, the code and how many nodes said so.
        (item(3, "a"), 2, None, 302),
        (item(3, "a"), 2, Some(3), 302),
        (item(3, "a"), 4, Some(2), 301),
        (item(2, "zzz"), 2, None, 302),
    ];
    for (there, seq, cas, code) in table {
        let network = [None, Some(held(&there)), Some(held(&there))];
        let (stored, outcome) = run(put(seq, cas), None, &network, &[]);
        assert_eq!((stored.len(), put_outcome(outcome)), (0, (0, vec![(code, 2)], Some(there.seq()))));
        let (stored, outcome) = run(put(seq, cas), Some(Item::Mutable(there.clone())), &[None], &[]);
        assert_eq!((stored.len(), put_outcome(outcome)), (0, (0, vec![(code, 1)], Some(there.seq()))));
    }
}

#[test]
fn putting_again_what_is_there_succeeds() {
    let there = Some(held(&item(2, "new")));
    let (stored, outcome) = run(put(2, Some(1)), None, &[there.clone(), there], &[302, 0]);
    assert_eq!(put_outcome(outcome), (2, vec![], None));
    assert!(
        stored
            .iter()
            .all(|(_, method)| { !matches!(method, Method::Put { item: PutItem::Mutable { cas: Some(_), .. }, .. }) })
    );
}

#[test]
fn refusals_are_counted() {
    let (_, outcome) = run(put(2, None), None, &[None, None, None], &[302, 301, 203]);
    assert_eq!(put_outcome(outcome), (0, vec![(203, 1), (301, 1), (302, 1)], None));
    let (_, outcome) = run(put(2, None), None, &[], &[]);
    assert_eq!(put_outcome(outcome), (0, vec![], None), "alone in the network");
}

#[test]
fn values_by_hash_are_checked_against_it() {
    let v = b"12:Hello World!".to_vec();
    let request = Request::GetImmutable(item::immutable_target(&v));
    let network = [None, Some(Held::Immutable(b"1:x".to_vec())), Some(Held::Immutable(v.clone()))];
    assert_eq!(run(request.clone(), None, &network, &[]).1, Outcome::Value(Some(v.clone())));
    assert_eq!(run(request.clone(), None, &network[..2], &[]).1, Outcome::Value(None));
    assert_eq!(run(request, Some(Item::Immutable(v.clone())), &[], &[]).1, Outcome::Value(Some(v.clone())));
    let (stored, outcome) = run(Request::PutImmutable(v), None, &network, &[]);
    assert_eq!((stored.len(), put_outcome(outcome)), (4, (3, vec![], None)));
}

#[test]
fn an_announcement_is_stored_like_an_item() {
    let info_hash = InfoHash([7; 20]);
    let (stored, outcome) = run(Request::Announce { info_hash, port: 6881 }, None, &[None, None], &[203, 0]);
    assert_eq!(outcome, Outcome::Announced(1));
    let method = Method::AnnouncePeer { info_hash, port: 6881, implied_port: false, token: vec![1] };
    assert_eq!(stored[0], (1, method));
}
