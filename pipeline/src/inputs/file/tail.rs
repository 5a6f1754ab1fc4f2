//! One file: its bytes as lines, its lines as events, and the place up to which they are done.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::super::codec::{Codec, MOST_BYTES, MOST_LINES};
use super::super::{id_of, nested, text};
use crate::event::Event;
use crate::joda::iso8601;

/// Events of one portion.
const MOST: usize = 2000;
/// Bytes of text after which a portion is closed.
const MOST_TEXT: usize = 8 << 20;
/// Bytes read of one file at once.
const CHUNK: usize = 1 << 20;
/// Bytes at the head of a file by which it is known again.
const HEAD: u64 = 256;
/// How long a file that has no name any more is kept: its writer may not have noticed yet.
pub(super) const GONE: Duration = Duration::from_secs(30);

/// How far a file is done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) offset: u64,
    /// What the file begins with, as an id; and how many bytes that are.
    pub(super) head: String,
    pub(super) head_bytes: u64,
    /// How often it was emptied in place: the same line at the same place is then another one.
    pub(super) emptied: u32,
    /// The date of the last line that had one.
    pub(super) date: Option<i64>,
    /// Places at which an event has ended because nothing more had come for a while: read again, it ends there too.
    pub(super) cuts: BTreeSet<u64>,
}

/// One file.
pub(super) struct Tail {
    pub(super) path: PathBuf,
    file: fs::File,
    /// What tells it from another file of the same number: inode, birth, how often it was emptied.
    inode: u64,
    born: u128,
    emptied: u32,
    /// The place of the first byte that is not read.
    next: u64,
    /// The beginning of a line that has no end yet.
    line: Vec<u8>,
    group: Option<Group>,
    pub(super) cuts: BTreeSet<u64>,
    /// What the file begins with, as far as it is read.
    head: Vec<u8>,
    /// The file had nothing more the last time.
    pub(super) at_end: bool,
    /// Since when it has no name, and nothing has come.
    pub(super) gone: Option<Instant>,
    date: Option<OffsetDateTime>,
}

/// Lines that belong together, as far as they are there.
struct Group {
    start: u64,
    text: String,
    lines: usize,
    last: Instant,
}

/// Where events of one reading go.
pub(super) struct Reading<'a> {
    pub(super) codec: &'a Codec,
    pub(super) host: &'a str,
    pub(super) events: Vec<Event>,
    pub(super) text: usize,
}

impl Reading<'_> {
    pub(super) fn is_full(&self) -> bool {
        self.events.len() >= MOST || self.text >= MOST_TEXT
    }
}

fn bytes_of_head(mut file: &fs::File, bytes: u64) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(bytes).read_to_end(&mut head)?;
    Ok(head)
}

/// What a file begins with, as an id.
pub(super) fn id_of_head(file: &fs::File, bytes: u64) -> Result<String> {
    Ok(id_of([bytes_of_head(file, bytes)?.as_slice()]))
}

