//! Grafana's dashboards as their files say: rows of panels with their queries, of Prometheus or of Elasticsearch, how each is drawn,
//! and what is chosen at the head. Who asks the queries is elsewhere: [`crate::render`] links to them, the console draws them, the
//! spec runs them.

mod fixed;
mod form;
mod search;
mod unit;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;

pub use self::search::{Found, Search, Within, fields_of};
pub use self::unit::{Scale, Unit};

/// Where the files are, from the project's root.
pub const FOLDER: &str = "monitoring/grafana/dashboards";
const SOURCES: &str = "monitoring/grafana/provisioning/datasources/elasticsearch.yml";
/// The tags of dashboards that only a lab with that scenario can fill, each called as the scenario.
pub const SUBJECTS: [&str; 2] = ["logs", "events"];
/// How a description says that a panel may be empty, and why.
pub const MAY_BE_EMPTY: &str = "May be empty:";
/// Where the files say that the runbooks are: Grafana links there as it stands.
pub const RUNBOOKS: &str = "http://localhost:8095/runbooks";

/// One file.
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// What its address in Grafana ends with.
    pub uid: String,
    /// As people see it.
    pub title: String,
    /// What it is for, in a sentence.
    pub description: String,
    /// By which people find it; one of [`SUBJECTS`] says which scenario it is about.
    pub tags: Vec<String>,
    /// Where else it leads.
    pub links: Vec<Link>,
    /// What is chosen at its head.
    pub variables: Vec<Variable>,
    /// What is marked on every chart over time.
    pub annotations: Vec<Annotation>,
    /// The time that it shows at first, as Grafana writes it: `now-15m`, `now`.
    pub time: (String, String),
    /// Every how many seconds it is asked anew.
    pub refresh: u64,
    /// Its panels, in the order of reading.
    pub rows: Vec<Row>,
}

impl Dashboard {
    /// The scenario that it is about, where it is about one alone.
    pub fn subject(&self) -> Option<&'static str> {
        SUBJECTS.into_iter().find(|subject| self.tags.iter().any(|tag| tag == subject))
    }

    /// Every panel that has queries.
    pub fn panels(&self) -> impl Iterator<Item = &Panel> {
        self.rows.iter().flat_map(|row| &row.panels)
    }
}

/// Where a dashboard or a panel leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// A page: what it is called, and its address.
    Page(String, String),
    /// The dashboards that have a tag.
    Tag(String),
}

/// Moments of an expression: when each of its series is there.
#[derive(Debug, Clone)]
pub struct Annotation {
    /// What it marks.
    pub name: String,
    /// In PromQL.
    pub expression: String,
    /// What one is called, with labels in `{{…}}`.
    pub title: String,
    /// What is said of it, with labels in `{{…}}`.
    pub text: String,
}

/// A variable whose values Prometheus knows: `label_values(selector, label)` or `label_values(label)`.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Without the `$`.
    pub name: String,
    /// As people see it.
    pub title: String,
    /// What it is.
    pub description: String,
    /// Whose values it takes.
    pub label: String,
    /// Of which series; of all where absent.
    pub selector: Option<String>,
}

/// Panels below one heading.
#[derive(Debug, Clone)]
pub struct Row {
    /// Empty for panels above the first heading.
    pub title: String,
    /// In the order of reading.
    pub panels: Vec<Panel>,
}

/// A panel that shows what queries give.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Which of the dashboard it is.
    pub id: u32,
    /// As people see it.
    pub title: String,
    /// What it shows, what is normal, and what to do otherwise: paragraphs with `**strong**` words and `` `code` ``.
    pub description: String,
    /// Width and height in a grid of 24 columns.
    pub size: (u32, u32),
    /// Runbooks.
    pub links: Vec<Link>,
    /// Its description says that it may be empty, and why.
    pub may_be_empty: bool,
    /// What it asks of Prometheus.
    pub queries: Vec<Query>,
    /// What it asks of Elasticsearch.
    pub searches: Vec<Search>,
    /// How it is drawn.
    pub look: Look,
    /// How its numbers are written and coloured.
    pub field: Field,
}

/// How a panel is drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum Look {
    /// Lines over time.
    Lines(Lines),
    /// The last number of each series, large.
    Stat {
        /// The series' names stand beside them, also where there is one alone.
        named: bool,
        /// With a small line over time.
        spark: bool,
    },
    /// Stretches of time in which a number was the same, a row a series.
    States {
        /// With the state's name in each stretch.
        named: bool,
    },
    /// The last numbers with their labels.
    Table(Columns),
    /// The documents themselves.
    Documents,
}

/// Lines over time.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "as many switches as a panel of Grafana has")]
pub struct Lines {
    /// How much of the area below is filled, 0 to 100.
    pub fill: u32,
    /// A value holds until the next.
    pub steps: bool,
    /// Bars in place of lines.
    pub bars: bool,
    /// One upon the other.
    pub stacked: bool,
    /// The thresholds are lines too.
    pub limits: bool,
    /// The legend stands beside the chart, not below it.
    pub legend_beside: bool,
    /// Series whose names end so are dashed.
    pub dashed: Vec<String>,
}

