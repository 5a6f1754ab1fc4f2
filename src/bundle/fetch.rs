//! A bundle that somebody offers over HTTP: its manifest, and its blobs into a folder, going on where an earlier fetch was
//! cut off. Nothing is used before its digest is right.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use reqwest::StatusCode;
use reqwest::header::RANGE;
use tokio::io::AsyncWriteExt as _;

use super::Hashing;
use super::manifest::{LARGEST_MANIFEST, MANIFEST, Manifest, blob};

/// How long the other side may say nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// Somebody who runs `lab bundle serve`.
#[derive(Debug, Clone)]
pub struct Teacher {
    url: String,
    client: reqwest::Client,
    cache: PathBuf,
    /// Two processes would write into one half-fetched blob. Held until the last copy of this is gone.
    _lock: Arc<File>,
}

impl Teacher {
    /// At `url`; blobs go into the folder `cache`, which is made.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(url: &str, cache: &Path) -> Result<Self> {
        std::fs::create_dir_all(cache).with_context(|| format!("{} cannot be made", cache.display()))?;
        let lock = File::create(cache.join("lock"))?;
        if lock.try_lock().is_err() {
            bail!("another lab process is fetching into {}: wait for it, or end it", cache.display());
        }
        // The other side is in the same classroom: without the user's proxy.
        let client =
            crate::clients::plain().connect_timeout(Duration::from_secs(10)).read_timeout(SILENCE).build()?;
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            client,
            cache: cache.to_owned(),
            _lock: Arc::new(lock),
        })
    }

    /// What is offered.
    ///
    /// # Errors
    /// Nobody answers there, or it is no bundle.
    pub async fn manifest(&self) -> Result<Manifest> {
        let url = format!("{}/{MANIFEST}", self.url);
        let mut answer = self.client.get(&url).send().await.with_context(|| {
            format!("{url} does not answer: is `lab bundle serve` running there, and the address right?")
        })?;
        if !answer.status().is_success() {
            bail!("{url} answers {}: no bundle is offered there", answer.status());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.with_context(|| format!("{url} ended early"))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > LARGEST_MANIFEST {
                bail!("{url} is no bundle of streamlab: it does not end");
            }
        }
        Manifest::parse(&bytes).with_context(|| format!("{url} is no bundle of streamlab"))
    }

    /// Where a fetched blob is.
    pub fn path(&self, digest: &str) -> PathBuf {
        self.cache.join(blob(digest).replace('/', "-"))
    }

    /// Fetches the blob of an image, unless it is there. `seen` is told how many bytes came.
    ///
    /// # Errors
    /// It ends early again and again, or its bytes are not what the digest says (they are thrown away).
    pub async fn fetch(&self, repository: &str, digest: &str, size: u64, seen: &dyn Fn(u64)) -> Result<()> {
        let whole = self.path(digest);
        if whole.exists() {
            if digest_of(&whole).await? == digest {
                seen(size);
                return Ok(());
            }
            std::fs::remove_file(&whole)?;
        }
        let url = format!("{}/v2/{repository}/blobs/{digest}", self.url);
        let part = whole.with_extension("part");
        let mut last = None;
        // A classroom's network breaks off now and then; each attempt goes on where the last one ended.
        let mut pauses = tokio::time::interval(Duration::from_secs(1));
        for _ in 0..5 {
            pauses.tick().await;
            match self.go_on(&url, &part, size, seen).await {
                Ok(()) => {
                    last = None;
                    break;
                }
                Err(error) => last = Some(error),
            }
        }
        if let Some(error) = last {
            return Err(error.context(format!("{url} could not be fetched; what came is kept: run it again")));
        }
        let found = digest_of(&part).await?;
        if found != digest {
            std::fs::remove_file(&part)?;
            bail!(
                "{url} gave other bytes: {found}.\n  They were thrown away and nothing was loaded; ask who offers it."
            );
        }
        std::fs::rename(&part, &whole)?;
        Ok(())
    }

    async fn go_on(&self, url: &str, part: &Path, size: u64, seen: &dyn Fn(u64)) -> Result<()> {
        let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(part).await?;
        let mut there = file.metadata().await?.len();
        if there > size {
            file.set_len(0).await?;
            there = 0;
        }
        if there == size {
            return Ok(());
        }
        let mut answer = self.client.get(url).header(RANGE, format!("bytes={there}-")).send().await?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK if there == 0 => {}
            StatusCode::OK => {
                file.set_len(0).await?;
                there = 0;
            }
            status => bail!("it answers {status}"),
        }
        while let Some(chunk) = answer.chunk().await? {
            if there + chunk.len() as u64 > size {
                file.set_len(0).await?;
                bail!("it sends more than the {size} bytes that were named");
            }
            file.write_all(&chunk).await.context("the cache folder cannot be written (is the disk full?)")?;
            there += chunk.len() as u64;
            seen(chunk.len() as u64);
        }
        // After a power cut no file may have its final name without all its bytes.
        file.sync_all().await?;
        if there == size { Ok(()) } else { Err(anyhow!("it ended after {there} of {size} bytes")) }
    }
}

async fn digest_of(path: &Path) -> Result<String> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut content = Hashing::new(std::fs::File::open(&path)?);
        std::io::copy(&mut content, &mut std::io::sink())?;
        Ok(content.finish().1)
    })
    .await?
}
