//! Streamlab: a reproducible streaming lab whose documentation is its executable spec.
//!
//! For tests of your own: [`Lab::start`] brings a lab up, gives its addresses, and removes it when it is dropped.
//!
//! Rooms, in the direction of their dependencies: [`commands`] and the container entry points → [`engine`] → [`clients`],
//! [`probes`]; [`own_services`] → [`clients`], [`probes`]; `cluster` → [`probes`], and the words in which [`engine`] tells of a start; [`bundle`] → [`lock`] and plain HTTP of [`clients`]. Every room may
//! use the pure ones, which do no I/O: [`topology`], [`lock`], [`render`]. [`project`] and [`dashboards`] read the
//! checkout's files.

/// `println!` that a reader may leave (`| head -1`): a closed pipe is no failure, and nothing panics.
macro_rules! say {
    ($($text:tt)*) => { $crate::write_line(format_args!($($text)*)) };
}

pub mod bundle;
pub mod clients;
mod cluster;
pub mod commands;
pub mod dashboards;
pub mod engine;
mod entry_points;
pub mod lock;
pub mod own_services;
pub mod probes;
pub mod project;
pub mod render;
mod signals;
pub mod topology;

pub use engine::{Lab, LabBuilder};
pub use streamlab_records::{results, scenarios};
pub use topology::Endpoints;

fn write_line(text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let mut out = std::io::stdout();
    if let Err(error) = out.write_fmt(text).and_then(|()| out.write_all(b"\n"))
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        let _ = writeln!(std::io::stderr(), "error: standard output cannot be written: {error}");
        std::process::exit(1);
    }
}
