//! `GET` and `PUT /v1/records/{key}`: `spec/dht-proxy.md`, *The same over HTTP*.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Query, Request, State};
use axum::http::header::{CACHE_CONTROL, ETAG, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{Rooms, headers};
use crate::records::{GetError, GetOptions, PutError, Source};
use crate::wire::id::PublicKey;
use crate::wire::item::{Salt, VerifiedItem};
use crate::wire::pointer;
use crate::wire::record_messages::{FieldError, PROTOCOL_ERROR, Record, SERVER_ERROR, parse_put_body, salt_from_hex};

/// Largest body of a put. A record with everything at its limit takes some 2,600 bytes.
const MAX_BODY: usize = 8 * 1024;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

pub(super) fn routes() -> Router<Rooms> {
    Router::new()
        .route("/records/{key}", get(read).put(write).layer(DefaultBodyLimit::max(MAX_BODY)))
        .fallback(async || ApiError::plain(StatusCode::NOT_FOUND, "there is nothing at this address"))
        .method_not_allowed_fallback(async || {
            ApiError::plain(StatusCode::METHOD_NOT_ALLOWED, "this address takes GET and PUT")
        })
        .layer(from_fn(headers::cross_origin))
}

#[derive(Deserialize)]
struct Parameters {
    salt: Option<String>,
    max_age: Option<u64>,
}

impl Parameters {
    fn salt(&self) -> Result<Option<Salt>, FieldError> {
        self.salt.as_deref().map(salt_from_hex).transpose()
    }
}

#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    record: Record,
    target: String,
    /// The info hash that the value points to (BEP 46).
    ih: Option<String>,
    source: Source,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    conflict: bool,
}

#[derive(Serialize)]
struct Stored {
    target: String,
    seq: i64,
    stored: usize,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    conflict: bool,
}

async fn read(
    State(rooms): State<Rooms>,
    Path(key): Path<String>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(parameters) = parameters?;
    let key = PublicKey::from_hex(&key).map_err(FieldError::from)?;
    let salt = parameters.salt()?.unwrap_or_default();
    let options = GetOptions { max_age: parameters.max_age.map(Duration::from_secs) };
    let got = rooms.records.get(key, salt, options).await?;
    let Some(item) = got.item else {
        return Err(ApiError::plain(StatusCode::NOT_FOUND, "no record of this key and salt was found"));
    };
    let etag = format!("\"{}\"", item.seq());
    let cache = [(ETAG, etag.as_str()), (CACHE_CONTROL, "no-cache")];
    if headers::is_unmodified(&request, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, cache).into_response());
    }
    let found = Found {
        record: Record::from(&item),
        target: item.target().to_hex(),
        ih: pointer::info_hash(item.v()).map(|ih| ih.to_hex()),
        source: got.source,
        conflict: got.conflict,
    };
    Ok((cache, Json(found)).into_response())
}

async fn write(
    State(rooms): State<Rooms>,
    Path(key): Path<String>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(parameters) = parameters?;
    let key = PublicKey::from_hex(&key).map_err(FieldError::from)?;
    let body = read_body(request).await?;
    let body = std::str::from_utf8(&body).map_err(|_| FieldError::NotAnObject)?;
    let (item, cas) = parse_put_body(body, key, parameters.salt()?)?;
    let seq = item.seq;
    let put = rooms.records.put(item, cas).await?;
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
struct ApiError {
    #[serde(skip)]
    status: StatusCode,
    code: Option<i64>,
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<Record>,
}

impl ApiError {
    fn plain(status: StatusCode, sentence: &str) -> Self {
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
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> Self {
        Self::coded(error.code(), error.to_string(), None)
    }
}

impl From<GetError> for ApiError {
    fn from(error: GetError) -> Self {
        Self::coded(error.code(), error.to_string(), None)
    }
}

impl From<PutError> for ApiError {
    fn from(error: PutError) -> Self {
        Self::coded(error.code(), error.to_string(), error.current())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(_: QueryRejection) -> Self {
        Self::coded(PROTOCOL_ERROR, "max_age must be a whole number of seconds".to_owned(), None)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let retry = (self.code == Some(SERVER_ERROR)).then_some([(RETRY_AFTER, "5")]);
        (self.status, retry, [(CACHE_CONTROL, "no-store")], Json(self)).into_response()
    }
}
