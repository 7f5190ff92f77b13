//! Prints the objects of pools, one that asks for nothing, one that asks for much, one with a network, a service and a spout, as a Kubernetes `List`: for whoever
//! checks them against a cluster's schemas.

use anyhow::{Context, anyhow};
use contract::executor::PodsConfig;
use contract::ids::OrganizationId;
use contract::names::ProjectName;
use pods::manifest::{self, Plane};
use pods::{Blueprint, Pool};
use provenance::spec::PipelineSpec;
use serde_json::{Value, json};
use uuid::Uuid;

fn main() -> anyhow::Result<()> {
    let namespace = std::env::args().nth(1).unwrap_or_else(|| "howdah-example".to_owned());
    let config = json!({
        "namespace": namespace, "image": "howdah/data-plane:example", "workers_url": "http://plane:7433",
        "priority_class": "howdah-workers",
        "gpu_classes": [{ "name": "a100", "kind": "nvidia.com/gpu", "node_selector": { "howdah.dev/gpu-class": "a100" },
            "taints": [{ "key": "howdah.dev/organization", "value": "org_example", "effect": "NoSchedule" }] }],
    });
    let config: PodsConfig = serde_json::from_value(config)?;
    let organization = OrganizationId::from_uuid(Uuid::from_u128(1));
    let plane = Plane { organization, config };
    let mut items = Vec::new();
    let each = [
        json!({}),
        everything(),
        json!({ "network": "internet" }),
        json!({ "service": { "internal_port": 8080 } }),
        json!({ "spout": {} }),
    ];
    for (number, more) in (1..).zip(each) {
        items.extend(pool(&plane, number, &more)?);
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    println!("{}", serde_json::to_string_pretty(&list)?);
    Ok(())
}

fn everything() -> Value {
    json!({
        "transform": { "cmd": ["python3", "/code/main.py"], "image": "acme/detect:1", "code": { "repo": "code" },
            "image_pull_secrets": ["registry"] },
        "resource_requests": { "cpu": 0.5, "memory": "1Gi" },
        "resource_limits": { "cpu": 4, "memory": "8Gi", "disk": "20Gi", "gpu": { "type": "nvidia.com/gpu", "number": 1 } },
        "scheduling_spec": { "node_selector": { "disk": "ssd" } },
        "tolerations": [{ "key": "spot", "operator": "Exists" }],
        "pod_patch": [
            { "op": "add", "path": "/spec/volumes/-", "value": { "name": "shm", "emptyDir": { "medium": "Memory" } } },
            { "op": "add", "path": "/spec/containers/0/volumeMounts/-", "value": { "name": "shm", "mountPath": "/dev/shm" } },
        ],
    })
}

fn pool(plane: &Plane, number: u128, more: &Value) -> anyhow::Result<Vec<Value>> {
    let mut value = json!({ "pipeline": { "name": "example" }, "transform": { "cmd": ["true"], "image": "acme/detect:1" },
        "input": { "pfs": { "repo": "images", "glob": "/*" } } });
    for (name, field) in more.as_object().context("no object")? {
        value[name] = field.clone();
    }
    if let (true, Some(fields)) = (value["spout"].is_object(), value.as_object_mut()) {
        fields.remove("input");
    }
    let spec = PipelineSpec::parse(&value, &ProjectName::default_project()).map_err(|errors| anyhow!("{errors:?}"))?;
    let pool = Pool {
        pipeline: Uuid::from_u128(number),
        version: 1,
    };
    let blueprint = Blueprint {
        image: format!("docker.io/acme/detect:1@sha256:{}", "ab".repeat(32)),
        spec,
    };
    let mut objects = vec![manifest::config_secret(plane, pool, "{}")];
    if !blueprint.spec.transform.image_pull_secrets.is_empty() {
        objects.push(manifest::pull_secret(plane, pool, r#"{"auths":{}}"#));
    }
    objects.push(manifest::pod(plane, &blueprint, pool, 0)?);
    Ok(objects)
}
