//! Elasticsearch → Kibana: what the saved objects name is there and finds documents, with Kibana or without it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use streamlab::clients::kibana::Kibana;
use streamlab::dashboards::fields_of;
use streamlab::probes::{Answer, eventually};

use crate::lab::Lab;
use crate::log_lines::{EVERY, document_of, elasticsearch, write_table};
use crate::trial::{Chapter, Check, PATIENCE, Trial};

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    [
        chapter.flow("kibana-objects", Check::plain(|lab| Box::pin(objects(lab)))),
        chapter.flow("kibana-views", Check::plain(|lab| Box::pin(in_kibana(lab)))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A saved object as Kibana exports it.
struct Saved {
    kind: String,
    id: String,
    object: Value,
}

impl Saved {
    fn all(lab: &Lab) -> Result<Vec<Self>> {
        let text = std::fs::read_to_string(lab.project.root.join("monitoring/kibana/saved-objects.ndjson"))?;
        let saved = text.lines().map(|line| {
            let object: Value = serde_json::from_str(line)?;
            let text = |key: &str| {
                Ok::<_, anyhow::Error>(object[key].as_str().context(format!("no {key}"))?.to_owned())
            };
            Ok(Self { kind: text("type")?, id: text("id")?, object })
        });
        saved.collect()
    }

    fn name(&self) -> String {
        format!("{} {}", self.kind, self.id)
    }

    /// A text within the object that is JSON itself.
    fn inner(&self, pointer: &str) -> Result<Value> {
        let text = self.object.pointer(pointer).and_then(Value::as_str);
        let text = text.with_context(|| format!("{}: no {pointer}", self.name()))?;
        serde_json::from_str(text).with_context(|| format!("{}: {pointer}", self.name()))
    }

    /// Kinds and ids of what it stands on.
    fn references(&self) -> Vec<(String, String)> {
        let references = self.object["references"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        references.map(|r| (text(&r["type"]), text(&r["id"]))).collect()
    }

    /// Its query, in Lucene's language.
    fn query(&self) -> Result<String> {
        let source = self.inner("/attributes/kibanaSavedObjectMeta/searchSourceJSON")?;
        if source["query"]["language"] != "lucene" {
            bail!("{}: only Lucene's language is checked: {}", self.name(), source["query"]);
        }
        Ok(source["query"]["query"].as_str().context("no query")?.to_owned())
    }

    /// The fields that it shows, sorts by or counts.
    fn fields(&self) -> Result<BTreeSet<String>> {
        let mut fields = fields_of(&self.query()?);
        if self.kind == "search" {
            let texts = |value: &Value| {
                let all = value.as_array().into_iter().flatten().filter_map(Value::as_str);
                all.map(str::to_owned).collect::<Vec<_>>()
            };
            fields.extend(texts(&self.object["attributes"]["columns"]));
            let sort = self.object["attributes"]["sort"].as_array().into_iter().flatten();
            fields.extend(sort.filter_map(|by| by[0].as_str().map(str::to_owned)));
        } else {
            let aggregations = self.inner("/attributes/visState")?;
            let aggregations = aggregations["aggs"].as_array().context("no aggs")?.clone();
            fields
                .extend(aggregations.iter().filter_map(|a| a["params"]["field"].as_str().map(str::to_owned)));
        }
        Ok(fields)
    }
}

/// Fields that a query, a panel or a saved object names, and that no index has.
pub(crate) async fn known_fields(lab: &Lab, indices: &str, fields: BTreeSet<String>) -> Result<()> {
    let known = elasticsearch(lab)?.fields(indices).await?;
    let unknown: Vec<String> = fields.into_iter().filter(|field| !known.contains(field)).collect();
    if !unknown.is_empty() {
        bail!("{indices} has no field {unknown:?}");
    }
    Ok(())
}

async fn objects(lab: Arc<Lab>) -> Result<String> {
    let saved = Saved::all(&lab)?;
    // Errors, exceptions and lines that nobody can parse: a lab that is well has none of its own.
    for written in write_table(&lab).await? {
        document_of(&lab, &written).await?;
    }
    let views: BTreeMap<&str, &str> = saved
        .iter()
        .filter(|s| s.kind == "index-pattern")
        .filter_map(|s| Some((s.id.as_str(), s.object["attributes"]["title"].as_str()?)))
        .collect();
    let known: BTreeSet<(String, String)> = saved.iter().map(|s| (s.kind.clone(), s.id.clone())).collect();
    let mut found = Vec::new();
    for object in &saved {
        let references = object.references();
        if let Some(missing) = references.iter().find(|reference| !known.contains(reference)) {
            bail!("{} stands on {missing:?}, which is not there", object.name());
        }
        match object.kind.as_str() {
            "index-pattern" => {
                let indices = views.get(object.id.as_str()).context("no title")?;
                let time = object.object["attributes"]["timeFieldName"].as_str().context("no time field")?;
                known_fields(&lab, indices, BTreeSet::from([time.to_owned()])).await?;
            }
            "dashboard" => panels(object, &references)?,
            "search" | "visualization" => {
                let view = references.iter().find(|(kind, _)| kind == "index-pattern").context("no view")?;
                let indices = views.get(view.1.as_str()).context("no such view")?;
                known_fields(&lab, indices, object.fields()?).await.with_context(|| object.name())?;
                let query = json!({ "query_string": { "query": object.query()? } });
                let question = format!("{} finds documents", object.name());
                let count = eventually(&question, PATIENCE, EVERY, || async {
                    let count = elasticsearch(&lab)?.count(indices, &query).await?;
                    Ok(if count > 0 { Answer::Is(count) } else { Answer::NotYet("none".to_owned()) })
                });
                found.push(format!("{} {}", object.id, count.await?));
            }
            other => bail!("{}: {other} is not checked", object.name()),
        }
    }
    if found.is_empty() {
        bail!("no saved object asks anything: nothing would be proven");
    }
    Ok(format!("{} saved objects; documents: {}", saved.len(), found.join(", ")))
}

/// Each panel of a dashboard is one of its references.
fn panels(dashboard: &Saved, references: &[(String, String)]) -> Result<()> {
    let panels = dashboard.inner("/attributes/panelsJSON")?;
    let panels = panels.as_array().context("no panels")?;
    if panels.len() != references.len() || panels.is_empty() {
        bail!("{}: {} panels, {} references", dashboard.name(), panels.len(), references.len());
    }
    let names = dashboard.object["references"].as_array().into_iter().flatten();
    let names: BTreeSet<&str> = names.filter_map(|r| r["name"].as_str()).collect();
    for panel in panels {
        let text = |key: &str| panel[key].as_str().unwrap_or_default();
        let name = format!("{}:{}", text("panelIndex"), text("panelRefName"));
        if !names.contains(name.as_str()) {
            bail!("{}: no reference {name}", dashboard.name());
        }
    }
    Ok(())
}

async fn in_kibana(lab: Arc<Lab>) -> Result<String> {
    let kibana = Kibana::new(lab.endpoints.url(&lab.names_of("kibana")[0], "web")?);
    let saved = Saved::all(&lab)?;
    for object in &saved {
        if !kibana.has(&object.kind, &object.id).await? {
            bail!("Kibana has no {}", object.name());
        }
    }
    Ok(format!("{} saved objects", saved.len()))
}
