//! The `pod_patch` of a spec: a JSON patch of its pods, carried out operation by operation. After each of them the pod may differ from
//! the one before only where the operator lets specs change pods, and the whole must still be a pod that is as isolated as ours:
//! what may be changed at all is listed here, so that what nobody thought of is refused.

use contract::executor::{NodeCache, PodsConfig};
use serde_json::{Map, Value};

use super::Unfit;
use super::asked::is_reserved;

/// What of a pod's `spec` may be changed, whatever the operator says.
const OPEN: [&str; 9] = [
    "affinity",
    "topologySpreadConstraints",
    "hostname",
    "subdomain",
    "tolerations",
    "nodeSelector",
    "terminationGracePeriodSeconds",
    "volumes",
    "runtimeClassName",
];
/// What of the user's container.
const OPEN_OF_USER: [&str; 2] = ["volumeMounts", "resources"];
/// Kinds of volumes that hold nothing of anybody else.
const OPEN_VOLUMES: [&str; 3] = ["emptyDir", "ephemeral", "persistentVolumeClaim"];
/// Ours: nothing may be mounted there, below or above.
const OUR_PATHS: [&str; 4] = [super::PFS, super::CODE, "/howdah", "/etc/howdah"];
/// What a volume's mount may say.
const MOUNT_FIELDS: [&str; 4] = ["name", "mountPath", "readOnly", "subPath"];
/// So long at most a pod that is removed is waited for.
const GRACE_SECONDS_MAX: u64 = 600;
/// Resources that are no devices.
const PLAIN: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Carries it out.
///
/// # Errors
/// At the first operation that cannot be carried out or makes what may not be.
pub fn apply(pod: &mut Value, operations: &[Value], config: &PodsConfig) -> Result<(), Unfit> {
    let ours = pod.clone();
    for (at, operation) in operations.iter().enumerate() {
        let unfit = |message: String| Unfit {
            pointer: format!("/pod_patch/{at}"),
            message,
        };
        let before = pod.clone();
        let read: json_patch::PatchOperation =
            serde_json::from_value(operation.clone()).map_err(|error| unfit(format!("is no operation: {error}")))?;
        json_patch::patch(pod, &[read]).map_err(|error| unfit(format!("cannot be carried out: {error}")))?;
        let mut changed = Vec::new();
        differences(&before, pod, &mut String::new(), &mut changed);
        if let Some(path) = changed.iter().find(|path| !is_allowed(path, &config.pod_patch_allowed)) {
            return Err(unfit(format!(
                "changes `{path}`, which no spec may change on this data plane; what may be changed is {}",
                config.pod_patch_allowed.join(", ")
            )));
        }
        check(&ours, pod, config).map_err(unfit)?;
    }
    Ok(())
}

fn escaped(step: &str) -> String {
    step.replace('~', "~0").replace('/', "~1")
}

/// The places in which two documents differ.
fn differences(before: &Value, after: &Value, path: &mut String, found: &mut Vec<String>) {
    let mut below = |step: &str, one: &Value, other: &Value| {
        let length = path.len();
        path.push('/');
        path.push_str(step);
        differences(one, other, path, found);
        path.truncate(length);
    };
    match (before, after) {
        (Value::Object(one), Value::Object(other)) => {
            let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
            for name in names {
                let (one, other) = (one.get(name), other.get(name));
                below(
                    &escaped(name),
                    one.unwrap_or(&Value::Null),
                    other.unwrap_or(&Value::Null),
                );
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            for at in 0..one.len().max(other.len()) {
                let (one, other) = (one.get(at), other.get(at));
                below(
                    &at.to_string(),
                    one.unwrap_or(&Value::Null),
                    other.unwrap_or(&Value::Null),
                );
            }
        }
        _ if before == after => {}
        _ => found.push(path.clone()),
    }
}

/// Whether a place is one of those, or below one.
fn is_allowed(path: &str, allowed: &[String]) -> bool {
    allowed.iter().any(|pattern| {
        let mut steps = path.split('/');
        let mut wanted = pattern.trim_end_matches('/').split('/');
        wanted.all(|wanted| steps.next().is_some_and(|step| wanted == "*" || wanted == step))
    })
}

type Checked = Result<(), String>;

fn refuse<T>(message: impl Into<String>) -> Result<T, String> {
    Err(message.into())
}

fn object<'a>(value: &'a Value, what: &str) -> Result<&'a Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("leaves no object at `{what}`"))
}

