//! The lab's own services as real processes: alert-receiver whole, and what every one of them has.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use futures::future::join_all;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use rstest::rstest;
use serde_json::{Value, json};
use streamlab::clients::http;
use streamlab::probes::{Answer, eventually};
use support::service::{PATIENCE, Service, command};
use support::text;

/// As Alertmanager 0.28 sent it, from its default templates: recorded by this receiver (the host's name replaced).
const RECORDED: &str = include_str!("support/alertmanager-0.28-slack.json");

fn receiver() -> Service {
    Service::start("receiver", &[("RUNBOOKS", "nowhere/runbooks.md")])
}

async fn post(service: &Service, body: impl Into<reqwest::Body>) -> (StatusCode, String) {
    let request = http().post(format!("{}/slack", service.url)).body(body);
    let answer = request.send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

fn firing(name: &str) -> String {
    json!({"channel": "#alerts", "attachments": [{"title": format!("[FIRING:1] {name}"), "color": "danger"}]})
        .to_string()
}

#[tokio::test]
async fn what_alertmanager_sends_is_kept_as_it_came_and_shown() {
    let service = receiver();
    let recorded: Vec<Value> = serde_json::from_str(RECORDED).unwrap();
    for payload in &recorded {
        assert_eq!(post(&service, payload.to_string()).await, (StatusCode::OK, "ok".to_owned()));
    }
    let kept = service.json("/api/notifications").await;
    let seen: Vec<_> = kept.as_array().unwrap().iter().map(|n| (&n["id"], &n["status"])).collect();
    assert_eq!(seen, [(&json!(1), &json!("firing")), (&json!(2), &json!("resolved"))]);
    assert_eq!(kept.as_array().unwrap().iter().map(|n| n["payload"].clone()).collect::<Vec<_>>(), recorded);
    let received = kept[0]["received"].as_str().unwrap();
    time::OffsetDateTime::parse(received, &time::format_description::well_known::Rfc3339).unwrap();
    let (status, page) = service.get("/").await;
    assert_eq!(status, 200);
    for part in ["▲ FIRING", "✓ RESOLVED", "KafkaBrokerDown", "/runbooks"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let samples = service.samples().await;
    assert_eq!(samples["notifications_received_total{status=\"firing\"}"], 1.0);
    assert_eq!(samples["notifications_received_total{status=\"resolved\"}"], 1.0);
}

#[rstest]
#[case::empty("", StatusCode::BAD_REQUEST, "invalid_payload")]
#[case::no_json("payload=%7B%7D", StatusCode::BAD_REQUEST, "invalid_payload")]
#[case::no_text("{}", StatusCode::BAD_REQUEST, "no_text")]
#[case::wrong_type(r#"{"attachments": "x"}"#, StatusCode::BAD_REQUEST, "invalid_payload")]
#[tokio::test]
async fn what_is_no_payload_is_refused_and_counts_for_nothing(
    #[case] body: &'static str,
    #[case] status: StatusCode,
    #[case] why: &str,
) {
    let service = receiver();
    let answer = post(&service, body).await;
    assert!(answer.0 == status && answer.1.starts_with(why), "{answer:?}");
    assert_eq!(service.json("/api/notifications").await, json!([]));
    assert_eq!(service.samples().await["notifications_received_total{status=\"firing\"}"], 0.0);
}

#[tokio::test]
async fn a_payload_of_a_mebibyte_is_taken_and_one_more_byte_is_not() {
    let service = receiver();
    let around = json!({"text": ""}).to_string().len();
    let exact = json!({"text": "x".repeat((1 << 20) - around)}).to_string();
    assert_eq!(exact.len(), 1 << 20);
    assert_eq!(post(&service, exact.clone()).await.0, StatusCode::OK);
    assert_eq!(post(&service, exact + " ").await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(service.json("/api/notifications").await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn two_hundred_at_once_each_get_a_number() {
    let service = receiver();
    let posts = (0..200).map(|n| {
        let service = &service;
        async move { post(service, firing(&format!("A{n}"))).await.0 }
    });
    assert!(join_all(posts).await.iter().all(|status| *status == StatusCode::OK));
    let kept = service.json("/api/notifications").await;
    let ids: Vec<_> = kept.as_array().unwrap().iter().map(|n| n["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=200).collect::<Vec<_>>());
    assert_eq!(service.samples().await["notifications_received_total{status=\"firing\"}"], 200.0);
}

#[tokio::test]
async fn the_newest_thousand_are_kept_and_asked_for_by_number() {
    let service = receiver();
    for n in 1..=1100 {
        assert_eq!(post(&service, firing(&format!("A{n}"))).await.0, StatusCode::OK);
    }
    let kept = service.json("/api/notifications").await;
    assert_eq!((kept.as_array().unwrap().len(), &kept[0]["id"]), (1000, &json!(101)));
    let newest = service.json("/api/notifications?after=1099").await;
    assert_eq!(newest[0]["payload"]["attachments"][0]["title"], "[FIRING:1] A1100");
    assert_eq!(service.json("/api/notifications?after=1100").await, json!([]));
    assert_eq!(service.get("/api/notifications?after=x").await.0, 400);
}

#[tokio::test]
async fn payloads_that_never_arrive_take_little_memory_and_end() {
    let service = receiver();
    let address = service.url.strip_prefix("http://").unwrap();
    let half = vec![b' '; 990_000];
    let mut open = Vec::new();
    for _ in 0..150 {
        let mut connection = std::net::TcpStream::connect(address).unwrap();
        // What is not read yet stays in the sockets' buffers: then no more is sent.
        connection.set_nonblocking(true).unwrap();
        let head = b"POST /slack HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";
        connection.write_all(head).unwrap();
        open.push((connection, half.as_slice()));
    }
    // Everybody sends what is taken, until somebody is told that it takes too long.
    let mut answer = [0; 12];
    eventually("a payload is given up", PATIENCE, Duration::from_millis(50), || {
        for (connection, left) in &mut open {
            if let Ok(sent) = connection.write(left) {
                *left = &left[sent..];
            }
        }
        let told = open.iter_mut().any(|(c, _)| c.read_exact(&mut answer).is_ok());
        let left: usize = open.iter().map(|(_, left)| left.len()).sum();
        let seen = if told { Answer::Is(()) } else { Answer::NotYet(format!("{left} bytes were not taken")) };
        std::future::ready(Ok(seen))
    })
    .await
    .unwrap();
    assert_eq!(std::str::from_utf8(&answer).unwrap(), "HTTP/1.1 408");
    let peak = service.peak_memory();
    assert!(peak < 100 << 20, "{peak} bytes at its peak; the container has 128 MB");
    drop(open);
    assert_eq!(post(&service, firing("A")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_runbooks_are_a_page_with_an_anchor_for_each_alert() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "# Runbooks\n\n## KafkaBrokerDown\n\n1. `./lab status` <script>alert(1)</script>")
        .unwrap();
    let service = Service::start("receiver", &[("RUNBOOKS", file.path().to_str().unwrap())]);
    let answer = http().get(format!("{}/runbooks", service.url)).send().await.unwrap();
    let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'self'"), "{policy}");
    let page = answer.text().await.unwrap();
    assert!(page.contains("<h2 id=\"kafkabrokerdown\">KafkaBrokerDown</h2>"), "{page}");
    assert!(!page.contains("<script"), "{page}");
    let (status, why) = receiver().get("/runbooks").await;
    assert!(status == 404 && why.contains("nowhere/runbooks.md"), "{status} {why}");
}

#[rstest]
#[case::receiver("receiver")]
#[case::app("app")]
#[tokio::test]
async fn sigterm_ends_a_service_whatever_its_clients_do(#[case] what: &str) {
    // No broker answers there: app-service waits for one, and its end waits for none.
    let service = Service::start(what, &[("RUNBOOKS", "x"), ("BOOTSTRAP_SERVERS", "127.0.0.1:1")]);
    // One connection that never asks, one that never finishes its question.
    let address = service.url.strip_prefix("http://").unwrap();
    let _idle = std::net::TcpStream::connect(address).unwrap();
    let mut half = std::net::TcpStream::connect(address).unwrap();
    half.write_all(b"POST /slack HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{").unwrap();
    assert!(service.get("/metrics").await.0 == 200);
    service.terminate();
}

#[rstest]
#[case::receiver("receiver")]
#[case::app("app")]
#[tokio::test]
async fn a_taken_port_is_said(#[case] what: &str) {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let environment = [("RUNBOOKS", "x"), ("BOOTSTRAP_SERVERS", "127.0.0.1:1")];
    let output = command(what, &taken.to_string(), &environment).output().unwrap();
    drop(holder);
    let said = text(&output);
    assert!(!output.status.success() && said.contains(&format!("port {} is taken", taken.port())), "{said}");
}

/// Somebody who answers every origin, and says what came.
async fn open_to_all() -> String {
    use axum::response::IntoResponse as _;
    let says = |method: axum::http::Method, uri: axum::http::Uri, headers: HeaderMap, body: String| async move {
        let kind = headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or("none").to_owned();
        let open = [("access-control-allow-origin", "*"), ("location", "/elsewhere"), ("x-own", "kept")];
        (StatusCode::CONFLICT, open, format!("{method} {uri} {kind} {body}")).into_response()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(axum::serve(listener, axum::Router::new().fallback(says)).into_future());
    address
}

#[tokio::test]
async fn the_front_hands_on_what_is_meant_for_it_and_lets_no_other_page_in() {
    let to = open_to_all().await;
    let given = [("TO", to.as_str()), ("PUBLISHED_PORT", "59093"), ("INSIDE", "front:9093")];
    let front = Service::start("front", &given);
    let ask = |host: &'static str, origin: Option<&'static str>| {
        let request = http().delete(format!("{}/a/b?c=d%20e", front.url)).header("host", host);
        let request = request.header("content-type", "application/json").body("{}");
        origin.into_iter().fold(request, |request, origin| request.header("origin", origin)).send()
    };
    for (host, origin) in [
        ("localhost:59093", None),
        ("127.0.0.1:59093", None),
        ("front:9093", None),
        ("localhost:59093", Some("http://localhost:59093")),
    ] {
        let answer = ask(host, origin).await.unwrap();
        assert_eq!(answer.status(), StatusCode::CONFLICT, "{host} {origin:?}");
        let headers = answer.headers().clone();
        let header = |name| headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!((header("location"), header("x-own")), (Some("/elsewhere"), Some("kept")));
        assert_eq!(header("access-control-allow-origin"), None);
        assert_eq!(answer.text().await.unwrap(), "DELETE /a/b?c=d%20e application/json {}");
    }
    for (host, origin, refused) in [
        ("localhost:59093", Some("http://evil.example"), StatusCode::FORBIDDEN),
        ("localhost:59093", Some("http://localhost:9090"), StatusCode::FORBIDDEN),
        ("localhost:59093", Some("null"), StatusCode::FORBIDDEN),
        ("evil.example:59093", None, StatusCode::MISDIRECTED_REQUEST),
        ("localhost:9093", None, StatusCode::MISDIRECTED_REQUEST),
    ] {
        assert_eq!(ask(host, origin).await.unwrap().status(), refused, "{host} {origin:?}");
    }
    let large = http().post(format!("{}/a", front.url)).header("host", "localhost:59093");
    let large = large.body("x".repeat(300 << 10)).send().await.unwrap();
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

/// What a connection is answered to these bytes, after which nothing more is sent.
fn said(service: &Service, bytes: &[u8]) -> String {
    let address = service.url.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut first = [0; 64];
    let read = stream.read(&mut first).unwrap();
    String::from_utf8_lossy(&first[..read]).into_owned()
}

#[tokio::test]
async fn a_front_waits_for_nobody_for_long_and_keeps_little_of_many() {
    let to = open_to_all().await;
    let given = [("TO", to.as_str()), ("PUBLISHED_PORT", "59093"), ("INSIDE", "front:9093")];
    let front = Service::start("front", &given);
    let never = b"POST /a HTTP/1.1\r\nHost: localhost:59093\r\nContent-Length: 10\r\n\r\n";
    assert!(said(&front, never).starts_with("HTTP/1.1 408"));
    assert!(said(&front, b"OPTIONS * HTTP/1.1\r\nHost: localhost:59093\r\n\r\n").starts_with("HTTP/1.1 400"));
    let endless =
        [b"GET /a HTTP/1.1\r\nHost: localhost:59093\r\nX: ".as_slice(), &[b'x'; 200 << 10]].concat();
    assert!(said(&front, &endless).starts_with("HTTP/1.1 431"));
    // Nearly whole bodies of two hundred.
    let head = b"POST /a HTTP/1.1\r\nHost: localhost:59093\r\nContent-Length: 65000\r\n\r\n";
    let nearly = [head.as_slice(), &[b'x'; 64_900]].concat();
    let address = front.url.strip_prefix("http://").unwrap();
    let open: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
            // What is not taken yet is not sent.
            let _ = stream.write_all(&nearly);
            stream
        })
        .collect();
    let answer = http().get(format!("{}/a", front.url)).header("host", "localhost:59093").timeout(PATIENCE);
    assert_eq!(answer.send().await.unwrap().status(), StatusCode::CONFLICT);
    drop(open);
    let megabytes = front.peak_memory() >> 20;
    // Its container has 64.
    assert!(megabytes < 56, "{megabytes} MB");
}

#[tokio::test]
async fn a_front_says_who_does_not_answer() {
    let given = [("TO", "127.0.0.1:1"), ("PUBLISHED_PORT", "59093"), ("INSIDE", "front:9093")];
    let (status, text) = Service::start("front", &given).get("/-/ready").await;
    assert_eq!(status, 502);
    assert!(text.starts_with("http://127.0.0.1:1 does not answer: "), "{text}");
}

#[tokio::test]
async fn an_app_that_has_no_broker_says_so_and_goes_on() {
    let mut service = Service::start("app", &[("BOOTSTRAP_SERVERS", "127.0.0.1:1")]);
    let (status, why) = service.get("/health").await;
    assert!(status == 503 && !why.trim().is_empty(), "{status} {why}");
    assert_eq!(service.json("/merchants").await, json!([]));
    assert_eq!(service.get("/merchants/a%2Fb").await.0, 404);
    let (status, body) = service.get("/merchants/nobody").await;
    assert_eq!(status, 404);
    assert!(serde_json::from_str::<Value>(&body).unwrap()["message"].as_str().unwrap().contains("nobody"));
    assert_eq!(service.get("/nowhere").await.0, 404);
    let samples = service.samples().await;
    assert_eq!(samples["http_requests_total{method=\"GET\",path=\"/merchants/{id}\",status=\"404\"}"], 2.0);
    assert_eq!(samples["http_requests_total{method=\"GET\",path=\"other\",status=\"404\"}"], 1.0);
    assert_eq!(samples["http_requests_total{method=\"GET\",path=\"/health\",status=\"503\"}"], 1.0);
    assert_eq!(samples["http_request_duration_seconds_count{path=\"/merchants\"}"], 1.0);
    assert_eq!(samples["consumer_records_total{topic=\"financial_transactions\"}"], 0.0);
    assert!(service.runs());
}

#[test]
fn setup_monitoring_fills_in_and_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to, alerting) =
        (folder.path().join("from"), folder.path().join("to"), folder.path().join("alerting"));
    for (file, text) in [
        ("prometheus/prometheus.yml", "alerting: [${ALERTMANAGER}]\nglobal: $1\n"),
        ("alertmanager/alertmanager.yml", "route: ${MAIL_SINK}\n"),
        ("prometheus/rules/a.yml", "groups: []\n"),
    ] {
        let path = from.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let run = |more: &[(&str, &str)]| {
        let mut command = support::lab(&["setup", "monitoring", "--from"]);
        command.arg(&from).arg("--to").arg(&to).arg("--alerting").arg(&alerting);
        command.env("ALERTMANAGER", "am:9093");
        command.env("TARGETS", "[]").env("PROBES", r#"[{"targets":["x"]}]"#);
        command.env("DEFAULT_SLACK_URL", "http://alert-receiver:8080/slack");
        command.envs(more.iter().copied()).output().unwrap()
    };
    let said = text(&run(&[]));
    assert!(said.contains("alertmanager/alertmanager.yml: line 1: no variable MAIL_SINK"), "{said}");
    assert!(!to.exists() && !alerting.exists(), "nothing is written where something is wrong");
    let output = run(&[("MAIL_SINK", "mail:1025")]);
    assert!(output.status.success(), "{}", text(&output));
    let texts = |folder| {
        use std::os::unix::fs::PermissionsExt as _;
        let mut texts = BTreeMap::new();
        for file in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o644);
            let text = std::fs::read_to_string(file.path()).unwrap();
            texts.insert(file.file_name().into_string().unwrap(), text);
        }
        texts
    };
    let expected = |files: &[(&str, &str)]| -> BTreeMap<String, String> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    };
    assert_eq!(
        texts(&to),
        expected(&[
            ("prometheus.yml", "alerting: [am:9093]\nglobal: $1\n"),
            ("targets.json", "[]"),
            ("probes.json", r#"[{"targets":["x"]}]"#),
        ]),
        "no secret where Prometheus reads"
    );
    assert_eq!(
        texts(&alerting),
        expected(&[
            ("alertmanager.yml", "route: mail:1025\n"),
            ("slack-url", "http://alert-receiver:8080/slack"),
        ])
    );
    let said = text(&run(&[("MAIL_SINK", "mail:1025"), ("TARGETS", "{}")]));
    assert!(said.contains("the variable TARGETS"), "{said}");
}
