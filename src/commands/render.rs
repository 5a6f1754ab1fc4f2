//! `lab render`: writes the rendered pages of `docs/`.

use anyhow::{Context as _, Result};

use super::context::Context;
use crate::engine::lock_entries;
use crate::render::pages;
use crate::topology::Instance;

pub(super) fn run(context: &Context) -> Result<()> {
    let project = context.project()?;
    let documented = project.topology(None, Instance::documented())?;
    let lock = lock_entries(&project.root)?;
    let digests = lock.into_iter().map(|(reference, entry)| (reference, entry.index)).collect();
    for (path, text) in pages(&project.file, &documented, &digests) {
        std::fs::write(project.root.join(path), text).with_context(|| format!("{path} cannot be written"))?;
        say!("wrote {path}");
    }
    Ok(())
}
