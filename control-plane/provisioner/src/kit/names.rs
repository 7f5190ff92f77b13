//! Kinds, names, labels and annotations that everything of ours in a cluster has.

use contract::ids::OrganizationId;
use serde_json::Value;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// `apps/v1`.
    pub api_version: &'static str,
    /// `Deployment`.
    pub kind: &'static str,
    /// `deployments`.
    pub plural: &'static str,
    /// Whether it lies in a namespace.
    pub namespaced: bool,
}

const fn kind(api_version: &'static str, kind: &'static str, plural: &'static str, namespaced: bool) -> Kind {
    Kind {
        api_version,
        kind,
        plural,
        namespaced,
    }
}

/// Namespaces.
pub const NAMESPACE: Kind = kind("v1", "Namespace", "namespaces", false);
/// Service accounts.
pub const SERVICE_ACCOUNT: Kind = kind("v1", "ServiceAccount", "serviceaccounts", true);
/// Secrets.
pub const SECRET: Kind = kind("v1", "Secret", "secrets", true);
/// Services.
pub const SERVICE: Kind = kind("v1", "Service", "services", true);
/// Pods, which are only looked at.
pub const POD: Kind = kind("v1", "Pod", "pods", true);
/// Quotas.
pub const RESOURCE_QUOTA: Kind = kind("v1", "ResourceQuota", "resourcequotas", true);
/// Defaults of containers.
pub const LIMIT_RANGE: Kind = kind("v1", "LimitRange", "limitranges", true);
/// Roles.
pub const ROLE: Kind = kind("rbac.authorization.k8s.io/v1", "Role", "roles", true);
/// Who has them.
pub const ROLE_BINDING: Kind = kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", true);
/// Network policies.
pub const NETWORK_POLICY: Kind = kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", true);
/// Deployments.
pub const DEPLOYMENT: Kind = kind("apps/v1", "Deployment", "deployments", true);
/// Disruption budgets.
pub const DISRUPTION_BUDGET: Kind = kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", true);
/// Classes of priority.
pub const PRIORITY_CLASS: Kind = kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", false);
/// Karpenter's node pools.
pub const NODE_POOL: Kind = kind("karpenter.sh/v1", "NodePool", "nodepools", false);
/// Policies of admission.
pub const ADMISSION_POLICY: Kind = kind(
    "admissionregistration.k8s.io/v1",
    "ValidatingAdmissionPolicy",
    "validatingadmissionpolicies",
    false,
);
/// What they apply to.
pub const ADMISSION_BINDING: Kind = kind(
    "admissionregistration.k8s.io/v1",
    "ValidatingAdmissionPolicyBinding",
    "validatingadmissionpolicybindings",
    false,
);

/// The kinds of the kit in a namespace.
pub static IN_NAMESPACE: [Kind; 8] = [
    NETWORK_POLICY,
    RESOURCE_QUOTA,
    LIMIT_RANGE,
    SERVICE_ACCOUNT,
    ROLE,
    ROLE_BINDING,
    SERVICE,
    DISRUPTION_BUDGET,
];

/// The other kinds that are written.
static BESIDE: [Kind; 7] = [
    NAMESPACE,
    SECRET,
    DEPLOYMENT,
    NODE_POOL,
    PRIORITY_CLASS,
    ADMISSION_POLICY,
    ADMISSION_BINDING,
];

/// The field manager of everything that we write.
pub const MANAGER: &str = "howdah";
/// The label that tells ours, as a selector.
pub const OURS: &str = "app.kubernetes.io/managed-by=howdah";
/// The class of priority of data planes, one for all installations of a cluster.
pub const PLANE_PRIORITY: &str = "howdah-planes";
/// The label that says which installation of ours made it.
pub const INSTALLATION: &str = "howdah.dev/installation";
/// The label that says whose an object, a pod or a node is.
pub const ORGANIZATION: &str = "howdah.dev/organization";
/// The label of a node that says its class of GPUs.
pub const GPU_CLASS: &str = "howdah.dev/gpu-class";
/// The label that says what of it.
pub const PART: &str = "howdah.dev/part";
/// The label of pods that may reach public addresses, with the value `internet`.
pub const NETWORK: &str = "howdah.dev/network";
/// The annotation that says of which generation the instruction was.
pub const GENERATION: &str = "howdah.dev/generation";
/// The annotation that says what we last wanted of the object: when that is what we want now and the object is another,
/// somebody changed it.
pub const DIGEST: &str = "howdah.dev/digest";
/// The annotation of a namespace that says which kit is complete in it.
pub const COMPLETE: &str = "howdah.dev/kit";
/// The annotation that says when a bucket's session has to be followed by another.
pub const RENEW_AT: &str = "howdah.dev/renew-at";
/// The secret that holds a plane's session of its bucket.
pub const BUCKET_KEYS: &str = "bucket-keys";
/// The port of planes.
pub const PORT: u16 = 7433;

/// The namespace of an organization: a name that Kubernetes takes, and that no two organizations share.
pub fn namespace(organization: OrganizationId) -> String {
    format!("howdah-{}", organization.uuid().simple())
}

/// The node pool of an organization for a class of GPUs.
pub fn node_pool(organization: OrganizationId, class: &str) -> String {
    format!("{}-{class}", namespace(organization))
}

/// A label's value.
pub fn label<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["labels"][name].as_str()
}

/// An annotation's value.
pub fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][name].as_str()
}

/// Whose an object is, if it is ours and says so.
pub fn owner(object: &Value) -> Option<OrganizationId> {
    let ours = label(object, "app.kubernetes.io/managed-by") == Some("howdah");
    label(object, ORGANIZATION).filter(|_| ours)?.parse().ok()
}

/// Of which generation the instruction was that made it.
pub fn generation(object: &Value) -> Option<i64> {
    annotation(object, GENERATION)?.parse().ok()
}

/// An object's kind, among those that are written.
pub fn kind_of(object: &Value) -> Option<&'static Kind> {
    IN_NAMESPACE
        .iter()
        .chain(&BESIDE)
        .find(|kind| object["kind"] == kind.kind && object["apiVersion"] == kind.api_version)
}

/// An object's name.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}
