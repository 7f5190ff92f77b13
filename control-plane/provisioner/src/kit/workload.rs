//! The plane itself: its secret, its one pod, its address.

use contract::cloud::PlaneResources;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::names::{DEPLOYMENT, DISRUPTION_BUDGET, NETWORK, ORGANIZATION, PART, PLANE_PRIORITY, PORT, SECRET, SERVICE};
use super::{TenantKit, bucket};

/// Who runs in the images.
const USER: u32 = 65532;
/// The annotation of a pod that says which configuration it was started with.
const CONFIGURED: &str = "howdah.dev/config";
pub(super) const BINARY: &str = "/usr/local/bin/howdah-data-plane";
/// The directory of the secret.
const CONFIGURATION: &str = "/etc/howdah";
/// Where a pod finds its account's token, as client libraries expect it.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What a plane's pod is made of.
#[derive(Clone, Copy)]
pub struct Workload<'a> {
    /// Its image.
    pub image: &'a str,
    /// Its configuration without what changes while it runs and without its credential.
    pub config: &'a Value,
    /// The digest of its credential.
    pub agent_sha256: Option<&'a [u8]>,
}

impl Workload<'_> {
    /// Names configuration and credential without telling anything of them.
    fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.config.to_string());
        hasher.update(self.agent_sha256.unwrap_or_default());
        hex::encode(&hasher.finalize()[..16])
    }
}

/// The secret that holds the plane's configuration.
pub fn secret(kit: &TenantKit<'_>, config: &str) -> Value {
    use base64::Engine;
    let data = base64::engine::general_purpose::STANDARD.encode(config);
    let body = json!({ "type": "Opaque", "data": { "config.json": data } });
    kit.object(&SECRET, "plane-config", "plane", body)
}

/// The plane's pod, or none of it. There is never a second one beside it: planes are their stores' only writers.
pub fn deployment(kit: &TenantKit<'_>, workload: &Workload<'_>, replicas: u8) -> Value {
    let mut labels = kit.labels("plane");
    if kit.config.plane_internet {
        labels[NETWORK] = "internet".into();
    }
    let mut spec = pod(kit);
    spec["containers"] = json!([container(kit, workload)]);
    spec["initContainers"] = json!([migration(kit, workload)]);
    let spec = json!({
        "replicas": replicas,
        "revisionHistoryLimit": 2,
        "progressDeadlineSeconds": 600,
        "strategy": { "type": "Recreate" },
        "selector": { "matchLabels": { PART: "plane", ORGANIZATION: kit.organization.to_string() } },
        "template": {
            "metadata": { "labels": labels, "annotations": { CONFIGURED: workload.digest() } },
            "spec": spec,
        },
    });
    kit.object(&DEPLOYMENT, "plane", "plane", json!({ "spec": spec }))
}

/// The plane's address and how many of it may be evicted at once.
pub(super) fn surroundings(kit: &TenantKit<'_>) -> Vec<Value> {
    let service = json!({ "spec": {
        "type": "ClusterIP",
        "selector": { PART: "plane", ORGANIZATION: kit.organization.to_string() },
        "ports": [{ "name": "http", "protocol": "TCP", "port": PORT, "targetPort": PORT }],
    } });
    // A node can be emptied: the plane comes up on another one, and what its workers do goes on. Two budgets at once
    // would hold it for ever, none would let it go twice.
    let budget = json!({ "spec": {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": { "matchLabels": { PART: "plane" } },
    } });
    vec![
        kit.object(&SERVICE, "plane", "plane", service),
        kit.object(&DISRUPTION_BUDGET, "plane", "plane", budget),
    ]
}

fn pod(kit: &TenantKit<'_>) -> Value {
    let mut spec = json!({
        "serviceAccountName": "plane",
        "priorityClassName": PLANE_PRIORITY,
        // The token is mounted below, where only the plane has it.
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 60,
        "securityContext": security(),
        "volumes": [
            { "name": "config", "secret": { "secretName": "plane-config", "defaultMode": 0o440 } },
            { "name": "state", "emptyDir": { "sizeLimit": kit.config.plane.disk } },
            { "name": "tmp", "emptyDir": { "sizeLimit": "1Gi" } },
            { "name": "token", "projected": { "defaultMode": 0o440, "sources": [
                { "serviceAccountToken": { "path": "token", "expirationSeconds": 3600 } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{
                    "path": "namespace",
                    "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                }] } },
            ] } },
        ],
    });
    if let (Some((volume, _)), Some(volumes)) = (bucket::volume(kit.config), spec["volumes"].as_array_mut()) {
        volumes.push(volume);
    }
    spec
}

/// As whom a pod of ours runs.
pub(super) fn security() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// A container of a plane's size.
pub(super) fn program(plane: &PlaneResources, image: &str, name: &str) -> Value {
    let resources = json!({
        "requests": { "cpu": plane.cpu, "memory": plane.memory, "ephemeral-storage": plane.disk },
        "limits": { "memory": plane.memory, "ephemeral-storage": plane.disk },
    });
    json!({
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

fn mounts() -> Vec<Value> {
    vec![
        json!({ "name": "config", "mountPath": CONFIGURATION, "readOnly": true }),
        json!({ "name": "state", "mountPath": "/var/lib/howdah" }),
        json!({ "name": "tmp", "mountPath": "/tmp" }),
    ]
}

fn command(verb: &str) -> Value {
    json!([BINARY, verb, "--config", format!("{CONFIGURATION}/config.json")])
}

fn migration(kit: &TenantKit<'_>, workload: &Workload<'_>) -> Value {
    let mut container = program(&kit.config.plane, workload.image, "migrate");
    container["command"] = command("migrate");
    container["volumeMounts"] = mounts().into();
    container
}

fn container(kit: &TenantKit<'_>, workload: &Workload<'_>) -> Value {
    let probe = |period: u32, failures: u32| {
        json!({
            "httpGet": { "path": "/healthz", "port": PORT },
            "periodSeconds": period,
            "timeoutSeconds": 5,
            "failureThreshold": failures,
        })
    };
    let mut mounts = mounts();
    mounts.push(json!({ "name": "token", "mountPath": TOKEN, "readOnly": true }));
    mounts.extend(bucket::volume(kit.config).map(|(_, mount)| mount));
    let mut container = program(&kit.config.plane, workload.image, "plane");
    container["command"] = command("serve");
    container["volumeMounts"] = mounts.into();
    container["ports"] = json!([{ "name": "http", "containerPort": PORT, "protocol": "TCP" }]);
    container["startupProbe"] = probe(1, 120);
    container["readinessProbe"] = probe(5, 3);
    container["livenessProbe"] = probe(10, 6);
    // The service's address forgets the pod a moment after it was told to end.
    container["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": 2 } } });
    container
}
