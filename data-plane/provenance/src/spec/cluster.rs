//! Fields that say on what code runs and in which portions: sets of datums, GPUs, and what a cluster needs to place it. Only
//! `distributed` says something that code sees. Whether an executor can give what they ask for is its matter: here they
//! are read and kept.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::fields::{At, Errors, Fields, join, kind, string};
use super::{Gpu, PipelineSpec, Resources, quantity};

/// In which portions workers take datums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DatumSet {
    /// At most so many datums at a time.
    pub number: Option<u32>,
    /// At most so many bytes of input at a time, but one datum at least.
    pub size_bytes: Option<u64>,
}

/// Which machines of a cluster code runs on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scheduling {
    /// The labels that a machine must have.
    pub node_selector: BTreeMap<String, String>,
    /// What goes before what.
    pub priority_class_name: Option<String>,
}

/// A taint that code may run in spite of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    /// Of which name; `None` = of any.
    pub key: Option<String>,
    /// Whatever its value is.
    pub exists: bool,
    /// Its value.
    pub value: Option<String>,
    /// What it does, in Kubernetes' words; `None` = whatever.
    pub effect: Option<&'static str>,
    /// For so long, where it drives away what runs; `None` = for ever.
    pub toleration_seconds: Option<u32>,
}

impl Toleration {
    /// It as JSON, as specs and Kubernetes both write it but for one name, which is `seconds`.
    pub fn written(&self, seconds: &str) -> Value {
        let mut value = json!({ "operator": if self.exists { "Exists" } else { "Equal" } });
        for (name, text) in [
            ("key", self.key.as_deref()),
            ("value", self.value.as_deref()),
            ("effect", self.effect),
        ] {
            if let Some(text) = text {
                value[name] = json!(text);
            }
        }
        if let Some(lasts) = self.toleration_seconds {
            value[seconds] = json!(lasts);
        }
        value
    }
}

/// One datum over several nodes at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distributed {
    /// So many.
    pub nodes: u32,
    /// So many processes on each.
    pub processes_per_node: u32,
}

/// Kubernetes' words and Pachyderm's for the same.
const OPERATORS: [(&str, bool); 5] = [
    ("Equal", false),
    ("EQUAL", false),
    ("EMPTY", false),
    ("Exists", true),
    ("EXISTS", true),
];
const NO_EXECUTE: &str = "NoExecute";
const EFFECTS: [(&str, Option<&str>); 7] = [
    ("NoSchedule", Some("NoSchedule")),
    ("NO_SCHEDULE", Some("NoSchedule")),
    ("PreferNoSchedule", Some("PreferNoSchedule")),
    ("PREFER_NO_SCHEDULE", Some("PreferNoSchedule")),
    (NO_EXECUTE, Some(NO_EXECUTE)),
    ("NO_EXECUTE", Some(NO_EXECUTE)),
    ("ALL_EFFECTS", None),
];
/// What a patch may hold: operations, bytes as JSON, and levels of objects and lists. Documents that hold specs are read by
/// readers that go 128 levels deep.
const PATCH_MAX: (usize, usize, usize) = (100, 64 << 10, 32);
const OPERATIONS: [(&str, &str); 6] = [
    ("add", "add"),
    ("remove", "remove"),
    ("replace", "replace"),
    ("move", "move"),
    ("copy", "copy"),
    ("test", "test"),
];

/// All of them.
#[derive(Default)]
pub(super) struct Read {
    pub datum_set: DatumSet,
    pub scheduling: Scheduling,
    pub tolerations: Vec<Toleration>,
    pub pod_patch: Vec<Value>,
    pub distributed: Option<Distributed>,
}

pub(super) fn read(fields: &mut Fields<'_>, errors: &mut Errors) -> Read {
    Read {
        datum_set: datum_set(fields, errors).unwrap_or_default(),
        scheduling: scheduling(fields, errors).unwrap_or_default(),
        tolerations: tolerations(fields, errors),
        pod_patch: pod_patch(fields, errors),
        distributed: distributed(fields, errors),
    }
}

/// What they cannot be together with.
pub(super) fn check(spec: &PipelineSpec, errors: &mut Errors) {
    if spec.service.is_some() && spec.distributed.is_some() {
        errors.add(
            "/distributed",
            "a service is one command that answers at one port: remove `distributed`",
        );
    }
    if let (Some(asked), Some(most)) = (&spec.resource_requests.gpu, &spec.resource_limits.gpu)
        && asked != most
    {
        errors.add(
            "/resource_requests/gpu",
            "differs from that of `resource_limits`, and GPUs are given whole: remove one of them",
        );
    }
}

