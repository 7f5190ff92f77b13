//! What runs the code of a plane's pipelines, as whoever operates the plane says it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a plane reaches the service that runs in a pod: a port of the agent beside it, which passes on what comes from the plane.
pub const SERVICE_PORT: u16 = 7434;

/// What runs the code of pipelines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum ExecutorConfig {
    /// Processes of the machine that the plane is on, in sandboxes.
    #[default]
    Processes,
    /// Pods of a cluster.
    Kubernetes(Box<PodsConfig>),
}

/// The pods that code runs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodsConfig {
    /// The tenant's namespace. The plane may list, watch, make and delete pods there, and apply and delete secrets.
    pub namespace: String,
    /// The image of this version of the data plane: the agent and the shim in each pod.
    pub image: String,
    /// By what pods reach the plane, `http://plane:7433`.
    pub workers_url: String,
    /// At most so many worker pods at a time.
    #[serde(default = "default_pods_max")]
    pub pods_max: u32,
    /// At most so many pods for a pipeline that names no `parallelism_spec`.
    #[serde(default = "default_parallelism")]
    pub parallelism: u32,
    /// Pods without anything to do are removed after so many seconds.
    #[serde(default = "default_idle_seconds")]
    pub idle_seconds: u64,
    /// What pods get whose spec names no `priority_class_name`.
    #[serde(default)]
    pub priority_class: Option<String>,
    /// The other priority classes that specs may name.
    #[serde(default)]
    pub priority_classes: Vec<String>,
    /// Which places of a pod the `pod_patch` of a spec may change: JSON pointers, everything below them too; `*` stands for one step. What
    /// would undo the isolation of pods is refused whatever this says.
    #[serde(default = "default_pod_patch_allowed")]
    pub pod_patch_allowed: Vec<String>,
    /// The GPUs that there are for this tenant.
    #[serde(default)]
    pub gpu_classes: Vec<GpuClass>,
    /// What agents of one node share of what they have fetched; nothing when absent.
    #[serde(default)]
    pub node_cache: Option<NodeCache>,
    /// What the agent in each pod gets.
    #[serde(default)]
    pub agent: AgentResources,
    /// The cluster, where the plane is not in it itself: a kubeconfig.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
}

/// GPUs of one kind on nodes that only this tenant's pods may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuClass {
    /// What people call it, `a100`.
    pub name: String,
    /// The resource, as specs name it in `gpu.type`: `nvidia.com/gpu`.
    pub kind: String,
    /// The labels of its nodes.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// What keeps others off its nodes.
    #[serde(default)]
    pub taints: Vec<Taint>,
}

/// A taint of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taint {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
    /// `NoSchedule`, `NoExecute` or `PreferNoSchedule`.
    pub effect: String,
}

/// A volume of this tenant alone that each node has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum NodeCache {
    /// A directory of the node, made by whoever operates it for uid 65532. The namespace has to admit `hostPath`.
    HostPath {
        /// The directory.
        path: PathBuf,
        /// How many bytes one agent may keep there.
        bytes: u64,
    },
    /// A claim on a volume that is local to nodes.
    Claim {
        /// Its name.
        name: String,
        /// How many bytes one agent may keep there.
        bytes: u64,
    },
}

/// What an agent gets. It moves bytes and computes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentResources {
    /// Thousandths of a processor that it gets at least.
    pub cpu_millis: u64,
    /// Bytes of memory, at least and at most.
    pub memory_bytes: u64,
    /// Bytes of disk for inputs that it keeps.
    pub disk_bytes: u64,
}

impl Default for AgentResources {
    fn default() -> Self {
        Self {
            cpu_millis: 100,
            memory_bytes: 256 << 20,
            disk_bytes: 2 << 30,
        }
    }
}

fn default_pods_max() -> u32 {
    1_000
}

fn default_parallelism() -> u32 {
    8
}

fn default_idle_seconds() -> u64 {
    60
}

fn default_pod_patch_allowed() -> Vec<String> {
    [
        "/metadata/labels",
        "/metadata/annotations",
        "/spec/affinity",
        "/spec/topologySpreadConstraints",
        "/spec/hostname",
        "/spec/tolerations",
        "/spec/nodeSelector",
        "/spec/terminationGracePeriodSeconds",
        "/spec/volumes",
        "/spec/containers/0/volumeMounts",
        "/spec/containers/0/resources",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plane_runs_processes_unless_it_is_told_of_a_cluster() {
        assert_eq!(ExecutorConfig::default(), ExecutorConfig::Processes);
        let pods = json!({ "kind": "kubernetes", "namespace": "howdah-a", "image": "howdah/data-plane:1",
            "workers_url": "http://plane:7433", "pods_max": 3,
            "gpu_classes": [{ "name": "a100", "kind": "nvidia.com/gpu", "taints": [] }] });
        let ExecutorConfig::Kubernetes(read) = serde_json::from_value(pods.clone()).unwrap() else {
            panic!("pods are meant");
        };
        assert_eq!((read.pods_max, read.parallelism, read.gpu_classes.len()), (3, 8, 1));
        let mut unknown = pods;
        unknown["pod_max"] = json!(3);
        assert!(serde_json::from_value::<ExecutorConfig>(unknown).is_err());
    }
}
