//! Questions to Elasticsearch. What is written there comes from Filebeat, Logstash or the lab's own pipeline, not from here.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::schema_registry::percent;

/// Documents that one question brings.
const PAGE: usize = 2000;

/// An Elasticsearch by its base URL, such as `http://127.0.0.1:9200`.
#[derive(Debug, Clone)]
pub struct Elasticsearch {
    url: String,
}

/// A question that makes no sense to it, and why.
#[derive(Debug, thiserror::Error)]
#[error("Elasticsearch refuses this: {0}")]
pub struct Refused(pub String);

/// A document, by what makes it that one.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The index that it is in.
    pub index: String,
    /// Its id.
    pub id: String,
    /// Its fields.
    pub source: Value,
}

impl Elasticsearch {
    /// The Elasticsearch at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into() }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(StatusCode, Value)> {
        let mut request = super::http().request(method, format!("{}/{path}", self.url));
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// A search of every shard: what is there of some is no answer.
    async fn searched(&self, path: &str, question: &Value) -> Result<Value> {
        let answer = self.done(Method::POST, path, Some(question)).await?;
        if let Some(refused) = refused_by_shards(&answer) {
            bail!(refused);
        }
        if answer["timed_out"] == true || answer["_shards"]["failed"] != 0 {
            bail!("not every shard answered: {}", answer["_shards"]);
        }
        Ok(answer)
    }

    async fn done(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let (status, answer) = self.ask(method, path, body).await?;
        match status {
            _ if status.is_success() => Ok(answer),
            StatusCode::BAD_REQUEST => bail!(Refused(reason(&answer))),
            _ => bail!("{}/{path} answers {status}: {}", self.url, reason(&answer)),
        }
    }

    /// Makes or replaces an index template.
    ///
    /// # Errors
    /// It does not answer, or refuses the template; its reason.
    pub async fn put_template(&self, name: &str, template: &Value) -> Result<()> {
        self.done(Method::PUT, &format!("_index_template/{name}"), Some(template)).await?;
        Ok(())
    }

    /// Sets settings of the cluster; one without a value goes back to its default.
    ///
    /// # Errors
    /// It does not answer, or refuses a setting.
    pub async fn set_cluster(&self, settings: &BTreeMap<String, Option<String>>) -> Result<()> {
        self.done(Method::PUT, "_cluster/settings", Some(&json!({ "persistent": settings }))).await?;
        Ok(())
    }

    /// Makes an index, without waiting until it can be written to.
    ///
    /// # Errors
    /// It does not answer, or refuses; not where the index is there already.
    pub async fn make_index(&self, name: &str) -> Result<()> {
        let path = format!("{name}?wait_for_active_shards=0&timeout=1s");
        let (status, answer) = self.ask(Method::PUT, &path, Some(&json!({}))).await?;
        if !status.is_success() && answer["error"]["type"] != "resource_already_exists_exception" {
            bail!("index {name} was not made: {}", reason(&answer));
        }
        Ok(())
    }

