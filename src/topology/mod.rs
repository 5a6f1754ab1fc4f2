//! `lab.toml` as types, its validation, and its resolution into the services of one instance. Pure: no I/O here.
//!
//! The order is always [`LabFile::parse`] → [`LabFile::resolve`] → [`Topology`]; nobody else builds names or addresses.

mod check;
mod endpoints;
mod error;
mod file;
mod health;
mod names;
mod resolve;
mod rows;
mod targets;

pub use endpoints::Endpoints;
pub use error::TopologyError;
pub use file::{
    Addon, Image, Lab, LabFile, Member, PortSpec, Protocol, Ready, Recipe, Scrape, ServiceSpec, Vm,
    VolumeSpec,
};
pub use names::{DEFAULT_INSTANCE, Instance, InstanceError, instance_option};
pub use resolve::{ENGINE_SOCKET, FileMount, Port, Service, Topology, Volume, parse_bytes};
pub use rows::{Alert, Command, Fault, Flow, Step};
pub use targets::{Probe, Target};
