//! Reading the fields of a JSON object: both spellings of a name, every mistake with its place, nothing left over.

use std::collections::BTreeMap;

use contract::problem::FieldError;
use serde_json::Value;

/// The mistakes found so far.
#[derive(Default)]
pub(super) struct Errors(pub Vec<FieldError>);

impl Errors {
    pub(super) fn add(&mut self, pointer: &str, message: impl Into<String>) {
        self.0.push(FieldError {
            pointer: pointer.to_owned(),
            message: message.into(),
        });
    }
}

/// A value with its place.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub value: &'a Value,
    pub pointer: &'a str,
}

/// The fields of an object that were not read yet.
pub(super) struct Fields<'a> {
    pointer: String,
    left: BTreeMap<String, (&'a str, &'a Value)>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub(super) fn open(value: &'a Value, pointer: &str, errors: &mut Errors) -> Option<Self> {
        let Value::Object(object) = value else {
            errors.add(pointer, format!("must be an object with fields, not {}", kind(value)));
            return None;
        };
        let mut left = BTreeMap::new();
        for (name, value) in object {
            if let Some((first, _)) = left.insert(field_name(name), (name.as_str(), value)) {
                errors.add(
                    &join(pointer, name),
                    format!("is the same field as `{first}`: keep one of them"),
                );
            }
        }
        Some(Self {
            pointer: pointer.to_owned(),
            left,
            known: Vec::new(),
        })
    }

    pub(super) fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Takes a field with its pointer; null counts as absent.
    pub(super) fn take(&mut self, name: &'static str) -> Option<(&'a Value, String)> {
        self.known.push(name);
        let (written, value) = self.left.remove(name)?;
        (!value.is_null()).then(|| (value, join(&self.pointer, written)))
    }

    /// Refuses fields that a later release will carry out.
    pub(super) fn not_yet(&mut self, names: &[&'static str], errors: &mut Errors) {
        for name in names {
            #[cfg(test)]
            known::refuse(&self.pointer, name);
            if let Some((_, pointer)) = self.take(name) {
                errors.add(&pointer, format!("`{name}` is not supported yet: remove it"));
            }
        }
    }

    pub(super) fn string(&mut self, name: &'static str, errors: &mut Errors) -> Option<String> {
        let (value, pointer) = self.take(name)?;
        string(
            At {
                value,
                pointer: &pointer,
            },
            errors,
        )
    }

    pub(super) fn bool(&mut self, name: &'static str, errors: &mut Errors) -> Option<bool> {
        let (value, pointer) = self.take(name)?;
        if !value.is_boolean() {
            errors.add(&pointer, format!("must be true or false, not {}", kind(value)));
        }
        value.as_bool()
    }

    /// A whole number of at least `least`.
    pub(super) fn number(&mut self, name: &'static str, least: u32, errors: &mut Errors) -> Option<u32> {
        let (value, pointer) = self.take(name)?;
        let number = value
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n >= least);
        if number.is_none() {
            errors.add(
                &pointer,
                format!("must be a whole number from {least} to {}, not {value}", u32::MAX),
            );
        }
        number
    }

    /// A list of texts; a single text is a list of one.
    pub(super) fn strings(&mut self, name: &'static str, errors: &mut Errors) -> Vec<String> {
        let Some((value, pointer)) = self.take(name) else {
            return Vec::new();
        };
        match value {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .filter_map(|(i, value)| {
                    string(
                        At {
                            value,
                            pointer: &join(&pointer, &i.to_string()),
                        },
                        errors,
                    )
                })
                .collect(),
            one => string(
                At {
                    value: one,
                    pointer: &pointer,
                },
                errors,
            )
            .into_iter()
            .collect(),
        }
    }

    /// A name or other text with a parser of its own.
    pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &mut self,
        name: &'static str,
        errors: &mut Errors,
    ) -> Option<T> {
        let (value, pointer) = self.take(name)?;
        let text = string(
            At {
                value,
                pointer: &pointer,
            },
            errors,
        )?;
        text.parse()
            .map_err(|e: T::Err| errors.add(&pointer, e.to_string()))
            .ok()
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&'static str, T)],
        errors: &mut Errors,
    ) -> Option<T> {
        let (value, pointer) = self.take(name)?;
        let text = string(
            At {
                value,
                pointer: &pointer,
            },
            errors,
        )?;
        let found = words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, meaning)| *meaning);
        if found.is_none() {
            let all: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            errors.add(&pointer, format!("`{text}` is not known: use {}", all.join(" or ")));
        }
        found
    }

    /// Reports what was not taken.
    pub(super) fn finish(self, errors: &mut Errors) {
        #[cfg(test)]
        known::record(&self.pointer, &self.known);
        for (name, (written, _)) in &self.left {
            let close = |known: &str| strsim::jaro_winkler(known, name);
            let nearest = self.known.iter().max_by(|a, b| close(a).total_cmp(&close(b)));
            let hint = nearest.map_or(String::new(), |nearest| format!("; did you mean `{nearest}`?"));
            errors.add(
                &join(&self.pointer, written),
                format!("unknown field `{written}`{hint}"),
            );
        }
    }
}

pub(super) fn string(at: At<'_>, errors: &mut Errors) -> Option<String> {
    match at.value {
        Value::String(text) => Some(text.clone()),
        // YAML reads `salt: 1` or `FOO: true` so; what is meant is clear.
        Value::Number(_) | Value::Bool(_) => Some(at.value.to_string()),
        other => {
            errors.add(at.pointer, format!("must be a text, not {}", kind(other)));
            None
        }
    }
}

/// What a value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A JSON pointer one step longer.
pub(super) fn join(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// What a written name is as a field: snake case and lower camel case are the same one. Any other spelling stays as it is,
/// and is no field: what looks into a spec without reading it as a whole must not miss what the reader takes.
pub(super) fn field_name(name: &str) -> String {
    let snake = snake_case(name);
    let mut camel = String::new();
    let mut raised = false;
    for c in snake.chars() {
        match c {
            '_' => raised = true,
            c if raised => {
                camel.push(c.to_ascii_uppercase());
                raised = false;
            }
            c => camel.push(c),
        }
    }
    match name == snake || name == camel {
        true => snake,
        false => name.to_owned(),
    }
}

fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() && !out.ends_with('_') {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Which fields the reader looked for, so that a test can hold the published schema against it.
#[cfg(test)]
pub(super) mod known {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    thread_local! {
        static KNOWN: RefCell<BTreeMap<String, BTreeSet<&'static str>>> = RefCell::default();
        static REFUSED: RefCell<BTreeSet<(String, &'static str)>> = RefCell::default();
    }

    pub(super) fn record(pointer: &str, names: &[&'static str]) {
        KNOWN.with_borrow_mut(|known| known.entry(pointer.to_owned()).or_default().extend(names));
    }

    pub(super) fn refuse(pointer: &str, name: &'static str) {
        REFUSED.with_borrow_mut(|refused| refused.insert((pointer.to_owned(), name)));
    }

    /// The fields looked for since the last time, without those that are always refused.
    pub fn taken() -> BTreeSet<&'static str> {
        let refused = REFUSED.take();
        let known = KNOWN
            .take()
            .into_iter()
            .flat_map(|(at, names)| names.into_iter().map(move |name| (at.clone(), name)));
        known
            .filter(|field| !refused.contains(field))
            .map(|(_, name)| name)
            .collect()
    }
}
