//! Long-running services that the lab itself brings, each one `streamlab serve NAME` in the own image.

pub mod exporter;
