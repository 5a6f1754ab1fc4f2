//! Questions to an image registry (the OCI distribution protocol): which image a tag names, and that image's documents,
//! byte for byte. Nothing is believed that was not hashed here. Layers are the engine's to pull.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use serde::Deserialize;

use crate::lock::{Digest, Platform, PlatformEntry};

const CONNECT: Duration = Duration::from_secs(5);
/// Without a byte from the registry.
const SILENCE: Duration = Duration::from_secs(10);
/// For one question: a registry that sends a byte now and then must come to an end too.
const WHOLE: Duration = Duration::from_secs(60);

const DOCUMENT_TYPES: [&str; 4] = [
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
];

/// One tag of one repository in a registry, with the anonymous token that reading it takes.
pub struct Tag {
    client: Client,
    reference: Reference,
    name: String,
    host: String,
}

/// An image as its registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryImage {
    /// Those of the pinned platforms that it has.
    pub platforms: BTreeMap<Platform, PlatformEntry>,
    /// Its index and its platforms' manifests, in the bytes that their digests are of.
    pub documents: BTreeMap<Digest, Vec<u8>>,
}

/// What is read of an index (`manifests`) or of a manifest (`config`).
#[derive(Deserialize)]
struct Document {
    manifests: Option<Vec<Described>>,
    config: Option<Described>,
}

#[derive(Deserialize)]
struct Described {
    digest: String,
    platform: Option<System>,
}

/// What an index says of a manifest, and an image configuration of itself.
#[derive(Deserialize)]
struct System {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Docker Hub, as [`registry_of`] calls it.
pub const DOCKER_HUB: &str = "docker.io";

/// The registry that has an image `name:tag`, by host and port.
///
/// # Errors
/// It is no `name:tag`.
pub fn registry_of(reference: &str) -> Result<String> {
    Ok(parse(reference)?.registry().to_owned())
}

impl Tag {
    /// The tag that `reference` names, as Docker reads it: without a host it is Docker Hub's.
    ///
    /// # Errors
    /// It is no `name:tag`, or its registry does not answer or does not let it be read.
    pub async fn open(reference: &str) -> Result<Self> {
        let parsed = parse(reference)?;
        let host = parsed.registry().to_owned();
        super::install_crypto();
        let client = Client::try_from(config(&host)).with_context(|| {
            format!("no HTTPS client for registry {host} (are the system's ca-certificates installed?)")
        })?;
        let tag = Self { client, reference: parsed, name: reference.to_owned(), host };
        let auth = tag.client.auth(&tag.reference, &RegistryAuth::Anonymous, RegistryOperation::Pull);
        let token = tag.ask("an anonymous token", auth).await?;
        // The crate takes any text for a header, and panics where it is none.
        if token.is_some_and(|t| t.is_empty() || !t.bytes().all(|b| b.is_ascii_graphic())) {
            bail!("registry {} gave a token that cannot be sent back", tag.host);
        }
        Ok(tag)
    }

    /// The registry that is asked.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The digest that the registry says the tag names. It is proven only by [`Tag::image`].
    ///
    /// # Errors
    /// The registry does not answer, or has no such tag.
    pub async fn digest(&self) -> Result<Digest> {
        let what = format!("the digest of {}", self.name);
        let answer = self.client.fetch_manifest_digest(&self.reference, &RegistryAuth::Anonymous);
        let said = self.ask(&what, answer).await?;
        Digest::try_from(said).with_context(|| format!("registry {}, asked for {what}", self.host))
    }

