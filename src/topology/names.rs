//! Names and addresses of one instance: the only place that writes a container, network or volume name.

use std::fmt;

/// The instance whose containers carry the documented names and ports.
pub const DEFAULT_INSTANCE: &str = "default";

/// One running copy of a lab on an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    name: String,
    offset: u16,
}

/// Why an instance name or port offset is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    /// The name would not be a valid part of a container name.
    #[error("instance name {0:?}: use 1 to 20 of a-z, 0-9 and -, starting with a letter")]
    Name(String),
}

impl Instance {
    /// An instance by name, its host ports shifted by `offset`.
    ///
    /// # Errors
    /// A name that is not 1 to 20 of `a-z`, `0-9`, `-`, starting with a letter.
    pub fn new(name: &str, offset: u16) -> Result<Self, InstanceError> {
        let valid = (1..=20).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if valid {
            Ok(Self { name: name.to_owned(), offset })
        } else {
            Err(InstanceError::Name(name.to_owned()))
        }
    }

    /// The instance with the documented names and ports.
    pub fn documented() -> Self {
        Self { name: DEFAULT_INSTANCE.to_owned(), offset: 0 }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// ` --instance NAME`, as commands about it end, where it is not the default one.
    pub fn option(&self) -> String {
        instance_option(&self.name)
    }

    /// How far its host ports are moved.
    pub fn offset(&self) -> u16 {
        self.offset
    }

    /// The container (and DNS) name of a service.
    pub fn container(&self, service: &str) -> String {
        if self.name == DEFAULT_INSTANCE { service.to_owned() } else { format!("{}-{service}", self.name) }
    }

    /// The network's name.
    pub fn network(&self, documented: &str) -> String {
        self.container(documented)
    }

    /// The name of a volume that belongs to one service, or to the instance where `service` is none.
    pub fn volume(&self, service: Option<&str>, volume: &str) -> String {
        match service {
            Some(service) => format!("streamlab-{}-{service}-{volume}", self.name),
            None => format!("streamlab-{}-{volume}", self.name),
        }
    }

    /// The host port that stands for a documented one; none past 65535.
    pub fn host_port(&self, documented: u16) -> Option<u16> {
        documented.checked_add(self.offset)
    }
}

/// [`Instance::option`] of a name that may be no instance's.
pub fn instance_option(name: &str) -> String {
    if name == DEFAULT_INSTANCE { String::new() } else { format!(" --instance {name}") }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
