//! The published schema against the reader: what one accepts the other accepts, field by field, and neither knows a field that
//! the other does not.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, json};

use super::fields::{field_name, known};
use super::*;

/// Fields that the reader knows in order to say why they are refused; `not_yet` records others by itself.
const REFUSED: [&str; 4] = ["external_port", "ip", "annotations", "per_worker"];

/// Specs that have all fields between them.
fn specs() -> Vec<Value> {
    let bucket = json!({ "url": "s3://bucket/a", "endpoint": "http://s3:9000", "region": "eu", "secret": { "name": "aws", "key": "k" } });
    let with = |more: Value| {
        let mut spec = json!({ "pipeline": { "name": "p" }, "transform": { "cmd": ["a"] },
            "input": { "pfs": { "repo": "r", "glob": "/" } } });
        for (name, value) in more.as_object().unwrap() {
            spec[name] = value.clone();
        }
        spec
    };
    vec![
        json!({
            "pipeline": { "name": "p", "project": "vision" }, "description": "d",
            "transform": {
                "image": "python:3", "cmd": ["a"], "stdin": ["b"], "err_cmd": ["c"], "err_stdin": ["d"],
                "accept_return_code": [3], "env": { "A": "1" }, "user": "u", "working_dir": "/w",
                "secrets": [{ "name": "db", "env_var": "PGPASSWORD", "key": "password" }, { "name": "x", "mount_path": "/s" }],
                "image_pull_secrets": ["registry"],
            },
            "input": { "cross": [
                { "pfs": { "repo": "a", "glob": "/", "branch": "b", "project": "other", "name": "n", "empty_files": true,
                           "lazy": true, "s3": false } },
                { "union": [{ "pfs": { "repo": "c", "glob": "/*", "trigger": { "branch": "main", "size": "1M", "commits": 2,
                           "cron_spec": "@daily", "all": true } } }] },
                { "group": [{ "pfs": { "repo": "e", "glob": "/(*)-*", "group_by": "$1" } }] },
                { "join": [{ "pfs": { "repo": "f", "glob": "/(*)-*", "join_on": "$1", "outer_join": true } }] },
                { "cron": { "name": "tick", "spec": "@daily", "overwrite": true, "start": "2026-11-01T00:00:00Z" } },
            ] },
            "output_branch": "o", "parallelism_spec": { "constant": 4 }, "autoscaling": true,
            "datum_set_spec": { "number": 3, "size_bytes": "64M" }, "datum_timeout": "90s", "datum_tries": 5,
            "job_timeout": "1h30m", "reprocess_spec": "every_job", "salt": "1",
            "resource_requests": { "cpu": 0.5, "memory": "64Mi", "disk": "1Gi" },
            "resource_limits": { "cpu": "500m", "gpu": { "type": "nvidia.com/gpu", "number": 1 } },
            "scheduling_spec": { "node_selector": { "disk": "ssd" }, "priority_class_name": "high" },
            "tolerations": [{ "key": "spot", "operator": "Equal", "value": "x", "effect": "NoExecute", "toleration_seconds": 9 }],
            "pod_patch": [{ "op": "move", "path": "/a", "from": "/b" }, { "op": "add", "path": "/a", "value": 1 }],
            "distributed": { "nodes": 1, "processes_per_node": 2 }, "s3_out": false,
            "metadata": { "x": "y" }, "max_origins": ["a"], "network": "internet", "path_collision": "append",
        }),
        with(json!({ "service": { "internal_port": 8888, "type": "ClusterIP" } })),
        json!({ "pipeline": { "name": "p" }, "transform": { "cmd": ["a"] }, "spout": { "overwrite": true } }),
        with(json!({ "egress": bucket })),
        with(json!({ "egress": { "object_storage": bucket } })),
        with(json!({ "egress": { "URL": "s3://bucket", "secret": { "name": "aws" } } })),
        with(
            json!({ "egress": { "sql_database": { "url": "postgresql://a@b/c", "secret": { "name": "db", "key": "k" },
            "file_format": { "type": "CSV", "columns": ["x"] } } } }),
        ),
        with(
            json!({ "transform": { "cmd": ["a"], "code": { "project": "q", "repo": "c", "branch": "b", "path": "/x" } } }),
        ),
        with(json!({ "input": { "pfs": { "repo": "r", "glob": "/", "trigger": { "rate_limit_spec": "@hourly" } } } })),
        with(json!({ "pipeline": { "name": "p", "project": { "name": "q" } }, "max_origins": 3 })),
    ]
}

