//! One container as a body has written it down, in words that the plan and every body share: what compose understood and what
//! the engine was told are compared with the plan as one value. Nix has its own comparison: its fields are another tool's.
#![allow(dead_code, reason = "each binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use streamlab::topology::{ENGINE_SOCKET, Health, Plan, Restart, Service};

/// All that bodies are told about a container. Memory in bytes, times in seconds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) container: String,
    pub(crate) network: String,
    pub(crate) command: Vec<String>,
    pub(crate) working_dir: Option<String>,
    pub(crate) environment: BTreeMap<String, String>,
    /// Address on the host, port there, port inside.
    pub(crate) ports: BTreeSet<(String, u16, u16)>,
    /// Path inside → what is there: `volume NAME`, `add-on NAME`, `file PATH`, `socket PATH`.
    pub(crate) mounts: BTreeMap<String, String>,
    pub(crate) memory: u64,
    /// With swap: the same number, so that none is used.
    pub(crate) memory_and_swap: u64,
    pub(crate) log: BTreeMap<String, String>,
    pub(crate) restart: String,
    pub(crate) grace: u64,
    /// None for the engine, which is not told: this program orders and asks.
    pub(crate) ordered: Option<Ordered>,
}

/// What only a body without this program is told: the order of starting, and health.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ordered {
    /// Service → whether it must have ended.
    pub(crate) waits_for: BTreeMap<String, bool>,
    pub(crate) health: Option<Health>,
}

impl Written {
    /// As the plan means it. `volume` gives the name that the body has for one of the plan's volumes.
    pub(crate) fn meant(plan: &Plan, service: &Service, volume: impl Fn(&str) -> String) -> Self {
        let mut mounts: BTreeMap<String, String> = service
            .volumes
            .iter()
            .map(|v| (v.path.clone(), format!("volume {}{}", volume(&v.name), read_only(v.read_only))))
            .collect();
        mounts
            .extend(service.addons.iter().map(|a| (a.path.clone(), format!("add-on {} read-only", a.name))));
        mounts.extend(service.files.iter().map(|f| (f.path.clone(), format!("file {} read-only", f.source))));
        if service.engine_socket {
            mounts.insert(ENGINE_SOCKET.to_owned(), format!("socket {ENGINE_SOCKET}"));
        }
        let ports = service.ports.iter().filter_map(|p| Some(("127.0.0.1".to_owned(), p.host?, p.container)));
        Self {
            container: service.container.clone(),
            network: plan.network.clone(),
            command: service.command.clone(),
            working_dir: service.working_dir.clone(),
            environment: service.environment.clone(),
            ports: ports.collect(),
            mounts,
            memory: service.memory,
            memory_and_swap: service.memory,
            log: BTreeMap::from([
                ("driver".to_owned(), "json-file".to_owned()),
                ("max-file".to_owned(), service.log.files.to_string()),
                ("max-size".to_owned(), format!("{}m", service.log.megabytes)),
            ]),
            restart: match service.restart {
                Restart::No => "no".to_owned(),
                Restart::OnFailure => format!("on-failure:{}", Restart::MOST),
            },
            grace: service.stop.grace.into(),
            ordered: None,
        }
    }

    /// As [`Written::meant`], with the order of starting and health.
    pub(crate) fn meant_in_order(plan: &Plan, service: &Service, volume: impl Fn(&str) -> String) -> Self {
        let waits = service.waits_for.iter().map(|wait| (wait.service.clone(), wait.completes));
        let ordered = Ordered { waits_for: waits.collect(), health: service.health.clone() };
        Self { ordered: Some(ordered), ..Self::meant(plan, service, volume) }
    }

    /// From a service of `docker compose config --format json`. `root`: the checkout as compose saw it.
    pub(crate) fn by_compose(service: &Value, network: &str, root: &Path) -> Self {
        let mounts = list(&service["volumes"]).iter().map(|mount| {
            let source = words(&mount["source"]);
            let what = match mount["type"].as_str() {
                Some("volume") => match source.strip_prefix("addon-") {
                    Some(addon) => format!("add-on {addon}"),
                    None => format!("volume {source}"),
                },
                _ => bind(&source, root),
            };
            (words(&mount["target"]), what + read_only(mount["read_only"] == true))
        });
        let ports = list(&service["ports"]).iter().map(|port| {
            assert_eq!(port["protocol"], "tcp");
            (words(&port["host_ip"]), words(&port["published"]).parse().unwrap(), number(&port["target"]))
        });
        let mut log = texts(&service["logging"]["options"]);
        log.insert("driver".to_owned(), words(&service["logging"]["driver"]));
        // The volumes of add-ons are filled by services that only compose has.
        let waits = service["depends_on"].as_object().into_iter().flatten();
        let waits = waits.filter(|(name, _)| !name.starts_with("addon-")).map(|(name, how)| {
            assert_eq!(how["required"], true);
            (name.clone(), how["condition"] == "service_completed_successfully")
        });
        let check = &service["healthcheck"];
        let health = check.is_object().then(|| Health {
            command: list(&check["test"]).iter().skip(1).map(unescaped).collect(),
            interval: seconds(&check["interval"]),
            timeout: seconds(&check["timeout"]),
            start: seconds(&check["start_period"]),
            retries: number(&check["retries"]),
        });
        Self {
            container: words(&service["container_name"]),
            network: network.to_owned(),
            command: list(&service["command"]).iter().map(unescaped).collect(),
            working_dir: service["working_dir"].as_str().map(str::to_owned),
            environment: texts(&service["environment"])
                .into_iter()
                .map(|(k, v)| (k, v.replace("$$", "$")))
                .collect(),
            ports: ports.collect(),
            mounts: mounts.collect(),
            memory: words(&service["mem_limit"]).parse().unwrap(),
            memory_and_swap: words(&service["memswap_limit"]).parse().unwrap(),
            log,
            restart: words(&service["restart"]),
            grace: seconds(&service["stop_grace_period"]),
            ordered: Some(Ordered { waits_for: waits.collect(), health }),
        }
    }

