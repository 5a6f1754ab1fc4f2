//! Starting, stopping and being interrupted: whatever happens, the exit code says it and nothing is left behind.
//! Mostly on a lab of three tiny services; one trial of each kind on the real lab.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use rstest::rstest;
use streamlab::engine::{Engine, InstanceState};
use support::{engine_with, lab, run, text};
use tokio::sync::Mutex;

const TINY: &str = "tests/tiny/lab.toml";

/// The real lab is heavy: one trial at a time.
static REAL: Mutex<()> = Mutex::const_new(());

async fn state(instance: &str) -> InstanceState {
    let engine = Engine::connect().await.unwrap();
    engine.instance(instance).await.unwrap()
}

async fn assert_nothing_is_left(instance: &str) {
    let left = state(instance).await;
    assert!(left.is_down() && left.volumes.is_empty(), "left behind: {left:#?}");
}

fn up(file: &str, instance: &str, offset: &str, more: &[&str]) -> Child {
    let mut arguments =
        vec!["--file", file, "--instance", instance, "up", "--detach", "--port-offset", offset];
    arguments.extend(more);
    // Tests that a shell has started in the background have SIGINT ignored, and a child inherits that.
    let program = lab(&arguments);
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(program.get_program()).args(program.get_args());
    command.current_dir(support::root()).env_remove("LAB_ROOT").stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // `env` has become the program: from here on a signal is the program's.
    let runs = || std::fs::read_link(format!("/proc/{}/exe", child.id()));
    while runs().is_ok_and(|exe| !exe.ends_with("streamlab")) {
        std::thread::yield_now();
    }
    child
}

/// Reads what the program says until a line holds `marker`; the rest is read by a thread, which gives all of it.
fn until(child: &mut Child, marker: &str) -> JoinHandle<String> {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut seen = Vec::new();
    while !marker.is_empty() {
        let Some(line) = lines.next() else {
            panic!("the program ended before it said {marker:?}:\n{}", seen.join("\n"));
        };
        seen.push(line);
        if seen.last().is_some_and(|line| line.contains(marker)) {
            break;
        }
    }
    // Whoever stops reading would end the program by a closed pipe.
    std::thread::spawn(move || seen.into_iter().chain(lines).collect::<Vec<_>>().join("\n"))
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[rstest]
#[case::at_once_int("a1", "0", "", "INT")]
#[case::at_once_term("a2", "200", "", "TERM")]
#[case::first_ready_int("a3", "300", "alpha", "INT")]
#[case::first_ready_term("a4", "400", "alpha", "TERM")]
#[case::middle_int("a5", "500", "beta", "INT")]
#[case::middle_term("a6", "600", "beta", "TERM")]
#[tokio::test]
async fn an_interrupted_start_is_undone(
    #[case] name: &str,
    #[case] offset: &str,
    #[case] phase: &str,
    #[case] kind: &str,
) {
    engine_with(&["base"]).await;
    let instance = format!("tiny-{name}");
    // What a failed run has left is not this one's failure.
    assert!(run(&["--instance", &instance, "down", "--volumes"]).status.success());
    let mut child = up(TINY, &instance, offset, &[]);
    let said = until(&mut child, phase);
    signal(&child, kind);
    let status = child.wait().unwrap();
    // Before the handlers stand, the signal itself ends it: nothing had begun.
    assert!(matches!(status.code(), Some(130) | None), "{status}: {}", said.join().unwrap());
    assert_nothing_is_left(&instance).await;
}

#[tokio::test]
async fn after_kill_9_down_cleans_up() {
    engine_with(&["base"]).await;
    let mut child = up(TINY, "tiny-k1", "700", &[]);
    until(&mut child, "alpha");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!state("tiny-k1").await.is_down(), "a killed start should have left something to clean");
    let down = run(&["--instance", "tiny-k1", "down", "--volumes"]);
    assert!(down.status.success(), "{}", text(&down));
    assert_nothing_is_left("tiny-k1").await;
}

#[tokio::test]
async fn after_kill_9_the_next_up_starts_anew() {
    engine_with(&["base"]).await;
    let mut child = up(TINY, "tiny-k2", "800", &[]);
    until(&mut child, "alpha");
    child.kill().unwrap();
    child.wait().unwrap();
    let again = up(TINY, "tiny-k2", "800", &[]).wait_with_output().unwrap();
    assert!(again.status.success(), "{}", text(&again));
    assert!(text(&again).contains("not whole"), "{}", text(&again));
    assert_eq!(state("tiny-k2").await.containers.len(), 3);
    assert!(run(&["--instance", "tiny-k2", "down", "--volumes"]).status.success());
    assert_nothing_is_left("tiny-k2").await;
}

