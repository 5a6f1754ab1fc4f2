//! Nothing unpinned: every download that the project can cause has a pin, and each way to lose one is noticed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use rstest::rstest;
use streamlab::project::Project;
use streamlab::render::downloads;

fn files() -> BTreeMap<String, String> {
    let project = Project::open(Some(&support::root().join("lab.toml")), PathBuf::new()).unwrap();
    project.render_inputs().unwrap().pins
}

#[test]
fn every_download_has_a_pin() {
    let (pinned, mistakes) = downloads(&files());
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    // Each kind of download is there: an empty list would prove nothing.
    for kind in [
        "public images",
        "Nix inputs",
        "crates",
        "Go modules",
        "Maven artifacts",
        "Python packages",
        "Debian",
    ] {
        let of_kind = pinned.iter().filter(|p| p.kind.starts_with(kind)).map(|p| p.downloads.len());
        assert!(of_kind.sum::<usize>() > 0, "{kind}");
    }
}

/// Every recipe that is built from packages is looked at: none hides in a file that is not read.
#[test]
fn every_recipe_is_read() {
    let files = files();
    let project = Project::open(Some(&support::root().join("lab.toml")), PathBuf::new()).unwrap();
    for recipe in project.file.recipes.keys() {
        assert!(files.contains_key(&format!("compose/images/{recipe}/Dockerfile")), "{recipe}");
    }
}

#[rstest]
#[case("images.lock.json", "\"index\": \"sha256:4c", "\"index\": \"sha256:", "apache/kafka:3.9.1 has no pin")]
#[case("flake.lock", "\"narHash\"", "\"hash\"", "has no pin")]
#[case("Cargo.lock", "checksum = ", "sum = ", "has no pin")]
#[case("compose/images/docker-compose/go.sum", " h1:", " ", "has no pin")]
#[case(
    "compose/images/kafka/jars.sha256",
    "org/apache/kafka/kafka-clients/3.9.1/",
    "",
    "kafka-clients-3.9.1.jar has no pin"
)]
#[case("compose/images/spark/requirements.txt", " --hash=sha256:", " # ", "pyspark==4.0.0 has no pin")]
#[case("compose/images/spark/requirements.txt", "pyspark==4.0.0", "pyspark", "pyspark has no pin")]
#[case("compose/images/base/debian-packages.amd64.lock", "bash 5.2", "bash 5.2 - ", "bash 5.2 has no pin")]
#[case("compose/images/spark/Dockerfile", "--require-hashes", "", "pip without --require-hashes")]
#[case("compose/images/kafka/Dockerfile", "sha256sum -c --strict", "true", "Maven without a jars.sha256")]
#[case("compose/images/docker-compose/Dockerfile", "-mod=readonly", "-mod=mod", "Go without a go.sum")]
#[case(
    "compose/images/base/Dockerfile",
    "&& /usr/share/streamlab/record-debian-packages",
    "&& true",
    "Debian packages that are not recorded"
)]
#[case(
    "compose/images/base/Dockerfile",
    "FROM ${DEBIAN}",
    "FROM debian:trixie",
    "FROM names an image without a digest"
)]
#[case(
    "compose/images/base/Dockerfile",
    "FROM ${DEBIAN}",
    "FROM debian",
    "FROM names an image without a digest"
)]
#[case("compose/images/streamlab/Dockerfile.from-source", "--locked", "", "cargo without --locked")]
#[case(
    "compose/images/nix/Dockerfile",
    "FROM ${BASE}",
    "FROM ${BASE}\nRUN curl -O https://example.org/x",
    "a download without a checksum"
)]
#[case("lab.yml", "", "      - uses: actions/checkout@v4", "an action without the SHA")]
fn a_lost_pin_is_noticed(#[case] file: &str, #[case] there: &str, #[case] instead: &str, #[case] said: &str) {
    let mut files = files();
    let text = files.entry(file.to_owned()).or_default();
    assert!(text.contains(there), "{file} does not hold {there:?}: the case has aged");
    *text = if there.is_empty() { instead.to_owned() } else { text.replace(there, instead) };
    let (_, mistakes) = downloads(&files);
    assert!(mistakes.iter().any(|m| m.contains(file) && m.contains(said)), "{mistakes:?}");
}
