//! The pod of a pool, as JSON. It stands the strictest of the cluster's own rules (Pod Security `restricted`): nothing runs as root or
//! may become it, no token of the cluster is mounted, and what the code's container sees of ours is the program that runs it and an
//! empty socket's directory. The code and the agent share `/pfs` and no processes.

mod amounts;
mod asked;
mod patch;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};

use contract::executor::{NodeCache, PodsConfig, SERVICE_PORT};
use contract::ids::OrganizationId;
use provenance::spec::{Network, PipelineSpec, SecretTarget};
use serde_json::{Value, json};

use crate::pool::{Kind, Pool};
use crate::ports::Blueprint;

pub use asked::refusals;
pub use secrets::{config_secret, pull_secret};

/// The container of the user's image.
pub const USER: &str = "user";
/// The container that copies the shim.
pub const SHIM: &str = "shim";
/// The container of ours that moves the bytes.
pub const AGENT: &str = "agent";
/// The annotation that says what a pod was made from.
pub const TEMPLATE: &str = "howdah.dev/template";
/// The label of what is ours, and its value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "howdah");
/// The label that says what part of a tenant's plane something is.
pub const PART: &str = "howdah.dev/part";
/// Which pods these are, as a selector of labels.
pub const SELECTOR: &str = "app.kubernetes.io/managed-by=howdah,howdah.dev/part in (worker,service,spout)";
/// The agent's variable that names its pod, a UUID, which it goes by as a worker.
pub const WORKER_VARIABLE: &str = "HOWDAH_WORKER";
/// The variable of a service's agent that says the address of its pod, at which it listens for the plane.
pub const ADDRESS_VARIABLE: &str = "HOWDAH_POD_ADDRESS";

/// The label of whatever is an organization's, and the taint of its GPU nodes.
pub const ORGANIZATION: &str = "howdah.dev/organization";
const UID: u32 = 65_532;
const BIN: &str = "/howdah/bin";
const RUN: &str = "/howdah/run";
/// Where the agent finds the shim.
pub const SOCKET: &str = "/howdah/run/shim.sock";
/// Inputs and outputs.
pub const PFS: &str = "/pfs";
/// The pipeline's code, where it stands in a repo.
pub const CODE: &str = "/code";
/// Where an agent keeps what is its own.
pub const HOME: &str = "/var/lib/howdah";
/// What the agents of a node share, where there is such a place.
pub const CACHE: &str = "/var/cache/howdah";
const CONFIG: &str = "/etc/howdah/worker";
/// So long a pod that is removed may finish what it does.
const GRACE_SECONDS: u32 = 30;
/// A node that does not answer for so long has lost its pods.
const NODE_PATIENCE_SECONDS: u32 = 40;

/// A pod cannot be made of a spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {message}")]
pub struct Unfit {
    /// Where in the spec.
    pub pointer: String,
    /// Why, for people.
    pub message: String,
}

/// What all pods of a plane have in common.
#[derive(Debug, Clone)]
pub struct Plane {
    /// Whose they are.
    pub organization: OrganizationId,
    /// How they are made.
    pub config: PodsConfig,
}

/// The pod of that slot.
///
/// # Errors
/// When the spec asks for what a pod may not have.
pub fn pod(plane: &Plane, blueprint: &Blueprint, pool: Pool, slot: u32) -> Result<Value, Unfit> {
    if let Some(unfit) = asked::port_refusal(&blueprint.spec) {
        return Err(unfit);
    }
    let mut pod = unpatched(plane, blueprint, pool, slot);
    patch::apply(&mut pod, &blueprint.spec.pod_patch, &plane.config)?;
    let template = template(&pod);
    pod["metadata"]["annotations"][TEMPLATE] = json!(template);
    Ok(pod)
}

/// What it is made from, whichever slot it is of.
fn template(pod: &Value) -> String {
    let mut same = pod.clone();
    for own in ["/metadata/name", "/metadata/labels/howdah.dev~1slot"] {
        if let Some(place) = same.pointer_mut(own) {
            *place = Value::Null;
        }
    }
    let hash = blake3::hash(same.to_string().as_bytes());
    hash.to_hex().chars().take(16).collect()
}

/// Before the spec's own changes.
fn unpatched(plane: &Plane, blueprint: &Blueprint, pool: Pool, slot: u32) -> Value {
    let spec = &blueprint.spec;
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pool.pod(slot),
            "namespace": plane.config.namespace,
            "labels": labels(plane, spec, pool, slot),
            "annotations": { "kubectl.kubernetes.io/default-container": USER },
        },
        "spec": {
            "restartPolicy": "Always",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": UID,
                "runAsGroup": UID,
                "fsGroup": UID,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "tolerations": asked::tolerations(plane, spec),
            "nodeSelector": asked::node_selector(plane, spec),
            "initContainers": [shim(plane)],
            "containers": [user(blueprint), agent(plane, spec)],
            "volumes": volumes(plane, spec, pool),
        },
    });
    let named = spec.scheduling.priority_class_name.as_ref();
    if let Some(class) = named.or(plane.config.priority_class.as_ref()) {
        pod["spec"]["priorityClassName"] = json!(class);
    }
    if !spec.transform.image_pull_secrets.is_empty() {
        pod["spec"]["imagePullSecrets"] = json!([{ "name": pool.pull_secret() }]);
    }
    pod
}

