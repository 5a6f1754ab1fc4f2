//! file: lines of files that grow, are renamed and emptied. How far each is read is kept in a file of its own (`sincedb_path`), and
//! moves on when the lines before it are done.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::codec::{Codec, MOST_BYTES, MOST_LINES};
use super::{Common, Exit, host_name, id_of, nested, text};
use crate::event::Event;
use crate::joda::iso8601;
use crate::options::Options;
use crate::{Checked, Mistake, mistake};

/// Events of one portion.
const MOST: usize = 2000;
/// Bytes read of one file at once.
const CHUNK: usize = 1 << 20;
/// Bytes at the head of a file by which it is known again.
const HEAD: u64 = 256;

#[derive(Debug)]
pub(crate) struct File {
    paths: Vec<String>,
    exclude: Vec<glob::Pattern>,
    /// Files that are there at the first start are read from their end.
    from_end: bool,
    remembered: Option<PathBuf>,
    codec: Codec,
    every: Duration,
}

impl File {
    pub(super) fn of(options: &mut Options) -> Checked<Self> {
        let pattern = |(text, line): (String, usize)| {
            let refused = |why| Mistake { line, message: format!("{text:?} is no pattern of files: {why}") };
            glob::Pattern::new(&text).map_err(refused)
        };
        let paths = options.texts("path")?;
        if paths.is_empty() {
            return options.missing("path");
        }
        for (path, line) in &paths {
            if !path.starts_with('/') {
                return mistake(*line, format!("path {path:?} must begin with /"));
            }
            pattern((path.clone(), *line))?;
        }
        let from_end = match options.text("start_position")? {
            None => true,
            Some((word, _)) if word == "end" => true,
            Some((word, _)) if word == "beginning" => false,
            Some((other, line)) => {
                return mistake(line, format!("start_position: {other:?}; write beginning or end"));
            }
        };
        options.only("mode", "tail")?;
        // How often new files are looked for: here each time.
        options.number("discover_interval")?;
        let every = options.number("stat_interval")?.unwrap_or(1.0).clamp(0.05, 60.0);
        Ok(Self {
            paths: paths.into_iter().map(|(path, _)| path).collect(),
            exclude: options.texts("exclude")?.into_iter().map(pattern).collect::<Checked<_>>()?,
            from_end,
            remembered: options.text("sincedb_path")?.map(|(path, _)| path.into()),
            codec: Codec::of(options, &["plain", "line", "json", "multiline"])?,
            every: Duration::from_secs_f64(every),
        })
    }

    pub(super) async fn run(self, common: Common, exit: Exit, data: &Path) -> Result<()> {
        let every = self.every;
        let mut tails = Tails::new(self, data)?;
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let read;
            (tails, read) = tokio::task::spawn_blocking(move || {
                let read = tails.read();
                (tails, read)
            })
            .await?;
            let (mut events, more) = read?;
            let nothing = events.is_empty();
            events.iter_mut().for_each(|event| common.mark(event));
            exit.hand_over(events).await?;
            if !nothing {
                tails = tokio::task::spawn_blocking(move || tails.remember().map(|()| tails)).await??;
            }
            if !more {
                ticks.tick().await;
            }
        }
    }
}

/// How far a file is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Place {
    offset: u64,
    /// What the file begins with, as an id; and how many bytes that are.
    head: String,
    head_bytes: u64,
    /// The date of the last line that had one.
    date: Option<i64>,
}

/// Device and inode: a renamed file is the same.
type Key = (u64, u64);

/// All files of the input.
struct Tails {
    settings: File,
    path: PathBuf,
    places: BTreeMap<String, Place>,
    open: BTreeMap<Key, Tail>,
    /// The first look at the files is over.
    looked: bool,
    host: String,
}

/// One file.
struct Tail {
    path: PathBuf,
    file: fs::File,
    /// The place of the first byte that is not read.
    next: u64,
    /// The beginning of a line that has no end yet.
    line: Vec<u8>,
    group: Option<Group>,
    /// The file had nothing more the last time.
    at_end: bool,
    date: Option<OffsetDateTime>,
}

/// Lines that belong together, as far as they are there.
struct Group {
    start: u64,
    text: String,
    lines: usize,
    last: Instant,
}

