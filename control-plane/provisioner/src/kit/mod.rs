//! Which objects an organization has in a Kubernetes cluster. Pure and deterministic: the same values give the same JSON. Objects say
//! only what we want of them; what the API server adds is its own.

mod access;
mod bucket;
mod gpu;
pub mod names;
mod network;
mod quota;
mod system;
mod targets;
mod warm;
mod workload;

pub use bucket::{BUCKET_DIRECTORY, BUCKET_KEYS_FILE, BUCKET_TOKEN_FILE, bucket_keys, has_sessions};
use contract::cloud::KubernetesConfig;
use contract::ids::OrganizationId;
use serde_json::{Value, json};
pub use system::system;
pub use targets::{Reach, Targets};
pub use warm::warm;
pub use workload::{Workload, deployment, secret};

use names::{INSTALLATION, NAMESPACE, ORGANIZATION, PART, namespace};

/// What an organization's objects are made of.
#[derive(Clone, Copy)]
pub struct TenantKit<'a> {
    /// Whose.
    pub organization: OrganizationId,
    /// Names this installation among others of a cluster.
    pub installation: &'a str,
    /// The cluster's settings.
    pub config: &'a KubernetesConfig,
    /// Who may be reached by the plane and its workers.
    pub targets: &'a Targets,
}

impl TenantKit<'_> {
    /// The namespace itself, which everything else lies in.
    pub fn namespace(&self) -> Value {
        let mut object = json!({
            "apiVersion": NAMESPACE.api_version,
            "kind": NAMESPACE.kind,
            "metadata": { "name": namespace(self.organization), "labels": self.labels("namespace") },
        });
        for mode in ["enforce", "warn", "audit"] {
            let labels = &mut object["metadata"]["labels"];
            labels[format!("pod-security.kubernetes.io/{mode}")] = "restricted".into();
            labels[format!("pod-security.kubernetes.io/{mode}-version")] = "latest".into();
        }
        object
    }

    /// What stands around the plane, in the order in which it is made: what protects comes before what runs.
    pub fn objects(&self) -> Vec<Value> {
        let mut objects = network::policies(self);
        objects.extend(quota::limits(self));
        objects.extend(access::access(self));
        objects.extend(workload::surroundings(self));
        objects.extend(gpu::node_pools(self));
        objects
    }

    /// Labels that say whose an object is and what of it.
    pub(crate) fn labels(&self, part: &str) -> Value {
        json!({
            "app.kubernetes.io/managed-by": "howdah",
            INSTALLATION: self.installation,
            ORGANIZATION: self.organization.to_string(),
            PART: part,
        })
    }

    pub(crate) fn object(&self, kind: &names::Kind, name: &str, part: &str, body: Value) -> Value {
        let mut object = json!({
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": { "name": name, "labels": self.labels(part) },
        });
        if kind.namespaced {
            object["metadata"]["namespace"] = namespace(self.organization).into();
        }
        if let (Value::Object(object), Value::Object(body)) = (&mut object, body) {
            object.extend(body);
        }
        object
    }
}

#[cfg(test)]
mod tests;