fn datum_set(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<DatumSet> {
    let (value, pointer) = fields.take("datum_set_spec")?;
    let mut inner = Fields::open(value, &pointer, errors)?;
    let number = inner.number("number", 1, errors);
    let size_bytes = inner.take("size_bytes").and_then(|(value, pointer)| {
        let at = At {
            value,
            pointer: &pointer,
        };
        let text = string(at, errors)?;
        let read = quantity::bytes(&text);
        read.map_err(|message| errors.add(&pointer, message)).ok()
    });
    if let Some((_, pointer)) = inner.take("per_worker") {
        errors.add(
            &pointer,
            "`per_worker` is not supported, since workers come and go: say how much is taken at a time by `number` or `size_bytes`",
        );
    }
    inner.finish(errors);
    Some(DatumSet { number, size_bytes })
}

fn texts(fields: &mut Fields<'_>, name: &'static str, errors: &mut Errors) -> BTreeMap<String, String> {
    let Some((value, pointer)) = fields.take(name) else {
        return BTreeMap::new();
    };
    let Value::Object(object) = value else {
        let message = format!("must be an object of names and texts, not {}", kind(value));
        errors.add(&pointer, message);
        return BTreeMap::new();
    };
    let mut all = BTreeMap::new();
    for (name, value) in object {
        let at = join(&pointer, name);
        if name.is_empty() {
            errors.add(&at, "is no name of a label: it may not be empty");
        } else if let Some(text) = string(At { value, pointer: &at }, errors) {
            all.insert(name.clone(), text);
        }
    }
    all
}

fn scheduling(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<Scheduling> {
    let (value, pointer) = fields.take("scheduling_spec")?;
    let mut inner = Fields::open(value, &pointer, errors)?;
    let read = Scheduling {
        node_selector: texts(&mut inner, "node_selector", errors),
        priority_class_name: inner
            .string("priority_class_name", errors)
            .filter(|name| !name.is_empty()),
    };
    inner.finish(errors);
    Some(read)
}

fn items<'a>(value: &'a Value, pointer: &str, errors: &mut Errors) -> &'a [Value] {
    let items = value.as_array().map(Vec::as_slice);
    if items.is_none() {
        errors.add(pointer, format!("must be a list, not {}", kind(value)));
    }
    items.unwrap_or_default()
}

fn tolerations(fields: &mut Fields<'_>, errors: &mut Errors) -> Vec<Toleration> {
    let Some((value, pointer)) = fields.take("tolerations") else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for (number, item) in items(value, &pointer, errors).iter().enumerate() {
        all.extend(toleration(item, &join(&pointer, &number.to_string()), errors));
    }
    all
}

fn toleration(value: &Value, pointer: &str, errors: &mut Errors) -> Option<Toleration> {
    let mut inner = Fields::open(value, pointer, errors)?;
    let full = |text: &String| !text.is_empty();
    let key = inner.string("key", errors).filter(full);
    let exists = inner.word("operator", &OPERATORS, errors).unwrap_or(false);
    let value = inner.string("value", errors).filter(full);
    let effect = inner.word("effect", &EFFECTS, errors).flatten();
    let toleration_seconds = inner.number("toleration_seconds", 0, errors);
    inner.finish(errors);
    if key.is_none() && !exists {
        errors.add(
            pointer,
            "must have the `key` of a taint, or `operator: Exists` for every taint",
        );
    }
    if exists && value.is_some() {
        let at = join(pointer, "value");
        errors.add(
            &at,
            "stands beside `operator: Exists`, which asks for no value: remove it",
        );
    }
    if toleration_seconds.is_some() && effect != Some(NO_EXECUTE) {
        let at = join(pointer, "toleration_seconds");
        errors.add(
            &at,
            "has a meaning beside `effect: NoExecute` only: remove it, or set that",
        );
    }
    Some(Toleration {
        key,
        exists,
        value,
        effect,
        toleration_seconds,
    })
}

/// A JSON patch (RFC 6902) of the pod, as a list or, as Pachyderm has it, as a text of one.
fn pod_patch(fields: &mut Fields<'_>, errors: &mut Errors) -> Vec<Value> {
    let Some((value, pointer)) = fields.take("pod_patch") else {
        return Vec::new();
    };
    let written = match value {
        Value::String(text) if text.trim().is_empty() => return Vec::new(),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(written) => written,
            Err(error) => {
                errors.add(&pointer, format!("is no JSON: {error}"));
                return Vec::new();
            }
        },
        other => other.clone(),
    };
    if !written.is_array() {
        let message = "must be a JSON patch: a list of operations such as `{op: add, path: /spec/hostname, value: x}`";
        errors.add(&pointer, message);
        return Vec::new();
    }
    let (operations, bytes, levels) = PATCH_MAX;
    let items = items(&written, &pointer, errors);
    if items.len() > operations || written.to_string().len() > bytes || depth(&written) > levels {
        let message = format!("is too much: at most {operations} operations, {bytes} bytes and {levels} levels");
        errors.add(&pointer, message);
        return Vec::new();
    }
    let mut all = Vec::new();
    for (number, item) in items.iter().enumerate() {
        all.extend(operation(item, &join(&pointer, &number.to_string()), errors));
    }
    all
}

