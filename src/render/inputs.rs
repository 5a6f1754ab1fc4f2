//! What pages are rendered from besides `lab.toml`: read by `Project::render_inputs`, only held here.

use std::collections::BTreeMap;

use crate::dashboards::Dashboard;

/// Facts from the checkout's other files.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Upstream `name:tag` → index digest.
    pub digests: BTreeMap<String, String>,
    /// Every file that pins or causes downloads: path → text.
    pub pins: BTreeMap<String, String>,
    /// Add-on made of jars → the jars.
    pub addon_jars: BTreeMap<String, Vec<Jar>>,
    /// Grafana's dashboards.
    pub dashboards: Vec<Dashboard>,
    /// Files written by hand that may mention ports: Markdown pages and dashboards. Path → text.
    pub by_hand: BTreeMap<String, String>,
}

/// A jar by coordinate, with its checksum.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Jar {
    /// Path in a Maven repository: the coordinate.
    pub path: String,
    /// Checksum of its bytes, in hex.
    pub sha256: String,
}

/// The lines of a checksum file (`sha256  path`).
pub fn jars(text: &str) -> Vec<Jar> {
    let pairs = text.lines().filter_map(|line| line.split_once("  "));
    pairs.map(|(sha256, path)| Jar { path: path.to_owned(), sha256: sha256.to_owned() }).collect()
}
