//! The files of the monitoring, by the real promtool and amtool: they parse, the rules do what their unit tests say, and
//! lab.toml, rules, runbooks and dashboards name the same alerts. Planted mistakes are refused by name. And the e-mail sink bears a flood.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rstest::rstest;
use streamlab::clients;
use streamlab::dashboards::{FOLDER, dashboards, parse};
use streamlab::engine::recipe_images;
use streamlab::probes::{Answer, eventually};
use streamlab::topology::Instance;
use support::service::PATIENCE;
use support::{engine_with, root, run, text};
use testcontainers::bollard::models::HostConfig;
use testcontainers::core::IntoContainerPort as _;
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{GenericImage, ImageExt as _};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

/// Runs a tool of an image on a folder, mounted at /files.
async fn tool(recipe: &str, folder: &Path, script: &str) -> Output {
    let (project, engine) = engine_with(&[recipe]).await;
    let images = recipe_images(&project, &engine.arch).unwrap();
    let image = images.into_iter().find(|i| i.name == recipe).unwrap().reference;
    let mut command = Command::new("docker");
    command.args(["run", "--rm", "--network", "none", "--volume"]);
    command.arg(format!("{}:/files:ro", folder.display()));
    command.args(["--workdir", "/files", "--entrypoint", "sh", &image, "-c", script]).output().unwrap()
}

/// A copy of `monitoring/` in which one text is replaced.
fn changed(file: &str, from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let copied =
        Command::new("cp").arg("-a").arg(root().join("monitoring/.")).arg(folder.path()).status().unwrap();
    assert!(copied.success());
    let path = folder.path().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} does not hold {from:?}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
    // mktemp's 0700: the tool is another user.
    Command::new("chmod").arg("-R").arg("a+rX").arg(folder.path()).status().unwrap();
    folder
}

const RULES: &str =
    "promtool check rules prometheus/rules/*.yml && promtool test rules prometheus/tests/*.yml";

#[tokio::test]
async fn the_rules_do_what_their_tests_say() {
    let output = tool("prometheus", &root().join("monitoring"), RULES).await;
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(text(&output).matches("SUCCESS").count(), 5 + 6, "{}", text(&output));
}

#[rstest]
#[case::no_yaml("prometheus/rules/kafka.yml", "groups:", "groups", "kafka.yml")]
#[case::no_promql("prometheus/rules/kafka.yml", "sum by (job)", "sum by job", "parse error")]
#[case::a_metric_of_another_name(
    "prometheus/rules/platform.yml",
    "probe_success",
    "probe_successes",
    "alertname: SchemaRegistryDown"
)]
#[case::never_fires("prometheus/rules/consumers.yml", "> 1000", "> 1000000", "KafkaConsumerLagHigh")]
#[case::fires_too_soon("prometheus/rules/kafka.yml", "for: 10s", "for: 0s", "KafkaBrokerDown")]
#[case::another_runbook("prometheus/rules/spark.yml", "#sparkworkerlost", "#sparkworker", "SparkWorkerLost")]
#[tokio::test]
async fn a_mistake_in_the_rules_is_found(
    #[case] file: &str,
    #[case] from: &str,
    #[case] to: &str,
    #[case] says: &str,
) {
    let folder = changed(file, from, to);
    let output = tool("prometheus", folder.path(), RULES).await;
    assert!(!output.status.success() && text(&output).contains(says), "{}", text(&output));
}

/// As the products read them: filled in by the program itself, into a folder of its own.
fn filled(monitoring: &Path) -> (tempfile::TempDir, Output) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = support::lab(&["setup", "monitoring", "--from"]);
    command.arg(monitoring).arg("--to").arg(folder.path()).arg("--alerting").arg(folder.path());
    for (name, value) in [
        ("TARGETS", "[]"),
        ("PROBES", "[]"),
        ("INSTANCE", "default"),
        ("ALERTMANAGER", "alertmanager:1"),
        ("BLACKBOX_EXPORTER", "blackbox-exporter:1"),
        ("PROMETHEUS_URL", "http://prometheus.example"),
        ("RUNBOOKS", "http://lab.example/runbooks"),
        ("KAFKA", "a-broker:1"),
        ("KAFKA_NODE", "a-broker"),
        ("MAIL_SINK", "mail-sink:1"),
        ("DEFAULT_SLACK_URL", "http://alert-receiver:1/slack"),
    ] {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    Command::new("chmod").arg("-R").arg("a+rX").arg(folder.path()).status().unwrap();
    (folder, output)
}

