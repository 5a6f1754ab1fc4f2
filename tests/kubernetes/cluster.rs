//! A control plane in a container, and kubectl in it.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use streamlab::engine::recipe_images;
use streamlab::probes::{Answer, eventually};
use streamlab::topology::LabFile;

use crate::support::{engine_with, root, text};
use crate::{EVERY, PATIENCE};

/// A control plane in a container.
pub(crate) struct Cluster {
    pub(crate) container: String,
    pub(crate) image: String,
    pub(crate) file: LabFile,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "--force", "--volumes", &self.container]).output();
    }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more said to the engine.
    pub(crate) async fn start_with(options: &[&str]) -> Self {
        let (project, engine) = engine_with(&["kubernetes"]).await;
        let images = recipe_images(&project, &engine.arch).unwrap();
        let image = images.into_iter().find(|image| image.name == "kubernetes").unwrap().reference;
        let container = format!("streamlab-kubernetes-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let deploy = format!("{}:/deploy:ro", root().join("deploy").display());
        let mut run = Command::new("docker");
        run.args(["run", "--detach", "--name", &container, "--hostname", &container, "--memory", "2g"]);
        run.args(["--volume", &deploy]).args(options).arg(&image);
        let started = run.output().unwrap();
        let cluster = Self { container, image, file: project.file };
        assert!(started.status.success(), "{}", text(&started));
        let answers = eventually("the API server answers", PATIENCE, EVERY, || async {
            let asked = cluster.kubectl(&["get", "serviceaccount", "default"], "");
            let said = text(&asked);
            Ok(match asked.status.success() {
                true => Answer::Is(()),
                false if said.contains("is not running") => {
                    Answer::Never(anyhow::anyhow!("{}", cluster.log()))
                }
                false => Answer::NotYet(said),
            })
        });
        answers.await.unwrap();
        cluster
    }

    /// The last that it said.
    pub(crate) fn log(&self) -> String {
        text(&Command::new("docker").args(["logs", "--tail", "20", &self.container]).output().unwrap())
    }

    pub(crate) fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new("docker");
        command.args(["exec", "--interactive", &self.container, "kubectl"]).args(arguments);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        // It may have ended already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Taken without a word of warning.
    pub(crate) fn takes(&self, arguments: &[&str], input: &str) {
        let taken = self.kubectl(&[&["apply", "--validate=strict"], arguments].concat(), input);
        assert!(taken.status.success() && taken.stderr.is_empty(), "{arguments:?}: {}", text(&taken));
    }

    pub(crate) fn get(&self, kind: &str, namespace: &str) -> Vec<Value> {
        let got = self.kubectl(&["get", kind, "--namespace", namespace, "--output", "json"], "");
        assert!(got.status.success(), "{}", text(&got));
        let mut list: Value = serde_json::from_slice(&got.stdout).unwrap();
        serde_json::from_value(list["items"].take()).unwrap()
    }

    /// Waits until there are as many pods as the objects that make them want; gives them.
    pub(crate) async fn pods(&self, namespace: &str) -> Vec<Value> {
        let what = format!("the pods of {namespace}");
        let pods = eventually(&what, PATIENCE, EVERY, || async {
            let wanted: i64 = ["statefulsets", "deployments"]
                .iter()
                .flat_map(|kind| self.get(kind, namespace))
                .map(|object| object["spec"]["replicas"].as_i64().unwrap())
                .sum();
            let wanted = usize::try_from(wanted).unwrap() + self.get("jobs", namespace).len();
            let pods = self.get("pods", namespace);
            let said = format!("{} of {wanted}", pods.len());
            Ok(if pods.len() == wanted { Answer::Is(pods) } else { Answer::NotYet(said) })
        });
        pods.await.unwrap()
    }
}
