//! `streamlab setup monitoring`: fills in the files of products that cannot read the environment, writes what they find their
//! targets by, and refuses what they would refuse.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use super::monitoring_files::{Kind, check};
use crate::topology::instance_option;

/// Files that are filled in, by their place in the source; each keeps its name.
const PROMETHEUS: &str = "prometheus/prometheus.yml";
const ALERTMANAGER: &str = "alertmanager/alertmanager.yml";
/// Prometheus' rules: it reads them where they are, and they are looked at only.
const RULES: &str = "prometheus/rules";
/// Files that are written from a variable: lists of targets in the form of Prometheus's file_sd.
const LISTS: [(&str, &str); 2] = [("targets.json", "TARGETS"), ("probes.json", "PROBES")];
/// A webhook of the user's own, within the source.
const SLACK_URL: &str = "secrets/slack-url";
/// The webhook where there is none.
const DEFAULT_SLACK_URL: &str = "DEFAULT_SLACK_URL";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder with the files as the project has them.
    #[arg(long, default_value = "/opt/streamlab/monitoring")]
    from: PathBuf,
    /// Folder for the files as Prometheus reads them.
    #[arg(long, default_value = "/etc/streamlab/monitoring")]
    to: PathBuf,
    /// Folder for Alertmanager's, which hold a secret that nobody else needs.
    #[arg(long, default_value = "/etc/streamlab/alerting")]
    alerting: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let variable = |name: &str| match name {
        // For the commands that alerts advise.
        "OPTION" => std::env::var("INSTANCE").ok().map(|instance| instance_option(&instance)),
        _ => std::env::var(name).ok(),
    };
    // Everything is looked at before anything is written.
    let mut files = Vec::new();
    for (folder, source, kind) in
        [(&args.to, PROMETHEUS, Kind::Prometheus), (&args.alerting, ALERTMANAGER, Kind::Alertmanager)]
    {
        let path = args.from.join(source);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let name = source.rsplit('/').next().unwrap_or(source);
        let filled = fill(&text, variable).map_err(|why| anyhow!("{}: {why}", path.display()))?;
        check(kind, &filled).map_err(|why| anyhow!("{}: {why}", path.display()))?;
        files.push((folder, name, filled, path.display().to_string()));
    }
    for path in rules(&args.from.join(RULES))? {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        check(Kind::Rules, &text).map_err(|why| anyhow!("{}: {why}", path.display()))?;
    }
    for (name, source) in LISTS {
        let list = variable(source).with_context(|| format!("the variable {source} is missing"))?;
        check_targets(&list).with_context(|| format!("the variable {source}"))?;
        files.push((&args.to, name, list, format!("the variable {source}")));
    }
    let (url, source) = slack_url(&args.from.join(SLACK_URL), variable(DEFAULT_SLACK_URL))?;
    files.push((&args.alerting, "slack-url", url, source));
    for (folder, name, text, source) in files {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        write(folder, name, &text)?;
        println!("{}: from {source}", folder.join(name).display());
    }
    Ok(())
}

/// The files that Prometheus would read as rules, in the order of their names.
fn rules(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "yml"));
    paths.sort();
    Ok(paths)
}

/// Puts in the value of each `${NAME}` (upper-case letters, digits, `_`). `$$` stays, and what follows it is no name: in
/// Prometheus's files it stands for one dollar. `$1`, `${1}` and `{{ $labels.x }}` are no names either.
fn fill(text: &str, value: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let mut rest = line;
        while let Some(at) = rest.find('$') {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            let name =
                from.strip_prefix("${").and_then(|inside| inside.split_once('}')).map(|(name, _)| name);
            rest = match name.filter(|name| is_name(name)) {
                Some(name) => {
                    let found = value(name).ok_or_else(|| format!("line {number}: no variable {name}"))?;
                    if found.chars().any(char::is_control) {
                        return Err(format!("line {number}: the variable {name} has more than one line"));
                    }
                    out.push_str(&found);
                    &from[name.len() + 3..]
                }
                None => {
                    let kept = if from.starts_with("$$") { 2 } else { 1 };
                    out.push_str(&from[..kept]);
                    &from[kept..]
                }
            };
        }
        out.push_str(rest);
    }
    Ok(out)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// What Prometheus takes: a list of groups, each with a list of targets. It would say so in its log only, and watch nothing.
fn check_targets(text: &str) -> Result<()> {
    let list: Value = serde_json::from_str(text).context("no JSON")?;
    let groups = list.as_array().context("no JSON array")?;
    for group in groups {
        let targets = group["targets"].as_array();
        if !targets.is_some_and(|t| t.iter().all(Value::is_string)) {
            bail!("{group} has no list of targets");
        }
    }
    Ok(())
}

