//! Streamlab: a reproducible streaming lab whose documentation is its executable spec.
//!
//! Rooms, in the direction of their dependencies: [`commands`] → [`engine`] → [`clients`], [`probes`] →
//! [`topology`], [`dashboards`], [`lock`], [`scenarios`]; [`services`] need [`clients`], [`probes`] and [`scenarios`] only; [`render`] reads
//! the topology and the dashboards only, [`bundle`] needs [`lock`] and plain HTTP of [`clients`]
//! only. The pure rooms never import the others.

pub mod bundle;
pub mod clients;
pub mod commands;
pub mod dashboards;
pub mod engine;
pub mod lock;
pub mod probes;
pub mod project;
pub mod render;
pub mod scenarios;
pub mod services;
pub mod topology;
