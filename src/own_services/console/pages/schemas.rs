//! Schemas: subjects, and the versions of one, side by side.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Html;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;
use similar::{ChangeTag, TextDiff};

use super::{Console, Failed, commands, percent};
use crate::clients::schema_registry::Version;
use crate::own_services::console::api::Refused;
use crate::topology::SCHEMA_REGISTRY;

/// Two versions to compare; where absent, the two newest.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::own_services::console) struct Compared {
    left: Option<u32>,
    right: Option<u32>,
}

fn silent(error: &anyhow::Error) -> Refused {
    Refused(StatusCode::SERVICE_UNAVAILABLE, format!("the schema registry does not answer: {error:#}"))
}

/// Names alone: what is in each is asked when somebody opens it.
pub(in crate::own_services::console) async fn schemas(
    State(console): State<Arc<Console>>,
) -> Result<Html<String>, Failed> {
    let subjects = match &console.schemas {
        None => None,
        Some(registry) => match registry.subjects().await {
            Ok(subjects) => Some(subjects),
            Err(error) => return Err(Failed(Arc::clone(&console), silent(&error))),
        },
    };
    let body = html! {
        @match &subjects {
            None => p { "This lab has no schema registry." },
            Some(subjects) if subjects.is_empty() => p { "There are no schemas." },
            Some(subjects) => ul {
                @for subject in subjects { li { a href={ "/schemas/" (percent(subject)) } { (subject) } } }
            },
        }
        (commands(&[format!("curl -s {}/subjects", console.registry())]))
    };
    let seen = console.cluster.now().await;
    Ok(console.frame("Schemas", "/schemas", Some(&seen), &body))
}

impl Console {
    /// The registry's address on the host.
    fn registry(&self) -> &str {
        self.lab.host_roles.get(SCHEMA_REGISTRY).map_or("localhost", String::as_str)
    }
}

pub(in crate::own_services::console) async fn schema(
    State(console): State<Arc<Console>>,
    Path(subject): Path<String>,
    asked: Result<Query<Compared>, QueryRejection>,
) -> Result<Html<String>, Failed> {
    let body = page(&console, &subject, asked).await.map_err(|why| Failed(Arc::clone(&console), why))?;
    let seen = console.cluster.now().await;
    Ok(console.frame(&subject, "/schemas", Some(&seen), &body))
}

async fn page(
    console: &Console,
    subject: &str,
    asked: Result<Query<Compared>, QueryRejection>,
) -> Result<Markup, Refused> {
    let Query(asked) = asked?;
    let none = || Refused(StatusCode::NOT_FOUND, format!("no subject {subject}"));
    let registry = console.schemas.as_ref().ok_or_else(none)?;
    let known = registry.subjects().await.map_err(|error| silent(&error))?;
    if !known.iter().any(|known| known == subject) {
        return Err(none());
    }
    let versions = registry.versions(subject).await.map_err(|error| silent(&error))?;
    let newest = versions.last().copied().ok_or_else(none)?;
    let right = asked.right.unwrap_or(newest);
    let before = versions.iter().rev().copied().find(|version| *version < right);
    let left = asked.left.or(before).unwrap_or(right);
    let get = async |version: u32| -> Result<Version, Refused> {
        let found = registry.version(subject, version).await.map_err(|error| silent(&error))?;
        found.ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("{subject} has no version {version}")))
    };
    let (old, new) = (get(left).await?, get(right).await?);
    let choice = |name: &str, label: &str, chosen: u32| {
        html! {
            label {
                (label)
                select name=(name) {
                    @for version in &versions { option value=(version) selected[*version == chosen] { (version) } }
                }
            }
        }
    };
    Ok(html! {
        form.search method="get" {
            (choice("left", "Version", left))
            (choice("right", "against version", right))
            button type="submit" { "Compare" }
        }
        p { "Version " (right) ": " (new.schema_type) ", schema id " (new.id) ". " (versions.len()) " versions." }
        @if left == right { pre { code { (pretty(&new.schema)) } } }
        @else { (side_by_side(left, &pretty(&old.schema), right, &pretty(&new.schema))) }
        form.try data-try={ "/api/schemas/" (percent(subject)) "/compatibility" } {
            label {
                "Could this be the next version? It is not registered."
                textarea name="schema" rows="8" spellcheck="false" { (pretty(&new.schema)) }
            }
            button type="submit" { "Ask the registry" }
            p role="status" data-answer {}
        }
        (commands(&[
            format!("curl -s {}/subjects/{}/versions/{right}", console.registry(), percent(subject)),
        ]))
    })
}

