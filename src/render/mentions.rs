//! Ports that hand-written pages mention as `localhost:NUMBER`. A page says in one comment which ports those are; rendering brings
//! the numbers up to date when a port has moved. Nothing else of a hand-written page is touched.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};

use crate::topology::{LabFile, Plan};

/// The comment begins so; it goes on with `TOKEN=NUMBER …`, and ends with ` -->`.
const HEAD: &str = "<!-- ports on this page, kept by ./lab render: ";
const HOST: &str = "localhost:";
/// Links of Grafana's dashboards lead to the runbooks: JSON has no comments to say so.
const OF_DASHBOARDS: &str = "alert-receiver.web";

/// A Markdown page with its ports as they are now; none where it mentions none.
///
/// # Errors
/// A number that the comment does not name, a token that no lab knows, or one that the page does not use: with the line.
pub(super) fn page(file: &LabFile, plans: &[Plan], path: &str, text: &str) -> Result<Option<String>> {
    let comment = text.lines().enumerate().find_map(|(n, line)| Some((n, line.strip_prefix(HEAD)?)));
    let Some((at, ports)) = comment else {
        if let Some(line) = text.lines().position(|line| mentions(line).next().is_some()) {
            bail!("{path}:{}: a port is mentioned: add a line `{HEAD}SERVICE.PORT=NUMBER -->`", line + 1);
        }
        return Ok(None);
    };
    let place = format!("{path}:{}", at + 1);
    let mut now = BTreeMap::new();
    let mut comment = Vec::new();
    for item in ports.trim_end_matches(" -->").split_whitespace() {
        let (token, old) =
            item.split_once('=').with_context(|| format!("{place}: {item:?} is no TOKEN=NUMBER"))?;
        let new = plans.iter().find_map(|plan| plan.fill(file, &format!("{{{token}}}")).ok());
        let new = new.with_context(|| format!("{place}: no lab has a port {{{token}}}"))?;
        comment.push(format!("{token}={new}"));
        if now.insert(old.to_owned(), new).is_some() {
            bail!("{place}: {old} is named twice");
        }
    }
    let mut used = BTreeSet::new();
    let mut lines = Vec::new();
    for (n, line) in text.lines().enumerate() {
        lines.push(if n == at {
            format!("{HEAD}{} -->", comment.join(" "))
        } else {
            replaced(line, |number| {
                used.insert(number.to_owned());
                let new = now.get(number);
                Ok(new
                    .with_context(|| {
                        format!("{path}:{}: the comment in line {} does not name {number}", n + 1, at + 1)
                    })?
                    .clone())
            })?
        });
    }
    if let Some(unused) = now.keys().find(|old| !used.contains(*old)) {
        bail!("{place}: {unused} is not mentioned on the page: take it out");
    }
    Ok(Some(lines.join("\n") + "\n"))
}

/// A dashboard with its links as they are now.
///
/// # Errors
/// No lab has the service that serves the runbooks.
pub(super) fn dashboard(file: &LabFile, plans: &[Plan], text: &str) -> Result<String> {
    let port = plans.iter().find_map(|plan| plan.fill(file, &format!("{{{OF_DASHBOARDS}}}")).ok());
    match port {
        Some(port) => replaced(text, |_| Ok(port.clone())),
        None => bail!("dashboards link to the runbooks, and no lab has {OF_DASHBOARDS}"),
    }
}

fn mentions(text: &str) -> impl Iterator<Item = &str> {
    text.split(HOST).skip(1).map(number).filter(|n| !n.is_empty())
}

fn number(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())]
}

fn replaced(text: &str, mut new: impl FnMut(&str) -> Result<String>) -> Result<String> {
    let mut parts = text.split(HOST);
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        whole += HOST;
        let old = number(part);
        if !old.is_empty() {
            whole += &new(old)?;
        }
        whole += &part[old.len()..];
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::topology::Instance;

    fn page_of(text: &str) -> Result<Option<String>> {
        let tiny = include_str!("../../tests/tiny/lab.toml");
        let file = LabFile::parse(tiny).expect("the tiny definition is right");
        let plan = file.plan("tiny", Instance::documented())?;
        page(&file, &[plan], "page.md", text)
    }

    #[test]
    fn a_number_is_brought_up_to_date_wherever_it_stands() -> Result<()> {
        let page =
            format!("See http://localhost:1/a and `x localhost:1,localhost:1`.\n{HEAD}alpha.web=1 -->\n");
        let now = page_of(&page)?.context("it mentions a port")?;
        let tiny = LabFile::parse(include_str!("../../tests/tiny/lab.toml")).expect("right");
        let port = tiny.plan("tiny", Instance::documented())?.fill(&tiny, "{alpha.web}").expect("a port");
        assert_eq!(
            now,
            page.replace("localhost:1", &format!("localhost:{port}")).replace("=1 ", &format!("={port} "))
        );
        assert_eq!(page_of(&now)?, Some(now));
        Ok(())
    }

    #[rstest]
    #[case::no_port("no port, localhost alone: localhost", None)]
    #[case::no_comment("a\nhttp://localhost:17", Some("page.md:2: a port is mentioned"))]
    #[case::not_named(
        "localhost:5\n<!-- ports on this page, kept by ./lab render: alpha.web=1 -->",
        Some("page.md:1: the comment in line 2 does not name 5")
    )]
    #[case::not_used(
        "<!-- ports on this page, kept by ./lab render: alpha.web=1 -->",
        Some("1 is not mentioned")
    )]
    #[case::no_such_port(
        "localhost:1\n<!-- ports on this page, kept by ./lab render: alpha.wob=1 -->",
        Some("no lab has a port {alpha.wob}")
    )]
    #[case::twice(
        "localhost:1\n<!-- ports on this page, kept by ./lab render: alpha.web=1 alpha.web=1 -->",
        Some("1 is named twice")
    )]
    #[case::no_number(
        "<!-- ports on this page, kept by ./lab render: alpha.web -->",
        Some("no TOKEN=NUMBER")
    )]
    fn what_is_wrong_is_said_with_its_line(#[case] text: &str, #[case] expected: Option<&str>) {
        match (page_of(text), expected) {
            (Ok(page), None) => assert_eq!(page, None),
            (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, _) => panic!("expected {expected:?}, got {found:?}"),
        }
    }
}
