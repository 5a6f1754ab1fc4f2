//! The lab: a picture of it with what is up and what flows, its services, and a group of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::{Markup, html};

use super::dashboards::coded;
use super::{Console, Failed, commands, rate};
use crate::own_services::console::api::Refused;
use crate::own_services::console::cluster::Seen;
use crate::own_services::console::diagram::{nodes, picture};
use crate::topology::{METRICS, ServiceView};

pub(in crate::own_services::console) async fn overview(State(console): State<Arc<Console>>) -> Html<String> {
    let seen = console.cluster.now().await;
    let partitions = || seen.groups.topics.values().flat_map(|topic| topic.partitions.values());
    let offline = partitions().filter(|(leader, ..)| *leader < 0).count();
    let behind = partitions().filter(|(_, replicas, in_sync)| in_sync.len() < replicas.len()).count();
    let of_topics = |topics: &BTreeSet<String>| {
        let known: Vec<f64> = topics.iter().filter_map(|topic| seen.rates.get(topic).copied()).collect();
        (!topics.is_empty()).then(|| {
            if known.is_empty() { "–".to_owned() } else { format!("{:.1}/s", known.iter().sum::<f64>()) }
        })
    };
    let body = html! {
        @for problem in &seen.monitored.problems { p.problem role="alert" { (problem) } }
        dl.figures {
            div { dt { "Brokers" } dd { (seen.groups.brokers.len()) } }
            div { dt { "Topics" } dd { a href="/topics" { (seen.groups.topics.len()) } } }
            div { dt { "Records a second" } dd data-live="rate" { (rate(seen.rate())) } }
            div { dt { "Consumer groups" } dd { a href="/groups" { (seen.groups.groups.len()) } } }
            div { dt { "Partitions without a leader" } dd { (offline) } }
            div { dt { "Partitions not in sync" } dd { (behind) } }
        }
        p { "Firing: "
            @let firing: Vec<String> = firing(&seen);
            @if firing.is_empty() && !seen.monitored.problems.is_empty() { "not known" }
            @else if firing.is_empty() { "nothing" } @else { (console.alerts_as_links(&seen, &firing)) }
        }
        (picture(&console.lab, &nodes(&console.lab, &seen.monitored.up), of_topics))
        p.quiet { "A box: services alike, green where all that is asked of them is answered. An arrow: where data go in the flows that the tests prove; the number is the records a second in the topics of these flows." }
        (services(&console, &seen, console.lab.services.iter()))
        (commands(&[format!("./lab status{}", console.instance_option())]))
    };
    console.frame("Lab", "/", Some(&seen), &body)
}

