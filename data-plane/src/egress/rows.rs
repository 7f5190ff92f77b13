//! What the files of an output hold, as rows of CSV that PostgreSQL reads: one piece in memory at a time.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use serde_json::value::RawValue;
use storage::StorageError;

/// A line may have so many bytes.
const LINE_BYTES: usize = 64 << 20;
/// The first line of a file of CSV may have so many.
const HEADER_BYTES: usize = 1 << 20;
/// Rows are handed on in pieces of about this size.
const PIECE: usize = 256 << 10;

/// Why rows cannot be read.
#[derive(Debug)]
pub(super) enum Wrong {
    /// The file holds something else: what and where, to go behind its name.
    Row(String),
    /// It cannot be read.
    Ours(StorageError),
}

impl From<StorageError> for Wrong {
    fn from(error: StorageError) -> Self {
        Self::Ours(error)
    }
}

/// The rows of a file.
pub(super) struct Rows {
    bytes: BoxStream<'static, storage::Result<Bytes>>,
    /// What was read and not handed on.
    held: BytesMut,
    /// Of JSON: the columns.
    columns: Option<Vec<String>>,
    line: u64,
    ended: bool,
}

impl Rows {
    /// CSV that is loaded as it is.
    pub(super) fn as_is(bytes: BoxStream<'static, storage::Result<Bytes>>) -> Self {
        Self {
            bytes,
            held: BytesMut::new(),
            columns: None,
            line: 0,
            ended: false,
        }
    }

    /// An object on each line.
    pub(super) fn json(bytes: BoxStream<'static, storage::Result<Bytes>>, columns: &[String]) -> Self {
        Self {
            columns: Some(columns.to_vec()),
            ..Self::as_is(bytes)
        }
    }

    /// CSV whose first line names these columns, in any order: they come in its order.
    pub(super) async fn headed(
        bytes: BoxStream<'static, storage::Result<Bytes>>,
        columns: &[String],
    ) -> storage::Result<Result<(Vec<String>, Self), String>> {
        let mut rows = Self::as_is(bytes);
        let end = loop {
            if let Some(end) = header_end(&rows.held) {
                break end;
            }
            if rows.held.len() > HEADER_BYTES {
                return Ok(Err("has no line of column names at its beginning".to_owned()));
            }
            match rows.bytes.try_next().await? {
                Some(piece) => rows.held.extend_from_slice(&piece),
                None => break rows.held.len(),
            }
        };
        let header = rows.held.split_to(end);
        let found = header_names(&String::from_utf8_lossy(&header));
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names
        };
        if header.is_empty() {
            return Ok(Ok((columns.to_vec(), rows)));
        }
        if sorted(&found) != sorted(columns) {
            return Ok(Err(format!(
                "begins with the columns {}, and `file_format.columns` names {}; have the code write those",
                found.join(", "),
                columns.join(", ")
            )));
        }
        Ok(Ok((found, rows)))
    }

    /// The next piece of CSV.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Wrong> {
        let Some(columns) = self.columns.take() else {
            if !self.held.is_empty() {
                return Ok(Some(self.held.split().freeze()));
            }
            return Ok(self.bytes.try_next().await?);
        };
        let piece = self.next_json(&columns).await;
        self.columns = Some(columns);
        piece
    }

    async fn next_json(&mut self, columns: &[String]) -> Result<Option<Bytes>, Wrong> {
        let mut out = String::new();
        while out.len() < PIECE {
            let Some(line) = self.next_line().await? else {
                break;
            };
            self.line += 1;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            row(&line, columns, &mut out).map_err(|why| Wrong::Row(format!("line {}: {why}", self.line)))?;
        }
        Ok((!out.is_empty()).then(|| Bytes::from(out)))
    }

    async fn next_line(&mut self) -> Result<Option<Bytes>, Wrong> {
        let mut looked = 0;
        loop {
            if let Some(at) = self.held[looked..].iter().position(|b| *b == b'\n') {
                return Ok(Some(self.held.split_to(looked + at + 1).freeze()));
            }
            looked = self.held.len();
            if looked > LINE_BYTES {
                return Err(Wrong::Row(format!(
                    "line {} has more than {LINE_BYTES} bytes",
                    self.line + 1
                )));
            }
            if self.ended {
                return Ok((looked > 0).then(|| self.held.split().freeze()));
            }
            match self.bytes.try_next().await? {
                Some(piece) => self.held.extend_from_slice(&piece),
                None => self.ended = true,
            }
        }
    }
}

