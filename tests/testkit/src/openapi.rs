//! What is wrong with an OpenAPI document. Whether it is one at all, by the published schema, is asked by `make test-openapi`;
//! this is what that schema does not say, and what we demand beyond it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

const METHODS: &[&str] = &["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// The operations of a document: method, path, what it says of it.
pub fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let mut found = Vec::new();
    for (path, item) in object(&document["paths"]) {
        for (method, operation) in object(item) {
            if METHODS.contains(&method.as_str()) {
                found.push((method.as_str(), path.as_str(), operation));
            }
        }
    }
    found
}

/// Whether an operation takes an `Idempotency-Key`.
pub fn takes_key(operation: &Value) -> bool {
    let parameters = operation["parameters"].as_array();
    parameters.into_iter().flatten().any(|p| p["name"] == "idempotency-key")
}

/// Demands that each POST takes an `Idempotency-Key`, or is in the list of those that need none, with the reason, which its
/// description says too.
///
/// # Panics
/// Naming the operation that does neither, or what the list has too much.
pub fn check_keys(document: &Value, keyless: &[(&str, &str)]) {
    let mut left: BTreeMap<&str, &str> = keyless.iter().copied().collect();
    assert_eq!(left.len(), keyless.len(), "an operation is listed twice");
    for (method, path, operation) in operations(document) {
        let id = operation["operationId"].as_str().unwrap_or_default();
        if method != "post" || takes_key(operation) {
            continue;
        }
        let reason = left.remove(id).unwrap_or_else(|| {
            panic!("{id}, POST {path}: let it take an `Idempotency-Key` (`KeyHeader`), or list why it needs none")
        });
        let description = operation["description"].as_str().unwrap_or_default();
        assert!(
            description.replace('\n', " ").contains(reason),
            "{id} does not say that `{reason}`: {description}"
        );
    }
    assert!(left.is_empty(), "no POST without a key: {left:?}");
}

/// Everything that is wrong with a document, in words.
pub fn faults(document: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let version = document["openapi"].as_str().unwrap_or_default();
    if !version.starts_with("3.1.") {
        faults.push(format!("it is of OpenAPI `{version}`, not 3.1"));
    }
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(document) {
        let at = format!("{method} {path}");
        let id = operation["operationId"].as_str().unwrap_or_default();
        if id.is_empty() || !ids.insert(id) {
            faults.push(format!("{at}: the operation id `{id}` is missing or another's"));
        }
        if operation["summary"].as_str().is_none_or(str::is_empty) {
            faults.push(format!("{at}: no summary"));
        }
        if !operation["responses"]["4XX"].is_object() {
            faults.push(format!("{at}: no problems"));
        }
        for (status, response) in object(&operation["responses"]) {
            let described = response["description"].as_str().is_some_and(|text| !text.is_empty());
            if !described && response["$ref"].is_null() {
                faults.push(format!("{at}: the answer {status} is not described"));
            }
        }
        faults.extend(parameters(&at, path, operation));
    }
    references(document, document, &mut faults);
    faults
}

fn parameters(at: &str, path: &str, operation: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().unwrap_or_default();
        let place = parameter["in"].as_str().unwrap_or_default();
        if !seen.insert((place, name)) {
            faults.push(format!("{at}: two parameters `{name}` in {place}"));
        }
        if parameter["description"].as_str().is_none_or(str::is_empty) {
            faults.push(format!("{at}: the parameter `{name}` is not described"));
        }
    }
    let named: BTreeSet<&str> = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .collect();
    let told: BTreeSet<&str> = seen
        .iter()
        .filter(|(place, _)| *place == "path")
        .map(|(_, name)| *name)
        .collect();
    if named != told {
        faults.push(format!("{at}: its path has {named:?}, its parameters {told:?}"));
    }
    faults
}

/// References that lead nowhere.
fn references(document: &Value, part: &Value, faults: &mut Vec<String>) {
    match part {
        Value::Object(fields) => {
            if let Some(Value::String(to)) = fields.get("$ref")
                && to.strip_prefix('#').and_then(|at| document.pointer(at)).is_none()
            {
                faults.push(format!("`{to}` is not there"));
            }
            fields.values().for_each(|value| references(document, value, faults));
        }
        Value::Array(items) => items.iter().for_each(|item| references(document, item, faults)),
        _ => {}
    }
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}
