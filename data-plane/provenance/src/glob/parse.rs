//! The language of globs: text to nodes, with messages that say where and what to do instead.

use std::iter::Peekable;
use std::str::CharIndices;

const MAX_NESTING: usize = 32;
const MAX_GROUPS: usize = 99;

/// One piece of a glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Literal(char),
    /// `?`: one character of a part.
    One,
    /// `*`: any characters of a part.
    Star,
    /// `**`: any characters, `/` too.
    Cross,
    /// `**/` as whole parts: no part, or any number of them.
    Parts,
    Class(Class),
    /// `{a,b}`.
    Braces(Vec<Vec<Node>>),
    /// `(a|b)` with its number from 0.
    Group(Repeat, usize, Vec<Vec<Node>>),
}

/// How often a group matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    Once,
    Optional,
    Any,
    AtLeastOnce,
    /// Whatever none of the alternatives is.
    Not,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
    named: Vec<Named>,
}

impl Class {
    pub(super) fn has(&self, c: char) -> bool {
        let inside = self.ranges.iter().any(|(a, b)| (*a..=*b).contains(&c)) || self.named.iter().any(|n| n.has(c));
        c != '/' && inside != self.negated
    }
}

pub(super) struct Parsed {
    pub nodes: Vec<Node>,
    pub root: bool,
    pub directories_only: bool,
    pub groups: usize,
}

/// Parses a glob; the error says why not.
pub(super) fn parse(text: &str) -> Result<Parsed, String> {
    if text.is_empty() {
        return Err("it is empty; use `/` for the whole repo or `/*` for everything at its top".to_owned());
    }
    if text.len() > super::MAX_LENGTH {
        return Err(format!("it is longer than {} bytes", super::MAX_LENGTH));
    }
    if text.contains('\0') {
        return Err("it has a NUL, which no path has".to_owned());
    }
    if text == "/" {
        return Ok(Parsed {
            nodes: vec![Node::Literal('/')],
            root: true,
            directories_only: false,
            groups: 0,
        });
    }
    let mut parser = Parser {
        chars: text.char_indices().peekable(),
        groups: 0,
    };
    let mut nodes = parser.sequence(0, "")?;
    if let Some((at, c)) = parser.chars.next() {
        return Err(format!("`{c}` at byte {at} closes nothing; quote it as `\\{c}`"));
    }
    if !begins_with_slash(&nodes) {
        nodes.insert(0, Node::Literal('/'));
    }
    let directories_only = nodes.len() > 1 && nodes.last() == Some(&Node::Literal('/'));
    if directories_only {
        nodes.pop();
    }
    let slash = Node::Literal('/');
    if nodes.windows(2).any(|pair| pair[0] == slash && pair[1] == slash) {
        return Err("it has an empty part (`//`), which no path has".to_owned());
    }
    Ok(Parsed {
        nodes: whole_parts(nodes),
        root: false,
        directories_only,
        groups: parser.groups,
    })
}

fn begins_with_slash(nodes: &[Node]) -> bool {
    match nodes.first() {
        Some(Node::Literal(c)) => *c == '/',
        Some(Node::Braces(alternatives) | Node::Group(_, _, alternatives)) => {
            alternatives.iter().any(|a| begins_with_slash(a))
        }
        _ => false,
    }
}

/// Turns `/` `**` `/` into `/` and any number of whole parts, so that `/**/x` finds `/x` too.
fn whole_parts(nodes: Vec<Node>) -> Vec<Node> {
    let mut out: Vec<Node> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let whole = node == Node::Literal('/')
            && out.last() == Some(&Node::Cross)
            && matches!(
                out.len().checked_sub(2).map(|i| &out[i]),
                Some(Node::Literal('/') | Node::Parts)
            );
        if whole {
            out.pop();
            out.push(Node::Parts);
        } else {
            out.push(node);
        }
    }
    out
}

struct Parser<'a> {
    chars: Peekable<CharIndices<'a>>,
    groups: usize,
}

