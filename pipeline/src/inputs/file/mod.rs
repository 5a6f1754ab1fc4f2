//! file: lines of files that grow, are renamed and emptied. How far each is read is kept in a file of its own (`sincedb_path`), and
//! moves on when the lines before it are done. Here: the options, and the order of reading and remembering.

mod tail;
mod tails;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use self::tails::Tails;
use super::codec::Codec;
use super::{Common, Exit};
use crate::options::Options;
use crate::{Checked, Mistake, mistake};

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
        options.number("discover_interval", 1.0..=1e6)?;
        let every = options.number("stat_interval", 0.05..=60.0)?.unwrap_or(1.0);
        Ok(Self {
            paths: paths.into_iter().map(|(path, _)| path).collect(),
            exclude: options.texts("exclude")?.into_iter().map(pattern).collect::<Checked<_>>()?,
            from_end,
            remembered: match options.text("sincedb_path")? {
                // What people write to have everything read again at each start.
                Some((path, line)) if path == "/dev/null" => {
                    return mistake(
                        line,
                        "sincedb_path /dev/null: places are always kept here; remove the file instead",
                    );
                }
                path => path.map(|(path, _)| path.into()),
            },
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
            let (mut events, more) = on_files(&mut tails, Tails::read).await?;
            let nothing = events.is_empty();
            events.iter_mut().for_each(|event| common.mark(event));
            let handed = exit.hand_over(events);
            tokio::pin!(handed);
            loop {
                tokio::select! {
                    done = &mut handed => {
                        done?;
                        break;
                    }
                    // A file that comes and is renamed away while a portion waits must be open by then.
                    _ = ticks.tick() => on_files(&mut tails, |tails| tails.look().map(drop)).await?,
                }
            }
            if !nothing {
                on_files(&mut tails, Tails::done).await?;
            }
            if !more {
                ticks.tick().await;
            }
        }
    }
}

/// Does something with files where it holds up nobody else.
async fn on_files<T: Send + 'static>(
    tails: &mut Option<Tails>,
    work: impl FnOnce(&mut Tails) -> Result<T> + Send + 'static,
) -> Result<T> {
    let mut taken = tails.take().context("the files are in other hands")?;
    let (taken, found) = tokio::task::spawn_blocking(move || {
        let found = work(&mut taken);
        (taken, found)
    })
    .await?;
    *tails = Some(taken);
    found
}