/// Appends a row of CSV. Numbers stay as they are written, so none loses digits.
fn row(line: &[u8], columns: &[String], out: &mut String) -> Result<(), String> {
    let object: BTreeMap<String, &RawValue> =
        serde_json::from_slice(line).map_err(|e| format!("no JSON object: {e}"))?;
    if let Some(unknown) = object.keys().find(|key| !columns.contains(key)) {
        return Err(format!(
            "`{unknown}` is no column of the table, or not in `file_format.columns`"
        ));
    }
    for (at, column) in columns.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        let Some(raw) = object.get(column).map(|raw| raw.get()).filter(|raw| *raw != "null") else {
            // What is missing is null, which CSV writes as nothing.
            continue;
        };
        let text = match raw.starts_with('"') {
            true => serde_json::from_str::<String>(raw).map_err(|e| format!("`{column}`: {e}"))?,
            false => raw.to_owned(),
        };
        out.push('"');
        out.push_str(&text.replace('"', "\"\""));
        out.push('"');
    }
    out.push('\n');
    Ok(())
}

/// Behind the end of the first record.
fn header_end(bytes: &[u8]) -> Option<usize> {
    let mut quoted = false;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn header_names(line: &str) -> Vec<String> {
    let line = line.trim_start_matches('\u{feff}').trim_end_matches(['\n', '\r']);
    let (mut names, mut name, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                name.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(std::mem::take(&mut name)),
            c => name.push(c),
        }
    }
    names.push(name);
    names
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};

    use super::*;

    fn pieces(text: &str, size: usize) -> BoxStream<'static, storage::Result<Bytes>> {
        let pieces: Vec<_> = text
            .as_bytes()
            .chunks(size)
            .map(|c| Ok(Bytes::copy_from_slice(c)))
            .collect();
        stream::iter(pieces).boxed()
    }

    fn columns(names: &str) -> Vec<String> {
        names.split(',').map(str::to_owned).collect()
    }

    async fn all(mut rows: Rows) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match rows.next().await {
                Ok(Some(piece)) => text.push_str(std::str::from_utf8(&piece).unwrap()),
                Ok(None) => return Ok(text),
                Err(Wrong::Row(why)) => return Err(why),
                Err(Wrong::Ours(error)) => panic!("{error}"),
            }
        }
    }

    #[tokio::test]
    async fn an_object_is_a_row_however_its_bytes_arrive_and_no_number_loses_digits() {
        let text = "{\"a\": 12345678901234567890123.5, \"b\": \"x\\n\\\"y\\\", z\"}\n\n{\"b\": null, \"a\": true}\n{\"b\": {\"c\": [1]}}";
        let expected = "\"12345678901234567890123.5\",\"x\n\"\"y\"\", z\"\n\"true\",\n,\"{\"\"c\"\": [1]}\"\n";
        for size in [1, 7, 1000] {
            let rows = Rows::json(pieces(text, size), &columns("a,b"));
            assert_eq!(all(rows).await.unwrap(), expected, "{size}");
        }
        for (text, why) in [
            ("{\"a\": 1}\n{\"c\": 1}", "line 2: `c`"),
            ("[1]", "line 1: no JSON"),
            ("{\"a\": 1", "line 1"),
        ] {
            let told = all(Rows::json(pieces(text, 3), &columns("a,b"))).await.unwrap_err();
            assert!(told.starts_with(why), "{told}");
        }
    }

    #[tokio::test]
    async fn the_first_line_of_csv_says_in_which_order_the_columns_come() {
        let text = "\"b, \"\"c\"\"\",a\r\n1,2\r\n3,4";
        for size in [1, 4, 1000] {
            let names = vec!["a".to_owned(), "b, \"c\"".to_owned()];
            let (found, rows) = Rows::headed(pieces(text, size), &names).await.unwrap().unwrap();
            assert_eq!(found, ["b, \"c\"", "a"]);
            assert_eq!(all(rows).await.unwrap(), "1,2\r\n3,4");
        }
        let wrong = Rows::headed(pieces("a,x\n", 9), &columns("a,b")).await.unwrap();
        assert!(wrong.err().unwrap().contains("a, x"));
        let (found, rows) = Rows::headed(pieces("", 9), &columns("a,b")).await.unwrap().unwrap();
        assert_eq!((found.len(), all(rows).await.unwrap()), (2, String::new()));
    }
}
