//! Bundles against a real engine: what is exported comes back byte for byte, from a file and over HTTP; what is damaged, half or
//! foreign is refused by name, and nothing of it is used.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;

use rstest::rstest;
use streamlab::bundle::{BundleFile, Teacher};
use streamlab::clients::http;
use streamlab::engine::{Engine, recipe_images};
use support::{engine_with, root, text};
use tokio::sync::Mutex;

const DEFINITION: &str = "tests/tiny/lab.toml";

/// The own image is removed and loaded in these tests: one at a time.
static ENGINE: Mutex<()> = Mutex::const_new(());

fn lab(arguments: &[&str]) -> Output {
    support::lab(&["--file", DEFINITION]).args(arguments).output().unwrap()
}

fn scratch() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// The tiny lab in a file, made once.
static BUNDLE: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = scratch().join("tiny.bundle");
    let made = lab(&["bundle", "export", path.to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made));
    path
});

fn bundle() -> &'static Path {
    &BUNDLE
}

async fn own_image() -> (Engine, String) {
    let (project, engine) = engine_with(&["base"]).await;
    let images = recipe_images(&project, &engine.arch).unwrap();
    let own = images.into_iter().find(|i| i.name == "streamlab").unwrap();
    (engine, own.reference)
}

/// A copy of the bundle that a test may spoil.
fn copy(name: &str) -> PathBuf {
    let path = scratch().join(name);
    std::fs::copy(bundle(), &path).unwrap();
    path
}

#[tokio::test]
async fn what_is_exported_comes_back_byte_for_byte_and_goes_on_where_it_stopped() {
    let _alone = ENGINE.lock().await;
    let again = scratch().join("again.bundle");
    bundle();
    let made = lab(&["bundle", "export", again.to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made));
    assert!(std::fs::read(bundle()).unwrap() == std::fs::read(&again).unwrap(), "a second export differs");
    std::fs::remove_file(again).unwrap();

    let (engine, own) = own_image().await;
    let before = engine.image_id(&own).await.unwrap().expect("the export built it");
    engine.remove_image(&own).await.unwrap();
    assert_eq!(engine.image_id(&own).await.unwrap(), None);
    let into = tempfile::tempdir_in(scratch()).unwrap();
    let target = into.path().join("project");
    let import =
        || lab(&["bundle", "import", bundle().to_str().unwrap(), "--into", target.to_str().unwrap()]);
    let first = import();
    assert!(
        first.status.success() && text(&first).contains("1 of 2 images are there already"),
        "{}",
        text(&first)
    );
    assert_eq!(engine.image_id(&own).await.unwrap(), Some(before));
    for path in ["lab.toml", "lab", "docs/architecture.md", "jobs/merchants.csv"] {
        assert!(
            std::fs::read(root().join(path)).unwrap() == std::fs::read(target.join(path)).unwrap(),
            "{path}"
        );
    }
    // The program in it is this one, and says so: the script takes it.
    let version = Command::new(target.join("streamlab")).arg("--version").output().unwrap();
    assert_eq!(text(&version).trim(), format!("lab {}", env!("CARGO_PKG_VERSION")));

    // Again, with one file gone as after an interrupted import: only that is done.
    std::fs::remove_file(target.join("jobs/merchants.csv")).unwrap();
    let second = import();
    assert!(second.status.success() && text(&second).contains("2 of 2 images"), "{}", text(&second));
    assert!(target.join("jobs/merchants.csv").exists());
    assert!(text(&second).contains("./lab --file tests/tiny/lab.toml up --lab tiny"), "{}", text(&second));
    // Nobody's edits are lost.
    std::fs::write(target.join("lab.toml"), "mine").unwrap();
    let refused = import();
    assert!(!refused.status.success() && text(&refused).contains("--into"), "{}", text(&refused));
    assert_eq!(std::fs::read(target.join("lab.toml")).unwrap(), b"mine");
}

