//! The app's files, health and figures.

use super::*;

/// Holds with and without the app in the build.
#[tokio::test]
async fn documents_are_locked_down_and_everything_is_safe() {
    let server = Server::start().await;
    for uri in ["/", "/index.html"] {
        let response = send(server.public(), "GET", uri, &[], "").await;
        let policy = header(&response, "content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(header(&response, "content-type").unwrap().starts_with("text/html"));
    }
    for uri in
        ["/", "/nothing", "/../Cargo.toml", "/%2e%2e/Cargo.toml", "/livez", "/v1/nothing", "/announce", "/stats.json"]
    {
        let response = send(server.public(), "GET", uri, &[], "").await;
        assert_eq!(header(&response, "x-content-type-options"), Some("nosniff"), "{uri}");
        assert_eq!(header(&response, "referrer-policy"), Some("no-referrer"), "{uri}");
        if uri.contains("Cargo") {
            assert_eq!(response.status(), 404, "{uri}");
        }
    }
    assert_eq!(send(server.public(), "POST", "/", &[], "").await.status(), 405);
}

#[tokio::test]
async fn health_counts_and_who_may_see_metrics() {
    let server = Server::start().await;
    server.put(&sign(b"", 1, b"le")).await;
    assert_eq!(server.call("GET", "/stats.json", "").await.1["records"], 1);
    let page = send(server.public(), "GET", "/stats", &[], "").await;
    assert!(header(&page, "content-security-policy").unwrap().starts_with("default-src 'none'"));
    let page = String::from_utf8(body_of(page).await).unwrap();
    assert!(page.contains("<th scope=row>Records<td>1<td>") && !page.contains("script"), "{page}");
    assert_eq!(
        header(&send(server.public(), "GET", "/stats.css", &[], "").await, "content-type").unwrap(),
        "text/css; charset=utf-8"
    );
    assert_eq!(send(server.public(), "GET", "/metrics", &[], "").await.status(), 404);
    let response = send(admin(server.rooms.clone()), "GET", "/metrics", &[], "").await;
    let text = String::from_utf8(body_of(response).await).unwrap();
    assert!(text.contains("swarmgate_records_puts_total{result=\"stored\"} 1"), "{text}");
    for (uri, running, stopping) in [("/livez", 200, 200), ("/readyz", 200, 503)] {
        let server = Server::start().await;
        assert_eq!(send(server.public(), "GET", uri, &[], "").await.status(), running);
        server.rooms.tasks.token().cancel();
        assert_eq!(send(admin(server.rooms.clone()), "GET", uri, &[], "").await.status(), stopping);
    }
}
