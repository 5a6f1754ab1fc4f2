//! Consumer groups, and one of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use maud::html;
use serde_json::json;

use super::{Console, Failed, commands, percent, quoted};
use crate::clients::groups::Group;
use crate::own_services::console::api::{Refused, lag};
use crate::own_services::console::window::Window;

pub(in crate::own_services::console) async fn groups(State(console): State<Arc<Console>>) -> Html<String> {
    let seen = console.cluster.now().await;
    let body = html! {
        div.scroll tabindex="0" role="region" aria-label="Consumer groups" {
            table {
                caption { "Consumer groups" span.note { "Lag: offsets that are not committed yet; it can stay above 0 where transactions end." } }
                thead {
                    tr {
                        th scope="col" { "Group" } th scope="col" { "State" } th.number scope="col" { "Members" }
                        th.number scope="col" { "Idle members" } th.number scope="col" { "Lag" }
                    }
                }
                tbody {
                    @for (name, group) in &seen.groups.groups {
                        tr {
                            th scope="row" { a href={ "/groups/" (percent(name)) } { (name) } }
                            td { (group.state) }
                            td.number { (group.members.len()) }
                            td.number { (idle(group)) }
                            td.number data-live="lag" data-of=(name) { (lag(&seen, name)) }
                        }
                    }
                }
            }
        }
        @if seen.groups.groups.is_empty() && seen.problem.is_none() { p { "There are no consumer groups." } }
        (commands(&[format!("./lab env{}", console.instance_option())]))
    };
    console.frame("Groups", "/groups", Some(&seen), &body)
}

fn idle(group: &Group) -> usize {
    group.members.iter().filter(|member| member.partitions.is_empty()).count()
}

pub(in crate::own_services::console) async fn group(
    State(console): State<Arc<Console>>,
    Path(name): Path<String>,
) -> Result<Html<String>, Failed> {
    let seen = console.cluster.now_with(|known| known.groups.contains_key(&name)).await;
    let Some(group) = seen.groups.groups.get(&name) else {
        let why = match &seen.problem {
            Some(problem) => Refused(StatusCode::SERVICE_UNAVAILABLE, problem.clone()),
            None => Refused(StatusCode::NOT_FOUND, format!("no consumer group {name}")),
        };
        return Err(Failed(console, why));
    };
    let body = html! {
        p {
            (group.state) ", " (group.members.len()) " members, " (idle(group)) " of them idle, lag "
            span data-live="lag" data-of=(name) { (lag(&seen, &name)) }
        }
        div.scroll tabindex="0" role="region" aria-label="Partitions" {
            table {
                caption { "Partitions" }
                thead {
                    tr {
                        th scope="col" { "Topic" } th.number scope="col" { "Partition" } th.number scope="col" { "Committed" }
                        th.number scope="col" { "Next offset" } th.number scope="col" { "Lag" } th scope="col" { "Member" }
                    }
                }
                tbody {
                    @for (at, committed) in &group.committed {
                        @let member = group.members.iter().find(|member| member.partitions.contains(at));
                        tr {
                            th scope="row" { a href={ "/topics/" (at.0) } { (at.0) } }
                            td.number { (at.1) }
                            td.number { (committed) }
                            td.number { @if let Some((_, next)) = seen.groups.offsets.get(at) { (next) } @else { "–" } }
                            td.number { @if let Some(lag) = seen.groups.lag(&name, at) { (lag) } @else { "none" } }
                            td { @if let Some(member) = member { (member.client_id) " at " (member.host) } @else { "nobody" } }
                        }
                    }
                }
            }
        }
        p.as-of { "Lag over 15 minutes, as of " time data-drawn-at {} " " span data-marks role="status" {} }
        div data-dashboard={ "/api/groups/" (percent(&name)) "/lag" } data-refresh="5" {
            section.panel.w24.h8 aria-label="Lag over time" { div.shown data-panel="1" { p.quiet { "Not asked yet." } } }
        }
        div.scroll tabindex="0" role="region" aria-label="Members" {
            table {
                caption { "Members" }
                thead { tr { th scope="col" { "Member" } th scope="col" { "Address" } th scope="col" { "Reads" } } }
                tbody {
                    @for member in &group.members {
                        tr {
                            th scope="row" { (member.client_id) }
                            td { (member.host) }
                            td {
                                @if member.partitions.is_empty() { span.badge { "idle" } }
                                @for (topic, partition) in &member.partitions { (topic) "-" (partition) " " }
                            }
                        }
                    }
                }
            }
        }
        (commands(&[
            format!("kafka-consumer-groups --bootstrap-server {} --describe --group {}", console.kafka(), quoted(&name)),
            format!("kafka-consumer-groups --bootstrap-server {} --group {} --reset-offsets --to-earliest --all-topics --dry-run", console.kafka(), quoted(&name)),
        ]))
    };
    Ok(console.frame_with_charts(&name, "/groups", Some(&seen), &body))
}

/// How far a group was behind over the last minutes, as a panel.
pub(in crate::own_services::console) async fn lag_over_time(
    State(console): State<Arc<Console>>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let window = Window::of("now-15m", "now").map_err(|why| Refused(StatusCode::BAD_REQUEST, why))?;
    let panels = [console.dashboards.lag(&name, window).await];
    Ok(Json(json!({ "window": window, "panels": panels, "marks": [], "problem": null })).into_response())
}