impl Tail {
    /// A file that is to be read from a place.
    pub(super) fn open(path: PathBuf, file: fs::File, about: &fs::Metadata, place: Place) -> Result<Self> {
        let born = about.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            path,
            inode: about.ino(),
            born: born.map_or(0, |born| born.as_nanos()),
            emptied: place.emptied,
            next: place.offset,
            line: Vec::new(),
            group: None,
            cuts: place.cuts,
            head: bytes_of_head(&file, place.offset.min(HEAD))?,
            at_end: false,
            gone: None,
            date: place.date.and_then(|date| OffsetDateTime::from_unix_timestamp(date).ok()),
            file,
        })
    }

    /// The place up to which everything that was handed over is done once the portion is.
    pub(super) fn done(&self) -> u64 {
        self.group.as_ref().map_or(self.next - self.line.len() as u64, |group| group.start)
    }

    pub(super) fn place(&self, offset: u64) -> Place {
        let head = &self.head[..self.head.len().min(usize::try_from(offset).unwrap_or(usize::MAX))];
        Place {
            offset,
            head: id_of([head]),
            head_bytes: head.len() as u64,
            emptied: self.emptied,
            date: self.date.map(OffsetDateTime::unix_timestamp),
            cuts: self.cuts.clone(),
        }
    }

    /// Reads on; whether there may be more.
    pub(super) fn read(&mut self, to: &mut Reading<'_>) -> Result<bool> {
        let emptied = self.file.metadata()?.len() < self.next
            || bytes_of_head(&self.file, self.head.len() as u64)? != self.head;
        if emptied {
            // What was read of it is all there was; it may have grown beyond that place again.
            self.end_group(to);
            self.line.clear();
            self.head.clear();
            self.cuts.clear();
            self.next = 0;
            self.emptied += 1;
        }
        let mut chunk = vec![0; CHUNK];
        self.file.seek(SeekFrom::Start(self.next))?;
        let count = self.file.read(&mut chunk)?;
        self.at_end = count < CHUNK;
        let room = (HEAD as usize).saturating_sub(self.head.len());
        if self.next == self.head.len() as u64 {
            self.head.extend_from_slice(&chunk[..count.min(room)]);
        }
        let before = self.next - self.line.len() as u64;
        self.next += count as u64;
        self.line.extend_from_slice(&chunk[..count]);
        let bytes = std::mem::take(&mut self.line);
        let mut start = 0;
        while let Some(end) = bytes[start..].iter().position(|byte| *byte == b'\n').map(|end| start + end) {
            let line = bytes[start..end].strip_suffix(b"\r").unwrap_or(&bytes[start..end]);
            self.line(before + start as u64, text(line), to);
            start = end + 1;
            if to.is_full() {
                // The rest is read again with the next portion.
                self.next = before + start as u64;
                self.at_end = false;
                return Ok(true);
            }
        }
        self.line = bytes[start..].to_vec();
        while self.line.len() > MOST_BYTES {
            let rest = self.line.split_off(MOST_BYTES);
            let long = std::mem::replace(&mut self.line, rest);
            self.line(before + start as u64, text(&long), to);
            start += MOST_BYTES;
        }
        if count > 0 {
            self.gone = None;
        }
        self.end_what_waits(to);
        Ok(!self.at_end)
    }

    /// Ends an event to which nothing more has come for a while; and a line without an end, of a file that is given up.
    fn end_what_waits(&mut self, to: &mut Reading<'_>) {
        let given_up = self.gone.is_some_and(|since| since.elapsed() >= GONE);
        if given_up && !self.line.is_empty() {
            let bytes = std::mem::take(&mut self.line);
            self.line(self.next - bytes.len() as u64, text(&bytes), to);
        }
        let waits = match to.codec {
            Codec::Multiline(multiline) => multiline.flush.map(Duration::from_secs_f64),
            Codec::Plain | Codec::Json => None,
        };
        let over = |group: &Group| given_up || waits.is_some_and(|waits| group.last.elapsed() >= waits);
        if self.group.as_ref().is_some_and(over) {
            self.end_group(to);
            self.cuts.insert(self.next - self.line.len() as u64);
        }
    }

    fn line(&mut self, at: u64, line: String, to: &mut Reading<'_>) {
        let Codec::Multiline(multiline) = to.codec else {
            self.emit(at, line, 1, to);
            return;
        };
        if let Some(group) = &mut self.group {
            let room = group.lines < MOST_LINES && group.text.len() + line.len() < MOST_BYTES;
            if room && !self.cuts.contains(&at) && multiline.belongs(&line) {
                group.text.push('\n');
                group.text.push_str(&line);
                group.lines += 1;
                group.last = Instant::now();
                return;
            }
        }
        self.end_group(to);
        self.group = Some(Group { start: at, text: line, lines: 1, last: Instant::now() });
    }

    fn end_group(&mut self, to: &mut Reading<'_>) {
        if let Some(group) = self.group.take() {
            self.emit(group.start, group.text, group.lines, to);
        }
    }

    fn emit(&mut self, at: u64, text: String, lines: usize, to: &mut Reading<'_>) {
        if let Some(date) = date_at_head(&text) {
            self.date = Some(date);
        }
        // A line without a date has that of the one before it: read again tomorrow, it is in the same index. Before the first date of a
        // file there is only the time of arrival.
        let time = self.date.unwrap_or_else(OffsetDateTime::now_utc);
        let id = id_of([
            &self.inode.to_be_bytes()[..],
            &self.born.to_be_bytes()[..],
            &self.emptied.to_be_bytes()[..],
            &at.to_be_bytes()[..],
            text.as_bytes(),
        ]);
        to.text += text.len();
        for mut event in to.codec.events(text, time, id) {
            let path = self.path.to_string_lossy();
            event.fields.insert("log".to_owned(), nested(&["file", "path"], path.into()));
            event.fields.entry("host").or_insert_with(|| nested(&["name"], to.host.into()));
            if lines > 1 {
                event.tag("multiline");
            }
            to.events.push(event);
        }
    }
}

/// The date within the first bytes of a line, behind a bracket or none.
fn date_at_head(line: &str) -> Option<OffsetDateTime> {
    let line = line.strip_prefix('[').unwrap_or(line);
    iso8601(line.get(..19)?, time::UtcOffset::UTC)
}
