//! Inputs: where events come from. An input hands over a portion and remembers that it has read so far only when the portion is done.

mod beats;
mod codec;
mod file;
mod kafka;
mod tcp;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::event::Event;
use crate::filters::After;
use crate::grammar::Plugin;
use crate::options::Options;
use crate::{Checked, mistake};

/// Events that an input waits for.
pub(crate) struct Portion {
    pub(crate) events: Vec<Event>,
    /// Told when every event is a document, dropped or a dead letter. Nobody hears it when the pipeline ends before.
    pub(crate) done: oneshot::Sender<()>,
}

/// Where inputs hand over.
#[derive(Clone)]
pub(crate) struct Exit(mpsc::Sender<Portion>);

impl Exit {
    pub(crate) fn new(sender: mpsc::Sender<Portion>) -> Self {
        Self(sender)
    }

    /// Hands over, and waits until it is done.
    ///
    /// # Errors
    /// The pipeline has ended: nothing may be remembered.
    pub(crate) async fn hand_over(&self, events: Vec<Event>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let (done, hears) = oneshot::channel();
        let ended = |_| anyhow::anyhow!("the pipeline has ended");
        self.0.send(Portion { events, done }).await.map_err(ended)?;
        Ok(hears.await?)
    }
}

/// An input that can be run.
#[derive(Debug)]
pub(crate) struct Input {
    kind: Kind,
    common: Common,
}

#[derive(Debug)]
enum Kind {
    File(file::File),
    Kafka(kafka::Kafka),
    Tcp(tcp::Tcp),
    Beats(beats::Beats),
}

/// What every input adds to its events.
#[derive(Debug)]
pub(crate) struct Common {
    kind: Option<String>,
    tags: Vec<String>,
    after: After,
}

impl Common {
    fn of(options: &mut Options) -> Checked<Self> {
        let kind = options.text("type")?.map(|(kind, _)| kind);
        let tags = options.texts("tags")?.into_iter().map(|(tag, _)| tag).collect();
        Ok(Self { kind, tags, after: After::of(options)? })
    }

    /// Adds it to an event that was just read.
    pub(crate) fn mark(&self, event: &mut Event) {
        if let Some(kind) = &self.kind {
            event.fields.entry("type").or_insert_with(|| Value::String(kind.clone()));
        }
        self.tags.iter().for_each(|tag| event.tag(tag));
        self.after.apply(event);
    }
}

impl Input {
    pub(crate) fn of(plugin: &Plugin) -> Checked<Self> {
        let mut options = Options::of(plugin)?;
        let common = Common::of(&mut options)?;
        let kind = match plugin.name.as_str() {
            "file" => Kind::File(file::File::of(&mut options)?),
            "kafka" => Kind::Kafka(kafka::Kafka::of(&mut options)?),
            "tcp" => Kind::Tcp(tcp::Tcp::of(&mut options)?),
            "beats" => Kind::Beats(beats::Beats::of(&mut options)?),
            other => {
                let known = "known are file, kafka, tcp and beats";
                return mistake(plugin.line, format!("no input {other} here; {known}"));
            }
        };
        options.none_left()?;
        Ok(Self { kind, common })
    }

    /// Reads until the pipeline ends.
    ///
    /// # Errors
    /// It cannot begin, or cannot go on.
    pub(crate) async fn run(self, exit: Exit, data: &Path) -> Result<()> {
        match self.kind {
            Kind::File(input) => input.run(self.common, exit, data).await,
            Kind::Kafka(input) => input.run(self.common, exit).await,
            Kind::Tcp(input) => input.run(self.common, exit).await,
            Kind::Beats(input) => input.run(self.common, exit).await,
        }
    }
}

/// An id that the same parts always give.
pub(crate) fn id_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // With its length: two parts are not one.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes as text. What is no UTF-8 becomes `\xE4`, as with Logstash.
pub(crate) fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02X}"));
        }
    }
    text
}

/// Connections of one input at a time. More wait until one ends.
const CONNECTIONS: usize = 256;

/// Takes connections for ever, each in a task of its own.
async fn accept<F>(
    name: &'static str,
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await?;
        match listener.accept().await {
            Ok((stream, from)) => {
                let served = serve(stream);
                tokio::spawn(async move {
                    if let Err(error) = served.await {
                        eprintln!("[WARN] {name}: {from}: {error:#}");
                    }
                    drop(place);
                });
            }
            // A peer's trouble, or no more files just now: nothing of this input's own.
            Err(error) => {
                eprintln!("[WARN] {name}: a connection could not be taken: {error}");
                pause(Duration::from_millis(200)).await;
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "something that is refused is left alone for a moment")]
pub(crate) async fn pause(wait: Duration) {
    tokio::time::sleep(wait).await;
}

/// Host names and the like, asked once.
pub(crate) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

/// An object of nested names.
pub(crate) fn nested(names: &[&str], value: Value) -> Value {
    names.iter().rev().fold(value, |value, name| {
        Value::Object(BTreeMap::from([((*name).to_owned(), value)]).into_iter().collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_shown_as_numbers() {
        assert_eq!(text(b"caf\xe9 \xf0\x9f\x98\x80 \xff"), "caf\\xE9 \u{1f600} \\xFF");
    }

    #[test]
    fn an_id_knows_where_a_part_ends() {
        let id = |parts: [&[u8]; 2]| id_of(parts);
        assert_eq!(id([b"a", b"b"]), id([b"a", b"b"]));
        assert_ne!(id([b"ab", b""]), id([b"a", b"b"]));
        assert_eq!(id([b"a", b"b"]).len(), 32);
    }
}
