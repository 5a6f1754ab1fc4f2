//! The image of the schema registry by itself: it answers as Confluent's does, also where what it stands on does not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use rstest::rstest;
use schema_registry_converter::async_impl::avro::AvroEncoder;
use schema_registry_converter::schema_registry_common::SubjectNameStrategy;
use serde_json::{Value, json};
use streamlab::clients::http;
use streamlab::clients::schema_registry::{self, Registered, SchemaRegistry};
use streamlab::engine::recipe_images;
use streamlab::probes::{Answer, eventually};
use support::service::PATIENCE;
use support::{engine_with, text};
use testcontainers::core::{ContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage};

async fn image() -> GenericImage {
    let (project, engine) = engine_with(&["schema-registry"]).await;
    let images = recipe_images(&project, &engine.arch).unwrap();
    let image = images.into_iter().find(|i| i.name == "schema-registry").unwrap();
    let (name, tag) = image.reference.rsplit_once(':').unwrap();
    GenericImage::new(name, tag).with_exposed_port(ContainerPort::Tcp(8081))
}

async fn registry() -> (ContainerAsync<GenericImage>, SchemaRegistry) {
    let ready = WaitFor::message_on_stdout("ready on port 8081");
    let container = image().await.with_wait_for(ready).start().await.unwrap();
    let port = container.get_host_port_ipv4(8081).await.unwrap();
    (container, SchemaRegistry::new(format!("http://127.0.0.1:{port}")))
}

fn docker(arguments: &[&str]) {
    let output = std::process::Command::new("docker").args(arguments).output().unwrap();
    println!("docker {arguments:?}: {}", text(&output));
}

/// Killed when a tenth of an empty database's bytes are there: what it finds at its next start must be a whole one.
#[tokio::test]
async fn a_registry_that_is_killed_in_its_first_moments_starts_again() {
    let container = image().await.start().await.unwrap();
    let id = container.id();
    // Inside, since the moment is a short one. -1 is everything but tini, which ends with what it started.
    let script = "until [ \"$(stat -c %s /var/lib/schema-registry/registry.mv.db 2>/dev/null || echo 0)\" -ge 60000 ]; do :; done; kill -9 -1";
    docker(&["exec", id, "timeout", "60", "sh", "-c", script]);
    let ended = || async {
        let running = container.is_running().await?;
        Ok(if running { Answer::NotYet("it runs".to_owned()) } else { Answer::Is(()) })
    };
    eventually("it was killed", PATIENCE, Duration::from_millis(100), ended).await.unwrap();
    docker(&["start", id]);
    let port = container.get_host_port_ipv4(8081).await.unwrap();
    let registry = SchemaRegistry::new(format!("http://127.0.0.1:{port}"));
    let subjects = || async { Ok(Answer::Is(registry.subjects().await?)) };
    let found = eventually("it answers", PATIENCE, Duration::from_millis(200), subjects).await.unwrap();
    assert!(found.is_empty());
}

const ONE: &str = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"string"}]}"#;

#[tokio::test]
async fn the_registry_answers_confluents_api_at_the_root() {
    let (_container, registry) = registry().await;
    assert!(registry.subjects().await.unwrap().is_empty());
    registry.set_compatibility("BACKWARD").await.unwrap();
    let Registered::Id(id) = registry.register("a-value", ONE).await.unwrap() else { panic!("refused") };
    assert_eq!(
        registry.register("a-value", ONE).await.unwrap(),
        Registered::Id(id),
        "the same schema, the same id"
    );
    assert_eq!(registry.versions("a-value").await.unwrap(), [1]);
    let schema: serde_json::Value = serde_json::from_str(&registry.schema(id).await.unwrap()).unwrap();
    assert_eq!(schema, serde_json::from_str::<serde_json::Value>(ONE).unwrap());
    // The global level holds for a subject without one of its own.
    let changed = ONE.replace("\"string\"", "\"long\"");
    let Registered::Incompatible(body) = registry.register("a-value", &changed).await.unwrap() else {
        panic!("accepted")
    };
    assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap()["error_code"], 409);
    registry.set_subject_compatibility("a-value", "NONE").await.unwrap();
    assert_eq!(registry.subject_compatibility("a-value").await.unwrap(), "NONE");
    assert!(
        matches!(registry.register("a-value", &changed).await.unwrap(), Registered::Id(other) if other != id)
    );
}

#[tokio::test]
async fn an_encoder_asks_the_registry_through_our_settings() {
    let (_container, registry) = registry().await;
    let Registered::Id(id) = registry.register("a-value", ONE).await.unwrap() else { panic!("refused") };
    let encoder = AvroEncoder::new(schema_registry::settings(registry.url()).unwrap());
    let strategy = SubjectNameStrategy::TopicNameStrategy("a".to_owned(), false);
    let value = vec![("id", apache_avro::types::Value::String("1".to_owned()))];
    let bytes = encoder.encode(value, strategy).await.unwrap();
    assert_eq!(bytes[..5], [&[0][..], &id.to_be_bytes()].concat());
}

