//! Reading a spec.

use std::collections::BTreeMap;
use std::time::Duration;

use contract::names::{BranchName, ProjectName, RepoName};
use contract::problem::FieldError;
use contract::reference::RepoRef;
use serde_json::Value;

use super::fields::{At, Errors, Fields, join, kind, string};
use super::{
    InputSpec, MaxOrigins, Network, PathCollision, PipelineSpec, Reprocess, Resources, Transform, cluster, egress,
    input, port, quantity, secrets, spout,
};

const REPROCESSING: &[(&str, Reprocess)] = &[
    ("until_success", Reprocess::UntilSuccess),
    ("every_job", Reprocess::EveryJob),
];
const COLLISIONS: &[(&str, PathCollision)] = &[("fail", PathCollision::Fail), ("append", PathCollision::Append)];
/// Fields of a whole spec that a later release carries out.
const NOT_YET: &[&str] = &[
    "pod_spec",
    "sidecar_resource_limits",
    "sidecar_resource_requests",
    "tf_job",
    "determined",
    "maximum_expected_uptime",
];

pub(super) fn spec(value: &Value, default_project: &ProjectName) -> Result<PipelineSpec, Vec<FieldError>> {
    let mut errors = Errors::default();
    let read = whole(value, default_project, &mut errors);
    match read {
        Some(spec) if errors.0.is_empty() => Ok(spec),
        _ => {
            if errors.0.is_empty() {
                errors.add(
                    "",
                    "can't be read, and no mistake was found in it: that is a mistake of ours, tell us of it",
                );
            }
            Err(errors.0)
        }
    }
}

fn whole(value: &Value, default_project: &ProjectName, errors: &mut Errors) -> Option<PipelineSpec> {
    let mut fields = Fields::open(value, "", errors)?;
    let named = name(&mut fields, default_project, errors);
    let project = named.as_ref().map_or(default_project, |(project, _)| project).clone();
    let description = fields.string("description", errors).unwrap_or_default();
    let transform = transform(&mut fields, &project, errors);
    let (input, has_input) = read_input(&mut fields, (value, &project, named.as_ref()), errors);
    let output_branch = fields.parsed::<BranchName>("output_branch", errors);
    let parallelism = parallelism(&mut fields, errors);
    let autoscaling = fields.bool("autoscaling", errors).unwrap_or(false);
    let datum_timeout = duration(&mut fields, "datum_timeout", errors);
    let datum_tries = fields.number("datum_tries", 1, errors).unwrap_or(3);
    let job_timeout = duration(&mut fields, "job_timeout", errors);
    let reprocess = fields.word("reprocess_spec", REPROCESSING, errors).unwrap_or_default();
    let salt = fields.string("salt", errors).unwrap_or_default();
    let resource_requests = resources(&mut fields, "resource_requests", errors);
    let resource_limits = resources(&mut fields, "resource_limits", errors);
    let metadata = metadata(&mut fields, errors);
    let max_origins = max_origins(&mut fields, &project, errors);
    let network = network(&mut fields, errors);
    let path_collision = fields.word("path_collision", COLLISIONS, errors).unwrap_or_default();
    let service = port::read(&mut fields, errors);
    let egress = egress::read(&mut fields, errors);
    let cluster = cluster::read(&mut fields, errors);
    no_gateway(&mut fields, "s3_out", "write files below `/pfs/out`", errors);
    let spout = spout::read(&mut fields, errors);
    fields.not_yet(NOT_YET, errors);
    fields.finish(errors);
    let (project, name) = named?;
    let (transform, mut input) = (transform?, input?);
    secrets::check_names(&transform.secrets, &input, errors);
    if let Some(code) = &transform.code {
        closed(&transform, network, egress.is_some(), errors);
        input = input::with_code(input, code, errors)?;
    }
    let spec = PipelineSpec {
        project,
        name,
        description,
        transform,
        input,
        output_branch: output_branch.unwrap_or_else(BranchName::main),
        parallelism,
        autoscaling,
        datum_timeout,
        datum_tries,
        job_timeout,
        reprocess,
        salt,
        resource_requests,
        resource_limits,
        metadata,
        max_origins,
        network,
        path_collision,
        egress,
        service,
        datum_set: cluster.datum_set,
        scheduling: cluster.scheduling,
        tolerations: cluster.tolerations,
        pod_patch: cluster.pod_patch,
        distributed: cluster.distributed,
        spout,
    };
    port::check(&spec, errors);
    cluster::check(&spec, errors);
    spout::check(&spec, has_input, errors);
    Some(spec)
}

