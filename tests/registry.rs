//! `lab images lock` against a real registry (CNCF distribution), and against one that misbehaves. No engine is asked
//! by the program here; the tests start the registry with one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "support/registry_checkout.rs"]
mod registry_checkout;
#[path = "support/registry_front.rs"]
#[allow(dead_code, reason = "who may pull is the pulls' own test")]
mod registry_front;
#[path = "support/registry_images.rs"]
#[allow(dead_code, reason = "the pulls' tests have registries on ports that are known")]
mod registry_images;
mod support;

use std::collections::BTreeMap;

use axum::http::Method;
use registry_checkout::Checkout;
use registry_front::{Fault, Front};
use registry_images::{Pushed, push_index, push_single, registry};
use rstest::rstest;
use streamlab::lock::{Digest, LockEntry, Platform, PlatformEntry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const KAFKA: &str = "apache/kafka:3.9.1";
/// What an index holds besides the platforms of a lab: another system, and what build tools attest.
const PLATFORMS: [&str; 4] = ["linux/amd64", "linux/arm64", "windows/amd64", "unknown/unknown"];

/// The documents of an image that a lab can use, as files.
fn files_of(image: &Pushed) -> BTreeMap<String, Vec<u8>> {
    let manifests = image.platforms.iter().filter(|(p, _)| p.starts_with("linux/")).map(|(_, (m, _))| m);
    let file = |digest: &Digest| (format!("{}.json", digest.hex()), image.documents[digest].clone());
    manifests.chain([&image.top]).map(file).collect()
}

fn platforms_of(image: &Pushed) -> BTreeMap<Platform, PlatformEntry> {
    let of = |platform: Platform| {
        let (manifest, config) = image.platforms.get(&platform.to_string())?.clone();
        Some((platform, PlatformEntry { manifest, config }))
    };
    Platform::ALL.into_iter().filter_map(of).collect()
}

fn entry_by_hand(index: &Digest) -> String {
    format!("{{\n  \"index\": \"{index}\",\n  \"confirmed\": \"seen by hand\"\n}}")
}

#[tokio::test]
async fn a_lock_is_written_from_nothing_with_a_token_and_the_second_run_changes_nothing() {
    let (_container, behind) = registry().await;
    let image = push_index(&behind, KAFKA, "one", &PLATFORMS).await;
    let front = Front::before(&behind).await;
    let reference = format!("{}/{KAFKA}", front.host());
    let checkout = Checkout::naming(&[&reference]);

    let said = checkout.locks(&[]).await;
    assert!(said.contains(&format!("{reference} added: {}", image.top)), "{said}");
    assert!(
        said.contains("images.lock.json: 1 image(s) confirmed, with 3 document(s) in nix/images"),
        "{said}"
    );
    let expected = LockEntry {
        index: image.top.clone(),
        confirmed: format!("registry {}, by `lab images lock`", front.host()),
        platforms: platforms_of(&image),
    };
    assert_eq!(checkout.entry(&reference), expected);
    assert_eq!(checkout.documents(), files_of(&image), "byte for byte, and nothing else");

    let seen = front.seen();
    let succeeded = |path: &str| seen.iter().any(|s| s.path.ends_with(path) && s.status.is_success());
    assert!(succeeded("/manifests/3.9.1") && succeeded(&format!("/manifests/{}", image.top)), "{seen:?}");
    for request in seen.iter().filter(|s| s.path.starts_with("/v2/")) {
        assert_eq!(request.status.is_success(), request.with_token, "{request:?}");
        let by_tag = request.path.ends_with("/3.9.1");
        assert!(!by_tag || request.method == Method::HEAD, "documents are read by digest only: {request:?}");
    }

    let (lock, documents) = (checkout.written(), checkout.documents());
    let said = checkout.locks(&[]).await;
    assert!(said.contains(&format!("{reference} unchanged")), "{said}");
    assert_eq!((checkout.written(), checkout.documents()), (lock, documents));
}

#[tokio::test]
async fn a_pin_made_by_hand_is_completed_by_a_registry_that_asks_for_no_token() {
    let (_container, host) = registry().await;
    let image = push_index(&host, KAFKA, "one", &PLATFORMS).await;
    let reference = format!("{host}/{KAFKA}");
    // Named twice: asked once.
    let checkout = Checkout::naming(&[&reference, &reference]);
    checkout.write(&format!("{{\"{reference}\": {}}}", entry_by_hand(&image.top)));
    let said = checkout.locks(&[]).await;
    assert!(said.contains(&format!("{reference} completed: linux/amd64, linux/arm64")), "{said}");
    let expected = LockEntry {
        index: image.top.clone(),
        confirmed: format!("seen by hand; registry {host}, by `lab images lock`"),
        platforms: platforms_of(&image),
    };
    assert_eq!(checkout.entry(&reference), expected);

    // What was damaged on disk is mended; what is no document is left alone.
    let folder = checkout.0.join("nix/images");
    let index = folder.join(format!("{}.json", image.top.hex()));
    std::fs::write(&index, "edited").unwrap();
    std::fs::write(folder.join("README.md"), "kept").unwrap();
    std::fs::write(folder.join(format!("{}.json", "0".repeat(64))), "of no image").unwrap();
    let lock = checkout.written();
    checkout.locks(&[]).await;
    let mut files = files_of(&image);
    files.insert("README.md".to_owned(), b"kept".to_vec());
    assert_eq!((checkout.written(), checkout.documents()), (lock, files));
}

#[tokio::test]
async fn a_tag_that_moved_is_refused_until_update_accepts_it() {
    let (_container, behind) = registry().await;
    let old = push_index(&behind, KAFKA, "one", &PLATFORMS).await;
    let front = Front::before(&behind).await;
    let reference = format!("{}/{KAFKA}", front.host());
    let checkout = Checkout::naming(&[&reference]);
    checkout.locks(&[]).await;

    let new = push_index(&behind, KAFKA, "two", &PLATFORMS).await;
    let before = front.seen().len();
    let said = checkout.refuses(&[]).await;
    let moved = format!("{reference} moved: {} → {}", old.top, new.top);
    assert!(said.contains(&moved) && said.contains("./lab images lock --update"), "{said}");
    let fetched = front.seen().split_off(before).into_iter().find(|s| s.path.contains("sha256"));
    assert!(fetched.is_none(), "nothing of it is fetched: {fetched:?}");

    let said = checkout.locks(&["--update"]).await;
    assert!(said.contains(&moved), "{said}");
    assert_eq!(checkout.entry(&reference).index, new.top);
    assert_eq!(checkout.documents(), files_of(&new), "documents of the old image are gone");
}

#[tokio::test]
async fn what_lab_toml_no_longer_names_is_said_and_removed_by_update() {
    let (_container, host) = registry().await;
    let image = push_index(&host, KAFKA, "one", &PLATFORMS).await;
    let other = push_single(&host, "apache/spark:4.0.0", "linux/amd64").await;
    let (kafka, spark) = (format!("{host}/{KAFKA}"), format!("{host}/apache/spark:4.0.0"));
    let checkout = Checkout::naming(&[&kafka, &spark]);
    checkout.locks(&[]).await;
    checkout.name(&[&kafka]);

    let (lock, documents) = (checkout.written(), checkout.documents());
    let said = checkout.locks(&[]).await;
    assert!(
        said.contains(&format!("{spark} is in images.lock.json, and lab.toml no longer names it")),
        "{said}"
    );
    assert_eq!((checkout.written(), &checkout.documents()), (lock, &documents));
    assert!(documents.contains_key(&format!("{}.json", other.top.hex())));

    let said = checkout.locks(&["--update"]).await;
    assert!(said.contains(&format!("{spark} removed: lab.toml no longer names it")), "{said}");
    assert_eq!(checkout.documents(), files_of(&image));
    assert!(!checkout.written().unwrap().contains("apache/spark"));
}

#[tokio::test]
async fn a_tag_that_names_a_single_manifest_is_pinned_by_it() {
    let (_container, behind) = registry().await;
    let image = push_single(&behind, KAFKA, "linux/arm64").await;
    let front = Front::before(&behind).await;
    let reference = format!("{}/{KAFKA}", front.host());
    let checkout = Checkout::naming(&[&reference]);
    let said = checkout.locks(&[]).await;
    assert!(said.contains("1 image(s) confirmed, with 1 document(s)"), "{said}");
    let entry = checkout.entry(&reference);
    assert_eq!(entry.index, image.top);
    assert_eq!(entry.platforms, platforms_of(&image));
    assert_eq!(entry.platforms.keys().collect::<Vec<_>>(), [&Platform::Arm64]);
    assert_eq!(checkout.documents(), files_of(&image));
}

#[tokio::test]
async fn what_a_recipe_stands_on_is_pinned_too() {
    let (_container, host) = registry().await;
    let image = push_index(&host, "library/debian:trixie-slim", "one", &PLATFORMS).await;
    let reference = format!("{host}/library/debian:trixie-slim");
    let checkout = Checkout::naming(&[]);
    let text = std::fs::read_to_string(checkout.0.join("lab.toml")).unwrap();
    let recipe = format!("images = {{}}\n[recipes.base]\nfrom = []\ndebian = \"{reference}\"\n");
    std::fs::write(checkout.0.join("lab.toml"), text + &recipe).unwrap();
    for _ in 0..2 {
        checkout.locks(&["--update"]).await;
        assert_eq!(checkout.entry(&reference).index, image.top);
        assert_eq!(checkout.documents(), files_of(&image));
    }
}

#[tokio::test]
async fn an_image_for_no_platform_of_a_lab_is_refused() {
    let (_container, host) = registry().await;
    push_index(&host, "only/windows:1", "one", &["windows/amd64"]).await;
    push_single(&host, "only/s390x:1", "linux/s390x").await;
    for name in ["only/windows:1", "only/s390x:1"] {
        let said = Checkout::naming(&[&format!("{host}/{name}")]).refuses(&[]).await;
        assert!(said.contains("is for neither linux/amd64 nor linux/arm64"), "{said}");
    }
}

/// `{index}`, `{arm64}` and so on stand for what the image has.
#[rstest]
#[case::wrong_index("/manifests/{index}", Fault::Bytes("{}"), "served wrong bytes for")]
#[case::wrong_manifest(
    "/manifests/{arm64}",
    Fault::Bytes("{}"),
    "asked for {arm64}, got sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
)]
#[case::wrong_manifest_that_its_header_confirms(
    "/manifests/{arm64}",
    Fault::BytesAndHeader("{}"),
    "asked for {arm64}, got sha256:44136fa3"
)]
#[case::cut_off_in_the_index("/manifests/{index}", Fault::CutOff, "broke off before the end")]
#[case::cut_off_in_the_last_document("/manifests/{arm64}", Fault::CutOff, "asked for {arm64} of")]
#[case::no_answer("/manifests/3.9.1", Fault::Hang, "said nothing for 10s")]
#[case::no_end("/manifests/{arm64}", Fault::HangInTheMiddle, "said nothing for 10s")]
#[case::server_error(
    "/manifests/3.9.1",
    Fault::Status(500),
    "asked for the digest of {reference}, answers 500"
)]
#[case::server_error_later(
    "/manifests/{amd64}",
    Fault::Status(503),
    "asked for {amd64} of {reference}, answers 503"
)]
#[case::a_document_is_missing(
    "/manifests/{arm64}",
    Fault::Status(404),
    "does not have {arm64} of {reference}: its image is incomplete there"
)]
#[case::not_let_in("/manifests/3.9.1", Fault::Status(401), "Only public images can be pinned")]
#[case::no_token(
    "/token",
    Fault::Status(500),
    "either its token service fails, or {reference} is not public"
)]
#[case::a_token_of_no_kind("/token", Fault::Bytes("[]"), "gives none that can be read")]
#[case::a_token_that_cannot_be_sent(
    "/token",
    Fault::Bytes(r#"{"token": "a\nb"}"#),
    "a token that cannot be sent back"
)]
#[case::token_cut_off("/token", Fault::CutOff, "asked for an anonymous token, broke off")]
#[tokio::test]
async fn a_registry_that_misbehaves_changes_nothing(
    #[case] ending: &str,
    #[case] fault: Fault,
    #[case] expected: &str,
) {
    let (_container, behind) = registry().await;
    let image = push_index(&behind, KAFKA, "one", &PLATFORMS).await;
    let front = Front::before(&behind).await;
    let reference = format!("{}/{KAFKA}", front.host());
    let filled = |text: &str| {
        let (amd64, arm64) = (&image.platforms["linux/amd64"].0, &image.platforms["linux/arm64"].0);
        let text = text.replace("{index}", image.top.as_str()).replace("{reference}", &reference);
        text.replace("{amd64}", amd64.as_str()).replace("{arm64}", arm64.as_str())
    };
    front.fail(filled(ending), fault);
    let checkout = Checkout::naming(&[&reference]);
    checkout.write(&format!("{{\"{reference}\": {}}}", entry_by_hand(&image.top)));
    let said = checkout.refuses(&[]).await;
    assert!(said.contains(&filled(expected)), "{said}");
    assert!(said.contains("Nothing was written: images.lock.json is as it was"), "{said}");
    assert!(said.contains(front.host()), "{said}");
    assert!(said.lines().count() <= 4, "{said}");
    assert!(checkout.documents().is_empty());
}

