//! The lab's own pipeline files, held to the table of what must become of real lines; and what is refused, by its line.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use rstest::rstest;
use serde_json::{Value, json};
use streamlab_pipeline::{Event, Filters, Surroundings, pipelines};
use time::OffsetDateTime;

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring/logstash")
}

fn filters(name: &str) -> Filters {
    let text = std::fs::read_to_string(files().join("pipeline").join(name)).unwrap();
    Filters::parse(&text).unwrap()
}

fn event(message: &str) -> Event {
    Event::new(message.to_owned(), OffsetDateTime::UNIX_EPOCH, "1".to_owned())
}

fn filtered(filters: &Filters, mut event: Event) -> Value {
    filters.apply(&mut event);
    if event.dropped { Value::Null } else { event.document() }
}

#[test]
fn lines_of_kafka_become_the_fields_of_the_table() {
    let table: Value =
        serde_json::from_slice(&std::fs::read(files().join("expected.json")).unwrap()).unwrap();
    let filters = filters("kafka-logs.conf");
    let rows = table.as_array().unwrap();
    assert!(rows.len() >= 9);
    for row in rows {
        let lines: Vec<&str> = row["lines"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
        let mut event = event(&lines.join("\n"));
        if lines.len() > 1 {
            event.tag("multiline");
        }
        event.fields.insert(
            "log".to_owned(),
            json!({ "file": { "path": format!("/usr/logs/{}", row["file"].as_str().unwrap()) } }),
        );
        let document = filtered(&filters, event);
        for (field, wanted) in row["fields"].as_object().unwrap() {
            assert_eq!(&document[field], wanted, "{}: {field} of {document:#}", row["about"]);
        }
        assert_eq!(document["message"], lines.join("\n"), "nothing of a line is lost");
    }
}

#[test]
fn applications_lines_become_fields_and_none_is_lost() {
    let line = r#"{"timestamp":"2026-11-30T03:00:01.500Z","level":"error","service":"checkout","message":"card refused"}"#;
    let dev = filters("dev-logs.conf");
    let document = filtered(&dev, event(line));
    assert_eq!(
        document,
        json!({
            "@timestamp": "2026-11-30T03:00:01.500Z", "@version": "1", "environment": "dev", "level": "ERROR", "service": "checkout",
            "message": "card refused",
        })
    );
    let document = filtered(&dev, event("no JSON"));
    assert_eq!(document["message"], "no JSON");
    assert_eq!(document["tags"], json!(["_jsonparsefailure"]));
    let document = filtered(&dev, event(r#"{"timestamp":"soon","level":"INFO"}"#));
    assert_eq!(document["tags"], json!(["_dateparsefailure"]));
    assert_eq!(document["timestamp"], "soon");

    let prod = filters("prod-logs.conf");
    assert_eq!(filtered(&prod, event(r#"{"level":"DEBUG","message":"x"}"#)), Value::Null);
    assert_eq!(filtered(&prod, event(line))["environment"], "prod");
}

/// The reason why one pipeline file is refused.
fn refused(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (conf, list) = (folder.path().join("a.conf"), folder.path().join("pipelines.yml"));
    std::fs::write(&conf, text).unwrap();
    std::fs::write(&list, format!("- pipeline.id: a\n  path.config: {}\n", conf.display())).unwrap();
    let variable = |name: &str| (name == "HOST").then(|| "search".to_owned());
    match pipelines(&list, &Surroundings { variable: &variable }) {
        Ok(_) => "nothing is wrong".to_owned(),
        Err(why) => format!("{why:#}").replace(&format!("{}: ", conf.display()), ""),
    }
}

const OUTPUT: &str = "output { elasticsearch { hosts => \"http://${HOST}:1\" index => \"i\" } }\n";
const INPUT: &str = "input { tcp { port => 5000 } }\n";

#[rstest]
#[case::nothing("filter {\n}\n", "nothing is wrong")]
#[case::a_word("fliter {\n}\n", "line 3: expected input, filter or output, found `fliter {`")]
#[case::no_brace("filter {\n  grok\n", "line 5: expected `{` after a plugin's name, the file ends")]
#[case::no_end("filter {\n  grok {\n", "line 5: expected an option or `}`, the file ends")]
#[case::no_arrow(
    "filter {\n  grok { match \"a\" }\n}\n",
    "line 4: expected `=>` after an option's name, found `\"a\" }`"
)]
#[case::no_value("filter {\n  json { source => }\n}\n", "line 4: expected a value, found `}`")]
#[case::open_quote(
    "filter {\n  json { source => \"a }\n}\n",
    "line 6: expected the end of a text in quotes, the file ends"
)]
#[case::commas_in_a_hash(
    "filter {\n  mutate { rename => { \"a\" => \"b\", \"c\" => \"d\" } }\n}\n",
    "line 4: expected a key or `}`; entries are separated by white space, found `, \"c\" => \"d\" } }`"
)]
#[case::unknown_filter(
    "filter {\n\n  ruby { code => \"\" }\n}\n",
    "line 5: no filter ruby here; known are grok, date, mutate, json and drop"
)]
#[case::unknown_input(
    "input { stdin { } }\n",
    "line 3: no input stdin here; known are file, kafka, tcp and beats"
)]
#[case::unknown_output("output { stdout { } }\n", "line 3: no output stdout here; known is elasticsearch")]
#[case::unknown_option(
    "filter {\n  json {\n    source => \"a\"\n    colour => \"b\"\n  }\n}\n",
    "line 6: json has no option colour here"
)]
#[case::missing_option("filter { json { } }\n", "line 3: json needs the option source")]
#[case::unknown_pattern(
    "filter { grok { match => { \"a\" => \"%{NOPE:b}\" } } }\n",
    "line 3: no pattern is called NOPE"
)]
#[case::a_pattern_that_is_none(
    "filter { grok { match => { \"a\" => \"(b\" } } }\n",
    "line 3: \"(b\" is no pattern: "
)]
#[case::a_pattern_in_itself(
    "filter { grok { pattern_definitions => { \"A\" => \"%{A}\" } match => { \"a\" => \"%{A}\" } } }\n",
    "line 3: \"%{A}\": the patterns stand in each other without an end"
)]
#[case::no_field(
    "filter { mutate { rename => { \"[a]b\" => \"c\" } } }\n",
    "line 3: \"[a]b\" is no field: write name or [name][name]"
)]
#[case::no_year(
    "filter { date { match => [\"a\", \"MMM dd\"] } }\n",
    "line 3: the format \"MMM dd\" has no year: it would be guessed"
)]
#[case::a_zone_by_name(
    "filter { date { match => [\"a\", \"ISO8601\"] timezone => \"Europe/Paris\" } }\n",
    "line 3: timezone \"Europe/Paris\": write UTC, or a distance such as +02:00"
)]
#[case::a_list_of_one(
    "filter { if [a] in [\"x\"] { drop { } } }\n",
    "line 3: a list of one is no list for Logstash: write == instead of in"
)]
#[case::and_with_or(
    "filter {\n  if [a] and [b] or [c] { drop { } }\n}\n",
    "line 4: expected parentheses where `and` and `or` are mixed, found `or [c] { drop { } }`"
)]
#[case::xor(
    "filter { if [a] xor [b] { drop { } } }\n",
    "line 3: expected `and`, `or` or `{`: xor and nand are not known here, found `xor [b] { drop { } } }`"
)]
#[case::a_variable("filter { json { source => \"${NOPE}\" } }\n", "line 3: there is no variable NOPE")]
#[case::templates_of_its_own(
    "output { elasticsearch { hosts => \"http://search:1\" index => \"i\" manage_template => true } }\n",
    "line 3: elasticsearch has manage_template only as false, not true"
)]
#[case::an_input_in_a_condition(
    "input { if [a] { tcp { port => 1 } } }\n",
    "line 3: inputs have no conditions: nothing is read yet that could be asked"
)]
#[case::no_places(
    "input { file { path => \"/a\" sincedb_path => \"/dev/null\" } }\n",
    "line 3: sincedb_path /dev/null: places are always kept here; remove the file instead"
)]
#[case::a_time_that_is_none(
    "input { file { path => \"/a\" codec => multiline { pattern => \"a\" auto_flush_interval => -1 } } }\n",
    "line 3: auto_flush_interval must be a number from 0.1 to 3600, not -1"
)]
#[case::a_number_that_is_none(
    "input { file { path => \"/a\" stat_interval => \"nan\" } }\n",
    "line 3: stat_interval must be a number from 0.05 to 60, not nan"
)]
#[case::a_list_of_one_number(
    "filter { if [a] in [5] { drop { } } }\n",
    "line 3: a list of one is no list for Logstash: write == instead of in"
)]
#[case::a_document_in_anothers_place(
    "output { elasticsearch { hosts => \"http://search:1\" index => \"i\" document_id => \"%{a}\" } }\n",
    "line 3: with document_id only action => \"create\" is known here"
)]
#[case::no_port("input { tcp { port => 123456 } }\n", "line 3: port \"123456\" is none")]
fn a_mistake_is_named_with_its_line(#[case] text: &str, #[case] says: &str) {
    let found = refused(&format!("{INPUT}{OUTPUT}{text}"));
    assert!(found.starts_with(says), "{found}");
}