    /// From the engine's own account of a container. `meant` says which variables and working directory are not the image's;
    /// `grace` is the label that holds the seconds of a stop.
    pub(crate) fn by_the_engine(container: &Value, meant: &Self, root: &Path, grace: &str) -> Self {
        let (config, host) = (&container["Config"], &container["HostConfig"]);
        let named = |text: &Value| {
            Some(words(text).split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).flatten()
        };
        let environment = list(&config["Env"]).iter().filter_map(named);
        // An image may declare volumes of its own: the engine gives them a hash for a name, and nobody else has them.
        let anonymous = |mount: &&Value| {
            let name = words(&mount["Name"]);
            name.len() == 64 && name.chars().all(|c| c.is_ascii_hexdigit())
        };
        let mounts = list(&container["Mounts"]).iter().filter(|mount| !anonymous(mount)).map(|mount| {
            let what = match mount["Type"].as_str() {
                Some("volume") => volume_or_addon(&words(&mount["Name"])),
                _ => bind(&words(&mount["Source"]), root),
            };
            (words(&mount["Destination"]), what + read_only(mount["RW"] == false))
        });
        let ports = host["PortBindings"].as_object().into_iter().flatten().flat_map(|(inside, bindings)| {
            let inside = inside.strip_suffix("/tcp").expect("tcp").parse().unwrap();
            list(bindings)
                .iter()
                .map(move |b| (words(&b["HostIp"]), words(&b["HostPort"]).parse().unwrap(), inside))
        });
        let networks: Vec<String> = container["NetworkSettings"]["Networks"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(n, _)| n.clone())
            .collect();
        let mut log = texts(&host["LogConfig"]["Config"]);
        log.insert("driver".to_owned(), words(&host["LogConfig"]["Type"]));
        Self {
            container: words(&container["Name"]).trim_start_matches('/').to_owned(),
            network: networks.join(", "),
            command: list(&config["Cmd"]).iter().map(words).collect(),
            working_dir: meant.working_dir.is_some().then(|| words(&config["WorkingDir"])),
            environment: environment.filter(|(name, _)| meant.environment.contains_key(name)).collect(),
            ports: ports.collect(),
            mounts: mounts.collect(),
            memory: host["Memory"].as_u64().unwrap_or_default(),
            memory_and_swap: host["MemorySwap"].as_u64().unwrap_or_default(),
            log,
            restart: match host["RestartPolicy"]["MaximumRetryCount"].as_u64() {
                Some(most @ 1..) => format!("{}:{most}", words(&host["RestartPolicy"]["Name"])),
                _ => words(&host["RestartPolicy"]["Name"]),
            },
            grace: words(&config["Labels"][grace]).parse().unwrap_or_default(),
            ordered: None,
        }
    }

    /// The first field in which two differ, with both values.
    pub(crate) fn difference(&self, meant: &Self) -> Option<String> {
        let fields = |w: &Self| format!("{w:#?}");
        let (written, meant) = (fields(self), fields(meant));
        let mut pairs = written.lines().zip(meant.lines());
        let differs = pairs.find(|(written, meant)| written != meant);
        match differs {
            Some((written, meant)) => {
                Some(format!("written {}, the plan says {}", written.trim(), meant.trim()))
            }
            None => (written != meant).then(|| format!("written {written}, the plan says {meant}")),
        }
    }
}

fn words(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Compose doubles each `$` of its own output.
fn unescaped(value: &Value) -> String {
    words(value).replace("$$", "$")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    value.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), words(v))).collect()
}

fn number<N: TryFrom<u64>>(value: &Value) -> N {
    value.as_u64().and_then(|n| N::try_from(n).ok()).expect("a number")
}

/// `2m0s` → 120.
fn seconds(value: &Value) -> u64 {
    let text = words(value);
    let (minutes, rest) = text.split_once('m').unwrap_or(("0", &text));
    minutes.parse::<u64>().unwrap() * 60 + rest.trim_end_matches('s').parse::<u64>().unwrap()
}

fn bind(source: &str, root: &Path) -> String {
    match Path::new(source).strip_prefix(root) {
        Ok(below) => format!("file {}", below.display()),
        Err(_) => format!("socket {source}"),
    }
}

fn volume_or_addon(name: &str) -> String {
    match name.strip_prefix("streamlab-addon-").and_then(|rest| rest.rsplit_once('-')) {
        Some((addon, _hash)) => format!("add-on {addon}"),
        None => format!("volume {name}"),
    }
}

fn read_only(is: bool) -> &'static str {
    if is { " read-only" } else { "" }
}
