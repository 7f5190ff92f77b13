//! What goes to standard output (the result, and nothing else) and to standard error (progress and hints, the former on
//! terminals only).

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::{Failure, Outcome};

/// How results are printed.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// JSON instead of text for people.
    pub json: bool,
}

impl Output {
    /// Prints a result: the document with `--json`, else the text.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn result<T: Serialize>(self, value: &T, text: impl FnOnce() -> String) -> Outcome {
        if self.json {
            self.line(&to_json(value)?)
        } else {
            let text = text();
            if text.is_empty() {
                Ok(())
            } else {
                self.line(text.trim_end_matches('\n'))
            }
        }
    }

    /// Prints a list: one JSON array, or a table with these columns.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn list<T: Serialize>(self, items: &[T], header: &[&str], row: impl Fn(&T) -> Vec<String>) -> Outcome {
        self.result(&items, || table(header, &items.iter().map(row).collect::<Vec<_>>()))
    }

    /// Prints one line of a stream.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn streamed<T: Serialize>(self, value: &T, text: impl FnOnce() -> String) -> Outcome {
        let line = if self.json { to_json(value)? } else { text() };
        self.line(&line)
    }

    /// Prints one line.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn line(self, line: &str) -> Outcome {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}").map_err(closed)
    }

    /// Says something beside the result; to people only.
    pub fn hint(self, text: &str) {
        if !self.json {
            eprintln!("{text}");
        }
    }

    fn shows_progress(self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }

    /// A spinner for something whose length is not known.
    pub fn spinner(self, text: &str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(None, self.target());
        bar.set_message(text.to_owned());
        // That takes a thread, and every request has a spinner.
        if self.shows_progress() {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        bar
    }

    /// A bar that counts bytes.
    pub fn bytes(self, total: Option<u64>) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(total, self.target());
        let template = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let (Some(_), Ok(style)) = (total, ProgressStyle::with_template(template)) {
            bar.set_style(style);
        }
        bar
    }

    fn target(self) -> ProgressDrawTarget {
        if self.shows_progress() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        }
    }
}

fn to_json<T: Serialize>(value: &T) -> Outcome<String> {
    serde_json::to_string(value).map_err(|e| Failure::new("cannot print the result", e, "report this"))
}

/// A closed pipe (`howdah ls … | head`) ends the command quietly.
pub fn closed(error: std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    Failure::new("cannot write to standard output", error, "check where it goes to")
}

/// Columns as wide as their widest cell.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(header[column].len())
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let titles: Vec<String> = header.iter().map(|title| title.to_uppercase()).collect();
    let lines: Vec<String> = std::iter::once(line(&titles))
        .chain(rows.iter().map(|row| line(row)))
        .collect();
    lines.join("\n")
}

/// `1.2 MiB`.
pub fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A time as people read it.
pub fn time(at: &chrono::DateTime<chrono::Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A value that may be missing.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".to_owned(), "1".to_owned()],
            vec!["longer".to_owned(), "2".to_owned()],
        ];
        assert_eq!(table(&["name", "n"], &rows), "NAME    N\na       1\nlonger  2");
        assert_eq!(table(&["name"], &[]), "");
    }
}
