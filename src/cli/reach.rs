//! How the short-lived commands reach the network: through a running server's API, or the DHT itself.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{ConfigArgs, Failure};
use crate::config::{self, Config};
use crate::dht::{Dht, Mode};
use crate::metrics;
use crate::tasks::Tasks;
use crate::wire::hex;
use crate::wire::id::PublicKey;
use crate::wire::item::{Salt, SignedItem, VerifiedItem};
use crate::wire::record_messages::Record;

/// How long a running server may take for one answer: it may be searching the DHT for us.
const SERVER_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Args, Clone)]
pub(super) struct Reach {
    /// Ask this running server, for example http://localhost:8080.
    #[arg(long, value_name = "URL", conflicts_with = "bootstrap")]
    pub(super) server: Option<String>,
    /// Speak to the DHT directly, entering it here; may be repeated. Default: the configured entry points, and a
    /// server on this machine.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) bootstrap: Vec<String>,
    #[command(flatten)]
    pub(super) config: ConfigArgs,
}

impl Reach {
    /// The DHT settings of a command: any free port, entered where the flags say.
    pub(super) fn dht_settings(&self, config: &Config) -> config::Dht {
        let mut settings = config.dht.clone();
        if self.bootstrap.is_empty() {
            // With no internet there is still the server on this machine.
            let here = settings.listen.addresses().map(|addr| match addr {
                SocketAddr::V4(addr) => format!("127.0.0.1:{}", addr.port()),
                SocketAddr::V6(addr) => format!("[::1]:{}", addr.port()),
            });
            settings.bootstrap.extend(here);
        } else {
            settings.bootstrap.clone_from(&self.bootstrap);
        }
        settings.listen = settings.listen.with_port(0);
        settings
    }

    /// A read-only node (BEP 43) for one command.
    pub(super) async fn dht_client(&self, tasks: &Tasks) -> Result<Dht, Failure> {
        let settings = self.dht_settings(&self.config.load()?);
        let dht = Dht::start(&settings, Mode::Client, None, metrics::Dht::detached(), tasks).await;
        let dht = dht.map_err(|error| Failure::Failed(format!("cannot open a UDP socket: {error}")))?;
        dht.bootstrapped().await;
        Ok(dht)
    }

    /// The newest record of a key.
    pub(super) async fn get(&self, key: PublicKey, salt: &Salt) -> Result<Option<Found>, Failure> {
        if let Some(server) = &self.server {
            return Server::new(server)?.get(key, salt).await;
        }
        let tasks = Tasks::new();
        let outcome = self.dht_client(&tasks).await?.get(key, salt.clone(), None).await;
        tasks.stop(Duration::from_secs(2)).await;
        Ok(outcome.item.map(|item| Found { item, source: "dht".into() }))
    }
}

/// A record and who had it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) item: VerifiedItem,
    pub(super) source: String,
}

/// What the HTTP API answers to a get.
#[derive(Debug, Deserialize)]
struct GetAnswer {
    #[serde(flatten)]
    record: Record,
    source: Option<String>,
}

/// What the HTTP API takes for a put.
#[derive(Debug, Serialize)]
struct PutBody {
    #[serde(flatten)]
    record: Record,
    #[serde(skip_serializing_if = "Option::is_none")]
    cas: Option<i64>,
}

/// The answer to a put.
#[derive(Debug, Default, Deserialize)]
pub(super) struct PutAnswer {
    /// Nodes that stored it.
    #[serde(default)]
    pub(super) stored: usize,
    /// The error code, when it was refused.
    pub(super) code: Option<i64>,
    /// Why it was refused.
    pub(super) error: Option<String>,
}

/// A running server's record API.
pub(super) struct Server {
    base: String,
    client: reqwest::Client,
}

impl Server {
    pub(super) fn new(url: &str) -> Result<Self, Failure> {
        let base = url.trim_end_matches('/').to_owned();
        if !(base.starts_with("http://") || base.starts_with("https://")) {
            return Err(Failure::Usage(format!("{url} is not the address of a server (http://HOST:PORT)")));
        }
        Ok(Self { base, client: http_client()? })
    }

    async fn get(&self, key: PublicKey, salt: &Salt) -> Result<Option<Found>, Failure> {
        let answer = self.client.get(self.url(key, salt)).timeout(SERVER_DEADLINE).send().await;
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        match answer.status().as_u16() {
            200 => {}
            404 => return Ok(None),
            status => return Err(Failure::Failed(format!("{} answered with status {status}", self.base))),
        }
        let answer: GetAnswer = answer.json().await.map_err(|error| self.unreachable(&error))?;
        let source = answer.source.unwrap_or_else(|| "server".into());
        // The server is not trusted: what it says is checked like anybody's word.
        let item = answer.record.verify_for(&key, salt, None);
        let item = item.map_err(|error| Failure::Failed(format!("{}: {error}", self.base)))?;
        Ok(Some(Found { item, source }))
    }

    pub(super) async fn put(&self, item: &SignedItem, cas: Option<i64>) -> Result<PutAnswer, Failure> {
        let body = PutBody { record: Record::from(item), cas };
        let request = self.client.put(self.url(item.key, &item.salt)).timeout(SERVER_DEADLINE).json(&body);
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let mut parsed: PutAnswer = answer.json().await.unwrap_or_default();
        if !status.is_success() && parsed.error.is_none() {
            parsed.error = Some(format!("{} answered with status {}", self.base, status.as_u16()));
        }
        Ok(parsed)
    }

    fn url(&self, key: PublicKey, salt: &Salt) -> String {
        let salt = if salt.is_empty() { String::new() } else { format!("?salt={}", hex::encode(salt.as_bytes())) };
        format!("{}/v1/records/{key}{salt}", self.base)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        Failure::Failed(format!("{} does not answer: {}", self.base, root_cause(error)))
    }
}

/// An HTTP client that speaks TLS by the same library as the rest of the process.
pub(super) fn http_client() -> Result<reqwest::Client, Failure> {
    // The second call finds the provider installed, which is what was wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().build().map_err(Failure::failed)
}

/// The innermost reason: "connection refused" rather than "error sending request".
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Reads a salt given in hexadecimal on the command line.
pub(super) fn salt_argument(text: &str) -> Result<Salt, String> {
    let bytes = hex::decode(text).ok_or("a salt is written in hexadecimal")?;
    Salt::new(bytes).map_err(|error| error.to_string())
}
