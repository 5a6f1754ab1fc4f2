//! Typed questions to real services, one file a service. A client asks once; patience lives in `probes`.

pub mod alertmanager;
pub mod alerts;
mod avro_text;
pub mod browse;
pub mod checkpoints;
mod committed;
pub mod elasticsearch;
pub mod groups;
pub mod kafka;
pub mod kibana;
pub mod oci;
pub mod producer;
pub mod prometheus;
mod protobuf;
pub mod scenarios;
pub mod schema_registry;
pub mod shown;
pub mod spark;

use std::sync::OnceLock;
use std::time::Duration;

/// The HTTP client of all questions: each gives up after 5 s.
pub fn http() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| plain().timeout(Duration::from_secs(5)).build().unwrap_or_default())
}

/// A client for loopback, the lab's own network and a classroom's network: it uses no proxy of the user's, and needs no
/// certificates on the machine.
#[allow(clippy::disallowed_methods, reason = "TLS is named on the line before")]
pub(crate) fn plain() -> reqwest::ClientBuilder {
    install_crypto();
    reqwest::Client::builder().no_proxy().tls_certs_only([])
}

/// Names the TLS that HTTP clients use: ring's, which the engine's client brings already. Each looks for it, also one
/// that will never speak TLS, and panics where none is named.
fn install_crypto() {
    // Refused where one is named already, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
