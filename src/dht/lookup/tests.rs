use super::*;

const TARGET: Target = Target([0; 20]);

/// What announcements take.
const CAREFUL: Care = Care::Careful(K);

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
    lookup.next(CAREFUL, &|_| Standing::Fine).into_iter().map(|(asked, _)| asked).collect()
}

fn number(asked: &Asked) -> u8 {
    u8::try_from(asked.addr.port() - 1000).unwrap()
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
        lookup.answered(*asked, &response(number(asked), &[1, 2]));
    }
    let fourth = asks(&mut lookup);
    assert_eq!(numbers(&fourth), [4, 5, 6]);
    for asked in &fourth {
        assert!(!lookup.is_done(CAREFUL));
        lookup.answered(*asked, &response(number(asked), &[]));
    }
    for asked in asks(&mut lookup) {
        lookup.answered(asked, &response(number(&asked), &[]));
    }
    assert!(lookup.is_done(CAREFUL), "101 and 102 are not waited for");
    let stores: Vec<u16> = lookup.into_stores().iter().map(|(c, _)| c.addr.port() - 1000).take(8).collect();
    assert_eq!(stores, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn late_nodes_hold_nobody_up_and_dead_ones_are_passed_over() {
    let known = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13];
    let answers = |lookup: &mut Lookup, asked: &[Asked]| {
        asked.iter().for_each(|asked| lookup.answered(*asked, &response(number(asked), &[])));
    };
    for question in [Question::Nodes, Question::Item(None)] {
        let care = if question == Question::Nodes { Care::Quick } else { CAREFUL };
        let mut lookup = lookup(question.clone(), &known);
        let first = asks(&mut lookup);
        assert_eq!(numbers(&first), [1, 2, 3, 4, 5]);
        assert_eq!(asks(&mut lookup), []);
        first.iter().for_each(|asked| assert!(lookup.slow(*asked, CAREFUL), "nobody has answered yet"));
        let second = asks(&mut lookup);
        assert_eq!(numbers(&second), [6, 7, 8, 9, 10]);
        answers(&mut lookup, &first[..1]);
        answers(&mut lookup, &second);
        let third = asks(&mut lookup);
        assert_eq!(numbers(&third), [11, 12]);
        assert!(!lookup.is_done(Care::Quick));
        answers(&mut lookup, &third);
        assert!(lookup.is_done(Care::Quick), "who is late is not waited for when there is something");
        assert_eq!(lookup.is_done(care), question == Question::Nodes, "but before saying that there is nothing");
        first[1..].iter().for_each(|asked| lookup.failed(*asked));
        assert!(lookup.is_done(CAREFUL));
        assert_eq!((asks(&mut lookup), lookup.counts()), (vec![], (12, 8)));
    }
}

#[test]
fn the_nearest_are_asked_again_when_they_are_slow_and_nothing_was_found() {
    let mut lookup = lookup(Question::Item(None), &[1, 2, 3]);
    let asked = asks(&mut lookup);
    lookup.answered(asked[0], &response(1, &[]));
    assert!(lookup.slow(asked[1], CAREFUL));
    assert!(!lookup.slow(asked[2], Care::Quick));
    assert!(!lookup.is_done(Care::Quick), "in a network of three all are missed");
    lookup.answered(asked[2], &response(3, &[]));
    lookup.failed(asked[1]);
    assert!(lookup.is_done(CAREFUL));
}

#[test]
fn before_nothing_is_said_to_be_there_twenty_are_heard_and_the_silent_tried_once_more() {
    let known: Vec<u8> = (1..40).collect();
    let mut lookup = lookup(Question::Item(None), &known);
    let (mut asked, mut silent) = (Vec::new(), vec![3, 9]);
    while let new @ [_, ..] = &lookup.next(Care::Thorough, &|_| Standing::Fine)[..] {
        assert!(!lookup.is_done(Care::Thorough));
        for (new, _) in new {
            asked.push(number(new));
            if silent.contains(&number(new)) {
                assert!(lookup.slow(*new, Care::Thorough), "it is among those who matter");
                lookup.gave_up(*new);
                silent.retain(|n| *n != number(new));
            } else {
                lookup.answered(*new, &response(number(new), &[]));
            }
        }
    }
    assert!(lookup.is_done(Care::Thorough));
    let expected: Vec<u8> = (1..=22).chain([3, 9]).collect();
    assert_eq!((asked, lookup.counts()), (expected, (22, 22)), "each counts once");
}

