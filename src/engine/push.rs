//! Images that were built here, put into a registry from which other machines pull them.

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use testcontainers::bollard::query_parameters::PushImageOptionsBuilder;

use super::Engine;
use super::pull::credentials;

impl Engine {
    /// Puts an image of the engine into the registry that `reference`, `registry/name:tag`, names; with the credentials of `docker login`.
    ///
    /// # Errors
    /// The engine has no such image, or the registry does not take it; the reason.
    pub async fn push(&self, image: &str, reference: &str) -> Result<()> {
        self.tag(image, reference).await?;
        let (name, tag) = reference.rsplit_once(':').context("a reference without a tag")?;
        let options = PushImageOptionsBuilder::new().tag(tag).build();
        let mut lines = self.docker.push_image(name, Some(options), credentials(reference)?);
        while let Some(said) =
            lines.try_next().await.with_context(|| format!("{reference} cannot be pushed"))?
        {
            if let Some(why) = said.error_detail.and_then(|detail| detail.message) {
                bail!("{reference} cannot be pushed: {why}");
            }
        }
        Ok(())
    }
}