    /// The image with this digest: its index and the manifests of the pinned platforms.
    ///
    /// # Errors
    /// The registry does not answer, serves other bytes, or has neither platform.
    pub async fn image(&self, index: &Digest) -> Result<RegistryImage> {
        let bytes = self.document(index).await?;
        let document = read(index, &bytes)?;
        let mut image = RegistryImage { platforms: BTreeMap::new(), documents: BTreeMap::new() };
        if let Some(config) = document.config {
            let entry = PlatformEntry { manifest: index.clone(), config: Digest::try_from(config.digest)? };
            let configuration = self.blob(&entry.config).await?;
            let system: System = serde_json::from_slice(&configuration)
                .with_context(|| format!("{} is no image configuration", entry.config))?;
            image.platforms.extend(system.platform().map(|platform| (platform, entry)));
        }
        for platform in Platform::ALL {
            let Some(manifest) = document.manifests.as_deref().and_then(|all| of_platform(all, platform))
            else {
                continue;
            };
            let manifest = Digest::try_from(manifest.to_owned())?;
            let bytes = self.document(&manifest).await?;
            let config = read(&manifest, &bytes)?.config;
            let config = config.with_context(|| format!("{manifest} of {} is no manifest", self.name))?;
            let config = Digest::try_from(config.digest)?;
            image.documents.insert(manifest.clone(), bytes);
            image.platforms.insert(platform, PlatformEntry { manifest, config });
        }
        if image.platforms.is_empty() {
            bail!("{} at registry {} is for neither linux/amd64 nor linux/arm64", self.name, self.host);
        }
        image.documents.insert(index.clone(), bytes);
        Ok(image)
    }

    async fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let what = format!("{digest} of {}", self.name);
        let reference = self.reference.clone_with_digest(digest.to_string());
        let answer = self.client.pull_manifest_raw(&reference, &RegistryAuth::Anonymous, &DOCUMENT_TYPES);
        let (bytes, _) = self.ask(&what, answer).await?;
        self.verified(digest, bytes.to_vec())
    }

    async fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let what = format!("{digest} of {}", self.name);
        let mut bytes = Vec::new();
        self.ask(&what, self.client.pull_blob(&self.reference, digest.as_str(), &mut bytes)).await?;
        self.verified(digest, bytes)
    }

    fn verified(&self, digest: &Digest, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let got = Digest::of(&bytes);
        if got != *digest {
            return Err(self.wrong_bytes(digest.as_str(), got.as_str()));
        }
        Ok(bytes)
    }

    /// One question, with an end and with an error for people.
    async fn ask<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, OciDistributionError>>,
    ) -> Result<T> {
        match tokio::time::timeout(WHOLE, answer).await {
            Ok(answer) => answer.map_err(|e| self.explained(what, e)),
            Err(_) => bail!("registry {}, asked for {what}, did not finish in {WHOLE:?}", self.host),
        }
    }

    /// What registries say is left out where it could be a token, an address with a signature, or anything at all.
    fn explained(&self, what: &str, error: OciDistributionError) -> Error {
        use OciDistributionError as E;
        let host = &self.host;
        match error {
            E::RequestError(error) => broken(host, what, &error),
            E::DigestError(DigestError::VerificationError { expected, actual }) => {
                self.wrong_bytes(&expected, &actual)
            }
            E::UnauthorizedError { .. } => anyhow!(
                "registry {host} gives {what} to nobody without an account: is the name in lab.toml right? Only public images can be pinned"
            ),
            E::AuthenticationFailure(_) => anyhow!(
                "registry {host} gives {what} to nobody: either its token service fails, or {} is not public",
                self.name
            ),
            E::ServerError { code: 404, .. } => self.unknown(what),
            E::ServerError { code, .. } => {
                anyhow!("registry {host}, asked for {what}, answers {code}")
            }
            E::RegistryError { envelope, .. } => match envelope.errors.first().map(|e| &e.code) {
                Some(
                    OciErrorCode::ManifestUnknown
                    | OciErrorCode::NameUnknown
                    | OciErrorCode::BlobUnknown
                    | OciErrorCode::NotFound,
                ) => self.unknown(what),
                Some(OciErrorCode::Toomanyrequests) => {
                    anyhow!("registry {host} was asked too often from here: run it again later")
                }
                code => anyhow!("registry {host}, asked for {what}, refuses: {code:?}"),
            },
            E::RegistryTokenDecodeError(_) => {
                anyhow!("registry {host}, asked for {what}, gives none that can be read")
            }
            other => anyhow!("registry {host}, asked for {what}: {other}"),
        }
    }

    fn unknown(&self, what: &str) -> Error {
        let hint = if what.starts_with("sha256:") {
            "its image is incomplete there"
        } else {
            "is the name and tag in lab.toml right?"
        };
        anyhow!("registry {} does not have {what}: {hint}", self.host)
    }

    fn wrong_bytes(&self, expected: &str, actual: &str) -> Error {
        let (host, name) = (&self.host, &self.name);
        anyhow!("registry {host} served wrong bytes for {name}: asked for {expected}, got {actual}")
    }
}

