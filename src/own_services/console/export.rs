//! Records and log records as a file for a spreadsheet: CSV in which no cell is a formula.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Console;
use super::api::{Message, Refused};
use super::asked::Asked;
use super::dashboards::drawn::Document;
use crate::clients::shown::{Kind, Part};

/// Letters of a key or a value in a cell; a spreadsheet takes 32,767.
const LETTERS: usize = 32_000;

/// A page of a topic's records.
pub(super) async fn messages(
    State(console): State<Arc<Console>>,
    Path(topic): Path<String>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Refused> {
    let found = console.messages(&topic, &asked?.0, LETTERS).await?;
    let head = ["partition", "offset", "time", "key", "value", "headers"];
    file(&topic, head, found.messages.iter().map(cells))
}

/// What a page of log records shows.
pub(super) fn documents(lines: &[Document]) -> Result<Response, Refused> {
    let cells = |line: &Document| [&line.at, &line.level, &line.from, &line.message].map(Clone::clone);
    file("log-records", ["time", "level", "from", "message"], lines.iter().map(cells))
}

fn cells(message: &Message) -> [String; 6] {
    let headers = message.headers.iter().map(|(name, value)| format!("{name}={}", text(value)));
    [
        message.partition.to_string(),
        message.offset.clone(),
        message.timestamp.clone().unwrap_or_default(),
        text(&message.key),
        text(&message.value),
        headers.collect::<Vec<_>>().join(" "),
    ]
}

/// A tombstone is told from a text of no letters.
fn text(part: &Part) -> String {
    match part.kind {
        Kind::Null => "null".to_owned(),
        _ if part.whole => part.text.clone(),
        _ => format!("{}…", part.text),
    }
}

fn file<const N: usize>(
    name: &str,
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Result<Response, Refused> {
    let failed = |why: String| Refused(StatusCode::INTERNAL_SERVER_ERROR, why);
    let mut file = csv::Writer::from_writer(Vec::new());
    file.write_record(head).map_err(|why| failed(why.to_string()))?;
    for row in rows {
        file.write_record(row.map(harmless)).map_err(|why| failed(why.to_string()))?;
    }
    let bytes = file.into_inner().map_err(|why| failed(why.to_string()))?;
    // Only what a file's name may have everywhere; Kafka's names of topics have nothing else.
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).collect();
    let disposition = format!("attachment; filename=\"{name}.csv\"");
    let kind = "text/csv; charset=utf-8".to_owned();
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, disposition)], bytes).into_response())
}

/// A spreadsheet takes a cell that begins so for a formula; a number is none.
fn harmless(cell: String) -> String {
    let begins = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if begins && cell.parse::<f64>().is_err() { format!("'{cell}") } else { cell }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula() {
        for (cell, shown) in [
            ("=1+1", "'=1+1"),
            ("@x", "'@x"),
            ("-5.5", "-5.5"),
            ("-x", "'-x"),
            ("a=b", "a=b"),
            ("\t=1", "'\t=1"),
        ] {
            assert_eq!(harmless(cell.to_owned()), shown);
        }
    }

    #[tokio::test]
    async fn cells_with_commas_quotes_and_lines_are_one_cell() {
        let rows = [["a,b".to_owned(), "say \"x\"\nand y".to_owned()]];
        let answer = file("a/b\"c", ["one", "two"], rows.into_iter()).unwrap();
        assert_eq!(answer.headers()[header::CONTENT_DISPOSITION], "attachment; filename=\"abc.csv\"");
        let bytes = axum::body::to_bytes(answer.into_body(), 1000).await.unwrap();
        assert_eq!(bytes, "one,two\n\"a,b\",\"say \"\"x\"\"\nand y\"\n");
    }
}
