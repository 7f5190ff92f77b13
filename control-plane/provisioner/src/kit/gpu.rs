//! GPU nodes of an organization: Karpenter makes them when its pods ask, by a node pool for each class, and takes them away again.
//! Their taint keeps everybody else off. Without Karpenter the operator labels and taints nodes the same way, and there is
//! nothing to make.

use contract::cloud::{GpuBackend, GpuClass};
use serde_json::{Value, json};

use super::TenantKit;
use super::names::{GPU_CLASS, NODE_POOL, ORGANIZATION, node_pool};

/// The node pools.
pub(super) fn node_pools(kit: &TenantKit<'_>) -> Vec<Value> {
    match kit.config.gpu.backend {
        GpuBackend::Static => Vec::new(),
        GpuBackend::Karpenter => kit.config.gpu.classes.iter().map(|class| pool(kit, class)).collect(),
    }
}

fn pool(kit: &TenantKit<'_>, class: &GpuClass) -> Value {
    let organization = kit.organization.to_string();
    let mut requirements = class.requirements.clone();
    // Karpenter takes spare capacity first where both may be had.
    let capacity: &[&str] = if class.spot {
        &["spot", "on-demand"]
    } else {
        &["on-demand"]
    };
    requirements.push(json!({ "key": "karpenter.sh/capacity-type", "operator": "In", "values": capacity }));
    let node = json!({
        "nodeClassRef": {
            "group": class.node_class.group,
            "kind": class.node_class.kind,
            "name": class.node_class.name,
        },
        "taints": [{ "key": ORGANIZATION, "value": organization, "effect": "NoSchedule" }],
        "requirements": requirements,
        "expireAfter": class.expire_after,
    });
    let spec = json!({
        "template": {
            "metadata": { "labels": { ORGANIZATION: organization, GPU_CLASS: class.name } },
            "spec": node,
        },
        "limits": { "nvidia.com/gpu": class.gpus_max.min(kit.config.quota.gpus).to_string() },
        "disruption": { "consolidationPolicy": "WhenEmpty", "consolidateAfter": class.consolidate_after },
    });
    let name = node_pool(kit.organization, &class.name);
    kit.object(&NODE_POOL, &name, "gpu", json!({ "spec": spec }))
}
