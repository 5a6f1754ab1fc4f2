//! What is decided without a registry: whose a reference is, which manifest is taken, what is no document.

use rstest::rstest;

use super::*;

#[rstest]
#[case::hub("apache/kafka:3.9.1", "docker.io", "apache/kafka", "https")]
#[case::library("debian:trixie", "docker.io", "library/debian", "https")]
#[case::library_named("library/debian:trixie", "docker.io", "library/debian", "https")]
#[case::elsewhere("docker.elastic.co/elastic/x:1", "docker.elastic.co", "elastic/x", "https")]
#[case::loopback("127.0.0.1:5000/a/b:1", "127.0.0.1:5000", "a/b", "http")]
#[case::localhost("localhost/a:1", "localhost", "a", "http")]
#[case::localhost_with_port("localhost:5000/a:1", "localhost:5000", "a", "http")]
#[case::loopback_v6("[::1]:5000/a/b:1", "[::1]:5000", "a/b", "http")]
#[case::other_v6("[fe80::1]:5000/a:1", "[fe80::1]:5000", "a", "https")]
#[case::only_looks_like_it("127.0.0.1.example.org/a:1", "127.0.0.1.example.org", "a", "https")]
#[case::localhost_of_others("localhost.example.org:5000/a:1", "localhost.example.org:5000", "a", "https")]
fn a_reference_is_read_as_docker_reads_it(
    #[case] reference: &str,
    #[case] host: &str,
    #[case] repository: &str,
    #[case] scheme: &str,
) {
    let parsed = parse(reference).unwrap();
    assert_eq!((parsed.registry(), parsed.repository()), (host, repository));
    let plain = config(host).protocol == ClientProtocol::Http;
    assert_eq!(if plain { "http" } else { "https" }, scheme);
}

#[rstest]
#[case::no_tag("apache/kafka", "names no tag")]
#[case::no_tag_but_a_port("127.0.0.1:5000/kafka", "names no tag")]
#[case::a_digest(
    "a:1@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "names no tag"
)]
#[case::upper_case("Apache/Kafka:1", "no image reference")]
#[case::traversal("../a:1", "no image reference")]
fn what_is_no_reference_is_refused(#[case] reference: &str, #[case] expected: &str) {
    let said = format!("{:#}", parse(reference).unwrap_err());
    assert!(said.contains(expected), "{said}");
}

#[test]
fn the_manifest_for_every_machine_of_a_platform_is_taken() {
    let index = br#"{"manifests": [
        {"digest": "v3", "platform": {"os": "linux", "architecture": "amd64", "variant": "v3"}},
        {"digest": "windows", "platform": {"os": "windows", "architecture": "amd64"}},
        {"digest": "amd64", "platform": {"os": "linux", "architecture": "amd64"}},
        {"digest": "attestation", "platform": {"os": "unknown", "architecture": "unknown"}},
        {"digest": "signature"},
        {"digest": "arm64", "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}}
    ]}"#;
    let manifests = read(&Digest::of(index), index).unwrap().manifests.unwrap();
    assert_eq!(of_platform(&manifests, Platform::Amd64), Some("amd64"));
    assert_eq!(of_platform(&manifests, Platform::Arm64), Some("arm64"));
}

#[test]
fn bytes_are_hashed_here_whatever_anybody_says() {
    crate::clients::install_crypto();
    let (client, name, host) = (Client::default(), "a:1".to_owned(), "docker.io".to_owned());
    let tag = Tag { client, reference: parse("a:1").unwrap(), name, host };
    let right = Digest::of(b"right");
    assert_eq!(tag.verified(&right, b"right".to_vec()).unwrap(), b"right");
    let said = tag.verified(&right, b"wrong".to_vec()).unwrap_err().to_string();
    assert!(said.contains(&format!("asked for {right}, got {}", Digest::of(b"wrong"))), "{said}");
}

#[rstest]
#[case::no_json("<html>", "is no image document")]
#[case::schema_1(r#"{"schemaVersion": 1, "fsLayers": []}"#, "neither an index nor a manifest")]
#[case::both(r#"{"manifests": [], "config": {"digest": "x"}}"#, "neither an index nor a manifest")]
fn what_is_no_document_is_refused(#[case] text: &str, #[case] expected: &str) {
    let said = format!("{:#}", read(&Digest::of(b""), text.as_bytes()).err().unwrap());
    assert!(said.contains(expected), "{said}");
}
