//! What Prometheus and Alertmanager would refuse in the files that they read, with the line, before they read them: no YAML, a key or
//! a rule of another form, an expression that is no PromQL. The rest they say themselves when they start.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;

/// The keys of Prometheus' configuration.
const PROMETHEUS: [&str; 11] = [
    "global",
    "runtime",
    "rule_files",
    "scrape_configs",
    "scrape_config_files",
    "alerting",
    "remote_write",
    "remote_read",
    "storage",
    "tracing",
    "otlp",
];
/// The keys of Alertmanager's.
const ALERTMANAGER: [&str; 9] = [
    "global",
    "templates",
    "route",
    "receivers",
    "inhibit_rules",
    "mute_time_intervals",
    "time_intervals",
    "tracing",
    "event_recorder",
];

/// Which file it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Prometheus,
    Alertmanager,
    Rules,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Option<Vec<Group>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: Spanned<String>,
    #[serde(rename = "interval")]
    _interval: Option<IgnoredAny>,
    #[serde(rename = "query_offset")]
    _query_offset: Option<IgnoredAny>,
    #[serde(rename = "limit")]
    _limit: Option<u64>,
    #[serde(rename = "labels")]
    _labels: Option<BTreeMap<String, IgnoredAny>>,
    rules: Option<Vec<Spanned<Rule>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    record: Option<String>,
    alert: Option<String>,
    expr: Spanned<String>,
    #[serde(rename = "for")]
    _pending: Option<IgnoredAny>,
    #[serde(rename = "keep_firing_for")]
    _keep_firing_for: Option<IgnoredAny>,
    #[serde(rename = "labels")]
    _labels: Option<BTreeMap<String, IgnoredAny>>,
    annotations: Option<BTreeMap<String, IgnoredAny>>,
}

/// Whether a file has the form that its product takes.
///
/// # Errors
/// What is wrong, with its line.
pub(super) fn check(kind: Kind, text: &str) -> Result<(), String> {
    match kind {
        Kind::Prometheus => keys(text, &PROMETHEUS),
        Kind::Alertmanager => keys(text, &ALERTMANAGER),
        Kind::Rules => rules(text),
    }
}

fn keys(text: &str, known: &[&str]) -> Result<(), String> {
    let found: BTreeMap<String, IgnoredAny> = read(text)?;
    let Some(key) = found.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
    // A key of the whole file begins its line.
    let of_key =
        |line: &str| line.strip_prefix(key.as_str()).is_some_and(|rest| rest.trim_start().starts_with(':'));
    let line = text.lines().position(of_key).map_or(String::new(), |n| format!("line {}: ", n + 1));
    Err(format!("{line}nothing is named {key} here; there are {}", known.join(", ")))
}

fn rules(text: &str) -> Result<(), String> {
    let file: Rules = read(text)?;
    let mut names = BTreeSet::new();
    for group in file.groups.iter().flatten() {
        let line = group.name.referenced.line();
        if !names.insert(&group.name.value) {
            return Err(format!("line {line}: a second group is named {}", group.name.value));
        }
        for rule in group.rules.iter().flatten() {
            let line = rule.referenced.line();
            let Rule { record, alert, expr, annotations, .. } = &rule.value;
            if record.is_some() == alert.is_some() {
                return Err(format!("line {line}: a rule has either `record` or `alert`"));
            }
            if record.is_some() && annotations.is_some() {
                return Err(format!("line {line}: a rule with `record` has no annotations"));
            }
            let parsed = promql_parser::parser::parse(&expr.value);
            // Functions come and go with Prometheus' versions: which there are, it knows itself.
            if let Err(why) = parsed.map_err(|why| why.to_string())
                && !why.contains("unknown function")
            {
                return Err(format!("line {}: no PromQL: {why}", expr.referenced.line()));
            }
        }
    }
    Ok(())
}

fn read<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string().trim_start_matches("error: ").to_owned())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const GOOD: &str = "groups:\n  - name: a\n    interval: 5s\n    rules:\n      - record: a:b:c\n        expr: sum by (x) (up)\n      - alert: X\n        expr: >-\n          up\n          == 0\n        for: 5s\n        labels: { severity: warning }\n        annotations: { summary: \"{{ $value }}\" }\n";

    #[rstest]
    #[case::good("up\n", "up\n", None)]
    #[case::a_function_of_another_version("sum by (x) (up)", "of_tomorrow(up)", None)]
    #[case::no_label("severity: warning", "severity:", None)]
    #[case::an_expression("sum by (x) (up)", "sum by x (up)", Some("line 6: no PromQL"))]
    #[case::an_expression_of_two_lines("          == 0", "          == = 0", Some("line 9: no PromQL"))]
    #[case::a_key("for: 5s", "four: 5s", Some("four"))]
    #[case::no_kind("- alert: X\n", "- record: y\n        alert: X\n", Some("either `record` or `alert`"))]
    #[case::no_yaml("groups:", "groups: [", Some("line"))]
    #[case::nothing("groups:", "group:", Some("group"))]
    fn rules_are_refused_with_their_line(#[case] from: &str, #[case] to: &str, #[case] says: Option<&str>) {
        assert!(GOOD.contains(from));
        let found = check(Kind::Rules, &GOOD.replacen(from, to, 1));
        match says {
            None => assert_eq!(found, Ok(())),
            Some(says) => assert!(found.as_ref().is_err_and(|why| why.contains(says)), "{found:?}"),
        }
    }

    #[rstest]
    #[case::comments("# later\n")]
    #[case::no_groups("groups:\n")]
    #[case::no_rules("groups:\n  - name: a\n    rules:\n")]
    fn what_holds_nothing_is_no_mistake(#[case] text: &str) {
        assert_eq!(check(Kind::Rules, text), Ok(()));
    }

    #[test]
    fn two_groups_of_one_name_are_refused() {
        let two = "groups:\n  - name: a\n  - name: a\n";
        assert_eq!(check(Kind::Rules, two), Err("line 3: a second group is named a".to_owned()));
    }

    #[test]
    fn a_configuration_has_known_keys_only() {
        assert_eq!(check(Kind::Prometheus, "global:\n  scrape_interval: 5s\n"), Ok(()));
        let why = check(Kind::Prometheus, "scrape_configs: []\nscrape_config: []\n").unwrap_err();
        assert!(why.starts_with("line 2: nothing is named scrape_config here"), "{why}");
        assert!(check(Kind::Alertmanager, "route: {}\nglobal\n").is_err());
    }
}
