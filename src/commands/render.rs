//! `lab render`: writes what is rendered from `lab.toml`.

use anyhow::{Context as _, Result};

use super::context::Context;
use crate::render::pages;

pub(super) fn run(context: &Context) -> Result<()> {
    let project = context.project()?;
    for (path, text) in pages(&project.file, &project.render_inputs()?)? {
        std::fs::write(project.root.join(&path), text)
            .with_context(|| format!("{path} cannot be written"))?;
        say!("wrote {path}");
    }
    Ok(())
}
