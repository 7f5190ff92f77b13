//! The cells of a notebook as a script.

use serde::Deserialize;
use serde_json::Value;

/// Magics that change nothing but how things look or how a kernel works: they become comments.
const HARMLESS: [&str; 14] = [
    "autoreload",
    "automagic",
    "colors",
    "config",
    "doctest_mode",
    "load_ext",
    "logstop",
    "matplotlib",
    "pdb",
    "pprint",
    "precision",
    "reload_ext",
    "unload_ext",
    "xmode",
];
/// The same of a whole cell, whose code stays.
const HARMLESS_OF_CELLS: [&str; 4] = ["capture", "python", "python3", "time"];
/// What notebooks know besides Python.
const DISPLAY: [&str; 4] = [
    "def display(*values, **options):",
    "    for value in values:",
    "        print(value)",
    "",
];

#[derive(Deserialize)]
struct Notebook {
    #[serde(default)]
    nbformat: u32,
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    cells: Vec<Cell>,
}

#[derive(Deserialize)]
struct Cell {
    cell_type: String,
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    source: Source,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Source {
    Lines(Vec<String>),
    Text(String),
}

impl Default for Source {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl Source {
    fn text(&self) -> String {
        match self {
            Self::Lines(lines) => lines.concat(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// A script.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) lines: Vec<String>,
    /// What was left out.
    pub(super) notes: Vec<String>,
}

/// Makes the script; the error says what cannot be in one, with cells and lines.
pub(super) fn convert(text: &str) -> Result<Script, String> {
    let notebook: Notebook = serde_json::from_str(text).map_err(|e| format!("it is no notebook: {e}"))?;
    if notebook.nbformat != 4 {
        return Err(format!(
            "it is of format {}, not 4: open it in Jupyter and save it again",
            notebook.nbformat
        ));
    }
    let language = [
        &notebook.metadata["kernelspec"]["language"],
        &notebook.metadata["language_info"]["name"],
    ];
    if let Some(language) = language.into_iter().filter_map(Value::as_str).find(|l| *l != "python") {
        return Err(format!(
            "its language is {language}; only Python can be made a pipeline"
        ));
    }
    let mut made = Making::default();
    for (at, cell) in notebook.cells.iter().enumerate() {
        if cell.cell_type == "code" {
            made.cell(at + 1, cell);
        }
    }
    if !made.refused.is_empty() {
        return Err(made.refused.join("; "));
    }
    if made
        .lines
        .iter()
        .all(|line| line.trim().is_empty() || line.starts_with('#'))
    {
        return Err("it has no code".to_owned());
    }
    let displays = made.lines.iter().any(|line| line.contains("display("));
    let prelude = DISPLAY.iter().filter(|_| displays).map(|line| (*line).to_owned());
    Ok(Script {
        lines: prelude.chain(made.lines).collect(),
        notes: made.notes,
    })
}

#[derive(Default)]
struct Making {
    lines: Vec<String>,
    notes: Vec<String>,
    refused: Vec<String>,
}

impl Making {
    fn cell(&mut self, number: usize, cell: &Cell) {
        let tags = cell.metadata["tags"].as_array().cloned().unwrap_or_default();
        if tags.iter().any(|tag| tag == "skip") {
            self.notes
                .push(format!("cell {number} is left out: it is tagged `skip`"));
            return;
        }
        let text = cell.source.text();
        if text.trim().is_empty() {
            return;
        }
        if !self.lines.is_empty() {
            self.lines.push(String::new());
        }
        self.lines.push(format!("# cell {number}"));
        let mut code_began = false;
        for (at, line) in text.lines().enumerate() {
            let place = format!("cell {number}, line {}", at + 1);
            let first = !code_began && !line.trim().is_empty();
            code_began |= !line.trim().is_empty();
            match line_of(line, first) {
                Line::Code => self.lines.push(line.to_owned()),
                Line::Harmless => {
                    self.notes.push(format!("{place}: `{}` is left out", line.trim()));
                    self.lines.push(format!("{}pass  # {}", indentation(line), line.trim()));
                }
                Line::Refused(why) => self.refused.push(format!("{place}: `{}` {why}", line.trim())),
            }
        }
    }
}

enum Line {
    Code,
    Harmless,
    Refused(&'static str),
}

fn indentation(line: &str) -> &str {
    &line[..line.len() - line.trim_start().len()]
}

/// What a line is to IPython. `first`: of a cell, where magics of whole cells stand.
fn line_of(line: &str, first: bool) -> Line {
    let trimmed = line.trim();
    let word = |rest: &str| -> String {
        rest.chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect()
    };
    if let Some(rest) = trimmed.strip_prefix("%%") {
        return match word(rest) {
            name if !first || name.is_empty() => Line::Code,
            name if HARMLESS_OF_CELLS.contains(&name.as_str()) => Line::Harmless,
            _ => Line::Refused("is a cell of something else than Python"),
        };
    }
    if let Some(rest) = trimmed.strip_prefix('%') {
        return match word(rest) {
            // The rest of an expression that was begun above.
            name if name.is_empty() => Line::Code,
            name if HARMLESS.contains(&name.as_str()) => Line::Harmless,
            name if name == "pip" || name == "conda" => {
                Line::Refused("installs packages, and a pipeline has no network: install them where it runs")
            }
            _ => Line::Refused("is a magic that Python does not know"),
        };
    }
    if trimmed.starts_with('!') && !trimmed.starts_with("!=") {
        return Line::Refused("is a command of a shell: write it with `subprocess.run`");
    }
    let asks = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "_.".contains(c));
    let name = trimmed.trim_matches('?');
    if name.len() < trimmed.len() && asks(name) {
        return Line::Harmless;
    }
    Line::Code
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn notebook(cells: &[Value]) -> String {
        json!({ "nbformat": 4, "nbformat_minor": 5, "metadata": { "kernelspec": { "language": "python" } }, "cells": cells })
            .to_string()
    }

    fn code(source: &str) -> Value {
        json!({ "cell_type": "code", "metadata": {}, "source": source.split_inclusive('\n').collect::<Vec<_>>() })
    }

    #[test]
    fn code_cells_become_one_script_in_order() {
        let mut skipped = code("secret = 1");
        skipped["metadata"] = json!({ "tags": ["skip"] });
        let script = convert(&notebook(&[
            json!({ "cell_type": "markdown", "source": "# Title" }),
            code("%matplotlib inline\nimport os\nx = ('%d'\n     % (1,))"),
            skipped,
            json!({ "cell_type": "code", "source": "if True:\n    %config A\nos.path?" }),
            code("%%time\ny = x"),
        ]))
        .unwrap();
        let expected = [
            "# cell 2",
            "pass  # %matplotlib inline",
            "import os",
            "x = ('%d'",
            "     % (1,))",
            "",
            "# cell 4",
            "if True:",
            "    pass  # %config A",
            "pass  # os.path?",
            "",
            "# cell 5",
            "pass  # %%time",
            "y = x",
        ];
        assert_eq!(script.lines, expected);
        assert_eq!(script.notes.len(), 5);
    }

    #[test]
    fn what_is_no_python_is_refused_with_its_lines() {
        let refused = convert(&notebook(&[
            code("a = 1\n!ls"),
            code("%%bash\nls"),
            code("%pip install x\n%run other.py"),
        ]))
        .unwrap_err();
        for part in [
            "cell 1, line 2: `!ls`",
            "cell 2, line 1: `%%bash`",
            "cell 3, line 1",
            "cell 3, line 2",
        ] {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn what_is_no_notebook_of_python_is_refused() {
        for (text, why) in [
            ("{".to_owned(), "no notebook"),
            (json!({ "nbformat": 3 }).to_string(), "format 3"),
            (notebook(&[]), "no code"),
            (
                json!({ "nbformat": 4, "metadata": { "language_info": { "name": "julia" } } }).to_string(),
                "julia",
            ),
        ] {
            let refused = convert(&text).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn a_script_that_displays_can() {
        let script = convert(&notebook(&[code("display(1)")])).unwrap();
        assert_eq!(script.lines[0], DISPLAY[0]);
    }
}
