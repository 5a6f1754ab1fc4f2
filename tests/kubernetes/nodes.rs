//! A cluster whose pods run: the control plane, two nodes and a registry beside it, each in a container; kubectl on this machine.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use streamlab::engine::recipe_images;
use streamlab::probes::{Answer, eventually};
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::support::{PRIVILEGED, docker, engine_with, lab, text, well};
use crate::{EVERY, PATIENCE};

pub(crate) struct Nodes {
    cluster: Cluster,
    network: String,
    /// Beside the control plane.
    containers: Vec<String>,
    /// kubectl, and its settings.
    folder: TempDir,
    /// Where this machine and the nodes find images.
    pub(crate) registry: String,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // The nodes have volumes of the control plane.
        self.containers.push(self.cluster.container.clone());
        for container in &self.containers {
            let _ = docker(&["rm", "--force", "--volumes", container]);
        }
        let _ = docker(&["network", "rm", &self.network]);
    }
}

impl Nodes {
    pub(crate) async fn start() -> Self {
        let (project, engine) = engine_with(&["docker-registry"]).await;
        let images = recipe_images(&project, &engine.arch).unwrap();
        let registry = &images.iter().find(|image| image.name == "docker-registry").unwrap().reference;
        let network = format!("streamlab-kubernetes-{}", uuid::Uuid::new_v4().simple());
        well(docker(&["network", "create", &network]));
        let cluster = Cluster::start_with(&["--network", &network, "--publish", "127.0.0.1::6443"]).await;
        let of = cluster.container.clone();
        let name = |what: &str| format!("{of}-{what}");
        let folder = tempfile::tempdir().unwrap();
        let mut nodes = Self { network, containers: Vec::new(), folder, registry: String::new(), cluster };
        let beside = name("registry");
        nodes.containers.push(beside.clone());
        let on = ["run", "--detach", "--network", &nodes.network, "--name"];
        well(docker(&[&on[..], &[&beside, "--publish", "127.0.0.1::5000", registry]].concat()));
        nodes.registry = nodes.published(&beside, "5000/tcp");
        for number in ["1", "2"] {
            let node = name(number);
            nodes.containers.push(node.clone());
            let own = ["--volumes-from", &nodes.cluster.container, "--volume", "/var/lib/containerd"];
            let own = [&own[..], &["--volume", "/var/lib/kubelet", "--hostname", &node]].concat();
            let pulls = [nodes.registry.as_str(), &format!("http://{beside}:5000")];
            let runs = [&[nodes.cluster.image.as_str(), "start-node"], &pulls[..]].concat();
            well(docker(&[&on[..], &[&node], &PRIVILEGED, &["--cgroupns=private"], &own, &runs].concat()));
        }
        nodes.kubectl_here();
        nodes.ready().await;
        nodes
    }

    /// `127.0.0.1:PORT`.
    fn published(&self, container: &str, port: &str) -> String {
        let said = well(docker(&["port", container, port]));
        said.lines().next().unwrap().to_owned()
    }

    /// The program and the settings of the control plane, for this machine.
    fn kubectl_here(&self) {
        let from = |path: &str| format!("{}:{path}", self.cluster.container);
        let to = |name: &str| self.folder.path().join(name).display().to_string();
        well(docker(&["cp", &from("/usr/local/bin/kubernetes"), &to("kubectl")]));
        well(docker(&["cp", &from("/var/lib/kubernetes/admin.conf"), &to("settings")]));
        let settings = std::fs::read_to_string(self.settings()).unwrap();
        let within = format!("https://{}:6443", self.cluster.container);
        let here = format!("https://{}", self.published(&self.cluster.container, "6443/tcp"));
        assert!(settings.contains(&within), "{settings}");
        std::fs::write(self.settings(), settings.replace(&within, &here)).unwrap();
    }

    async fn ready(&self) {
        let ready = eventually("the nodes are ready", PATIENCE, EVERY, || async {
            let said = text(&self.kubectl(&["get", "nodes", "--no-headers"]));
            let ready = said.lines().filter(|line| line.contains(" Ready ")).count();
            Ok(if ready == 2 { Answer::Is(()) } else { Answer::NotYet(said) })
        });
        if let Err(why) = ready.await {
            let logs = self.containers.iter().map(|c| text(&docker(&["logs", "--tail", "20", c])));
            panic!("{why}\n{}", logs.collect::<String>());
        }
    }

    pub(crate) fn settings(&self) -> PathBuf {
        self.folder.path().join("settings")
    }

    /// The lab's program, which finds this kubectl and this cluster.
    pub(crate) fn lab(&self, arguments: &[&str]) -> Command {
        let mut command = lab(arguments);
        self.at(&mut command);
        command
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.folder.path().join("kubectl"));
        self.at(&mut command);
        command.args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn does(&self, arguments: &[&str]) -> String {
        well(self.kubectl(arguments))
    }

    fn at(&self, command: &mut Command) {
        let path = format!("{}:{}", self.folder.path().display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("KUBECONFIG", self.settings());
    }
}
