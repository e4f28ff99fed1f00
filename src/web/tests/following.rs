//! Following records over the socket, in announces and as events; and quotas.

use futures_util::FutureExt;

use super::*;

#[tokio::test]
async fn subscribers_are_pushed_each_newer_version() {
    let server = Server::start().await;
    let (mut page, mut other) = (server.page().await, server.page().await);
    let [one, two, three] = [1, 2, 3].map(|seq| sign(b"", seq, b"le"));
    let (k, target) = (one.key().to_hex(), one.target().to_hex());
    let subscribe = json!({"action": "dht_subscribe", "id": "s", "k": k});
    assert_eq!(
        page.ask(subscribe.clone()).await,
        json!({"action": "dht_subscribe", "id": "s", "found": false, "target": target})
    );
    server.put(&one).await;
    let update = |item: &VerifiedItem| with(with(record(item), "action", "dht_update"), "target", target.clone());
    assert_eq!(page.receive().await, update(&one));
    assert_eq!(other.ask(with(subscribe.clone(), "seq", 0)).await["seq"], 1);
    assert_eq!(other.ask(with(subscribe.clone(), "seq", 1)).await["unchanged"], true, "twice is once");
    server.put(&two).await;
    assert_eq!((page.receive().await, other.receive().await), (update(&two), update(&two)));
    let end = json!({"action": "dht_unsubscribe", "id": "u", "k": k});
    for _ in 0..2 {
        assert_eq!(page.ask(end.clone()).await, json!({"action": "dht_unsubscribe", "id": "u", "target": target}));
    }
    server.put(&three).await;
    assert_eq!(other.receive().await, update(&three));
    assert_eq!(page.ask(json!({"action": "dht_info", "id": "i"})).await["id"], "i", "nothing more came");
    let followers = || server.rooms.metrics.text().contains("swarmgate_records_subscriptions 1\n");
    assert!(followers());
    drop(other);
    while followers() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_slow_reader_sees_only_the_newest() {
    let server = Server::start().await;
    let mut page = server.page().await;
    let item = |seq| sign(b"", seq, format!("900:{}", "x".repeat(900)).as_bytes());
    page.ask(json!({"action": "dht_subscribe", "id": "s", "k": item(0).key().to_hex()})).await;
    // The test runs on one thread, and nothing here waits: the page's session cannot write before the last is known.
    let last = 100;
    for seq in 1..=last {
        assert_eq!(server.rooms.records.learn(item(seq)).now_or_never(), Some(true));
    }
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        seen.push(page.receive().await["seq"].as_i64().unwrap());
    }
    assert_eq!(seen, [last]);
}

#[tokio::test]
async fn a_connection_follows_so_many_records() {
    let server = Server::start().await;
    let mut page = server.page().await;
    let k = sign(b"", 1, b"le").key().to_hex();
    let subscribe = |n: usize| json!({"action": "dht_subscribe", "id": "s", "k": k, "salt": format!("{n:04x}")});
    for n in 0..MAX_SUBSCRIPTIONS {
        assert_eq!(page.ask(subscribe(n)).await["found"], false);
    }
    let refused = page.ask(subscribe(MAX_SUBSCRIPTIONS)).await;
    assert_eq!((&refused["code"], &refused["id"]), (&json!(202), &json!("s")));
    assert_eq!(page.ask(subscribe(0)).await["found"], false, "what it follows it may ask for again");
}

#[tokio::test]
async fn an_announce_carries_the_record() {
    let server = Server::start().await;
    let mut page = server.page().await;
    let [one, two, three] = [1, 2, 3].map(|seq| sign(b"", seq, b"le"));
    server.put(&one).await;
    let announce = |bep46: Value| json!({"action": "announce", "info_hash": latin1(&one), "peer_id": "-WW0001-000000000000", "bep46": bep46});
    let plain = page.ask(announce(json!({"seq": "junk"}))).await;
    assert_eq!((&plain["incomplete"], plain.get("bep46")), (&json!(1), None), "nonsense is ignored");
    let carries = |item: &VerifiedItem| with(plain.clone(), "bep46", record(item));
    assert_eq!(page.ask(announce(json!({}))).await, plain);
    assert_eq!(page.receive().await, carries(&one), "at once");
    server.put(&two).await;
    assert_eq!(page.receive().await, carries(&two), "and later");
    assert_eq!(page.ask(announce(json!({"seq": 2, "k": two.key().to_hex()}))).await, plain);
    page.ask(with(announce(json!({"seq": 2})), "event", "stopped")).await;
    assert_eq!(page.ask(json!({"action": "dht_info", "id": "i"})).await["id"], "i");
    server.put(&three).await;
    assert_eq!(page.ask(json!({"action": "dht_info", "id": "j"})).await["id"], "j", "who left hears no more");
}

/// A page that names the key in a later announce only, and one that comes twice.
#[tokio::test]
async fn an_announce_that_comes_to_name_the_key_has_the_dht_asked() {
    let settings = config::Records { poll_quickest: Duration::from_millis(10), ..config::Records::default() };
    let server = Server::start_with(settings).await;
    let mut page = server.page().await;
    let one = sign(b"", 1, b"le");
    let announce = |bep46: Value| json!({"action": "announce", "info_hash": latin1(&one), "peer_id": "-WW0001-000000000000", "bep46": bep46});
    page.ask(announce(json!({}))).await;
    page.ask(announce(json!({"k": one.key().to_hex()}))).await;
    assert!(page.settle().await.is_empty(), "nobody has it");
    server.network.publish(&one);
    let pushed = tokio::time::timeout(Duration::from_secs(10), page.receive()).await.expect("a poll finds it");
    assert_eq!(pushed["bep46"], record(&one));
}

