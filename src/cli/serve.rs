//! `swarmgate serve`: the server.

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{ConfigArgs, Failure, output};
use crate::node::Node;

/// How long an orderly stop may take before what is left is dropped.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        output::init_logs("info");
        let config = self.config.load()?;
        let runtime = tokio::runtime::Runtime::new().map_err(Failure::failed)?;
        let result = runtime.block_on(async {
            // Before anything is opened, so that a signal during start-up is an orderly stop too.
            let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
            let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::failed)?;
            // By custom: read the lists again.
            let mut hangup = signal(SignalKind::hangup()).map_err(Failure::failed)?;
            let node = Node::start(&config).await.map_err(Failure::failed)?;
            output::json(&node.ready())?;
            output::remark(&format!("Open http://{}/", node.page_address()));
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = hangup.recv() => node.reload().await,
                }
            }
            tracing::info!("stopping");
            // A second signal means now.
            tokio::select! {
                left = node.stop(STOP_DEADLINE) => if left > 0 { tracing::warn!(left, "tasks were still running") },
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok(())
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    }
}
