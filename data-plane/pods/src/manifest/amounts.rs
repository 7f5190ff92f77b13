//! What the containers of a pod get at least and at most.

use contract::executor::PodsConfig;
use provenance::spec::{Gpu, PipelineSpec, Resources};
use serde_json::{Map, Value, json};

/// Besides what it keeps, an agent writes logs.
const AGENT_SLACK: u64 = 512 << 20;
/// What an agent's disk takes before it has fetched anything.
const AGENT_DISK_LEAST: u64 = 64 << 20;

/// Bytes that the code may write, if the spec says so.
pub fn disk(spec: &PipelineSpec) -> Option<u64> {
    spec.resource_limits.disk_bytes
}

/// The GPUs that the code gets.
pub fn gpu(spec: &PipelineSpec) -> Option<&Gpu> {
    let limit = spec.resource_limits.gpu.as_ref();
    limit
        .or(spec.resource_requests.gpu.as_ref())
        .filter(|gpu| gpu.number > 0)
}

fn named(amount: &Resources) -> Map<String, Value> {
    let mut all = Map::new();
    let mut add = |name: &str, text: Option<String>| {
        all.extend(text.map(|text| (name.to_owned(), json!(text))));
    };
    add("cpu", amount.cpu_millis.map(|n| format!("{n}m")));
    add("memory", amount.memory_bytes.map(|n| n.to_string()));
    add("ephemeral-storage", amount.disk_bytes.map(|n| n.to_string()));
    all
}

/// What the code gets.
pub fn of_user(spec: &PipelineSpec) -> Value {
    let (mut requests, mut limits) = (named(&spec.resource_requests), named(&spec.resource_limits));
    if let Some(gpu) = gpu(spec) {
        for amounts in [&mut requests, &mut limits] {
            amounts.insert(gpu.kind.clone(), json!(gpu.number.to_string()));
        }
    }
    // A default of the namespace that is less than what is asked for would turn the pod away.
    for name in ["memory", "ephemeral-storage"] {
        if let (Some(least), false) = (requests.get(name), limits.contains_key(name)) {
            limits.insert(name.to_owned(), least.clone());
        }
    }
    json!({ "requests": requests, "limits": limits })
}

/// What the agent gets. Disk that code fills counts for the pod as a whole, so the agent's limit leaves room for it.
pub fn of_agent(config: &PodsConfig, spec: &PipelineSpec) -> Value {
    let agent = &config.agent;
    let memory = agent.memory_bytes.to_string();
    let room = disk(spec)
        .unwrap_or(0)
        .saturating_add(agent.disk_bytes)
        .saturating_add(AGENT_SLACK);
    json!({
        "requests": {
            "cpu": format!("{}m", agent.cpu_millis),
            "memory": memory,
            "ephemeral-storage": AGENT_DISK_LEAST.to_string(),
        },
        "limits": { "memory": memory, "ephemeral-storage": room.to_string() },
    })
}

/// What copying the shim takes.
pub fn of_shim() -> Value {
    let amounts = json!({ "cpu": "10m", "memory": "33554432", "ephemeral-storage": AGENT_DISK_LEAST.to_string() });
    json!({ "requests": amounts, "limits": { "memory": "67108864" } })
}
