//! The tracker over HTTP (BEP 3, BEP 48). Failures are bencoded answers too, so the status is always 200.

use std::io::Write;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::client_address::ClientAddress;
use super::{Rooms, headers};

/// Shortest answer that is compressed. Below it gzip's own 18 bytes and the header that names it eat what it saves;
/// compact peer lists, which are noise to it, are mostly shorter.
const WORTH_COMPRESSING: usize = 512;

pub(super) async fn announce(
    State(rooms): State<Rooms>,
    ClientAddress(from): ClientAddress,
    address: Uri,
    request: HeaderMap,
) -> Response {
    let query = address.query().unwrap_or_default();
    bencoded(rooms.tracker.http_announce(address.path(), query, from), &request)
}

pub(super) async fn scrape(State(rooms): State<Rooms>, address: Uri, request: HeaderMap) -> Response {
    let query = address.query().unwrap_or_default();
    bencoded(rooms.tracker.http_scrape(address.path(), query), &request)
}

/// BEP 3: the answer is "a text/plain document consisting of a bencoded dictionary".
fn bencoded(body: Vec<u8>, request: &HeaderMap) -> Response {
    let compressed = (body.len() >= WORTH_COMPRESSING && headers::accepts(request, "gzip")).then(|| gzip(&body));
    let coded = compressed.is_some();
    let mut response = compressed.unwrap_or(body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if coded {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Fastest: what compresses in these answers is repeated keys, and any level finds those.
fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 2), Compression::fast());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("memory takes every byte")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use axum::body::to_bytes;
    use axum::http::header::ACCEPT_ENCODING;
    use flate2::read::GzDecoder;

    use super::*;

    #[tokio::test]
    async fn long_answers_are_compressed_for_those_who_ask() {
        for (length, accepts, coded) in [(5000, "gzip", true), (5000, "deflate", false), (100, "gzip", false)] {
            let request = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(accepts))]);
            let response = bencoded(vec![b'x'; length], &request);
            assert_eq!(response.headers().get(CONTENT_ENCODING).is_some(), coded, "{length} {accepts}");
            let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let mut text = Vec::new();
            if coded {
                assert!(body.len() < length / 10);
                GzDecoder::new(&body[..]).read_to_end(&mut text).unwrap();
            } else {
                text.extend(&body);
            }
            assert_eq!(text, vec![b'x'; length]);
        }
    }
}
