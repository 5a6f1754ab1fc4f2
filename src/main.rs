//! Arguments, the engine that is meant, and the exit code.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use streamlab::commands::{Cli, Interrupted, told};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match follow_docker_context().and_then(|()| cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::from(130)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// Runs this program anew with the engine of the Docker context in its environment, where a context holds: what it stands on knows
/// only the environment.
#[cfg(unix)]
fn follow_docker_context() -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    // A context that leads nowhere is said by the commands that need an engine.
    let Ok(Some(engine)) = streamlab::engine::engine_of_context() else { return Ok(()) };
    let mut again = std::process::Command::new(std::env::current_exe()?);
    Err(again.args(std::env::args_os().skip(1)).envs(engine.variables).exec().into())
}

#[cfg(not(unix))]
fn follow_docker_context() -> anyhow::Result<()> {
    Ok(())
}