/// The names that one has and the other has not, or has otherwise.
fn changed<'a>(one: &'a Map<String, Value>, other: &'a Map<String, Value>) -> impl Iterator<Item = &'a String> {
    let names = one.keys().chain(other.keys());
    names.filter(|name| one.get(*name) != other.get(*name))
}

/// Whether what became of our pod is as isolated as ours.
fn check(ours: &Value, pod: &Value, config: &PodsConfig) -> Checked {
    for name in changed(object(ours, "/")?, object(pod, "/")?) {
        if !matches!(name.as_str(), "metadata" | "spec") {
            return refuse(format!("changes `/{name}` of the pod, which is the service's"));
        }
    }
    check_metadata(&ours["metadata"], &pod["metadata"])?;
    let (mine, spec) = (object(&ours["spec"], "/spec")?, object(&pod["spec"], "/spec")?);
    for name in changed(mine, spec) {
        if name != "containers" && !OPEN.contains(&name.as_str()) {
            return refuse(format!(
                "changes `/spec/{name}` of the pod, which would touch its isolation, and is the service's to say"
            ));
        }
    }
    check_containers(&ours["spec"]["containers"], &pod["spec"]["containers"])?;
    check_volumes(&ours["spec"]["volumes"], &pod["spec"]["volumes"], config)?;
    check_mounts(ours, pod)?;
    check_placing(&ours["spec"], &pod["spec"])
}

fn check_metadata(ours: &Value, metadata: &Value) -> Checked {
    for name in changed(object(ours, "/metadata")?, object(metadata, "/metadata")?) {
        if !matches!(name.as_str(), "labels" | "annotations") {
            return refuse(format!("changes `/metadata/{name}` of the pod, which is the service's"));
        }
    }
    for kind in ["labels", "annotations"] {
        let (mine, all) = (object(&ours[kind], kind)?, object(&metadata[kind], kind)?);
        for key in changed(mine, all) {
            if mine.contains_key(key) || is_reserved(key) {
                return refuse(format!(
                    "changes the {kind} `{key}`, which only the service and the cluster set"
                ));
            }
        }
        if let Some((key, _)) = all.iter().find(|(_, value)| !value.is_string()) {
            return refuse(format!("gives the {kind} `{key}` a value that is no text"));
        }
    }
    Ok(())
}

fn list<'a>(value: &'a Value, what: &str) -> Result<&'a [Value], String> {
    let items = value.as_array().map(Vec::as_slice);
    items.ok_or_else(|| format!("leaves no list at `{what}`"))
}

fn check_containers(ours: &Value, containers: &Value) -> Checked {
    let (ours, containers) = (list(ours, "/spec/containers")?, list(containers, "/spec/containers")?);
    let [mine, rest @ ..] = ours else {
        return refuse("leaves no container");
    };
    if containers.len() != ours.len() || containers.get(1..) != Some(rest) {
        return refuse("adds, removes or changes containers other than the code's, `/spec/containers/0`");
    }
    let (mine, user) = (
        object(mine, "/spec/containers/0")?,
        object(&containers[0], "/spec/containers/0")?,
    );
    for name in changed(mine, user) {
        if !OPEN_OF_USER.contains(&name.as_str()) {
            return refuse(format!(
                "changes `{name}` of the code's container; its image, command, variables and secrets are the spec's to say, and its rights the service's"
            ));
        }
    }
    let resources = object(&user["resources"], "/spec/containers/0/resources")?;
    for (kind, amounts) in resources {
        if kind != "requests" && kind != "limits" {
            return refuse(format!(
                "sets `{kind}` of the resources: only requests and limits may be changed"
            ));
        }
        let before = mine
            .get("resources")
            .and_then(|r| r.get(kind))
            .and_then(Value::as_object);
        let before = before.cloned().unwrap_or_default();
        for name in changed(&before, object(amounts, kind)?) {
            if !PLAIN.contains(&name.as_str()) {
                return refuse(format!(
                    "changes how much of `{name}` the code gets: say it in `resource_limits.gpu`"
                ));
            }
        }
    }
    Ok(())
}

