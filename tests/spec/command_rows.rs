//! The commands table: each documented command line is run by a shell and must print what the table says.

use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use streamlab::topology::Command;
use tokio::io::AsyncReadExt;

use crate::lab::Lab;
use crate::trial::{Chapter, Check, Holds, Kind, PATIENCE, Trial};

pub(crate) fn trials(chapter: &Chapter<'_>) -> Vec<Trial> {
    let file = &chapter.project.file;
    let has = |lab: &&&str, id: &str| file.commands_of(lab).iter().any(|c| c.id.get_ref() == id);
    let commands = file.commands_of(&chapter.plan.lab).into_iter().filter(|command| {
        let names = file.labs_in_order();
        let labs: Vec<&str> = names.iter().filter(|lab| has(lab, command.id.get_ref())).copied().collect();
        (chapter.proves)(&labs)
    });
    commands.map(trial).collect()
}

fn trial(command: &Command) -> Trial {
    let breaks: Vec<String> = command.breaks.iter().map(|b| b.get_ref().clone()).collect();
    let kind = if breaks.is_empty() { Kind::Flow } else { Kind::Fault(Holds { breaks, ..Holds::default() }) };
    let row = command.clone();
    Trial {
        name: format!("command::{}", command.id.get_ref()),
        what: format!("`{}` prints {:?}", command.run.get_ref(), command.prints.get_ref()),
        kind,
        stations: None,
        engine: true,
        check: Check::plain(move |lab| {
            let row = row.clone();
            Box::pin(async move { prints(&lab, &row).await })
        }),
    }
}

async fn prints(lab: &Arc<Lab>, command: &Command) -> Result<String> {
    let filled = |text: &str| lab.plan.fill(&lab.project.file, text).map_err(|why| anyhow::anyhow!(why));
    let line = filled(command.run.get_ref())?;
    let expected = &filled(command.prints.get_ref())?;
    // The documented `./lab` acts on the default instance; here it must act on the one under test.
    let line = match line.strip_prefix("./lab ") {
        Some(rest) if rest.contains("--instance") => format!("\"$LAB\" {rest}"),
        Some(rest) => format!("\"$LAB\" {rest} --instance {}", lab.plan.instance.name()),
        None => line,
    };
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", &format!("exec {line}")])
        .env("LAB", &lab.project.program)
        .env("LAB_ROOT", &lab.project.root)
        .env_remove("LAB_INSTANCE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut out = child.stdout.take().context("piped")?;
    let mut errors = child.stderr.take().context("piped")?;
    let mut seen = String::new();
    let mut said = String::new();
    let reading = async {
        let mut chunk = vec![0; 64 << 10];
        let mut other = vec![0; 64 << 10];
        let (mut open, mut other_open) = (true, true);
        while open || other_open {
            tokio::select! {
                read = out.read(&mut chunk), if open => {
                    let read = read?;
                    open = read > 0;
                    seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
                }
                // docker logs gives a container's standard error as its own.
                read = errors.read(&mut other), if other_open => {
                    let read = read?;
                    other_open = read > 0;
                    said.push_str(&String::from_utf8_lossy(&other[..read]));
                }
            }
            if command.follows && (seen.contains(expected) || said.contains(expected)) {
                return Ok(());
            }
        }
        anyhow::Ok(())
    };
    let ended = tokio::time::timeout(PATIENCE, reading).await;
    let tail = |text: &str| {
        text.lines().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    };
    match ended {
        Err(_) => bail!(
            "`{line}` has not printed {:?} after {} s:\n{}\n{}",
            expected,
            PATIENCE.as_secs(),
            tail(&seen),
            tail(&said)
        ),
        Ok(result) => result?,
    }
    if !seen.contains(expected) && !said.contains(expected) {
        bail!("`{line}` did not print {:?}:\n{}\n{}", expected, tail(&seen), tail(&said));
    }
    if command.follows {
        drop(child);
        end_inside(lab, &line).await?;
    } else {
        let status = child.wait().await?;
        if !status.success() {
            bail!("`{line}` ended with {status}:\n{}", tail(&said));
        }
    }
    Ok(String::new())
}

/// Ending `docker exec` leaves what it started running inside: end that too, by its own arguments.
async fn end_inside(lab: &Arc<Lab>, line: &str) -> Result<()> {
    let Some(rest) = line.strip_prefix("docker exec ") else { return Ok(()) };
    let Some((container, command)) = rest.split_once(' ') else { return Ok(()) };
    let arguments = command.split_once(' ').map_or(command, |(_, arguments)| arguments);
    let script = r#"for p in /proc/[0-9]*; do
        case "$(tr '\0' ' ' <"$p/cmdline" 2>/dev/null)" in
          *bash\ -c*) ;;
          *"$1"*) kill "${p#/proc/}" 2>/dev/null || : ;;
        esac
      done"#;
    lab.engine()?.exec(container, &["bash", "-c", script, "bash", arguments]).await?;
    Ok(())
}
