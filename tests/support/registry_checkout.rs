//! A checkout of its own for one test, in which the real program locks images.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};

use streamlab::lock::{LockEntry, parse};

use crate::registry_front::SECRET;
use crate::support::{lab, text};

/// A checkout that names upstream images and has nothing else.
pub(crate) struct Checkout(pub(crate) PathBuf);

impl Checkout {
    pub(crate) fn naming(references: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("streamlab-registry-{}-{number}", std::process::id()));
        std::fs::create_dir_all(root.join("compose/images")).unwrap();
        let checkout = Self(root);
        checkout.name(references);
        checkout
    }

    /// Writes lab.toml anew.
    pub(crate) fn name(&self, references: &[&str]) {
        let mut text = String::from(
            "default_lab = \"l\"\nlabs.l = { about = \"\", network = \"n\", services = [] }\nservices = {}\n",
        );
        for (number, reference) in references.iter().enumerate() {
            text += &format!(
                "[images.i{number}]\nupstream = \"{reference}\"\nversion = \"\"\nseed = \"\"\nwhy = \"\"\n"
            );
        }
        std::fs::write(self.0.join("lab.toml"), text).unwrap();
    }

    /// The program's `images lock`, with no engine and with a proxy that leads nowhere.
    async fn lock(&self, options: &[&str]) -> Output {
        let file = self.0.join("lab.toml");
        let mut command = lab(&["--file", file.to_str().unwrap(), "images", "lock"]);
        command.args(options).env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
        command.env("HTTP_PROXY", "http://127.0.0.1:9").env("http_proxy", "http://127.0.0.1:9");
        command
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy")
            .env_remove("ALL_PROXY")
            .env_remove("all_proxy");
        let output = tokio::process::Command::from(command).output().await.unwrap();
        assert!(!text(&output).contains(SECRET), "a token was printed:\n{}", text(&output));
        assert!(!text(&output).contains("panicked"), "{}", text(&output));
        output
    }

    pub(crate) async fn locks(&self, options: &[&str]) -> String {
        let output = self.lock(options).await;
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    }

    /// It fails, and nothing on disk has changed.
    pub(crate) async fn refuses(&self, options: &[&str]) -> String {
        let before = (self.written(), self.documents());
        let output = self.lock(options).await;
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert_eq!((self.written(), self.documents()), before, "{}", text(&output));
        text(&output)
    }

    pub(crate) fn write(&self, lock: &str) {
        std::fs::write(self.0.join("images.lock.json"), lock).unwrap();
    }

    /// The lock's text, where there is one.
    pub(crate) fn written(&self) -> Option<String> {
        std::fs::read_to_string(self.0.join("images.lock.json")).ok()
    }

    pub(crate) fn entry(&self, reference: &str) -> LockEntry {
        parse(&self.written().unwrap()).unwrap()[reference].clone()
    }

    /// Every file beside the documents too, so that half-written ones are seen.
    pub(crate) fn documents(&self) -> BTreeMap<String, Vec<u8>> {
        let Ok(files) = std::fs::read_dir(self.0.join("nix/images")) else { return BTreeMap::new() };
        let file = |path: PathBuf| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
        };
        files.map(|f| file(f.unwrap().path())).collect()
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
