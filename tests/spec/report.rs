//! `target/spec/report.md`: one table of what was proven, failed and not run.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// How a trial ended.
pub(crate) enum Verdict {
    Proven(String),
    Failed(String),
    NotRun(String),
}

pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) what: String,
    pub(crate) verdict: Verdict,
    pub(crate) took: Duration,
}

#[derive(Default)]
pub(crate) struct Report {
    rows: Mutex<Vec<Row>>,
}

impl Report {
    pub(crate) fn add(&self, row: Row) {
        self.rows.lock().expect("no trial panics while it reports").push(row);
    }

    /// Writes the table and prints what was proven, failed and not run.
    pub(crate) fn write(&self, folder: &Path, about: &str) -> std::io::Result<()> {
        let mut rows = self.rows.lock().expect("no trial panics while it reports");
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        let mut text = format!(
            "# What the spec has shown\n\n{about}\n\n| what | verdict | seconds | proves, or why not |\n|---|---|---|---|\n"
        );
        let mut counts = [0; 3];
        let mut not_run = String::new();
        for row in rows.iter() {
            let (verdict, why) = match &row.verdict {
                Verdict::Proven(note) => {
                    counts[0] += 1;
                    (
                        "proven",
                        if note.is_empty() {
                            row.what.clone()
                        } else {
                            format!("{}; seen: {note}", row.what)
                        },
                    )
                }
                Verdict::Failed(why) => {
                    counts[1] += 1;
                    ("**failed**", why.clone())
                }
                Verdict::NotRun(why) => {
                    counts[2] += 1;
                    let _ = write!(not_run, "\n  {}: {why}", row.name);
                    ("not run", why.clone())
                }
            };
            let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
            let _ = writeln!(
                text,
                "| {} | {verdict} | {:.1} | {} |",
                row.name,
                row.took.as_secs_f64(),
                cell(&why)
            );
        }
        std::fs::create_dir_all(folder)?;
        let path = folder.join("report.md");
        std::fs::write(&path, text)?;
        println!(
            "\nspec: {} proven, {} failed, {} not run{not_run}\nreport: {}",
            counts[0],
            counts[1],
            counts[2],
            path.display()
        );
        Ok(())
    }
}
