//! Everything that is rendered from `lab.toml`: the documentation's tables and diagram, what Nix reads, compose files.
//! Pure: a page is a path and its text.

mod compose;
mod docs;
mod downloads;
mod inputs;
mod nix;
mod watch;

use std::collections::BTreeMap;

use anyhow::Result;

pub use compose::{ComposeSource, compose_file, image_variable};
pub use downloads::{Download, Pinned, downloads};
pub use inputs::{Inputs, Jar, jars};

use crate::topology::{Endpoints, Instance, LabFile};

/// Every rendered page: path from the project's root → text.
///
/// # Errors
/// A lab that cannot be resolved, or has dashboards and no Prometheus.
pub fn pages(file: &LabFile, inputs: &Inputs) -> Result<BTreeMap<String, String>> {
    let documented = file.resolve(file.default_lab.get_ref(), Instance::documented())?;
    let mut pages = BTreeMap::from([
        ("docs/ports.md".to_owned(), docs::ports(&documented)),
        ("docs/flows.md".to_owned(), docs::flows(file)),
        ("docs/commands.md".to_owned(), docs::commands(file, &documented)),
        ("docs/images.md".to_owned(), docs::images(file, &inputs.digests)),
        ("docs/metrics.md".to_owned(), watch::metrics(&documented)),
        ("docs/alerts.md".to_owned(), watch::alerts(file)),
        ("docs/queries.md".to_owned(), watch::queries(&documented, &inputs.dashboards)?),
        ("docs/diagram.md".to_owned(), docs::diagram(file, &documented)),
        ("docs/downloads.md".to_owned(), downloads::page(&downloads(&inputs.pins).0, docs::HEAD)),
        ("nix/topology.json".to_owned(), nix::topology(file, inputs)?),
    ]);
    for lab in file.labs.keys() {
        let topology = file.resolve(lab, Instance::documented())?;
        for (name, source) in [("local", ComposeSource::Local), ("upstream", ComposeSource::Upstream)] {
            pages.insert(format!("compose/{lab}.{name}.yml"), compose_file(file, inputs, &topology, source)?);
            let endpoints = Endpoints::of(&source.part_of(file, &topology));
            let endpoints = serde_json::to_string_pretty(&endpoints)?;
            pages.insert(format!("compose/{lab}.{name}.endpoints.json"), format!("{endpoints}\n"));
        }
    }
    Ok(pages)
}
