//! `lab render`: writes what is rendered from `lab.toml`, where it has changed.

use anyhow::{Context as _, Result, bail};

use super::context::Context;
use crate::render::pages;

pub(super) fn run(context: &Context) -> Result<()> {
    let project = context.project()?;
    // The copy that `nix run .#lab` falls back to.
    if project.root.starts_with("/nix/store") {
        bail!(
            "{} is a copy in the Nix store, which nobody can write.\n  Run it in a checkout.",
            project.root.display()
        );
    }
    let mut changed = 0;
    let pages = pages(&project.file, &project.render_inputs()?)?;
    for path in project.rendered_files()?.iter().filter(|path| !pages.contains_key(*path)) {
        std::fs::remove_file(project.root.join(path)).with_context(|| format!("{path} cannot be removed"))?;
        say!("removed {path}");
        changed += 1;
    }
    for (path, text) in pages {
        let file = project.root.join(&path);
        if std::fs::read_to_string(&file).is_ok_and(|there| there == text) {
            continue;
        }
        let folder = file.parent().map_or(Ok(()), std::fs::create_dir_all);
        folder
            .and_then(|()| std::fs::write(&file, text))
            .with_context(|| format!("{path} cannot be written"))?;
        say!("wrote {path}");
        changed += 1;
    }
    if changed == 0 {
        say!("every page is as lab.toml says");
    }
    Ok(())
}