impl Parser<'_> {
    /// Reads up to one of the characters of `until`, which is left, or to the end.
    fn sequence(&mut self, nesting: usize, until: &str) -> Result<Vec<Node>, String> {
        if nesting > MAX_NESTING {
            return Err(format!("its groups are nested more than {MAX_NESTING} deep"));
        }
        let mut nodes = Vec::new();
        while let Some(&(at, c)) = self.chars.peek() {
            if until.contains(c) || c == ')' || c == '}' {
                break;
            }
            self.chars.next();
            let next_is = |p: &mut Self, wanted: char| p.chars.next_if(|(_, c)| *c == wanted).is_some();
            let node = match c {
                '\\' => match self.chars.next() {
                    Some((_, quoted)) => Node::Literal(quoted),
                    None => return Err("it ends in `\\`; write `\\\\` for a backslash".to_owned()),
                },
                '?' | '*' | '+' | '@' | '!' if next_is(self, '(') => self.group(at, repeat(c), nesting)?,
                '?' => Node::One,
                '*' if next_is(self, '*') => {
                    while next_is(self, '*') {}
                    Node::Cross
                }
                '*' => Node::Star,
                '[' => Node::Class(self.class(at)?),
                '{' => Node::Braces(self.alternatives(at, nesting, ",}", '}')?),
                '(' => self.group(at, Repeat::Once, nesting)?,
                other => Node::Literal(other),
            };
            nodes.push(node);
        }
        Ok(nodes)
    }

    fn group(&mut self, at: usize, repeat: Repeat, nesting: usize) -> Result<Node, String> {
        let number = self.groups;
        self.groups += 1;
        if self.groups > MAX_GROUPS {
            return Err(format!("it has more than {MAX_GROUPS} groups"));
        }
        Ok(Node::Group(repeat, number, self.alternatives(at, nesting, "|)", ')')?))
    }

    fn alternatives(&mut self, at: usize, nesting: usize, stops: &str, close: char) -> Result<Vec<Vec<Node>>, String> {
        let mut alternatives = Vec::new();
        loop {
            alternatives.push(whole_parts(self.sequence(nesting + 1, stops)?));
            match self.chars.next() {
                Some((_, c)) if c == close => return Ok(alternatives),
                Some((_, c)) if stops.contains(c) => {}
                Some((wrong, c)) => {
                    return Err(format!("`{c}` at byte {wrong} closes nothing; quote it as `\\{c}`"));
                }
                None => {
                    let open = if close == '}' { '{' } else { '(' };
                    return Err(format!(
                        "`{open}` at byte {at} is never closed; add `{close}` or quote it as `\\{open}`"
                    ));
                }
            }
        }
    }

    fn class(&mut self, at: usize) -> Result<Class, String> {
        let mut class = Class::default();
        if self.chars.next_if(|(_, c)| *c == '!' || *c == '^').is_some() {
            class.negated = true;
        }
        let open = || format!("`[` at byte {at} is never closed; add `]` or quote it as `\\[`");
        let mut first = true;
        loop {
            let (_, c) = self.chars.next().ok_or_else(open)?;
            if c == ']' && !first {
                return Ok(class);
            }
            first = false;
            if c == '[' && self.chars.next_if(|(_, c)| *c == ':').is_some() {
                class.named.push(self.named_class(at)?);
                continue;
            }
            let from = self.unquoted(c).ok_or_else(open)?;
            let mut ahead = self.chars.clone();
            let is_range = ahead.next().is_some_and(|(_, c)| c == '-') && ahead.next().is_some_and(|(_, c)| c != ']');
            if !is_range {
                class.ranges.push((from, from));
                continue;
            }
            self.chars.next();
            let (_, c) = self.chars.next().ok_or_else(open)?;
            let to = self.unquoted(c).ok_or_else(open)?;
            if from > to {
                return Err(format!("the range `{from}-{to}` is empty; write `{to}-{from}`"));
            }
            class.ranges.push((from, to));
        }
    }

    fn unquoted(&mut self, c: char) -> Option<char> {
        if c == '\\' {
            self.chars.next().map(|(_, c)| c)
        } else {
            Some(c)
        }
    }

    fn named_class(&mut self, at: usize) -> Result<Named, String> {
        let mut name = String::new();
        while let Some((_, c)) = self.chars.next_if(|(_, c)| c.is_ascii_alphabetic()) {
            name.push(c);
        }
        let closed = self.chars.next().map(|(_, c)| c) == Some(':') && self.chars.next().map(|(_, c)| c) == Some(']');
        match name.as_str() {
            "alpha" if closed => Ok(Named::Alpha),
            "digit" if closed => Ok(Named::Digit),
            "alnum" if closed => Ok(Named::Alnum),
            "lower" if closed => Ok(Named::Lower),
            "upper" if closed => Ok(Named::Upper),
            "space" if closed => Ok(Named::Space),
            "punct" if closed => Ok(Named::Punct),
            "xdigit" if closed => Ok(Named::Xdigit),
            _ => Err(format!(
                "`[:{name}` in the class at byte {at} is not known; use alpha, digit, alnum, lower, upper, space, \
                 punct or xdigit as in `[[:alpha:]]`"
            )),
        }
    }
}

/// A class with a name, `[:alpha:]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Alpha,
    Digit,
    Alnum,
    Lower,
    Upper,
    Space,
    Punct,
    Xdigit,
}

impl Named {
    fn has(self, c: char) -> bool {
        match self {
            Self::Alpha => c.is_alphabetic(),
            Self::Digit => c.is_ascii_digit(),
            Self::Alnum => c.is_alphanumeric(),
            Self::Lower => c.is_lowercase(),
            Self::Upper => c.is_uppercase(),
            Self::Space => c.is_whitespace(),
            Self::Punct => c.is_ascii_punctuation(),
            Self::Xdigit => c.is_ascii_hexdigit(),
        }
    }
}

fn repeat(c: char) -> Repeat {
    match c {
        '?' => Repeat::Optional,
        '*' => Repeat::Any,
        '+' => Repeat::AtLeastOnce,
        '!' => Repeat::Not,
        _ => Repeat::Once,
    }
}

/// The literal text at the beginning.
pub(super) fn literal_prefix(nodes: &[Node]) -> String {
    let literal = nodes.iter().map_while(|n| match n {
        Node::Literal(c) => Some(*c),
        _ => None,
    });
    literal.collect()
}

/// Whether all of it is literal.
pub(super) fn is_literal(nodes: &[Node]) -> bool {
    nodes.iter().all(|n| matches!(n, Node::Literal(_)))
}

/// The number of `/`, if it is the same in every match.
pub(super) fn depth(nodes: &[Node]) -> Option<usize> {
    let alike = |alternatives: &[Vec<Node>]| {
        let mut depths = alternatives.iter().map(|a| depth(a));
        let first = depths.next().flatten()?;
        depths.all(|d| d == Some(first)).then_some(first)
    };
    nodes.iter().try_fold(0, |sum, node| {
        let here = match node {
            Node::Literal('/') => 1,
            Node::Literal(_) | Node::One | Node::Star | Node::Class(_) | Node::Group(Repeat::Not, ..) => 0,
            Node::Cross | Node::Parts => return None,
            Node::Braces(a) | Node::Group(Repeat::Once, _, a) => alike(a)?,
            Node::Group(_, _, a) => alike(a).filter(|d| *d == 0)?,
        };
        Some(sum + here)
    })
}
