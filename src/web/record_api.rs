//! `GET` and `PUT /v1/records/{key}`, and where its events are: `spec/dht-proxy.md`, *The same over HTTP*.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::header::{CACHE_CONTROL, ETAG, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::counts_for::CountsFor;
use super::events::{self, Streams};
use super::subscriptions::Followed;
use super::{Rooms, headers};
use crate::records::{GetError, GetOptions, Mode, PutError, PutOptions, Source, TooMany};
use crate::wire::id::PublicKey;
use crate::wire::item::{Salt, VerifiedItem, immutable_target};
use crate::wire::pointer;
use crate::wire::record_messages::{FieldError, PROTOCOL_ERROR, Record, SERVER_ERROR, parse_put_body, salt_from_hex};

/// Largest body of a put. A record with everything at its limit takes some 2,600 bytes.
const MAX_BODY: usize = 8 * 1024;

const WRONG_QUERY: &str = "max_age must be a whole number of seconds, min_seq a sequence number, and mode cache_first, \
                           cache_only or network";

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// `followed` counts what hosts follow, here and by other doors.
pub(super) fn routes(followed: Arc<Followed>) -> Router<Rooms> {
    Router::new()
        .route("/records/{key}/events", get(events::follow).layer(Extension(Streams::new(followed))))
        .route("/records/{key}", get(read).put(write).layer(DefaultBodyLimit::max(MAX_BODY)))
        .fallback(async || ApiError::plain(StatusCode::NOT_FOUND, "there is nothing at this address"))
        .method_not_allowed_fallback(async || {
            ApiError::plain(StatusCode::METHOD_NOT_ALLOWED, "this address takes GET and PUT")
        })
}

/// What an address says: whose record, and how it is to be got.
pub(super) struct Address {
    pub(super) key: PublicKey,
    /// `None` where it names none: then a body may.
    salt: Option<Salt>,
    options: GetOptions,
}

impl Address {
    pub(super) fn salt(&self) -> Salt {
        self.salt.clone().unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct Parameters {
    salt: Option<String>,
    max_age: Option<u64>,
    min_seq: Option<i64>,
    #[serde(default)]
    mode: Mode,
}

impl<S: Send + Sync> FromRequestParts<S> for Address {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Ok(CountsFor(asker)) = CountsFor::from_request_parts(parts, state).await;
        let Query(parameters) = Query::<Parameters>::from_request_parts(parts, state).await?;
        let Path(key) = Path::<String>::from_request_parts(parts, state).await?;
        let key = PublicKey::from_hex(&key).map_err(FieldError::from)?;
        let salt = parameters.salt.as_deref().map(salt_from_hex).transpose()?;
        let Parameters { max_age, min_seq, mode, .. } = parameters;
        let max_age = max_age.map(Duration::from_secs);
        let options = GetOptions { mode, max_age, min_seq, asker, ..GetOptions::default() };
        Ok(Self { key, salt, options })
    }
}

/// A record as this door gives it out.
#[derive(Serialize)]
pub(super) struct Found {
    #[serde(flatten)]
    record: Record,
    target: String,
    /// The info hash that the value points to (BEP 46).
    ih: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    conflict: bool,
}

impl Found {
    pub(super) fn new(item: &VerifiedItem, source: Option<Source>, conflict: bool) -> Self {
        let ih = pointer::info_hash(item.v()).map(|ih| ih.to_hex());
        Self { record: Record::from(item), target: item.target().to_hex(), ih, source, conflict }
    }
}

#[derive(Serialize)]
struct Stored {
    target: String,
    seq: i64,
    stored: usize,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    conflict: bool,
}

async fn read(State(rooms): State<Rooms>, address: Address, request: HeaderMap) -> Result<Response, ApiError> {
    let got = rooms.records.get(address.key, address.salt(), address.options).await?;
    let Some(item) = got.item else {
        return Err(ApiError::plain(StatusCode::NOT_FOUND, "no record of this key and salt was found"));
    };
    let etag = entity_tag(&item, got.conflict);
    let cache = [(ETAG, etag.as_str()), (CACHE_CONTROL, "no-cache")];
    if headers::is_unmodified(&request, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, cache).into_response());
    }
    let found = Found::new(&item, Some(got.source), got.conflict);
    Ok((cache, Json(found)).into_response())
}

