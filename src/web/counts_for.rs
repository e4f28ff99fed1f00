//! Whose quota of the DHT a request counts for.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;

use super::client_address::ClientAddress;
use crate::records::Asker;

/// Whose quota a request counts for.
#[derive(Debug, Clone, Copy)]
pub(super) struct CountsFor(pub(super) Asker);

/// Marks requests that come from the operator.
#[derive(Debug, Clone, Copy)]
struct OperatorsOwn;

/// On the admin listener nobody has a quota.
pub(super) async fn nobody(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(OperatorsOwn);
    next.run(request).await
}

impl<S: Sync> FromRequestParts<S> for CountsFor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let own = parts.extensions.get::<OperatorsOwn>().is_some();
        Ok(Self(if own { Asker::Us } else { Asker::Address(ClientAddress::of(parts).0) }))
    }
}
