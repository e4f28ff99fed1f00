//! `swarmgate config print|check|example`.

use clap::Subcommand;

use super::{ConfigArgs, Failure, output};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the configuration in force: defaults, file, environment and flags together.
    Print(#[command(flatten)] ConfigArgs),
    /// Check the configuration and say what is wrong with it.
    Check(#[command(flatten)] ConfigArgs),
    /// Print an example file: every key, its default, and what it is for.
    Example,
}

impl ConfigCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Print(args) => {
                let config = args.load()?;
                output::text(toml::to_string(&config).map_err(Failure::failed)?.trim_end())
            }
            Self::Check(args) => {
                args.load()?;
                output::text("the configuration is valid")
            }
            Self::Example => output::text(crate::config::example().trim_end()),
        }
    }
}
