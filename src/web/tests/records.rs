//! Records over HTTP and over the socket.

use super::*;

#[tokio::test]
async fn a_record_is_put_and_got() {
    let server = Server::start().await;
    let info_hash = InfoHash([7; 20]);
    let item = sign(b"blog", 4, &pointer::value(&info_hash));
    let uri = format!("/v1/records/{}?salt={}", item.key(), hex::encode(b"blog"));
    assert_eq!(server.call("GET", &uri, "").await.0, 404);
    let (status, stored) = server.call("PUT", &uri, record(&item).to_string()).await;
    assert_eq!((status, stored), (200, json!({"target": item.target().to_hex(), "seq": 4, "stored": 1})));

    let mut expected = record(&item);
    expected["target"] = item.target().to_hex().into();
    expected["ih"] = info_hash.to_hex().into();
    expected["source"] = "cache".into();
    assert_eq!(server.call("GET", &uri, "").await, (200, expected));
    assert_eq!(server.call("GET", &format!("/v1/records/{}", item.key()), "").await.0, 404, "without the salt");

    let response = send(server.public(), "GET", &uri, &[], "").await;
    assert_eq!((header(&response, "etag"), header(&response, "cache-control")), (Some("\"4\""), Some("no-cache")));
    let response = send(server.public(), "GET", &uri, &[("if-none-match", "\"4\"")], "").await;
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    assert!(body_of(response).await.is_empty());
    let response = send(server.public(), "GET", &uri, &[("if-none-match", "\"3\"")], "").await;
    assert_eq!(response.status(), StatusCode::OK);
}

/// Bodies of puts that fail, all to the key of [`sign`], which stands at number 4: what is put, then status and code.
fn bad_puts() -> Vec<(&'static str, Value, u16, Option<i64>)> {
    let good = record(&sign(b"", 5, b"2:hi"));
    let mut flipped = good["sig"].as_str().unwrap().to_owned();
    flipped.replace_range(0..1, if flipped.starts_with('0') { "1" } else { "0" });
    let stranger = hex::encode(SigningKey::from_bytes(&[2; 32]).verifying_key().as_bytes());
    vec![
        ("forged signature", with(good.clone(), "sig", flipped), 400, Some(206)),
        ("another's key", with(good.clone(), "k", stranger), 400, Some(203)),
        ("short signature", with(good.clone(), "sig", "00"), 400, Some(203)),
        (
            "value of 1001 bytes",
            with(good.clone(), "v", hex::encode(format!("997:{}", "x".repeat(997)).as_bytes())),
            400,
            Some(205),
        ),
        ("salt of 65 bytes", with(good.clone(), "salt", "ab".repeat(65)), 400, Some(207)),
        ("keys out of order", with(good.clone(), "v", hex::encode(b"d1:bi1e1:ai2ee")), 400, Some(203)),
        ("not bencode", with(good.clone(), "v", hex::encode(b"junk")), 400, Some(203)),
        ("not hexadecimal", with(good.clone(), "v", "xx"), 400, Some(203)),
        ("negative seq", with(good.clone(), "seq", -1), 400, Some(203)),
        ("seq of 2^53", with(good.clone(), "seq", 1_i64 << 53), 400, Some(203)),
        ("no seq", with(good.clone(), "seq", Value::Null), 400, Some(203)),
        ("seq goes back", record(&sign(b"", 3, b"2:hi")), 409, Some(302)),
        ("cas mismatch", with(good.clone(), "cas", 3), 412, Some(301)),
        ("cas is text", with(good.clone(), "cas", "4"), 400, Some(203)),
        ("not an object", json!([]), 400, Some(203)),
        ("too large", with(good, "later", "x".repeat(9000)), 413, None),
    ]
}

#[tokio::test]
async fn bad_puts_over_http_get_a_status_a_code_and_a_sentence() {
    let server = Server::start().await;
    let known = sign(b"", 4, b"2:v4");
    server.put(&known).await;
    let uri = format!("/v1/records/{}", known.key());
    for (comment, body, status, code) in bad_puts() {
        let (got, error) = server.call("PUT", &uri, body.to_string()).await;
        assert_eq!((got, error["code"].as_i64()), (status, code), "{comment}: {error}");
        assert!(error["error"].as_str().is_some_and(|sentence| sentence.len() > 10), "{comment}: {error}");
        let current = matches!(code, Some(301 | 302)).then(|| record(&known));
        assert_eq!(error.get("current"), current.as_ref(), "{comment}");
        assert_eq!(server.call("GET", &uri, "").await.1["seq"], 4, "{comment}");
    }
    for body in ["junk", "", "\u{0}"] {
        assert_eq!(server.call("PUT", &uri, body).await.0, 400);
    }
    assert_eq!(server.call("PUT", &uri, vec![0xff, 0xfe]).await.0, 400);
}

