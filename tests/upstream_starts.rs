//! What of the public images can be tried without them: the local images, started in the way in which the public ones start.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::Duration;

use streamlab::engine::recipe_images;
use streamlab::probes::{Answer, eventually};
use streamlab::topology::{Instance, Source};
use support::{engine_with, root, text};

/// Upstream's node: one JVM makes the settings out of the environment, a second one is the node.
const TWO_STEPS: &str = "kafka-run-class.sh kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka/docker \
     --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config \
     && exec kafka-server-start.sh /opt/kafka/config/server.properties";

/// A container, and what belongs to it.
struct Running {
    container: String,
    volume: Option<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = docker(&["rm", "--force", "--volumes", &self.container]);
        if let Some(volume) = &self.volume {
            let _ = docker(&["volume", "rm", volume]);
        }
    }
}

fn docker(arguments: &[&str]) -> Output {
    Command::new("docker").args(arguments).output().unwrap()
}

impl Running {
    fn start(name: &str, volume: Option<&str>, arguments: &[&str]) -> Self {
        let running =
            Self { container: format!("streamlab-start-{name}"), volume: volume.map(str::to_owned) };
        let _ = docker(&["rm", "--force", "--volumes", &running.container]);
        let started = docker(&[&["run", "--detach", "--name", &running.container], arguments].concat());
        assert!(started.status.success(), "{}", text(&started));
        running
    }

    /// Waits until a command inside ends well; what it printed.
    async fn until(&self, script: &str) -> String {
        let every = Duration::from_millis(250);
        let said = eventually(script, Duration::from_secs(120), every, || async {
            let asked = docker(&["exec", &self.container, "sh", "-ec", script]);
            Ok(if asked.status.success() { Answer::Is(text(&asked)) } else { Answer::NotYet(text(&asked)) })
        });
        said.await.unwrap_or_else(|why| panic!("{why}\n{}", text(&docker(&["logs", &self.container]))))
    }
}

async fn reference(recipe: &str) -> String {
    let (project, engine) = engine_with(&[recipe]).await;
    let images = recipe_images(&project, &engine.arch).unwrap();
    images.into_iter().find(|i| i.name == recipe).unwrap().reference
}

#[tokio::test]
async fn a_node_that_starts_in_upstreams_two_steps_takes_the_same_settings_from_the_same_environment() {
    let (project, _) = engine_with(&["kafka"]).await;
    let plan = project.plan(Some("events"), Instance::documented()).unwrap();
    let node = plan.service("kafka").unwrap();
    // The agent is an add-on, and not there.
    let environment = node.environment.iter().filter(|(name, _)| *name != "KAFKA_OPTS");
    let environment: Vec<String> = environment.map(|(name, value)| format!("--env={name}={value}")).collect();
    let environment: Vec<&str> = environment.iter().map(String::as_str).collect();
    let image = reference("kafka").await;
    let memory = node.memory.to_string();
    let mut settings = Vec::new();
    for (name, command) in [("two-steps", &["sh", "-ec", TWO_STEPS][..]), ("one-step", &[])] {
        let before = ["--hostname", &node.container, "--memory", &memory];
        let node = Running::start(name, None, &[&before[..], &environment, &[&image], command].concat());
        let topics = "kafka-topics.sh --bootstrap-server localhost:9092";
        node.until(&format!("{topics} --create --if-not-exists --topic stand-in --partitions 1")).await;
        assert!(node.until(&format!("{topics} --list")).await.contains("stand-in"));
        let file = node.until("cat /opt/kafka/config/server.properties").await;
        let lines = file.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        settings.push(lines.map(str::to_owned).collect::<BTreeSet<_>>());
    }
    assert_eq!(settings[0], settings[1]);
}

#[tokio::test]
async fn sparks_own_launcher_starts_the_master_with_its_agent_and_its_memory() {
    let (project, _) = engine_with(&["spark", "jmx-exporter"]).await;
    let plan = project.plan(Some("transactions"), Instance::documented()).unwrap();
    let master = plan.service("spark-master").unwrap();
    let volume = "streamlab-start-jmx";
    let filled = ["run", "--rm", "--volume", &format!("{volume}:/addons/jmx-exporter")];
    let filled = docker(&[&filled[..], &[&reference("jmx-exporter").await]].concat());
    assert!(filled.status.success(), "{}", text(&filled));
    let mut arguments =
        vec![format!("--hostname={}", master.container), format!("--memory={}", master.memory)];
    arguments.extend(master.environment.iter().map(|(name, value)| format!("--env={name}={value}")));
    // Our own short way does not take quotes apart: it leaves such options to the launcher, as everything is in the public image.
    arguments.push("--env=SPARK_DAEMON_JAVA_OPTS=-Dby.the.launcher=\"yes\"".to_owned());
    for file in &master.files {
        arguments.push(format!("--volume={}/{}:{}:ro", root().display(), file.source, file.path));
    }
    arguments.push(format!("--volume={volume}:{}:ro", master.addons[0].path));
    arguments.push(reference("spark").await);
    arguments.extend(master.command.iter().cloned());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let running = Running::start("launcher", Some(volume), &arguments);
    let port = |name: &str| master.ports.iter().find(|p| p.name == name).unwrap().container;
    let ask = |port: u16, path: &str| {
        format!(
            "python3 -c \"import urllib.request as u; print(u.urlopen('http://localhost:{port}{path}').read().decode())\""
        )
    };
    running.until(&format!("{} | grep ALIVE", ask(port("ui"), "/json/"))).await;
    running.until(&format!("{} | grep '^spark_master_aliveworkers 0'", ask(port("jmx"), "/metrics"))).await;
    let command = running.until("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await;
    for part in ["-Dby.the.launcher=yes", "-Xmx128m", "org.apache.spark.deploy.master.Master"] {
        assert!(command.contains(part), "{part} is not in {command}");
    }
}

/// The public registry ends where no broker answers: there it waits for them, and the local one, which needs none, does not.
#[tokio::test]
async fn the_public_registry_starts_after_the_brokers() {
    let (project, _) = engine_with(&[]).await;
    let plans = project.file.labs.keys().map(|lab| project.plan(Some(lab), Instance::documented()).unwrap());
    let with_registry: Vec<_> = plans.filter(|plan| plan.service("schema-registry").is_some()).collect();
    assert!(with_registry.len() >= 3, "{}", with_registry.len());
    for whole in with_registry {
        let waits = |source: Source| {
            let plan = source.part_of(&project.file, &whole).unwrap();
            let waits = &plan.service("schema-registry").unwrap().waits_for;
            waits.iter().map(|w| w.service.clone()).collect::<BTreeSet<_>>()
        };
        let brokers = whole.meant("kafka").into_iter().map(|s| s.name.clone()).collect();
        assert_eq!(
            (waits(Source::Upstream), waits(Source::Local)),
            (brokers, BTreeSet::new()),
            "{}",
            whole.lab
        );
    }
}