#[test]
fn those_farther_out_are_asked_side_by_side_but_not_before_the_nearest_have_answered() {
    let known: Vec<u8> = (1..40).collect();
    let mut lookup = lookup(Question::Item(None), &known);
    let mut rounds = Vec::new();
    while let new @ [_, ..] = &lookup.next(Care::Careful(16), &|_| Standing::Fine)[..] {
        rounds.push(new.iter().map(|(asked, _)| number(asked)).collect::<Vec<u8>>());
        new.iter().for_each(|(asked, _)| lookup.answered(*asked, &response(number(asked), &[])));
    }
    let expected = [vec![1, 2, 3, 4, 5], vec![6, 7, 8], vec![9, 10, 11, 12, 13], vec![14, 15, 16]];
    assert_eq!(rounds, expected);
}

#[test]
fn doubtful_nodes_that_answer_make_room_for_others() {
    let known: Vec<u8> = (11..=18).collect();
    let mut lookup = lookup(Question::Item(None), &known);
    for (expected, named) in [(11..=18, vec![1, 2, 3, 4, 5, 6, 7, 8]), (1..=8, vec![])] {
        let asked = lookup.next(CAREFUL, &|_| Standing::Doubtful);
        assert_eq!(asked.iter().map(|(asked, _)| number(asked)).collect::<Vec<u8>>(), expected.collect::<Vec<u8>>());
        asked.iter().for_each(|(asked, _)| lookup.answered(*asked, &response(number(asked), &named)));
    }
    assert!(lookup.is_done(CAREFUL));
}

