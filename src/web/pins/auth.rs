//! Who asks: bearer tokens (RFC 6750 §2.1), in the `Authorization` header and nowhere else.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};

use super::problem::Problem;
use crate::pins::{Pins, Presented, Scope, Who};
use crate::records::Asker;
use crate::web::counts_for::CountsFor;

/// Names by which people pass tokens in addresses, where logs, histories and `Referer` headers keep them.
const IN_QUERY: [&str; 5] = ["access_token", "token", "auth", "api_key", "bearer"];

/// Whoever asks, and may do what the request's method does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder(pub(super) Who);

impl FromRequestParts<Pins> for Holder {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, pins: &Pins) -> Result<Self, Problem> {
        if parts.uri.query().is_some_and(carries_token) {
            let detail = "a token must not be part of an address, where others may read it; send it as the header \
                          Authorization: Bearer TOKEN, and revoke this one if it is real";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "token-in-query", detail));
        }
        let mut presented = parts.headers.get_all(AUTHORIZATION).iter();
        let (who, scope) = match (presented.next(), presented.next()) {
            (Some(value), None) => {
                let admitted = presented_in(value).and_then(|presented| pins.admit(&presented));
                admitted.ok_or_else(|| Problem::unauthorised("this token does not work, or no longer"))?
            }
            (Some(_), Some(_)) => return Err(Problem::unauthorised("there is more than one Authorization header")),
            (None, _) => match CountsFor::from_request_parts(parts, pins).await {
                // On the admin listener nobody has to say who he is.
                Ok(CountsFor(Asker::Us)) => (Who::Operator, Scope::Write),
                _ => return Err(Problem::unauthorised("send a token as the header Authorization: Bearer TOKEN")),
            },
        };
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        if scope == Scope::Read && !reads {
            return Err(Problem::new(StatusCode::FORBIDDEN, "read-only", "this token may only read"));
        }
        Ok(Self(who))
    }
}

/// The token in an `Authorization` header, if it looks like one.
pub(super) fn presented_in(value: &HeaderValue) -> Option<Presented> {
    let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Presented::parse(token.trim())).flatten()
}

fn carries_token(query: &str) -> bool {
    query.split('&').any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        IN_QUERY.iter().any(|known| name.eq_ignore_ascii_case(known)) || Presented::parse(value).is_some()
    })
}
