//! Questions to a schema registry over Confluent's API.

use anyhow::{Context, Result, bail};
use reqwest::StatusCode;
use schema_registry_converter::async_impl::schema_registry::SrSettings;
use serde::Deserialize;
use serde_json::{Value, json};

/// A registry by its base URL, such as `http://127.0.0.1:18081`.
#[derive(Debug, Clone)]
pub struct SchemaRegistry {
    url: String,
}

/// What the registry said to a new schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    /// Accepted, under this id.
    Id(u32),
    /// 409: it is not compatible with the versions before; the registry's reason.
    Incompatible(String),
}

/// The registry at `url`, for encoders and decoders.
///
/// # Errors
/// The client refuses its settings, which these never cause.
pub fn settings(url: impl Into<String>) -> Result<SrSettings> {
    Ok(SrSettings::new_builder(url.into()).build_with(super::plain())?)
}

/// One version of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Id of its schema, which records carry.
    pub id: u32,
    /// `AVRO`, `JSON` or `PROTOBUF`.
    #[serde(default = "avro")]
    pub schema_type: String,
    /// Its text.
    pub schema: String,
}

/// The registry does not name it.
fn avro() -> String {
    "AVRO".to_owned()
}

impl SchemaRegistry {
    /// The registry at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into() }
    }

    /// Its base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All subjects.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn subjects(&self) -> Result<Vec<String>> {
        let url = format!("{}/subjects", self.url);
        Ok(super::http().get(&url).send().await?.error_for_status()?.json().await?)
    }

    /// Sets the compatibility level that holds for every subject without one of its own.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn set_compatibility(&self, level: &str) -> Result<()> {
        let request =
            super::http().put(format!("{}/config", self.url)).json(&json!({ "compatibility": level }));
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// Sets a subject's compatibility level.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn set_subject_compatibility(&self, subject: &str, level: &str) -> Result<()> {
        let url = format!("{}/config/{subject}", self.url);
        super::http().put(url).json(&json!({ "compatibility": level })).send().await?.error_for_status()?;
        Ok(())
    }

    /// The compatibility level of a subject.
    ///
    /// # Errors
    /// It does not answer, or not as Confluent's does.
    pub async fn subject_compatibility(&self, subject: &str) -> Result<String> {
        let url = format!("{}/config/{subject}", self.url);
        let answer: Value = super::http().get(&url).send().await?.error_for_status()?.json().await?;
        Ok(answer["compatibilityLevel"].as_str().context("no compatibilityLevel")?.to_owned())
    }

    /// Registers an Avro schema.
    ///
    /// # Errors
    /// It does not answer, or refuses for another reason than compatibility.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<Registered> {
        let url = format!("{}/subjects/{subject}/versions", self.url);
        let answer = super::http().post(&url).json(&json!({ "schema": schema })).send().await?;
        let status = answer.status();
        let body = answer.text().await?;
        match status.as_u16() {
            200 => {
                let body: Value = serde_json::from_str(&body)?;
                let id = body["id"].as_u64().with_context(|| format!("{url} named no id: {body}"))?;
                Ok(Registered::Id(u32::try_from(id)?))
            }
            409 => Ok(Registered::Incompatible(body)),
            _ => bail!("{url} answers {status}: {body}"),
        }
    }

    /// Why a schema could not be the subject's next version; nothing where it could. It is not registered.
    ///
    /// # Errors
    /// It does not answer, has no such subject, or the text is no schema.
    pub async fn incompatibilities(&self, subject: &str, schema: &str) -> Result<Vec<String>> {
        let subject = percent(subject);
        let url = format!("{}/compatibility/subjects/{subject}/versions/latest?verbose=true", self.url);
        let answer = super::http().post(&url).json(&json!({ "schema": schema })).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        if !status.is_success() {
            bail!("{}", answer["message"].as_str().unwrap_or(&text));
        }
        if answer["is_compatible"].as_bool().context("no is_compatible in the answer")? {
            return Ok(Vec::new());
        }
        let told: Vec<String> = answer["messages"].as_array().into_iter().flatten().map(told).collect();
        Ok(if told.is_empty() { vec!["the registry gives no reason".to_owned()] } else { told })
    }

    /// The schema with an id.
    ///
    /// # Errors
    /// It does not answer, or has no such id.
    pub async fn schema(&self, id: u32) -> Result<String> {
        let url = format!("{}/schemas/ids/{id}", self.url);
        let answer: Value = super::http().get(&url).send().await?.error_for_status()?.json().await?;
        Ok(answer["schema"].as_str().context("no schema in the answer")?.to_owned())
    }

    /// Versions of a subject.
    ///
    /// # Errors
    /// It does not answer, or has no such subject.
    pub async fn versions(&self, subject: &str) -> Result<Vec<u32>> {
        let url = format!("{}/subjects/{}/versions", self.url, percent(subject));
        Ok(super::http().get(&url).send().await?.error_for_status()?.json().await?)
    }

    /// One version of a subject; none where there is no such subject or version.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn version(&self, subject: &str, version: u32) -> Result<Option<Version>> {
        let subject = percent(subject);
        let url = format!("{}/subjects/{subject}/versions/{version}", self.url);
        let answer = super::http().get(&url).send().await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(answer.error_for_status()?.json().await?))
    }
}

fn told(message: &Value) -> String {
    message.as_str().map_or_else(|| message.to_string(), str::to_owned)
}

/// A name as one step of a path.
pub fn percent(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}