fn firing(seen: &Seen) -> Vec<String> {
    let firing = seen.monitored.alerts.iter().filter(|alert| alert.state.starts_with("firing"));
    firing.map(|alert| alert.alert.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn services<'a>(console: &Console, seen: &Seen, services: impl Iterator<Item = &'a ServiceView>) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Services" {
            table {
                caption { "Services of the lab " (console.lab.lab) }
                thead {
                    tr {
                        th scope="col" { "Service" } th scope="col" { "Answers" } th scope="col" { "What it does" }
                        th scope="col" { "On this machine" }
                    }
                }
                tbody data-mark=(seen.monitored.mark()) {
                    @for service in services {
                        tr {
                            th scope="row" { a href={ "/services/" (service.group) } { (service.name) } }
                            td {
                                @match seen.monitored.up.get(&service.name) {
                                    Some(true) => "yes",
                                    Some(false) => span.firing { "no" },
                                    None => "–",
                                }
                            }
                            td { (service.about) }
                            td {
                                @for (address, about) in &service.pages {
                                    div {
                                        @if address.starts_with("http://") { a href=(address) rel="noreferrer" { (address) } }
                                        @else { code { (address) } }
                                        " " (about)
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Services alike: what they are, what flows through them, their alerts, their metrics, their log.
pub(in crate::own_services::console) async fn group(
    State(console): State<Arc<Console>>,
    Path(group): Path<String>,
) -> Result<Response, Failed> {
    let own: Vec<&ServiceView> =
        console.lab.services.iter().filter(|service| service.group == group).collect();
    if let (true, Some(service)) =
        (own.is_empty(), console.lab.services.iter().find(|service| service.name == group))
    {
        return Ok(Redirect::to(&format!("/services/{}", service.group)).into_response());
    }
    if own.is_empty() {
        let why =
            Refused(StatusCode::NOT_FOUND, format!("the lab {} has no service {group}", console.lab.lab));
        return Err(Failed(console, why));
    }
    let seen = console.cluster.now().await;
    let (to_it, from_it): (Vec<_>, Vec<_>) = console
        .lab
        .ways
        .iter()
        .filter(|way| way.to == group || way.from == group)
        .partition(|way| way.to == group);
    let flows: BTreeSet<&String> = to_it.iter().chain(&from_it).flat_map(|way| &way.flows).collect();
    let is_own = |name: &String| own.iter().any(|service| service.name == *name);
    let faults: Vec<_> =
        console.lab.faults.iter().filter(|fault| fault.disturbs.iter().any(is_own)).collect();
    let alerts: BTreeSet<&String> = faults.iter().flat_map(|fault| &fault.alerts).collect();
    let body = html! {
        (services(&console, &seen, own.iter().copied()))
        dl.record {
            dt { "Gets data from" } dd { (linked(to_it.iter().map(|way| way.from.as_str()))) }
            dt { "Data go to" } dd { (linked(from_it.iter().map(|way| way.to.as_str()))) }
            dt { "Alerts and their runbooks" }
            dd { @if alerts.is_empty() { "none of its own" } @else { (console.alerts_as_links(&seen, alerts.iter().copied())) } }
            dt { "Metrics" } dd { (metrics(&console, &own)) }
            dt { "Log" }
            dd {
                @for service in &own {
                    code { "./lab logs " (service.name) (console.instance_option()) }
                    @if console.logs.is_some() { " " a href={ "/logs?q=node:%22" (service.name) "%22" } { "in Elasticsearch" } }
                    br;
                }
            }
            dt { "What can be broken" }
            dd { @for fault in &faults { a href="/faults" { (fault.name) } " " } @if faults.is_empty() { "nothing" } }
        }
        h2 { "Flows through it, as the tests prove them" }
        dl.record {
            @for flow in flows { dt { (flow) } dd { (coded(console.lab.flows.get(flow).map_or("", String::as_str))) } }
        }
        (commands(&own.iter().map(|service| format!("./lab restart {}{}", service.name, console.instance_option())).collect::<Vec<_>>()))
    };
    Ok(console.frame(&group, "/", Some(&seen), &body).into_response())
}

fn linked<'a>(groups: impl Iterator<Item = &'a str>) -> Markup {
    let groups: BTreeSet<&str> = groups.collect();
    html! {
        @if groups.is_empty() { "nobody" }
        @for group in groups { a href={ "/services/" (group) } { (group) } " " }
    }
}

/// What Prometheus reads of them, as a link to its own page.
fn metrics(console: &Console, own: &[&ServiceView]) -> Markup {
    let Some(prometheus) = console.lab.host_roles.get(METRICS) else {
        return html! { "this lab has no Prometheus" };
    };
    let names: Vec<&str> = own.iter().map(|service| service.name.as_str()).collect();
    let expression = format!("scrape_samples_scraped{{instance=~\"{}\"}}", names.join("|"));
    let query =
        url::form_urlencoded::Serializer::new(String::new()).append_pair("g0.expr", &expression).finish();
    html! {
        a href={ "http://" (prometheus) "/graph?" (query) } rel="noreferrer" { "in Prometheus" }
        " " a href="/dashboards" { "dashboards" }
    }
}
