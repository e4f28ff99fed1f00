//! The content door: what is pinned, or bridged now, read by ordinary HTTP.
//!
//! ```text
//! /v1/sites/{key}/{path}            the version that is pinned of a site; ?salt=HEX
//! /v1/torrents/{infohash}/{path}    a torrent; without a path, or with a folder's, its list of files
//! /v1/webseeds/{infohash}/{name}/{path}   the same, as BEP 19 lays addresses out
//! /v1/webseeds/{infohash}.torrent   the torrent file, if all of the torrent is here: then it is a web seed
//! ```
//!
//! It is no proxy: nothing is fetched because somebody asks here, only what is joined anyway is given. And it is no host
//! for pages: what a browser would run is sent as a download, and everything in a sandbox, so that no site's script ever
//! runs under this server's name.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, IF_RANGE, RANGE, VARY,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;

use super::headers;
use super::pins::{Problem, wrong_method};
use crate::bridge::{Content, ReadError, Reading};
use crate::pins::Pins;
use crate::wire::byte_range::{self, Asked};
use crate::wire::hex;
use crate::wire::id::{InfoHash, PublicKey};
use crate::wire::item::{Salt, mutable_target};

/// What an info hash and a slash are added to, to have the address of a web seed.
pub(super) const WEB_SEEDS: &str = "/v1/webseeds/";

/// How long a reader waits for a part that is still on its way to this server.
const PATIENCE: Duration = Duration::from_secs(15);

/// Files told in one list.
const MAX_LISTED: usize = 10_000;

/// What a folder's address gives, the first that is there.
const INDEXES: [&str; 3] = ["index.html", "index.md", "README.md"];

/// Whatever it is, it can load nothing, run nothing and send nothing.
const SANDBOX: HeaderValue = HeaderValue::from_static(
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; media-src 'self'",
);

pub(super) fn routes(pins: Pins) -> Router<super::Rooms> {
    Router::new()
        .route("/sites/{key}", get(site_root))
        .route("/sites/{key}/", get(site_root))
        .route("/sites/{key}/{*path}", get(site))
        .route("/torrents/{infohash}", get(torrent_root))
        .route("/torrents/{infohash}/", get(torrent_root))
        .route("/torrents/{infohash}/{*path}", get(torrent))
        .route("/webseeds/{infohash}", get(web_seed_root))
        .route("/webseeds/{infohash}/", get(web_seed_root))
        .route("/webseeds/{infohash}/{*path}", get(web_seed))
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn(headers::cross_origin_api))
        .with_state(pins)
}

/// How a file is asked for.
struct FileRequest {
    headers: HeaderMap,
    /// Only the head of the answer is wanted.
    is_head: bool,
}

impl<S: Sync> FromRequestParts<S> for FileRequest {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self { headers: parts.headers.clone(), is_head: parts.method == Method::HEAD })
    }
}

#[derive(Debug, Deserialize)]
struct OfSite {
    salt: Option<String>,
}

async fn site_root(
    state: State<Pins>,
    Path(key): Path<String>,
    query: Query<OfSite>,
    request: FileRequest,
) -> Result<Response, Problem> {
    site(state, Path((key, String::new())), query, request).await
}

async fn site(
    State(pins): State<Pins>,
    Path((key, path)): Path<(String, String)>,
    Query(OfSite { salt }): Query<OfSite>,
    request: FileRequest,
) -> Result<Response, Problem> {
    let key = PublicKey::from_hex(&key).map_err(|error| Problem::not_found(error.to_string()))?;
    let salt = hex::decode(salt.as_deref().unwrap_or_default()).and_then(|bytes| Salt::new(bytes).ok());
    let salt = salt.ok_or_else(|| Problem::bad_request("salt is at most 64 bytes in hexadecimal"))?;
    let target = mutable_target(&key, &salt);
    let (_, info_hash) = pins.served(&target).ok_or_else(|| Problem::not_found("this site is not pinned here"))?;
    let content = find(&pins, &info_hash)?;
    // A site changes: whoever keeps a copy asks whether it is still the one.
    give(&content, &path, &request, "no-cache").await
}

async fn torrent_root(state: State<Pins>, Path(hash): Path<String>, request: FileRequest) -> Result<Response, Problem> {
    torrent(state, Path((hash, String::new())), request).await
}

async fn torrent(
    State(pins): State<Pins>,
    Path((info_hash, path)): Path<(String, String)>,
    request: FileRequest,
) -> Result<Response, Problem> {
    give(&named(&pins, &info_hash)?, &path, &request, headers::FOR_EVER).await
}

