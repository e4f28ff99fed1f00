//! `GET /v1/ice`: the ICE servers for pages, as `RTCPeerConnection` takes them.

use std::net::{IpAddr, SocketAddr};

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, HOST};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Rooms, headers};
use crate::config::{self, IceServer};

/// What pages are told.
#[derive(Debug, Clone)]
pub struct Ice {
    /// Where this server answers STUN, if it does.
    stun: Option<SocketAddr>,
    public_ips: Vec<IpAddr>,
    servers: Vec<IceServer>,
}

impl Ice {
    /// `stun` is where this server answers STUN, if it does.
    #[must_use]
    pub fn new(settings: &config::WebRtc, stun: Option<SocketAddr>) -> Self {
        Self { stun, public_ips: settings.public_ips.clone(), servers: settings.ice_servers.clone() }
    }

    /// The servers for a page that knows this one as `host`, which is the value of a Host header.
    fn servers(&self, host: Option<&str>) -> Value {
        let mut servers: Vec<Value> = Vec::new();
        if let Some(stun) = self.stun {
            let hosts = match (&self.public_ips[..], host.and_then(hostname)) {
                ([], Some(host)) => vec![host.to_owned()],
                ([], None) => Vec::new(),
                (ips, _) => ips.iter().map(|ip| bracketed(*ip)).collect(),
            };
            servers.extend(hosts.iter().map(|host| json!({"urls": format!("stun:{host}:{}", stun.port())})));
        }
        servers.extend(self.servers.iter().map(|server| json!(server)));
        json!({ "iceServers": servers })
    }
}

pub(super) fn routes() -> Router<Rooms> {
    Router::new().route("/ice", get(servers))
}

async fn servers(State(rooms): State<Rooms>, request: HeaderMap) -> Response {
    let host = request.get(HOST).and_then(|host| host.to_str().ok());
    let mut response = Json(rooms.ice.servers(host)).into_response();
    // TURN credentials change, and the answer depends on the name that was asked.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers::allow_any_origin(response.headers_mut());
    response
}

/// The host of `host[:port]`; `None` if it is none, as anybody can write anything there.
fn hostname(host: &str) -> Option<&str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') && port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let ipv6 = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    match ipv6 {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok().then_some(name),
        None => (!name.is_empty() && is_name(name)).then_some(name),
    }
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(settings: config::WebRtc, stun: Option<&str>, host: Option<&str>) -> String {
        Ice::new(&settings, stun.map(|address| address.parse().unwrap())).servers(host)["iceServers"].to_string()
    }

    #[test]
    fn pages_are_told_of_this_server_by_the_name_they_know() {
        let stun = |host: &str| format!(r#"[{{"urls":"stun:{host}:6884"}}]"#);
        for (host, expected) in [
            (Some("example.org"), stun("example.org")),
            (Some("example.org:8080"), stun("example.org")),
            (Some("192.0.2.1:80"), stun("192.0.2.1")),
            (Some("[2001:db8::1]:8080"), stun("[2001:db8::1]")),
            (Some("[2001:db8::1]"), stun("[2001:db8::1]")),
            (Some("[not an address]:1"), "[]".to_owned()),
            (Some("a?transport=x"), "[]".to_owned()),
            (Some(""), "[]".to_owned()),
            (None, "[]".to_owned()),
        ] {
            assert_eq!(told(config::WebRtc::default(), Some("0.0.0.0:6884"), host), expected, "{host:?}");
        }
    }

    #[test]
    fn the_operators_servers_follow() {
        let turn = IceServer {
            urls: vec!["turn:turn.example.org:3478".into()],
            username: Some("reader".into()),
            credential: Some("word".into()),
        };
        let settings = config::WebRtc {
            public_ips: vec!["203.0.113.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            ice_servers: vec![turn],
            ..config::WebRtc::default()
        };
        let turn = r#"{"credential":"word","urls":["turn:turn.example.org:3478"],"username":"reader"}"#;
        let stun = r#"{"urls":"stun:203.0.113.1:6884"},{"urls":"stun:[2001:db8::1]:6884"}"#;
        assert_eq!(told(settings.clone(), Some("0.0.0.0:6884"), Some("example.org")), format!("[{stun},{turn}]"));
        assert_eq!(told(settings, None, Some("example.org")), format!("[{turn}]"));
    }
}
