//! Images out of the engine and into it, as the archives that it saves and loads.

use std::io::{Read, Write};

use anyhow::{Context, Result, anyhow, bail};
use futures::{StreamExt, TryStreamExt};
use testcontainers::bollard::body_try_stream;
use testcontainers::bollard::query_parameters::ImportImageOptionsBuilder;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::Engine;

/// Chunks under way between the engine and a thread that packs or unpacks.
const UNDER_WAY: usize = 16;

impl Engine {
    /// Saves images and hands the archive to `work`, in a thread of its own.
    ///
    /// # Errors
    /// The engine ends the archive early, or `work` fails.
    pub async fn save_images<T: Send + 'static>(
        &self,
        references: &[&str],
        work: impl FnOnce(ArchiveReader) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (send, receive) = channel(UNDER_WAY);
        let worker = tokio::task::spawn_blocking(move || {
            work(ArchiveReader { chunks: receive, rest: Vec::new(), at: 0 })
        });
        let mut archive = Box::pin(self.docker.export_images(references));
        while let Some(chunk) = archive.next().await {
            let chunk = chunk.map(|c| c.to_vec()).map_err(|e| anyhow!("the engine cannot save images: {e}"));
            // A worker that has failed takes no more; its own error is the one to say.
            if send.send(chunk).await.is_err() {
                break;
            }
        }
        drop(send);
        worker.await?
    }

    /// Loads the archive that `work` writes, in a thread of its own.
    ///
    /// # Errors
    /// `work` fails, or the engine refuses the archive (a full disk, a layer that is not what its image names).
    pub async fn load_images(
        &self,
        work: impl FnOnce(&mut ArchiveWriter) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (send, receive) = channel::<std::io::Result<Vec<u8>>>(UNDER_WAY);
        let worker = tokio::task::spawn_blocking(move || {
            let mut writer = ArchiveWriter { chunks: send, part: Vec::new() };
            let written = work(&mut writer).and_then(|()| Ok(writer.flush()?));
            if let Err(error) = &written {
                // The engine must not take half an archive for a whole one.
                let _ = writer.chunks.blocking_send(Err(std::io::Error::other(error.to_string())));
            }
            written
        });
        let chunks = futures::stream::unfold(receive, |mut receive| async {
            receive.recv().await.map(|chunk| (chunk.map(Into::into), receive))
        });
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let loaded: Result<Vec<_>, _> =
            self.docker.import_image(options, body_try_stream(chunks), None).try_collect().await;
        let written = worker.await?;
        let refused = match &loaded {
            Err(error) => Some(error.to_string()),
            Ok(said) => said.iter().find_map(|i| i.error_detail.as_ref()?.message.clone()),
        };
        match (refused, written) {
            (Some(why), _) if why.contains("no space left") => {
                bail!(
                    "the engine's disk is full: {why}\n  Make room (docker system df; ./lab images remove --old) and run it again: images that are there are not loaded twice."
                )
            }
            (_, Err(error)) => Err(error),
            (Some(why), _) => bail!("the engine refused the images: {why}"),
            (None, Ok(())) => Ok(()),
        }
    }

    /// Digests of the unpacked layers of an image that is on the engine, lowest first.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn image_layers(&self, reference: &str) -> Result<Vec<String>> {
        let image = self.docker.inspect_image(reference).await.context("the image is not there")?;
        Ok(image.root_fs.and_then(|r| r.layers).unwrap_or_default())
    }
}

/// An archive as it comes from the engine.
#[derive(Debug)]
pub struct ArchiveReader {
    chunks: Receiver<Result<Vec<u8>>>,
    rest: Vec<u8>,
    at: usize,
}

impl Read for ArchiveReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.rest.len() {
            match self.chunks.blocking_recv() {
                None => return Ok(0),
                Some(Err(error)) => return Err(std::io::Error::other(error.to_string())),
                Some(Ok(chunk)) => (self.rest, self.at) = (chunk, 0),
            }
        }
        let length = buffer.len().min(self.rest.len() - self.at);
        buffer[..length].copy_from_slice(&self.rest[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// An archive as it goes to the engine.
#[derive(Debug)]
pub struct ArchiveWriter {
    chunks: Sender<std::io::Result<Vec<u8>>>,
    part: Vec<u8>,
}

impl Write for ArchiveWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.part.extend_from_slice(bytes);
        if self.part.len() >= 1 << 20 {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let part = std::mem::take(&mut self.part);
        if part.is_empty() {
            return Ok(());
        }
        self.chunks.blocking_send(Ok(part)).map_err(|_| std::io::Error::other("the engine takes no more"))
    }
}
