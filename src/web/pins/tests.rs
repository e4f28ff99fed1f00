//! The pin API over a bridge and records that know nobody: what is asked, what is answered, and who may ask.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::Request;
use futures_util::StreamExt;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

use super::*;
use crate::bridge::{self, Bridge};
use crate::dht::{Dht, Mode};
use crate::metrics::Metrics;
use crate::records::Records;
use crate::records::memory_dht::MemoryDht;
use crate::tasks::Tasks;
use crate::tracker::Tracker;
use crate::{config, metrics, web};

const HASH: &str = "c9e15763f722f23e98a29decdfae341b98d53056";
const KEY: &str = "8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e";

struct Server {
    public: Router,
    admin: Router,
    tasks: Tasks,
    _directory: TempDir,
}

impl Server {
    async fn start() -> Self {
        let (tasks, directory, metrics) = (Tasks::new(), tempfile::tempdir().unwrap(), Arc::new(Metrics::default()));
        let free: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        let settings = config::Dht { listen: free.into(), bootstrap: Vec::new(), ..config::Dht::default() };
        let dht = Dht::start(&settings, Mode::Client, None, metrics::Dht::detached(), &tasks).await.unwrap();
        let network = Arc::new(MemoryDht::default());
        let records = config::Records::default();
        let records = Records::start_on(network, &records, directory.path(), metrics.records.clone(), &tasks);
        let records = records.await.unwrap();
        let tracker = Tracker::start(&config::Tracker::default(), metrics.tracker.clone(), &tasks);
        let rooms = bridge::Rooms { dht: dht.clone(), tracker: None, gossip: None, allowed: Arc::new(|_| false) };
        let doors = bridge::Settings {
            bittorrent: config::BitTorrent { listen: free, ..config::BitTorrent::default() },
            webrtc: config::WebRtc { listen: free, ..config::WebRtc::default() },
            ..bridge::Settings::default()
        };
        let data_dir = directory.path().to_owned();
        let bridge = Bridge::start(doors, data_dir.clone(), rooms, metrics.bridge.clone(), &tasks).await.unwrap();
        let pins = config::Pins::default();
        let pins = Pins::start(&pins, &data_dir, records.clone(), bridge, metrics.pins.clone(), &tasks).await.unwrap();
        let ice = web::Ice::new(&config::WebRtc::default(), None);
        let rooms = web::Rooms { tracker, records, dht, ice, metrics, tasks: tasks.clone(), pins: Some(pins) };
        let public = web::public(rooms.clone(), &config::Web::default());
        Self { public, admin: web::admin(rooms), tasks, _directory: directory }
    }

    /// A token, as the operator makes it.
    async fn token(&self, body: Value) -> String {
        let made = Call::new("POST", "/v1/tokens").json(&body).send(&self.admin).await;
        assert_eq!(made.status, 201, "{}", made.body);
        made.body["token"].as_str().unwrap().to_owned()
    }
}

/// A request under construction.
struct Call(axum::http::request::Builder, Body);

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Call {
    fn new(method: &str, uri: &str) -> Self {
        Self(Request::builder().method(method).uri(uri).header("host", "127.0.0.1:1"), Body::empty())
    }

    fn with(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value), self.1)
    }

    fn json(self, body: &Value) -> Self {
        Self(self.0.header("content-type", "application/json"), Body::from(body.to_string()))
    }

    async fn send(self, router: &Router) -> Reply {
        let mut request = self.0.body(self.1).unwrap();
        let from: std::net::SocketAddr = "198.51.100.7:5000".parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(from));
        let response = router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or_default();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body }
    }
}

impl Reply {
    /// The problem's name.
    fn problem(&self) -> (u16, &str) {
        let name = self.body["type"].as_str().and_then(|name| name.rsplit(':').next()).unwrap_or_default();
        (self.status, name)
    }
}