/// The webhook, and where it comes from. It is a secret: no error shows it.
fn slack_url(file: &Path, default: Option<String>) -> Result<(String, String)> {
    let own = match std::fs::read_to_string(file) {
        Ok(text) => text.lines().map(str::trim).find(|l| !l.is_empty()).map(str::to_owned),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| file.display().to_string()),
    };
    let (url, source) = match own {
        Some(url) => (url, file.display().to_string()),
        None => {
            let default = default.with_context(|| format!("the variable {DEFAULT_SLACK_URL} is missing"))?;
            (default, format!("the variable {DEFAULT_SLACK_URL}"))
        }
    };
    let sound = url::Url::parse(&url)
        .is_ok_and(|parsed| matches!(parsed.scheme(), "http" | "https") && parsed.has_host());
    if !sound {
        bail!("{source} holds no address that begins with http:// or https:// and names a host");
    }
    Ok((url, source))
}

/// Writes a file whole, readable for every user, the webhook too: upstream's Alertmanager runs as nobody, and only its
/// containers have the volume.
fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    let half = folder.join(format!(".{name}"));
    let written = std::fs::write(&half, text).and_then(|()| readable(&half));
    written.and_then(|()| std::fs::rename(&half, &path)).with_context(|| path.display().to_string())
}

#[cfg(unix)]
fn readable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn with_a(text: &str) -> Result<String, String> {
        fill(text, |name| (name == "A_1").then(|| "x:1".to_owned()))
    }

    #[rstest]
    #[case::in_a_line("- ${A_1}/metrics\n", "- x:1/metrics\n")]
    #[case::twice("${A_1}${A_1}", "x:1x:1")]
    #[case::group("replacement: $1 ${1} ${a}", "replacement: $1 ${1} ${a}")]
    #[case::escaped("$$ $${A_1} $$${A_1}", "$$ $${A_1} $$x:1")]
    #[case::template("{{ $labels.x }} {{ $value }}", "{{ $labels.x }} {{ $value }}")]
    #[case::no_end("${A_1", "${A_1")]
    #[case::nothing("${} $", "${} $")]
    #[case::a_name_begins_with_a_letter("${_A} ${1A}", "${_A} ${1A}")]
    #[case::other_letters("ü ${A_1} ${Ü}", "ü x:1 ${Ü}")]
    #[case::nested("${${A_1}}", "${x:1}")]
    fn names_are_filled_and_nothing_else(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(with_a(text).unwrap(), expected);
    }

    #[test]
    fn an_unknown_name_is_said_with_its_line() {
        assert_eq!(with_a("a\n${A_1}\n  b: ${NOPE}\n").unwrap_err(), "line 3: no variable NOPE");
    }

    #[test]
    fn a_value_cannot_add_lines() {
        assert!(fill("a: ${X}", |_| Some("1\nb: 2".to_owned())).unwrap_err().contains("more than one line"));
    }

    proptest! {
        #[test]
        fn a_text_without_names_stays(text in "[a-z0-9${} \n]{0,60}") {
            prop_assert_eq!(with_a(&text), Ok(text));
        }

        #[test]
        fn what_is_put_in_is_not_filled_again(before in "[a-z \n]{0,9}", after in "[a-z \n]{0,9}") {
            let filled = fill(&format!("{before}${{X}}{after}"), |_| Some("${Y}".to_owned()));
            prop_assert_eq!(filled, Ok(format!("{before}${{Y}}{after}")));
        }

        #[test]
        fn no_text_breaks_it(text: String) {
            let _ = with_a(&text);
        }
    }

    #[rstest]
    #[case::none("[]", true)]
    #[case::groups(r#"[{"targets":["a:1"],"labels":{"job":"x"}}]"#, true)]
    #[case::no_array(r#"{"targets":[]}"#, false)]
    #[case::no_targets(r#"[{"target":["a:1"]}]"#, false)]
    #[case::no_text(r#"[{"targets":[1]}]"#, false)]
    #[case::no_json("[", false)]
    fn lists_are_checked(#[case] text: &str, #[case] sound: bool) {
        assert_eq!(check_targets(text).is_ok(), sound);
    }

    #[rstest]
    #[case::own(Some("\n  https://hooks.example.org/T/B  \nsecond\n"), "https://hooks.example.org/T/B")]
    #[case::none(None, "http://default:8080/slack")]
    #[case::empty(Some("\n \n"), "http://default:8080/slack")]
    fn the_webhook_is_the_users_or_the_labs(#[case] file: Option<&str>, #[case] expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slack-url");
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
        }
        let (url, _) = slack_url(&path, Some("http://default:8080/slack".to_owned())).unwrap();
        assert_eq!(url, expected);
    }

    #[rstest]
    #[case::other_scheme("ftp://secret/x")]
    #[case::no_scheme("hooks.example.org/secret")]
    #[case::no_host("https:///")]
    fn a_wrong_webhook_is_not_shown(#[case] text: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slack-url");
        std::fs::write(&path, text).unwrap();
        let error = format!("{:#}", slack_url(&path, None).unwrap_err());
        assert!(error.contains("slack-url holds no address") && !error.contains("secret"), "{error}");
    }
}
