//! A real registry, and small images in it: pushed as any client pushes them, by plain HTTP.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use streamlab::clients::http;
use streamlab::engine::recipe_images;
use streamlab::lock::Digest;
use testcontainers::core::{ContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};

use crate::support::engine_with;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image in a registry.
pub(crate) struct Pushed {
    /// Digest of what the tag names.
    pub(crate) top: Digest,
    /// Its parts by `os/architecture`: manifest and configuration.
    pub(crate) platforms: BTreeMap<String, (Digest, Digest)>,
    /// Every document of it.
    pub(crate) documents: BTreeMap<Digest, Vec<u8>>,
}

/// A registry of its own for one test on any free port, and its `host:port`.
pub(crate) async fn registry() -> (ContainerAsync<GenericImage>, String) {
    registry_on(0).await
}

/// A registry on this port of the host.
pub(crate) async fn registry_on(port: u16) -> (ContainerAsync<GenericImage>, String) {
    let (project, engine) = engine_with(&["docker-registry"]).await;
    let images = recipe_images(&project, &engine.arch).unwrap();
    let image = images.into_iter().find(|i| i.name == "docker-registry").unwrap();
    let (name, tag) = image.reference.rsplit_once(':').unwrap();
    let image = GenericImage::new(name, tag)
        .with_exposed_port(ContainerPort::Tcp(5000))
        .with_wait_for(WaitFor::message_on_stderr("listening on"));
    let image = if port == 0 { image.into() } else { image.with_mapped_port(port, ContainerPort::Tcp(5000)) };
    let container = image.start().await.unwrap();
    let port = container.get_host_port_ipv4(5000).await.unwrap();
    (container, format!("127.0.0.1:{port}"))
}

/// An image for each of `platforms` (`os/architecture`) under one index. Another `content` is another image.
pub(crate) async fn push_index(host: &str, name: &str, content: &str, platforms: &[&str]) -> Pushed {
    let (repository, tag) = name.rsplit_once(':').unwrap();
    let mut image = Pushed { top: Digest::of(b""), platforms: BTreeMap::new(), documents: BTreeMap::new() };
    let mut manifests = Vec::new();
    for platform in platforms {
        let (os, architecture) = platform.split_once('/').unwrap();
        let (bytes, config) = push_parts(host, repository, content, platform).await;
        let digest = Digest::of(&bytes);
        push_document(host, repository, digest.as_str(), MANIFEST, &bytes).await;
        manifests.push(json!({
            "mediaType": MANIFEST, "digest": digest, "size": bytes.len(),
            "platform": { "os": os, "architecture": architecture },
        }));
        image.platforms.insert((*platform).to_owned(), (digest.clone(), config));
        image.documents.insert(digest, bytes);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    let bytes = odd_bytes(&index);
    image.top = Digest::of(&bytes);
    push_document(host, repository, tag, INDEX, &bytes).await;
    image.documents.insert(image.top.clone(), bytes);
    image
}

/// An image of one platform, without an index.
pub(crate) async fn push_single(host: &str, name: &str, platform: &str) -> Pushed {
    let (repository, tag) = name.rsplit_once(':').unwrap();
    let (bytes, config) = push_parts(host, repository, "single", platform).await;
    let top = Digest::of(&bytes);
    push_document(host, repository, tag, MANIFEST, &bytes).await;
    Pushed {
        top: top.clone(),
        platforms: BTreeMap::from([(platform.to_owned(), (top.clone(), config))]),
        documents: BTreeMap::from([(top, bytes)]),
    }
}

/// Layer and configuration of one platform; gives its manifest's bytes and the configuration's digest.
async fn push_parts(host: &str, repository: &str, content: &str, platform: &str) -> (Vec<u8>, Digest) {
    let (os, architecture) = platform.split_once('/').unwrap();
    let layer = format!("no tar, and nobody unpacks it: {content} for {platform}").into_bytes();
    let config = json!({
        "os": os, "architecture": architecture, "config": { "Cmd": [content] },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] },
    });
    let config = config.to_string().into_bytes();
    for blob in [&layer, &config] {
        push_blob(host, repository, blob).await;
    }
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": Digest::of(&config), "size": config.len() },
        "layers": [{ "mediaType": LAYER, "digest": Digest::of(&layer), "size": layer.len() }],
    });
    (odd_bytes(&manifest), Digest::of(&config))
}

/// JSON as nobody here would write it: whoever parses it and writes it again changes the bytes.
fn odd_bytes(document: &Value) -> Vec<u8> {
    format!("{}  \r\n\t", document.to_string().replacen('{', "{ \n   ", 1)).into_bytes()
}

async fn push_blob(host: &str, repository: &str, bytes: &[u8]) {
    let begin = http().post(format!("http://{host}/v2/{repository}/blobs/uploads/")).send().await.unwrap();
    let place = begin.error_for_status().unwrap().headers()["location"].to_str().unwrap().to_owned();
    let url = format!("{place}&digest={}", Digest::of(bytes));
    http().put(url).body(bytes.to_vec()).send().await.unwrap().error_for_status().unwrap();
}

async fn push_document(host: &str, repository: &str, name: &str, kind: &str, bytes: &[u8]) {
    let url = format!("http://{host}/v2/{repository}/manifests/{name}");
    let request = http().put(url).header("content-type", kind).body(bytes.to_vec());
    request.send().await.unwrap().error_for_status().unwrap();
}