impl System {
    fn platform(&self) -> Option<Platform> {
        Platform::ALL.into_iter().find(|p| self.os == "linux" && self.architecture == p.architecture())
    }

    /// As every machine of the architecture runs it: v8 is all of arm64, v2 and v3 are not all of amd64.
    fn is_baseline(&self) -> bool {
        matches!(self.variant.as_deref(), None | Some("" | "v8"))
    }
}

/// A connection that fell through: which way, and the cause without its address, which may carry a signature.
fn broken(host: &str, what: &str, error: &reqwest::Error) -> Error {
    let mut cause = error.source();
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    let cause = cause.map(|c| format!(" ({c})")).unwrap_or_default();
    if error.is_connect() {
        anyhow!(
            "registry {host} cannot be reached{cause}.\n  Offline is fine: ./lab images lock is only needed to change or complete pins, and what is pinned stays pinned"
        )
    } else if error.is_timeout() {
        anyhow!("registry {host}, asked for {what}, said nothing for {SILENCE:?}")
    } else {
        anyhow!("registry {host}, asked for {what}, broke off before the end{cause}")
    }
}

fn parse(reference: &str) -> Result<Reference> {
    let tagged =
        reference.rsplit('/').next().is_some_and(|last| last.contains(':')) && !reference.contains('@');
    if !tagged {
        bail!("{reference:?} in lab.toml names no tag: an upstream image is name:tag");
    }
    // The crate's pattern has no IPv6 hosts: this one is put in after it.
    let (host, rest) = match reference.split_once('/') {
        Some((host, rest)) if host.starts_with('[') => (Some(host), format!("localhost/{rest}")),
        _ => (None, reference.to_owned()),
    };
    let parsed = Reference::try_from(rest)
        .with_context(|| format!("{reference:?} in lab.toml is no image reference"))?;
    Ok(match (host, parsed.tag()) {
        (Some(host), Some(tag)) => {
            Reference::with_tag(host.to_owned(), parsed.repository().to_owned(), tag.to_owned())
        }
        _ => parsed,
    })
}

fn is_loopback(host: &str) -> bool {
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|b| b.is_ascii_digit()) => bare,
        _ => host,
    };
    matches!(bare, "127.0.0.1" | "localhost" | "[::1]")
}

fn config(host: &str) -> ClientConfig {
    let mut config = ClientConfig {
        connect_timeout: Some(CONNECT),
        read_timeout: Some(SILENCE),
        user_agent: concat!("streamlab/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    if is_loopback(host) {
        config.protocol = ClientProtocol::Http;
        // A proxy of the user's cannot reach this machine's loopback, and the crate can only be told so by naming one.
        config.http_proxy = Some("http://127.0.0.1".to_owned());
        config.no_proxy = Some("127.0.0.1,localhost,::1".to_owned());
    }
    config
}

fn read(digest: &Digest, bytes: &[u8]) -> Result<Document> {
    let document: Document =
        serde_json::from_slice(bytes).with_context(|| format!("{digest} is no image document"))?;
    if document.manifests.is_some() == document.config.is_some() {
        bail!("{digest} is neither an index nor a manifest of an image");
    }
    Ok(document)
}

fn of_platform(manifests: &[Described], platform: Platform) -> Option<&str> {
    let fits = |d: &&Described| d.platform.as_ref().and_then(System::platform) == Some(platform);
    let special = |d: &&Described| !d.platform.as_ref().is_some_and(System::is_baseline);
    manifests.iter().filter(fits).min_by_key(special).map(|d| d.digest.as_str())
}

#[cfg(test)]
mod tests;
