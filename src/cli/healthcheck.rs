//! `swarmgate healthcheck`: for containers, which have no curl.

use std::time::Duration;

use clap::Args;

use super::api::reachable;
use super::{ConfigArgs, Failure, reach};

#[derive(Debug, Args)]
pub(super) struct Healthcheck {
    #[command(flatten)]
    config: ConfigArgs,
    /// The server to ask, in place of the configured admin listener.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
}

impl Healthcheck {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let server = match self.server {
            Some(url) => url,
            None => format!("http://{}", reachable(self.config.load()?.admin.listen)),
        };
        let url = format!("{}/readyz", server.trim_end_matches('/'));
        let answer = reach::http_client()?.get(&url).timeout(Duration::from_secs(5)).send().await;
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(Failure::Failed(format!("{url} answered {}", answer.status()))),
            Err(error) => Err(Failure::Failed(format!("{url} does not answer: {}", reach::root_cause(&error)))),
        }
    }
}