#[test]
fn doubtful_nodes_are_asked_beside_the_others_and_dead_ones_not_at_all() {
    let mut lookup = lookup(Question::Item(None), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    let asked = lookup.next(CAREFUL, &|addr| match addr.port() - 1000 {
        1 => Standing::Dead,
        2 | 3 => Standing::Doubtful,
        _ => Standing::Fine,
    });
    let asked: Vec<Asked> = asked.into_iter().map(|(asked, _)| asked).collect();
    assert_eq!(numbers(&asked), [2, 3, 4, 5, 6, 7, 8]);
    asked[2..].iter().for_each(|asked| lookup.answered(*asked, &response(number(asked), &[])));
    for asked in asks(&mut lookup) {
        lookup.answered(asked, &response(number(&asked), &[]));
    }
    assert!(lookup.is_done(Care::Quick) && !lookup.is_done(CAREFUL));
    lookup.answered(asked[0], &response(2, &[]));
    lookup.failed(asked[1]);
    assert!(lookup.is_done(CAREFUL));
}

/// Which nodes are asked, when a query to some would have to wait: `busy` of twenty known.
fn idle(lookup: &mut Lookup, care: Care, busy: &[u16]) -> Vec<Asked> {
    let standing =
        |addr: SocketAddr| if busy.contains(&(addr.port() - 1000)) { Standing::Busy } else { Standing::Fine };
    lookup.next(care, &standing).into_iter().map(|(asked, _)| asked).collect()
}

#[test]
fn busy_nodes_are_passed_over_while_others_may_lead_nearer() {
    let known: Vec<u8> = (1..=20).collect();
    let mut lookup = lookup(Question::Item(None), &known);
    let first = idle(&mut lookup, CAREFUL, &[1, 2, 3]);
    assert_eq!(numbers(&first), [4, 5, 6, 7, 8]);
    first.iter().for_each(|asked| lookup.answered(*asked, &response(number(asked), &[])));
    // The first has its turn meanwhile.
    let second = idle(&mut lookup, CAREFUL, &[2, 3]);
    assert_eq!(numbers(&second), [1, 9, 10]);
    second.iter().for_each(|asked| lookup.answered(*asked, &response(number(asked), &[])));
    assert!(!lookup.is_done(CAREFUL), "each of the nearest has to have its say");
    let last = idle(&mut lookup, CAREFUL, &[2, 3]);
    assert_eq!(numbers(&last), [2, 3], "nobody else is left, so they are asked and waited for");
    last.iter().for_each(|asked| lookup.put_off(*asked));
    assert_eq!(idle(&mut lookup, CAREFUL, &[2, 3]), []);
    assert!(!lookup.is_done(CAREFUL));
    last.iter().for_each(|asked| lookup.answered(*asked, &response(number(asked), &[])));
    assert!(lookup.is_done(CAREFUL));
}

#[test]
fn who_has_enough_does_without_three_busy_nodes_and_asks_others_for_the_rest() {
    // Which are busy, and who is asked.
    let table: [(&[u16], &[u16]); 4] = [
        (&[], &[1, 2, 3, 4, 5, 6, 7, 8]),
        (&[2, 4], &[1, 3, 5, 6, 7, 8]),
        (&[1, 2, 3], &[4, 5, 6, 7, 8]),
        (&[1, 2, 3, 4, 5, 6], &[7, 8, 9, 10, 11]),
    ];
    for (busy, expected) in table {
        let known: Vec<u8> = (1..=20).collect();
        let mut lookup = lookup(Question::Item(None), &known);
        let mut all = Vec::new();
        while let asked @ [_, ..] = &idle(&mut lookup, Care::Quick, busy)[..] {
            assert!(!lookup.is_done(Care::Quick));
            all.extend(numbers(asked));
            asked.iter().for_each(|asked| lookup.answered(*asked, &response(number(asked), &[])));
        }
        assert_eq!(all, expected, "{busy:?} are busy");
        assert!(lookup.is_done(Care::Quick));
        assert!(busy.is_empty() || !lookup.is_done(CAREFUL));
    }
}

#[test]
fn three_answers_of_a_small_network_are_too_few_while_the_others_are_only_busy() {
    let mut lookup = lookup(Question::Item(None), &[1, 2, 3, 4, 5, 6]);
    let first = idle(&mut lookup, Care::Quick, &[1, 2, 3]);
    assert_eq!(numbers(&first), [4, 5, 6]);
    first.iter().for_each(|asked| lookup.answered(*asked, &response(number(asked), &[])));
    let waiting = idle(&mut lookup, Care::Quick, &[1, 2, 3]);
    assert_eq!(numbers(&waiting), [1, 2, 3]);
    waiting.iter().for_each(|asked| lookup.put_off(*asked));
    assert!(!lookup.is_done(Care::Quick));
    waiting[..2].iter().for_each(|asked| lookup.answered(*asked, &response(number(asked), &[])));
    assert!(lookup.is_done(Care::Quick), "five are as many as in a large one");
}

#[test]
fn seeds_left_over_are_not_asked() {
    let seeds = (20..40).map(|n| node(n).addr).collect();
    let mut lookup = Lookup::new(NodeId([0xff; 20]), TARGET, Question::Nodes, Vec::new(), seeds);
    let first = asks(&mut lookup);
    assert_eq!(first.len(), ALPHA);
    for asked in &first {
        lookup.answered(*asked, &response(number(asked), &[1, 2, 3, 4, 5, 6, 7, 8]));
    }
    while let asked @ [_, ..] = &asks(&mut lookup)[..] {
        for asked in asked {
            lookup.answered(*asked, &response(number(asked), &[]));
        }
    }
    assert!(lookup.is_done(CAREFUL));
    assert_eq!(lookup.counts().0, 13, "five seeds and the eight nearest");
}

/// bittorrent-dht answers a `get` it holds with the value and no nodes.
#[test]
fn a_node_that_answers_without_nodes_is_asked_for_them() {
    let mut lookup = lookup(Question::Item(None), &[9]);
    let first = asks(&mut lookup);
    let no_nodes = Response { nodes: None, ..response(9, &[]) };
    lookup.answered(first[0], &no_nodes);
    assert!(!lookup.is_done(CAREFUL));
    let again = lookup.next(CAREFUL, &|_| Standing::Fine);
    assert_eq!(again[0].1, Method::FindNode { target: TARGET });
    lookup.answered(again[0].0, &response(9, &[3]));
    let last = asks(&mut lookup);
    assert_eq!(numbers(&last), [3]);
    lookup.answered(last[0], &response(3, &[]));
    assert!(lookup.is_done(CAREFUL));
    assert_eq!(lookup.counts(), (2, 2), "the second question is not counted");
}

#[test]
fn seeds_become_candidates_by_answering() {
    let seed = node(7).addr;
    let mut lookup = Lookup::new(NodeId([0xff; 20]), TARGET, Question::Nodes, Vec::new(), vec![seed]);
    let first = asks(&mut lookup);
    assert_eq!(first, [Asked { addr: seed, id: None, again: false }]);
    assert!(!lookup.is_done(CAREFUL));
    lookup.answered(first[0], &response(7, &[]));
    assert!(lookup.is_done(CAREFUL));
    assert_eq!(lookup.into_stores().len(), 1);
}

#[test]
fn an_empty_lookup_is_done_at_once_and_our_own_id_is_no_candidate() {
    assert!(lookup(Question::Peers, &[]).is_done(CAREFUL));
    let own = Contact { id: NodeId([0xff; 20]), addr: node(1).addr };
    assert!(Lookup::new(own.id, TARGET, Question::Nodes, vec![own], Vec::new()).is_done(CAREFUL));
}

#[test]
fn a_node_under_another_id_counts_where_it_really_is() {
    let mut lookup = lookup(Question::Nodes, &[1]);
    let first = asks(&mut lookup);
    lookup.answered(first[0], &response(50, &[]));
    assert!(lookup.is_done(CAREFUL));
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
    assert!(lookup.is_done(CAREFUL));
    assert_eq!(lookup.into_stores().len(), 2);
}
