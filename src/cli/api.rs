//! A running server's pin API, for the commands that use it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::{ConfigArgs, Failure, reach};

/// How long one answer may take: the slowest puts a record in the DHT.
const DEADLINE: Duration = Duration::from_secs(60);

/// Pins asked for at once.
const PAGE: usize = 500;

/// Which server, and who asks.
#[derive(Debug, Args, Clone)]
pub(super) struct Api {
    /// The server. Without a token its admin listener, on this machine unless told otherwise; with a token any.
    #[arg(long, value_name = "URL", env = "SWARMGATE_SERVER")]
    server: Option<String>,
    /// The token; better in the environment, since others see command lines.
    #[arg(long, value_name = "TOKEN", env = "SWARMGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file with the token in its first line.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
}

/// The API of one server.
pub(super) struct Client {
    base: String,
    token: Option<String>,
    http: reqwest::Client,
}

impl Api {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => Some(token.trim().to_owned()),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(file);
                let text = text.map_err(|error| Failure::Usage(format!("cannot read {}: {error}", file.display())))?;
                Some(text.lines().next().unwrap_or_default().trim().to_owned())
            }
            (None, None) => None,
        };
        let base = match &self.server {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => {
                let config = self.config.load()?;
                let listen = if token.is_some() { config.web.listen } else { config.admin.listen };
                format!("http://{}", reachable(listen))
            }
        };
        if !(base.starts_with("http://") || base.starts_with("https://")) {
            return Err(Failure::Usage(format!("{base} is not the address of a server (http://HOST:PORT)")));
        }
        Ok(Client { base, token, http: reach::http_client()? })
    }
}

/// A listener on every address is reached by the loopback one.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() { SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port())) } else { listen }
}

impl Client {
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        self.send(Method::POST, path, body).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send(Method::DELETE, path, None).await.map(drop)
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).timeout(DEADLINE);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await;
        let answer = answer.map_err(|error| {
            Failure::Failed(format!("{} does not answer: {}", self.base, reach::root_cause(&error)))
        })?;
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() { Ok(body) } else { Err(failure(&self.base, status, &body)) }
    }

    /// Every pin that there is to see.
    pub(super) async fn pins(&self, query: &str) -> Result<Vec<Value>, Failure> {
        let (mut pins, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("/v1/pins?limit={PAGE}{query}{cursor}")).await?;
            pins.extend(page["pins"].as_array().cloned().unwrap_or_default());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(pins),
            }
        }
    }

    /// The pin that somebody means: by its id, or by the key, info hash or link that is pinned.
    pub(super) async fn pin(&self, named: &str) -> Result<Value, Failure> {
        if named.len() == 32 && named.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return self.get(&format!("/v1/pins/{named}")).await;
        }
        let magnet = super::get::target(named)?;
        let found = match (magnet.key, magnet.info_hash) {
            (Some(key), _) => {
                let salt = crate::wire::hex::encode(magnet.salt.as_bytes());
                self.pins(&format!("&target={key}&salt={salt}")).await?
            }
            (None, Some(info_hash)) => self.pins(&format!("&target={info_hash}")).await?,
            (None, None) => Vec::new(),
        };
        found.into_iter().next().ok_or_else(|| Failure::NotFound(format!("{named} is not pinned")))
    }
}

/// Exit codes are by what the server said, as everywhere.
fn failure(base: &str, status: StatusCode, body: &Value) -> Failure {
    let name = body["type"].as_str().and_then(|name| name.rsplit(':').next()).unwrap_or_default();
    let why = match body["detail"].as_str() {
        Some(detail) => detail.to_owned(),
        None => format!("{base} answered with status {}", status.as_u16()),
    };
    match (status.as_u16(), name) {
        (404, _) => Failure::NotFound(why),
        (409 | 412, _) | (422, "idempotency-key-reused") => Failure::Conflict(why),
        (400 | 415 | 422, _) => Failure::Usage(why),
        _ => Failure::Failed(why),
    }
}