fn name_of(key: Key) -> String {
    format!("{}:{}", key.0, key.1)
}

impl Tails {
    fn new(settings: File, data: &Path) -> Result<Self> {
        let path = settings.remembered.clone().unwrap_or_else(|| {
            let names: Vec<&[u8]> = settings.paths.iter().map(|path| path.as_bytes()).collect();
            data.join(format!("sincedb-{}", id_of(names)))
        });
        let places = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!("{} does not hold the places of files; remove it to read all again", path.display())
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let looked = !places.is_empty();
        Ok(Self { settings, path, places, open: BTreeMap::new(), looked, host: host_name() })
    }

    /// Reads on in every file; whether there may be more at once.
    fn read(&mut self) -> Result<(Vec<Event>, bool)> {
        let there = self.look()?;
        let (mut events, mut more) = (Vec::new(), false);
        let (codec, host) = (&self.settings.codec, &self.host);
        for (key, tail) in &mut self.open {
            if events.len() >= MOST {
                more = true;
                break;
            }
            let unread = tail.read(key.1, codec, host, &mut events);
            more |= unread.with_context(|| tail.path.display().to_string())?;
        }
        // One that is gone and read to its end will not come back; its place is kept, since another name of it may.
        self.open.retain(|key, tail| there.contains(key) || !tail.at_end || tail.group.is_some());
        Ok((events, more))
    }

    /// Opens what is new; the files that are there by their names.
    fn look(&mut self) -> Result<Vec<Key>> {
        let mut there = Vec::new();
        for path in
            self.settings.paths.iter().filter_map(|pattern| glob::glob(pattern).ok()).flatten().flatten()
        {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if self.settings.exclude.iter().any(|pattern| pattern.matches(&name)) {
                continue;
            }
            // It may be renamed or removed between two looks.
            let Ok(file) = fs::File::open(&path) else { continue };
            let about = file.metadata()?;
            if !about.is_file() {
                continue;
            }
            let key = (about.dev(), about.ino());
            there.push(key);
            match self.open.get_mut(&key) {
                Some(tail) => tail.path = path,
                None => {
                    let next = self.begin(key, &file, about.len())?;
                    let place = self.places.get(&name_of(key)).filter(|_| next > 0);
                    let date = place.and_then(|place| OffsetDateTime::from_unix_timestamp(place.date?).ok());
                    let (line, group) = (Vec::new(), None);
                    self.open.insert(key, Tail { path, file, next, line, group, at_end: false, date });
                }
            }
        }
        self.looked = true;
        Ok(there)
    }

    /// Where a file that was not open is read from.
    fn begin(&self, key: Key, file: &fs::File, length: u64) -> Result<u64> {
        match self.places.get(&name_of(key)) {
            // Another file may have got the inode of one that was removed.
            Some(place) if length >= place.offset && head(file, place.head_bytes)? == place.head => {
                Ok(place.offset)
            }
            Some(_) => Ok(0),
            None => Ok(if self.settings.from_end && !self.looked { length } else { 0 }),
        }
    }

    /// Keeps how far all files are done, so that it is there after a loss of power too.
    fn remember(&mut self) -> Result<()> {
        for (key, tail) in &self.open {
            let head_bytes = tail.file.metadata()?.len().min(HEAD).min(tail.done());
            let place = Place {
                offset: tail.done(),
                head: head(&tail.file, head_bytes)?,
                head_bytes,
                date: tail.date.map(OffsetDateTime::unix_timestamp),
            };
            self.places.insert(name_of(*key), place);
        }
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let kept = || format!("{} cannot be kept", self.path.display());
        let new = self.path.with_extension("new");
        let mut file = fs::File::create(&new).with_context(kept)?;
        file.write_all(&serde_json::to_vec(&self.places)?).with_context(kept)?;
        file.sync_all().with_context(kept)?;
        fs::rename(&new, &self.path).with_context(kept)?;
        fs::File::open(folder).and_then(|folder| folder.sync_all()).with_context(kept)
    }
}

/// What a file begins with, as an id.
fn head(mut file: &fs::File, bytes: u64) -> Result<String> {
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(bytes).read_to_end(&mut head)?;
    Ok(id_of([head.as_slice()]))
}

