//! All files of an input: which there are, where each begins, how far each is done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::super::{host_name, id_of};
use super::File;
use super::tail::{GONE, Place, Reading, Tail, id_of_head};
use crate::event::Event;

/// Device and inode: a renamed file is the same.
type Key = (u64, u64);

/// All files of the input.
pub(super) struct Tails {
    settings: File,
    path: PathBuf,
    places: BTreeMap<String, Place>,
    open: BTreeMap<Key, Tail>,
    /// Files that cannot be opened, each said once.
    closed: BTreeSet<PathBuf>,
    /// The first look at the files is over.
    looked: bool,
    host: String,
}

fn name_of(key: Key) -> String {
    format!("{}:{}", key.0, key.1)
}

impl Tails {
    pub(super) fn new(settings: File, data: &Path) -> Result<Option<Self>> {
        let path = settings.remembered.clone().unwrap_or_else(|| {
            let names: Vec<&[u8]> = settings.paths.iter().map(|path| path.as_bytes()).collect();
            data.join(format!("sincedb-{}", id_of(names)))
        });
        let places: BTreeMap<String, Place> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!("{} does not hold the places of files; remove it to read all again", path.display())
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let (looked, host) = (!places.is_empty(), host_name());
        Ok(Some(Self {
            settings,
            path,
            places,
            open: BTreeMap::new(),
            closed: BTreeSet::new(),
            looked,
            host,
        }))
    }

    /// Reads on in every file; whether there may be more at once.
    pub(super) fn read(&mut self) -> Result<(Vec<Event>, bool)> {
        let there = self.look()?;
        let mut reading =
            Reading { codec: &self.settings.codec, host: &self.host, events: Vec::new(), text: 0 };
        let (mut more, mut cut) = (false, false);
        for tail in self.open.values_mut() {
            if reading.is_full() {
                more = true;
                break;
            }
            let before = tail.cuts.len();
            more |= tail.read(&mut reading).with_context(|| tail.path.display().to_string())?;
            cut |= tail.cuts.len() > before;
        }
        let events = reading.events;
        for (key, tail) in &mut self.open {
            let waits = !there.contains(key) && tail.at_end;
            tail.gone = if waits { tail.gone.or_else(|| Some(Instant::now())) } else { None };
        }
        if cut {
            // Before these events are documents: whoever reads them again must end them at the same places.
            for (key, tail) in &self.open {
                self.places.entry(name_of(*key)).or_insert_with(|| tail.place(0)).cuts.clone_from(&tail.cuts);
            }
            self.keep()?;
        }
        Ok((events, more))
    }

