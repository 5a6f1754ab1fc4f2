//! stub
use super::context::Context;
use anyhow::Result;
#[derive(Debug, clap::Subcommand)]
pub(super) enum Bench {
    Startup,
}
pub(super) async fn run(_: &Context, _: Bench) -> Result<()> {
    Ok(())
}
