//! From an HTTP request to a WebSocket: the server's part of the opening handshake (RFC 6455 §4.2).

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    ALLOW, CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::wire::websocket;

/// Why a request does not become a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Method,
    NoHandshake,
    /// §4.4: another version than ours.
    Version,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET")]).into_response(),
            Self::NoHandshake => (StatusCode::BAD_REQUEST, "not the handshake of a WebSocket\n").into_response(),
            Self::Version => (StatusCode::UPGRADE_REQUIRED, [(SEC_WEBSOCKET_VERSION, VERSION)]).into_response(),
        }
    }
}

/// §4.1: "The value of this header field MUST be 13."
const VERSION: &str = "13";

/// A connection that is about to become a WebSocket, the response that makes it one, and whether messages may be
/// compressed then, which this end must be willing to.
pub(super) fn handshake(request: &mut Request, deflate: bool) -> Result<(Response, OnUpgrade, bool), Refused> {
    if request.method() != Method::GET {
        return Err(Refused::Method);
    }
    let headers = request.headers();
    let asked = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let asked = asked.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| asked).ok_or(Refused::NoHandshake)?;
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
        return Err(Refused::Version);
    }
    let accept = HeaderValue::from_str(&websocket::accept(key.as_bytes())).expect("base64 is ASCII");
    let headers = [
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accept),
    ];
    let mut response = (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response();
    let mut offers = request.headers().get_all(SEC_WEBSOCKET_EXTENSIONS).iter().filter_map(|value| value.to_str().ok());
    let deflate = deflate && offers.any(websocket::accepts);
    if deflate {
        response.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(websocket::AGREED));
    }
    Ok((response, hyper::upgrade::on(request), deflate))
}

/// The bare connection, once the response is written, and what the client has sent on it already. `Io` is what hyper
/// was given to serve.
pub(super) async fn upgraded<Io>(upgrade: OnUpgrade) -> Option<(TcpStream, Vec<u8>)>
where
    Io: AsyncRead + AsyncWrite + Into<TcpStream> + Unpin + Send + 'static,
{
    // Clients that go away in between.
    let upgraded = upgrade.await.ok()?;
    let Ok(Parts { io, read_buf, .. }) = upgraded.downcast::<TokioIo<Io>>() else {
        tracing::error!("a WebSocket came over a connection that is not this server's");
        return None;
    };
    Some((io.into_inner().into(), read_buf.to_vec()))
}
