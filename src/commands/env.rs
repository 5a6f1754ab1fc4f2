//! `lab env`: where a running lab answers, as shell exports or JSON.

use anyhow::Result;

use super::context::Context;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON: the endpoints file that LAB_ATTACH takes.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let endpoints = context.running().await?.endpoints();
    if args.json {
        say!("{}", serde_json::to_string_pretty(&endpoints)?);
    } else {
        for (name, value) in endpoints.variables() {
            say!("export {name}='{value}'");
        }
    }
    Ok(())
}
