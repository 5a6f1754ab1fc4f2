//! beats: what Filebeat and its kin send (Lumberjack, version 2). A window is acknowledged when its events are done, in the order in which
//! windows come; until then the sender is told from time to time that somebody is there.

use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::tcp::address;
use super::{Common, Exit, accept, id_of, text};
use crate::Checked;
use crate::event::Event;
use crate::options::Options;

/// A sender that says nothing for so long is gone.
const IDLE: Duration = Duration::from_secs(60);
/// How long a window may take until all of it has come.
const SLOWEST: Duration = Duration::from_secs(600);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Most bytes of one frame, of what it holds, and of a window.
const MOST_BYTES: usize = 64 << 20;
/// Most events of one window.
const MOST_EVENTS: u32 = 100_000;
const VERSION: u8 = b'2';

#[derive(Debug)]
pub(crate) struct Beats {
    host: String,
    port: u16,
}

impl Beats {
    pub(super) fn of(options: &mut Options) -> Checked<Self> {
        let (host, port) = address(options)?;
        options.only("ssl_enabled", "false")?;
        options.only("ssl", "false")?;
        Ok(Self { host, port })
    }

    pub(super) async fn run(self, common: Common, exit: Exit) -> Result<()> {
        let listener = TcpListener::bind((self.host.as_str(), self.port));
        let listener = listener.await.with_context(|| format!("beats: port {} cannot be had", self.port))?;
        let shared = std::sync::Arc::new((common, exit));
        accept("beats", listener, move |stream| {
            let shared = std::sync::Arc::clone(&shared);
            async move { serve(stream, &shared.0, &shared.1).await }
        })
        .await
    }
}

async fn serve(mut stream: TcpStream, common: &Common, exit: &Exit) -> Result<()> {
    stream.set_nodelay(true)?;
    let (from, mut to) = stream.split();
    let mut from = BufReader::with_capacity(64 << 10, from);
    loop {
        // Silence between windows is the end of a connection that nobody needs.
        let Ok(begun) = tokio::time::timeout(IDLE, from.fill_buf()).await else { return Ok(()) };
        if begun?.is_empty() {
            return Ok(());
        }
        let window = tokio::time::timeout(SLOWEST, window(&mut from)).await;
        let window =
            window.with_context(|| format!("a window has no end after {} s", SLOWEST.as_secs()))??;
        let events = window.events.into_iter().map(|frame| event(&frame, common)).collect();
        let done = exit.hand_over(events);
        tokio::pin!(done);
        loop {
            match tokio::time::timeout(KEEP_ALIVE, &mut done).await {
                Ok(ended) => {
                    ended?;
                    break;
                }
                Err(_) => acknowledge(&mut to, 0).await?,
            }
        }
        acknowledge(&mut to, window.last).await?;
    }
}

async fn acknowledge(to: &mut (impl tokio::io::AsyncWrite + Unpin), sequence: u32) -> Result<()> {
    let [a, b, c, d] = sequence.to_be_bytes();
    Ok(to.write_all(&[VERSION, b'A', a, b, c, d]).await?)
}

/// The events that a sender wants acknowledged together.
struct Window {
    /// Each as JSON.
    events: Vec<Vec<u8>>,
    bytes: usize,
    /// The sequence number of the last.
    last: u32,
}

/// Reads one window.
async fn window(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<Window> {
    let mut window = Window { events: Vec::new(), bytes: 0, last: 0 };
    let mut expected: Option<u32> = None;
    loop {
        if expected == Some(u32::try_from(window.events.len())?) {
            return Ok(window);
        }
        let version = from.read_u8().await.context("the connection ended within a window")?;
        if version != VERSION {
            bail!("version {:?} of the protocol; only 2 is spoken here", char::from(version));
        }
        match from.read_u8().await? {
            b'W' if expected.is_none() => {
                let count = from.read_u32().await?;
                if count > MOST_EVENTS {
                    bail!("a window of {count} events; {MOST_EVENTS} are the most");
                }
                expected = Some(count);
            }
            b'J' => json_frame(from, &mut window).await?,
            b'C' => {
                let packed = bytes(from).await?;
                let mut plain = Vec::new();
                let mut inflate =
                    flate2::read::ZlibDecoder::new(packed.as_slice()).take(MOST_BYTES as u64 + 1);
                inflate.read_to_end(&mut plain).context("a compressed frame")?;
                if plain.len() > MOST_BYTES {
                    bail!("a compressed frame of more than {MOST_BYTES} bytes");
                }
                let mut inside = plain.as_slice();
                while !inside.is_empty() {
                    if inside.read_u8().await? != VERSION {
                        bail!("another version within a compressed frame");
                    }
                    match inside.read_u8().await? {
                        b'J' => json_frame(&mut inside, &mut window).await?,
                        other => bail!("a frame {:?} within a compressed one", char::from(other)),
                    }
                }
            }
            other => bail!("a frame {:?} where none can be", char::from(other)),
        }
        if expected.is_none() {
            bail!("an event before its window");
        }
    }
}

async fn bytes(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let length = from.read_u32().await? as usize;
    if length > MOST_BYTES {
        bail!("a frame of {length} bytes; {MOST_BYTES} are the most");
    }
    // As much as comes, not as much as is said.
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        bail!("a frame ends after {} of {length} bytes", bytes.len());
    }
    Ok(bytes)
}

async fn json_frame(from: &mut (impl tokio::io::AsyncRead + Unpin), window: &mut Window) -> Result<()> {
    window.last = from.read_u32().await?;
    let bytes = bytes(from).await?;
    window.bytes += bytes.len();
    if window.bytes > MOST_BYTES {
        bail!("a window of more than {MOST_BYTES} bytes");
    }
    window.events.push(bytes);
    Ok(())
}

/// An event as Logstash makes it of what a Beat sends.
fn event(frame: &[u8], common: &Common) -> Event {
    let now = OffsetDateTime::now_utc();
    let mut event = match serde_json::from_slice(frame) {
        Ok(Value::Object(members)) => {
            let mut event = Event::new(String::new(), now, id(&members, frame));
            event.fields.clear();
            event.merge(members);
            event
        }
        // It would be sent for ever, and everything behind it would wait.
        _ => {
            let mut event = Event::new(text(frame), now, id_of([frame]));
            event.tag("_jsonparsefailure");
            event
        }
    };
    common.mark(&mut event);
    event
}

/// By its place where the sender says it, otherwise by all of it: what is sent again is the same document.
fn id(members: &Map<String, Value>, frame: &[u8]) -> String {
    let of = |names: &[&str]| {
        let (first, rest) = names.split_first()?;
        let found = rest.iter().try_fold(members.get(*first)?, |value, name| value.get(name))?;
        Some(found.to_string())
    };
    let place =
        [of(&["agent", "id"]), of(&["log", "file", "path"]), of(&["log", "offset"]), of(&["message"])];
    let place: Option<Vec<String>> = place.into_iter().collect();
    match (of(&["@metadata", "_id"]), place) {
        (Some(given), _) => id_of([given.as_bytes()]),
        (None, Some(place)) => id_of(place.iter().map(String::as_bytes)),
        (None, None) => id_of([frame]),
    }
}
