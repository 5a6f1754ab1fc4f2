//! `lab doctor`: what this machine has and what a lab needs, each finding with its fix. Reads /proc, so it says less
//! elsewhere than on Linux.

use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;
use testcontainers::bollard::models::SystemInfoCgroupDriverEnum;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::context::Context;
use super::status::megabytes;
use crate::engine::{Engine, InstanceState, Product, closed_files, default_offset, taken_ports};
use crate::project::Project;
use crate::topology::{Instance, Plan, SEARCH, Service};

/// What the transactions lab used when it was measured, in bytes: docs/performance.md.
const LAB_USES: u64 = 2 << 30;
/// Images and build steps of every recipe, in bytes.
const IMAGES_USE: u64 = 8 << 30;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    #[serde(rename = "ok")]
    Fine,
    Note,
    #[serde(rename = "bad")]
    Trouble,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    verdict: Verdict,
    seen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

fn finding(what: &str, verdict: Verdict, seen: impl Into<String>, fix: &str) -> Finding {
    let fix = (verdict != Verdict::Fine && !fix.is_empty()).then(|| fix.to_owned());
    Finding { what: what.to_owned(), verdict, seen: seen.into(), fix }
}

pub(super) async fn run(context: &Context, args: Args) -> Result<()> {
    let project = context.project()?;
    Instance::new(&context.instance, 0)?;
    let mut findings = Vec::new();
    let engine = match Engine::connect().await {
        Ok(engine) => {
            findings.push(which(&engine).await);
            Some(engine)
        }
        Err(error) => {
            let text = error.to_string();
            let (seen, fix) = text.split_once('\n').unwrap_or((&text, ""));
            findings.push(finding("engine", Verdict::Trouble, seen, fix.trim()));
            None
        }
    };
    let own = match &engine {
        Some(engine) => engine.instance(&context.instance).await.unwrap_or_default(),
        None => InstanceState::default(),
    };
    let offset =
        if own.networks.is_empty() { default_offset(&project, None, &context.instance)? } else { own.offset };
    let plan = project.plan(own.lab.as_deref(), Instance::new(&context.instance, offset)?)?;
    findings.push(cores());
    findings.extend(memory());
    findings.extend(disk(engine.as_ref()).await);
    findings.push(files(&project, &plan));
    findings.extend(ports(engine.as_ref(), &plan, &own).await?);
    findings.extend(ephemeral(&plan));
    findings.extend(clock(engine.as_ref()).await);
    findings.extend(limits());
    findings.extend(mappings(&plan));
    findings.push(certificates());
    findings.push(nix());
    findings.push(kvm());
    if args.json {
        say!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for f in &findings {
            let mark = match f.verdict {
                Verdict::Fine => "ok  ",
                Verdict::Note => "note",
                Verdict::Trouble => "bad ",
            };
            say!("{mark} {:<14} {}", f.what, f.seen);
            if let Some(fix) = &f.fix {
                say!("     {:<14} → {fix}", "");
            }
        }
    }
    let bad = findings.iter().filter(|f| f.verdict == Verdict::Trouble).count();
    if bad > 0 {
        bail!("{bad} finding(s) keep a lab from starting");
    }
    Ok(())
}

/// Engines that the lab's tests pass against: product, version, image store.
const PROVEN: [(Product, &str, &str); 3] = [
    (Product::Docker, "20.10", "overlay2"),
    (Product::Docker, "26.1", "overlayfs"),
    (Product::Podman, "5.4", "overlay"),
];

/// Which engine answers, where, and with which image store; and whether the lab was ever run with such a one.
async fn which(engine: &Engine) -> Finding {
    let info = engine.info().await.unwrap_or_default();
    let store = info.driver.unwrap_or_default();
    let at = std::env::var("DOCKER_HOST").map_or(String::new(), |host| format!(", at {host}"));
    let rootless = info.security_options.unwrap_or_default().iter().any(|o| o.contains("rootless"));
    let without_root = if rootless { " without root" } else { "" };
    let seen = format!(
        "{} {}{without_root} ({}), image store {store}{at}",
        engine.product, engine.version, engine.arch
    );
    if rootless && info.cgroup_driver == Some(SystemInfoCgroupDriverEnum::NONE) {
        let fix = "it has no cgroups: memory limits do not hold, status knows no memory, and faults that pause a service cannot be done; with cgroup v2 and systemd it has them";
        return finding("engine", Verdict::Note, seen, fix);
    }
    let is = |proven: &&(Product, &str, &str)| {
        proven.0 == engine.product
            && engine.version.starts_with(&format!("{}.", proven.1))
            && proven.2 == store
    };
    if PROVEN.iter().any(|proven| is(&proven)) && !rootless {
        return finding("engine", Verdict::Fine, seen, "");
    }
    let proven = PROVEN.map(|(product, version, store)| format!("{product} {version} with {store}"));
    let fix = if rootless {
        "without root, only the tests of the tiny lab are run (Docker 26.1); whole labs were never tried"
            .to_owned()
    } else {
        format!("the tests pass against {}; against this one they were never run", proven.join(", "))
    };
    finding("engine", Verdict::Note, seen, &fix)
}

