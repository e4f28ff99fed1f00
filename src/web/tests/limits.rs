//! What one address may do, and what it is told past that.

use super::*;

#[tokio::test]
async fn one_address_opens_so_many_streams() {
    let server = Server::start().await;
    let (router, uri) = (server.public(), format!("/v1/records/{}/events", "ab".repeat(32)));
    let mut open = Vec::new();
    let refused = loop {
        let response = send(router.clone(), "GET", &uri, &[], "").await;
        if response.status() != 200 {
            break response;
        }
        open.push(response);
    };
    assert_eq!((open.len(), refused.status().as_u16()), (32, 429));
    open.pop();
    assert_eq!(send(router, "GET", &uri, &[], "").await.status(), 200);
}

#[tokio::test]
async fn who_asks_the_dht_too_often_is_told_so() {
    let settings =
        config::Records { lookup_burst: 1, lookups_per_minute: 1, put_burst: 1, ..config::Records::default() };
    let server = Server::start_with(settings).await;
    let uri = |n: u8| format!("/v1/records/{}", hex::encode(&[n; 32]));
    assert_eq!(server.call("GET", &uri(1), "").await.0, 404);
    let response = send(server.public(), "GET", &uri(2), &[], "").await;
    assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (429, Some("5")));
    let body: Value = serde_json::from_slice(&body_of(response).await).unwrap();
    assert_eq!(
        (&body["code"], &body["error"]),
        (&json!(202), &json!("this address has made too many lookups; try again later"))
    );
    assert_eq!(send(admin(server.rooms.clone()), "GET", &uri(2), &[], "").await.status(), 404, "the operator may");
    let put = async |seq| {
        let item = sign(b"", seq, b"le");
        server.call("PUT", &format!("/v1/records/{}", item.key()), record(&item).to_string()).await.0
    };
    assert_eq!((put(1).await, put(2).await, put(1).await), (200, 429, 200));
}

#[tokio::test]
async fn one_network_opens_so_many_streams() {
    let server = Server::start().await;
    let (router, uri) = (server.public(), format!("/v1/records/{}/events", "ab".repeat(32)));
    let mut open = Vec::new();
    for n in 0..40 {
        open.push(send_from(&format!("2001:db8::{n}"), router.clone(), "GET", &uri, &[], "").await);
    }
    let served = open.iter().filter(|response| response.status() == 200).count();
    assert_eq!(served, 32, "all of one IPv6 /64");
    assert_eq!(send_from("2001:db8:0:1::1", router, "GET", &uri, &[], "").await.status(), 200);
}

/// The lookup that a subscription begins with is refused: there is none.
#[tokio::test]
async fn who_may_not_ask_the_dht_does_not_have_it_polled() {
    let settings = config::Records {
        lookup_burst: 1,
        lookups_per_minute: 1,
        poll_quickest: Duration::from_millis(1),
        poll_slowest: Duration::from_millis(1),
        polls_per_second: 1000,
        ..config::Records::default()
    };
    let server = Server::start_with(settings).await;
    let mut page = server.page_from("192.0.2.1").await;
    let [one, two, three] = [b"1", b"2", b"3"].map(|salt| sign(salt, 1, b"le"));
    let announce = |item: &VerifiedItem| {
        let bep46 = json!({"k": item.key().to_hex(), "salt": hex::encode(item.salt().as_bytes())});
        json!({"action": "announce", "info_hash": latin1(item), "peer_id": "-WW0001-000000000000", "bep46": bep46})
    };
    let subscriptions = || server.metric("swarmgate_records_subscriptions");
    page.ask(announce(&one)).await;
    assert_eq!((page.settle().await.len(), subscriptions()), (0, 1));
    page.ask(announce(&two)).await;
    assert_eq!((page.settle().await.len(), page.settle().await.len(), subscriptions()), (0, 0, 1));
    let subscribe = json!({"action": "dht_subscribe", "id": "s", "k": three.key().to_hex(), "salt": "33"});
    assert_eq!((&page.ask(subscribe).await["code"], subscriptions()), (&json!(202), 1));

    // Nor does one that is there already become one that is polled: while the first is, it is not found.
    page.ask(with(announce(&two), "bep46", json!({}))).await;
    page.ask(announce(&two)).await;
    assert_eq!((page.settle().await.len(), page.settle().await.len(), subscriptions()), (0, 0, 2));
    server.network.publish(&two);
    let polls = || server.metric("swarmgate_records_polls_total{result=\"fresh\"}");
    let before = polls();
    while polls() < before + 10 {
        tokio::task::yield_now().await;
    }
    assert!(page.settle().await.is_empty());
}

/// By two sockets and an event stream of one IPv6 /64: announces, subscriptions and streams are counted together.
#[tokio::test]
async fn one_address_follows_so_many_records_over_all_doors() {
    let settings = config::Records { max_subscriptions_per_address: 3, ..config::Records::default() };
    let server = Server::start_with(settings).await;
    let settings = behind_a_proxy();
    let router = server.public_with(&settings);
    let addr = server.listen_with_router(router.clone(), &settings).await;
    let (mut page, mut other) = (page_at(addr, "2001:db8::1").await, page_at(addr, "2001:db8::2").await);
    let [one, two, three, four] = [b"1", b"2", b"3", b"4"].map(|salt| sign(salt, 1, b"le"));
    let subscribe = |item: &VerifiedItem| {
        let salt = hex::encode(item.salt().as_bytes());
        json!({"action": "dht_subscribe", "id": "s", "k": item.key().to_hex(), "salt": salt})
    };
    let announce =
        json!({"action": "announce", "info_hash": latin1(&two), "peer_id": "-WW0001-000000000000", "bep46": {}});
    let events = format!("/v1/records/{}/events?salt=33", three.key());
    let stream = async || send_from("2001:db8::3", router.clone(), "GET", &events, &[], "").await;
    assert_eq!(page.ask(subscribe(&one)).await["found"], false);
    other.ask(announce).await;
    let open = stream().await;
    assert_eq!((open.status().as_u16(), server.metric("swarmgate_records_subscriptions")), (200, 3));

    let refused = page.ask(subscribe(&four)).await;
    let sentence = "this address follows as many records as it may";
    assert_eq!((&refused["code"], &refused["failure reason"]), (&json!(202), &json!(sentence)));
    assert_eq!(stream().await.status(), 429);
    assert_eq!(page_at(addr, "2001:db8:0:1::1").await.ask(subscribe(&four)).await["found"], false, "another network");
    drop(open);
    assert_eq!(page.ask(subscribe(&four)).await["found"], false, "there is room again");
    assert_eq!(other.ask(subscribe(&one)).await["code"], 202);
    drop(page);
    while other.ask(subscribe(&one)).await["found"] != json!(false) {}
}