#[rstest]
#[case::not_avro("nonsense")]
#[case::empty("")]
#[case::no_fields(r#"{"type":"record","name":"R"}"#)]
#[tokio::test]
async fn the_registry_refuses_what_is_no_schema(#[case] schema: &str) {
    let (_container, registry) = registry().await;
    let error = registry.register("bad-value", schema).await.unwrap_err().to_string();
    assert!(error.contains("422"), "{error}");
    assert!(registry.subjects().await.unwrap().is_empty());
}

/// Status and body of a question with a JSON body; of a GET without one.
async fn ask(registry: &SchemaRegistry, path: &str, body: Option<Value>) -> (u16, Value) {
    let url = format!("{}{path}", registry.url());
    let request = match body {
        Some(body) => http().post(url).json(&body),
        None => http().get(url),
    };
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn avro(schema: &str) -> Option<Value> {
    Some(json!({ "schema": schema }))
}

const ORDER: &str = r#"{"name":"Order","namespace":"shop","type":"record","fields":[{"type":"string","name":"id"},{"default":null,"name":"note","type":["null","string"]},{"name":"kind","type":{"symbols":["A","B"],"name":"Kind","type":"enum"}}]}"#;

const SPELLINGS: [&str; 4] = [
    r#"{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"id","type":"string"},{"name":"note","type":["null","string"],"default":null},{"name":"kind","type":{"type":"enum","name":"Kind","symbols":["A","B"]}}]}"#,
    r#"{"type":"record","name":"shop.Order","fields":[{"name":"id","type":"string"},{"name":"note","type":["null","string"],"default":null},{"name":"kind","type":{"type":"enum","name":"shop.Kind","symbols":["A","B"]}}]}"#,
    "{\n \"type\": \"record\",\n \"name\": \"Order\",\n \"namespace\": \"shop\",\n \"fields\": [ {\"name\":\"id\",\t\"type\":\"string\"}, {\"name\":\"note\",\"type\":[\"null\",\"string\"],\"default\":null}, {\"name\":\"kind\",\"type\":{\"type\":\"enum\",\"name\":\"Kind\",\"symbols\":[\"A\",\"B\"]}} ]\n}",
    r#"{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"id","type":{"type":"string"}},{"name":"note","type":[{"type":"null"},"string"],"default":null},{"name":"kind","type":{"type":"enum","name":"Kind","symbols":["A","B"]}}]}"#,
];

#[tokio::test]
async fn a_schema_has_one_id_however_it_is_spelled() {
    let (_container, registry) = registry().await;
    let Registered::Id(id) = registry.register("orders-value", ORDER).await.unwrap() else {
        panic!("refused")
    };
    for spelling in SPELLINGS {
        let (status, found) = ask(&registry, "/subjects/orders-value", avro(spelling)).await;
        assert_eq!((status, &found["id"]), (200, &json!(id)), "{found}");
        assert_eq!(registry.register("orders-value", spelling).await.unwrap(), Registered::Id(id));
        assert_eq!(registry.register("others-value", spelling).await.unwrap(), Registered::Id(id));
        assert_eq!(registry.versions("orders-value").await.unwrap(), [1]);
    }
    // What means something else is another schema.
    let other = ORDER.replace("\"id\"", "\"ident\"");
    registry.set_subject_compatibility("orders-value", "NONE").await.unwrap();
    assert!(matches!(registry.register("orders-value", &other).await.unwrap(), Registered::Id(n) if n != id));
}

fn person(fields: &str) -> String {
    format!(
        r#"{{"type":"record","name":"Person","namespace":"shop","fields":[{{"name":"home","type":"shop.Address"}}{fields}]}}"#
    )
}

const OPTIONAL: &str = r#",{"name":"nick","type":["null","string"],"default":null}"#;
const REQUIRED: &str = r#",{"name":"age","type":"int"}"#;

/// A city, an address in it, and a person who lives there: references two deep.
async fn people() -> (ContainerAsync<GenericImage>, SchemaRegistry) {
    let (container, registry) = registry().await;
    let city =
        r#"{"type":"record","name":"City","namespace":"shop","fields":[{"name":"name","type":"string"}]}"#;
    let address = r#"{"type":"record","name":"Address","namespace":"shop","fields":[{"name":"city","type":"shop.City"}]}"#;
    let refer = |name: &str, subject: &str| json!([{ "name": name, "subject": subject, "version": 1 }]);
    for (subject, schema, references) in [
        ("city", city.to_owned(), json!([])),
        ("address", address.to_owned(), refer("shop.City", "city")),
        ("person-value", person(""), refer("shop.Address", "address")),
    ] {
        let body = json!({ "schema": schema, "references": references });
        let (status, said) = ask(&registry, &format!("/subjects/{subject}/versions"), Some(body)).await;
        assert_eq!(status, 200, "{subject}: {said}");
    }
    (container, registry)
}

fn living(fields: &str) -> Option<Value> {
    let references = json!([{ "name": "shop.Address", "subject": "address", "version": 1 }]);
    Some(json!({ "schema": person(fields), "references": references }))
}

#[tokio::test]
async fn compatibility_with_references_is_what_registration_says() {
    let (_container, registry) = people().await;
    let levels = [
        ("BACKWARD", true, false),
        ("FORWARD", true, true),
        ("FULL", true, false),
        ("BACKWARD_TRANSITIVE", true, false),
        ("NONE", true, true),
    ];
    for (level, optional, required) in levels {
        let subject = format!("{}-value", level.to_lowercase());
        let registered = format!("/subjects/{subject}/versions");
        assert_eq!(ask(&registry, &registered, living("")).await.0, 200);
        registry.set_subject_compatibility(&subject, level).await.unwrap();
        for (fields, fits) in [(OPTIONAL, optional), (REQUIRED, required)] {
            for version in ["/latest", "/1", ""] {
                let path = format!("/compatibility/subjects/{subject}/versions{version}?verbose=true");
                let (status, said) = ask(&registry, &path, living(fields)).await;
                assert_eq!((status, &said["is_compatible"]), (200, &json!(fits)), "{path}: {said}");
            }
        }
        let (status, said) = ask(&registry, &registered, living(REQUIRED)).await;
        assert_eq!(status, if required { 200 } else { 409 }, "{level}: {said}");
    }
}

#[tokio::test]
async fn compatibility_with_what_is_not_there_is_said() {
    let (_container, registry) = people().await;
    let (status, said) =
        ask(&registry, "/compatibility/subjects/person-value/versions/9", living(OPTIONAL)).await;
    assert_eq!((status, &said["error_code"]), (404, &json!(40402)), "{said}");
    let nowhere = json!({ "schema": person(""), "references": [{ "name": "shop.Address", "subject": "none", "version": 1 }] });
    let (status, _) =
        ask(&registry, "/compatibility/subjects/person-value/versions/latest", Some(nowhere)).await;
    assert_eq!(status, 422);
    let (status, said) = ask(&registry, "/compatibility/subjects/new-value/versions", living(OPTIONAL)).await;
    assert_eq!((status, &said["is_compatible"]), (200, &json!(true)), "{said}");
}

const JSON_SCHEMAS: [&str; 8] = [
    r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object"}"#,
    r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","properties":{"a":{"type":"integer"}}}"#,
    r#"{"type":"object","properties":{"a":{"type":"number"}}}"#,
    r#"{"type":"object"}"#,
    "{}",
    r#"{"type":"string"}"#,
    r#"{"type":"array","items":{"type":"string"}}"#,
    r#"{"oneOf":[{"type":"string"},{"type":"null"}]}"#,
];

#[tokio::test]
async fn a_json_schema_is_believed_to_be_one_and_comes_back_as_it_was() {
    let (_container, registry) = registry().await;
    for (number, schema) in JSON_SCHEMAS.into_iter().enumerate() {
        let subject = format!("j{number}-value");
        let body = || Some(json!({ "schemaType": "JSON", "schema": schema }));
        let (status, said) = ask(&registry, &format!("/subjects/{subject}/versions"), body()).await;
        assert_eq!(status, 200, "{said}");
        let id = said["id"].as_u64().unwrap();
        for path in [format!("/schemas/ids/{id}"), format!("/subjects/{subject}/versions/latest")] {
            let (_, found) = ask(&registry, &path, None).await;
            assert_eq!((&found["schemaType"], &found["schema"]), (&json!("JSON"), &json!(schema)), "{path}");
        }
        for path in [format!("/schemas/ids/{id}/schema"), format!("/subjects/{subject}/versions/1/schema")] {
            let (_, found) = ask(&registry, &path, None).await;
            assert_eq!(found, serde_json::from_str::<Value>(schema).unwrap(), "{path}");
        }
        let (status, found) = ask(&registry, &format!("/subjects/{subject}"), body()).await;
        assert_eq!((status, &found["id"], &found["schema"]), (200, &json!(id), &json!(schema)), "{found}");
        let (_, again) = ask(&registry, &format!("/subjects/{subject}/versions"), body()).await;
        assert_eq!(again["id"], json!(id));
        let (status, fits) =
            ask(&registry, &format!("/compatibility/subjects/{subject}/versions/latest"), body()).await;
        assert_eq!((status, &fits["is_compatible"]), (200, &json!(true)), "{fits}");
    }
}

/// Without a type Avro is meant.
#[tokio::test]
async fn a_json_schema_without_its_type_is_refused() {
    let (_container, registry) = registry().await;
    let body = avro(r#"{"type":"object","properties":{"a":{"type":"number"}}}"#);
    let (status, said) = ask(&registry, "/subjects/j-value/versions", body).await;
    assert_eq!((status, &said["error_code"]), (422, &json!(42201)), "{said}");
}