#[rstest]
#[case::flipped_byte("damaged at ")]
#[case::half("damaged at ")]
#[case::empty("is no bundle")]
#[case::a_text("is no bundle")]
#[case::another_architecture("for riscv64")]
fn what_is_not_whole_is_refused_by_name(#[case] said: &str) {
    let _alone = ENGINE.blocking_lock();
    let path = copy("spoiled.bundle");
    let mut file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    let case = std::thread::current().name().unwrap_or_default().to_owned();
    if case.contains("flipped") {
        file.seek(SeekFrom::Start(length / 2)).unwrap();
        let mut byte = [0];
        file.read_exact(&mut byte).unwrap();
        file.seek(SeekFrom::Start(length / 2)).unwrap();
        file.write_all(&[byte[0] ^ 0x55]).unwrap();
    } else if case.contains("half") {
        file.set_len(length / 2).unwrap();
    } else if case.contains("empty") {
        file.set_len(0).unwrap();
    } else if case.contains("text") {
        std::fs::write(&path, "Dear student,\n").unwrap();
    } else {
        // As if it were made elsewhere: the same length, so that nothing moves.
        let mut start = vec![0; 4096];
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_exact(&mut start).unwrap();
        let architecture = br#""architecture": "amd64","#;
        let Some(at) = start.windows(architecture.len()).position(|w| w == architecture) else { return };
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(br#""architecture":"riscv64""#).unwrap();
        file.write_all(b",").unwrap();
        file.seek(SeekFrom::Start((at + architecture.len()) as u64)).unwrap();
    }
    let into = tempfile::tempdir_in(scratch()).unwrap();
    let target = into.path().join("project");
    let refused = lab(&["bundle", "import", path.to_str().unwrap(), "--into", target.to_str().unwrap()]);
    assert!(!refused.status.success() && text(&refused).contains(said), "{}", text(&refused));
    assert!(!target.exists(), "something was unpacked");
    std::fs::remove_file(path).unwrap();
}

/// Nothing is replaced but an older bundle, and nothing half stays.
#[test]
fn an_export_replaces_nothing_but_a_bundle() {
    let _alone = ENGINE.blocking_lock();
    let folder = tempfile::tempdir_in(scratch()).unwrap();
    let letter = folder.path().join("letter.txt");
    std::fs::write(&letter, "dear").unwrap();
    for target in [letter.to_str().unwrap(), folder.path().to_str().unwrap(), "/dev/null"] {
        let refused = lab(&["bundle", "export", target]);
        assert!(!refused.status.success() && text(&refused).contains("is no bundle"), "{}", text(&refused));
    }
    assert_eq!(std::fs::read(&letter).unwrap(), b"dear");
    // What a killed export left is cleared away by the next one.
    let path = folder.path().join("x.bundle");
    let left = folder.path().join("x.bundle.parts");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("layer.part"), "half").unwrap();
    let made = lab(&["bundle", "export", path.to_str().unwrap()]);
    assert!(made.status.success() && !left.exists(), "{}", text(&made));
}