async fn web_seed_root(
    state: State<Pins>,
    Path(name): Path<String>,
    request: FileRequest,
) -> Result<Response, Problem> {
    match name.strip_suffix(".torrent") {
        Some(info_hash) => torrent_file(&named(&state.0, info_hash)?),
        None => web_seed(state, Path((name, String::new())), request).await,
    }
}

/// What a page needs that has met no peer yet, or can meet none. A web seed has everything (BEP 19), so it is only given
/// when everything is here.
fn torrent_file(content: &Content) -> Result<Response, Problem> {
    if !content.is_whole() {
        return Err(Problem::not_found("not all of this torrent is here yet"));
    }
    let headers = [(CONTENT_TYPE, "application/x-bittorrent"), (CACHE_CONTROL, "no-cache")];
    Ok((headers, content.metainfo().to_torrent()).into_response())
}

/// BEP 19: "If the url ends in a slash, '/' [...] the client must add the torrent 'name' to the URL", and below that the
/// paths of the files. Some clients add nothing for a torrent of one file.
async fn web_seed(
    State(pins): State<Pins>,
    Path((info_hash, path)): Path<(String, String)>,
    request: FileRequest,
) -> Result<Response, Problem> {
    let content = named(&pins, &info_hash)?;
    let metainfo = content.metainfo().clone();
    let below = match (metainfo.is_single_file(), path.split_once('/')) {
        (true, _) if path.is_empty() || path == metainfo.name() => metainfo.name(),
        (false, Some((name, below))) if name == metainfo.name() => below,
        _ => return Err(no_such_file()),
    };
    let index = index_of(&content, below).ok_or_else(no_such_file)?;
    give_file(&content, index, &request, headers::FOR_EVER).await
}

fn named(pins: &Pins, info_hash: &str) -> Result<Content, Problem> {
    let info_hash = InfoHash::from_hex(info_hash).map_err(|error| Problem::not_found(error.to_string()))?;
    find(pins, &info_hash)
}

fn find(pins: &Pins, info_hash: &InfoHash) -> Result<Content, Problem> {
    let content = pins.content(info_hash);
    // BEP 27: whoever has a private torrent has it from its own tracker.
    let content = content.filter(|content| !content.metainfo().is_private());
    content.ok_or_else(|| Problem::not_found("this torrent is neither pinned nor bridged here now"))
}

fn no_such_file() -> Problem {
    Problem::not_found("the torrent has no such file")
}

fn index_of(content: &Content, path: &str) -> Option<usize> {
    let files = content.metainfo().files().iter();
    let mut stored = files.enumerate().filter(|(_, file)| !file.virtual_file);
    stored.find(|(_, file)| file.path.iter().map(String::as_str).eq(path.split('/'))).map(|(index, _)| index)
}

/// A file, or what is to be shown of a folder.
async fn give(content: &Content, path: &str, request: &FileRequest, cache: &'static str) -> Result<Response, Problem> {
    if let Some(index) = index_of(content, path) {
        return give_file(content, index, request, cache).await;
    }
    let folder = path.trim_end_matches('/');
    let in_folder = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    match INDEXES.iter().find_map(|name| index_of(content, &in_folder(name))) {
        // The addresses in an index are relative to its folder, which only an address with a slash is.
        Some(index) if folder.is_empty() || path.ends_with('/') => give_file(content, index, request, cache).await,
        _ => list(content, folder).ok_or_else(no_such_file),
    }
}

fn list(content: &Content, folder: &str) -> Option<Response> {
    let metainfo = content.metainfo();
    let below = |path: &str| folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    let stored = metainfo.files().iter().enumerate().filter(|(_, file)| !file.virtual_file);
    let named =
        stored.map(|(index, file)| (index, file.path.join("/"), file.length)).filter(|(_, path, _)| below(path));
    let files: Vec<_> = named
        .take(MAX_LISTED)
        .map(|(index, path, length)| json!({ "path": path, "length": length, "complete": content.has(index) }))
        .collect();
    if files.is_empty() {
        return None;
    }
    let body = json!({ "info_hash": metainfo.info_hash().to_hex(), "name": metainfo.name(), "files": files });
    Some(([(CACHE_CONTROL, "no-cache")], Json(body)).into_response())
}

