//! The long-running services that the lab itself brings, one file a service. They use clients, probes and scenarios, never the
//! engine or the commands: what the exporter asks the engine is handed to it by `entry_points`.

pub mod app;
pub mod console;
pub mod exporter;
pub mod front;
pub mod group;
mod guard;
pub mod metrics;
pub mod pipeline;
pub mod receiver;
