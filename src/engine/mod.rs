//! The only room that talks to the Docker engine: images, start, stop, attach, clean up.
//!
//! Everything it makes carries the label [`INSTANCE_LABEL`], and it removes by that label only.

mod addons;
mod build;
mod compose;
mod container;
mod docker;
mod faults;
mod host;
mod images;
mod instance;
mod lab;
mod lock;
mod logs;
mod once;
mod ports;
mod pull;
mod push;
mod ready;
mod recipe;
mod request;
mod session;
mod start;
mod transfer;
mod usage;

pub use crate::probes::Usage;
pub use build::{BuildEvent, build_images};
pub use compose::Compose;
pub use container::ExecOutput;
pub use docker::{Engine, EngineError, Product};
pub use faults::Breakable;
pub use host::{ContextEngine, engine_of_context};
pub use images::{BuiltImage, Resolved, SourceChoice};
pub use instance::{ContainerState, InstanceState, Removed};
pub use lab::{Lab, LabBuilder};
pub use lock::{InstanceLock, cache_dir, state_dir};
pub use ports::{TakenPort, free_offset, taken_ports};
pub use pull::{PullEvent, Pulled};
pub use push::{InRegistry, in_registry};
pub use recipe::{RecipeImage, recipe_images};
pub use request::closed_files;
pub use session::{Event, Prepared, Session, default_offset, prepare, same_definition, start};
pub use start::{ReadyTimes, StartEvent, Started};
pub use transfer::{ArchiveReader, ArchiveWriter};

/// Names the instance on every container, network and volume.
pub const INSTANCE_LABEL: &str = "streamlab.instance";
/// Names the service on every container.
pub const SERVICE_LABEL: &str = "streamlab.service";
/// Names the fault on the container that stands for it.
pub const FAULT_LABEL: &str = "streamlab.fault";
/// On containers that are stopped after the others.
pub const STOPS_LAST_LABEL: &str = "streamlab.stops-last";
/// Seconds between SIGTERM and SIGKILL, on every container of a service.
pub const GRACE_LABEL: &str = "streamlab.grace";
/// Names the lab on the network.
pub const LAB_LABEL: &str = "streamlab.lab";
/// Path of the definition, on the network.
pub const DEFINITION_LABEL: &str = "streamlab.definition";
/// The port offset, on the network.
pub const OFFSET_LABEL: &str = "streamlab.offset";
/// The image source, on the network and on volumes.
pub const SOURCE_LABEL: &str = "streamlab.source";
/// Names the recipe on every image built here.
pub const RECIPE_LABEL: &str = "streamlab.recipe";
