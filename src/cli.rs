//! The command line: one file per subcommand. What they share is here: the arguments, the exit codes, the output.

mod api;
mod archive;
mod backup;
mod config;
mod folder;
mod get;
mod healthcheck;
mod key;
mod output;
mod pin;
mod publish;
mod put;
mod reach;
mod resolve;
mod serve;
mod standalone;
mod token;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{Config, ConfigError, Layers, load};

/// Joins WebTorrent browsers, the BitTorrent DHT and TCP swarms in one server.
#[derive(Debug, Parser)]
#[command(name = "swarmgate", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(serve::Serve),
    /// Make a folder a site: hash it, sign a record for it, put that in the DHT, and seed.
    Publish(publish::Publish),
    /// Look up the record of a key.
    Resolve(resolve::Resolve),
    /// Put a record that is signed already.
    Put(put::Put),
    /// Download what a magnet link or a key points to.
    Get(get::Get),
    /// Make or show keys.
    #[command(subcommand)]
    Key(key::Key),
    /// Show or check the configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Have a running server keep torrents and sites online.
    #[command(subcommand)]
    Pin(pin::Pin),
    /// Show what a token uses, and may use.
    Usage(usage::Usage),
    /// Say who may pin, and how much.
    #[command(subcommand)]
    Token(token::Token),
    /// Copy a server's databases, while it runs.
    Backup(backup::Backup),
    /// Put a backup in place, while no server runs.
    Restore(backup::Restore),
    /// Ask a running server whether it is ready; for containers.
    Healthcheck(healthcheck::Healthcheck),
    /// Print what a shell needs to complete these commands.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Where the configuration comes from, for every command that needs one.
#[derive(Debug, Args, Clone)]
struct ConfigArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "SWARMGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Set one key, over file and environment: --set web.listen=127.0.0.1:8080
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Where everything that must survive a restart is kept.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl ConfigArgs {
    fn load(&self) -> Result<Config, ConfigError> {
        let mut flags = self.set.clone();
        if let Some(dir) = &self.data_dir {
            flags.push(("data_dir".into(), dir.to_string_lossy().into_owned()));
        }
        let env = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        load(&Layers { file: self.config.clone(), env: env.collect(), flags })
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected SECTION.KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// How a command can end badly; the exit codes are part of the interface.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Exit code 3.
    #[error("{0}")]
    NotFound(String),
    /// Exit code 4: somebody else was first.
    #[error("{0}")]
    Conflict(String),
    /// The command has already said what happened, as its one line of JSON.
    #[error("")]
    Said(u8),
}

impl Failure {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    fn usage(error: impl std::fmt::Display) -> Self {
        Self::Usage(error.to_string())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Conflict(_) => 4,
            Self::Said(code) => *code,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(command) => command.run(),
        Command::Publish(command) => on_runtime(command.run()),
        Command::Resolve(command) => on_runtime(command.run()),
        Command::Put(command) => on_runtime(command.run()),
        Command::Get(command) => on_runtime(command.run()),
        Command::Key(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Pin(command) => on_runtime(command.run()),
        Command::Usage(command) => on_runtime(command.run()),
        Command::Token(command) => on_runtime(command.run()),
        Command::Backup(command) => command.run(),
        Command::Restore(command) => command.run(),
        Command::Healthcheck(command) => on_runtime(command.run()),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "swarmgate", &mut std::io::stdout());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::Said(_)) {
                output::complain(&failure);
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Commands that end by themselves log only what is wrong.
fn on_runtime(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    output::init_logs("warn");
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::failed)?;
    let result = runtime.block_on(command);
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
