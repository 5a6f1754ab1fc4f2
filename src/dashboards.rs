//! Grafana's dashboards as their files say: panels with their queries, of Prometheus or of Elasticsearch, and the variables in
//! them. Who asks the queries is elsewhere: [`crate::render`] links to them, the spec runs them.

mod search;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::Value;

pub use self::search::{Search, fields_of};

/// Where the files are, from the project's root.
pub const FOLDER: &str = "monitoring/grafana/dashboards";
const SOURCES: &str = "monitoring/grafana/provisioning/datasources/elasticsearch.yml";
/// The tag of dashboards whose queries only a lab with logs can answer.
pub const OF_LOGS: &str = "logs";
/// How a description says that a panel may be empty, and why.
pub const MAY_BE_EMPTY: &str = "May be empty:";

/// One file.
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// What its address in Grafana ends with.
    pub uid: String,
    /// As people see it.
    pub title: String,
    /// By which people find it; [`OF_LOGS`] says that it is about the logging half.
    pub tags: Vec<String>,
    /// What is chosen at its head.
    pub variables: Vec<Variable>,
    /// Every panel that has queries, those in collapsed rows too.
    pub panels: Vec<Panel>,
}

/// A variable whose values Prometheus knows: `label_values(selector, label)` or `label_values(label)`.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Without the `$`.
    pub name: String,
    /// Whose values it takes.
    pub label: String,
    /// Of which series; of all where absent.
    pub selector: Option<String>,
}

/// A panel that shows what queries give.
#[derive(Debug, Clone)]
pub struct Panel {
    /// As people see it.
    pub title: String,
    /// Its description says that it may be empty, and why.
    pub may_be_empty: bool,
    /// What it asks of Prometheus.
    pub queries: Vec<Query>,
    /// What it asks of Elasticsearch.
    pub searches: Vec<Search>,
}

/// An expression of PromQL with Grafana's variables in it.
#[derive(Debug, Clone)]
pub struct Query(pub String);

impl Query {
    /// As Grafana asks it: variables as alternatives of a regular expression, intervals as this lab scrapes.
    pub fn filled(&self, values: &[(String, String)]) -> String {
        let mut text = self.0.clone();
        let own = [("__rate_interval", "1m"), ("__interval", "15s"), ("__range", "5m")];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        for (name, value) in own.iter().chain(values) {
            text = text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
        }
        text
    }
}

/// Every dashboard of a project, by file name; none where it has no folder for them.
///
/// # Errors
/// A file that does not parse, or a panel or variable of a form that would not be checked: by file and panel.
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
    let json: Value = serde_json::from_str(text).context("no JSON")?;
    let of = |value: &Value, key: &str| value[key].as_str().map(str::to_owned);
    let title = of(&json, "title").context("no title")?;
    let uid = of(&json, "uid").context("no uid")?;
    let tags = json["tags"].as_array().into_iter().flatten();
    let tags = tags.filter_map(|t| t.as_str().map(str::to_owned)).collect();
    let list = json["templating"]["list"].as_array().cloned().unwrap_or_default();
    let variables = list.iter().map(variable).collect::<Result<_>>()?;
    let mut panels = Vec::new();
    let all = json["panels"].as_array().context("no panels")?;
    // A collapsed row holds its panels.
    for panel in
        all.iter().flat_map(|p| std::iter::once(p).chain(p["panels"].as_array().into_iter().flatten()))
    {
        let kind = of(panel, "type").context("a panel without a type")?;
        if ["row", "text"].contains(&kind.as_str()) {
            continue;
        }
        let title = of(panel, "title").context("a panel without a title")?;
        let description = of(panel, "description").unwrap_or_default();
        let targets = panel["targets"].as_array().with_context(|| format!("{title}: no queries"))?;
        let (mut queries, mut searches) = (Vec::new(), Vec::new());
        for target in targets {
            if target["datasource"]["type"] == "elasticsearch" {
                searches.push(Search::parse(target, sources).with_context(|| title.clone())?);
            } else {
                let expression = of(target, "expr").filter(|e| !e.is_empty());
                queries.push(Query(expression.with_context(|| format!("{title}: a query without expr"))?));
            }
        }
        if queries.is_empty() && searches.is_empty() {
            bail!("{title}: no queries");
        }
        panels.push(Panel { title, may_be_empty: description.contains(MAY_BE_EMPTY), queries, searches });
    }
    if panels.is_empty() {
        bail!("no panels");
    }
    Ok(Dashboard { uid, title, tags, variables, panels })
}

fn variable(json: &Value) -> Result<Variable> {
    let name = json["name"].as_str().context("a variable without a name")?.to_owned();
    let query = json["query"].as_str().or_else(|| json["query"]["query"].as_str()).unwrap_or_default();
    let inside = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')'));
    let inside =
        inside.with_context(|| format!("${name}: only label_values(…) is checked, this is {query:?}"))?;
    let (selector, label) = match inside.rsplit_once(',') {
        Some((selector, label)) => (Some(selector.trim().to_owned()), label.trim().to_owned()),
        None => (None, inside.trim().to_owned()),
    };
    Ok(Variable { name, label, selector })
}