fn cores() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let verdict = if cores < 2 { Verdict::Note } else { Verdict::Fine };
    finding(
        "cores",
        verdict,
        format!("{cores}"),
        "the lab was measured on 2; with one it starts in about twice the time",
    )
}

/// A figure of /proc/meminfo in bytes.
fn meminfo(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn memory() -> Option<Finding> {
    let free = meminfo("MemAvailable:")?;
    let verdict = if free < LAB_USES { Verdict::Trouble } else { Verdict::Fine };
    let seen = format!("{} available, the lab uses about {}", megabytes(free), megabytes(LAB_USES));
    Some(finding("memory", verdict, seen, "end other programs, or give the machine more memory"))
}

/// Free bytes of the file system that holds `path`, as df says.
fn free_bytes(path: &Path) -> Option<u64> {
    let output = std::process::Command::new("df").arg("-Pk").arg(path).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()? * 1024)
}

async fn disk(engine: Option<&Engine>) -> Option<Finding> {
    let root = engine?.info().await.ok()?.docker_root_dir?;
    // The engine's folder is closed to most users, and on a Mac it is in a machine of its own.
    let shown = [Path::new(&root), Path::new("/")].into_iter().find(|p| p.exists())?;
    let free = free_bytes(shown)?;
    let verdict = if free < IMAGES_USE { Verdict::Trouble } else { Verdict::Fine };
    let seen = format!(
        "{} free for images (in {root}), building all of them anew takes about {}",
        megabytes(free),
        megabytes(IMAGES_USE)
    );
    Some(finding("disk", verdict, seen, "./lab images remove --old; docker system df says what else can go"))
}

/// What the lab's containers are given of the checkout.
fn files(project: &Project, plan: &Plan) -> Finding {
    let closed = closed_files(&project.root, plan);
    let Some(first) = closed.first() else {
        return finding(
            "files",
            Verdict::Fine,
            "containers can read what they are given of the checkout",
            "",
        );
    };
    let seen = format!(
        "{} files are closed to the users of containers, {} the first",
        closed.len(),
        first.display()
    );
    let fix = format!("chmod -R go+rX {}", project.root.display());
    finding("files", Verdict::Trouble, seen, &fix)
}

async fn ports(engine: Option<&Engine>, plan: &Plan, own: &InstanceState) -> Result<Vec<Finding>> {
    let taken = taken_ports(engine, plan).await?;
    let look = |(port, service, _): (u16, &Service, _)| {
        let what = format!("port {port}");
        let name = &service.name;
        if own.containers.iter().any(|c| c.ports.iter().any(|(host, _)| *host == port)) {
            finding(&what, Verdict::Fine, format!("held by this lab's {name}"), "")
        } else if let Some(taken) = taken.iter().find(|t| t.port == port && t.passing) {
            let seen = format!("wanted for {name}, held by {}: `up` waits for its end", taken.holder);
            finding(&what, Verdict::Note, seen, "see the port range below")
        } else if let Some(taken) = taken.iter().find(|t| t.port == port) {
            let fix = "end it, or start with --port-offset 1000";
            finding(&what, Verdict::Trouble, format!("wanted for {name}, held by {}", taken.holder), fix)
        } else {
            finding(&what, Verdict::Fine, format!("free for {name}"), "")
        }
    };
    Ok(plan.host_ports().map(look).collect())
}

