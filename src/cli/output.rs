//! What commands print: results on standard output, everything else on standard error.

use std::io::{IsTerminal, Write};

use serde::Serialize;
use tracing_subscriber::EnvFilter;

use super::Failure;

/// Directives that keep libraries from filling the log with what is no news to an operator.
const QUIET_LIBRARIES: &str =
    "librqbit=warn,librqbit_core=error,webrtc=error,rtc=error,librqbit_utp=error,quinn_udp=error";

/// Sends the log to standard error; `RUST_LOG` overrides `level`.
pub(super) fn init_logs(level: &str) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},{QUIET_LIBRARIES}")));
    // A second call (in tests) keeps the first subscriber, which is as good.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

/// One result, as one line of JSON.
///
/// # Errors
/// Nobody reads standard output any more.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(Failure::failed)?;
    text(&line)
}

/// One line for a person.
///
/// # Errors
/// As [`json`].
pub(super) fn text(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Failure::failed)
}

/// A remark that is not the result.
pub(super) fn remark(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Why the command failed: one sentence.
pub(super) fn complain(failure: &Failure) {
    remark(&format!("error: {failure}"));
}