fn reads(spec: &Value) -> Result<(), String> {
    PipelineSpec::parse(spec, &ProjectName::default_project())
        .map(drop)
        .map_err(|errors| format!("{errors:?}"))
}

/// As much of JSON Schema as the published one uses; any other word is a mistake of the schema's.
fn valid(schema: &Value, value: &Value, root: &Value) -> bool {
    let Value::Object(words) = schema else {
        return schema != &json!(false);
    };
    words.iter().all(|(word, said)| holds(word, said, schema, value, root))
}

fn holds(word: &str, said: &Value, schema: &Value, value: &Value, root: &Value) -> bool {
    let among = |list: &Value| {
        list.as_array()
            .unwrap()
            .iter()
            .filter(|s| valid(s, value, root))
            .count()
    };
    let number = |ok: fn(f64, f64) -> bool| value.as_f64().is_none_or(|n| ok(n, said.as_f64().unwrap()));
    let length = |of: Option<usize>| of.is_none_or(|n| n as u64 >= said.as_u64().unwrap());
    match word {
        "$schema" | "title" | "description" | "$defs" => true,
        "$ref" => valid(
            root.pointer(said.as_str().unwrap().trim_start_matches('#')).unwrap(),
            value,
            root,
        ),
        "type" => match said {
            Value::Array(types) => types.iter().any(|t| is(t, value)),
            one => is(one, value),
        },
        "enum" => said.as_array().unwrap().contains(value),
        "pattern" => value
            .as_str()
            .is_none_or(|text| Regex::new(said.as_str().unwrap()).unwrap().is_match(text)),
        "minimum" => number(|n, least| n >= least),
        "maximum" => number(|n, most| n <= most),
        "exclusiveMinimum" => number(|n, least| n > least),
        "minItems" => length(value.as_array().map(Vec::len)),
        "minLength" => length(value.as_str().map(|text| text.chars().count())),
        "items" => value
            .as_array()
            .is_none_or(|all| all.iter().all(|one| valid(said, one, root))),
        "anyOf" => among(said) > 0,
        "oneOf" => among(said) == 1,
        "allOf" => among(said) == said.as_array().unwrap().len(),
        "not" => !valid(said, value, root),
        "required" => value.as_object().is_none_or(|o| {
            said.as_array()
                .unwrap()
                .iter()
                .all(|n| o.contains_key(n.as_str().unwrap()))
        }),
        "properties" => value
            .as_object()
            .is_none_or(|o| o.iter().all(|(n, v)| said.get(n).is_none_or(|s| valid(s, v, root)))),
        "propertyNames" => value
            .as_object()
            .is_none_or(|o| o.keys().all(|n| valid(said, &json!(n), root))),
        "additionalProperties" => value.as_object().is_none_or(|o| {
            let known = |n: &str| schema.get("properties").is_some_and(|p| p.get(n).is_some());
            o.iter().all(|(n, v)| known(n) || valid(said, v, root))
        }),
        other => panic!("the schema uses `{other}`, which this test does not know"),
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("`{other}` is no type"),
    }
}

/// The pointers of everything in a value.
fn places(value: &Value, pointer: &str, found: &mut Vec<String>) {
    let steps: Vec<(String, &Value)> = match value {
        Value::Object(object) => object
            .iter()
            .map(|(name, v)| (name.replace('~', "~0").replace('/', "~1"), v))
            .collect(),
        Value::Array(items) => items.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        _ => Vec::new(),
    };
    for (step, inner) in steps {
        let at = format!("{pointer}/{step}");
        places(inner, &at, found);
        found.push(at);
    }
}

fn renamed(spec: &Value, at: &str, name: &str) -> Option<Value> {
    let mut spec = spec.clone();
    let (parent, old) = at.rsplit_once('/')?;
    let object: &mut Map<String, Value> = spec.pointer_mut(parent)?.as_object_mut()?;
    let value = object.remove(old)?;
    object.insert(name.to_owned(), value);
    Some(spec)
}

fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out += &part[..1].to_uppercase();
        out += &part[1..];
    }
    out
}

/// Names that are somebody else's: any is right there.
fn is_free(at: &str) -> bool {
    [
        "/metadata/",
        "/transform/env/",
        "/scheduling_spec/node_selector/",
        "/pod_patch/1/value",
    ]
    .iter()
    .any(|free| at.starts_with(free))
}

#[test]
fn the_schema_and_the_reader_accept_and_refuse_the_same() {
    let schema = contract::schema::pipeline();
    let (mut checked, mut differing) = (0, Vec::new());
    for spec in specs() {
        reads(&spec).unwrap_or_else(|e| panic!("{spec}: {e}"));
        assert!(valid(&schema, &spec, &schema), "{spec}");
        let mut all = Vec::new();
        places(&spec, "", &mut all);
        for at in all {
            let name = at.rsplit('/').next().unwrap();
            let mut others = Vec::new();
            if !is_free(&at) {
                others.extend(
                    [format!("{name}x"), camel(name), name.to_uppercase()].map(|new| renamed(&spec, &at, &new)),
                );
            }
            for wrong in [json!({ "odd": 1 }), json!([{}]), json!([[]]), json!(-1.5), Value::Null] {
                let mut other = spec.clone();
                *other.pointer_mut(&at).unwrap() = wrong;
                others.push(Some(other));
            }
            for other in others.into_iter().flatten() {
                let (read, says) = (reads(&other), valid(&schema, &other, &schema));
                // Without its key or its other half a spec may be wrong in a way that only the reader can know.
                let of_several = says
                    && read
                        .as_ref()
                        .is_err_and(|e| SEVERAL.iter().any(|text| e.contains(text)));
                if read.is_ok() != says && !of_several {
                    differing.push(format!(
                        "{at} is {:?} in one of {}: {read:?}, the schema says {says}",
                        other.pointer(&at),
                        spec["pipeline"]
                    ));
                }
                checked += 1;
            }
        }
    }
    assert!(differing.is_empty(), "{differing:?}");
    assert!(checked > 1000, "{checked}");
}

/// What the reader says of fields that do not go together.
const SEVERAL: [&str; 15] = [
    "has no `join_on`",
    "has no `group_by`",
    "under `join` only",
    "under `group` only",
    "must have either an `env_var`",
    "must have the `key`",
    "is used by input",
    "beside `effect: NoExecute` only",
    "must have a `from`",
    "must have a `value`",
    "belongs to",
    "must name the command to run",
    "may have no input named",
    "names no capture",
    "captures, numbered from 1",
];

#[test]
fn the_schema_knows_every_field_that_the_reader_knows_and_no_other() {
    let schema = contract::schema::pipeline();
    let mut read = BTreeSet::new();
    for spec in specs() {
        let _ = known::taken();
        reads(&spec).unwrap();
        read.extend(known::taken());
    }
    read.retain(|name| !REFUSED.contains(name));
    let mut written = BTreeSet::new();
    collect(&schema, &mut written);
    let written: BTreeSet<&str> = written.iter().map(String::as_str).collect();
    assert_eq!(written, read, "left: in the schema, right: looked for by the reader");
}

fn collect(schema: &Value, names: &mut BTreeSet<String>) {
    if let Some(Value::Object(properties)) = schema.get("properties") {
        names.extend(properties.keys().map(|name| field_name(name)));
    }
    match schema {
        Value::Object(words) => words.values().for_each(|inner| collect(inner, names)),
        Value::Array(items) => items.iter().for_each(|inner| collect(inner, names)),
        _ => {}
    }
}

#[test]
fn the_specs_of_the_demo_are_as_the_schema_says() {
    let schema = contract::schema::pipeline();
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo");
    let mut found = 0;
    for file in ["challenge.yaml", "jupyter/lab.yaml"] {
        let text = std::fs::read_to_string(demo.join(file)).unwrap();
        for spec in parse_yaml(&text.replace("{{ competitor }}", "red")).unwrap() {
            reads(&spec).unwrap();
            assert!(valid(&schema, &spec, &schema), "{spec}");
            found += 1;
        }
    }
    assert_eq!(found, 3);
}