    /// Opens what is new; the files that are there by their names.
    pub(super) fn look(&mut self) -> Result<Vec<Key>> {
        let mut there = Vec::new();
        for path in
            self.settings.paths.iter().filter_map(|pattern| glob::glob(pattern).ok()).flatten().flatten()
        {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if self.settings.exclude.iter().any(|pattern| pattern.matches(&name)) {
                continue;
            }
            let opened = fs::File::open(&path).and_then(|file| file.metadata().map(|about| (file, about)));
            let (file, about) = match opened {
                Ok(opened) => opened,
                // It may be renamed or removed between two looks.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    if self.closed.insert(path.clone()) {
                        eprintln!("[WARN] file: {} cannot be read: {error}", path.display());
                    }
                    continue;
                }
            };
            self.closed.remove(&path);
            if !about.is_file() {
                continue;
            }
            let key = (about.dev(), about.ino());
            there.push(key);
            match self.open.get_mut(&key) {
                Some(tail) => tail.path = path,
                None => {
                    let tail = self.begin(key, path, file, &about)?;
                    self.open.insert(key, tail);
                }
            }
        }
        self.looked = true;
        Ok(there)
    }

    /// A file that was not open, from where it is to be read.
    fn begin(&self, key: Key, path: PathBuf, file: fs::File, about: &fs::Metadata) -> Result<Tail> {
        let length = about.len();
        let mut place = match self.places.get(&name_of(key)) {
            Some(place) if length >= place.offset && id_of_head(&file, place.head_bytes)? == place.head => {
                place.clone()
            }
            // Emptied meanwhile; or another file has got the inode of one that was removed.
            Some(place) => Place { emptied: place.emptied + 1, ..Place::default() },
            None => Place::default(),
        };
        if !self.places.contains_key(&name_of(key)) && self.settings.from_end && !self.looked {
            place.offset = length;
        }
        Tail::open(path, file, about, place)
    }

    /// What was handed over is done: keeps how far every file is.
    pub(super) fn done(&mut self) -> Result<()> {
        for (key, tail) in &mut self.open {
            let done = tail.done();
            tail.cuts.retain(|cut| *cut > done);
            self.places.insert(name_of(*key), tail.place(done));
        }
        self.open.retain(|_, tail| tail.gone.is_none_or(|since| since.elapsed() < GONE));
        self.keep()
    }

    /// Writes the places down, so that they are there after a loss of power too.
    fn keep(&self) -> Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let kept = || format!("{} cannot be kept", self.path.display());
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let mut file = fs::File::create(&new).with_context(kept)?;
        file.write_all(&serde_json::to_vec(&self.places)?).with_context(kept)?;
        file.sync_all().with_context(kept)?;
        fs::rename(&new, &self.path).with_context(kept)?;
        fs::File::open(folder).and_then(|folder| folder.sync_all()).with_context(kept)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;
    use crate::grammar::{self, Statement};
    use crate::options::Options;

    /// A folder with log files, and a reader of it that can be killed.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn append(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        }

        fn empty(&self, name: &str) {
            fs::write(self.0.path().join(name), "").unwrap();
        }

        fn reader(&self) -> Tails {
            let text = format!(
                "input {{ file {{ path => \"{0}/*.log\" start_position => \"beginning\" sincedb_path => \"{0}/places\"
                 codec => multiline {{ pattern => \"^\\[\" negate => true what => \"previous\" auto_flush_interval => 0.1 }} }} }}",
                self.0.path().display()
            );
            let sections = grammar::parse(&text).unwrap();
            let Statement::Plugin(plugin) = &sections.inputs[0] else { panic!("no plugin") };
            let settings = File::of(&mut Options::of(plugin).unwrap()).unwrap();
            Tails::new(settings, self.0.path()).unwrap().unwrap()
        }
    }

    /// Reads until so many events have come: their ids and messages.
    fn events(tails: &mut Tails, count: usize) -> Vec<(String, String)> {
        let (mut all, begun) = (Vec::new(), Instant::now());
        while all.len() < count && begun.elapsed().as_secs() < 20 {
            let (events, _) = tails.read().unwrap();
            let message = |event: &Event| event.fields["message"].as_str().unwrap_or_default().to_owned();
            all.extend(events.iter().map(|event| (event.id.clone(), message(event))));
            std::thread::yield_now();
        }
        assert_eq!(all.len(), count, "{all:?}");
        all
    }

    fn messages(found: &[(String, String)]) -> Vec<&str> {
        found.iter().map(|(_, message)| message.as_str()).collect()
    }

    #[test]
    fn a_reader_that_is_killed_before_its_events_are_done_reads_them_again_with_the_same_ids() {
        let folder = Folder::new();
        folder.append("a.log", "[1] one\n more of one\n[2] two\n[3] three\n");
        let first = events(&mut folder.reader(), 3);
        assert_eq!(messages(&first), ["[1] one\n more of one", "[2] two", "[3] three"]);
        assert_eq!(events(&mut folder.reader(), 3), first);
        let mut reader = folder.reader();
        events(&mut reader, 3);
        reader.done().unwrap();
        folder.append("a.log", "[4] four\n");
        assert_eq!(messages(&events(&mut folder.reader(), 1)), ["[4] four"]);
    }

    #[test]
    fn an_event_that_ended_for_want_of_lines_ends_there_again() {
        let folder = Folder::new();
        folder.append("a.log", "[1] one\n");
        let first = events(&mut folder.reader(), 1);
        // It is killed before that is done; then the rest of the event comes, too late.
        folder.append("a.log", " late\n[2] two\n");
        let again = events(&mut folder.reader(), 3);
        assert_eq!(messages(&again), ["[1] one", " late", "[2] two"]);
        assert_eq!(again[0], first[0]);
    }

    #[test]
    fn a_file_that_is_emptied_begins_anew_also_where_it_has_grown_again() {
        let folder = Folder::new();
        folder.append("a.log", "[1] started\n");
        let mut reader = folder.reader();
        let first = events(&mut reader, 1);
        reader.done().unwrap();
        // The same line at the same place: another one, if the file was seen without it.
        folder.empty("a.log");
        assert_eq!(reader.read().unwrap().0.len(), 0);
        folder.append("a.log", "[1] started\n");
        let second = events(&mut reader, 1);
        assert_eq!(messages(&second), ["[1] started"]);
        assert_ne!(second[0].0, first[0].0);
        reader.done().unwrap();
        // Longer than it was before anybody looks, with a reader that runs and with one that did not.
        folder.empty("a.log");
        folder.append("a.log", "[9] another beginning\n[2] two\n");
        let third = events(&mut reader, 2);
        assert_eq!(messages(&third), ["[9] another beginning", "[2] two"]);
        assert_eq!(events(&mut folder.reader(), 2), third);
    }

    #[test]
    fn what_is_written_to_a_file_after_it_lost_its_name_is_read() {
        let folder = Folder::new();
        folder.append("a.log", "[1] one\n");
        let mut reader = folder.reader();
        events(&mut reader, 1);
        reader.done().unwrap();
        fs::rename(folder.0.path().join("a.log"), folder.0.path().join("a.old")).unwrap();
        reader.read().unwrap();
        reader.done().unwrap();
        folder.append("a.old", "[2] its writer has not noticed\n");
        folder.append("a.log", "[3] the new one\n");
        let mut found = events(&mut reader, 2);
        found.sort_by(|a, b| a.1.cmp(&b.1));
        assert_eq!(messages(&found), ["[2] its writer has not noticed", "[3] the new one"]);
    }

    #[test]
    fn a_portion_is_bounded_and_nothing_of_a_file_of_short_lines_is_lost() {
        let folder = Folder::new();
        folder.append("a.log", &"[x]\n".repeat(10_000));
        let mut reader = folder.reader();
        let (first, more) = reader.read().unwrap();
        assert!(first.len() <= 2000 && more, "{}", first.len());
        let rest = events(&mut reader, 10_000 - first.len());
        let ids: BTreeSet<&String> =
            rest.iter().map(|(id, _)| id).chain(first.iter().map(|e| &e.id)).collect();
        assert_eq!(ids.len(), 10_000);
    }

    #[test]
    fn half_a_line_waits_for_its_end() {
        let folder = Folder::new();
        folder.append("a.log", "[1] ha");
        let mut reader = folder.reader();
        assert_eq!(reader.read().unwrap().0.len(), 0);
        folder.append("a.log", "lf\n");
        assert_eq!(messages(&events(&mut reader, 1)), ["[1] half"]);
    }
}
