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
    /// Add-on → the files that it is made of.
    pub addons: BTreeMap<String, AddonFiles>,
    /// Grafana's dashboards.
    pub dashboards: Vec<Dashboard>,
    /// The project's files that services mount: path → text.
    pub mounted: BTreeMap<String, String>,
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

/// A Python package as a wheel for every system, with its checksum.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Wheel {
    /// Package, as file names have it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Checksum of its bytes, in hex.
    pub sha256: String,
}

/// What an add-on's folder holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct AddonFiles {
    /// From Maven's repository.
    pub jars: Vec<Jar>,
    /// From Python's.
    pub wheels: Vec<Wheel>,
}

/// The lines of a file of requirements (`package==version --hash=sha256:…`).
pub fn wheels(text: &str) -> Vec<Wheel> {
    let wheels = text.lines().filter_map(|line| {
        let (package, sha256) = line.split_once(" --hash=sha256:")?;
        let (name, version) = package.split_once("==")?;
        Some(Wheel { name: name.replace('-', "_"), version: version.to_owned(), sha256: sha256.to_owned() })
    });
    wheels.collect()
}

/// The lines of a checksum file (`sha256  path`).
pub fn jars(text: &str) -> Vec<Jar> {
    let pairs = text.lines().filter_map(|line| line.split_once("  "));
    pairs.map(|(sha256, path)| Jar { path: path.to_owned(), sha256: sha256.to_owned() }).collect()
}
