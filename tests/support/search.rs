//! An Elasticsearch of the recipe with the lab's templates, and what a test asks of it.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use streamlab::clients::http;
use streamlab::engine::recipe_images;
use streamlab::probes::{Answer, eventually};
use streamlab::topology::Instance;
use testcontainers::core::ContainerPort;
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};

use super::service::PATIENCE;
use super::{engine_with, root};

pub(crate) const EVERY: Duration = Duration::from_millis(200);

/// The image of a recipe, built if need be.
pub(crate) async fn image(recipe: &str) -> GenericImage {
    let (project, engine) = engine_with(&[recipe]).await;
    let images = recipe_images(&project, &engine.arch).unwrap();
    let reference = images.into_iter().find(|image| image.name == recipe).unwrap().reference;
    let (name, tag) = reference.rsplit_once(':').unwrap();
    GenericImage::new(name, tag)
}

/// The settings that it has in a lab. With its own, a new index gets no place on a disk of which 90 % are in use.
async fn settings() -> BTreeMap<String, String> {
    let (project, _) = engine_with(&["elasticsearch"]).await;
    let plan = project.file.plan("logs", Instance::documented()).unwrap();
    let name = &plan.roles["search"].first().unwrap().service;
    plan.services.iter().find(|service| &service.name == name).unwrap().environment.clone()
}

/// In a network, by a name; it has every template before anything is written.
pub(crate) async fn elasticsearch(network: &str, name: &str) -> ContainerAsync<GenericImage> {
    let container = image("elasticsearch").await.with_exposed_port(ContainerPort::Tcp(9200));
    let container = container.with_network(network).with_container_name(name);
    let container =
        settings().await.into_iter().fold(container, |it, (name, value)| it.with_env_var(name, value));
    let container = container.start().await.unwrap();
    answers(&container).await;
    let url = url(&container).await;
    for template in std::fs::read_dir(root().join("monitoring/elasticsearch/templates")).unwrap() {
        let path = template.unwrap().path();
        let template: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        ask(http().put(format!("{url}/_index_template/{name}")).json(&template)).await;
    }
    container
}

/// Every document: its message and all of it. An index that has just been made does not answer yet.
pub(crate) async fn documents(
    elasticsearch: &ContainerAsync<GenericImage>,
    indices: &str,
) -> anyhow::Result<Vec<(String, Value)>> {
    let url = url(elasticsearch).await;
    asked(http().post(format!("{url}/_refresh"))).await?;
    let question = json!({ "size": 10000, "query": { "match_all": {} }, "track_total_hits": true });
    let found = asked(http().post(format!("{url}/{indices}/_search")).json(&question)).await?;
    let hits = found["hits"]["hits"].as_array().unwrap();
    assert_eq!(found["hits"]["total"]["value"], hits.len(), "one page holds them all");
    let message = |hit: &Value| hit["_source"]["message"].as_str().unwrap_or_default().to_owned();
    Ok(hits.iter().map(|hit| (message(hit), hit.clone())).collect())
}

pub(crate) async fn url(container: &ContainerAsync<GenericImage>) -> String {
    // It has another port after it was started again.
    format!("http://127.0.0.1:{}", container.get_host_port_ipv4(9200).await.unwrap())
}

pub(crate) async fn answers(elasticsearch: &ContainerAsync<GenericImage>) {
    let url = url(elasticsearch).await;
    eventually("Elasticsearch takes documents", PATIENCE, EVERY, || async {
        let health =
            http().get(format!("{url}/_cluster/health?wait_for_status=yellow&timeout=1s")).send().await?;
        Ok(if health.status().is_success() {
            Answer::Is(())
        } else {
            Answer::NotYet(health.status().to_string())
        })
    })
    .await
    .unwrap();
}

pub(crate) async fn ask(request: reqwest::RequestBuilder) -> Value {
    asked(request).await.unwrap()
}

pub(crate) async fn asked(request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
    let answer = request.send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    anyhow::ensure!(status.is_success(), "{status}: {text}");
    Ok(serde_json::from_str(&text)?)
}

/// SIGKILL: nothing is put in order before the end.
pub(crate) fn kill(container: &ContainerAsync<GenericImage>) {
    assert!(Command::new("docker").args(["kill", container.id()]).output().unwrap().status.success());
}
