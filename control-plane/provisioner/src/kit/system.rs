//! What the cluster has once, for all organizations: the policy that keeps each on its own nodes, and the priority of data planes.

use serde_json::{Value, json};

use super::names::{ADMISSION_BINDING, ADMISSION_POLICY, Kind, ORGANIZATION, PLANE_PRIORITY, PRIORITY_CLASS};

/// The name of the policy and of its binding.
const NAME: &str = "howdah-nodes";

fn object(kind: &Kind, name: &str) -> Value {
    json!({
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": { "name": name, "labels": { "app.kubernetes.io/managed-by": "howdah" } },
    })
}

/// A plane that was lost takes the place of workers where there is no other: they go on only when it is back, and nobody else takes
/// them away.
fn priority() -> Value {
    let mut priority = object(&PRIORITY_CLASS, PLANE_PRIORITY);
    priority["value"] = 1_000.into();
    priority["preemptionPolicy"] = "PreemptLowerPriority".into();
    priority["description"] = "data planes, without which no worker pod goes on".into();
    priority
}

/// The objects, which no organization owns.
///
/// The taint of a GPU node is tolerated by its organization's pods alone: outside of its namespace nobody may tolerate it by name.
/// Inside, nobody may tolerate everything, choose a node by name, or ask for a GPU without choosing nodes of its own.
pub fn system() -> Vec<Value> {
    let key = format!("'{ORGANIZATION}'");
    let own = format!(
        "(has(namespaceObject.metadata.labels) && {key} in namespaceObject.metadata.labels ? namespaceObject.metadata.labels[{key}] : '')"
    );
    let rule = |expression: String, message: &str| json!({ "expression": expression, "message": message, "reason": "Forbidden" });
    let validations = json!([
        rule(
            format!(
                "variables.tolerations.all(t, !has(t.key) || t.key != {key} || \
                 (variables.own != '' && has(t.value) && t.value == variables.own))"
            ),
            "a pod may tolerate the nodes of its own organization only",
        ),
        rule(
            "variables.own == '' || variables.tolerations.all(t, has(t.key) && t.key != '')".to_owned(),
            "a pod of an organization may not tolerate every node",
        ),
        rule(
            format!(
                "!has(variables.spec.nodeSelector) || !({key} in variables.spec.nodeSelector) || \
                 (variables.own != '' && variables.spec.nodeSelector[{key}] == variables.own)"
            ),
            "a pod may choose the nodes of its own organization only",
        ),
        rule(
            "variables.own == '' || request.operation != 'CREATE' || !has(variables.spec.nodeName) || variables.spec.nodeName == ''"
                .to_owned(),
            "a pod of an organization may not choose its node by name",
        ),
        rule(
            format!(
                "variables.own == '' || !variables.gpu || \
                 (has(variables.spec.nodeSelector) && {key} in variables.spec.nodeSelector)"
            ),
            "a pod of an organization that asks for GPUs must choose nodes of its own",
        ),
    ]);
    let asks = "has(c.resources) && ((has(c.resources.limits) && c.resources.limits.exists(r, r.endsWith('/gpu'))) || \
                (has(c.resources.requests) && c.resources.requests.exists(r, r.endsWith('/gpu'))))";
    let policy = json!({
        "failurePolicy": "Fail",
        "matchConstraints": { "resourceRules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["pods"],
        }] },
        "variables": [
            { "name": "own", "expression": own },
            { "name": "spec", "expression": "object.spec" },
            { "name": "tolerations", "expression": "has(object.spec.tolerations) ? object.spec.tolerations : []" },
            { "name": "gpu", "expression": format!(
                "object.spec.containers.exists(c, {asks}) || \
                 (has(object.spec.initContainers) && object.spec.initContainers.exists(c, {asks}))"
            ) },
        ],
        "validations": validations,
    });
    let (mut all, mut bound) = (object(&ADMISSION_POLICY, NAME), object(&ADMISSION_BINDING, NAME));
    all["spec"] = policy;
    bound["spec"] = json!({ "policyName": NAME, "validationActions": ["Deny"] });
    vec![priority(), all, bound]
}
