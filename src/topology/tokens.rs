//! The language of tokens, `{…}` in commands, environments and documented command lines: one scope says what each stands for,
//! and why one stands for nothing. Braces around anything else stay as they are.
//!
//! | token | stands for |
//! |---|---|
//! | `{SERVICE}` | the service's container and DNS name |
//! | `{SERVICE:PORT}` | its address in the lab's network: name and port inside |
//! | `{SERVICE#PORT}`, `{SERVICE.PORT}` | the number of that port inside, and on the host |
//! | `{name}`, `{:PORT}`, `{#PORT}`, `{.PORT}`, `{node}` | the same of this service, and its node id |
//! | `{role.R}`, `{first.R}` | addresses of all that play a role, with commas; the container of the first of them |
//! | `{count.R}` | how many play a role |
//! | `{voters.R}` | `NODE@ADDRESS` of all that play a role, with commas |
//! | `{value.X}`, `{addon.X}` | a value of the lab; where an add-on is mounted |
//! | `{network}`, `{instance}`, `{scenarios}` | the network, the instance, the lab's scenarios with commas |
//! | `{targets}`, `{probes}`, `{topics}` | lists as JSON: what Prometheus reads and asks, what topics there are |
//! | `{lab}` | the lab's services, roles and pages as JSON, for its console |

use super::Instance;
use super::roster::{Entry, Roster};

/// Words before a dot that are no service's name.
pub(super) const RESERVED: [&str; 6] = ["role", "first", "count", "voters", "value", "addon"];

/// Lists that only the whole plan knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Lists {
    pub(super) targets: String,
    pub(super) probes: String,
    pub(super) topics: String,
    pub(super) lab: String,
}

/// What tokens stand for in one lab of one instance, and within one service of it.
pub(super) struct Scope<'a> {
    pub(super) roster: &'a Roster<'a>,
    pub(super) instance: &'a Instance,
    pub(super) own: Option<&'a Entry<'a>>,
    pub(super) lists: &'a Lists,
}

impl Scope<'_> {
    /// Fills every token of a text.
    ///
    /// # Errors
    /// The first token that stands for nothing, and why.
    pub(super) fn fill(&self, text: &str) -> Result<String, String> {
        expand(text, |token| {
            self.value(token).map_err(|why| format!("{{{token}}} stands for nothing: {why}"))
        })
    }

    fn value(&self, token: &str) -> Result<String, String> {
        let own = || self.own.ok_or_else(|| "only a service has that".to_owned());
        match token {
            "name" => return Ok(self.instance.container(own()?.name)),
            "node" => return node(own()?),
            "network" => return Ok(self.instance.network(&self.roster.lab.network)),
            "instance" => return Ok(self.instance.name().to_owned()),
            "scenarios" => {
                let all: Vec<_> = self.roster.lab.scenarios.iter().map(|s| s.get_ref().as_str()).collect();
                return Ok(all.join(","));
            }
            "targets" => return Ok(self.lists.targets.clone()),
            "probes" => return Ok(self.lists.probes.clone()),
            "topics" => return Ok(self.lists.topics.clone()),
            "lab" => return Ok(self.lists.lab.clone()),
            _ => {}
        }
        if let Some((kind, name)) = token.split_once('.')
            && RESERVED.contains(&kind)
        {
            return self.of_kind(kind, name);
        }
        let Some(at) = token.find([':', '#', '.']) else {
            return Ok(self.instance.container(self.service(token)?.name));
        };
        let (service, port) = (&token[..at], &token[at + 1..]);
        let entry = if service.is_empty() { own()? } else { self.service(service)? };
        match token.as_bytes()[at] {
            b':' => self.address(entry, port),
            b'#' => Ok(inside(entry, port)?.to_string()),
            _ => {
                let documented = self.roster.host_port(entry, port);
                let documented = documented.ok_or_else(|| {
                    format!("{} has no port {port:?} on the host in lab {}", entry.name, self.roster.name)
                })?;
                let moved = self.instance.host_port(*documented.get_ref());
                Ok(moved.ok_or_else(|| "it is moved past 65535".to_owned())?.to_string())
            }
        }
    }

    fn of_kind(&self, kind: &str, name: &str) -> Result<String, String> {
        let lab = self.roster.name;
        let players = || {
            let players: Vec<_> = self.roster.players(name).collect();
            if players.is_empty() { Err(format!("nobody plays {name} in lab {lab}")) } else { Ok(players) }
        };
        match kind {
            "role" => {
                let all = players()?.into_iter().map(|(e, p)| self.address(e, p.port.get_ref()));
                Ok(all.collect::<Result<Vec<_>, _>>()?.join(","))
            }
            "voters" => {
                let all = players()?.into_iter().map(|(e, p)| {
                    Ok::<_, String>(format!("{}@{}", node(e)?, self.address(e, p.port.get_ref())?))
                });
                Ok(all.collect::<Result<Vec<_>, _>>()?.join(","))
            }
            "count" => Ok(players()?.len().to_string()),
            "first" => Ok(self.instance.container(players()?[0].0.name)),
            "value" => {
                let value = self.roster.lab.values.get(name).cloned();
                value.ok_or_else(|| format!("lab {lab} has no value {name:?}"))
            }
            _ => {
                let addon = self.roster.file.addons.get(name);
                let addon = addon.ok_or_else(|| format!("there is no add-on {name:?}"))?;
                let file = addon.file.as_ref().map(|f| format!("/{f}")).unwrap_or_default();
                Ok(format!("{}{file}", addon.mount))
            }
        }
    }

    fn service(&self, name: &str) -> Result<&Entry<'_>, String> {
        let missing = || {
            let elsewhere = self
                .roster
                .file
                .services
                .iter()
                .any(|(key, spec)| spec.services(key).iter().any(|(service, _)| *service == name));
            if elsewhere {
                format!("lab {} has no {name}", self.roster.name)
            } else {
                format!("no service is named {name:?}")
            }
        };
        self.roster.service(name).ok_or_else(missing)
    }

    fn address(&self, entry: &Entry<'_>, port: &str) -> Result<String, String> {
        Ok(format!("{}:{}", self.instance.container(entry.name), inside(entry, port)?))
    }
}

fn inside(entry: &Entry<'_>, port: &str) -> Result<u16, String> {
    let found = entry.spec.ports.get(port).map(|p| p.port);
    found.ok_or_else(|| format!("{} has no port named {port:?}", entry.name))
}

fn node(entry: &Entry<'_>) -> Result<String, String> {
    let node = entry.member.and_then(|m| m.node);
    Ok(node.ok_or_else(|| format!("{} has no node id", entry.name))?.to_string())
}

/// The services that a documented command line names by its tokens.
pub(super) fn services_in(line: &str) -> Vec<String> {
    let mut named = Vec::new();
    let _ = expand(line, |token| {
        let service = token.split([':', '#', '.']).next().unwrap_or_default();
        if !["network", "instance", "scenarios"].contains(&token) && !RESERVED.contains(&service) {
            named.push(service.to_owned());
        }
        Ok::<_, String>(String::new())
    });
    named
}

/// Replaces each `{token}` by what `value` says.
fn expand(text: &str, mut value: impl FnMut(&str) -> Result<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        let token = rest[1..].split('}').next().unwrap_or_default();
        let is_name =
            !token.is_empty() && token.chars().all(|c| c.is_ascii_alphanumeric() || "-._:#".contains(c));
        if is_name && rest[1 + token.len()..].starts_with('}') {
            out.push_str(&value(token)?);
            rest = &rest[token.len() + 2..];
        } else {
            out.push('{');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Ok(out)
}