#[tokio::test]
async fn a_second_up_attaches_and_changes_nothing() {
    engine_with(&["base"]).await;
    let first = up(TINY, "tiny-s", "900", &[]).wait_with_output().unwrap();
    assert!(first.status.success(), "{}", text(&first));
    let ids = || {
        let list = Command::new("docker")
            .args(["ps", "-q", "--no-trunc", "--filter", "label=streamlab.instance=tiny-s"])
            .output()
            .unwrap();
        String::from_utf8(list.stdout).unwrap()
    };
    let before = ids();
    let second = up(TINY, "tiny-s", "900", &[]).wait_with_output().unwrap();
    assert!(second.status.success() && text(&second).contains("already up"), "{}", text(&second));
    assert_eq!(before, ids());
    let other = up(TINY, "tiny-s", "900", &["--lab", "failing"]).wait_with_output().unwrap();
    assert!(!other.status.success() && text(&other).contains("runs lab tiny"), "{}", text(&other));
    // Data stays until it is asked to go.
    let down = run(&["--instance", "tiny-s", "down"]);
    assert!(text(&down).contains("1 volumes of data stay"), "{}", text(&down));
    assert_eq!(state("tiny-s").await.volumes.len(), 1);
    assert!(run(&["--instance", "tiny-s", "down", "--volumes"]).status.success());
    assert_nothing_is_left("tiny-s").await;
}

#[tokio::test]
async fn two_starts_of_one_instance_at_once_do_not_mix() {
    engine_with(&["base"]).await;
    let mut first = up(TINY, "tiny-c", "1000", &[]);
    until(&mut first, "alpha");
    let second = up(TINY, "tiny-c", "1000", &[]).wait_with_output().unwrap();
    assert!(!second.status.success(), "{}", text(&second));
    assert!(text(&second).contains(&format!("pid {}", first.id())), "{}", text(&second));
    assert!(first.wait().unwrap().success());
    assert!(run(&["--instance", "tiny-c", "down", "--volumes"]).status.success());
    assert_nothing_is_left("tiny-c").await;
}

#[tokio::test]
async fn two_instances_run_side_by_side() {
    engine_with(&["base"]).await;
    let children = [up(TINY, "tiny-x", "1100", &[]), up(TINY, "tiny-y", "1200", &[])];
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
    assert!(run(&["--instance", "tiny-x", "down", "--volumes"]).status.success());
    assert_eq!(state("tiny-y").await.containers.iter().filter(|c| c.running()).count(), 3);
    assert!(run(&["--instance", "tiny-y", "down", "--volumes"]).status.success());
    assert_nothing_is_left("tiny-x").await;
    assert_nothing_is_left("tiny-y").await;
}

#[tokio::test]
async fn a_service_that_dies_shows_its_last_lines() {
    engine_with(&["base"]).await;
    let output = up(TINY, "tiny-d", "1300", &["--lab", "failing"]).wait_with_output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("doomed") && said.contains("exit code 1"), "{said}");
    assert!(said.contains("this service was told to fail"), "{said}");
    assert_nothing_is_left("tiny-d").await;
}

#[tokio::test]
async fn a_taken_port_is_named_with_who_holds_it() {
    engine_with(&["base"]).await;
    let _holder = std::net::TcpListener::bind(("127.0.0.1", 24101 + 1400)).unwrap();
    let output = up(TINY, "tiny-p", "1400", &[]).wait_with_output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("25501") && said.contains("alpha"), "{said}");
    if cfg!(target_os = "linux") {
        assert!(said.contains(&format!("pid {}", std::process::id())), "{said}");
    }
    assert_nothing_is_left("tiny-p").await;
}

#[rstest]
#[case::ctrl_c("real-i", "1500", "INT", "transactions")]
#[case::sigterm("real-t", "1600", "TERM", "events")]
#[tokio::test]
async fn the_real_lab_is_undone_when_interrupted(
    #[case] instance: &str,
    #[case] offset: &str,
    #[case] kind: &str,
    #[case] lab: &str,
) {
    engine_with(&["base", "kafka", "spark", "schema-registry", "spark-kafka"]).await;
    let _one = REAL.lock().await;
    let mut child = up("lab.toml", instance, offset, &["--lab", lab]);
    // Of the controllers, or of the one node.
    let said = until(&mut child, "kafka");
    signal(&child, kind);
    assert_eq!(child.wait().unwrap().code(), Some(130), "{}", said.join().unwrap());
    assert_nothing_is_left(instance).await;
}

