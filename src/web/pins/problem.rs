//! What went wrong, as problem details (RFC 9457): a status, a name for programs, a sentence for people.

use axum::Json;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::pins::{PinError, RequestError, StoreError};

/// The type's address is a name: nothing has to be there.
const TYPES: &str = "urn:swarmgate:problem:";

/// Seconds after which a request that the server could not do may be tried again.
const RETRY: HeaderValue = HeaderValue::from_static("5");

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    name: &'static str,
    detail: String,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Problem {
    pub(in crate::web) fn new(status: StatusCode, name: &'static str, detail: impl Into<String>) -> Self {
        Self { status, name, detail: detail.into() }
    }

    pub(in crate::web) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    pub(in crate::web) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    /// RFC 6750 §3: whoever presents no token is told which kind is wanted.
    pub(in crate::web) fn unauthorised(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorised", detail)
    }

    pub(in crate::web) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    }
}

impl From<PinError> for Problem {
    fn from(error: PinError) -> Self {
        let detail = error.to_string();
        let (status, name) = match error {
            PinError::Request(error) => match error {
                RequestError::NoSuchPin => (StatusCode::NOT_FOUND, "no-such-pin"),
                RequestError::NoSuchVersion(_) => (StatusCode::NOT_FOUND, "no-such-version"),
                RequestError::NoSuchToken => (StatusCode::NOT_FOUND, "no-such-token"),
                RequestError::Changed(_) => (StatusCode::PRECONDITION_FAILED, "changed"),
                RequestError::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused"),
                RequestError::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid-setting"),
                RequestError::TooManyPins(_) | RequestError::OverQuota(_) => (StatusCode::FORBIDDEN, "over-quota"),
                RequestError::ServerFull => (StatusCode::INSUFFICIENT_STORAGE, "server-full"),
            },
            PinError::Store(StoreError::Failed(_)) => (StatusCode::INSUFFICIENT_STORAGE, "not-kept"),
            PinError::Store(StoreError::Stopping) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        Self::new(status, name, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, name, detail } = self;
        let title = status.canonical_reason().unwrap_or("Error");
        let document = Document { r#type: format!("{TYPES}{name}"), title, status: status.as_u16(), detail: &detail };
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"swarmgate\""));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE => {
                headers.insert(RETRY_AFTER, RETRY);
            }
            _ => {}
        }
        response
    }
}

/// For an address that takes other methods. axum adds `Allow` by itself.
pub(in crate::web) async fn wrong_method(method: Method) -> Response {
    let detail = format!("this address does not take {method}; the header Allow says what it takes");
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail).into_response();
    response.headers_mut().remove(ALLOW);
    response
}
