//! `lab.toml` as types, its validation, and the plan of a lab in an instance. Pure: no I/O here.
//!
//! The order is always [`LabFile::parse`] → [`LabFile::plan`] → [`Plan`]; nobody else builds names or addresses.

mod check;
mod check_labs;
mod check_rows;
mod endpoints;
mod error;
mod file;
mod graph;
mod health;
mod labs;
mod names;
mod plan;
mod resolve;
mod roster;
mod rows;
mod source;
mod targets;
mod tokens;
mod view;

pub use endpoints::Endpoints;
pub use error::TopologyError;
pub use file::{
    Addon, Image, ImageRecord, Lab, LabFile, Member, Overlay, PortSpec, Protocol, Provided, Ready, Recipe,
    Replaced, Scrape, ServiceSpec, Vm, VolumeSpec,
};
pub use names::{DEFAULT_INSTANCE, Instance, InstanceError, instance_option};
pub use plan::{
    ALERTS, AddonMount, ENGINE_SOCKET, FileMount, Health, KAFKA, LogLimit, METRICS, Plan, Player, Port,
    Restart, SCHEMA_REGISTRY, SEARCH, Service, Stop, TopicPlan, Volume, Wait,
};
pub use resolve::parse_bytes;
pub use rows::{Alert, Command, Fault, Flow, Step, Topic};
pub use source::Source;
pub use targets::{Probe, Target};
pub use view::{FaultView, LabView, ServiceView, WayView};