/// The sequence number. Once two values with it were seen it does not tell any more which of them stands: then a mark of
/// the value follows, so that whoever has the other one, or does not know of the conflict, is sent what stands.
fn entity_tag(item: &VerifiedItem, conflict: bool) -> String {
    let sha1 = immutable_target(item.v()).to_hex();
    let mark = if conflict { format!("-{}", &sha1[..16]) } else { String::new() };
    format!("\"{}{mark}\"", item.seq())
}

async fn write(State(rooms): State<Rooms>, address: Address, request: Request) -> Result<Response, ApiError> {
    let body = read_body(request).await?;
    let body = std::str::from_utf8(&body).map_err(|_| FieldError::NotAnObject)?;
    let (item, cas) = parse_put_body(body, address.key, address.salt)?;
    let seq = item.seq;
    let put = rooms.records.put(item, PutOptions { cas, asker: address.options.asker }).await?;
    let stored = Stored { target: put.target.to_hex(), seq, stored: put.stored, conflict: put.conflict };
    Ok(Json(stored).into_response())
}

async fn read_body(request: Request) -> Result<Bytes, ApiError> {
    match timeout(BODY_DEADLINE, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(ApiError::plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 8 KiB"))
        }
        Ok(Err(_)) => Err(ApiError::plain(StatusCode::BAD_REQUEST, "the body did not arrive whole")),
        Err(_) => Err(ApiError::plain(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    }
}

/// What went wrong, for this door: a status, a sentence, and BEP 44's code when there is one.
#[derive(Serialize)]
pub(super) struct ApiError {
    #[serde(skip)]
    status: StatusCode,
    code: Option<i64>,
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<Record>,
}

impl ApiError {
    pub(super) fn plain(status: StatusCode, sentence: &str) -> Self {
        Self { status, code: None, error: sentence.to_owned(), current: None }
    }

    fn coded(code: i64, error: String, current: Option<&VerifiedItem>) -> Self {
        let status = match code {
            SERVER_ERROR => StatusCode::SERVICE_UNAVAILABLE,
            301 => StatusCode::PRECONDITION_FAILED,
            302 => StatusCode::CONFLICT,
            _ => StatusCode::BAD_REQUEST,
        };
        Self { status, code: Some(code), error, current: current.map(Record::from) }
    }

    /// RFC 6585 §4: "429 […] the user has sent too many requests in a given amount of time".
    pub(super) fn too_many_if(self, over_quota: bool) -> Self {
        if over_quota { Self { status: StatusCode::TOO_MANY_REQUESTS, ..self } } else { self }
    }
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> Self {
        Self::coded(error.code(), error.to_string(), None)
    }
}

impl From<GetError> for ApiError {
    fn from(error: GetError) -> Self {
        Self::coded(error.code(), error.to_string(), None).too_many_if(error == GetError::OverQuota)
    }
}

impl From<PutError> for ApiError {
    fn from(error: PutError) -> Self {
        let coded = Self::coded(error.code(), error.to_string(), error.current());
        coded.too_many_if(error == PutError::OverQuota)
    }
}

impl From<TooMany> for ApiError {
    fn from(error: TooMany) -> Self {
        Self::coded(SERVER_ERROR, error.to_string(), None)
    }
}

impl From<PathRejection> for ApiError {
    fn from(_: PathRejection) -> Self {
        Self::coded(PROTOCOL_ERROR, FieldError::NotHex("key").to_string(), None)
    }
}

impl From<QueryRejection> for ApiError {
    fn from(_: QueryRejection) -> Self {
        Self::coded(PROTOCOL_ERROR, WRONG_QUERY.to_owned(), None)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let retry = (self.code == Some(SERVER_ERROR)).then_some([(RETRY_AFTER, "5")]);
        (self.status, retry, [(CACHE_CONTROL, "no-store")], Json(self)).into_response()
    }
}