fn name_of(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

fn check_volumes(ours: &Value, volumes: &Value, config: &PodsConfig) -> Checked {
    let (ours, volumes) = (list(ours, "/spec/volumes")?, list(volumes, "/spec/volumes")?);
    if let Some(gone) = ours.iter().find(|mine| !volumes.contains(mine)) {
        return refuse(format!(
            "changes the volume `{}`, which is the service's",
            name_of(gone)
        ));
    }
    for volume in volumes.iter().filter(|volume| !ours.contains(volume)) {
        if ours.iter().any(|mine| name_of(mine) == name_of(volume)) {
            return refuse(format!(
                "names a volume `{}`, as one of the service is named",
                name_of(volume)
            ));
        }
        let kinds = object(volume, "/spec/volumes")?.keys().filter(|key| *key != "name");
        for kind in kinds {
            if !OPEN_VOLUMES.contains(&kind.as_str()) {
                return refuse(format!(
                    "adds a volume of kind `{kind}`; there may be {}, and files of secrets by `transform.secrets`",
                    OPEN_VOLUMES.join(", ")
                ));
            }
        }
        if let (Some(NodeCache::Claim { name, .. }), Some(claim)) = (
            &config.node_cache,
            volume["persistentVolumeClaim"]["claimName"].as_str(),
        ) && name == claim
        {
            return refuse("mounts the claim of the service's own cache");
        }
    }
    Ok(())
}

fn check_mounts(ours: &Value, pod: &Value) -> Checked {
    const AT: &str = "/spec/containers/0/volumeMounts";
    let mine = list(&ours["spec"]["containers"][0]["volumeMounts"], AT)?;
    let mounts = list(&pod["spec"]["containers"][0]["volumeMounts"], AT)?;
    let volumes = list(&ours["spec"]["volumes"], "/spec/volumes")?;
    if mine.iter().any(|mount| !mounts.contains(mount)) {
        return refuse("changes where the code finds its files and the program that runs it");
    }
    for mount in mounts.iter().filter(|mount| !mine.contains(mount)) {
        if volumes.iter().any(|volume| name_of(volume) == name_of(mount)) {
            return refuse(format!("mounts `{}`, which is a volume of the service", name_of(mount)));
        }
        if let Some(field) = object(mount, AT)?
            .keys()
            .find(|field| !MOUNT_FIELDS.contains(&field.as_str()))
        {
            return refuse(format!(
                "sets `{field}` of a mount; there may be {}",
                MOUNT_FIELDS.join(", ")
            ));
        }
        let path = mount["mountPath"].as_str().unwrap_or_default();
        let steps: Vec<&str> = path.split('/').skip(1).filter(|step| !step.is_empty()).collect();
        let tidy = format!("/{}", steps.join("/"));
        let is_ours = |ours: &&str| {
            let within = |one: &str, other: &str| one == other || one.starts_with(&format!("{other}/"));
            within(&tidy, ours) || within(ours, &tidy)
        };
        if !path.starts_with('/') || steps.is_empty() || steps.contains(&"..") || steps.contains(&".") {
            return refuse(format!("mounts at `{path}`, which is no directory below `/`"));
        }
        if let Some(ours) = OUR_PATHS.iter().find(|ours| is_ours(ours)) {
            return refuse(format!("mounts at `{path}`, which would hide `{ours}` of the service"));
        }
    }
    Ok(())
}

/// Where the pod goes.
fn check_placing(ours: &Value, spec: &Value) -> Checked {
    let tolerations = list(&spec["tolerations"], "/spec/tolerations")?;
    let mine = list(&ours["tolerations"], "/spec/tolerations")?;
    if let Some(gone) = mine.iter().find(|mine| !tolerations.contains(mine)) {
        return refuse(format!(
            "removes the toleration of `{}`, which the service adds",
            gone["key"]
        ));
    }
    for added in tolerations.iter().filter(|toleration| !mine.contains(toleration)) {
        match added["key"].as_str() {
            Some(key) if !key.is_empty() && !is_reserved(key) => {}
            key => {
                let key = key.filter(|key| !key.is_empty()).unwrap_or("every taint");
                return refuse(format!(
                    "tolerates `{key}`, which keeps pods off nodes that are not for them"
                ));
            }
        }
    }
    let (mine, selector) = (
        object(&ours["nodeSelector"], "/spec/nodeSelector")?,
        object(&spec["nodeSelector"], "/spec/nodeSelector")?,
    );
    for key in changed(mine, selector) {
        if mine.contains_key(key) || is_reserved(key) {
            return refuse(format!(
                "changes by which `{key}` nodes are selected, which the service sets"
            ));
        }
    }
    let grace = spec["terminationGracePeriodSeconds"].as_u64();
    if grace.is_none_or(|seconds| seconds > GRACE_SECONDS_MAX) {
        return refuse(format!(
            "sets a grace period that is no number up to {GRACE_SECONDS_MAX}"
        ));
    }
    Ok(())
}
