//! `lab status`: every service, whether it is ready, what it uses, and where it answers.

use anyhow::Result;
use serde::Serialize;

use super::context::Context;
use crate::topology::{Plan, Protocol, Service};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    service: String,
    container: String,
    state: String,
    ready: bool,
    memory_bytes: u64,
    memory_limit_bytes: u64,
    ports: Vec<String>,
    /// What became of it where it died by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    death: Option<String>,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let running = context.running().await?;
    let rows = running.plan.services.iter().map(|service| async {
        let found = running.state.of(&service.name);
        let alive = found.is_some_and(|c| c.running());
        let usage = if alive {
            running.engine.usage(&service.container).await.unwrap_or_default()
        } else {
            Default::default()
        };
        let ready = match found {
            Some(c) if alive || c.completed() => running.engine.is_ready(&running.plan, service).await,
            _ => false,
        };
        Row {
            service: service.name.clone(),
            container: service.container.clone(),
            state: found.map_or("not there".to_owned(), |c| c.status.to_lowercase()),
            ready,
            memory_bytes: usage.memory,
            memory_limit_bytes: service.memory,
            ports: addresses(service),
            death: if found.is_some() { running.engine.death(service).await } else { None },
        }
    });
    let rows = futures::future::join_all(rows).await;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    say!("instance {} · lab {}", context.instance, running.plan.lab);
    say!("{:<24} {:<7} {:<26} {:>8} {:>8}  PORTS", "SERVICE", "READY", "STATE", "MEMORY", "LIMIT");
    for row in &rows {
        say!(
            "{:<24} {:<7} {:<26} {:>8} {:>8}  {}",
            row.service,
            if row.ready { "yes" } else { "no" },
            row.state,
            if row.memory_bytes == 0 { "-".to_owned() } else { megabytes(row.memory_bytes) },
            megabytes(row.memory_limit_bytes),
            row.ports.join(" ")
        );
    }
    for (service, death) in rows.iter().filter_map(|r| Some((&r.service, r.death.as_ref()?))) {
        say!("{service}: {death}   (./lab logs {service}{})", context.option());
    }
    for fault in &running.state.faults {
        say!("broken on purpose: {fault}   (./lab fault undo{})", context.option());
    }
    let total: u64 = rows.iter().map(|r| r.memory_bytes).sum();
    say!("{:<24} {:<7} {:<26} {:>8}", "", "", "in all", megabytes(total));
    Ok(())
}

/// `123 MB`.
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1 << 20))
}

fn addresses(service: &Service) -> Vec<String> {
    let published =
        service.ports.iter().filter_map(|p| Some(address(p.protocol, p.host?, p.path.as_deref())));
    published.collect()
}

fn address(protocol: Protocol, port: u16, path: Option<&str>) -> String {
    match protocol {
        Protocol::Http => {
            format!("http://localhost:{port}{}", path.filter(|p| *p != "/").unwrap_or_default())
        }
        Protocol::Kafka | Protocol::Tcp => format!("localhost:{port}"),
    }
}

/// Every address on the host, with what it is for.
pub(super) fn endpoint_table(plan: &Plan) -> String {
    let mut text = format!("\n{:<24} {:<36} WHAT\n", "SERVICE", "ADDRESS");
    for (port, service, spec) in plan.host_ports() {
        let address = address(spec.protocol, port, spec.path.as_deref());
        text += &format!("{:<24} {:<36} {}\n", service.name, address, spec.about);
    }
    text
}
