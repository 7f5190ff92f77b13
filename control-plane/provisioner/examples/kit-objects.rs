//! Prints everything that an organization gets in a cluster, and what the cluster has once, as a JSON list: for whoever checks it
//! against a cluster's schemas.

use contract::cloud::{KubernetesConfig, Target};
use contract::ids::OrganizationId;
use provisioner::kit::{self, Targets, TenantKit, Workload};
use serde_json::{Value, json};

fn main() -> anyhow::Result<()> {
    let config: KubernetesConfig = serde_json::from_value(json!({
        "plane_image": "howdah/data-plane:example",
        "control_url": "http://howdah.howdah-system.svc:7433",
        "gateway_cidrs": ["10.9.0.0/16"],
        "databases": { "host": "10.9.1.1" },
        "buckets": {
            "endpoint": "http://10.9.1.2:9000", "region": "eu-1",
            "credentials": { "kind": "irsa", "role_arn": "arn:aws:iam::1:role/howdah-{organization}" },
        },
        "warm": { "planes": 2 },
        "gpu": { "backend": "karpenter", "classes": [
            { "name": "a100", "requirements": [
                { "key": "karpenter.k8s.aws/instance-gpu-name", "operator": "In", "values": ["a100"] },
            ] },
            { "name": "t4", "spot": false },
        ] },
    }))?;
    let api = Target {
        cidr: "10.9.0.1/32".to_owned(),
        ports: vec![6443],
    };
    let targets = Targets::of(&config, &[api])?;
    let tenant = TenantKit {
        organization: OrganizationId::generate(1_700_000_000_000, [1; 10]),
        installation: "example",
        config: &config,
        targets: &targets,
    };
    let document = json!({ "organization": tenant.organization });
    let workload = Workload {
        image: &config.plane_image,
        config: &document,
        agent_sha256: None,
    };
    let mut objects: Vec<Value> = vec![tenant.namespace()];
    objects.extend(tenant.objects());
    objects.push(kit::secret(&tenant, &document.to_string()));
    objects.push(kit::deployment(&tenant, &workload, 1));
    objects.push(kit::bucket_keys(&tenant, &document.to_string()));
    objects.extend(kit::system());
    objects.extend(kit::warm(&config, "example"));
    println!("{}", serde_json::to_string_pretty(&objects)?);
    Ok(())
}