#[tokio::test]
async fn an_unknown_tag_is_named_and_the_others_are_not_written_either() {
    let (_container, host) = registry().await;
    push_index(&host, KAFKA, "one", &PLATFORMS).await;
    for unknown in ["apache/kafka:9.9.9", "nobody/nothing:1"] {
        let unknown = format!("{host}/{unknown}");
        let checkout = Checkout::naming(&[&format!("{host}/{KAFKA}"), &unknown]);
        let said = checkout.refuses(&[]).await;
        assert!(said.contains(&format!("registry {host} does not have the digest of {unknown}: is the name and tag in lab.toml right?")), "{said}");
        assert_eq!(checkout.written(), None);
    }
}

#[tokio::test]
async fn a_registry_that_is_down_is_named_and_offline_is_fine() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let checkout = Checkout::naming(&[&format!("{host}/{KAFKA}")]);
    let said = checkout.refuses(&[]).await;
    assert!(said.contains(&format!("registry {host} cannot be reached")), "{said}");
    assert!(said.contains("Offline is fine") && said.contains("refused"), "{said}");
}

/// 127.0.0.2 is no name that plain HTTP is spoken to; other systems than Linux do not have it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_registry_elsewhere_is_spoken_to_by_tls_only() {
    let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let first_byte = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let first = stream.read_u8().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        first
    });
    let said = Checkout::naming(&[&format!("{host}/{KAFKA}")]).refuses(&[]).await;
    assert!(said.contains(&format!("registry {host} cannot be reached")), "{said}");
    let handshake = 0x16;
    assert_eq!(first_byte.await.unwrap(), handshake);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_leaves_the_lock_as_it_was() {
    let (_container, host) = registry().await;
    let image = push_index(&host, KAFKA, "one", &PLATFORMS).await;
    let reference = format!("{host}/{KAFKA}");
    let checkout = Checkout::naming(&[&reference]);
    checkout.write(&format!("{{\"{reference}\": {}}}", entry_by_hand(&image.top)));
    std::fs::write(checkout.0.join("nix"), "a file in the way").unwrap();
    let said = checkout.refuses(&[]).await;
    assert!(said.contains("nix/images cannot be made"), "{said}");
}