#[tokio::test]
async fn what_is_filled_in_is_what_the_products_read() {
    let (folder, output) = filled(&root().join("monitoring"));
    assert!(output.status.success(), "{}", text(&output));
    // promtool wants the rules where the configuration names them.
    let checks = "promtool check config --syntax-only prometheus.yml";
    let output = tool("prometheus", folder.path(), checks).await;
    assert!(output.status.success(), "{}", text(&output));
    let output = tool("alertmanager", folder.path(), "amtool check-config alertmanager.yml").await;
    assert!(output.status.success() && text(&output).contains("1 receivers"), "{}", text(&output));
    let routed =
        "amtool config routes test --config.file=alertmanager.yml alertname=KafkaBrokerDown severity=warning";
    let output = tool("alertmanager", folder.path(), routed).await;
    assert!(text(&output).contains("oncall"), "{}", text(&output));
}

#[rstest]
#[case::prometheus(
    "prometheus/prometheus.yml",
    "${ALERTMANAGER}",
    "${ALERTMANGER}",
    "no variable ALERTMANGER"
)]
#[case::alertmanager("alertmanager/alertmanager.yml", "${MAIL_SINK}", "${MAIL}", "no variable MAIL")]
fn a_variable_that_nobody_sets_is_named(
    #[case] file: &str,
    #[case] from: &str,
    #[case] to: &str,
    #[case] says: &str,
) {
    let (_, output) = filled(changed(file, from, to).path());
    assert!(!output.status.success() && text(&output).contains(says), "{}", text(&output));
    assert!(text(&output).contains(file), "{}", text(&output));
}

#[test]
fn advice_names_the_instance() {
    for file in std::fs::read_dir(root().join("monitoring/prometheus/rules")).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for command in text.split('`').skip(1).step_by(2).filter(|c| c.starts_with("./lab ")) {
            // Images are no instance's.
            let named =
                command.ends_with("{{ $externalLabels.option }}") || command.starts_with("./lab images");
            assert!(named, "{}: {command}", path.display());
        }
    }
}

/// Names after `- alert:` in the rules.
fn ruled() -> BTreeSet<String> {
    let folder = std::fs::read_dir(root().join("monitoring/prometheus/rules")).unwrap();
    let texts = folder.map(|f| std::fs::read_to_string(f.unwrap().path()).unwrap());
    let names = |t: String| {
        t.lines().filter_map(|l| Some(l.trim().strip_prefix("- alert: ")?.to_owned())).collect::<Vec<_>>()
    };
    texts.flat_map(names).collect()
}

#[tokio::test]
async fn every_alert_is_a_row_and_has_a_runbook_and_a_panel_that_leads_there() {
    let (project, _) = engine_with(&[]).await;
    let rows: BTreeSet<String> = project.file.alerts.iter().map(|a| a.name.get_ref().clone()).collect();
    assert_eq!(rows, ruled(), "rows of topology/faults.toml, and alerts of the rules");
    let runbooks = std::fs::read_to_string(root().join("docs/runbooks.md")).unwrap();
    let headings: BTreeSet<String> =
        runbooks.lines().filter_map(|l| Some(l.strip_prefix("## ")?.to_owned())).collect();
    assert_eq!(rows, headings, "rows, and sections of docs/runbooks.md");
    for alert in &project.file.alerts {
        let name = alert.name.get_ref();
        if let Some(fault) = &alert.fault {
            let section = runbooks.split("\n## ").find(|s| s.starts_with(name.as_str())).unwrap();
            let tried = format!("./lab fault {}`", fault.get_ref());
            assert!(section.contains(&tried), "the runbook of {name} does not say {tried}");
        }
    }
    let mut linked = String::new();
    for file in std::fs::read_dir(root().join(FOLDER)).unwrap() {
        linked += &std::fs::read_to_string(file.unwrap().path()).unwrap();
    }
    for name in &rows {
        let link = format!("/runbooks#{}\"", name.to_lowercase());
        assert!(linked.contains(&link), "no panel leads to {link}");
    }
}

#[test]
fn every_dashboard_has_its_own_name_and_a_row_in_the_documentation() {
    let all = dashboards(root()).unwrap_or_else(|e| panic!("{e:#}"));
    let uids: BTreeSet<&str> = all.iter().map(|d| d.uid.as_str()).collect();
    assert_eq!(uids.len(), all.len());
    let page = std::fs::read_to_string(root().join("docs/dashboards.md")).unwrap();
    for dashboard in &all {
        for panel in dashboard.panels() {
            assert!(
                page.contains(&panel.title),
                "docs/dashboards.md has no {:?} of {}",
                panel.title,
                dashboard.title
            );
        }
    }
}

