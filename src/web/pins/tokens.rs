//! `/v1/tokens`, for the operator only: who may pin, and how much.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::auth::Holder;
use super::model::{NewTokenBody, TokenBody};
use super::problem::Problem;
use super::read_body;
use crate::pins::{Pins, TokenId, Usage, Who};

/// Whoever manages tokens: the operator.
pub(super) struct Operator;

impl axum::extract::FromRequestParts<Pins> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, pins: &Pins) -> Result<Self, Problem> {
        match Holder::from_request_parts(parts, pins).await? {
            Holder(Who::Operator) => Ok(Self),
            Holder(Who::Token(_)) => {
                Err(Problem::new(StatusCode::FORBIDDEN, "operator-only", "a token manages no tokens"))
            }
        }
    }
}

pub(super) async fn list(State(pins): State<Pins>, _: Operator) -> Response {
    let tokens = pins.tokens();
    let tokens: Vec<_> = tokens.iter().map(|(token, usage)| TokenBody::new(token, *usage, None)).collect();
    ([(CACHE_CONTROL, "no-store")], Json(json!({ "tokens": tokens }))).into_response()
}

pub(super) async fn make(State(pins): State<Pins>, _: Operator, request: Request) -> Result<Response, Problem> {
    let new: NewTokenBody = read_body(request).await?;
    let (token, text) = pins.make_token(new.parse()?).await?;
    let body = TokenBody::new(&token, Usage::default(), Some(text));
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revocation {
    #[serde(default)]
    with_pins: bool,
}

pub(super) async fn revoke(
    State(pins): State<Pins>,
    _: Operator,
    Path(id): Path<String>,
    revocation: Result<Query<Revocation>, QueryRejection>,
) -> Result<StatusCode, Problem> {
    let Query(Revocation { with_pins }) =
        revocation.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let id = TokenId::from_hex(&id).ok_or_else(|| Problem::not_found("there is no such token"))?;
    pins.revoke(id, with_pins).await?;
    Ok(StatusCode::NO_CONTENT)
}