/// The input, and whether the spec has one: a spout reads nothing.
fn read_input(
    fields: &mut Fields<'_>,
    (whole, project, named): (&Value, &ProjectName, Option<&(ProjectName, RepoName)>),
    errors: &mut Errors,
) -> (Option<InputSpec>, bool) {
    let has = |name: &str| whole.get(name).is_some_and(|v| !v.is_null());
    let input = match fields.take("input") {
        _ if has("spout") => Some(InputSpec::Cross(Vec::new())),
        Some((value, pointer)) => input::read(value, &pointer, project, named.map(|(_, name)| name), errors),
        None => {
            errors.add("", "must have an `input`: what the pipeline reads");
            None
        }
    };
    (input, has("input"))
}

/// Refuses what needs the S3 gateway. Written out but switched off, as generated specs do, it asks for nothing.
pub(super) fn no_gateway(fields: &mut Fields<'_>, name: &'static str, instead: &str, errors: &mut Errors) {
    match fields.take(name) {
        None | Some((Value::Bool(false), _)) => {}
        Some((Value::Bool(true), at)) => errors.add(
            &at,
            format!("`{name}` is not supported yet: it needs the S3 gateway, which this release does not have; remove it and {instead}"),
        ),
        Some((other, at)) => errors.add(&at, format!("must be true or false, not {}", kind(other))),
    }
}

/// What code may reach is answered for by whoever applies the spec, and code of a repo changes without him.
fn closed(transform: &Transform, network: Network, egress: bool, errors: &mut Errors) {
    let why = "with `transform.code` whoever writes to that repo decides what runs";
    let instead = "put the code into the image or the command, or leave this to another pipeline that reads the output";
    if !transform.secrets.is_empty() {
        errors.add(
            "/transform/secrets",
            format!("can't be given to code of a repo: {why}, and would have the secrets; {instead}"),
        );
    }
    if network != Network::None {
        errors.add(
            "/network",
            format!("must be `none` for code of a repo: {why}, and could send the inputs away; {instead}"),
        );
    }
    if egress {
        errors.add(
            "/egress",
            format!("can't follow code of a repo: {why}, and what is sent; {instead}"),
        );
    }
}

fn name(fields: &mut Fields<'_>, default: &ProjectName, errors: &mut Errors) -> Option<(ProjectName, RepoName)> {
    let Some((value, pointer)) = fields.take("pipeline") else {
        errors.add("", "must have a `pipeline` with a `name`");
        return None;
    };
    let mut inner = Fields::open(value, &pointer, errors)?;
    let has_project = value.get("project").is_some_and(|v| !v.is_null());
    let project = project_name(&mut inner, errors);
    if value.get("name").is_none_or(Value::is_null) {
        errors.add(&pointer, "must have a `name`");
    }
    let name = inner.parsed::<RepoName>("name", errors);
    inner.finish(errors);
    let project = if has_project { project? } else { default.clone() };
    Some((project, name?))
}

