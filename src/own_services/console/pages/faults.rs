//! What can be broken, and what is. The lab's own console breaks nothing: it has no way to the engine. One on the host that was
//! started for it does.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use maud::html;
use serde_json::json;

use super::{Console, commands};
use crate::own_services::console::Breaker;
use crate::own_services::console::api::Refused;

pub(in crate::own_services::console) async fn faults(State(console): State<Arc<Console>>) -> Html<String> {
    let seen = console.cluster.now().await;
    let down: Vec<&String> =
        seen.monitored.up.iter().filter(|(_, up)| !**up).map(|(service, _)| service).collect();
    let option = console.instance_option();
    let in_force = match &console.breaker {
        Some(breaker) => Some(breaker.in_force().await),
        None => None,
    };
    let (may_break, in_force) = match in_force {
        None => (false, Ok(Vec::new())),
        Some(known) => (true, known),
    };
    let (in_force, problem) = match in_force {
        Ok(names) => (names, None),
        Err(why) => (Vec::new(), Some(format!("{why:#}"))),
    };
    let note = if may_break {
        "This console was started to break the lab: what a button does is done at once."
    } else {
        "This console only reads: ./lab console --allow-faults starts one with buttons."
    };
    let body = html! {
        div data-mark=(seen.monitored.mark()) {
            @for problem in seen.monitored.problems.iter().chain(&problem) { p.problem role="alert" { (problem) } }
            p { "Services that do not answer: "
                @if seen.monitored.up.is_empty() { "not known" } @else if down.is_empty() { "none" }
                @for service in &down { span.firing { (service) } " " }
            }
            @if may_break {
                p { "In force: " @if in_force.is_empty() { "no fault" } @else { (in_force.join(", ")) " "
                    button type="button" data-change="/api/faults/undo" data-body="{}" { "Put everything right" } }
                }
            }
        }
        p.problem role="alert" data-failed hidden {}
        @if console.lab.faults.is_empty() { p { "Nothing of this lab is broken by a command." } }
        @else {
            div.scroll tabindex="0" role="region" aria-label="Faults" {
                table {
                    caption { "What can be broken" span.note { (note) } }
                    thead {
                        tr {
                            th scope="col" { "Fault" } th scope="col" { "What happens" } th scope="col" { "Disturbs" }
                            th scope="col" { "Raises" } th scope="col" { "Command" }
                            @if may_break { th scope="col" { "Break" } }
                        }
                    }
                    tbody {
                        @for fault in &console.lab.faults {
                            tr {
                                th scope="row" { (fault.name) @if in_force.contains(&fault.name) { " " span.firing { "in force" } } }
                                td { (fault.about) }
                                td { @for service in &fault.disturbs { (service) " " } }
                                td { (console.alerts_as_links(&seen, &fault.alerts)) }
                                td { code { "./lab fault " (fault.name) (option) } }
                                @if may_break {
                                    td {
                                        button type="button" data-change={ "/api/faults/" (fault.name) "/inject" } data-body="{}"
                                            disabled[in_force.contains(&fault.name)] aria-label={ "Break: " (fault.name) } { "Break" }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        (commands(&[format!("./lab fault{option}"), format!("./lab fault undo{option}")]))
    };
    console.frame("Faults", "/faults", Some(&seen), &body)
}

fn breaker(console: &Console) -> Result<&dyn Breaker, Refused> {
    let why = "this console only reads: ./lab console --allow-faults starts one that breaks the lab";
    console.breaker.as_deref().ok_or_else(|| Refused(StatusCode::FORBIDDEN, why.to_owned()))
}

pub(in crate::own_services::console) async fn inject(
    State(console): State<Arc<Console>>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let breaker = breaker(&console)?;
    if !console.lab.faults.iter().any(|fault| fault.name == name) {
        return Err(Refused(StatusCode::NOT_FOUND, format!("this lab has no fault {name}")));
    }
    let done = breaker.inject(&name).await;
    done.map_err(|why| Refused(StatusCode::CONFLICT, format!("{why:#}")))?;
    Ok(Json(json!({ "inForce": name })).into_response())
}

pub(in crate::own_services::console) async fn undo(
    State(console): State<Arc<Console>>,
) -> Result<Response, Refused> {
    let undone = breaker(&console)?.undo().await;
    undone.map_err(|why| Refused(StatusCode::CONFLICT, format!("{why:#}")))?;
    Ok(Json(json!({})).into_response())
}