async fn give_file(
    content: &Content,
    index: usize,
    request: &FileRequest,
    cache: &'static str,
) -> Result<Response, Problem> {
    let metainfo = content.metainfo();
    let file = &metainfo.files()[index];
    let etag = format!("\"{}-{index}\"", metainfo.info_hash());
    let unmodified = headers::is_unmodified(&request.headers, &etag);
    // RFC 9110 §13.1.5: a range is only of the version that the client has the rest of.
    let same = request.headers.get(IF_RANGE).is_none_or(|held| held.as_bytes() == etag.as_bytes());
    // §14.2: "A server MUST ignore a Range header field received with a request method that is unrecognized or for which
    // range handling is not defined": it is for GET.
    let range = request.headers.get(RANGE).filter(|_| same && !request.is_head).and_then(|range| range.to_str().ok());
    let (status, range) = match byte_range::parse(range, file.length) {
        _ if unmodified => (StatusCode::NOT_MODIFIED, 0..0),
        Asked::All => (StatusCode::OK, 0..file.length),
        Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Asked::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
    };
    let length = range.end - range.start;
    let within = format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), file.length);
    let body = if length == 0 || request.is_head { Body::empty() } else { body(content, index, range).await? };
    let name = file.path.last().map(String::as_str).unwrap_or_default();
    let (content_type, active) = kind(name);
    let mut response = (status, body).into_response();
    let out = response.headers_mut();
    let text = |text: String| HeaderValue::try_from(text).expect("printable ASCII");
    out.insert(ETAG, text(etag));
    out.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    out.insert(CONTENT_SECURITY_POLICY, SANDBOX);
    out.insert(VARY, HeaderValue::from_static("range"));
    match status {
        StatusCode::NOT_MODIFIED => return Ok(response),
        StatusCode::RANGE_NOT_SATISFIABLE => {
            out.insert(CONTENT_RANGE, text(format!("bytes */{}", file.length)));
            return Ok(response);
        }
        StatusCode::PARTIAL_CONTENT => drop(out.insert(CONTENT_RANGE, text(within))),
        _ => {}
    }
    out.insert(CONTENT_TYPE, text(content_type));
    out.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if active {
        out.insert(CONTENT_DISPOSITION, text(attachment(name)));
    }
    Ok(response)
}

/// The first part is waited for, so that a file that is not here is an error and no empty answer.
async fn body(content: &Content, index: usize, range: std::ops::Range<u64>) -> Result<Body, Problem> {
    let mut reading = content.read(index, range, PATIENCE).await.map_err(problem)?;
    let first = reading.next().await.unwrap_or_else(|| Ok(bytes::Bytes::new())).map_err(problem)?;
    let rest = stream::unfold(Some(reading), |reading: Option<Reading>| async move {
        let mut reading = reading?;
        let part = reading.next().await?;
        // An error ends the connection before its length is reached, which is how HTTP/1.1 says so.
        let next = part.is_ok().then_some(reading);
        Some((part, next))
    });
    let first = stream::once(async move { Ok::<_, ReadError>(first) });
    Ok(Body::from_stream(futures_util::StreamExt::chain(first, rest)))
}

fn problem(error: ReadError) -> Problem {
    match error {
        ReadError::NoSuchFile | ReadError::OutOfRange(_) => no_such_file(),
        ReadError::NotHere => Problem::unavailable("this part of the file is not here yet"),
        ReadError::Io(error) => {
            tracing::warn!(%error, "cannot read what is pinned");
            Problem::unavailable("the file cannot be read now")
        }
    }
}

/// A file's media type, by its name; and whether a browser would run it, or ask somebody for something because of it.
fn kind(name: &str) -> (String, bool) {
    let guessed = mime_guess::from_path(name).first_or_octet_stream();
    let passive = match (guessed.type_().as_str(), guessed.subtype().as_str()) {
        _ if guessed.essence_str() == "image/svg+xml" => false,
        ("image" | "audio" | "video" | "font", _) | ("text", "plain" | "markdown" | "css" | "csv") => true,
        ("application", "json" | "octet-stream") => true,
        _ => false,
    };
    if matches!(guessed.subtype().as_str(), "javascript" | "ecmascript") {
        // A page that may load scripts from this server's name, as the app may, would run it all the same.
        return (mime_guess::mime::APPLICATION_OCTET_STREAM.to_string(), true);
    }
    let text = guessed.type_() == "text" || guessed.subtype() == "json";
    (if text { format!("{guessed}; charset=utf-8") } else { guessed.to_string() }, !passive)
}

/// RFC 6266: a name in ASCII for all, and the real one (RFC 8187).
fn attachment(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_. ".contains(c) { c } else { '_' }).collect();
    let real = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{real}")
}