#[test]
fn every_panel_has_a_link_that_asks_prometheus_its_queries() {
    let page = std::fs::read_to_string(root().join("docs/queries.md")).unwrap();
    for dashboard in dashboards(root()).unwrap() {
        let heading = format!("\n## {}\n", dashboard.title);
        let (_, section) = page.split_once(&heading).unwrap_or_else(|| panic!("no {heading}"));
        let section = section.split("\n## ").next().unwrap();
        let all: Vec<_> = dashboard.variables.iter().map(|v| (v.name.clone(), ".+".to_owned())).collect();
        for panel in dashboard.panels() {
            let start = format!("- [{}](", panel.title);
            let line = section.lines().find_map(|l| l.strip_prefix(&start)?.strip_suffix(')'));
            let link = url::Url::parse(line.unwrap_or_else(|| panic!("no {start}"))).unwrap();
            if let Some(search) = panel.searches.first() {
                let asked =
                    link.query_pairs().find(|(key, _)| key == "q").map(|(_, value)| value.into_owned());
                assert_eq!(asked.as_deref(), Some(search.query.as_str()), "{}", panel.title);
                assert!(link.path().starts_with(&format!("/{}/", search.indices)), "{link}");
                continue;
            }
            let asked: Vec<String> = link
                .query_pairs()
                .filter(|(key, _)| key.ends_with(".expr"))
                .map(|(_, value)| value.into_owned())
                .collect();
            let expected: Vec<String> = panel.queries.iter().map(|q| q.filled(&all)).collect();
            assert_eq!(asked, expected, "{}", panel.title);
            assert!(expected.iter().all(|q| !q.contains('$')), "{expected:?}");
        }
    }
}

/// A dashboard with one panel that has these parts more.
fn with_panel(parts: &str) -> String {
    let place = r#""id":1,"gridPos":{"h":4,"w":4,"x":0,"y":0}"#;
    format!(r#"{{"uid":"a","title":"A","panels":[{{{place},"title":"P",{parts}}}]}}"#)
}

const QUERY: &str = r#""targets":[{"expr":"up","range":true}]"#;

#[rstest]
#[case::no_json("{".to_owned(), "no JSON")]
#[case::no_panels(r#"{"uid":"a","title":"A","panels":[]}"#.to_owned(), "no panels")]
#[case::no_query(with_panel(r#""type":"stat","targets":[{}]"#), "P: a query without expr")]
#[case::a_source_that_nobody_provisions(
    with_panel(r#""type":"logs","targets":[{"datasource":{"type":"elasticsearch","uid":"x"}}]"#),
    "P: no data source x"
)]
#[case::another_kind_of_variable(
    r#"{"uid":"a","title":"A","panels":[],"templating":{"list":[{"name":"v","query":"query_result(up)"}]}}"#.to_owned(),
    "$v: only label_values(…) is checked"
)]
#[case::another_kind_of_panel(with_panel(&format!(r#""type":"gauge",{QUERY}"#)), "P: a panel of type \"gauge\" is not drawn")]
#[case::a_part_that_is_not_known(with_panel(&format!(r#""type":"stat","repeat":"v",{QUERY}"#)), "unknown field `repeat`")]
#[case::another_value_of_a_part(
    with_panel(&format!(r#""type":"stat","options":{{"colorMode":"none"}},{QUERY}"#)),
    "P: options.colorMode is \"none\": only \"background\" is drawn"
)]
#[case::another_unit(
    with_panel(&format!(r#""type":"stat","fieldConfig":{{"defaults":{{"unit":"furlongs"}}}},{QUERY}"#)),
    "P: the unit \"furlongs\" is not drawn"
)]
#[case::another_colour(
    with_panel(&format!(r#""type":"stat","fieldConfig":{{"defaults":{{"thresholds":{{"steps":[{{"color":"pink"}}]}}}}}},{QUERY}"#)),
    "P: the colour \"pink\" is not drawn"
)]
fn a_dashboard_that_would_not_be_drawn_or_checked_is_refused(#[case] text: String, #[case] says: &str) {
    let error = parse(&text, &BTreeMap::new()).err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(error.contains(says), "{error}");
}

#[test]
fn faults_and_alerts_of_a_lab_that_is_not_up_say_so() {
    for arguments in [["fault", "broker-killed"], ["fault", "undo"], ["alerts", "--json"]] {
        let output = run(&[&arguments[..], &["--instance", "not-up"]].concat());
        assert!(!output.status.success());
        assert!(text(&output).contains("instance not-up is not up"), "{}", text(&output));
    }
}

/// A group of alerts as Alertmanager hands it to its templates.
fn alerts(count: usize) -> String {
    let alert = |number: usize| {
        serde_json::json!({
            "status": "firing",
            "labels": { "alertname": "KafkaConsumerLagHigh", "severity": "warning" },
            "annotations": {
                "summary": format!("Group {number} is behind"), "description": "why ".repeat(50), "runbook_url": "http://runbooks#behind",
            },
            "startsAt": "2026-11-27T12:00:00Z", "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "http://query", "fingerprint": "x",
        })
    };
    let alerts: Vec<_> = (1..=count).map(alert).collect();
    let common = serde_json::json!({ "severity": "warning", "lab_instance": "default" });
    serde_json::json!({
        "receiver": "oncall", "status": "firing", "alerts": alerts, "groupLabels": { "alertname": "KafkaConsumerLagHigh" },
        "commonLabels": common, "commonAnnotations": {}, "externalURL": "http://alertmanager",
    })
    .to_string()
}

