//! Headers that every answer carries, and those that let pages of other origins use the record API.

use axum::extract::Request;
use axum::http::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// What the app's documents may do. A site is strangers' Markdown: even if something of it got past the sanitiser it
/// could run no script, load nothing from elsewhere and post nothing.
pub(super) const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; \
     connect-src 'self' ws: wss:; worker-src 'self' blob:; manifest-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'",
);

/// Nobody's content type is guessed, and nobody is told which page somebody reads.
pub(super) async fn safe(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Opens the record API to every origin, which is safe since nothing there depends on who asks (no cookies, no sessions).
pub(super) async fn cross_origin(request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        allow_any_origin(headers);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, PUT"));
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("content-type, if-none-match, last-event-id"),
        );
        // A day: browsers cap it anyway (Chromium at two hours).
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
        return response;
    }
    let mut response = next.run(request).await;
    allow_any_origin(response.headers_mut());
    response.headers_mut().insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("ETag"));
    response
}

/// Opens the pin API and the content door to every origin: whoever may do something says so by a token in a header, which
/// no browser sends by itself.
pub(super) async fn cross_origin_api(request: Request, next: Next) -> Response {
    let preflight = request.method() == Method::OPTIONS;
    let mut response = if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    allow_any_origin(headers);
    if preflight {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, PATCH, DELETE"));
        headers.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            // The last two are what WebTorrent sends to web seeds.
            HeaderValue::from_static(
                "authorization, content-type, idempotency-key, if-match, if-none-match, if-range, last-event-id, range, \
                 cache-control, user-agent",
            ),
        );
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    } else {
        headers.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("ETag, Location, Link, Retry-After, Accept-Ranges, Content-Range, Content-Length"),
        );
    }
    response
}

/// For what never is anything else at the same address. A year is RFC 9111's "for ever".
pub(super) const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// Lets pages of every origin read the answer.
pub(super) fn allow_any_origin(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
}

/// Whether the client has the version with this entity tag (RFC 9110 §13.1.2: weak comparison, `*` for any).
pub(super) fn is_unmodified(request: &HeaderMap, etag: &str) -> bool {
    let held = request.get_all(axum::http::header::IF_NONE_MATCH);
    held.iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|held| held == "*" || held.strip_prefix("W/").unwrap_or(held) == etag)
}

/// Whether the client takes answers in this content coding.
pub(super) fn accepts(request: &HeaderMap, coding: &str) -> bool {
    let lists = request.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|listed| {
        let (name, parameters) = listed.split_once(';').unwrap_or((listed, ""));
        // RFC 9110 §12.5.3: "a weight of 0 means not acceptable".
        let refused = parameters.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        name.trim().eq_ignore_ascii_case(coding) && !refused
    })
}

#[cfg(test)]
mod tests {
    use axum::http::header::IF_NONE_MATCH;

    use super::*;

    #[test]
    fn entity_tags() {
        let table = [
            (&["\"5\""][..], true),
            (&["W/\"5\""], true),
            (&["*"], true),
            (&["\"4\", \"5\""], true),
            (&["\"4\"", "\"5\""], true),
            (&["\"55\""], false),
            (&["5"], false),
            (&[""], false),
            (&[], false),
        ];
        for (values, expected) in table {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IF_NONE_MATCH, HeaderValue::from_static(value));
            }
            assert_eq!(is_unmodified(&headers, "\"5\""), expected, "{values:?}");
        }
    }

    #[test]
    fn codings_are_used_for_those_who_take_them() {
        let table = [
            ("gzip, deflate, br, zstd", true),
            ("br;q=0.5", true),
            ("BR", true),
            ("gzip", false),
            ("br;q=0", false),
            ("br; q=0.0", false),
            ("", false),
        ];
        for (value, expected) in table {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(accepts(&headers, "br"), expected, "{value}");
        }
    }
}
