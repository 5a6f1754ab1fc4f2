//! Questions to Kibana: its saved objects. What they show comes from Elasticsearch.

use std::time::Duration;

use anyhow::{Result, bail};
use reqwest::multipart::{Form, Part};
use serde_json::Value;

/// An import writes each object, and waits until all can be found.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Kibana by its base URL, such as `http://127.0.0.1:5601`.
#[derive(Debug, Clone)]
pub struct Kibana {
    url: String,
}

impl Kibana {
    /// The Kibana at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into() }
    }

    /// Puts saved objects in, one per line as Kibana exports them, in place of those with the same ids. Gives how many.
    ///
    /// # Errors
    /// It does not answer, or refuses one: which, and why.
    pub async fn import(&self, objects: Vec<u8>) -> Result<u64> {
        let file = Part::bytes(objects).file_name("saved-objects.ndjson");
        let request = super::http().post(format!("{}/api/saved_objects/_import?overwrite=true", self.url));
        // Kibana refuses what a page of another site could send.
        let request =
            request.header("kbn-xsrf", "true").timeout(PATIENCE).multipart(Form::new().part("file", file));
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        if !status.is_success() || answer["success"] != true {
            let refused = answer["errors"].as_array().cloned().unwrap_or_default();
            let refused: Vec<String> = refused
                .iter()
                .map(|e| format!("{} {}: {}", e["type"], e["id"], e["error"]).replace('"', ""))
                .collect();
            let why = if refused.is_empty() { text } else { refused.join("\n") };
            bail!("Kibana did not take the saved objects ({status}): {why}");
        }
        Ok(answer["successCount"].as_u64().unwrap_or_default())
    }

    /// Whether it has a saved object.
    ///
    /// # Errors
    /// It does not answer as Kibana does.
    pub async fn has(&self, kind: &str, id: &str) -> Result<bool> {
        let answer = super::http().get(format!("{}/api/saved_objects/{kind}/{id}", self.url)).send().await?;
        match answer.status().as_u16() {
            200 => Ok(true),
            404 => Ok(false),
            _ => bail!("{kind} {id}: {} {}", answer.status(), answer.text().await?),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::post;

    use super::*;

    /// A server that takes an import as Kibana does, and gives `answer`.
    async fn server(status: StatusCode, answer: &'static str) -> String {
        let import = move |headers: HeaderMap, body: String| async move {
            let form =
                headers["content-type"].to_str().is_ok_and(|kind| kind.starts_with("multipart/form-data"));
            let file = body.contains("name=\"file\"; filename=\"saved-objects.ndjson\"");
            match form && file && body.contains("{\"id\":1}\n{\"id\":2}") && headers["kbn-xsrf"] == "true" {
                true => (status, answer.to_owned()),
                false => (StatusCode::BAD_REQUEST, format!("{headers:?}\n{body}")),
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/api/saved_objects/_import", post(import));
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    async fn imported(status: StatusCode, answer: &'static str) -> Result<u64> {
        let url = server(status, answer).await;
        Kibana::new(url).import(b"{\"id\":1}\n{\"id\":2}\n".to_vec()).await
    }

    #[tokio::test]
    async fn an_import_is_a_form_with_a_file() {
        let count = imported(StatusCode::OK, r#"{"success":true,"successCount":2}"#).await;
        assert_eq!(count.map_err(|e| format!("{e:#}")), Ok(2));
    }

    #[tokio::test]
    async fn what_is_refused_is_named() {
        let refused = r#"{"success":false,"errors":[{"type":"search","id":"a","error":{"type":"missing_references"}}]}"#;
        let error = imported(StatusCode::OK, refused).await.unwrap_err().to_string();
        assert!(error.ends_with("search a: {type:missing_references}"), "{error}");
        let error =
            imported(StatusCode::SERVICE_UNAVAILABLE, "Kibana server is not ready yet").await.unwrap_err();
        assert!(error.to_string().contains("503") && error.to_string().contains("not ready yet"), "{error}");
    }
}
