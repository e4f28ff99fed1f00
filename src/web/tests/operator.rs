//! What the operator denies, and allows again.

use super::*;

#[tokio::test]
async fn the_operator_denies_a_torrent_and_allows_it_again() {
    let server = Server::start().await;
    let hash = "ab".repeat(20);
    let announce = format!("/announce?info_hash={}&peer_id=-XX0000-abcdefghijkl&port=1", "%ab".repeat(20));
    let on_admin = async |method: &str, uri: &str| -> (u16, Value) {
        let response = send(admin(server.rooms.clone()), method, uri, &[], "").await;
        (response.status().as_u16(), serde_json::from_slice(&body_of(response).await).unwrap_or_default())
    };
    let announced = async || body_of(send(server.public(), "GET", &announce, &[], "").await).await;
    let uri = format!("/v1/tracker/denied/{hash}");
    assert_eq!(on_admin("GET", &uri).await, (404, json!({"error": "this info hash is not on the list"})));
    assert!(announced().await.starts_with(b"d8:complete"));
    assert_eq!(on_admin("PUT", &uri).await.0, 204);
    assert_eq!(announced().await, b"d14:failure reason40:this tracker does not serve this torrente");
    let entry = json!({"infohash": hash, "source": "api"});
    assert_eq!(on_admin("GET", &uri).await, (200, entry.clone()));
    assert_eq!(on_admin("GET", "/v1/tracker/denied").await, (200, json!({"infohashes": [entry]})));
    assert_eq!(on_admin("GET", "/v1/tracker/allowed").await, (200, json!({"infohashes": []})));
    assert_eq!(on_admin("DELETE", &uri).await.0, 204);
    assert_eq!(on_admin("DELETE", &uri).await.0, 404);
    assert!(announced().await.starts_with(b"d8:complete"));

    assert_eq!(on_admin("PUT", "/v1/tracker/denied/xyz").await.0, 400);
    assert_eq!(on_admin("PUT", &uri.replace("denied", "other")).await.0, 404);
    for method in ["GET", "PUT", "DELETE"] {
        assert_eq!(send(server.public(), method, &uri, &[], "").await.status(), 404, "the public has no say");
    }
}

#[tokio::test]
async fn other_peoples_pages_do_not_reach_the_operators_api() {
    let server = Server::start().await;
    let record = format!("/v1/records/{}", "ab".repeat(32));
    for uri in ["/v1/tracker/denied", &record, "/v1/nothing"] {
        let named = async |host: &str| send(admin(server.rooms.clone()), "GET", uri, &[("host", host)], "").await;
        let rebound = named("evil.example:8081").await;
        assert_eq!(rebound.status(), 403, "{uri}");
        let own = named("127.0.0.1:8081").await;
        assert_ne!(own.status(), 403, "{uri}");
        assert!(own.headers().get("access-control-allow-origin").is_none(), "{uri}");
    }
    let metrics = send(admin(server.rooms.clone()), "GET", "/metrics", &[("host", "swarmgate.example:8081")], "").await;
    assert_eq!(metrics.status(), 200, "whatever a scraper calls it");
    let public = send(server.public(), "GET", &record, &[("host", "swarmgate.example")], "").await;
    assert_eq!(public.headers()["access-control-allow-origin"], "*", "the public one is for every page");
}
