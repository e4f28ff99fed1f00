//! `/v1/pins`, `/v1/usage`, `/v1/events`, and for the operator `/v1/tokens`: the pin API. `openapi.json` describes it, and is
//! served at `/v1/openapi.json`.

mod auth;
mod model;
mod openapi;
mod problem;
mod stream;
#[cfg(test)]
mod tests;
mod tokens;

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_MATCH, LINK, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::timeout;

use self::auth::Holder;
use self::model::{Changes, NewPin, PinBody, UsageBody, VersionBody, parse_target};
pub(super) use self::problem::{Problem, wrong_method};
use super::headers;
use crate::pins::{PinId, Pins, Status, Unix, View};

/// Largest body: metadata at its limit takes some 40 KB.
const MAX_BODY: usize = 128 * 1024;

/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Pins of one page, if the client does not say, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// Longest `Idempotency-Key`.
const MAX_KEY: usize = 255;

/// What holders of tokens reach.
pub(super) fn public(pins: Pins) -> Router<super::Rooms> {
    routes().layer(from_fn(headers::cross_origin_api)).with_state(pins)
}

/// What the operator reaches.
pub(super) fn admin(pins: Pins) -> Router<super::Rooms> {
    let tokens = Router::new()
        .route("/tokens", get(tokens::list).post(tokens::make))
        .route("/tokens/{id}", axum::routing::delete(tokens::revoke))
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY));
    routes().merge(tokens).with_state(pins)
}

fn routes() -> Router<Pins> {
    Router::new()
        .route("/pins", get(list).post(create))
        .route("/pins/{id}", get(read).patch(change).delete(delete))
        .route("/pins/{id}/versions", get(versions))
        .route("/pins/{id}/versions/{seq}/restore", post(restore))
        .route("/pins/{id}/verify", post(verify))
        .route("/pins/{id}/recover", post(recover))
        .route("/pins/{id}/republish", post(republish))
        .route("/usage", get(usage))
        .route("/events", get(stream::follow).layer(Extension(stream::streams())))
        .route("/openapi.json", get(openapi::document))
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

/// A pin's answer, with its entity tag.
fn answer(status: StatusCode, view: View) -> Response {
    let etag = format!("\"{}\"", view.pin.revision);
    let headers = [(ETAG, etag), (CACHE_CONTROL, "no-store".to_owned())];
    (status, headers, Json(PinBody::new(view))).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    limit: Option<usize>,
    cursor: Option<String>,
    /// One or several, with commas between them.
    status: Option<String>,
    /// A part of the name.
    name: Option<String>,
    target: Option<String>,
    salt: Option<String>,
}

impl Page {
    fn statuses(&self) -> Result<Option<Vec<Status>>, Problem> {
        let known = |name: &str| Status::ALL.into_iter().find(|status| status.name() == name);
        let statuses = self.status.as_deref().map(|names| names.split(',').map(known).collect::<Option<Vec<_>>>());
        let names = "queued, resolving, downloading, pinned, degraded, failed";
        let wrong = || Problem::bad_request(format!("status is one or several of these, with commas: {names}"));
        statuses.map(|found| found.ok_or_else(wrong)).transpose()
    }

    /// The address of the page that begins at `cursor`, with the same filters.
    fn next(&self, limit: usize, cursor: &str) -> String {
        let filters = [("status", &self.status), ("name", &self.name), ("target", &self.target), ("salt", &self.salt)];
        let filters = filters.into_iter().filter_map(|(name, value)| {
            let value = utf8_percent_encode(value.as_deref()?, NON_ALPHANUMERIC);
            Some(format!("&{name}={value}"))
        });
        format!("/v1/pins?limit={limit}&cursor={cursor}{}", filters.collect::<String>())
    }
}

async fn list(
    State(pins): State<Pins>,
    Holder(who): Holder,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(page) = page.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let limit = page.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::bad_request(format!("limit is between 1 and {MAX_PAGE}")));
    }
    let after = page.cursor.as_deref().map(|cursor| read_cursor(cursor).ok_or_else(wrong_cursor)).transpose()?;
    let statuses = page.statuses()?;
    let subject = match (&page.target, &page.salt) {
        (Some(target), salt) => Some(parse_target(target, salt.as_deref())?.0),
        (None, Some(_)) => return Err(Problem::bad_request("salt belongs to a target")),
        (None, None) => None,
    };
    let wanted = |pin: &crate::pins::Pin, stands: Status| {
        statuses.as_ref().is_none_or(|statuses| statuses.contains(&stands))
            && page.name.as_deref().is_none_or(|name| pin.settings.name.contains(name))
            && subject.as_ref().is_none_or(|subject| pin.subject == *subject)
    };
    let (views, more) = pins.list(who, after, limit, wanted);
    let next = views.last().filter(|_| more).map(|view| format!("{:x}.{}", view.pin.created.0, view.pin.id));
    let pins: Vec<PinBody> = views.into_iter().map(PinBody::new).collect();
    let link = next.as_ref().map(|next| [(LINK, format!("<{}>; rel=\"next\"", page.next(limit, next)))]);
    Ok((link, [(CACHE_CONTROL, "no-store")], Json(json!({ "pins": pins, "next": next }))).into_response())
}

fn wrong_cursor() -> Problem {
    Problem::bad_request("cursor is what an earlier answer gave as next")
}

fn read_cursor(cursor: &str) -> Option<(Unix, PinId)> {
    let (created, id) = cursor.split_once('.')?;
    Some((Unix(i64::from_str_radix(created, 16).ok()?), PinId::from_hex(id)?))
}