/// That two labs run side by side, each with its own topics and records, is what the spec does all the time.
#[tokio::test]
async fn the_real_lab_starts_anew_after_a_killed_start() {
    engine_with(&["base", "kafka", "spark", "schema-registry", "spark-kafka"]).await;
    let _one = REAL.lock().await;
    let (instance, offset, of_it) = ("real-a", "1700", ["--lab", "events"]);
    // What a failed run has left is not this one's failure.
    assert!(run(&["--instance", instance, "down", "--volumes"]).status.success());
    let mut killed = up("lab.toml", instance, offset, &of_it);
    until(&mut killed, "kafka");
    killed.kill().unwrap();
    killed.wait().unwrap();
    let output = up("lab.toml", instance, offset, &of_it).wait_with_output().unwrap();
    assert!(output.status.success() && text(&output).contains("not whole"), "{}", text(&output));
    // A port of a running instance is taken for another one, and the holder is named.
    let taken = up("lab.toml", "real-c", offset, &of_it).wait_with_output().unwrap();
    assert!(!taken.status.success() && text(&taken).contains("host port(s) taken"), "{}", text(&taken));
    assert_nothing_is_left("real-c").await;
    let down = run(&["--instance", instance, "down", "--volumes"]);
    assert!(down.status.success(), "{}", text(&down));
    assert_nothing_is_left(instance).await;
}

/// Whoever stops the engine, or the machine, ends services well: exit code 0.
#[tokio::test]
async fn what_has_ended_well_but_should_run_is_started_again_by_up() {
    engine_with(&["base"]).await;
    assert!(up(TINY, "tiny-w", "2400", &[]).wait_with_output().unwrap().status.success());
    let stop = Command::new("docker").args(["stop", "tiny-w-beta"]).output().unwrap();
    assert!(stop.status.success(), "{}", text(&stop));
    assert!(state("tiny-w").await.of("beta").is_some_and(|c| c.completed()), "it did not end with 0");
    let again = up(TINY, "tiny-w", "2400", &[]).wait_with_output().unwrap();
    assert!(again.status.success() && text(&again).contains("not whole"), "{}", text(&again));
    assert!(state("tiny-w").await.of("beta").is_some_and(|c| c.running()));
    assert!(run(&["--instance", "tiny-w", "down", "--volumes"]).status.success());
}

/// The kernel gives the ports of some services to outgoing connections.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_start_waits_for_the_end_of_a_connection_that_has_a_port() {
    engine_with(&["base"]).await;
    let peer = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let out = tokio::net::TcpSocket::new_v4().unwrap();
    // An earlier run's connections may still have it for a minute; from here on nobody else can.
    out.set_reuseaddr(true).unwrap();
    out.bind(([127, 0, 0, 1], 24101 + 3000).into()).unwrap();
    out.set_reuseaddr(false).unwrap();
    // Its port is free at its end, without the minute of TIME_WAIT.
    out.set_zero_linger().unwrap();
    let connection = out.connect(peer.local_addr().unwrap()).await.unwrap();
    let mut child = up(TINY, "tiny-w", "3000", &[]);
    let said = until(&mut child, "27101 for alpha: held by an outgoing connection of");
    drop(connection);
    let status = child.wait().unwrap();
    assert!(status.success(), "{}", said.join().unwrap());
    assert!(run(&["--instance", "tiny-w", "down", "--volumes"]).status.success());
    assert_nothing_is_left("tiny-w").await;
}

fn docker(arguments: &[&str]) {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {}", text(&output));
}

/// What somebody else made is neither used nor removed, and the lab says how to go on.
#[rstest]
#[case::network("tiny-fn", "1900", "network", "tiny-fn-tiny")]
#[case::volume("tiny-fv", "2000", "volume", "streamlab-tiny-fv-alpha-data")]
#[tokio::test]
async fn a_foreign_thing_of_the_same_name_is_left_alone(
    #[case] instance: &str,
    #[case] offset: &str,
    #[case] kind: &str,
    #[case] name: &str,
) {
    engine_with(&["base"]).await;
    docker(&[kind, "create", name]);
    let refused = up(TINY, instance, offset, &[]).wait_with_output().unwrap();
    let down = run(&["--instance", instance, "down", "--volumes"]);
    // Fails if it is gone.
    docker(&[kind, "rm", name]);
    let said = text(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("docker {kind} rm {name}")), "{said}");
    assert!(down.status.success(), "{}", text(&down));
    assert_nothing_is_left(instance).await;
}

