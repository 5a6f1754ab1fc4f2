//! A line a service while a lab starts, a line a recipe while images are built: living lines on a terminal, plain
//! ones elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::engine::{BuildEvent, Event, PullEvent, Pulled, StartEvent};

struct Lines {
    terminal: bool,
    all: MultiProgress,
    bars: BTreeMap<String, ProgressBar>,
    /// Lines of Debian packages that were told.
    drift: BTreeSet<String>,
}

impl Lines {
    fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            all: MultiProgress::new(),
            bars: BTreeMap::new(),
            drift: BTreeSet::new(),
        }
    }

    fn bar(&mut self, name: &str) -> &ProgressBar {
        self.bars.entry(name.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner} {prefix:<24} {wide_msg}");
            let bar = self.all.add(ProgressBar::new_spinner());
            if let Ok(style) = style {
                bar.set_style(style.tick_chars("⠋⠙⠸⠴⠦⠇✓"));
            }
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        })
    }

    fn going(&mut self, name: &str, text: &str) {
        if self.terminal {
            self.bar(name).set_message(text.to_owned());
        }
    }

    fn done(&mut self, name: &str, text: &str) {
        if self.terminal {
            self.bar(name).finish_with_message(text.to_owned());
        } else {
            let _ = writeln!(std::io::stderr(), "{name:<24} {text}");
        }
    }

    /// Above the living lines.
    fn note(&mut self, text: &str) {
        self.all.suspend(|| {
            let _ = writeln!(std::io::stderr(), "{text}");
        });
    }

    fn start(&mut self, event: StartEvent) {
        match event {
            StartEvent::Waiting(name, others) => {
                self.going(&name, &format!("waits for {}", others.join(", ")));
            }
            StartEvent::Starting(name) => self.going(&name, "started, waiting until it is ready"),
            StartEvent::Ready(name, took) => {
                self.done(&name, &format!("ready after {:.1} s", took.as_secs_f64()));
            }
        }
    }

    fn pull(&mut self, event: PullEvent) {
        match event {
            PullEvent::Going { reference, pulled } => self.going(&reference, &bar(pulled)),
            PullEvent::Done { reference, pulled, took } => {
                let (layers, megabytes) = (pulled.of_layers, pulled.of_bytes >> 20);
                let took = took.as_secs_f64();
                self.done(&reference, &format!("pulled in {took:.0} s: {megabytes} MiB, {layers} layers"));
            }
        }
    }

    fn build(&mut self, event: BuildEvent) {
        match event {
            BuildEvent::Step { recipe, step } => {
                let name = format!("image {recipe}");
                if !self.terminal {
                    let _ = writeln!(std::io::stderr(), "{name:<24} {}", short(&step));
                }
                self.going(&name, &step);
            }
            BuildEvent::Built { recipe, took, drift } => {
                let text = format!("built in {:.0} s", took.as_secs_f64());
                self.done(&format!("image {recipe}"), &text);
                if let Some(news) = self.news(&recipe, drift) {
                    self.note(&news);
                }
            }
        }
    }

    /// What an image stands on has brought most of its packages: of those nothing is said again.
    fn news(&mut self, recipe: &str, drift: Vec<String>) -> Option<String> {
        let news: Vec<_> = drift.into_iter().filter(|line| self.drift.insert(line.clone())).collect();
        let rest = if news.len() > 4 { ", …" } else { "" };
        let first = news.iter().take(4).map(String::as_str).collect::<Vec<_>>().join(", ");
        let said = format!(
            "note: {} Debian packages of {recipe} are others than recorded: {first}{rest}",
            news.len()
        );
        (!news.is_empty()).then_some(said)
    }
}

/// Shows how a lab is prepared and started. The task ends when the sender is dropped.
pub(super) fn progress() -> (UnboundedSender<Event>, JoinHandle<()>) {
    let (sender, mut events) = unbounded_channel();
    let task = tokio::spawn(async move {
        let mut lines = Lines::new();
        while let Some(event) = events.recv().await {
            match event {
                Event::Note(text) => lines.note(&text),
                Event::Build(event) => lines.build(event),
                Event::Pull(event) => lines.pull(event),
                Event::Start(event) => lines.start(event),
            }
        }
    });
    (sender, task)
}

/// How far a pull is, in one line. The total grows as the engine names layers.
fn bar(pulled: Pulled) -> String {
    const CELLS: usize = 20;
    let share = pulled.bytes as f64 / pulled.of_bytes.max(1) as f64;
    let full = ((share * CELLS as f64) as usize).min(CELLS);
    let bar = "█".repeat(full) + &"░".repeat(CELLS - full);
    let (bytes, of_bytes) = (pulled.bytes >> 20, pulled.of_bytes >> 20);
    format!("{bar} {bytes} of {of_bytes} MiB, {} of {} layers", pulled.layers, pulled.of_layers)
}

fn short(step: &str) -> String {
    let line: String = step.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > 90 { line.chars().take(89).collect::<String>() + "…" } else { line }
}

/// Bytes that are gone over, on a terminal only.
pub(super) fn bytes_progress(what: &'static str, total: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total).with_prefix(what);
    match ProgressStyle::with_template("{prefix:<10} {bar:30} {bytes} of {total_bytes}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_differs_is_told_once() {
        let mut lines = Lines::new();
        let drift = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let told = lines.news("base", drift(&["a 2 (recorded 1)", "b 2 (recorded 1)"])).unwrap();
        assert!(
            told.contains("2 Debian packages of base") && told.contains("a 2 (recorded 1), b 2"),
            "{told}"
        );
        let told = lines.news("kafka", drift(&["a 2 (recorded 1)", "c 2 (recorded 1)"])).unwrap();
        assert!(told.contains("1 Debian packages of kafka") && !told.contains("a 2"), "{told}");
        assert_eq!(lines.news("spark", drift(&["a 2 (recorded 1)"])), None);
    }
}
