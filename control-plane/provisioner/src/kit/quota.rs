//! How much an organization may have at once, and what containers get that ask for nothing.

use serde_json::{Value, json};

use super::TenantKit;
use super::names::{LIMIT_RANGE, RESOURCE_QUOTA};

/// The quota and the defaults.
pub(super) fn limits(kit: &TenantKit<'_>) -> Vec<Value> {
    let quota = &kit.config.quota;
    let hard = json!({
        "requests.cpu": quota.cpu,
        "requests.memory": quota.memory,
        "limits.memory": quota.memory,
        "requests.ephemeral-storage": quota.ephemeral_storage,
        "limits.ephemeral-storage": quota.ephemeral_storage,
        "pods": quota.pods.to_string(),
        "requests.nvidia.com/gpu": quota.gpus.to_string(),
        // Whatever is reached from outside goes through the gateway; whatever is kept is in the bucket.
        "services.loadbalancers": "0",
        "services.nodeports": "0",
        "persistentvolumeclaims": "0",
    });
    let defaults = json!([{
        "type": "Container",
        "default": { "memory": "1Gi", "ephemeral-storage": "2Gi" },
        "defaultRequest": { "cpu": "100m", "memory": "256Mi", "ephemeral-storage": "256Mi" },
    }]);
    vec![
        kit.object(&RESOURCE_QUOTA, "plan", "plane", json!({ "spec": { "hard": hard } })),
        kit.object(
            &LIMIT_RANGE,
            "defaults",
            "plane",
            json!({ "spec": { "limits": defaults } }),
        ),
    ]
}