/// Levels of objects and lists. Whatever was read as JSON has few enough to be walked.
fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        _ => return 0,
    };
    1 + below.unwrap_or(0)
}

fn operation(value: &Value, pointer: &str, errors: &mut Errors) -> Option<Value> {
    let mut inner = Fields::open(value, pointer, errors)?;
    let op = inner.word("op", &OPERATIONS, errors);
    let (path, from) = (inner.string("path", errors), inner.string("from", errors));
    let _ = inner.take("value");
    inner.finish(errors);
    if value.get("op").is_none_or(Value::is_null) {
        errors.add(pointer, "must have an `op`, for example `add`");
    }
    let moves = matches!(op, Some("move" | "copy"));
    for (name, text, needed) in [("path", &path, true), ("from", &from, moves)] {
        match text {
            Some(text) if !text.starts_with('/') => errors.add(
                &join(pointer, name),
                format!("must name a place in the pod, which begins with `/`, not `{text}`"),
            ),
            Some(_) if !needed && op.is_some() => {
                errors.add(&join(pointer, name), "belongs to `move` and `copy` only: remove it");
            }
            None if needed => errors.add(pointer, format!("must have a `{name}`, for example `/spec/hostname`")),
            Some(_) | None => {}
        }
    }
    let valued = matches!(op, Some("add" | "replace" | "test"));
    if op.is_some() && value.get("value").is_some() != valued {
        let message = match valued {
            true => "must have a `value`",
            false => "has a `value`, which belongs to `add`, `replace` and `test` only: remove it",
        };
        errors.add(pointer, message);
    }
    let mut kept = Map::new();
    kept.insert("op".to_owned(), json!(op?));
    kept.insert("path".to_owned(), json!(path?));
    if let Some(from) = from {
        kept.insert("from".to_owned(), json!(from));
    }
    if let Some(value) = value.get("value") {
        kept.insert("value".to_owned(), value.clone());
    }
    Some(Value::Object(kept))
}

fn distributed(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<Distributed> {
    let (value, pointer) = fields.take("distributed")?;
    let mut inner = Fields::open(value, &pointer, errors)?;
    if value.get("nodes").is_none_or(Value::is_null) {
        errors.add(&pointer, "must have `nodes`: over how many one datum runs");
    }
    let nodes = inner.number("nodes", 1, errors);
    let processes_per_node = inner.number("processes_per_node", 1, errors).unwrap_or(1);
    inner.finish(errors);
    Some(Distributed {
        nodes: nodes?,
        processes_per_node,
    })
}

/// `gpu` of `resource_requests` and `resource_limits`.
pub(super) fn gpu(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<Gpu> {
    let (value, pointer) = fields.take("gpu")?;
    let mut inner = Fields::open(value, &pointer, errors)?;
    for name in ["type", "number"] {
        if value.get(name).is_none_or(Value::is_null) {
            errors.add(
                &pointer,
                format!("must have a `{name}`: write `{{type: nvidia.com/gpu, number: 1}}`"),
            );
        }
    }
    let kind = inner.string("type", errors);
    let number = inner.number("number", 1, errors);
    inner.finish(errors);
    if kind.as_ref().is_some_and(String::is_empty) {
        errors.add(
            &join(&pointer, "type"),
            "may not be empty: write for example `nvidia.com/gpu`",
        );
    }
    Some(Gpu {
        kind: kind?,
        number: number?,
    })
}

/// As in a spec; what is not said is absent.
pub(super) fn write(spec: &PipelineSpec, value: &mut Value) {
    let DatumSet { number, size_bytes } = spec.datum_set;
    if let Some(number) = number {
        value["datum_set_spec"]["number"] = json!(number);
    }
    if let Some(size) = size_bytes {
        value["datum_set_spec"]["size_bytes"] = json!(size);
    }
    let Scheduling {
        node_selector,
        priority_class_name,
    } = &spec.scheduling;
    if !node_selector.is_empty() {
        value["scheduling_spec"]["node_selector"] = json!(node_selector);
    }
    if let Some(name) = priority_class_name {
        value["scheduling_spec"]["priority_class_name"] = json!(name);
    }
    if !spec.tolerations.is_empty() {
        let written = spec.tolerations.iter().map(|t| t.written("toleration_seconds"));
        value["tolerations"] = written.collect();
    }
    if !spec.pod_patch.is_empty() {
        value["pod_patch"] = json!(spec.pod_patch);
    }
}

/// Code sees it, so it is a part of what the code is.
pub(super) fn write_distributed(spec: &PipelineSpec, value: &mut Value) {
    if let Some(Distributed {
        nodes,
        processes_per_node,
    }) = spec.distributed
    {
        value["distributed"] = json!({ "nodes": nodes, "processes_per_node": processes_per_node });
    }
}

/// As in a spec.
pub(super) fn write_gpu(amount: &Resources, value: &mut Value) {
    if let Some(Gpu { kind, number }) = &amount.gpu {
        value["gpu"] = json!({ "type": kind, "number": number });
    }
}