#[tokio::test]
async fn bad_puts_over_the_socket_get_a_code_and_a_sentence() {
    let server = Server::start().await;
    let known = sign(b"", 4, b"2:v4");
    server.put(&known).await;
    let mut page = server.page().await;
    for (comment, body, _, code) in bad_puts() {
        let Some(code) = code.filter(|_| body.is_object()) else { continue };
        // Over HTTP the address names the key, here only the record does.
        let code = if comment == "another's key" { 206 } else { code };
        let frame = with(with(body, "action", "dht_put"), "id", "x");
        let reply = page.ask(frame).await;
        assert_eq!(reply["code"], code, "{comment}: {reply}");
        assert_eq!((&reply["action"], &reply["id"]), (&json!("dht_put"), &json!("x")), "{comment}");
        assert!(reply["failure reason"].as_str().is_some_and(|sentence| sentence.len() > 10), "{comment}");
        let current = matches!(code, 301 | 302).then(|| record(&known));
        assert_eq!(reply.get("current"), current.as_ref(), "{comment}");
    }
}

#[tokio::test]
async fn the_dht_actions() {
    let server = Server::start().await;
    let mut page = server.page().await;
    let mut ask = async |frame: Value| page.ask(with(frame, "id", "x")).await;
    let item = sign(b"", 4, b"2:v4");
    let (k, target) = (item.key().to_hex(), item.target().to_hex());
    let get = json!({"action": "dht_get", "k": k});

    let info = ask(json!({"action": "dht_info"})).await;
    assert_eq!(info["limits"], json!({"v": 1000, "salt": 64, "seq": 9_007_199_254_740_991_i64, "subscriptions": 256}));
    assert_eq!(info["dht"]["nodes"], 0);
    assert_eq!(ask(get.clone()).await, json!({"action": "dht_get", "id": "x", "found": false, "target": target}));
    let stored = ask(with(record(&item), "action", "dht_put")).await;
    assert_eq!(stored, json!({"action": "dht_put", "id": "x", "target": target, "seq": 4, "stored": 1}));
    let found = ask(get.clone()).await;
    assert_eq!((&found["sig"], &found["source"]), (&record(&item)["sig"], &json!("cache")));
    assert_eq!(
        ask(with(get.clone(), "seq", 4)).await,
        json!({"action": "dht_get", "id": "x", "found": true, "target": target, "seq": 4, "unchanged": true})
    );
    assert_eq!(ask(with(get.clone(), "seq", 3)).await["v"], record(&item)["v"]);

    let stored = ask(json!({"action": "dht_put", "v": hex::encode(b"2:hi")})).await;
    let value = ask(json!({"action": "dht_get", "target": stored["target"]})).await;
    assert_eq!((&value["found"], &value["v"]), (&json!(true), &json!(hex::encode(b"2:hi"))));
    assert_eq!(ask(json!({"action": "dht_get", "target": "00".repeat(20)})).await["found"], false);
    assert_eq!(ask(json!({"action": "dht_dance"})).await["code"], 204);

    server.network.silent.store(true, SeqCst);
    tokio::time::pause();
    let reply = ask(json!({"action": "dht_get", "k": hex::encode(&[9; 32])})).await;
    assert_eq!((&reply["code"], &reply["failure reason"]), (&json!(202), &json!("the DHT did not answer in time")));
}

/// More than a socket may have under way, in one go: what the server holds takes no place among those.
#[tokio::test]
async fn what_the_server_holds_is_answered_in_order_however_much_is_asked() {
    let server = Server::start().await;
    let item = sign(b"n", 4, b"le");
    server.put(&item).await;
    let mut page = server.page().await;
    for id in 0..300 {
        page.send(json!({"action": "dht_get", "id": id.to_string(), "k": item.key().to_hex(), "salt": "6e"})).await;
    }
    for id in 0..300 {
        let reply = page.receive().await;
        assert_eq!((&reply["id"], &reply["seq"]), (&json!(id.to_string()), &json!(4)));
    }
}