/// Labels of whatever belongs to a pool.
fn pool_labels(plane: &Plane, pool: Pool, kind: Kind) -> BTreeMap<String, String> {
    [
        (MANAGED_BY.0, MANAGED_BY.1.to_owned()),
        (ORGANIZATION, plane.organization.to_string()),
        (PART, kind.as_str().to_owned()),
        ("howdah.dev/pool", pool.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn labels(plane: &Plane, spec: &PipelineSpec, pool: Pool, slot: u32) -> BTreeMap<String, String> {
    let mut labels = pool_labels(plane, pool, Kind::of(spec));
    labels.insert("howdah.dev/slot".to_owned(), slot.to_string());
    if spec.network == Network::Internet {
        labels.insert("howdah.dev/network".to_owned(), spec.network.as_str().to_owned());
    }
    labels
}

fn locked(read_only: bool) -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "readOnlyRootFilesystem": read_only,
        "runAsNonRoot": true,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

fn mount(name: &str, path: &str, read_only: bool) -> Value {
    let mut mount = json!({ "name": name, "mountPath": path });
    if read_only {
        mount["readOnly"] = json!(true);
    }
    mount
}

fn shim(plane: &Plane) -> Value {
    json!({
        "name": SHIM,
        "image": plane.config.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/usr/local/bin/howdah-shim", "install", format!("{BIN}/howdah-shim")],
        "securityContext": locked(true),
        "resources": amounts::of_shim(),
        "volumeMounts": [mount("bin", BIN, false)],
    })
}

fn user(blueprint: &Blueprint) -> Value {
    let mut mounts = vec![
        mount("bin", BIN, true),
        mount("run", RUN, false),
        mount("pfs", PFS, false),
        mount("scratch", "/tmp", false),
    ];
    if blueprint.spec.transform.code.is_some() {
        mounts.push(mount("code", CODE, false));
    }
    let shown = secret_files(&blueprint.spec);
    mounts.extend(shown.iter().map(|(name, directory)| mount(name, directory, false)));
    json!({
        "name": USER,
        "image": blueprint.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [format!("{BIN}/howdah-shim"), "serve", "--socket", SOCKET],
        "securityContext": locked(false),
        "resources": amounts::of_user(&blueprint.spec),
        "volumeMounts": mounts,
    })
}

/// Where the code finds files of secrets, and what volume is there: in memory, because the shim writes them for each datum anew and the
/// image belongs to root.
fn secret_files(spec: &PipelineSpec) -> Vec<(String, &str)> {
    let used = spec.transform.secrets.iter();
    let directories: BTreeSet<&str> = used
        .filter_map(|secret| match &secret.target {
            SecretTarget::Files(directory) => Some(directory.as_str()),
            SecretTarget::Variable(_) => None,
        })
        .collect();
    directories
        .into_iter()
        .enumerate()
        .map(|(n, directory)| (format!("secret-{n}"), directory))
        .collect()
}

fn agent(plane: &Plane, spec: &PipelineSpec) -> Value {
    let mut mounts = vec![
        mount("run", RUN, false),
        mount("pfs", PFS, false),
        mount("config", CONFIG, true),
        mount("home", HOME, false),
        mount("tmp", "/tmp", false),
    ];
    if spec.transform.code.is_some() {
        mounts.push(mount("code", CODE, false));
    }
    if plane.config.node_cache.is_some() {
        mounts.push(mount("cache", CACHE, false));
    }
    let own = |name: &str, field: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": field } } });
    let mut agent = json!({
        "name": AGENT,
        "image": plane.config.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/usr/local/bin/howdah-data-plane", "worker", "--config", format!("{CONFIG}/{}", secrets::CONFIG_KEY)],
        "env": [own(WORKER_VARIABLE, "metadata.uid")],
        "securityContext": locked(true),
        "resources": amounts::of_agent(&plane.config, spec),
        "volumeMounts": mounts,
    });
    if Kind::of(spec) == Kind::Service {
        agent["env"] = json!([
            own(WORKER_VARIABLE, "metadata.uid"),
            own(ADDRESS_VARIABLE, "status.podIP")
        ]);
        agent["ports"] = json!([{ "name": "service", "containerPort": SERVICE_PORT, "protocol": "TCP" }]);
    }
    agent
}

fn volumes(plane: &Plane, spec: &PipelineSpec, pool: Pool) -> Vec<Value> {
    let empty = |name: &str, bytes: Option<u64>| match bytes {
        Some(bytes) => json!({ "name": name, "emptyDir": { "sizeLimit": bytes.to_string() } }),
        None => json!({ "name": name, "emptyDir": {} }),
    };
    let disk = amounts::disk(spec);
    let mut volumes = vec![
        empty("bin", Some(64 << 20)),
        empty("run", Some(1 << 20)),
        empty("pfs", disk),
        json!({ "name": "config", "secret": { "secretName": pool.secret(), "defaultMode": 0o440 } }),
        empty("home", None),
        empty("tmp", Some(256 << 20)),
        empty("scratch", disk),
    ];
    for (name, _) in secret_files(spec) {
        volumes.push(json!({ "name": name, "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } }));
    }
    volumes.extend(plane.config.node_cache.as_ref().map(|cache| match cache {
        NodeCache::HostPath { path, .. } => {
            json!({ "name": "cache", "hostPath": { "path": path, "type": "Directory" } })
        }
        NodeCache::Claim { name, .. } => json!({ "name": "cache", "persistentVolumeClaim": { "claimName": name } }),
    }));
    if spec.transform.code.is_some() {
        volumes.push(empty("code", disk));
    }
    volumes
}
