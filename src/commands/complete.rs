//! `lab completions`: a shell's completion script.

use anyhow::Result;
use clap::CommandFactory;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(super) fn run(args: Args) -> Result<()> {
    clap_complete::generate(args.shell, &mut super::Cli::command(), "lab", &mut std::io::stdout());
    Ok(())
}