/// The lookup that a subscription waits for is under way when it is ended.
#[tokio::test]
async fn what_is_subscribed_and_unsubscribed_in_one_go_is_not_followed() {
    let server = Server::start().await;
    let mut page = server.page().await;
    for action in ["dht_subscribe", "dht_unsubscribe"] {
        page.send(json!({"action": action, "id": action, "k": sign(b"", 1, b"le").key().to_hex()})).await;
    }
    for _ in 0..2 {
        assert_eq!(page.receive().await["failure reason"], Value::Null);
    }
    assert_eq!(server.rooms.metrics.records.followers.get(), 0);
}

#[tokio::test]
async fn addresses_that_make_no_sense() {
    let server = Server::start().await;
    let key = "ab".repeat(32);
    let wrong_query = "max_age must be a whole number of seconds, min_seq a sequence number, and mode cache_first, cache_only or network";
    let table = [
        (
            "GET",
            format!("/v1/records/{}", "ab".repeat(31)),
            400,
            json!(203),
            "a public key must be 32 bytes (64 hexadecimal digits)",
        ),
        (
            "GET",
            format!("/v1/records/{}", "zz".repeat(32)),
            400,
            json!(203),
            "a public key must be 32 bytes (64 hexadecimal digits)",
        ),
        (
            "GET",
            format!("/v1/records/{key}?salt=xyz"),
            400,
            json!(203),
            "the field \"salt\" must be hexadecimal, two digits a byte",
        ),
        (
            "GET",
            format!("/v1/records/{key}?salt={}", "ab".repeat(65)),
            400,
            json!(207),
            "the salt is larger than 64 bytes",
        ),
        ("GET", format!("/v1/records/{key}?max_age=-1"), 400, json!(203), wrong_query),
        ("GET", format!("/v1/records/{key}?max_age=x"), 400, json!(203), wrong_query),
        ("GET", format!("/v1/records/{key}"), 404, Value::Null, "no record of this key and salt was found"),
        ("GET", format!("/v1/records/{key}?mode=later"), 400, json!(203), wrong_query),
        (
            "GET",
            format!("/v1/records/{key}/events?salt=xyz"),
            400,
            json!(203),
            "the field \"salt\" must be hexadecimal, two digits a byte",
        ),
        ("GET", "/v1/nothing".to_owned(), 404, Value::Null, "there is nothing at this address"),
        ("GET", "/v1".to_owned(), 404, Value::Null, "there is nothing at this address"),
        ("DELETE", format!("/v1/records/{key}"), 405, Value::Null, "this address takes GET and PUT"),
        ("POST", format!("/v1/records/{key}"), 405, Value::Null, "this address takes GET and PUT"),
    ];
    for (method, uri, status, code, sentence) in table {
        let (got, error) = server.call(method, &uri, "").await;
        assert_eq!((got, &error["code"], &error["error"]), (status, &code, &json!(sentence)), "{method} {uri}");
        let admin = send(admin(server.rooms.clone()), method, &uri, &[], "").await;
        assert_eq!(admin.status(), status, "admin {method} {uri}");
    }
}

#[tokio::test]
async fn pages_of_every_origin_may_use_records() {
    let server = Server::start().await;
    let uri = format!("/v1/records/{}", "ab".repeat(32));
    for (method, status) in [("OPTIONS", 204), ("GET", 404), ("PUT", 400), ("DELETE", 405)] {
        let response = send(server.public(), method, &uri, &[("origin", "https://example.org")], "").await;
        assert_eq!(response.status(), status);
        assert_eq!(header(&response, "access-control-allow-origin"), Some("*"), "{method}");
    }
    let preflight = send(server.public(), "OPTIONS", &uri, &[], "").await;
    assert_eq!(header(&preflight, "access-control-allow-methods"), Some("GET, HEAD, PUT"));
    assert_eq!(header(&preflight, "access-control-allow-headers"), Some("content-type, if-none-match, last-event-id"));
    let response = send(server.public(), "GET", "/stats.json", &[], "").await;
    assert_eq!(header(&response, "access-control-allow-origin"), None);
}