    /// Removes an index, where it is there.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn remove_index(&self, name: &str) -> Result<()> {
        let (status, answer) = self.ask(Method::DELETE, name, None).await?;
        if !status.is_success() && status != StatusCode::NOT_FOUND {
            bail!("index {name} was not removed: {}", reason(&answer));
        }
        Ok(())
    }

    /// How many documents a query finds. Indices that do not exist have none.
    ///
    /// # Errors
    /// It does not answer, or refuses the query.
    pub async fn count(&self, indices: &str, query: &Value) -> Result<u64> {
        let path = format!("{indices}/_count?ignore_unavailable=true&allow_no_indices=true");
        let answer = self.searched(&path, &json!({ "query": query })).await?;
        answer["count"].as_u64().with_context(|| format!("no count in {answer}"))
    }

    /// Every document that a query finds, from pages that belong to one moment. What was written just before is seen too.
    ///
    /// # Errors
    /// It does not answer, or refuses the query.
    pub async fn documents(&self, indices: &str, query: &Value) -> Result<Vec<Document>> {
        let there = "ignore_unavailable=true&allow_no_indices=true";
        self.done(Method::POST, &format!("{indices}/_refresh?{there}"), None).await?;
        let opened = self.done(Method::POST, &format!("{indices}/_pit?keep_alive=1m&{there}"), None).await?;
        let pit = opened["id"].as_str().context("no id of a point in time")?;
        let found = self.pages(pit, query).await;
        self.done(Method::DELETE, "_pit", Some(&json!({ "id": pit }))).await?;
        found
    }

    /// The newest documents that a query finds, the oldest of them first.
    ///
    /// # Errors
    /// It does not answer, or refuses the query.
    pub async fn newest(&self, indices: &str, query: &Value, count: usize) -> Result<Vec<Document>> {
        let question = json!({ "size": count, "query": query, "sort": [{ "@timestamp": "desc" }] });
        let answer = self.search(indices, &question).await?;
        let mut found: Vec<Document> = hits(&answer)?.iter().map(document).collect();
        found.reverse();
        Ok(found)
    }

    /// How far each index is written: the number of its last operation.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn written_to(&self, indices: &str) -> Result<BTreeMap<String, i64>> {
        let each = json!({ "terms": { "field": "_index", "size": 1000 }, "aggs": { "last": { "max": { "field": "_seq_no" } } } });
        let answer = self.search(indices, &json!({ "size": 0, "aggs": { "each": each } })).await?;
        let buckets = answer["aggregations"]["each"]["buckets"].as_array().into_iter().flatten();
        let last = |bucket: &Value| {
            Some((bucket["key"].as_str()?.to_owned(), bucket["last"]["value"].as_f64()? as i64))
        };
        Ok(buckets.filter_map(last).collect())
    }

    /// Documents that a query finds among those written after `from`, in the order of their time; `from` goes along.
    ///
    /// # Errors
    /// It does not answer, or refuses the query.
    pub async fn written_since(
        &self,
        indices: &str,
        query: &Value,
        from: &mut BTreeMap<String, i64>,
    ) -> Result<Vec<Document>> {
        let later = from.iter().map(|(index, last)| {
            json!({ "bool": { "filter": [{ "term": { "_index": index } }, { "range": { "_seq_no": { "gt": last } } }] } })
        });
        let known: Vec<&String> = from.keys().collect();
        let new = json!({ "bool": { "must_not": { "terms": { "_index": known } } } });
        let any: Vec<Value> = later.chain([new]).collect();
        let question = json!({
            "size": PAGE, "seq_no_primary_term": true, "sort": ["_seq_no"],
            "query": { "bool": { "filter": [query, { "bool": { "should": any, "minimum_should_match": 1 } }] } },
        });
        let answer = self.search(indices, &question).await?;
        let mut found = Vec::new();
        for hit in hits(&answer)? {
            let document = document(hit);
            let number = hit["_seq_no"].as_i64().context("a document without its number")?;
            let last = from.entry(document.index.clone()).or_insert(number);
            *last = number.max(*last);
            found.push(document);
        }
        found.sort_by(|a, b| a.source["@timestamp"].as_str().cmp(&b.source["@timestamp"].as_str()));
        Ok(found)
    }

    /// The whole answer to a search.
    ///
    /// # Errors
    /// It does not answer, refuses the question, or a shard fails.
    pub async fn search(&self, indices: &str, question: &Value) -> Result<Value> {
        let path = format!("{indices}/_search?ignore_unavailable=true&allow_no_indices=true");
        self.searched(&path, question).await
    }

    /// The same, of which no more than so many bytes are read: where there are more, it is asked for a tenth of the documents.
    ///
    /// # Errors
    /// As of [`Self::search`]; one document alone is larger, or it takes longer than the question allows.
    pub async fn search_within(&self, indices: &str, question: &Value, most: usize) -> Result<Value> {
        let mut question = question.clone();
        loop {
            if let Some(found) = self.searched_within(indices, &question, most).await? {
                return Ok(found);
            }
            match question["size"].as_u64() {
                Some(size @ 2..) => question["size"] = json!((size / 10).max(1)),
                _ => bail!(
                    "what Elasticsearch finds is larger than {most} bytes: ask for a shorter time, or for less"
                ),
            }
        }
    }

    /// None where the answer has more bytes.
    async fn searched_within(&self, indices: &str, question: &Value, most: usize) -> Result<Option<Value>> {
        let url = format!("{}/{indices}/_search?ignore_unavailable=true&allow_no_indices=true", self.url);
        let mut answer = super::http().post(&url).json(question).send().await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > most {
                return Ok(None);
            }
        }
        let status = answer.status();
        let found: Value = serde_json::from_slice(&bytes).context("Elasticsearch's answer is no JSON")?;
        match status {
            _ if found["timed_out"] == true => {
                bail!(Refused("it takes too long; ask for a shorter time, or for less".to_owned()))
            }
            _ if status.is_success() && found["_shards"]["failed"] == 0 => Ok(Some(found)),
            StatusCode::BAD_REQUEST => bail!(Refused(reason(&found))),
            _ => match refused_by_shards(&found) {
                Some(refused) => bail!(refused),
                None => bail!("Elasticsearch answers {status}: {}", reason(&found)),
            },
        }
    }

    /// One document; none where it is not there.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn one(&self, index: &str, id: &str) -> Result<Option<Document>> {
        // As a step of a path these mean another place.
        if [index, id].iter().any(|step| [".", ".."].contains(step)) {
            return Ok(None);
        }
        let path = format!("{}/_doc/{}", percent(index), percent(id));
        let (status, answer) = self.ask(Method::GET, &path, None).await?;
        match status {
            StatusCode::OK => Ok(Some(document(&answer))),
            StatusCode::NOT_FOUND => Ok(None),
            _ => bail!("{}/{path} answers {status}: {}", self.url, reason(&answer)),
        }
    }

    /// Every field that can be searched in some indices.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn fields(&self, indices: &str) -> Result<BTreeSet<String>> {
        let answer = self.done(Method::GET, &format!("{indices}/_field_caps?fields=*"), None).await?;
        let fields = answer["fields"].as_object().context("an answer without fields")?;
        Ok(fields.keys().cloned().collect())
    }

    /// How many of the documents that a query finds have which values in two fields, counted by Elasticsearch.
    ///
    /// # Errors
    /// It does not answer, or refuses the query.
    pub async fn counted(
        &self,
        indices: &str,
        query: &Value,
        fields: (&str, &str),
    ) -> Result<BTreeMap<(String, String), u64>> {
        let values = |field: &str| json!({ "terms": { "field": field, "size": 1000 } });
        let mut outer = values(fields.0);
        outer["aggs"] = json!({ "inner": values(fields.1) });
        let question = json!({ "size": 0, "query": query, "aggs": { "outer": outer } });
        let answer = self.search(indices, &question).await?;
        let buckets = |of: &Value| of["buckets"].as_array().cloned().unwrap_or_default();
        let key = |bucket: &Value| match &bucket["key"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let mut counted = BTreeMap::new();
        for outer in buckets(&answer["aggregations"]["outer"]) {
            for inner in buckets(&outer["inner"]) {
                let count = inner["doc_count"].as_u64().context("a bucket without a count")?;
                counted.insert((key(&outer), key(&inner)), count);
            }
        }
        Ok(counted)
    }

    async fn pages(&self, pit: &str, query: &Value) -> Result<Vec<Document>> {
        let mut documents = Vec::new();
        let mut question = json!({
            "size": PAGE, "query": query, "sort": ["_shard_doc"], "track_total_hits": false,
            "pit": { "id": pit, "keep_alive": "1m" },
        });
        loop {
            let answer = self.searched("_search", &question).await?;
            let hits = hits(&answer)?;
            documents.extend(hits.iter().map(document));
            let Some(last) = hits.last().filter(|_| hits.len() == PAGE) else { return Ok(documents) };
            question["search_after"] = last["sort"].clone();
        }
    }
}

