//! Who may do what in an organization's namespace: the plane's executor makes pods and what they need, and nothing beyond.

use serde_json::{Value, json};

use super::TenantKit;
use super::names::{ROLE, ROLE_BINDING, SERVICE_ACCOUNT, namespace};

/// The annotation of an account that names its role at AWS.
const ROLE_ARN: &str = "eks.amazonaws.com/role-arn";

/// Service account, role and binding of the plane.
pub(super) fn access(kit: &TenantKit<'_>) -> Vec<Value> {
    let rule =
        |resources: &[&str], verbs: &[&str]| json!({ "apiGroups": [""], "resources": resources, "verbs": verbs });
    let rules = json!([
        rule(&["pods"], &["list", "watch", "create", "delete"]),
        // An applied object is a patch; one that is not there yet is made by it.
        rule(&["secrets"], &["create", "delete", "patch"]),
    ]);
    let silent = json!({ "automountServiceAccountToken": false });
    let mut account = kit.object(&SERVICE_ACCOUNT, "plane", "plane", silent.clone());
    if let Some(role) = kit.config.buckets.credentials.role_of(kit.organization) {
        account["metadata"]["annotations"][ROLE_ARN] = role.into();
    }
    vec![
        // Pods that nobody gave an account run as this one, which may nothing and whose token nobody gets.
        kit.object(&SERVICE_ACCOUNT, "default", "plane", silent),
        account,
        kit.object(&ROLE, "plane", "plane", json!({ "rules": rules })),
        kit.object(
            &ROLE_BINDING,
            "plane",
            "plane",
            json!({
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "plane" },
                "subjects": [{ "kind": "ServiceAccount", "name": "plane", "namespace": namespace(kit.organization) }],
            }),
        ),
    ]
}
