//! DNS rebinding: a page whose name was made to point at this machine is of the same origin as the admin listener, so its
//! scripts may ask it anything and read the answers. It is told apart by the name that it used.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::pins::Problem;

/// Lets requests through that name this machine in a way that nobody else can take for himself.
pub(super) async fn refuse(request: Request, next: Next) -> Response {
    // Browsers always name it (RFC 9112 §3.2).
    let host = request.headers().get(HOST).map(|host| host.to_str().unwrap_or_default());
    if host.is_none_or(is_ours) {
        return next.run(request).await;
    }
    let detail = "the operator's API is reached by address, as localhost, or by a name without a dot";
    Problem::new(StatusCode::FORBIDDEN, "wrong-host", detail).into_response()
}

/// An address, `localhost`, or a name without a dot, as containers are given: the public DNS has none of these.
fn is_ours(host: &str) -> bool {
    let port = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let name = port.map_or(host, |(name, _)| name);
    let is_label = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    is_label || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let table = [
            ("127.0.0.1:8081", true),
            ("[::1]:8081", true),
            ("[::1]", true),
            ("192.168.1.7", true),
            ("localhost:8081", true),
            ("swarmgate:8081", true),
            ("evil.example", false),
            ("evil.example:8081", false),
            ("127.0.0.1.evil.example:8081", false),
            ("localhost.:8081", false),
            ("", false),
        ];
        for (host, expected) in table {
            assert_eq!(is_ours(host), expected, "{host}");
        }
    }
}
