//! Log records: a query, how many came when, which values they have; and one of them, whole.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use maud::html;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Console, Failed, commands, quoted};
use crate::clients::elasticsearch;
use crate::own_services::console::api::Refused;
use crate::own_services::console::dashboards::drawn::Drawn;
use crate::own_services::console::dashboards::in_words;
use crate::own_services::console::export;
use crate::own_services::console::logs::{Busy, Logs, PLACES, Wanted, place, query};
use crate::own_services::console::pages::dashboards::{refresh, refreshes, times};
use crate::own_services::console::window::Window;

/// What an address says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(in crate::own_services::console) struct Asked {
    q: String,
    r#in: String,
    from: String,
    to: String,
    refresh: String,
}

impl Asked {
    fn from(&self) -> &str {
        if self.from.is_empty() { "now-15m" } else { &self.from }
    }

    fn to(&self) -> &str {
        if self.to.is_empty() { "now" } else { &self.to }
    }

    /// The same as an address' query.
    fn query(&self) -> String {
        let fields = [("q", &self.q), ("in", &self.r#in), ("from", &self.from), ("to", &self.to)];
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        fields.iter().filter(|(_, value)| !value.is_empty()).for_each(|(name, value)| {
            query.append_pair(name, value);
        });
        query.finish()
    }

    fn wanted(&self) -> Result<Wanted, Refused> {
        let wrong = |why: String| Refused(StatusCode::BAD_REQUEST, why);
        let window = Window::of(self.from(), self.to()).map_err(wrong)?;
        let indices = place(&self.r#in).map_err(|why| wrong(format!("{why:#}")))?;
        let query = query(&self.q).map_err(|why| wrong(format!("{why:#}")))?;
        Ok(Wanted { indices, query, window })
    }
}

fn logs(console: &Console) -> Result<&Logs, Refused> {
    let none = || {
        Refused(
            StatusCode::NOT_FOUND,
            "this lab has no Elasticsearch: its logs are in ./lab logs SERVICE".to_owned(),
        )
    };
    console.logs.as_ref().ok_or_else(none)
}

pub(in crate::own_services::console) async fn page(
    State(console): State<Arc<Console>>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<(StatusCode, Html<String>), Failed> {
    let failed = |why| Failed(Arc::clone(&console), why);
    let Query(asked) = asked.map_err(|why| failed(why.into()))?;
    logs(&console).map_err(failed)?;
    let wrong = asked.wanted().err();
    let status = wrong.as_ref().map_or(StatusCode::OK, |Refused(status, _)| *status);
    let refresh = refresh(&asked.refresh, 5);
    let body = html! {
        form.search method="get" {
            label.wide { "Query"
                input name="q" value=(asked.q) placeholder="level:ERROR AND message:timeout" autocomplete="off";
            }
            label { "Where"
                select name="in" {
                    @for (pattern, name) in PLACES { option value=(pattern) selected[pattern == asked.r#in] { (name) } }
                }
            }
            (times(asked.from(), asked.to()))
            (refreshes(refresh))
            button { "Search" }
        }
        p.quiet {
            "Lucene's language: a word, \"words in this order\", " code { "field:value" } ", AND, OR, NOT, (…), "
            code { "message:*Exception*" } ", " code { "durationMs:>500" } "."
        }
        @if let Some(Refused(_, wrong)) = wrong { p.problem role="alert" { (wrong) } }
        @else {
            p.as-of { "as of " time data-drawn-at {} " " span data-marks role="status" {} }
            div data-dashboard="/api/logs" data-refresh=(refresh) {
                section.panel.w24.h6 aria-label="Records over time" { div.shown data-panel="1" { p.quiet { "Not asked yet." } } }
                div.sides-by-side {
                    section aria-label="Values of fields" { h2 { "Fields" } div data-panel="3" {} }
                    section aria-label="Records" {
                        h2 { "Records" }
                        p.quiet { "These as a file: " a href={ "/api/logs/csv?" (asked.query()) } { "CSV" } ", all of the page as JSON: " a href={ "/api/logs?" (asked.query()) } download="log-records.json" { "JSON" } }
                        div data-panel="2" { p.quiet { "Not asked yet." } }
                    }
                }
            }
        }
        (commands(&as_command(&console, &asked)))
    };
    Ok((status, console.frame_with_charts("Logs", "/logs", None, &body)))
}

fn as_command(console: &Console, asked: &Asked) -> Vec<String> {
    let Some(address) = console.lab.host_roles.get(crate::topology::SEARCH) else { return Vec::new() };
    let indices = place(&asked.r#in).unwrap_or(PLACES[0].0);
    let query = if asked.q.is_empty() { "*" } else { &asked.q };
    vec![
        format!(
            "curl -sG 'http://{address}/{indices}/_search?pretty&sort=@timestamp:desc&size=20' --data-urlencode {}",
            quoted(&format!("q={query}"))
        ),
        format!("./lab search{} --follow", console.instance_option()),
    ]
}

/// What stands in the page's panels.
pub(in crate::own_services::console) async fn data(
    State(console): State<Arc<Console>>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Refused> {
    let wanted = asked?.0.wanted()?;
    let drawn = found(&console, &wanted).await?;
    let panels = drawn.iter().zip(1..).map(|(drawn, id)| {
        let mut panel = json!(drawn);
        panel["id"] = json!(id);
        panel
    });
    let panels: Vec<Value> = panels.collect();
    Ok(Json(json!({ "window": wanted.window, "panels": panels, "marks": [], "problem": null }))
        .into_response())
}

/// The records of the page as a file.
pub(in crate::own_services::console) async fn file(
    State(console): State<Arc<Console>>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Refused> {
    let [_, records, _] = found(&console, &asked?.0.wanted()?).await?;
    let lines = if let Drawn::Documents { lines, .. } = records { lines } else { Vec::new() };
    export::documents(&lines)
}

async fn found(console: &Console, wanted: &Wanted) -> Result<[Drawn; 3], Refused> {
    logs(console)?.find(wanted).await.map_err(|why| {
        let status = match () {
            () if why.is::<elasticsearch::Refused>() => StatusCode::BAD_REQUEST,
            () if why.is::<Busy>() => StatusCode::TOO_MANY_REQUESTS,
            () => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refused(status, in_words("Elasticsearch", &why))
    })
}

/// One record, whole.
pub(in crate::own_services::console) async fn one(
    State(console): State<Arc<Console>>,
    Path((index, id)): Path<(String, String)>,
) -> Result<Html<String>, Failed> {
    let failed = |why| Failed(Arc::clone(&console), why);
    let logs = logs(&console).map_err(failed)?;
    let known = PLACES.iter().flat_map(|(patterns, _)| patterns.split(','));
    if !known.map(|pattern| pattern.trim_end_matches('*')).any(|begin| index.starts_with(begin))
        || index.contains(['*', ','])
    {
        return Err(failed(Refused(StatusCode::NOT_FOUND, format!("{index} has no log records"))));
    }
    let found = logs.one(&index, &id).await;
    let found = found
        .map_err(|why| failed(Refused(StatusCode::SERVICE_UNAVAILABLE, in_words("Elasticsearch", &why))))?;
    let Some(found) = found else {
        return Err(failed(Refused(StatusCode::NOT_FOUND, format!("{index} has no record {id}"))));
    };
    let mut fields = Vec::new();
    flat("", &found.source, &mut fields);
    let body = html! {
        p { code { (index) } " " code { (id) } }
        @if let Some(around) = around(&index, &found.source) { p { a href=(around) { "What was said half a minute before and after" } } }
        dl.record { @for (name, value) in &fields { dt { (name) } dd { pre { (value) } } } }
        details { summary { "As JSON" } pre { code { (format!("{:#}", found.source)) } } }
    };
    Ok(console.frame("A log record", "/logs", None, &body))
}

/// The fields of a document, by their path.
fn flat(path: &str, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                flat(&if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, fields);
            }
        }
        Value::String(text) => fields.push((path.to_owned(), text.clone())),
        other => fields.push((path.to_owned(), other.to_string())),
    }
}

/// The address of the page with the records around one.
fn around(index: &str, source: &Value) -> Option<String> {
    let at = source["@timestamp"].as_str()?;
    let at = time::OffsetDateTime::parse(at, &time::format_description::well_known::Rfc3339).ok()?;
    let ms = i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()?;
    // The narrowest place that has the index.
    let has =
        |patterns: &str| patterns.split(',').any(|pattern| index.starts_with(pattern.trim_end_matches('*')));
    let (place, _) = PLACES.iter().rev().find(|(patterns, _)| has(patterns))?;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("in", place).append_pair("from", &(ms - 30_000).to_string());
    query.append_pair("to", &(ms + 30_000).to_string()).append_pair("refresh", "0");
    Some(format!("/logs?{}", query.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_in_fields_have_a_path() {
        let mut fields = Vec::new();
        flat("", &json!({ "gc": { "milliseconds": 3.5 }, "tags": ["a"], "message": "x" }), &mut fields);
        let of = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(fields, [of("gc.milliseconds", "3.5"), of("message", "x"), of("tags", "[\"a\"]")]);
    }

    #[test]
    fn around_a_record_is_a_minute() {
        let found =
            around("kafka-logs-filebeat-2023", &json!({ "@timestamp": "2023-11-14T22:13:20.000Z" })).unwrap();
        assert_eq!(found, "/logs?in=kafka-logs-filebeat-*&from=1699999970000&to=1700000030000&refresh=0");
        assert_eq!(around("kafka-logs-filebeat-2023", &json!({})), None);
    }
}
