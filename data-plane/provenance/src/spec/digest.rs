//! Specs as canonical JSON, and the digests that releases and datums are bound to.

use serde_json::{Map, Value, json};

use super::fields::join;
use super::{
    InputSpec, MaxOrigins, PathCollision, PfsInput, PipelineSpec, Resources, Transform, TriggerInput, cluster, egress,
    quantity, secrets,
};

/// JSON with sorted keys and no spaces: equal values have equal bytes, whatever order their fields were written in.
pub fn canonical_json(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let mut names: Vec<&String> = object.keys().collect();
            names.sort();
            let fields = names
                .into_iter()
                .map(|n| format!("{}:{}", Value::from(n.as_str()), canonical_json(&object[n])));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical_json).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// JSON pointers of the innermost fields in which two specs differ, sorted.
pub fn differences(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    differ(old, new, String::new(), &mut found);
    found.sort();
    found
}

fn differ(old: &Value, new: &Value, pointer: String, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let one = |object: &Map<String, Value>| object.get(name).cloned().unwrap_or(Value::Null);
                differ(&one(a), &one(b), join(&pointer, name), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differ(a, b, join(&pointer, &i.to_string()), found);
            }
        }
        _ if old == new => {}
        _ => found.push(pointer),
    }
}

pub(super) fn whole(spec: &PipelineSpec) -> Value {
    let mut value = decisive(spec);
    if spec.input.leaves().into_iter().any(|leaf| leaf.lazy) {
        value["input"] = input(written_input(spec), true);
    }
    value["description"] = json!(spec.description);
    if !spec.transform.image_pull_secrets.is_empty() {
        value["transform"]["image_pull_secrets"] = json!(spec.transform.image_pull_secrets);
    }
    value["autoscaling"] = json!(spec.autoscaling);
    if let Some(n) = spec.parallelism {
        value["parallelism_spec"] = json!({ "constant": n });
    }
    for (name, amount) in [
        ("resource_requests", &spec.resource_requests),
        ("resource_limits", &spec.resource_limits),
    ] {
        if *amount != Resources::default() {
            value[name] = resources(amount);
        }
    }
    if !spec.metadata.is_empty() {
        value["metadata"] = json!(spec.metadata);
    }
    cluster::write(spec, &mut value);
    value
}

fn resources(amount: &Resources) -> Value {
    let mut value = json!({});
    if let Some(millis) = amount.cpu_millis {
        value["cpu"] = json!(format!("{millis}m"));
    }
    if let Some(bytes) = amount.memory_bytes {
        value["memory"] = json!(bytes.to_string());
    }
    if let Some(bytes) = amount.disk_bytes {
        value["disk"] = json!(bytes.to_string());
    }
    cluster::write_gpu(amount, &mut value);
    value
}

/// Everything that decides what the code is, does and sees.
fn decisive(spec: &PipelineSpec) -> Value {
    let transform = &spec.transform;
    let mut value = json!({
        "pipeline": { "project": spec.project, "name": spec.name },
        "transform": {
            "cmd": transform.cmd,
            "stdin": transform.stdin,
            "err_cmd": transform.err_cmd,
            "err_stdin": transform.err_stdin,
            "accept_return_code": transform.accept_return_code,
            "env": transform.env,
        },
        "input": read_input(spec),
        "output_branch": spec.output_branch,
        "datum_tries": spec.datum_tries,
        "reprocess_spec": spec.reprocess.as_str(),
        "salt": spec.salt,
        "network": spec.network.as_str(),
    });
    for (name, text) in [
        ("image", &transform.image),
        ("user", &transform.user),
        ("working_dir", &transform.working_dir),
    ] {
        if let Some(text) = text {
            value["transform"][name] = json!(text);
        }
    }
    if let Some(secrets) = used_secrets(transform) {
        value["transform"]["secrets"] = secrets;
    }
    if let Some(code) = &transform.code {
        value["transform"]["code"] =
            json!({ "project": code.project, "repo": code.repo, "branch": code.branch, "path": code.path });
    }
    for (name, limit) in [("datum_timeout", spec.datum_timeout), ("job_timeout", spec.job_timeout)] {
        if let Some(limit) = limit {
            value[name] = json!(quantity::duration_text(limit));
        }
    }
    if spec.path_collision == PathCollision::Append {
        value["path_collision"] = json!("append");
    }
    if let Some(egress) = &spec.egress {
        value["egress"] = egress::written(egress);
    }
    match &spec.max_origins {
        Some(MaxOrigins::Count(count)) => value["max_origins"] = json!(count),
        Some(MaxOrigins::Named(names)) => value["max_origins"] = json!(names),
        None => {}
    }
    service(spec, &mut value);
    cluster::write_distributed(spec, &mut value);
    value
}