async fn create(
    State(pins): State<Pins>,
    Holder(who): Holder,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let key = headers.get("idempotency-key").map(|key| {
        let key = key.to_str().ok().filter(|key| (1..=MAX_KEY).contains(&key.len()));
        key.map(str::to_owned).ok_or_else(|| Problem::bad_request("Idempotency-Key is 1 to 255 characters of ASCII"))
    });
    let key = key.transpose()?;
    let new: NewPin = read_body(request).await?;
    let (view, is_new) = pins.create(who, new.parse(key)?).await?;
    let location = format!("/v1/pins/{}", view.pin.id);
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(([(LOCATION, location)], answer(status, view)).into_response())
}

async fn read(State(pins): State<Pins>, Holder(who): Holder, Path(id): Path<String>) -> Result<Response, Problem> {
    Ok(answer(StatusCode::OK, find(&pins, who, &id)?))
}

async fn change(
    State(pins): State<Pins>,
    Holder(who): Holder,
    Path(id): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let found = find(&pins, who, &id)?;
    let seen = revision_seen(&headers, &found)?;
    let object: serde_json::Map<String, serde_json::Value> = read_body(request).await?;
    let known = ["name", "follow", "keep", "priority", "expires", "meta", "origins"];
    if let Some(unknown) = object.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(Problem::bad_request(format!("{unknown} is not a setting; these are: {}", known.join(", "))));
    }
    let changes: Changes = serde_json::from_value(object.into()).map_err(malformed)?;
    changes.check()?;
    let view = pins.change(who, found.pin.id, seen, |settings| changes.apply(settings)).await?;
    Ok(answer(StatusCode::OK, view))
}

async fn delete(
    State(pins): State<Pins>,
    Holder(who): Holder,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let found = find(&pins, who, &id)?;
    let seen = revision_seen(&headers, &found)?;
    pins.delete(who, found.pin.id, seen).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn versions(State(pins): State<Pins>, Holder(who): Holder, Path(id): Path<String>) -> Result<Response, Problem> {
    let pin = find(&pins, who, &id)?.pin;
    let versions: Vec<_> = pin.versions.iter().rev().map(|version| VersionBody::new(version, &pin)).collect();
    Ok(([(CACHE_CONTROL, "no-store")], Json(json!({ "versions": versions }))).into_response())
}

async fn restore(
    State(pins): State<Pins>,
    Holder(who): Holder,
    Path((id, seq)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let found = find(&pins, who, &id)?;
    let seq = seq.parse().map_err(|_| Problem::not_found(format!("the pin has no version {seq}")))?;
    Ok(answer(StatusCode::ACCEPTED, pins.restore(who, found.pin.id, seq).await?))
}

async fn verify(State(pins): State<Pins>, Holder(who): Holder, Path(id): Path<String>) -> Result<Response, Problem> {
    let found = find(&pins, who, &id)?;
    Ok(answer(StatusCode::ACCEPTED, pins.verify(who, &found.pin.id)?))
}

async fn recover(State(pins): State<Pins>, Holder(who): Holder, Path(id): Path<String>) -> Result<Response, Problem> {
    let found = find(&pins, who, &id)?;
    Ok(answer(StatusCode::ACCEPTED, pins.recover(who, found.pin.id).await?))
}

async fn republish(State(pins): State<Pins>, Holder(who): Holder, Path(id): Path<String>) -> Result<Response, Problem> {
    let found = find(&pins, who, &id)?;
    let Some(holders) = pins.republish(who, &found.pin.id).await? else {
        let detail = "there is no record to publish: a torrent has none, and that of a site was not found yet";
        return Err(Problem::new(StatusCode::CONFLICT, "no-record", detail));
    };
    Ok(([(CACHE_CONTROL, "no-store")], Json(json!({ "holders": holders }))).into_response())
}

async fn usage(State(pins): State<Pins>, Holder(who): Holder) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(UsageBody::new(pins.usage(who)))).into_response()
}

fn find(pins: &Pins, who: crate::pins::Who, id: &str) -> Result<View, Problem> {
    let view = PinId::from_hex(id).and_then(|id| pins.view(who, &id));
    view.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no-such-pin", "there is no such pin"))
}

/// RFC 9110 §13.1.1: the revision that the request's `If-Match` names, or what is there when it takes any.
fn revision_seen(headers: &HeaderMap, found: &View) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let revision = found.pin.revision;
    let named = |tag: &str| tag == "*" || tag == format!("\"{revision}\"");
    if value.to_str().is_ok_and(|list| list.split(',').any(|tag| named(tag.trim()))) {
        return Ok(Some(revision));
    }
    let detail = format!("the pin is at revision {revision}, which If-Match does not name");
    Err(Problem::new(StatusCode::PRECONDITION_FAILED, "changed", detail))
}

/// A JSON body. Its type must be named, since a page of another origin may send any other without asking first.
async fn read_body<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence != "application/json" && essence != "application/merge-patch+json" {
        let detail = "the body must be JSON, and say so: Content-Type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", detail));
    }
    let body = match timeout(BODY_DEADLINE, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => body,
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("the body is larger than {MAX_BODY} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail));
        }
        Ok(Err(_)) => return Err(Problem::bad_request("the body did not arrive whole")),
        Err(_) => {
            let detail = "the body did not arrive in time";
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", detail));
        }
    };
    serde_json::from_slice(&body).map_err(malformed)
}

#[allow(clippy::needless_pass_by_value, reason = "an adapter for map_err")]
fn malformed(error: serde_json::Error) -> Problem {
    Problem::bad_request(format!("the body is not what this address takes: {error}"))
}