#[rstest]
#[case("slack")]
#[case("text")]
#[case("html")]
#[tokio::test]
async fn of_hundreds_of_alerts_a_message_shows_the_first_twenty(#[case] form: &str) {
    for (count, shown) in [(1, 1), (20, 20), (300, 20)] {
        let folder = changed("alertmanager/templates/streamlab.tmpl", "streamlab.", "streamlab.");
        std::fs::write(folder.path().join("data.json"), alerts(count)).unwrap();
        Command::new("chmod").arg("a+r").arg(folder.path().join("data.json")).status().unwrap();
        let script = format!(
            "amtool template render --template.glob=alertmanager/templates/streamlab.tmpl --template.data=data.json \
             --template.text='{{{{ template \"streamlab.{form}\" . }}}}'"
        );
        let output = tool("alertmanager", folder.path(), &script).await;
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        assert_eq!(
            said.matches("is behind").count() - usize::from(form == "html" && count == 1),
            shown,
            "{said}"
        );
        assert_eq!(said.contains("The first 20 of 300."), count == 300, "{said}");
        // Slack's form has no such link.
        let silence =
            said.contains("Silence: http://runbooks\n") || said.contains("\"http://runbooks\">Silence");
        assert_eq!(silence, form != "slack", "{said}");
    }
}

/// Mails of a flood, and bytes of each: alerts of a bad night are a few hundred, of a few kilobytes.
const MAILS: usize = 2000;
const MAIL: usize = 8_000;

#[tokio::test]
async fn the_mail_sink_bears_a_flood() {
    let (project, engine) = engine_with(&["mail-sink"]).await;
    let images = recipe_images(&project, &engine.arch).unwrap();
    let image = images.into_iter().find(|i| i.name == "mail-sink").unwrap().reference;
    let (name, tag) = image.rsplit_once(':').unwrap();
    let plan = project.file.plan("transactions", Instance::documented()).unwrap();
    let sink = plan.service("mail-sink").unwrap();
    // With the memory that it has in the lab.
    let memory = i64::try_from(sink.memory).unwrap();
    let limited = move |host: &mut HostConfig| {
        host.memory = Some(memory);
        host.memory_swap = Some(memory);
    };
    let container = GenericImage::new(name, tag)
        .with_exposed_port(1025.tcp())
        .with_exposed_port(8025.tcp())
        .with_host_config_modifier(limited)
        .start()
        .await
        .unwrap();
    let smtp = container.get_host_port_ipv4(1025).await.unwrap();
    let ui = container.get_host_port_ipv4(8025).await.unwrap();
    let page = format!("http://127.0.0.1:{ui}/api/v2/messages?limit=1");
    let total = || async {
        let answer: serde_json::Value = clients::http().get(&page).send().await?.json().await?;
        Ok(answer["total"].as_u64().map_or_else(|| Answer::NotYet(answer.to_string()), Answer::Is))
    };
    eventually("its page", PATIENCE, Duration::from_millis(100), total).await.unwrap();
    let taken = || async { send_mails(smtp, 0).await.map(Answer::Is) };
    eventually("its greeting", PATIENCE, Duration::from_millis(100), taken).await.unwrap();
    let senders = (0..4).map(|_| tokio::spawn(send_mails(smtp, MAILS / 4)));
    let sent = tokio::time::timeout(PATIENCE, futures::future::join_all(senders)).await;
    for sender in sent.expect("the mails are taken") {
        sender.unwrap().unwrap();
    }
    assert_eq!(
        eventually("its page", PATIENCE, Duration::from_millis(100), total).await.unwrap(),
        MAILS as u64
    );
}

/// Sends mails one after the other, and hears that each is taken.
async fn send_mails(port: u16, count: usize) -> anyhow::Result<()> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    let mut stream = tokio::io::BufStream::new(stream);
    let body = "every word of it\r\n".repeat(MAIL / 18);
    let mail = format!("Subject: alert\r\n\r\n{body}.\r\n");
    let talk = ["MAIL FROM:<a@lab>\r\n", "RCPT TO:<b@lab>\r\n", "DATA\r\n", &mail];
    let hello = ["", "HELO lab\r\n"];
    for said in hello.into_iter().chain(std::iter::repeat_n(talk, count).flatten()) {
        stream.write_all(said.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        anyhow::ensure!(answer.starts_with('2') || answer.starts_with('3'), "answer {answer:?}");
    }
    Ok(())
}
