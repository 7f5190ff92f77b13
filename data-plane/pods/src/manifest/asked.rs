//! What a spec asks of the cluster: where its pods go, and what of that a tenant may not ask for.

use std::collections::BTreeMap;

use contract::executor::{GpuClass, SERVICE_PORT};
use provenance::spec::PipelineSpec;
use serde_json::{Value, json};

use super::{NODE_PATIENCE_SECONDS, Plane, Unfit, amounts, unpatched};
use crate::pool::Pool;
use crate::ports::Blueprint;

/// Names that only the service and the cluster give.
const RESERVED: [&str; 3] = ["howdah.dev", "kubernetes.io", "k8s.io"];
/// Of those, what anybody may select nodes by.
const PUBLIC: [&str; 6] = [
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "kubernetes.io/hostname",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// Whether only the service and the cluster give that name.
pub fn is_reserved(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    !PUBLIC.contains(&key) && RESERVED.iter().any(|of| within(of))
}

/// The nodes with the GPUs that a spec asks for: of several classes of one kind, the first that its labels do not speak against.
fn gpu_class<'a>(plane: &'a Plane, spec: &PipelineSpec) -> Option<&'a GpuClass> {
    let kind = &amounts::gpu(spec)?.kind;
    let wanted = &spec.scheduling.node_selector;
    let fits = |class: &&GpuClass| {
        let same = |(key, value): (&String, &String)| wanted.get(key).is_none_or(|asked| asked == value);
        class.kind == *kind && class.node_selector.iter().all(same)
    };
    plane.config.gpu_classes.iter().find(fits)
}

/// The labels of the nodes that pods go to.
pub fn node_selector(plane: &Plane, spec: &PipelineSpec) -> BTreeMap<String, String> {
    let mut selector = spec.scheduling.node_selector.clone();
    if let Some(class) = gpu_class(plane, spec) {
        selector.extend(class.node_selector.clone());
    }
    selector
}

/// The taints in spite of which pods go there.
pub fn tolerations(plane: &Plane, spec: &PipelineSpec) -> Vec<Value> {
    let mut all: Vec<Value> = spec
        .tolerations
        .iter()
        .map(|toleration| toleration.written("tolerationSeconds"))
        .collect();
    if let Some(gpu) = amounts::gpu(spec) {
        all.push(json!({ "key": gpu.kind, "operator": "Exists", "effect": "NoSchedule" }));
    }
    let taints = gpu_class(plane, spec).into_iter().flat_map(|class| &class.taints);
    all.extend(
        taints.map(
            |taint| json!({ "key": taint.key, "operator": "Equal", "value": taint.value, "effect": taint.effect }),
        ),
    );
    // Otherwise the cluster lets them be for five minutes on a node that is gone.
    all.extend(["not-ready", "unreachable"].map(|how| {
        json!({ "key": format!("node.kubernetes.io/{how}"), "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": NODE_PATIENCE_SECONDS })
    }));
    all
}

fn unfit(pointer: &str, message: impl Into<String>) -> Unfit {
    Unfit {
        pointer: pointer.to_owned(),
        message: message.into(),
    }
}

/// What of a spec no pod may have here, at its places.
pub fn refusals(plane: &Plane, spec: &PipelineSpec) -> Vec<Unfit> {
    let mut all = placing_refusals(plane, spec);
    all.extend(amount_refusals(plane, spec));
    all.extend(port_refusal(spec));
    if all.is_empty() {
        all.extend(patched(plane, spec).err());
    }
    all
}

fn placing_refusals(plane: &Plane, spec: &PipelineSpec) -> Vec<Unfit> {
    let mut all = Vec::new();
    for (at, toleration) in spec.tolerations.iter().enumerate() {
        let pointer = format!("/tolerations/{at}");
        match toleration.key.as_deref() {
            None => all.push(unfit(
                &pointer,
                "tolerates every taint, those of other tenants' nodes too: name the `key` of one",
            )),
            Some(key) if is_reserved(key) => all.push(unfit(
                &pointer,
                format!("tolerates `{key}`, which keeps pods off nodes that are not for them: remove it; for GPUs the service adds what it takes"),
            )),
            Some(_) => {}
        }
    }
    let own = |key: &String| {
        plane
            .config
            .gpu_classes
            .iter()
            .any(|class| class.node_selector.contains_key(key))
    };
    let selectors = spec.scheduling.node_selector.keys();
    all.extend(selectors.filter(|key| is_reserved(key) && !own(key)).map(|key| {
        let message = format!("selects by `{key}`, which only the service sets: remove it");
        unfit("/scheduling_spec/node_selector", message)
    }));
    if let Some(class) = &spec.scheduling.priority_class_name
        && Some(class) != plane.config.priority_class.as_ref()
        && !plane.config.priority_classes.contains(class)
    {
        let known = listed(plane.config.priority_classes.iter().chain(&plane.config.priority_class));
        let message = format!("`{class}` is no priority that may be asked for here; there is {known}");
        all.push(unfit("/scheduling_spec/priority_class_name", message));
    }
    all
}

fn amount_refusals(plane: &Plane, spec: &PipelineSpec) -> Vec<Unfit> {
    let mut all = Vec::new();
    if let Some(gpu) = amounts::gpu(spec)
        && gpu_class(plane, spec).is_none()
    {
        let known = listed(plane.config.gpu_classes.iter().map(|class| &class.kind));
        let message = format!(
            "there are no GPUs `{}` for this organization with such labels; there is {known}",
            gpu.kind
        );
        all.push(unfit("/resource_limits/gpu", message));
    }
    let (least, most) = (&spec.resource_requests, &spec.resource_limits);
    for (name, least, most) in [
        ("cpu", least.cpu_millis, most.cpu_millis),
        ("memory", least.memory_bytes, most.memory_bytes),
        ("disk", least.disk_bytes, most.disk_bytes),
    ] {
        if least.zip(most).is_some_and(|(least, most)| least > most) {
            let message = "is more than `resource_limits` allows: lower it, or raise that";
            all.push(unfit(&format!("/resource_requests/{name}"), message));
        }
    }
    all
}

/// The network of a pod is that of the agent too.
pub(super) fn port_refusal(spec: &PipelineSpec) -> Option<Unfit> {
    let taken = spec
        .service
        .is_some_and(|service| service.internal_port == SERVICE_PORT);
    taken.then(|| {
        let message =
            format!("{SERVICE_PORT} is where the agent listens for the plane in this pod: choose another port");
        unfit("/service/internal_port", message)
    })
}

/// Whether the spec's changes make a pod that may be.
fn patched(plane: &Plane, spec: &PipelineSpec) -> Result<(), Unfit> {
    let pool = Pool {
        pipeline: uuid::Uuid::nil(),
        version: 1,
    };
    let blueprint = Blueprint {
        spec: spec.clone(),
        image: String::new(),
    };
    let mut pod = unpatched(plane, &blueprint, pool, 0);
    super::patch::apply(&mut pod, &spec.pod_patch, &plane.config)
}

fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