fn hits(answer: &Value) -> Result<&Vec<Value>> {
    answer["hits"]["hits"].as_array().with_context(|| format!("no hits in {answer}"))
}

fn document(hit: &Value) -> Document {
    let text = |field: &str| hit[field].as_str().unwrap_or_default().to_owned();
    Document { index: text("_index"), id: text("_id"), source: hit["_source"].clone() }
}

/// What Elasticsearch says of an error: its type and reason, or all of it.
/// Why a question makes no sense to the shards that looked. Those in whose time it does not ask need not look and count as having
/// answered, so that the answer as a whole is a good one.
fn refused_by_shards(answer: &Value) -> Option<Refused> {
    let failures = answer["_shards"]["failures"].as_array()?;
    let first = &failures.first()?["reason"];
    let senseless = failures.iter().all(|failure| failure["reason"]["type"] == "query_shard_exception");
    senseless.then(|| Refused(first["reason"].as_str().unwrap_or_default().to_owned()))
}

fn reason(answer: &Value) -> String {
    let root = answer["error"]["root_cause"].get(0).unwrap_or(&answer["error"]);
    match (root["type"].as_str(), root["reason"].as_str()) {
        (Some(kind), Some(reason)) => format!("{reason} ({kind})"),
        _ => answer.to_string(),
    }
}
