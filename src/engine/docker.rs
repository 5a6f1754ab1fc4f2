//! The connection to the engine, and what stands in its way in one line with its fix.

use std::path::Path;
use std::time::Duration;

use testcontainers::bollard::Docker;
use testcontainers::bollard::errors::Error;
use testcontainers::bollard::models::{SystemInfo, SystemVersionComponents};

use super::host::{ContextEngine, engine_of_context};
use crate::probes::{Answer, eventually};

/// Oldest engine API that the lab was run against (Docker 20.10).
const OLDEST_API: (u32, u32) = (1, 41);

/// A connected engine.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(super) docker: Docker,
    /// What it is.
    pub product: Product,
    /// Version of the engine, such as `20.10.24`.
    pub version: String,
    /// Architecture of the engine, such as `amd64`.
    pub arch: String,
}

/// The engines that speak Docker's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// Docker.
    Docker,
    /// Podman, through its Docker socket.
    Podman,
}

impl std::fmt::Display for Product {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
        })
    }
}

/// Asks about containers until the answer can be read. Podman has states more than Docker's API names, `stopping` and `stopped`, for
/// containers that are on their way to an end: as long as one is in them, the client cannot read what it says.
///
/// # Errors
/// As the question; after 30 seconds also that the answer cannot be read.
pub(super) async fn past_podmans_states<T, F>(ask: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let (within, every) = (Duration::from_secs(30), Duration::from_millis(100));
    let answer = eventually("the state of a container", within, every, || async {
        Ok(match ask().await {
            Err(error) if error.to_string().contains("unknown variant `stop") => {
                Answer::NotYet(error.to_string())
            }
            other => Answer::Is(other),
        })
    });
    match answer.await {
        Ok(found) => found,
        Err(_) => ask().await,
    }
}

/// Why there is no usable engine, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing listens on the socket.
    #[error(
        "no Docker engine answers on {0}.\n  Start one: ./lab engine start   (or set DOCKER_HOST to one that runs)"
    )]
    Missing(String),
    /// The socket is there but this user may not use it.
    #[error(
        "the Docker engine's socket {0} is not open to this user.\n  Once: sudo usermod -aG docker $USER && newgrp docker"
    )]
    Forbidden(String),
    /// Too old.
    #[error(
        "the Docker engine is too old: it speaks API {found}, the lab needs 1.41 (Docker 20.10) or newer"
    )]
    TooOld {
        /// The engine's API version.
        found: String,
    },
    /// The Docker context that holds leads nowhere.
    #[error(
        "the Docker context {name} is not usable here: {why}.\n  Choose another: docker context use default   (or set DOCKER_HOST)"
    )]
    Context {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The Docker context names another engine than the one that would be used.
    #[error(
        "the Docker context {name} is meant, and this program follows only DOCKER_HOST.\n  export DOCKER_HOST={host}"
    )]
    OtherEngine {
        /// Name of the context.
        name: String,
        /// Where its engine is.
        host: String,
    },
    /// It was there when the start of a lab began.
    #[error(
        "the Docker engine does not answer any more; what was started could not be undone.\n  Start it again (./lab engine start), then: ./lab down{option}"
    )]
    WentAway {
        /// The option that names the instance.
        option: String,
    },
    /// It answered, but not sensibly.
    #[error("the Docker engine on {host} gave no sensible answer: {why}")]
    Broken {
        /// Its address.
        host: String,
        /// What it said.
        why: String,
    },
}

impl Engine {
    /// Connects to `DOCKER_HOST` or the local socket and checks that the engine is new enough.
    ///
    /// # Errors
    /// [`EngineError`], each with its fix.
    pub async fn connect() -> Result<Self, EngineError> {
        // The program `lab` has made a variable of it; somebody else's, or a test, has not.
        if let Some(ContextEngine { name, variables }) = engine_of_context()? {
            let host = variables.into_iter().map(|(_, value)| value).next().unwrap_or_default();
            return Err(EngineError::OtherEngine { name, host });
        }
        let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
        #[cfg(unix)]
        if let Some(path) = host.strip_prefix("unix://") {
            check_socket(Path::new(path))?;
        }
        let broken =
            |why: &dyn std::fmt::Display| EngineError::Broken { host: host.clone(), why: why.to_string() };
        let docker = Docker::connect_with_defaults().map_err(|e| broken(&e))?;
        let docker = docker.negotiate_version().await.map_err(|_| EngineError::Missing(host.clone()))?;
        let version = docker.version().await.map_err(|e| broken(&e))?;
        let api = version.api_version.unwrap_or_default();
        if parse_api(&api) < Some(OLDEST_API) {
            return Err(EngineError::TooOld { found: api });
        }
        Ok(Self {
            docker,
            product: product(version.components.as_deref().unwrap_or_default()),
            version: version.version.unwrap_or_default(),
            arch: version.arch.unwrap_or_else(|| "amd64".to_owned()),
        })
    }

    /// Whether it answers now.
    pub(super) async fn answers(&self) -> bool {
        self.docker.ping().await.is_ok()
    }

    /// Ends when the engine has not answered for some seconds.
    pub(super) async fn until_gone(&self) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut missed = 0;
        while missed < 3 {
            ticks.tick().await;
            missed = if self.answers().await { 0 } else { missed + 1 };
        }
    }

    /// What the engine says of itself and its machine.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn info(&self) -> anyhow::Result<SystemInfo> {
        Ok(self.docker.info().await?)
    }
}

#[cfg(unix)]
fn check_socket(path: &Path) -> Result<(), EngineError> {
    let shown = path.display().to_string();
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Err(EngineError::Forbidden(shown)),
        Err(_) => Err(EngineError::Missing(shown)),
    }
}

/// Podman names itself among its parts; whatever else speaks this API is taken for Docker.
fn product(parts: &[SystemVersionComponents]) -> Product {
    if parts.iter().any(|part| part.name.starts_with("Podman")) { Product::Podman } else { Product::Docker }
}

fn parse_api(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