#[tokio::test]
async fn a_socket_follows_until_its_last_peer_leaves_the_swarm() {
    let server = Server::start().await;
    let mut page = server.page().await;
    let [one, two] = [1, 2].map(|seq| sign(b"", seq, b"le"));
    let announce = |peer: char, event: &str| json!({"action": "announce", "info_hash": latin1(&one), "peer_id": peer.to_string().repeat(20), "event": event, "bep46": {}});
    page.ask(announce('a', "started")).await;
    page.ask(announce('b', "started")).await;
    page.ask(announce('a', "stopped")).await;
    page.ask(announce('c', "stopped")).await;
    server.put(&one).await;
    assert_eq!(page.receive().await["bep46"], record(&one), "b is still there");
    page.ask(announce('b', "stopped")).await;
    server.put(&two).await;
    assert_eq!((page.settle().await.len(), server.metric("swarmgate_records_subscriptions")), (0, 0));
}

#[tokio::test]
async fn an_answer_follows_nothing() {
    let server = Server::start().await;
    let mut page = server.page().await;
    let one = sign(b"", 1, b"le");
    let peer = "-WW0001-000000000000";
    let answer = json!({
        "action": "announce", "info_hash": latin1(&one), "peer_id": peer, "to_peer_id": peer, "offer_id": peer,
        "answer": {"type": "answer", "sdp": ""}, "bep46": {"k": one.key().to_hex()},
    });
    page.send(answer).await;
    assert_eq!((page.settle().await.len(), page.settle().await.len()), (0, 0));
    assert_eq!(server.metric("swarmgate_records_subscriptions"), 0);
    assert_eq!(server.network.gets.load(SeqCst), 0);
}

/// A second value with a number that a reader has already: whichever he has, he is sent what stands.
#[tokio::test]
async fn who_has_the_number_is_sent_the_value_that_won() {
    let server = Server::start().await;
    let [smaller, larger] = [b"1:a", b"1:b"].map(|v| sign(b"", 5, v));
    let uri = format!("/v1/records/{}", larger.key());
    let tagged = async |held: &str| {
        let response = send(server.public(), "GET", &uri, &[("if-none-match", held)], "").await;
        (response.status().as_u16(), header(&response, "etag").unwrap().to_owned())
    };
    server.put(&smaller).await;
    assert_eq!((tagged("\"4\"").await, tagged("\"5\"").await), ((200, "\"5\"".into()), (304, "\"5\"".into())));
    server.put(&larger).await;
    let (status, tag) = tagged("\"5\"").await;
    assert!(status == 200 && tag.starts_with("\"5-"), "{status} {tag}");
    assert_eq!(tagged(&tag).await, (304, tag));

    let mut page = server.page().await;
    let found = page.ask(json!({"action": "dht_get", "id": "g", "k": larger.key().to_hex(), "seq": 5})).await;
    assert_eq!((&found["v"], &found["conflict"]), (&record(&larger)["v"], &json!(true)));
    let later = page.ask(json!({"action": "dht_get", "id": "g", "k": larger.key().to_hex(), "seq": 6})).await;
    assert_eq!(later["unchanged"], true);
    let announce = json!({"action": "announce", "info_hash": latin1(&larger), "peer_id": "-WW0001-000000000000", "bep46": {"seq": 5}});
    page.ask(announce).await;
    let settled = page.settle().await;
    assert_eq!(settled.iter().map(|frame| &frame["bep46"]).collect::<Vec<_>>(), [&record(&larger)]);
    let events = send(server.public(), "GET", &format!("{uri}/events"), &[("last-event-id", "5")], "").await;
    let first = events.into_body().into_data_stream().next().now_or_never().flatten().expect("at once").unwrap();
    assert!(first.starts_with(b"id: 5\n"), "{first:?}");
}

#[tokio::test]
async fn a_record_as_events() {
    let server = Server::start().await;
    let [one, two, three] = [1, 2, 3].map(|seq| sign(b"n", seq, b"le"));
    server.put(&one).await;
    let uri = format!("/v1/records/{}/events?salt=6e", one.key());
    let open = async |headers: &[(&str, &str)]| {
        let response = send(server.public(), "GET", &uri, headers, "").await;
        assert_eq!(header(&response, "content-type"), Some("text/event-stream"));
        assert_eq!(header(&response, "access-control-allow-origin"), Some("*"));
        response.into_body().into_data_stream()
    };
    let event = |item: &VerifiedItem| {
        let data = with(with(record(item), "target", item.target().to_hex()), "ih", Value::Null);
        (item.seq(), data)
    };
    let next = async |stream: &mut axum::body::BodyDataStream| {
        let text = String::from_utf8(stream.next().await.unwrap().unwrap().to_vec()).unwrap();
        let (id, data) = text.strip_prefix("id: ").unwrap().split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap();
        (id.parse::<i64>().unwrap(), data)
    };
    let mut stream = open(&[]).await;
    assert_eq!(next(&mut stream).await, event(&one), "the newest first");
    let mut again = open(&[("last-event-id", "1")]).await;
    server.put(&two).await;
    assert_eq!(next(&mut stream).await, event(&two), "then live");
    server.put(&three).await;
    assert_eq!(next(&mut again).await, event(&three), "who has not read sees only the newest");
    assert_eq!(next(&mut stream).await, event(&three));
    tokio::time::pause();
    assert_eq!(stream.next().await.unwrap().unwrap(), b":\n\n".as_slice(), "a sign of life");
    server.rooms.tasks.token().cancel();
    assert!(stream.next().await.is_none());
}