/// In a container whose only writable folder is 64 KB, with the engine's socket.
#[tokio::test]
async fn a_full_disk_is_said_and_the_next_import_goes_on() {
    let _alone = ENGINE.lock().await;
    bundle();
    let (engine, own) = own_image().await;
    assert!(engine.image_id(&own).await.unwrap().is_some());
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let socket = host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock");
    let output = Command::new("docker")
        .args(["run", "--rm", "--tmpfs", "/small:size=64k", "--volume"])
        .arg(format!("{socket}:/var/run/docker.sock"))
        .args(["--volume", &format!("{}:/tiny.bundle:ro", bundle().display()), &own])
        .args(["bundle", "import", "/tiny.bundle", "--into", "/small/project"])
        .output()
        .unwrap();
    let said = text(&output);
    assert!(!output.status.success() && said.contains("cannot be written"), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
}

struct Served {
    process: Child,
    url: String,
}

/// `lab bundle serve` on a free port of this machine.
fn serve() -> Served {
    let mut command =
        support::lab(&["bundle", "serve", bundle().to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let url = line.split(" on ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    Served { process, url }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_served_bundle_is_a_registry_that_other_clients_read() {
    let _alone = ENGINE.lock().await;
    let served = serve();
    let get = async |path: &str| http().get(format!("{}{path}", served.url)).send().await.unwrap();
    assert_eq!(get("/v2/").await.status(), 200);
    let page = get("/").await.text().await.unwrap();
    assert!(page.contains(&format!("./lab up --from {}", served.url)), "{page}");
    let (_, own) = own_image().await;
    let (repository, tag) = own.rsplit_once(':').unwrap();
    let answer = get(&format!("/v2/{repository}/manifests/{tag}")).await;
    let digest = answer.headers()["docker-content-digest"].to_str().unwrap().to_owned();
    let manifest = answer.bytes().await.unwrap();
    assert_eq!(streamlab::bundle::sha256(&manifest), digest);
    let by_digest = get(&format!("/v2/{repository}/manifests/{digest}")).await.bytes().await.unwrap();
    assert_eq!(manifest, by_digest);
    let parsed: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let config = parsed["config"]["digest"].as_str().unwrap();
    let blob = get(&format!("/v2/{repository}/blobs/{config}")).await.bytes().await.unwrap();
    assert_eq!(streamlab::bundle::sha256(&blob), config);
    // Parts of it, as clients ask that fetch in several pieces or go on.
    let whole = get("/bundle.json").await.bytes().await.unwrap().len();
    assert!(whole > 100);
    for (range, length) in [("bytes=0-99", 100), ("bytes=-50", 50)] {
        let part = streamlab::clients::http()
            .get(format!("{}/bundle", served.url))
            .header("range", range)
            .send()
            .await
            .unwrap();
        assert_eq!((part.status().as_u16(), part.bytes().await.unwrap().len()), (206, length), "{range}");
    }
    // Read-only, and nothing but what is in it.
    for path in
        ["/v2/other/manifests/1", "/v2/a/blobs/sha256:0", "/v2/a/blobs/../../etc/passwd", "/etc/passwd"]
    {
        assert_eq!(get(path).await.status(), 404, "{path}");
    }
    let put = http().put(format!("{}/v2/a/manifests/1", served.url)).send().await.unwrap();
    assert_eq!(put.status(), 405);
}

#[tokio::test]
async fn a_fetch_goes_on_where_it_was_cut_off_and_wrong_bytes_are_thrown_away() {
    let _alone = ENGINE.lock().await;
    let served = serve();
    let file = BundleFile::open(bundle()).unwrap();
    let (reference, image) = file.manifest.images.iter().next().unwrap();
    let repository = reference.rsplit_once(':').unwrap().0;
    let digest = &image.layers[0].digest;
    let size = file.manifest.size_of(digest).unwrap();
    let mut whole = Vec::new();
    file.blob(digest).unwrap().read_to_end(&mut whole).unwrap();
    let cache = tempfile::tempdir_in(scratch()).unwrap();
    let teacher = Teacher::new(&served.url, cache.path()).unwrap();
    assert_eq!(teacher.manifest().await.unwrap(), file.manifest);
    let path = teacher.path(digest);
    let part = path.with_extension("part");
    // What came before was right: only the rest is fetched.
    std::fs::write(&part, &whole[..whole.len() / 3]).unwrap();
    let came = std::sync::atomic::AtomicU64::new(0);
    let count = |bytes| {
        came.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    };
    teacher.fetch(repository, digest, size, &count).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == whole);
    assert_eq!(came.into_inner(), size - whole.len() as u64 / 3);
    // What came before was wrong: said, thrown away, and the next fetch is whole.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&part, vec![0; whole.len() / 3]).unwrap();
    let error = teacher.fetch(repository, digest, size, &|_| ()).await.unwrap_err();
    assert!(error.to_string().contains("other bytes"), "{error:#}");
    assert!(!path.exists() && !part.exists());
    teacher.fetch(repository, digest, size, &|_| ()).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == whole);
    // What lies in the cache under the right name is compared too.
    std::fs::write(&path, b"something else").unwrap();
    teacher.fetch(repository, digest, size, &|_| ()).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == whole);
    // A teacher who has gone home.
    drop(served);
    std::fs::remove_file(&path).unwrap();
    let error = teacher.fetch(repository, digest, size, &|_| ()).await.unwrap_err();
    assert!(format!("{error:#}").contains("what came is kept"), "{error:#}");
    let error = teacher.manifest().await.unwrap_err();
    assert!(format!("{error:#}").contains("bundle serve"), "{error:#}");
}

#[tokio::test]
async fn a_lab_comes_up_from_a_classroom_registry() {
    let _alone = ENGINE.lock().await;
    let served = serve();
    let (engine, own) = own_image().await;
    let before = engine.image_id(&own).await.unwrap().unwrap();
    engine.remove_image(&own).await.unwrap();
    let cache = tempfile::tempdir_in(scratch()).unwrap();
    let up = support::lab(&["--file", DEFINITION, "--instance", "student"])
        .args(["up", "--detach", "--from", &served.url])
        .env("XDG_CACHE_HOME", cache.path())
        .output()
        .unwrap();
    let after = engine.image_id(&own).await.unwrap();
    let down = lab(&["--instance", "student", "down", "--volumes"]);
    assert!(up.status.success(), "{}", text(&up));
    assert!(text(&up).contains("offers lab tiny") && text(&up).contains("gamma"), "{}", text(&up));
    assert_eq!(after, Some(before), "another image than the teacher's");
    assert!(down.status.success(), "{}", text(&down));
    // The cache holds nothing that the engine has.
    let left = std::fs::read_dir(cache.path().join("streamlab")).unwrap().map(|f| f.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["lock"]);

    let wrong = lab(&["--instance", "student", "up", "--detach", "--from", "http://127.0.0.1:1"]);
    assert!(!wrong.status.success() && text(&wrong).contains("does not answer"), "{}", text(&wrong));
}

#[test]
fn without_a_folder_it_is_not_unpacked_into_a_checkout() {
    let refused = lab(&["bundle", "import", "tiny.bundle"]);
    let said = text(&refused);
    assert!(!refused.status.success() && said.contains("is a checkout") && said.contains("--into"), "{said}");
}
