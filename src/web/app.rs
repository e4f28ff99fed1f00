//! The app's files, which are part of the binary. A debug build reads them from `web-demo/dist` as they are now.

use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, VARY};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use rust_embed::RustEmbed;

use super::headers;
use crate::wire::hex;

#[derive(RustEmbed)]
#[folder = "web-demo/dist"]
#[allow_missing = true]
struct Files;

/// Files under here have a hash of their content in their name.
const HASHED: &str = "assets/";

/// The page of a binary that was built without the app.
const NOT_BUILT: &str = "<!doctype html><meta charset=utf-8><title>Swarmgate</title>\
    <h1>The app is not part of this build</h1>\
    <p>The tracker and the record API work. To get the app too, run <code>make run</code>, or \
    <code>npm ci && npm run build</code> in <code>web-demo</code> and build the server again.";

/// Answers every address that is no other door's.
pub(super) async fn file(method: Method, uri: Uri, request: HeaderMap) -> Response {
    if !matches!(method, Method::GET | Method::HEAD) {
        return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")], "this address takes GET\n").into_response();
    }
    let path = uri.path().trim_start_matches('/');
    let path = if path.is_empty() { "index.html" } else { path };
    match find(path, &request) {
        Some((file, encoding)) => respond(path, file, encoding, &request),
        None if path == "index.html" => (StatusCode::SERVICE_UNAVAILABLE, documents(), Html(NOT_BUILT)).into_response(),
        None => (StatusCode::NOT_FOUND, "there is nothing at this address\n").into_response(),
    }
}

/// The file, compressed if the build has it so and the client takes it.
fn find(path: &str, request: &HeaderMap) -> Option<(rust_embed::EmbeddedFile, Option<&'static str>)> {
    let brotli = if headers::accepts(request, "br") { Files::get(&format!("{path}.br")) } else { None };
    brotli.map(|file| (file, Some("br"))).or_else(|| Files::get(path).map(|file| (file, None)))
}

fn respond(
    path: &str,
    file: rust_embed::EmbeddedFile,
    encoding: Option<&'static str>,
    request: &HeaderMap,
) -> Response {
    let content_type = content_type(path);
    let etag = format!("\"{}\"", hex::encode(&file.metadata.sha256_hash()[..16]));
    let mut response = if headers::is_unmodified(request, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        file.data.into_response()
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(ETAG, HeaderValue::try_from(etag).expect("hexadecimal in quotes"));
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static(if path.starts_with(HASHED) { headers::FOR_EVER } else { "no-cache" }),
    );
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(encoding) = encoding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    if is_document(content_type) {
        headers.extend(documents());
    } else {
        // Pages of other authors import the client library from here.
        headers::allow_any_origin(headers);
    }
    response
}

fn documents() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_SECURITY_POLICY, headers::CONTENT_SECURITY_POLICY)])
}

/// What a browser shows by itself and would run scripts of.
fn is_document(content_type: &str) -> bool {
    content_type.starts_with("text/html") || content_type == "image/svg+xml"
}

/// Of the kinds of files that the app consists of.
fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "wasm" => "application/wasm",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