#[tokio::test]
async fn a_pin_is_made_once_changed_by_who_saw_it_and_deleted() {
    let server = Server::start().await;
    let token = server.token(json!({})).await;
    let call = |method: &str, uri: &str| Call::new(method, uri).with(&token);
    let body = json!({ "target": format!("magnet:?xs=urn:btpk:{KEY}&dn=Tides"), "keep": { "versions": 1 } });
    let made = call("POST", "/v1/pins").header("idempotency-key", "k").json(&body).send(&server.public).await;
    assert_eq!((made.status, made.body["name"].as_str()), (201, Some("Tides")), "{}", made.body);
    let location = made.headers["location"].to_str().unwrap().to_owned();
    for key in ["k", "another"] {
        let again = call("POST", "/v1/pins").header("idempotency-key", key).json(&body).send(&server.public).await;
        assert_eq!((again.status, &again.body["id"]), (200, &made.body["id"]));
    }
    let other = call("POST", "/v1/pins").header("idempotency-key", "k").json(&json!({ "target": HASH }));
    assert_eq!(other.send(&server.public).await.problem(), (422, "idempotency-key-reused"));

    let seen = call("GET", &location).send(&server.public).await;
    let etag = seen.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(seen.body["keep"], json!({ "versions": 1, "days": 30 }));
    let change = json!({ "meta": { "k": "v" }, "expires": "2100-01-01T00:00:00Z", "priority": -3 });
    let stale = call("PATCH", &location).header("if-match", "\"999\"").json(&change).send(&server.public).await;
    assert_eq!(stale.problem(), (412, "changed"));
    let seen = call("GET", &location).send(&server.public).await;
    let changed = call("PATCH", &location).header("if-match", seen.headers["etag"].to_str().unwrap()).json(&change);
    let changed = changed.send(&server.public).await;
    assert_eq!((changed.status, &changed.body["meta"]), (200, &json!({ "k": "v" })), "{}", changed.body);
    assert_ne!(changed.headers["etag"].to_str().unwrap(), etag);
    let lasting = call("PATCH", &location).json(&json!({ "expires": null })).send(&server.public).await;
    assert_eq!((&lasting.body["expires"], &lasting.body["priority"]), (&Value::Null, &json!(-3)));

    assert_eq!(call("DELETE", &location).send(&server.public).await.status, 204);
    assert_eq!(call("GET", &location).send(&server.public).await.problem(), (404, "no-such-pin"));
    server.tasks.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn nobody_touches_what_is_anothers() {
    let server = Server::start().await;
    let (a, b) = (server.token(json!({ "name": "a" })).await, server.token(json!({})).await);
    let reader = server.token(json!({ "read_only": true })).await;
    let body = json!({ "target": HASH });
    let made = Call::new("POST", "/v1/pins").with(&a).json(&body).send(&server.public).await;
    let id = made.body["id"].as_str().unwrap();
    let table = [
        ("GET", String::new()),
        ("PATCH", String::new()),
        ("DELETE", String::new()),
        ("GET", "/versions".into()),
        ("POST", "/versions/0/restore".into()),
        ("POST", "/verify".into()),
        ("POST", "/recover".into()),
        ("POST", "/republish".into()),
    ];
    for (method, path) in &table {
        let uri = format!("/v1/pins/{id}{path}");
        let anothers = Call::new(method, &uri).with(&b).json(&json!({})).send(&server.public).await;
        assert_eq!(anothers.problem(), (404, "no-such-pin"), "{method} {path}");
        let nobody = Call::new(method, &uri).json(&json!({})).send(&server.public).await;
        assert_eq!(nobody.problem(), (401, "unauthorised"), "{method} {path}");
        assert!(nobody.headers.contains_key("www-authenticate"));
        if *method != "GET" {
            let may_not = Call::new(method, &uri).with(&reader).json(&json!({})).send(&server.public).await;
            assert_eq!(may_not.problem(), (403, "read-only"), "{method} {path}");
        }
    }
    let mine = Call::new("GET", "/v1/pins").with(&b).send(&server.public).await;
    assert_eq!(mine.body, json!({ "pins": [], "next": null }));
    let all = Call::new("GET", "/v1/pins").send(&server.admin).await;
    assert_eq!(all.body["pins"].as_array().unwrap().len(), 1, "the operator sees everything");

    for uri in [format!("/v1/pins?token={a}"), format!("/v1/pins?x={a}"), "/v1/usage?access_token=x".to_owned()] {
        let told = Call::new("GET", &uri).with(&a).send(&server.public).await;
        assert_eq!(told.problem(), (400, "token-in-query"), "{uri}");
    }
    for wrong in ["x", "", &a[..a.len() - 2], &format!("{a}x")] {
        let told = Call::new("GET", "/v1/pins").with(wrong).send(&server.public).await;
        assert_eq!(told.problem(), (401, "unauthorised"), "{wrong}");
    }
    assert_eq!(Call::new("POST", "/v1/tokens").json(&json!({})).send(&server.public).await.status, 404);
    let rebound = Request::builder().method("GET").uri("/v1/tokens").header("host", "evil.example:8081");
    let rebound = Call(rebound, Body::empty()).send(&server.admin).await;
    assert_eq!(rebound.problem(), (403, "wrong-host"));

    let tokens = Call::new("GET", "/v1/tokens").send(&server.admin).await;
    let first = &tokens.body["tokens"][0];
    assert!(first.get("token").is_none(), "{first}");
    let revoke = format!("/v1/tokens/{}?with_pins=true", a.split('_').nth(1).unwrap());
    assert_eq!(Call::new("DELETE", &revoke).send(&server.admin).await.status, 204);
    assert_eq!(Call::new("GET", "/v1/pins").with(&a).send(&server.public).await.status, 401);
    let all = Call::new("GET", "/v1/pins").send(&server.admin).await;
    assert_eq!(all.body["pins"], json!([]));
    server.tasks.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn events_end_with_the_token_and_one_token_has_so_many_streams() {
    let server = Server::start().await;
    let token = server.token(json!({})).await;
    let open = async || {
        let mut request = Call::new("GET", "/v1/events").with(&token).0.body(Body::empty()).unwrap();
        request.extensions_mut().insert(ConnectInfo(std::net::SocketAddr::from(([198, 51, 100, 7], 5000))));
        server.public.clone().oneshot(request).await.unwrap()
    };
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(open().await.into_body().into_data_stream());
    }
    assert_eq!(open().await.status(), 503);
    let mut stream = streams.pop().unwrap();
    assert_eq!(open().await.status(), 503, "while it is held");
    let mut next = async || tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("in time");
    assert_eq!(next().await.unwrap().unwrap(), ":\n\n");
    let pin = Call::new("POST", "/v1/pins").json(&json!({ "target": HASH }));
    assert_eq!(pin.with(&token).send(&server.public).await.status, 201);
    assert!(next().await.unwrap().unwrap().starts_with(b"id: "));
    let revoke = format!("/v1/tokens/{}", token.split('_').nth(1).unwrap());
    assert_eq!(Call::new("DELETE", &revoke).send(&server.admin).await.status, 204);
    let other = Call::new("POST", "/v1/pins").json(&json!({ "target": KEY }));
    assert_eq!(other.send(&server.admin).await.status, 201);
    assert!(next().await.is_none(), "what happens now is not for whoever had it");
    server.tasks.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn nonsense_gets_a_problem_with_a_sentence() {
    let server = Server::start().await;
    let token = server.token(json!({ "limits": { "pins": 3 } })).await;
    let table = [
        (json!({}), (400, "bad-request")),
        (json!([]), (400, "bad-request")),
        (json!({ "target": "x" }), (422, "invalid-target")),
        (json!({ "target": HASH, "salt": "00" }), (422, "invalid-target")),
        (json!({ "target": KEY, "salt": "0" }), (422, "invalid-target")),
        (json!({ "target": HASH, "colour": "red" }), (400, "bad-request")),
        (json!({ "target": HASH, "keep": { "versions": 101 } }), (422, "invalid-setting")),
        (json!({ "target": HASH, "expires": "1999-01-01T00:00:00Z" }), (422, "invalid-setting")),
        (json!({ "target": HASH, "expires": "tomorrow" }), (422, "invalid-setting")),
        (json!({ "target": HASH, "origins": ["example.org:1"] }), (400, "bad-request")),
        (json!({ "target": HASH, "priority": 300 }), (400, "bad-request")),
    ];
    for (body, expected) in table {
        let told = Call::new("POST", "/v1/pins").with(&token).json(&body).send(&server.public).await;
        assert_eq!(told.problem(), expected, "{body}: {}", told.body);
        assert_eq!(told.headers["content-type"], "application/problem+json");
    }
    let plain = Call::new("POST", "/v1/pins").with(&token);
    assert_eq!(Call(plain.0, Body::from("{}")).send(&server.public).await.problem(), (415, "not-json"));
    let long = json!({ "target": HASH, "name": "x".repeat(MAX_BODY) });
    let long = Call::new("POST", "/v1/pins").with(&token).json(&long).send(&server.public).await;
    assert_eq!(long.problem(), (413, "too-large"));
    for uri in ["/v1/pins?limit=0", "/v1/pins?limit=x", "/v1/pins?cursor=x", "/v1/pins?status=x", "/v1/pins?colour=x"] {
        let told = Call::new("GET", uri).with(&token).send(&server.public).await;
        assert_eq!(told.problem(), (400, "bad-request"), "{uri}");
    }
    let told = Call::new("PUT", "/v1/pins").with(&token).send(&server.public).await;
    assert_eq!(told.problem(), (405, "method-not-allowed"));

    for n in 0..3 {
        let body = json!({ "target": format!("{n:040x}") });
        assert_eq!(Call::new("POST", "/v1/pins").with(&token).json(&body).send(&server.public).await.status, 201);
    }
    let told = Call::new("POST", "/v1/pins").with(&token).json(&json!({ "target": HASH })).send(&server.public).await;
    assert_eq!(told.problem(), (403, "over-quota"));
    let mut seen = Vec::new();
    let mut uri = "/v1/pins?limit=2".to_owned();
    loop {
        let page = Call::new("GET", &uri).with(&token).send(&server.public).await;
        seen.extend(page.body["pins"].as_array().unwrap().iter().map(|pin| pin["id"].clone()));
        let Some(next) = page.body["next"].as_str() else { break };
        uri = format!("/v1/pins?limit=2&cursor={next}");
    }
    assert_eq!(seen.len(), 3, "pages lose nothing and repeat nothing");
    server.tasks.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn a_list_is_of_what_is_asked_for() {
    let server = Server::start().await;
    let token = server.token(json!({})).await;
    let site = json!({ "target": KEY, "salt": "6e", "name": "Tide tables" });
    for body in [json!({ "target": HASH, "name": "Tides & more" }), site, json!({ "target": KEY })] {
        let made = Call::new("POST", "/v1/pins").with(&token).json(&body).send(&server.public).await;
        assert_eq!(made.status, 201, "{}", made.body);
    }
    let link = format!("magnet%3A%3Fxs%3Durn%3Abtpk%3A{KEY}%26s%3D6e");
    let table = [
        (String::new(), 3),
        ("&status=pinned".into(), 0),
        ("&status=queued,resolving,failed".into(), 3),
        ("&name=Tide".into(), 2),
        (format!("&target={HASH}"), 1),
        (format!("&target={KEY}"), 1),
        (format!("&target={KEY}&salt=6e&name=tables"), 1),
        (format!("&target={link}"), 1),
        (format!("&target={KEY}&salt=6f"), 0),
    ];
    for (query, expected) in table {
        let uri = format!("/v1/pins?limit=10{query}");
        let found = Call::new("GET", &uri).with(&token).send(&server.public).await;
        assert_eq!(found.body["pins"].as_array().map(Vec::len), Some(expected), "{query}: {}", found.body);
    }
    let page = Call::new("GET", "/v1/pins?limit=1&name=Tide").with(&token).send(&server.public).await;
    let link = page.headers["link"].to_str().unwrap();
    let next = link.strip_prefix('<').and_then(|rest| rest.strip_suffix(">; rel=\"next\"")).unwrap();
    let last = Call::new("GET", next).with(&token).send(&server.public).await;
    let mut names = [page, last].map(|page| page.body["pins"][0]["name"].as_str().unwrap().to_owned());
    names.sort();
    assert_eq!(names, ["Tide tables", "Tides & more"], "the address of the next page has the filters");
    for query in ["salt=6e", "status=pinned,", "status=", "target=x", &format!("target={HASH}&salt=6e")] {
        let told = Call::new("GET", &format!("/v1/pins?{query}")).with(&token).send(&server.public).await;
        assert!(matches!(told.problem(), (400, "bad-request") | (422, "invalid-target")), "{query}: {}", told.body);
    }
    server.tasks.stop(Duration::from_secs(10)).await;
}

/// Wherever a token is asked for, it is refused in the address, whatever it is called, and whether or not it is real.
#[tokio::test]
async fn a_token_in_an_address_is_refused_everywhere() {
    let server = Server::start().await;
    let token = server.token(json!({})).await;
    let document = Call::new("GET", "/v1/openapi.json").send(&server.public).await.body;
    let mut tried = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        // The document itself is for everybody.
        let described = ["get", "post", "patch", "delete"].into_iter().filter(|_| path != "/v1/openapi.json");
        for method in described.filter(|method| operations.get(method).is_some()) {
            let path = path.replace("{id}", &"0".repeat(32)).replace("{seq}", "1");
            for query in [format!("token={token}"), "access_token=x".into(), format!("x=1&y={token}"), "Bearer=".into()]
            {
                let uri = format!("{path}?{query}");
                for call in
                    [Call::new(&method.to_uppercase(), &uri), Call::new(&method.to_uppercase(), &uri).with(&token)]
                {
                    let told = call.json(&json!({ "target": HASH })).send(&server.public).await;
                    assert_eq!(told.problem(), (400, "token-in-query"), "{method} {uri}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried >= 12 * 8, "{tried}");
    server.tasks.stop(Duration::from_secs(10)).await;
}

/// What the document describes is there, and says what it takes when it is asked otherwise.
#[tokio::test]
async fn the_document_is_of_this_api() {
    let server = Server::start().await;
    let token = server.token(json!({})).await;
    let document = Call::new("GET", "/v1/openapi.json").send(&server.public).await.body;
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 9);
    let methods = ["get", "post", "patch", "delete", "put"];
    for (path, operations) in paths {
        let uri = path.replace("{id}", &"0".repeat(32)).replace("{seq}", "1");
        for method in methods {
            if path == "/v1/events" && method == "get" {
                continue; // It stays open.
            }
            let upper = method.to_uppercase();
            let told = Call::new(&upper, &uri).with(&token).json(&json!({})).send(&server.public).await;
            let described = operations.get(method).is_some();
            assert_eq!(told.status != 405, described, "{upper} {path}: {}", told.status);
            if described {
                let answers = operations[method]["responses"].as_object().unwrap();
                assert!(answers.contains_key(&told.status.to_string()), "{upper} {path}: {}", told.status);
            }
        }
    }
    server.tasks.stop(Duration::from_secs(10)).await;
}