/// A table's columns, by the names of labels; `Value` is the number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    /// Left out.
    pub excluded: Vec<String>,
    /// From the left, those that have a place.
    pub order: Vec<String>,
    /// Label → what the column is called.
    pub names: BTreeMap<String, String>,
    /// By which column, as it is called, and whether the largest comes first.
    pub sorted: Option<(String, bool)>,
}

/// How numbers are written and coloured.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// What they are.
    pub unit: Unit,
    /// Digits after the point; as many as say something where absent.
    pub decimals: Option<usize>,
    /// Where the axis begins.
    pub min: Option<f64>,
    /// Where the axis ends.
    pub max: Option<f64>,
    /// What gives a number its colour.
    pub colour: Colour,
    /// From which number on which colour; the first holds for everything below.
    pub thresholds: Vec<(f64, String)>,
    /// Numbers that are written as a word, and its colour.
    pub words: Vec<(f64, String, String)>,
}

/// What gives a number its colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Colour {
    /// Its series.
    Series,
    /// The thresholds.
    Thresholds,
    /// Nothing: it is always this one.
    Always(String),
}

impl Field {
    /// A number as people read it, and its colour where it has one of its own.
    pub fn shown(&self, number: f64) -> (String, Option<&str>) {
        #[allow(clippy::float_cmp, reason = "a word stands for one exact number")]
        if let Some((_, word, colour)) = self.words.iter().find(|(of, ..)| *of == number) {
            return (word.clone(), Some(colour));
        }
        let colour = match &self.colour {
            Colour::Series => None,
            Colour::Always(colour) => Some(colour.as_str()),
            Colour::Thresholds => self
                .thresholds
                .iter()
                .rev()
                .find(|(from, _)| number >= *from)
                .map(|(_, colour)| colour.as_str()),
        };
        (self.unit.text(number, self.decimals), colour)
    }
}

/// An expression of PromQL with Grafana's variables in it.
#[derive(Debug, Clone)]
pub struct Query {
    /// In PromQL.
    pub expression: String,
    /// What a series is called, with labels in `{{…}}`; its labels where absent.
    pub legend: Option<String>,
    /// The value at one moment, not over time.
    pub instant: bool,
}

impl Query {
    /// As Grafana asks it: variables as alternatives of a regular expression, intervals as `values` or, without them, as this lab
    /// scrapes.
    pub fn filled(&self, values: &[(String, String)]) -> String {
        filled(&self.expression, values)
    }
}

fn filled(expression: &str, values: &[(String, String)]) -> String {
    let mut text = expression.to_owned();
    let own = [("__rate_interval", "1m"), ("__interval", "15s"), ("__range", "5m")];
    let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for (name, value) in values.iter().chain(&own) {
        text = text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
    }
    text
}

/// What a series is called: labels in `{{…}}` are filled in, one that it has not is empty.
pub fn named(form: &str, labels: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = form;
    while let Some((before, from)) = rest.split_once("{{") {
        out += before;
        let Some((label, after)) = from.split_once("}}") else {
            return out + "{{" + from;
        };
        out += labels.get(label.trim()).map_or("", String::as_str);
        rest = after;
    }
    // Labels that are not there leave their spaces.
    (out + rest).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every dashboard of a project, by file name; none where it has no folder for them.
///
/// # Errors
/// A file that does not parse, or has a part that would not be drawn or checked: by file and panel.
pub fn dashboards(root: &Path) -> Result<Vec<Dashboard>> {
    let folder = root.join(FOLDER);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let sources = sources(root)?;
    let mut files: Vec<_> = entries.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "json"));
    files.sort();
    files
        .iter()
        .map(|file| {
            let text = std::fs::read_to_string(file)?;
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            parse(&text, &sources).with_context(|| format!("{FOLDER}/{name}"))
        })
        .collect()
}

/// Grafana's data sources of Elasticsearch: uid → indices. None where a project has no file for them.
fn sources(root: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct File {
        datasources: Vec<Source>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Source {
        uid: String,
        json_data: JsonData,
    }
    #[derive(Deserialize)]
    struct JsonData {
        index: String,
    }
    let Ok(text) = std::fs::read_to_string(root.join(SOURCES)) else { return Ok(BTreeMap::new()) };
    let file: File = serde_saphyr::from_str(&text).map_err(|error| anyhow!("{SOURCES}: {error}"))?;
    Ok(file.datasources.into_iter().map(|source| (source.uid, source.json_data.index)).collect())
}

/// One dashboard. `sources`: the data sources of Elasticsearch, uid → indices.
///
/// # Errors
/// As of [`dashboards`].
pub fn parse(text: &str, sources: &BTreeMap<String, String>) -> Result<Dashboard> {
    form::read(text, sources)
}