#[test]
fn a_file_without_an_output_is_refused() {
    assert!(refused(INPUT).contains("there is no output"), "{}", refused(INPUT));
}

#[rstest]
#[case::parentheses("if ", "(", "[a]")]
#[case::lists("mutate { add_tag => ", "[", "")]
#[case::conditions("", "if [a] { ", "")]
fn what_is_too_deep_is_refused(#[case] before: &str, #[case] open: &str, #[case] after: &str) {
    let text = format!("{INPUT}{OUTPUT}filter {{ {before}{}{after}", open.repeat(50_000));
    let found = refused(&text);
    assert!(found.starts_with("line 3: more than 100 braces"), "{found}");
}

fn one(text: &str, message: &str) -> Value {
    filtered(&Filters::parse(text).unwrap(), event(message))
}

#[rstest]
#[case::part_of_a_text("\"ess\" in [message]", true)]
#[case::not_in_nothing("\"x\" not in [tags]", true)]
#[case::in_nothing("\"x\" in [tags]", false)]
#[case::in_a_list("[message] in [\"a\", \"a message\"]", true)]
#[case::a_number_is_no_text("[number] == \"200\"", false)]
#[case::numbers("[number] == 200 and [number] >= 199 and [number] < 200.5", true)]
#[case::of_two_kinds("[number] < \"300\"", false)]
#[case::a_pattern("[message] =~ /^a m/", true)]
#[case::a_pattern_on_a_number("[number] =~ /2/", false)]
#[case::no_pattern("[message] !~ \"z\"", true)]
#[case::zero_is_there("[zero]", true)]
#[case::false_is_not("[false] or [empty] or [missing]", false)]
#[case::parentheses("!([message] == \"b\") and ([zero] or [missing])", true)]
#[case::two_missing("[missing] == [gone]", true)]
fn a_condition_holds_as_in_logstash(#[case] condition: &str, #[case] holds: bool) {
    let text = format!(
        "filter {{ mutate {{ add_field => {{ \"number\" => 200 \"zero\" => 0 \"false\" => \"false\" \"empty\" => \"\" }} }}
         if {condition} {{ mutate {{ add_tag => [\"yes\"] }} }} else {{ mutate {{ add_tag => [\"no\"] }} }} }}"
    );
    assert_eq!(one(&text, "a message")["tags"], json!([if holds { "yes" } else { "no" }]));
}

#[test]
fn a_pattern_that_goes_back_without_an_end_is_given_up() {
    // It looks ahead, so that no engine can do it in one go.
    let text = r#"filter { grok { match => { "message" => "\A(a|aa)+(?=b)c" } } }"#;
    let message = format!("{}bd", "a".repeat(60));
    let document = one(text, &message);
    assert_eq!(document["tags"], json!(["_groktimeout"]));
    assert_eq!(document["message"], message);
}

#[test]
fn fields_are_changed_in_logstashs_order() {
    let text = r##"filter { mutate {
        copy => { "e" => "f" }
        gsub => ["message", "a(.)", "<\1>$"]
        convert => { "number" => "integer" }
        rename => { "b" => "message" }
        split => { "list" => "," }
        lowercase => ["message"]
    } }"##;
    let mut made = event("gone");
    made.fields.extend([
        ("b".to_owned(), json!("xaY")),
        ("number".to_owned(), json!("12.7")),
        ("list".to_owned(), json!("1,2")),
        ("e".to_owned(), json!({ "inner": 1 })),
    ]);
    let document = filtered(&Filters::parse(text).unwrap(), made);
    assert_eq!(document["message"], "x<y>$");
    assert_eq!(
        (&document["number"], &document["list"], &document["f"]),
        (&json!(12), &json!(["1", "2"]), &json!({ "inner": 1 }))
    );
}

#[test]
fn numbers_are_read_as_far_as_they_go() {
    let text = r#"filter { grok { match => { "message" => "%{NOTSPACE:whole:int} %{NOTSPACE:part:float} %{NOTSPACE:none:int}" } } }"#;
    let document = one(text, "12x 6.402ms abc");
    assert_eq!(
        (&document["whole"], &document["part"], &document["none"]),
        (&json!(12), &json!(6.402), &json!(0))
    );
}