/// Absent where there is none: digests of other specs stay what they were.
fn service(spec: &PipelineSpec, value: &mut Value) {
    if let Some(service) = spec.service {
        value["service"] = json!({ "internal_port": service.internal_port });
    }
    if let (Some(spout), Some(fields)) = (spec.spout, value.as_object_mut()) {
        fields.remove("input");
        fields.insert("spout".to_owned(), json!({ "overwrite": spout.overwrite }));
    }
}

/// How files are brought changes nothing of what code sees.
pub(super) fn read_input(spec: &PipelineSpec) -> Value {
    input(written_input(spec), false)
}

fn input(spec: &InputSpec, lazily: bool) -> Value {
    let all = |parts: &[InputSpec]| parts.iter().map(|part| input(part, lazily)).collect::<Vec<_>>();
    match spec {
        InputSpec::Cross(parts) => json!({ "cross": all(parts) }),
        InputSpec::Union(parts) => json!({ "union": all(parts) }),
        InputSpec::Join(parts) => json!({ "join": all(parts) }),
        InputSpec::Group(parts) => json!({ "group": all(parts) }),
        InputSpec::Pfs(leaf) if leaf.cron.is_some() => cron(leaf),
        InputSpec::Pfs(leaf) => {
            let mut pfs = json!({
                "project": leaf.project,
                "repo": leaf.repo,
                "branch": leaf.branch,
                "name": leaf.name,
                "glob": leaf.glob.as_str(),
                "empty_files": leaf.empty_files,
            });
            for (field, key) in [("join_on", &leaf.join_on), ("group_by", &leaf.group_by)] {
                if let Some(key) = key {
                    pfs[field] = json!(key);
                }
            }
            if lazily && leaf.lazy {
                pfs["lazy"] = json!(true);
            }
            if leaf.outer_join {
                pfs["outer_join"] = json!(true);
            }
            if let Some(follows) = &leaf.trigger {
                pfs["branch"] = json!(follows.source);
                pfs["trigger"] = trigger(follows);
            }
            json!({ "pfs": pfs })
        }
    }
}

/// What it gets of secrets; their versions count where datums are planned.
fn used_secrets(transform: &Transform) -> Option<Value> {
    let all: Vec<Value> = transform.secrets.iter().map(secrets::written).collect();
    (!all.is_empty()).then(|| json!(all))
}

/// The input as the spec has it: without the code, which is a part of the transform there.
fn written_input(spec: &PipelineSpec) -> &InputSpec {
    match (&spec.transform.code, &spec.input) {
        (Some(_), InputSpec::Cross(parts)) => parts.first().unwrap_or(&spec.input),
        (_, input) => input,
    }
}

/// What the branch that it reads is named follows from the pipeline and the input.
fn trigger(follows: &TriggerInput) -> Value {
    let mut value = json!({ "branch": follows.source, "all": follows.all });
    if let Some(size) = follows.size_bytes {
        value["size"] = json!(size.to_string());
    }
    if let Some(commits) = follows.commits {
        value["commits"] = json!(commits);
    }
    if let Some(cron) = &follows.cron {
        value["cron_spec"] = json!(cron);
    }
    value
}

/// Its repo follows from the names of the pipeline and the input.
fn cron(leaf: &PfsInput) -> Value {
    let mut cron = json!({ "name": leaf.name });
    if let Some(input) = &leaf.cron {
        cron["spec"] = json!(input.spec);
        cron["overwrite"] = json!(input.overwrite);
        if let Some(start) = input.start {
            cron["start"] = json!(start);
        }
    }
    json!({ "cron": cron })
}

pub(super) fn spec(spec: &PipelineSpec, image_digest: Option<&str>) -> [u8; 32] {
    blake3::derive_key("howdah spec v1", sealed(spec, image_digest).as_bytes())
}

pub(super) fn sealed(spec: &PipelineSpec, image_digest: Option<&str>) -> String {
    canonical_json(&json!({ "spec": decisive(spec), "image": image_digest }))
}

pub(super) fn code(spec: &PipelineSpec, image_digest: Option<&str>) -> [u8; 32] {
    let transform = &spec.transform;
    let mut code = json!({
        // An image that was not resolved counts by its name.
        "image": image_digest.or(transform.image.as_deref()),
        "cmd": transform.cmd,
        "stdin": transform.stdin,
        "err_cmd": transform.err_cmd,
        "err_stdin": transform.err_stdin,
        "accept_return_code": transform.accept_return_code,
        "env": transform.env,
        "user": transform.user,
        "working_dir": transform.working_dir,
        "network": spec.network.as_str(),
        "salt": spec.salt,
    });
    if let Some(secrets) = used_secrets(transform) {
        code["secrets"] = secrets;
    }
    service(spec, &mut code);
    cluster::write_distributed(spec, &mut code);
    seal("howdah code v1", &code)
}

pub(super) fn with_code(spec_digest: &[u8], code: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("howdah spec with its code v1");
    hasher.update(spec_digest);
    hasher.update(code);
    *hasher.finalize().as_bytes()
}

fn seal(context: &str, value: &Value) -> [u8; 32] {
    blake3::derive_key(context, canonical_json(value).as_bytes())
}