#[tokio::test]
async fn an_instance_belongs_to_the_definition_it_was_started_from() {
    engine_with(&["base"]).await;
    let first = up(TINY, "tiny-def", "2100", &[]).wait_with_output().unwrap();
    assert!(first.status.success(), "{}", text(&first));
    for arguments in [&["up", "--detach"][..], &["status"], &["env"], &["reset", "--detach"]] {
        let other = run(&[&["--instance", "tiny-def"], arguments].concat());
        assert!(!other.status.success() && text(&other).contains("another definition"), "{}", text(&other));
    }
    assert_eq!(state("tiny-def").await.containers.iter().filter(|c| c.running()).count(), 3);
    assert!(run(&["--instance", "tiny-def", "down", "--volumes"]).status.success());
    assert_nothing_is_left("tiny-def").await;
}

#[tokio::test]
async fn a_reader_that_leaves_does_not_break_a_start() {
    engine_with(&["base"]).await;
    let mut child = up(TINY, "tiny-pipe", "2200", &[]);
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && !text(&output).contains("panicked"), "{}", text(&output));
    assert_eq!(state("tiny-pipe").await.containers.len(), 3);
    assert!(run(&["--instance", "tiny-pipe", "down", "--volumes"]).status.success());
    assert_nothing_is_left("tiny-pipe").await;
}

#[tokio::test]
async fn a_restart_that_cannot_be_done_leaves_the_service_as_it_is() {
    engine_with(&["base"]).await;
    // Below the checkout: a definition's files are named from its root.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mounted = folder.path().join("mounted");
    std::fs::write(&mounted, "").unwrap();
    let relative = mounted.strip_prefix(support::root()).unwrap().display().to_string();
    let tiny = std::fs::read_to_string(support::root().join(TINY)).unwrap();
    let with_file = format!("[services.beta]\nfiles = {{ {relative:?} = \"/mounted\" }}\n");
    let definition = folder.path().join("lab.toml");
    std::fs::write(&definition, tiny.replace("[services.beta]\n", &with_file)).unwrap();
    let definition = definition.to_str().unwrap();

    let started = up(definition, "tiny-file", "2400", &[]).wait_with_output().unwrap();
    assert!(started.status.success(), "{}", text(&started));
    std::fs::remove_file(&mounted).unwrap();
    let refused = run(&["--file", definition, "--instance", "tiny-file", "restart", "beta"]);
    let after = state("tiny-file").await;
    let down = run(&["--file", definition, "--instance", "tiny-file", "down", "--volumes"]);
    assert!(!refused.status.success() && text(&refused).contains("cannot be mounted"), "{}", text(&refused));
    assert!(after.of("beta").is_some_and(|c| c.running()), "{after:#?}");
    assert!(down.status.success(), "{}", text(&down));
    assert_nothing_is_left("tiny-file").await;
}

/// Gamma with the files that `setup monitoring` fills in; in a lab of these two and what gamma needs.
const WITH_WRITER: &str = r#"
[services.writer]
about = "fills in the files of the monitoring"
image = "streamlab"
command = ["setup", "monitoring"]
memory = "64m"
ready = { kind = "completed" }
files = { "FOLDER" = "/opt/streamlab/monitoring" }
volumes = [
  { name = "monitoring", path = "/etc/streamlab/monitoring", shared = true },
  { name = "alerting", path = "/etc/streamlab/alerting", shared = true },
]
environment = { TARGETS = "[]", PROBES = "[]", INSTANCE = "{instance}", ALERTMANAGER = "a", BLACKBOX_EXPORTER = "b", PROMETHEUS_URL = "http://p", RUNBOOKS = "r", KAFKA = "k", KAFKA_NODE = "k", MAIL_SINK = "m", DEFAULT_SLACK_URL = "http://s/" }
"#;

