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
#[case("compose/images/mail-sink/go.sum", " h1:", " ", "has no pin")]
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
#[case("compose/images/builder/maven-jars", "sha256sum -c --strict", "true", "Maven without a jars.sha256")]
#[case("compose/images/builder/go-program", "-mod=readonly", "-mod=mod", "Go without a go.sum")]
#[case("compose/images/nix/Dockerfile", "install-packages", "maven-jars", "Maven without a jars.sha256")]
#[case("compose/images/nix/Dockerfile", "install-packages", "go-program", "Go without a go.sum")]
#[case("compose/images/jmx-exporter/Dockerfile", "maven-jars", "install-packages", "not recorded")]
#[case(
    "compose/images/base/install-packages",
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
#[case::apt_in_another_way(
    "compose/images/kafka/Dockerfile",
    "USER appuser\nWORKDIR /\n",
    "USER root\nRUN apt -y \\\n  install curl\n",
    "not recorded"
)]
#[case::add(
    "compose/images/nix/Dockerfile",
    "FROM ${BASE}",
    "FROM ${BASE}\nADD https://example.org/x /x",
    "nothing can pin"
)]
#[case::clone(
    "compose/images/nix/Dockerfile",
    "FROM ${BASE}",
    "FROM ${BASE}\nRUN true && git clone https://example.org/x",
    "nothing can pin"
)]
#[case::copy(
    "compose/images/nix/Dockerfile",
    "FROM ${BASE}",
    "FROM ${BASE}\nCOPY --from=alpine:latest /x /x",
    "COPY takes from"
)]
#[case::npm("compose/images/nix/Dockerfile", "FROM ${BASE}", "FROM ${BASE}\nRUN npm  i x", "without a lock")]
#[case::pip3(
    "compose/images/nix/Dockerfile",
    "FROM ${BASE}",
    "FROM ${BASE}\nRUN python3 -m pip  install x",
    "pip without"
)]
#[case::curl_with_a_tab(
    "compose/images/nix/Dockerfile",
    "FROM ${BASE}",
    "FROM ${BASE}\nRUN curl\t-O \\\n $URL # localhost",
    "without a checksum"
)]
#[case::lower_case("compose/images/nix/Dockerfile", "FROM ${BASE}", "from alpine", "FROM names")]
#[case::a_default("compose/images/nix/Dockerfile", "FROM ${BASE}", "FROM ${X:-alpine:latest}", "FROM names")]
#[case::arg_default("compose/images/nix/Dockerfile", "ARG BASE", "ARG BASE=alpine", "ARG with a default")]
#[case::two_on_a_line(
    "compose/images/spark/Dockerfile",
    "RUN python3 -m venv",
    "RUN pip install x ; pip install --require-hashes y && python3 -m venv",
    "pip without"
)]
#[case::action_image("lab.yml", "", "      - uses: docker://alpine", "an action without the SHA")]
fn a_lost_pin_is_noticed(#[case] file: &str, #[case] there: &str, #[case] instead: &str, #[case] said: &str) {
    let mut files = files();
    let text = files.entry(file.to_owned()).or_default();
    assert!(text.contains(there), "{file} does not hold {there:?}: the case has aged");
    *text = if there.is_empty() { instead.to_owned() } else { text.replace(there, instead) };
    let (_, mistakes) = downloads(&files);
    assert!(mistakes.iter().any(|m| m.contains(file) && m.contains(said)), "{mistakes:?}");
}