/// Ports that any outgoing connection may get from the kernel first.
fn ephemeral(plan: &Plan) -> Option<Finding> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut bounds = range.split_whitespace().filter_map(|b| b.parse::<u16>().ok());
    let (low, high) = (bounds.next()?, bounds.next()?);
    let reserved = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let is_reserved = |port: u16| {
        reserved.trim().split(',').any(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            matches!((from.parse::<u16>(), to.parse::<u16>()), (Ok(f), Ok(t)) if (f..=t).contains(&port))
        })
    };
    let exposed: Vec<String> = plan
        .host_ports()
        .map(|(port, ..)| port)
        .filter(|p| (low..=high).contains(p) && !is_reserved(*p))
        .map(|p| p.to_string())
        .collect();
    if exposed.is_empty() {
        return None;
    }
    let list = exposed.join(",");
    let fix = format!("sudo sysctl -w net.ipv4.ip_local_reserved_ports={list}");
    let seen = format!(
        "{list} lie in the range {low}-{high} that outgoing connections use: `up` waits where one has them"
    );
    Some(finding("port range", Verdict::Note, seen, &fix))
}

/// The engine's clock against this one: certificates and record times need both right.
async fn clock(engine: Option<&Engine>) -> Option<Finding> {
    let theirs = engine?.info().await.ok()?.system_time?;
    let there = OffsetDateTime::parse(&theirs, &Rfc3339).ok()?;
    let apart = (OffsetDateTime::now_utc() - there).whole_seconds().abs();
    let verdict = if apart > 5 { Verdict::Note } else { Verdict::Fine };
    Some(finding(
        "clock",
        verdict,
        format!("{apart} s between this machine and its engine"),
        "restart the engine's machine, or set the clock",
    ))
}

fn limits() -> Option<Finding> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find(|l| l.starts_with("Max open files"))?;
    let files: u64 = line.split_whitespace().nth(3)?.parse().unwrap_or(u64::MAX);
    let verdict = if files < 1024 { Verdict::Note } else { Verdict::Fine };
    Some(finding("open files", verdict, format!("{files} for this shell"), "ulimit -n 4096"))
}

/// What Elasticsearch asks of the kernel; with one node it only warns where that is less.
fn mappings(plan: &Plan) -> Option<Finding> {
    const WANTED: u64 = 262_144;
    plan.roles.get(SEARCH)?;
    let found: u64 = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()?;
    let verdict = if found < WANTED { Verdict::Note } else { Verdict::Fine };
    let seen = format!("vm.max_map_count is {found}; Elasticsearch wants {WANTED} for many large indices");
    Some(finding("mappings", verdict, seen, &format!("sudo sysctl -w vm.max_map_count={WANTED}")))
}

/// Nix builds the shell and the virtual machine; a lab in containers needs none.
fn nix() -> Finding {
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new("nix").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(said) = run(&["--version"]) else {
        let fix = "only `nix develop` and the virtual machine need it; install Nix 2.18 or newer";
        return finding("nix", Verdict::Note, "not there", fix);
    };
    let version = said.rsplit(' ').next().unwrap_or_default();
    let mut parts = version.split('.').map(|p| p.parse::<u32>().unwrap_or_default());
    if (parts.next(), parts.next()) < (Some(2), Some(18)) {
        return finding("nix", Verdict::Note, format!("{said} is too old"), "install Nix 2.18 or newer");
    }
    match run(&["flake", "--help"]).or_else(|| run(&["config", "show", "experimental-features"])) {
        Some(_) => finding("nix", Verdict::Fine, said, ""),
        None => finding(
            "nix",
            Verdict::Note,
            format!("{said}, flakes are not enabled"),
            "in nix.conf: experimental-features = nix-command flakes   (./lab vm enables them for its own call)",
        ),
    }
}

/// With KVM the virtual machine runs at this machine's speed; without it is emulated.
fn kvm() -> Finding {
    let seen = match std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => return finding("kvm", Verdict::Fine, "/dev/kvm is open to this user", ""),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "no /dev/kvm",
        Err(_) => "/dev/kvm is not open to this user",
    };
    let fix = "only the virtual machine needs it, and is very slow without; switch virtualisation on, or join the group kvm";
    finding("kvm", Verdict::Note, seen, fix)
}

fn certificates() -> Finding {
    let folder = "/usr/local/share/ca-certificates";
    let found = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let count = found.filter(|f| f.path().extension().is_some_and(|e| e == "crt")).count();
    let proxy = ["HTTPS_PROXY", "https_proxy"].iter().any(|v| std::env::var_os(v).is_some());
    let seen = format!(
        "{count} extra in {folder}, proxy {}: both are used where images are built, and are in no image that runs",
        if proxy { "set" } else { "not set" },
    );
    finding("certificates", Verdict::Fine, seen, "")
}
