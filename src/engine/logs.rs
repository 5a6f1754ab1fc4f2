//! The log of a container: as a stream, whole, and as the few lines that fit on a screen.

use anyhow::Result;
use futures::{Stream, StreamExt, TryStreamExt};
use testcontainers::bollard::query_parameters::LogsOptionsBuilder;

use super::Engine;

impl Engine {
    /// The log of a container: the last `tail` lines (all where none), going on as it grows where `follow`.
    pub fn log(
        &self,
        container: &str,
        tail: Option<usize>,
        follow: bool,
    ) -> impl Stream<Item = Result<String>> + use<> {
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .follow(follow)
            .tail(&tail.map_or("all".to_owned(), |n| n.to_string()))
            .build();
        let docker = self.docker.clone();
        let container = container.to_owned();
        async_log(docker, container, options)
    }

    /// The last telling lines of a container's log, indented; empty where there is none: see [`telling`].
    pub async fn last_lines(&self, container: &str, lines: usize) -> String {
        let log = self.log(container, Some(lines * 20), false);
        let text = log.try_collect::<Vec<String>>().await.unwrap_or_default().concat();
        telling(&text, lines)
    }

    /// The whole log of a container, every line as it was written.
    ///
    /// # Errors
    /// The container is not there, or the engine does not answer.
    pub async fn whole_log(&self, container: &str) -> Result<String> {
        Ok(self.log(container, None, false).try_collect::<Vec<String>>().await?.concat())
    }
}

fn async_log(
    docker: testcontainers::bollard::Docker,
    container: String,
    options: testcontainers::bollard::query_parameters::LogsOptions,
) -> impl Stream<Item = Result<String>> {
    let (send, receive) = futures::channel::mpsc::unbounded();
    tokio::spawn(async move {
        let mut chunks = docker.logs(&container, Some(options));
        while let Some(chunk) = chunks.next().await {
            let line = chunk
                .map(|c| String::from_utf8_lossy(&c.into_bytes()).into_owned())
                .map_err(|e| anyhow::anyhow!("the log of {container} cannot be read: {e}"));
            if send.unbounded_send(line).is_err() {
                return;
            }
        }
    });
    receive
}

/// The last lines of a text, indented, so many that they fit on a screen where some are long: what is wrong often stands at
/// the end of one. The frames of a Java stack trace are left out: they would push its message off the screen.
fn telling(text: &str, lines: usize) -> String {
    const LONGEST: usize = 1000;
    const USUAL: usize = 170;
    let frame = |line: &&str| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with("at ") && !line.starts_with("... ")
    };
    let all: Vec<&str> = text.lines().filter(frame).collect();
    let mut room = lines * USUAL;
    let mut shown = Vec::new();
    for line in all.into_iter().rev().take(lines) {
        let line: String = line.chars().take(LONGEST).collect();
        let length = line.chars().count();
        if length > room && !shown.is_empty() {
            break;
        }
        room = room.saturating_sub(length);
        shown.push(format!("  | {line}"));
    }
    shown.reverse();
    shown.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_fits_on_a_screen_and_keeps_what_stands_at_the_end_of_a_line() {
        let short: String = (1..=30).map(|n| format!("line {n}\n")).collect();
        assert!(telling(&short, 3).eq("  | line 28\n  | line 29\n  | line 30"));
        let long = format!("{}\n{} parse error\n", "first ".repeat(100), "why ".repeat(100));
        let shown = telling(&format!("{short}{}{long}", long.repeat(9)), 15);
        assert!(shown.ends_with("why  parse error"), "{shown}");
        assert!(shown.len() < 15 * 180, "{}", shown.len());
        assert_eq!(telling("Error: x\n\tat a.b(C.java)\n\t... 3 more\n\n", 5), "  | Error: x");
        assert_eq!(telling("", 5), "");
        assert_eq!(telling(&"x".repeat(1 << 20), 5).len(), 1004);
    }
}
