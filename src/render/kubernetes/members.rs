//! One text for all members of a group: what differs between them becomes the pod's name, or a number counted on from the first.

use anyhow::{Result, bail};

/// A text of a container.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// As it is written in a pod: Kubernetes fills `$(POD_NAME)` in.
    Plain(String),
    /// For a shell, within double quotes: `$POD_NAME` is the pod's name, and `$MEMBER` how far it is from the first.
    Counted(String),
}

/// Sets what [`Text::Counted`] names. `first`: the number of the first member.
pub(super) fn counting(first: u32) -> String {
    format!("MEMBER=$(( ${{POD_NAME##*-}} - {first} ))")
}

/// `names`: of the members; `values`: of each of them, in the same order. `what`: what it is, for people.
///
/// # Errors
/// They differ in more than the members' names and evenly spaced numbers.
pub(super) fn text(names: &[&str], what: &str, values: &[&str]) -> Result<Text> {
    let Some((first, others)) = values.split_first() else { return Ok(Text::Plain(String::new())) };
    if others.iter().all(|other| other == first) {
        // Kubernetes would take `$(…)` for a variable of its own.
        return Ok(Text::Plain(first.replace("$(", "$$(")));
    }
    let named = |name: &str| {
        let own = values.iter().zip(names).map(|(value, own)| value.replace(own, name));
        own.collect::<Vec<_>>()
    };
    let plain = named("$(POD_NAME)");
    if plain.iter().all(|other| *other == plain[0]) {
        return Ok(Text::Plain(plain[0].clone()));
    }
    // No text has this letter.
    let marked = named("\u{0}");
    let marked: Vec<Vec<&str>> = marked.iter().map(|value| parts(value)).collect();
    if marked.iter().any(|other| other.len() != marked[0].len()) {
        bail!("{what} of {} differs in more than numbers: {values:?}", names.join(", "));
    }
    let mut whole = String::new();
    for place in 0..marked[0].len() {
        let column: Vec<&str> = marked.iter().map(|value| value[place]).collect();
        if column.iter().all(|other| *other == column[0]) {
            for letter in column[0].chars() {
                if matches!(letter, '"' | '$' | '`' | '\\') {
                    whole.push('\\');
                }
                whole.push(letter);
            }
            continue;
        }
        let numbers: Option<Vec<i64>> = column.iter().map(|part| part.parse().ok()).collect();
        let step = numbers.as_ref().and_then(|n| Some(n.get(1)? - n.first()?));
        let (Some(numbers), Some(step)) = (numbers, step) else {
            bail!("{what} of {} differs in more than numbers: {values:?}", names.join(", "));
        };
        if numbers.windows(2).any(|pair| pair[1] - pair[0] != step) {
            bail!("{what} of {} is not evenly spaced: {values:?}", names.join(", "));
        }
        // More members than are documented must still get a port.
        whole += &format!("$(( ({} + {step} * MEMBER) % 65536 ))", numbers[0]);
    }
    Ok(Text::Counted(whole.replace('\u{0}', "$POD_NAME")))
}

/// Numbers, and what stands between them.
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digit = first.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = &rest[end..];
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rstest::rstest;

    use super::*;

    const NAMES: [&str; 3] = ["broker-1", "broker-2", "broker-3"];

    #[rstest]
    #[case::the_same(["a b", "a b", "a b"], "a b")]
    #[case::what_kubernetes_would_take_for_its_own(["$(A) $B", "$(A) $B", "$(A) $B"], "$$(A) $B")]
    #[case::names(["x/broker-1.log", "x/broker-2.log", "x/broker-3.log"], "x/$(POD_NAME).log")]
    #[case::everybodys_names(["1@broker-1,2@broker-2", "1@broker-1,2@broker-2", "1@broker-1,2@broker-2"], "1@broker-1,2@broker-2")]
    fn what_differs_by_the_name_is_the_pods(#[case] values: [&str; 3], #[case] text: &str) {
        assert_eq!(super::text(&NAMES, "it", &values).unwrap(), Text::Plain(text.to_owned()));
    }

    /// What bash makes of it in the pod of each member, and in those of further ones.
    #[rstest]
    #[case::a_number(["4", "5", "6"], ["4", "5", "6", "7", "8"])]
    #[case::a_port_and_a_name(
        ["A://broker-1:9,B://l:29092", "A://broker-2:9,B://l:39092", "A://broker-3:9,B://l:49092"],
        ["A://broker-1:9,B://l:29092", "A://broker-2:9,B://l:39092", "A://broker-3:9,B://l:49092", "A://broker-4:9,B://l:59092",
            "A://broker-5:9,B://l:3556"],
    )]
    #[case::what_a_shell_takes_for_its_own(
        ["$HOME `a` \"b\" \\ 1", "$HOME `a` \"b\" \\ 2", "$HOME `a` \"b\" \\ 3"],
        ["$HOME `a` \"b\" \\ 1", "$HOME `a` \"b\" \\ 2", "$HOME `a` \"b\" \\ 3", "$HOME `a` \"b\" \\ 4", "$HOME `a` \"b\" \\ 5"],
    )]
    fn numbers_are_counted_on(#[case] values: [&str; 3], #[case] wanted: [&str; 5]) {
        let Text::Counted(text) = super::text(&NAMES, "it", &values).unwrap() else {
            panic!("it is the same everywhere")
        };
        for (number, wanted) in (1..).zip(wanted) {
            let script = format!("{}; printf %s \"{text}\"", counting(1));
            let said = Command::new("bash")
                .args(["-ec", &script])
                .env("POD_NAME", format!("broker-{number}"))
                .output();
            let said = said.unwrap();
            assert_eq!(
                String::from_utf8_lossy(&said.stdout),
                wanted,
                "{}",
                String::from_utf8_lossy(&said.stderr)
            );
        }
    }

    #[rstest]
    #[case::words(["one", "two", "three"], "differs in more than numbers")]
    #[case::lengths(["1", "2 2", "3"], "differs in more than numbers")]
    #[case::steps(["1", "2", "4"], "is not evenly spaced")]
    fn what_cannot_be_counted_is_said(#[case] values: [&str; 3], #[case] why: &str) {
        let error = super::text(&NAMES, "its port", &values).unwrap_err().to_string();
        assert!(
            error.starts_with("its port of broker-1, broker-2, broker-3") && error.contains(why),
            "{error}"
        );
    }
}
