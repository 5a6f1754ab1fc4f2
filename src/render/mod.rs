//! Everything that is rendered from `lab.toml`: the documentation's tables and diagram, what Nix reads, compose files, and the ports
//! that hand-written pages mention. Pure: a page is a path and its text.

mod compose;
mod diagram;
mod docs;
mod downloads;
mod inputs;
mod kubernetes;
mod labs;
mod mentions;
mod nix;
mod watch;

use std::collections::BTreeMap;

use anyhow::Result;

pub use compose::{compose_file, image_variable};
pub use downloads::{Download, Pinned, downloads};
pub use inputs::{AddonFiles, Inputs, Jar, Wheel, jars, wheels};
pub use kubernetes::{
    FOLDER as RENDERED_FOLDER, MOVE_PARTITIONS, NAME as SERVICE, PART_OF, namespace_of, own_image,
};

use crate::topology::{Endpoints, Instance, LabFile, Plan, Source};

/// Every rendered page: path from the project's root → text.
///
/// # Errors
/// A lab that has no plan, dashboards and no Prometheus, or a hand-written page that mentions a port nobody knows.
pub fn pages(file: &LabFile, inputs: &Inputs) -> Result<BTreeMap<String, String>> {
    let mut labs = Vec::new();
    for name in file.labs_in_order() {
        labs.push(file.plan(name, Instance::documented())?);
    }
    let mut pages = BTreeMap::from([
        ("docs/labs.md".to_owned(), labs::page(file, &labs)),
        ("docs/ports.md".to_owned(), docs::ports(file, &labs)?),
        ("docs/topics.md".to_owned(), labs::topics(file, &labs)),
        ("docs/flows.md".to_owned(), docs::flows(file)),
        ("docs/commands.md".to_owned(), docs::commands(file, &labs)),
        ("docs/images.md".to_owned(), docs::images(file, &inputs.digests)),
        ("docs/metrics.md".to_owned(), watch::metrics(&labs)),
        ("docs/alerts.md".to_owned(), watch::alerts(file)),
        ("docs/queries.md".to_owned(), watch::queries(&labs, &inputs.dashboards)?),
        ("docs/diagram.md".to_owned(), diagram::page(file, &labs)),
        ("docs/downloads.md".to_owned(), downloads::page(&downloads(&inputs.pins).0, docs::HEAD)),
        ("nix/topology.json".to_owned(), nix::topology(file, inputs)?),
    ]);
    pages.extend(kubernetes::pages(file, inputs, &labs)?);
    for plan in &labs {
        for source in Source::ALL {
            let stem = format!("compose/{}.{}", plan.lab, source.name());
            pages.insert(format!("{stem}.yml"), compose_file(file, inputs, plan, source)?);
            let endpoints = Endpoints::of(&source.part_of(file, plan)?);
            let endpoints = serde_json::to_string_pretty(&endpoints)?;
            pages.insert(format!("{stem}.endpoints.json"), format!("{endpoints}\n"));
        }
    }
    // Pages that are written by hand say what holds without public images, where a port differs.
    let mut by_hand: Vec<Plan> =
        labs.iter().map(|lab| Source::Local.part_of(file, lab)).collect::<Result<_, _>>()?;
    by_hand.extend(labs);
    for (path, text) in &inputs.by_hand {
        let now = match path.ends_with(".json") {
            true => Some(mentions::dashboard(file, &by_hand, text)?),
            false if pages.contains_key(path) => None,
            false => mentions::page(file, &by_hand, path, text)?,
        };
        pages.extend(now.map(|now| (path.clone(), now)));
    }
    Ok(pages)
}