#[tokio::test]
async fn a_restart_takes_edited_files_and_none_that_would_be_refused() {
    engine_with(&["base"]).await;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let monitoring = support::root().join("monitoring");
    let copied = Command::new("cp").args(["-a", monitoring.to_str().unwrap()]).arg(folder.path()).status();
    assert!(copied.unwrap().success());
    // mktemp's 0700: containers read it as another user.
    assert!(Command::new("chmod").args(["-R", "a+rX"]).arg(folder.path()).status().unwrap().success());
    let relative = folder.path().strip_prefix(support::root()).unwrap().join("monitoring");
    let tiny = std::fs::read_to_string(support::root().join(TINY)).unwrap();
    let reads = "volumes = [{ name = \"monitoring\", path = \"/etc/streamlab/monitoring\", shared = true }]";
    let tiny = tiny
        .replace("services = [\"alpha\", \"beta\", \"gamma\"]", "services = [\"writer\", \"alpha\", \"beta\", \"gamma\"]")
        .replace("needs = [\"beta\"]\nready = { kind = \"http\", port = \"web\", path = \"/\", contains", &format!("needs = [\"beta\", \"writer\"]\n{reads}\nready = {{ kind = \"http\", port = \"web\", path = \"/\", contains"));
    let definition = folder.path().join("lab.toml");
    std::fs::write(&definition, tiny + &WITH_WRITER.replace("FOLDER", relative.to_str().unwrap())).unwrap();
    let definition = definition.to_str().unwrap();
    let restart = || run(&["--file", definition, "--instance", "tiny-writer", "restart", "gamma"]);
    let read = |name: &str| {
        let path = format!("/etc/streamlab/monitoring/{name}");
        text(&Command::new("docker").args(["exec", "tiny-writer-gamma", "cat", &path]).output().unwrap())
    };

    let started = up(definition, "tiny-writer", "2900", &[]).wait_with_output().unwrap();
    assert!(started.status.success(), "{}", text(&started));
    let id = || {
        let asked = ["inspect", "--format", "{{.Id}}", "tiny-writer-gamma"];
        text(&Command::new("docker").args(asked).output().unwrap())
    };
    let before = id();
    let rules = folder.path().join("monitoring/prometheus/rules/kafka.yml");
    let good = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(&rules, good.replacen("sum by (topic)", "sum by topic", 1)).unwrap();
    let refused = restart();
    let after = id();
    let whole = state("tiny-writer").await.of("writer").is_some_and(|c| c.completed());
    std::fs::write(&rules, good).unwrap();
    let configuration = folder.path().join("monitoring/prometheus/prometheus.yml");
    let text_before = std::fs::read_to_string(&configuration).unwrap();
    std::fs::write(&configuration, text_before.replace("scrape_interval: 5s", "scrape_interval: 7s"))
        .unwrap();
    let taken = restart();
    let found = read("prometheus.yml");
    let down = run(&["--file", definition, "--instance", "tiny-writer", "down", "--volumes"]);

    let said = text(&refused);
    assert!(!refused.status.success() && said.contains("rules/kafka.yml: line 7: no PromQL"), "{said}");
    assert!(before.len() > 60 && before == after && whole, "the service was not left as it was");
    assert!(taken.status.success() && found.contains("scrape_interval: 7s"), "{}\n{found}", text(&taken));
    assert!(found.contains("option: \" --instance tiny-writer\""), "{found}");
    assert!(down.status.success(), "{}", text(&down));
    assert_nothing_is_left("tiny-writer").await;
}

#[tokio::test]
async fn doctor_looks_where_another_instance_would_be() {
    engine_with(&["base"]).await;
    let started = up(TINY, "tiny-doc", "2500", &[]).wait_with_output().unwrap();
    assert!(started.status.success(), "{}", text(&started));
    // A definition whose documented port is what the first one holds.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let definition = folder.path().join("lab.toml");
    let tiny = std::fs::read_to_string(support::root().join(TINY)).unwrap();
    std::fs::write(&definition, tiny.replace("host = 24101", "host = 26601")).unwrap();
    let own = text(&run(&["--file", TINY, "--instance", "tiny-doc", "doctor"]));
    let other = text(&run(&["--file", definition.to_str().unwrap(), "--instance", "tiny-doc2", "doctor"]));
    assert!(run(&["--file", TINY, "--instance", "tiny-doc", "down", "--volumes"]).status.success());
    assert!(own.contains("port 26601     held by this lab's alpha"), "{own}");
    assert!(other.contains("port 26701     free for alpha") && !other.contains("wanted for"), "{other}");
}
