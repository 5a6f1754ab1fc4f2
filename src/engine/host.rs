//! Which engine is meant, as Docker's own client understands it: DOCKER_HOST, else the context, else the usual socket. The
//! libraries know only DOCKER_HOST: a context becomes that.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::EngineError;

/// What has to be in the environment for the engine of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextEngine {
    /// Name of the context.
    pub name: String,
    /// Variables and their values.
    pub variables: Vec<(&'static str, String)>,
}

/// Docker's settings in the environment.
#[derive(Debug, Default)]
struct Settings {
    host: Option<String>,
    context: Option<String>,
    folder: Option<PathBuf>,
}

/// The engine of the Docker context that holds; none where DOCKER_HOST beats it, or it is the default one.
///
/// # Errors
/// The context is not known, or its engine cannot be reached from here.
pub fn engine_of_context() -> Result<Option<ContextEngine>, EngineError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let home = || variable("HOME").map(|home| Path::new(&home).join(".docker"));
    meant(&Settings {
        host: variable("DOCKER_HOST"),
        context: variable("DOCKER_CONTEXT"),
        folder: variable("DOCKER_CONFIG").map(PathBuf::from).or_else(home),
    })
}

fn meant(settings: &Settings) -> Result<Option<ContextEngine>, EngineError> {
    if settings.host.is_some() {
        return Ok(None);
    }
    let Some(folder) = &settings.folder else { return Ok(None) };
    let chosen = json(&folder.join("config.json"))
        .and_then(|config| Some(config.get("currentContext")?.as_str()?.to_owned()));
    let Some(name) = settings.context.clone().or(chosen).filter(|n| !n.is_empty() && n != "default") else {
        return Ok(None);
    };
    let refused = |why: String| EngineError::Context { name: name.clone(), why };
    let id = Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let file = folder.join("contexts/meta").join(&id).join("meta.json");
    let meta =
        json(&file).ok_or_else(|| refused(format!("there is none of that name ({})", file.display())))?;
    let host = meta["Endpoints"]["docker"]["Host"].as_str().unwrap_or_default().to_owned();
    let tls = folder.join("contexts/tls").join(&id).join("docker");
    let mut variables = vec![("DOCKER_HOST", host.clone())];
    match host.split_once("://").map(|(scheme, _)| scheme) {
        Some("unix" | "npipe" | "http") => {}
        Some("tcp" | "https") if tls.is_dir() => {
            variables.push(("DOCKER_TLS_VERIFY", "1".to_owned()));
            variables.push(("DOCKER_CERT_PATH", tls.display().to_string()));
        }
        Some("tcp") => {}
        _ => return Err(refused(format!("its engine is at {host:?}, which the lab does not reach"))),
    }
    Ok(Some(ContextEngine { name, variables }))
}

fn json(file: &Path) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use rstest::rstest;

    use super::*;

    /// A folder of settings with one context, chosen or not.
    fn settings(chosen: &str, host: &str, tls: bool) -> (tempfile::TempDir, Settings) {
        let folder = tempfile::tempdir().unwrap();
        // sha256 of "other".
        let id = "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa";
        let meta = folder.path().join("contexts/meta").join(id);
        std::fs::create_dir_all(&meta).unwrap();
        let text = format!(
            r#"{{"Name":"other","Endpoints":{{"docker":{{"Host":"{host}","SkipTLSVerify":false}}}}}}"#
        );
        std::fs::write(meta.join("meta.json"), text).unwrap();
        if tls {
            std::fs::create_dir_all(folder.path().join("contexts/tls").join(id).join("docker")).unwrap();
        }
        let config = format!(r#"{{"auths":{{}},"currentContext":"{chosen}"}}"#);
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let settings = Settings { folder: Some(folder.path().to_owned()), ..Settings::default() };
        (folder, settings)
    }

    fn host_of(settings: &Settings) -> Option<String> {
        meant(settings).unwrap().map(|engine| engine.variables[0].1.clone())
    }

    #[test]
    fn the_first_that_says_something_holds() {
        let (_folder, mut settings) = settings("other", "unix:///run/other.sock", false);
        assert_eq!(host_of(&settings).as_deref(), Some("unix:///run/other.sock"));
        settings.context = Some("default".to_owned());
        assert_eq!(host_of(&settings), None);
        settings.context = Some("other".to_owned());
        settings.host = Some("unix:///run/mine.sock".to_owned());
        assert_eq!(host_of(&settings), None, "the libraries read DOCKER_HOST themselves");
    }

    #[rstest]
    #[case::nobody_chose("")]
    #[case::the_default("default")]
    fn without_a_context_it_is_the_usual_socket(#[case] chosen: &str) {
        let (folder, settings) = settings(chosen, "unix:///x", false);
        assert_eq!(host_of(&settings), None);
        std::fs::write(folder.path().join("config.json"), "no json").unwrap();
        assert_eq!(host_of(&settings), None);
        assert_eq!(host_of(&Settings::default()), None);
    }

    #[test]
    fn certificates_of_a_context_come_with_it() {
        let (_folder, settings) = settings("other", "tcp://192.0.2.1:2376", true);
        let names: Vec<_> =
            meant(&settings).unwrap().unwrap().variables.into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"]);
    }

    #[rstest]
    #[case::unknown("nowhere", "unix:///x", "none of that name")]
    #[case::over_ssh("other", "ssh://host", "ssh://host")]
    #[case::nothing_in_it("other", "", "does not reach")]
    fn what_cannot_be_reached_is_said(#[case] chosen: &str, #[case] host: &str, #[case] part: &str) {
        let (_folder, settings) = settings(chosen, host, false);
        let said = meant(&settings).unwrap_err().to_string();
        assert!(
            said.contains(chosen) && said.contains(part) && said.contains("docker context use default"),
            "{said}"
        );
    }
}
