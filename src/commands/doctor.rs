//! stub
use super::context::Context;
use anyhow::Result;
#[derive(Debug, clap::Args)]
pub(super) struct Args {}
pub(super) async fn run(_: &Context, _: Args) -> Result<()> {
    Ok(())
}
