//! Globs over repo paths, with captures. A glob is compiled to a small program that a backtracking matcher with memory
//! runs, so a match takes time in proportion to glob × path, whatever the pattern; a regular expression could not say
//! `!(…)`.

mod machine;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use machine::Program;

/// The longest glob, bytes.
pub const MAX_LENGTH: usize = 4096;

/// A text that is not a glob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{glob}` is not a glob: {why}")]
pub struct GlobError {
    /// The text, cut.
    pub glob: String,
    /// What is wrong and what to do.
    pub why: String,
}

/// A compiled glob. Cheap to clone; equal when the texts are.
#[derive(Clone)]
pub struct Glob {
    text: String,
    compiled: Arc<Compiled>,
}

struct Compiled {
    program: Program,
    root: bool,
    directories_only: bool,
    prefix: String,
    literal: bool,
    depth: Option<usize>,
    groups: usize,
}

/// What the groups of a glob matched, numbered from 1 by their opening parentheses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Captures(Vec<String>);

impl Captures {
    /// The text of group `n`, from 1; empty for a group that took no part.
    pub fn get(&self, n: usize) -> Option<&str> {
        n.checked_sub(1).and_then(|i| self.0.get(i)).map(String::as_str)
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Fills a template: `$1`, `${1}`, and `$$` for a dollar. A group that does not exist is empty; `highest_group`
    /// finds that out beforehand.
    pub fn expand(&self, template: &str) -> String {
        let mut out = String::new();
        for piece in pieces(template) {
            match piece {
                Piece::Text(c) => out.push(c),
                Piece::Group(n) => out.push_str(self.get(n).unwrap_or_default()),
            }
        }
        out
    }
}

enum Piece {
    Text(char),
    Group(usize),
}

fn pieces(template: &str) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut rest = template;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let (number, tail) = if c != '$' {
            ("", after)
        } else if let Some((inside, tail)) = after.strip_prefix('{').and_then(|r| r.split_once('}')) {
            (inside, tail)
        } else {
            after.split_at(after.find(|d: char| !d.is_ascii_digit()).unwrap_or(after.len()))
        };
        match number.parse() {
            Ok(n) if c == '$' => {
                out.push(Piece::Group(n));
                rest = tail;
            }
            _ => {
                out.push(Piece::Text(c));
                rest = if c == '$' {
                    after.strip_prefix('$').unwrap_or(after)
                } else {
                    after
                };
            }
        }
    }
    out
}

/// The highest group that a template names; `None` if it names none.
pub fn highest_group(template: &str) -> Option<usize> {
    let groups = pieces(template).into_iter().filter_map(|p| match p {
        Piece::Group(n) => Some(n),
        Piece::Text(_) => None,
    });
    groups.max()
}

impl Glob {
    /// Compiles a glob. `/a*` and `a*` are the same; `/` is the whole repo; a final `/` wants directories only.
    pub fn parse(text: &str) -> Result<Self, GlobError> {
        let parsed = parse::parse(text).map_err(|why| GlobError {
            glob: text.chars().take(120).collect(),
            why,
        })?;
        Ok(Self {
            text: text.to_owned(),
            compiled: Arc::new(Compiled {
                program: Program::compile(&parsed.nodes),
                root: parsed.root,
                directories_only: parsed.directories_only,
                prefix: parse::literal_prefix(&parsed.nodes),
                literal: parse::is_literal(&parsed.nodes),
                depth: parse::depth(&parsed.nodes)
                    .filter(|_| !parsed.root)
                    .or(parsed.root.then_some(0)),
                groups: parsed.groups,
            }),
        })
    }

    /// The text it was made of.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How many groups it has.
    pub fn groups(&self) -> usize {
        self.compiled.groups
    }

    /// Matches a path (`/a/b`; a directory may end in `/`; the repo itself is `/`).
    pub fn matches(&self, path: &str, is_dir: bool) -> Option<Captures> {
        let compiled = &*self.compiled;
        if path == "/" || path.is_empty() {
            return (compiled.root && is_dir).then(Captures::default);
        }
        if compiled.root || compiled.directories_only && !is_dir || !path.starts_with(compiled.prefix.as_str()) {
            return None;
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        let slots = compiled.program.matches(path, compiled.groups)?;
        let text = |n: usize| match (slots[2 * n], slots[2 * n + 1]) {
            (Some(from), Some(to)) => path[from..to].to_owned(),
            _ => String::new(),
        };
        Some(Captures((0..compiled.groups).map(text).collect()))
    }

    /// Whether it is `/`, the whole repo as one match.
    pub fn is_root(&self) -> bool {
        self.compiled.root
    }

    /// The text that every match begins with: seek there in a sorted list of paths. At least `/`.
    pub fn literal_prefix(&self) -> &str {
        &self.compiled.prefix
    }

    /// The only path that it can match, where it has no wildcards.
    pub fn only_path(&self) -> Option<&str> {
        self.compiled.literal.then_some(self.compiled.prefix.as_str())
    }

    /// The number of parts of every match, if it is the same for all: `/*` has 1, `/` has 0, `/**` has none.
    pub fn depth(&self) -> Option<usize> {
        self.compiled.depth
    }

    /// Whether anything below that directory (`/`, `/a`, `/a/`) may match: a walk leaves out the others. It may say yes
    /// too often, never no.
    pub fn may_match_below(&self, directory: &str) -> bool {
        let below = format!("{}/", directory.strip_suffix('/').unwrap_or(directory));
        !self.compiled.root && self.compiled.program.may_go_on_after(&below)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glob({:?})", self.text)
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Glob {}

impl std::str::FromStr for Glob {
    type Err = GlobError;
    fn from_str(text: &str) -> Result<Self, GlobError> {
        Self::parse(text)
    }
}

/// Quotes a path so that, as a glob, it matches exactly itself.
pub fn quote(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if r"*?[]{}()|,\!@+".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