/// A project is written as a name, or as Pachyderm writes it, `{name: …}`.
fn project_name(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<ProjectName> {
    let (value, pointer) = fields.take("project")?;
    if value.is_object() {
        let mut inner = Fields::open(value, &pointer, errors)?;
        if value.get("name").is_none_or(Value::is_null) {
            errors.add(&pointer, "must have a `name`");
        }
        let name = inner.parsed("name", errors);
        inner.finish(errors);
        return name;
    }
    let text = string(
        At {
            value,
            pointer: &pointer,
        },
        errors,
    )?;
    text.parse()
        .map_err(|e: contract::names::ParseNameError| errors.add(&pointer, e.to_string()))
        .ok()
}

fn transform(fields: &mut Fields<'_>, project: &ProjectName, errors: &mut Errors) -> Option<Transform> {
    let Some((value, pointer)) = fields.take("transform") else {
        errors.add("", "must have a `transform` with a `cmd`");
        return None;
    };
    let mut inner = Fields::open(value, &pointer, errors)?;
    if let Some(Value::String(line)) = value.get("cmd")
        && line.contains(char::is_whitespace)
    {
        errors.add(
            &join(&pointer, "cmd"),
            "must be a list of the command and its arguments; for a shell line write `[\"sh\", \"-c\", \"…\"]`",
        );
    }
    let transform = Transform {
        image: inner.string("image", errors).filter(|image| !image.is_empty()),
        cmd: inner.strings("cmd", errors),
        stdin: inner.strings("stdin", errors),
        err_cmd: inner.strings("err_cmd", errors),
        err_stdin: inner.strings("err_stdin", errors),
        accept_return_code: codes(&mut inner, errors),
        env: environment(&mut inner, errors),
        user: inner.string("user", errors),
        working_dir: inner.string("working_dir", errors),
        code: input::code(&mut inner, project, errors),
        secrets: secrets::read(&mut inner, errors),
        image_pull_secrets: secrets::pull(&mut inner, errors),
    };
    inner.not_yet(&["dockerfile", "memory_volume", "datum_batching"], errors);
    inner.finish(errors);
    let by_image = transform.cmd.is_empty() && transform.image.is_some();
    if transform.cmd.first().is_none_or(String::is_empty) && !by_image {
        errors.add(
            &join(&pointer, "cmd"),
            "must name the command to run, for example `[\"python3\", \"detect.py\"]`, unless an `image` does",
        );
    }
    let nul = |text: &String| text.contains('\0');
    if transform.cmd.iter().chain(&transform.err_cmd).any(nul) {
        errors.add(&join(&pointer, "cmd"), "has a NUL, which no command can have");
    }
    Some(transform)
}

fn codes(fields: &mut Fields<'_>, errors: &mut Errors) -> Vec<i32> {
    let Some((value, pointer)) = fields.take("accept_return_code") else {
        return Vec::new();
    };
    let items = value
        .as_array()
        .map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
    let code = |v: &Value| {
        v.as_i64()
            .and_then(|n| i32::try_from(n).ok())
            .filter(|n| (0..256).contains(n))
    };
    let codes: Option<Vec<i32>> = items.iter().map(code).collect();
    codes.unwrap_or_else(|| {
        errors.add(&pointer, "must be a list of exit codes from 0 to 255");
        Vec::new()
    })
}

fn environment(fields: &mut Fields<'_>, errors: &mut Errors) -> BTreeMap<String, String> {
    let Some((value, pointer)) = fields.take("env") else {
        return BTreeMap::new();
    };
    let Value::Object(object) = value else {
        errors.add(
            &pointer,
            format!("must be an object of names and texts, not {}", kind(value)),
        );
        return BTreeMap::new();
    };
    let mut env = BTreeMap::new();
    for (name, value) in object {
        let at = join(&pointer, name);
        if name.is_empty() || name.contains(['=', '\0']) {
            errors.add(
                &at,
                "is no name of an environment variable: it may not be empty or hold `=`",
            );
        } else if let Some(text) = string(At { value, pointer: &at }, errors) {
            env.insert(name.clone(), text);
        }
    }
    env
}

fn parallelism(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<u32> {
    let (value, pointer) = fields.take("parallelism_spec")?;
    let mut inner = Fields::open(value, &pointer, errors)?;
    let constant = inner.number("constant", 1, errors);
    inner.not_yet(&["coefficient"], errors);
    inner.finish(errors);
    constant
}

fn duration(fields: &mut Fields<'_>, name: &'static str, errors: &mut Errors) -> Option<Duration> {
    let (value, pointer) = fields.take(name)?;
    let text = string(
        At {
            value,
            pointer: &pointer,
        },
        errors,
    )?;
    match quantity::duration(&text) {
        Ok(duration) if !duration.is_zero() => Some(duration),
        Ok(_) => {
            errors.add(&pointer, "must be longer than nothing; leave it out for no limit");
            None
        }
        Err(message) => {
            errors.add(&pointer, message);
            None
        }
    }
}

fn resources(fields: &mut Fields<'_>, name: &'static str, errors: &mut Errors) -> Resources {
    let Some((value, pointer)) = fields.take(name) else {
        return Resources::default();
    };
    let Some(mut inner) = Fields::open(value, &pointer, errors) else {
        return Resources::default();
    };
    let mut amount = |inner: &mut Fields<'_>, name, read: fn(&str) -> Result<u64, String>| {
        let (value, pointer) = inner.take(name)?;
        let text = string(
            At {
                value,
                pointer: &pointer,
            },
            errors,
        )?;
        read(&text).map_err(|message| errors.add(&pointer, message)).ok()
    };
    let resources = Resources {
        cpu_millis: amount(&mut inner, "cpu", quantity::cpu_millis),
        memory_bytes: amount(&mut inner, "memory", quantity::bytes),
        disk_bytes: amount(&mut inner, "disk", quantity::bytes),
        gpu: cluster::gpu(&mut inner, errors),
    };
    inner.finish(errors);
    resources
}

fn metadata(fields: &mut Fields<'_>, errors: &mut Errors) -> BTreeMap<String, Value> {
    match fields.take("metadata") {
        Some((Value::Object(object), _)) => object.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        Some((other, pointer)) => {
            errors.add(&pointer, format!("must be an object, not {}", kind(other)));
            BTreeMap::new()
        }
        None => BTreeMap::new(),
    }
}

fn max_origins(fields: &mut Fields<'_>, project: &ProjectName, errors: &mut Errors) -> Option<MaxOrigins> {
    let (value, pointer) = fields.take("max_origins")?;
    if let Some(count) = value.as_u64().and_then(|n| u32::try_from(n).ok()) {
        return Some(MaxOrigins::Count(count));
    }
    let Value::Array(items) = value else {
        errors.add(
            &pointer,
            "must be a number of repos, or the list of repos that the output may come from",
        );
        return None;
    };
    let mut names = Vec::new();
    for (i, value) in items.iter().enumerate() {
        let at = join(&pointer, &i.to_string());
        let Some(text) = string(At { value, pointer: &at }, errors) else {
            continue;
        };
        match text.parse::<RepoRef>() {
            Ok(repo) => names.push(format!("{}/{}", repo.project.as_ref().unwrap_or(project), repo.repo)),
            Err(e) => errors.add(&at, e.to_string()),
        }
    }
    names.sort();
    names.dedup();
    Some(MaxOrigins::Named(names))
}

fn network(fields: &mut Fields<'_>, errors: &mut Errors) -> Network {
    let (value, pointer) = match fields.take("network") {
        Some(found) => found,
        None => return Network::None,
    };
    match value.as_str() {
        Some("none") => return Network::None,
        Some("internet") => return Network::Internet,
        Some("data-plane") => errors.add(
            &pointer,
            "`data-plane` is not supported yet: what it lets code reach is the S3 gateway, which this release does not have; \
             use `none` and the files below `/pfs`",
        ),
        _ => errors.add(&pointer, format!("{value} is not known: use `none` or `internet`")),
    }
    Network::None
}
