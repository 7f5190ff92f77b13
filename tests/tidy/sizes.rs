//! How long files and functions are. A reader holds one idea at a time.

use super::sources::{is_test, rust};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const MEDIAN_FILE_LINES_MAX: usize = 200;

/// Where a longer function is the clearer one, and why.
const EXCUSED_FUNCTIONS: &[(&str, &str)] = &[];

#[test]
fn files_are_short() {
    let long: Vec<String> = rust()
        .iter()
        .map(|source| (source.text.lines().count(), &source.path))
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    assert!(
        long.is_empty(),
        "files over {FILE_LINES_MAX} lines:\n{}",
        long.join("\n")
    );
}

#[test]
fn the_median_file_is_short() {
    let mut lines: Vec<usize> = rust()
        .iter()
        .filter(|s| !is_test(&s.path))
        .map(|s| s.text.lines().count())
        .collect();
    lines.sort_unstable();
    let median = lines[lines.len() / 2];
    assert!(median <= MEDIAN_FILE_LINES_MAX, "the median file has {median} lines");
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for source in rust() {
        for (name, at, lines) in functions(&source.text) {
            let excused = EXCUSED_FUNCTIONS.contains(&(source.path.as_str(), name.as_str()));
            if lines > FUNCTION_LINES_MAX && !excused {
                long.push(format!("{}:{at}: `{name}` has {lines} lines", source.path));
            }
        }
    }
    assert!(
        long.is_empty(),
        "functions over {FUNCTION_LINES_MAX} lines:\n{}",
        long.join("\n")
    );
}

/// Name, first line and length of every function, by rustfmt's layout: it ends at the first closing brace that stands as
/// far to the right as its first line.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let head = ["pub(crate) ", "pub(super) ", "pub ", "const ", "async "]
            .iter()
            .fold(trimmed, |rest, word| rest.strip_prefix(word).unwrap_or(rest));
        let Some(rest) = head.strip_prefix("fn ") else { continue };
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let close = format!("{}}}", " ".repeat(line.len() - trimmed.len()));
        if line.ends_with('}') || line.ends_with(';') {
            continue;
        }
        let end = lines[at..]
            .iter()
            .position(|l| *l == close || l.ends_with(';') && l.len() - l.trim_start().len() == close.len() - 1);
        if let Some(length) = end {
            found.push((name, at + 1, length + 1));
        }
    }
    found
}

#[test]
fn the_length_of_a_function_is_measured_right() {
    let text = "impl A {\n    pub async fn long(\n        a: u8,\n    ) -> u8 {\n        a\n    }\n}\n";
    assert_eq!(functions(text), [("long".to_owned(), 2, 5)]);
}
