//! Public images by digest: what the engine lacks of them is pulled at once, with the credentials of `docker login`. What the
//! image is afterwards is held against `lab.toml`. Building is not here: see `build`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use testcontainers::bollard::auth::DockerCredentials;
use testcontainers::bollard::models::CreateImageInfo;
use testcontainers::bollard::query_parameters::{CreateImageOptionsBuilder, TagImageOptionsBuilder};

use super::Engine;
use crate::clients::oci;
use crate::lock::{Digest, Lock, LockEntry, Platform};

/// How `docker login` calls Docker Hub.
const DOCKER_HUB_LOGIN: &str = "https://index.docker.io/v1/";

/// How far the pull of one image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// It goes on.
    Going {
        /// `name:tag`.
        reference: String,
        /// What is there so far.
        pulled: Pulled,
    },
    /// It is there.
    Done {
        /// `name:tag`.
        reference: String,
        /// What came.
        pulled: Pulled,
        /// How long it took.
        took: Duration,
    },
}

/// Layers and bytes of an image that is being pulled. Layers that the engine had count as whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Layers that are whole.
    pub layers: usize,
    /// Layers that the engine has named so far.
    pub of_layers: usize,
    /// Bytes that came.
    pub bytes: u64,
    /// Bytes of the layers whose size is known.
    pub of_bytes: u64,
}

/// What an engine has said of each layer of one image.
#[derive(Debug, Default)]
struct Layers(BTreeMap<String, Layer>);

#[derive(Debug, Default)]
struct Layer {
    bytes: u64,
    of_bytes: u64,
    whole: bool,
}

impl Layers {
    /// Takes one line of the engine in. Its words are those of Docker; other engines name layers without sizes.
    fn take(&mut self, said: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&said.id, said.status.as_deref()) else { return };
        // The first line names the tag or digest in place of a layer.
        if status.starts_with("Pulling from") {
            return;
        }
        let layer = self.0.entry(id.clone()).or_default();
        match status {
            "Downloading" => {
                let figure = |f: Option<i64>| f.and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
                let detail = said.progress_detail.as_ref();
                layer.bytes = figure(detail.and_then(|d| d.current));
                layer.of_bytes = figure(detail.and_then(|d| d.total)).max(layer.bytes);
            }
            "Download complete" => layer.bytes = layer.of_bytes,
            "Already exists" | "Pull complete" => {
                layer.bytes = layer.of_bytes;
                layer.whole = true;
            }
            _ => {}
        }
    }

    fn pulled(&self) -> Pulled {
        Pulled {
            layers: self.0.values().filter(|l| l.whole).count(),
            of_layers: self.0.len(),
            bytes: self.0.values().map(|l| l.bytes).sum(),
            of_bytes: self.0.values().map(|l| l.of_bytes).sum(),
        }
    }
}

impl Engine {
    /// Pulls those of `references` that the engine lacks, all at once. Gives for each the name by which the engine has it.
    ///
    /// # Errors
    /// Those that the lock does not pin, or that no registry gave, each with the reason.
    pub(super) async fn pull_all(
        &self,
        references: &BTreeSet<&str>,
        lock: &Lock,
        say: &(impl Fn(PullEvent) + Sync),
    ) -> Result<BTreeMap<String, String>> {
        // Before gigabytes are pulled it is known that all can be.
        for reference in references {
            pin(lock, reference)?;
        }
        let pulls = references.iter().map(|r| async move { (*r, self.pull_pinned(r, lock, say).await) });
        let mut there = BTreeMap::new();
        let mut failed = Vec::new();
        for (reference, pulled) in futures::future::join_all(pulls).await {
            match pulled {
                Ok(pinned) => drop(there.insert(reference.to_owned(), pinned)),
                Err(why) => failed.push(format!("{why:#}")),
            }
        }
        if !failed.is_empty() {
            bail!(
                "{}\n  What came is kept: run it again. --images local needs no image registry.",
                failed.join("\n")
            );
        }
        Ok(there)
    }

    /// Pulls `name:tag` by the digest that the lock holds for it; gives the name by which the engine has it.
    ///
    /// # Errors
    /// The lock does not pin it, or no registry gives it; the reason.
    pub(super) async fn pull_pinned(
        &self,
        reference: &str,
        lock: &Lock,
        say: &impl Fn(PullEvent),
    ) -> Result<String> {
        let entry = pin(lock, reference)?;
        let name = reference.rsplit_once(':').map_or(reference, |(name, _)| name);
        let pinned = format!("{name}@{}", entry.index);
        if self.image_id(&pinned).await?.is_some() {
            return Ok(pinned);
        }
        if self.came_from_a_bundle(reference, entry).await? {
            return Ok(reference.to_owned());
        }
        let start = Instant::now();
        let options = CreateImageOptionsBuilder::new().from_image(&pinned).build();
        let mut lines = self.docker.create_image(Some(options), None, credentials(reference)?);
        let mut layers = Layers::default();
        let mut before = Pulled::default();
        while let Some(said) = lines.try_next().await.with_context(|| format!("{pinned} cannot be pulled"))? {
            layers.take(&said);
            let pulled = layers.pulled();
            if pulled != before {
                before = pulled;
                say(PullEvent::Going { reference: reference.to_owned(), pulled });
            }
        }
        say(PullEvent::Done { reference: reference.to_owned(), pulled: before, took: start.elapsed() });
        Ok(pinned)
    }