#[rstest]
#[case::no_json("not json", "expected ident at line 1 column 2")]
#[case::conflict_of_a_merge("{\n<<<<<<< HEAD\n}", "key must be a string at line 2")]
#[case::short_digest(
    r#"{"a/b:1": {"index": "sha256:12", "confirmed": "x"}}"#,
    r#""a/b:1": "sha256:12" is no digest"#
)]
#[case::unknown_key(r#"{"a/b:1": {"indx": "x"}}"#, r#""a/b:1": unknown field `indx`"#)]
#[case::nothing_confirmed(
    r#"{"a/b:1": {"index": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}}"#,
    r#""a/b:1": missing field `confirmed`"#
)]
#[tokio::test]
async fn a_malformed_lock_is_refused_before_anything_is_asked(#[case] lock: &str, #[case] expected: &str) {
    // Nobody listens there: whoever asked would say so.
    let checkout = Checkout::naming(&["127.0.0.1:1/apache/kafka:3.9.1"]);
    checkout.write(lock);
    let said = checkout.refuses(&["--update"]).await;
    assert!(said.contains("images.lock.json is malformed") && said.contains(expected), "{said}");
    assert!(said.contains("Correct it there, or remove the entry and run ./lab images lock"), "{said}");
    assert!(!said.contains("cannot be reached"), "{said}");
}

#[tokio::test]
async fn a_reference_without_a_tag_cannot_be_pinned() {
    let said = Checkout::naming(&["127.0.0.1:1/apache/kafka"]).refuses(&[]).await;
    assert!(said.contains("\"127.0.0.1:1/apache/kafka\" in lab.toml names no tag"), "{said}");
}
