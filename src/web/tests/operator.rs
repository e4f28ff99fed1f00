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
