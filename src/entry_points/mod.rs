//! What containers of the own image run: set-up steps, long-running services, a service for tests. None of it is for people at a
//! keyboard, whose commands are in [`crate::commands`].

mod monitoring_files;
mod serve;
mod setup;
mod setup_monitoring;
mod test_service;

use anyhow::{Context as _, Result};
use clap::Subcommand;

/// What a container is told to run.
#[derive(Debug, Subcommand)]
pub(crate) enum EntryPoint {
    /// A step of the lab's set-up.
    #[command(subcommand, hide = true)]
    Setup(setup::Step),
    /// A service of the lab that is this program.
    #[command(subcommand, hide = true)]
    Serve(serve::Service),
    /// A service of a few lines, for tests of the engine.
    #[command(hide = true)]
    TestService(test_service::Args),
}

impl EntryPoint {
    pub(crate) async fn run(self) -> Result<()> {
        match self {
            Self::Setup(step) => setup::run(step).await,
            Self::Serve(service) => serve::run(service).await,
            Self::TestService(args) => test_service::run(args).await,
        }
    }
}

/// A variable of the environment that the definition gives.
fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("the variable {name} is missing"))
}