    /// An image that was loaded has a tag but no registry's digest. It is the pinned one if its id is the digest of the
    /// configuration that the pinned index leads to, or if [`Engine::mark_loaded`] has said so of this id.
    async fn came_from_a_bundle(&self, reference: &str, entry: &LockEntry) -> Result<bool> {
        let platform = Platform::ALL.into_iter().find(|p| p.architecture() == self.arch);
        let Some(pinned) = platform.and_then(|p| entry.platforms.get(&p)) else { return Ok(false) };
        let Some(id) = self.image_id(reference).await? else { return Ok(false) };
        Ok(id == pinned.config.as_str() || self.image_id(&mark(&pinned.config)).await? == Some(id))
    }

    /// Remembers on the engine that a loaded image has this configuration, by a tag: engines that keep images as containerd does
    /// have another id for it.
    ///
    /// # Errors
    /// The engine does not have it.
    pub async fn mark_loaded(&self, reference: &str, config: &Digest) -> Result<()> {
        if self.image_id(reference).await?.is_some_and(|id| id == config.as_str()) {
            return Ok(());
        }
        self.tag(reference, &mark(config)).await
    }

    /// Gives an upstream image, which the engine has by its digest, its tag: archives carry tags only.
    ///
    /// # Errors
    /// The engine does not have it.
    pub async fn tag_upstream(&self, pinned: &str, reference: &str) -> Result<()> {
        self.tag(pinned, reference).await
    }

    pub(super) async fn tag(&self, image: &str, reference: &str) -> Result<()> {
        let (name, tag) = reference.rsplit_once(':').context("a reference without a tag")?;
        let options = TagImageOptionsBuilder::new().repo(name).tag(tag).build();
        self.docker.tag_image(image, Some(options)).await.with_context(|| format!("{image} cannot be tagged"))
    }
}

fn pin<'l>(lock: &'l Lock, reference: &str) -> Result<&'l LockEntry> {
    lock.get(reference).with_context(|| {
        format!("images.lock.json has no digest for {reference}: it is not run unpinned (./lab images lock)")
    })
}

fn mark(config: &Digest) -> String {
    format!("streamlab/loaded:{}", config.hex())
}

/// What `docker login` has kept for an image's registry; none where nobody has logged in.
pub(super) fn credentials(reference: &str) -> Result<Option<DockerCredentials>> {
    use docker_credential::{
        CredentialRetrievalError as Trouble, DockerCredential, get_credential_from_reader,
    };
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    let Some(file) = folder.or_else(home).map(|folder| folder.join("config.json")) else { return Ok(None) };
    let config = match File::open(&file) {
        Ok(config) => config,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", file.display())),
    };
    let host = oci::registry_of(reference)?;
    let server = if host == oci::DOCKER_HUB { DOCKER_HUB_LOGIN } else { host.as_str() };
    let kept = match get_credential_from_reader(BufReader::new(config), server) {
        Ok(kept) => kept,
        Err(Trouble::NoCredentialConfigured) => return Ok(None),
        // A helper that does not know the registry ends as one that is broken does.
        Err(Trouble::HelperFailure { stdout, .. }) if stdout.contains("credentials not found") => {
            return Ok(None);
        }
        Err(trouble) => {
            bail!(
                "what docker login has kept for {host} cannot be read ({trouble})\n  Log in again: docker login {host}"
            )
        }
    };
    let (username, password, identitytoken) = match kept {
        DockerCredential::IdentityToken(token) => (None, None, Some(token)),
        DockerCredential::UsernamePassword(name, word) => (Some(name), Some(word), None),
    };
    let serveraddress = Some(server.to_owned());
    Ok(Some(DockerCredentials { username, password, identitytoken, serveraddress, ..Default::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(id: &str, status: &str, current: Option<i64>, total: Option<i64>) -> CreateImageInfo {
        let detail = testcontainers::bollard::models::ProgressDetail { current, total };
        CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: Some(detail),
            ..Default::default()
        }
    }

    #[test]
    fn layers_and_bytes_are_counted_as_the_engine_names_them() {
        let mut layers = Layers::default();
        let lines = [
            said("sha256:4ce", "Pulling from apache/kafka", None, None),
            said("aa", "Pulling fs layer", None, None),
            said("bb", "Already exists", None, None),
            said("aa", "Downloading", Some(40), Some(100)),
        ];
        lines.iter().for_each(|l| layers.take(l));
        assert_eq!(layers.pulled(), Pulled { layers: 1, of_layers: 2, bytes: 40, of_bytes: 100 });
        layers.take(&said("aa", "Download complete", None, None));
        layers.take(&said("aa", "Extracting", Some(3), Some(100)));
        assert_eq!(layers.pulled(), Pulled { layers: 1, of_layers: 2, bytes: 100, of_bytes: 100 });
        layers.take(&said("aa", "Pull complete", None, None));
        assert_eq!(layers.pulled(), Pulled { layers: 2, of_layers: 2, bytes: 100, of_bytes: 100 });
    }

    #[test]
    fn figures_that_make_no_sense_do_not_break_the_count() {
        let mut layers = Layers::default();
        layers.take(&said("aa", "Downloading", Some(-1), None));
        layers.take(&said("aa", "Downloading", Some(7), Some(3)));
        layers.take(&CreateImageInfo::default());
        assert_eq!(layers.pulled(), Pulled { layers: 0, of_layers: 1, bytes: 7, of_bytes: 7 });
    }
}
