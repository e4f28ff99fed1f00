//! `/v1/tracker/denied` and `/v1/tracker/allowed`, for the operator only: the lists of info hashes.
//!
//! `GET` on a list shows all of it, as `{"infohashes":[{"infohash","source"}]}` with the source `file` or `api`. On
//! `/v1/tracker/denied/{infohash}`, `GET` answers 200 or 404, `PUT` adds (204), `DELETE` removes (204, 404, or 409 when
//! the operator's file has it). A change is on disk when it is answered. Pages of other origins are not let in: no answer
//! here allows them, and a browser asks before it sends a `PUT`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::Rooms;
use crate::tracker::{ChangeError, List, Origin};
use crate::wire::id::InfoHash;

pub(super) fn routes() -> Router<Rooms> {
    Router::new()
        .route("/tracker/{list}", get(all))
        .route("/tracker/{list}/{infohash}", get(one).put(add).delete(remove))
}

async fn all(State(rooms): State<Rooms>, Path(list): Path<String>) -> Result<Json<Value>, Refusal> {
    let entries = rooms.tracker.listed(list_of(&list)?);
    let entries: Vec<Value> = entries.iter().map(|(info_hash, origin)| entry(info_hash, *origin)).collect();
    Ok(Json(json!({ "infohashes": entries })))
}

async fn one(State(rooms): State<Rooms>, Path(address): Path<(String, String)>) -> Result<Json<Value>, Refusal> {
    let (list, info_hash) = read(&address)?;
    let origin = rooms.tracker.is_listed(list, &info_hash).ok_or(ChangeError::NotListed)?;
    Ok(Json(entry(&info_hash, origin)))
}

async fn add(State(rooms): State<Rooms>, Path(address): Path<(String, String)>) -> Result<StatusCode, Refusal> {
    let (list, info_hash) = read(&address)?;
    rooms.tracker.list(list, info_hash).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove(State(rooms): State<Rooms>, Path(address): Path<(String, String)>) -> Result<StatusCode, Refusal> {
    let (list, info_hash) = read(&address)?;
    rooms.tracker.unlist(list, info_hash).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn read((list, info_hash): &(String, String)) -> Result<(List, InfoHash), Refusal> {
    Ok((list_of(list)?, InfoHash::from_hex(info_hash).map_err(|_| Refusal::NotAnInfoHash)?))
}

fn list_of(name: &str) -> Result<List, Refusal> {
    match name {
        "denied" => Ok(List::Denied),
        "allowed" => Ok(List::Allowed),
        _ => Err(Refusal::NoSuchList),
    }
}

fn entry(info_hash: &InfoHash, origin: Origin) -> Value {
    let source = match origin {
        Origin::File => "file",
        Origin::Api => "api",
    };
    json!({ "infohash": info_hash.to_hex(), "source": source })
}

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there are two lists, /v1/tracker/denied and /v1/tracker/allowed")]
    NoSuchList,
    #[error("an info hash is 40 hexadecimal digits")]
    NotAnInfoHash,
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NoSuchList | Self::Change(ChangeError::NotListed) => StatusCode::NOT_FOUND,
            Self::NotAnInfoHash => StatusCode::BAD_REQUEST,
            Self::Change(ChangeError::InFile) => StatusCode::CONFLICT,
            Self::Change(ChangeError::Full | ChangeError::NotKept(_)) => StatusCode::INSUFFICIENT_STORAGE,
        };
        (status, Json(json!({ "error": self.to_string() }))).into_response()
    }
}
