//! The long-running services that the lab itself brings, one file a service. They know clients, probes and scenarios, and
//! the exporter the engine; never the commands.

pub mod app;
pub mod exporter;
pub mod metrics;
pub mod receiver;