impl Tail {
    /// The place up to which everything that was handed over is done once the portion is.
    fn done(&self) -> u64 {
        self.group.as_ref().map_or(self.next - self.line.len() as u64, |group| group.start)
    }

    /// Reads on; whether there may be more.
    fn read(&mut self, inode: u64, codec: &Codec, host: &str, events: &mut Vec<Event>) -> Result<bool> {
        if self.file.metadata()?.len() < self.next {
            // Emptied in place: what was read of it is all there was.
            self.end_group(inode, codec, host, events);
            self.line.clear();
            self.next = 0;
        }
        let mut chunk = vec![0; CHUNK];
        self.file.seek(SeekFrom::Start(self.next))?;
        let count = self.file.read(&mut chunk)?;
        self.at_end = count < CHUNK;
        let before = self.next - self.line.len() as u64;
        self.next += count as u64;
        self.line.extend_from_slice(&chunk[..count]);
        let bytes = std::mem::take(&mut self.line);
        let mut start = 0;
        while let Some(end) = bytes[start..].iter().position(|byte| *byte == b'\n').map(|end| start + end) {
            let line = bytes[start..end].strip_suffix(b"\r").unwrap_or(&bytes[start..end]);
            self.line(before + start as u64, text(line), inode, codec, host, events);
            start = end + 1;
        }
        self.line = bytes[start..].to_vec();
        if self.line.len() > MOST_BYTES {
            let long = std::mem::take(&mut self.line);
            self.line(before + start as u64, text(&long), inode, codec, host, events);
        }
        let waits = match codec {
            Codec::Multiline(multiline) => multiline.flush.map(Duration::from_secs_f64),
            Codec::Plain | Codec::Json => None,
        };
        let over = |group: &Group| waits.is_some_and(|waits| group.last.elapsed() >= waits);
        if self.group.as_ref().is_some_and(over) {
            self.end_group(inode, codec, host, events);
        }
        Ok(!self.at_end)
    }

    fn line(
        &mut self,
        at: u64,
        line: String,
        inode: u64,
        codec: &Codec,
        host: &str,
        events: &mut Vec<Event>,
    ) {
        let Codec::Multiline(multiline) = codec else {
            self.emit(at, line, 1, inode, codec, host, events);
            return;
        };
        if let Some(group) = &mut self.group {
            let room = group.lines < MOST_LINES && group.text.len() + line.len() < MOST_BYTES;
            if room && multiline.belongs(&line) {
                group.text.push('\n');
                group.text.push_str(&line);
                group.lines += 1;
                group.last = Instant::now();
                return;
            }
        }
        self.end_group(inode, codec, host, events);
        self.group = Some(Group { start: at, text: line, lines: 1, last: Instant::now() });
    }

    fn end_group(&mut self, inode: u64, codec: &Codec, host: &str, events: &mut Vec<Event>) {
        if let Some(group) = self.group.take() {
            self.emit(group.start, group.text, group.lines, inode, codec, host, events);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "what an event is made of")]
    fn emit(
        &mut self,
        at: u64,
        text: String,
        lines: usize,
        inode: u64,
        codec: &Codec,
        host: &str,
        events: &mut Vec<Event>,
    ) {
        if let Some(date) = date_at_head(&text) {
            self.date = Some(date);
        }
        // A line without a date belongs to the day of the one before it: read again tomorrow, it is in the same index.
        let time = self.date.unwrap_or_else(OffsetDateTime::now_utc);
        let id = id_of([&inode.to_be_bytes()[..], &at.to_be_bytes()[..], text.as_bytes()]);
        for mut event in codec.events(text, time, id) {
            let path = self.path.to_string_lossy();
            event.fields.insert("log".to_owned(), nested(&["file", "path"], path.into()));
            event.fields.entry("host").or_insert_with(|| nested(&["name"], host.into()));
            if lines > 1 {
                event.tag("multiline");
            }
            events.push(event);
        }
    }
}

/// The date within the first bytes of a line, behind a bracket or none.
fn date_at_head(line: &str) -> Option<OffsetDateTime> {
    let line = line.strip_prefix('[').unwrap_or(line);
    iso8601(line.get(..19)?, time::UtcOffset::UTC)
}
