//! tcp: lines that somebody sends. TCP tells a sender nothing about what became of them: what was received and not yet written is lost
//! with the program, as with Logstash.

use std::time::Duration;

use anyhow::{Context as _, Result};
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::codec::{Codec, MOST_BYTES};
use super::{Common, Exit, accept, id_of, text};
use crate::Checked;
use crate::event::Event;
use crate::options::Options;

/// Events of one portion, bytes of text after which it is closed, and how long it may grow.
const MOST: usize = 1000;
const MOST_TEXT: usize = 8 << 20;
const GROWS: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Tcp {
    host: String,
    port: u16,
    codec: Codec,
}

/// `host` and `port` of an input that listens.
pub(super) fn address(options: &mut Options) -> Checked<(String, u16)> {
    let host = options.text("host")?.map_or("0.0.0.0".to_owned(), |(host, _)| host);
    let Some((port, line)) = options.text("port")? else { return options.missing("port") };
    match port.parse() {
        Ok(port) => Ok((host, port)),
        Err(_) => crate::mistake(line, format!("port {port:?} is none")),
    }
}

impl Tcp {
    pub(super) fn of(options: &mut Options) -> Checked<Self> {
        let (host, port) = address(options)?;
        options.only("mode", "server")?;
        Ok(Self { host, port, codec: Codec::of(options, &["line", "plain", "json_lines", "json"])? })
    }

    pub(super) async fn run(self, common: Common, exit: Exit) -> Result<()> {
        let listener = TcpListener::bind((self.host.as_str(), self.port));
        let listener = listener.await.with_context(|| format!("tcp: port {} cannot be had", self.port))?;
        let shared = std::sync::Arc::new((self.codec, common, exit));
        accept("tcp", listener, move |stream| {
            let shared = std::sync::Arc::clone(&shared);
            async move { serve(stream, &shared.0, &shared.1, &shared.2).await }
        })
        .await
    }
}

async fn serve(stream: TcpStream, codec: &Codec, common: &Common, exit: &Exit) -> Result<()> {
    let connection = uuid::Uuid::new_v4();
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    let (mut events, mut line, mut number, mut size) = (Vec::new(), Vec::new(), 0_u64, 0);
    let mut until = None;
    loop {
        let room = (MOST_BYTES - line.len()) as u64;
        let mut limited = (&mut reader).take(room);
        let next = limited.read_until(b'\n', &mut line);
        let read = match until {
            None => next.await?,
            // What is read of a line so far stays in `line`.
            Some(moment) => match tokio::time::timeout_at(moment, next).await {
                Ok(read) => read?,
                Err(_) => {
                    exit.hand_over(std::mem::take(&mut events)).await?;
                    until = None;
                    continue;
                }
            },
        };
        let whole = line.ends_with(b"\n") || line.len() >= MOST_BYTES;
        if whole || (read == 0 && !line.is_empty()) {
            number += 1;
            let bytes = std::mem::take(&mut line);
            size += bytes.len();
            let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
            let id = id_of([&connection.as_bytes()[..], &number.to_be_bytes()[..]]);
            for mut event in codec.events(text(bytes), OffsetDateTime::now_utc(), id) {
                common.mark(&mut event);
                events.push(event);
            }
        }
        if read == 0 || events.len() >= MOST || size >= MOST_TEXT {
            size = 0;
            exit.hand_over(std::mem::take::<Vec<Event>>(&mut events)).await?;
            until = None;
        } else if until.is_none() && !events.is_empty() {
            until = Some(tokio::time::Instant::now() + GROWS);
        }
        if read == 0 {
            return Ok(());
        }
    }
}
