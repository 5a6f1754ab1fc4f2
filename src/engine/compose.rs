//! The real docker compose, out of its image, on a compose file that is rendered for one instance.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt as _;

use super::{Engine, recipe_images};
use crate::project::Project;
use crate::render::{compose_file, image_variable};
use crate::topology::{Plan, Source};

/// Recipe of the image that holds docker compose.
const RECIPE: &str = "docker-compose";

/// A compose file, and who runs it.
#[derive(Debug)]
pub struct Compose {
    image: String,
    folder: PathBuf,
    text: String,
    variables: Vec<String>,
    /// Of the container that runs docker compose.
    name: String,
    network: String,
}

impl Compose {
    /// For an instance, with local images.
    ///
    /// # Errors
    /// A recipe or a lock cannot be read.
    pub fn new(project: &Project, plan: &Plan, arch: &str) -> Result<Self> {
        let text = compose_file(&project.file, &project.render_inputs()?, plan, Source::Local)?;
        let recipes = recipe_images(project, arch)?;
        let image = recipes.iter().find(|i| i.name == RECIPE).context("no recipe docker-compose")?;
        Ok(Self {
            image: image.reference.clone(),
            name: plan.instance.container("docker-compose"),
            network: plan.network.clone(),
            folder: project.root.canonicalize()?.join("compose"),
            text,
            variables: recipes
                .iter()
                .map(|i| format!("{}={}", image_variable(&i.name), i.reference))
                .collect(),
        })
    }

    /// Ends a command that was given up: without its client it would go on.
    pub async fn give_up(&self) {
        let mut command = tokio::process::Command::new("docker");
        let command = command.args(["rm", "--force", &self.name]).stdout(Stdio::null()).stderr(Stdio::null());
        let _ = command.status().await;
    }

    /// Removes what docker compose started, its volumes too. The network goes once nothing is on it any more: docker compose does not
    /// wait for that, and an engine that still counts a container that has left refuses (seen with Docker 20.10).
    ///
    /// # Errors
    /// Docker compose ends with another code than 0, or the engine refuses.
    pub async fn down(&self, engine: &Engine) -> Result<()> {
        self.run(&["rm", "--stop", "--force", "--volumes"]).await?;
        engine.remove_network(&self.network).await?;
        self.run(&["down", "--volumes", "--remove-orphans"]).await?;
        Ok(())
    }

    /// Runs one command of docker compose to its end; what it printed.
    ///
    /// # Errors
    /// It ends with another code than 0; what it printed.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::new("docker");
        command.args(["run", "--rm", "--interactive", "--network", "none", "--name", &self.name]);
        command.args(["--volume", "/var/run/docker.sock:/var/run/docker.sock"]);
        for variable in &self.variables {
            command.args(["--env", variable]);
        }
        command.arg(&self.image).args(["docker-compose", "--progress", "plain", "--file", "-"]);
        command.arg("--project-directory").arg(&self.folder).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("docker cannot be run")?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(self.text.as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        if !output.status.success() {
            bail!("docker compose {} ended with {}:\n{said}", arguments.join(" "), output.status);
        }
        Ok(said)
    }
}
