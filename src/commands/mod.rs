//! What people type, one file a command. This one holds the command line's shape and hands over.

mod alerts;
mod bench;
mod bench_events;
mod bench_logs;
mod bundle;
mod bundle_import;
mod complete;
mod console;
mod consume;
mod context;
mod doctor;
mod down;
mod env;
mod fault;
mod images;
mod images_lock;
mod kube;
mod live;
mod logs;
mod produce;
mod progress;
mod render;
mod restart;
mod search;
mod status;
mod tail;
mod trouble;
mod up;

pub use crate::signals::Interrupted;
pub use trouble::told;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::entry_points::EntryPoint;
use crate::topology::DEFAULT_INSTANCE;

/// A reproducible streaming lab whose documentation is its executable spec.
#[derive(Debug, Parser)]
#[command(name = "lab", bin_name = "./lab", version, propagate_version = true)]
pub struct Cli {
    /// Definition of the labs; the nearest lab.toml upwards where absent.
    #[arg(long, global = true, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Which running copy of a lab is meant.
    #[arg(long, global = true, default_value = DEFAULT_INSTANCE, value_name = "NAME", env = "LAB_INSTANCE", hide_env_values = true)]
    instance: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a lab up and leave it running.
    Up(up::Args),
    /// Stop a lab; its data stays unless --volumes.
    Down(down::Args),
    /// Every service: state, readiness, memory, ports.
    Status(status::Args),
    /// Log of a service.
    Logs(logs::Args),
    /// Start a service anew and wait until it is ready.
    Restart(restart::Args),
    /// Remove everything, data included, and start again.
    Reset(up::ResetArgs),
    /// What fires, since when, and what to do about it.
    Alerts(alerts::Args),
    /// Where the console is; with --allow-faults one on this machine whose buttons break the lab.
    Console(console::Args),
    /// Break something on purpose, or put it right: fault NAME, fault undo.
    Fault(fault::Args),
    /// Records of a topic as they come: partition@offset, key, value, decoded through the registry.
    Tail(tail::Args),
    /// Log lines by time, level, service, node, text and stack trace (labs with logs).
    Search(search::Args),
    /// Write a scenario's records, with a ledger of what was acknowledged.
    #[command(subcommand)]
    Produce(produce::Scenario),
    /// Read a topic of the events lab as members of a consumer group, and add up what is in it.
    #[command(subcommand)]
    Consume(consume::Kind),
    /// Images of the recipes: list, build, remove; pin the upstream ones.
    Images(images::Args),
    /// A lab in one file: make it, unpack it, offer it to a classroom.
    #[command(subcommand)]
    Bundle(bundle::Bundle),
    /// A lab on Kubernetes: put it there, look at it, remove it.
    #[command(subcommand)]
    Kube(kube::Kube),
    /// Addresses of a running lab, for other programs.
    Env(env::Args),
    /// What this machine has, what a lab needs, and how to mend what is missing.
    Doctor(doctor::Args),
    /// Measure, and print what was measured.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Run every test there is; arguments go to cargo test.
    Test {
        /// Such as a filter: avro.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Start the Docker engine where none answers, or stop the one that was started so.
    Engine {
        /// What to do.
        #[arg(value_parser = ["start", "stop"])]
        what: String,
    },
    /// Build the virtual machine with Nix and run the lab in it.
    Vm {
        /// For the machine's monitor, QEMU.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Print a shell's completions.
    Completions(complete::Args),
    /// Write the tables of docs/ from lab.toml.
    Render,
    #[command(flatten)]
    Inside(EntryPoint),
}

impl Cli {
    /// Runs the command; the error is for the person at the keyboard.
    ///
    /// # Errors
    /// What failed, where, and what to do next.
    pub fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let context = context::Context::new(self.file, self.instance);
        let result = runtime.block_on(async {
            match self.command {
                Command::Up(args) => up::run(&context, args).await,
                Command::Down(args) => down::run(&context, args).await,
                Command::Status(args) => status::run(&context, args).await,
                Command::Logs(args) => logs::run(&context, args).await,
                Command::Restart(args) => restart::run(&context, args).await,
                Command::Reset(args) => up::reset(&context, args).await,
                Command::Alerts(args) => alerts::run(&context, args).await,
                Command::Console(args) => console::run(&context, args).await,
                Command::Fault(args) => fault::run(&context, args).await,
                Command::Tail(args) => tail::run(&context, args).await,
                Command::Search(args) => search::run(&context, args).await,
                Command::Produce(scenario) => produce::run(&context, scenario).await,
                Command::Consume(kind) => consume::run(&context, kind).await,
                Command::Images(args) => images::run(&context, args).await,
                Command::Bundle(bundle) => bundle::run(&context, bundle).await,
                Command::Kube(command) => kube::run(&context, command).await,
                Command::Env(args) => env::run(&context, args).await,
                Command::Doctor(args) => doctor::run(&context, args).await,
                Command::Bench(bench) => bench::run(&context, bench).await,
                // These must work before there is a program: see the script.
                Command::Test { .. } | Command::Engine { .. } | Command::Vm { .. } => {
                    anyhow::bail!(
                        "this is done by the script: call it as ./lab test, ./lab engine start|stop, ./lab vm"
                    )
                }
                Command::Completions(args) => complete::run(args),
                Command::Render => render::run(&context),
                Command::Inside(entry_point) => entry_point.run().await,
            }
        });
        // A question that still runs in a blocking thread must not hold the program.
        runtime.shutdown_background();
        result
    }
}
