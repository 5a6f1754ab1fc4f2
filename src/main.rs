//! Argument parsing, nothing else.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use streamlab::commands::{Cli, Interrupted};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::from(130)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