/// JSON over several lines, in its own order; anything else as it is.
fn pretty(schema: &str) -> String {
    let Ok(_) = serde_json::from_str::<Value>(schema) else { return schema.to_owned() };
    let (mut out, mut depth, mut in_text, mut escaped) = (String::new(), 0_usize, false, false);
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    };
    for c in schema.chars() {
        if in_text {
            out.push(c);
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '"' => {
                in_text = true;
                out.push(c);
            }
            '{' | '[' => {
                depth += 1;
                out.push(c);
                line(&mut out, depth);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

/// Lines of two texts beside each other; what is in one alone is marked by a sign, not by its colour alone.
fn side_by_side(left: u32, old: &str, right: u32, new: &str) -> Markup {
    let diff = TextDiff::from_lines(old, new);
    let mut rows: Vec<(Option<String>, Option<String>)> = Vec::new();
    let mut open = 0;
    for change in diff.iter_all_changes() {
        let text = change.value().trim_end_matches('\n').to_owned();
        match change.tag() {
            ChangeTag::Equal => {
                rows.push((Some(text.clone()), Some(text)));
                open = rows.len();
            }
            ChangeTag::Delete => rows.push((Some(text), None)),
            // Beside the first line that went and has nothing beside it.
            ChangeTag::Insert => match rows[open..].iter_mut().find(|(_, new)| new.is_none()) {
                Some((_, new)) => *new = Some(text),
                None => rows.push((None, Some(text))),
            },
        }
    }
    html! {
        div.scroll tabindex="0" role="region" aria-label="Versions side by side" {
            table.sides {
                thead { tr { th scope="col" { "Version " (left) } th scope="col" { "Version " (right) } } }
                tbody {
                    @for (old, new) in &rows {
                        @let differs = old != new;
                        tr {
                            td class=[(differs && old.is_some()).then_some("went")] { @if let Some(old) = old { @if differs { "− " } code { (old) } } }
                            td class=[(differs && new.is_some()).then_some("came")] { @if let Some(new) = new { @if differs { "+ " } code { (new) } } }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_set_over_lines_in_its_own_order() {
        let schema = r#"{"type":"record","name":"B\"{,","fields":[{"z":1,"a":[]}]}"#;
        let lines = pretty(schema);
        assert_eq!(
            serde_json::from_str::<Value>(&lines).unwrap(),
            serde_json::from_str::<Value>(schema).unwrap()
        );
        assert!(lines.find("\"z\"") < lines.find("\"a\"") && lines.lines().count() > 6, "{lines}");
        assert_eq!(pretty("syntax = \"proto3\";"), "syntax = \"proto3\";");
    }

    #[test]
    fn what_came_stands_beside_what_went() {
        let page = side_by_side(1, "a\nold\nz\n", 2, "a\nnew\nmore\nz\n").into_string();
        assert!(
            page.contains(
                r#"<td class="went">− <code>old</code></td><td class="came">+ <code>new</code></td>"#
            ),
            "{page}"
        );
        assert!(page.contains(r#"<td></td><td class="came">+ <code>more</code></td>"#), "{page}");
        assert!(page.contains("<td><code>z</code></td><td><code>z</code></td>"), "{page}");
    }
}
