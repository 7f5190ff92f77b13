//! Network policies of a namespace: nothing goes in or out but what is named here. Policies only add up, so what one forbids
//! no other may let through: private addresses and those of clouds' metadata are in none that opens public ones.

use contract::cloud::DnsConfig;
use contract::executor::SERVICE_PORT;
use serde_json::{Value, json};

use super::names::{NETWORK, NETWORK_POLICY, ORGANIZATION, PART, PORT};
use super::targets::of_namespace;
use super::{Reach, TenantKit};

/// What is not the internet: this machine, private networks, link-local addresses (metadata of clouds among them), test networks,
/// multicast.
const NOT_PUBLIC: [&str; 13] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];
/// The same of IPv6; also the prefixes that carry addresses of IPv4 inside.
const NOT_PUBLIC_6: [&str; 5] = ["::/96", "64:ff9b::/96", "fc00::/7", "fe80::/10", "ff00::/8"];

/// Pods that run for a pipeline.
fn workers() -> Value {
    json!({ "matchExpressions": [{ "key": PART, "operator": "In", "values": ["worker", "service", "spout"] }] })
}

/// Pods that run a service of a pipeline.
fn services() -> Value {
    json!({ "matchLabels": { PART: "service" } })
}

/// Where their agents listen for the plane. The port that the code itself listens at is its own affair, and reached by nobody.
fn service_port() -> Value {
    json!([{ "protocol": "TCP", "port": SERVICE_PORT }])
}

fn plane() -> Value {
    json!({ "matchLabels": { PART: "plane" } })
}

fn plane_port() -> Value {
    json!([{ "protocol": "TCP", "port": PORT }])
}

/// The policies of a namespace.
pub(super) fn policies(kit: &TenantKit<'_>) -> Vec<Value> {
    let policy = |name: &str, spec: Value| kit.object(&NETWORK_POLICY, name, "plane", json!({ "spec": spec }));
    vec![
        policy(
            "default-deny",
            json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] }),
        ),
        policy("dns", dns(&kit.config.dns)),
        policy("plane", around_plane(kit)),
        policy("workers", around_workers(kit)),
        policy("services", around_services()),
        policy("workers-internet", internet(kit)),
    ]
}

fn dns(config: &DnsConfig) -> Value {
    let mut server = of_namespace(&config.namespace);
    // An empty selector is kept without its empty part, which would look like a change of somebody else's.
    server["podSelector"] = match config.labels.is_empty() {
        true => json!({}),
        false => json!({ "matchLabels": config.labels }),
    };
    let mut to = vec![server];
    to.extend(config.cidrs.iter().map(|cidr| json!({ "ipBlock": { "cidr": cidr } })));
    let port = config.port;
    let ports = json!([{ "protocol": "UDP", "port": port }, { "protocol": "TCP", "port": port }]);
    json!({
        "podSelector": {},
        "policyTypes": ["Egress"],
        "egress": [{ "to": to, "ports": ports }],
    })
}

fn around_plane(kit: &TenantKit<'_>) -> Value {
    let mut from = vec![
        of_namespace(&kit.config.system_namespace),
        json!({ "podSelector": workers() }),
    ];
    from.extend(
        kit.config
            .gateway_cidrs
            .iter()
            .map(|cidr| json!({ "ipBlock": { "cidr": cidr } })),
    );
    let reached = [
        &kit.targets.control,
        &kit.targets.databases,
        &kit.targets.buckets,
        &kit.targets.api,
    ];
    let mut egress: Vec<Value> = reached.into_iter().flatten().map(Reach::egress).collect();
    // Services of pipelines are reached through the plane.
    egress.push(json!({ "to": [{ "podSelector": services() }], "ports": service_port() }));
    json!({
        "podSelector": plane(),
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "from": from, "ports": plane_port() }],
        "egress": egress,
    })
}

fn around_workers(kit: &TenantKit<'_>) -> Value {
    let mut egress = vec![json!({ "to": [{ "podSelector": plane() }], "ports": plane_port() })];
    egress.extend(kit.targets.buckets.iter().map(Reach::egress));
    json!({
        "podSelector": workers(),
        "policyTypes": ["Ingress", "Egress"],
        "egress": egress,
    })
}

fn around_services() -> Value {
    json!({
        "podSelector": services(),
        "policyTypes": ["Ingress"],
        "ingress": [{ "from": [{ "podSelector": plane() }], "ports": service_port() }],
    })
}

fn internet(kit: &TenantKit<'_>) -> Value {
    json!({
        "podSelector": { "matchLabels": { NETWORK: "internet", ORGANIZATION: kit.organization.to_string() } },
        "policyTypes": ["Egress"],
        "egress": [{ "to": [
            { "ipBlock": { "cidr": "0.0.0.0/0", "except": NOT_PUBLIC } },
            { "ipBlock": { "cidr": "::/0", "except": NOT_PUBLIC_6 } },
        ] }],
    })
}
