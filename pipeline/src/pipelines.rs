//! `pipelines.yml` and the files that it names → pipelines that can be run. Everything is checked before anything is read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;

use crate::counters::Counters;
use crate::filters::Filters;
use crate::grammar::{self, Statement};
use crate::inputs::Input;
use crate::output::Output;
use crate::pipeline::Parts;
use crate::{Checked, mistake};

/// One entry of `pipelines.yml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(rename = "pipeline.id")]
    id: String,
    #[serde(rename = "path.config")]
    config: String,
    /// Logstash's own tuning, of no meaning here.
    #[serde(rename = "pipeline.workers", default)]
    _workers: Option<u32>,
    #[serde(rename = "pipeline.batch.size", default)]
    _batch: Option<u32>,
    #[serde(rename = "queue.type", default)]
    _queue: Option<String>,
}

/// A pipeline that can be run.
#[derive(Debug)]
pub struct Pipeline {
    /// Its name.
    pub id: String,
    /// What it has done.
    pub counters: Arc<Counters>,
    parts: Parts,
}

/// What a pipeline finds around it.
pub struct Surroundings<'a> {
    /// What `${NAME}` stands for.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

/// Reads and checks all pipelines.
///
/// # Errors
/// Every file that has a mistake, each with its first one and the line; or `pipelines.yml` itself.
pub fn pipelines(file: &Path, surroundings: &Surroundings<'_>) -> Result<Vec<Pipeline>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let entries: Vec<Entry> = serde_saphyr::from_str(&text).with_context(|| file.display().to_string())?;
    if entries.is_empty() {
        bail!("{}: there is no pipeline", file.display());
    }
    let (mut found, mut wrong) = (Vec::<Pipeline>::new(), Vec::new());
    for entry in entries {
        if found.iter().any(|other| other.id == entry.id) {
            bail!("{}: the pipeline {} is there twice", file.display(), entry.id);
        }
        match parts(&entry, surroundings) {
            Ok(parts) => found.push(Pipeline { id: entry.id, counters: Arc::default(), parts }),
            Err(why) => wrong.push(format!("{why:#}")),
        }
    }
    if wrong.is_empty() { Ok(found) } else { Err(anyhow!("{}", wrong.join("\n"))) }
}

fn parts(entry: &Entry, surroundings: &Surroundings<'_>) -> Result<Parts> {
    let mut files: Vec<PathBuf> = if Path::new(&entry.config).is_dir() {
        let entries = std::fs::read_dir(&entry.config).with_context(|| entry.config.clone())?;
        let paths: Vec<PathBuf> = entries.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
        paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "conf")).collect()
    } else {
        glob::glob(&entry.config).with_context(|| entry.config.clone())?.collect::<Result<_, _>>()?
    };
    files.sort();
    if files.is_empty() {
        bail!("pipeline {}: there is no file {}", entry.id, entry.config);
    }
    let mut sections = grammar::Sections::default();
    for file in &files {
        let read = || -> Result<grammar::Sections> {
            let text = String::from_utf8(std::fs::read(file)?).context("it is not UTF-8")?;
            let filled = fill(&text, surroundings.variable)?;
            let sections = grammar::parse(&filled)?;
            // Here, so that a mistake is said with the file it is in.
            check(&sections)?;
            Ok(sections)
        };
        let read = read().with_context(|| file.display().to_string())?;
        sections.inputs.extend(read.inputs);
        sections.filters.extend(read.filters);
        sections.outputs.extend(read.outputs);
    }
    let of_all = || -> Checked<Parts> {
        Ok(Parts {
            inputs: inputs(&sections.inputs)?,
            filters: Filters::of(&sections.filters)?,
            output: Output::of(&sections.outputs, 1)?,
        })
    };
    of_all().with_context(|| entry.config.clone())
}

fn check(sections: &grammar::Sections) -> Checked<()> {
    inputs(&sections.inputs)?;
    Filters::of(&sections.filters)?;
    if !sections.outputs.is_empty() {
        Output::of(&sections.outputs, 1)?;
    }
    Ok(())
}

fn inputs(block: &[Statement]) -> Checked<Vec<Input>> {
    let input = |statement: &Statement| match statement {
        Statement::Plugin(plugin) => Input::of(plugin),
        Statement::Choice(branches) => {
            let line = branches.first().and_then(|(when, _)| when.as_ref()).map_or(1, |when| when.line);
            mistake(line, "inputs have no conditions: nothing is read yet that could be asked")
        }
    };
    block.iter().map(input).collect()
}

/// Puts in the value of each `${NAME}` or `${NAME:default}`.
fn fill(text: &str, value: &dyn Fn(&str) -> Option<String>) -> Checked<String> {
    let mut filled = String::with_capacity(text.len());
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let mut rest = line;
        while let Some(at) = rest.find("${") {
            let inside = rest[at + 2..].split_once('}').map(|(inside, _)| inside);
            let is_name = |name: &str| {
                name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                    && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
            };
            let named =
                inside.map(|inside| inside.split_once(':').map_or((inside, None), |(n, d)| (n, Some(d))));
            filled.push_str(&rest[..at]);
            match (inside, named) {
                (Some(inside), Some((name, default))) if is_name(name) => {
                    let Some(found) = value(name).or(default.map(str::to_owned)) else {
                        return mistake(number, format!("there is no variable {name}"));
                    };
                    if found.contains(['"', '\'', '\n']) {
                        return mistake(number, format!("the variable {name} has quotes or several lines"));
                    }
                    filled.push_str(&found);
                    rest = &rest[at + inside.len() + 3..];
                }
                _ => {
                    filled.push_str("${");
                    rest = &rest[at + 2..];
                }
            }
        }
        filled.push_str(rest);
    }
    Ok(filled)
}

impl Pipeline {
    /// Runs until it is dropped. Places and dead letters are kept in the folder `data`.
    ///
    /// # Errors
    /// An input that cannot go on, or a file that cannot be written.
    pub async fn run(self, client: reqwest::Client, data: &Path) -> Result<()> {
        let id = self.id;
        self.parts.run(&id, client, data, self.counters).await.with_context(|| format!("pipeline {id}"))
    }
}
