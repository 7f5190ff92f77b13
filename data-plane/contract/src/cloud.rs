//! Where data planes run: on this machine, or in the namespaces of a Kubernetes cluster. Part of the control plane's
//! configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::OrganizationId;

/// Where data planes run.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum CloudConfig {
    /// Child processes, directories, databases of the service's own PostgreSQL.
    #[default]
    Local,
    /// A namespace for each organization.
    Kubernetes(Box<KubernetesConfig>),
}

/// A cluster and what stands beside it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesConfig {
    /// The file that says how the cluster is reached; `None`: this process runs in it.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the control plane, and of its lease.
    #[serde(default = "default_system_namespace")]
    pub system_namespace: String,
    /// The image of data planes that are made now: `howdah/data-plane:0.1.0`, best with its digest.
    pub plane_image: String,
    /// The control plane, as pods reach it: `http://howdah.howdah-system.svc:7433`.
    pub control_url: String,
    /// What of the control plane pods may reach, where `control_url` names neither an address nor a service of the cluster.
    #[serde(default)]
    pub control_targets: Vec<Target>,
    /// From where the gateway reaches planes besides the pods of `system_namespace`: `10.0.0.0/16`.
    #[serde(default)]
    pub gateway_cidrs: Vec<String>,
    /// The API server as pods reach it; found in the cluster when empty.
    #[serde(default)]
    pub api_targets: Vec<Target>,
    /// Who resolves names for pods.
    #[serde(default)]
    pub dns: DnsConfig,
    /// The tenants' databases.
    pub databases: DatabasesConfig,
    /// The tenants' buckets.
    pub buckets: BucketsConfig,
    /// GPU nodes.
    #[serde(default)]
    pub gpu: GpuConfig,
    /// What an organization may have at once.
    #[serde(default)]
    pub quota: QuotaConfig,
    /// What a data plane's own pod gets.
    #[serde(default)]
    pub plane: PlaneResources,
    /// Whether data planes may reach public addresses, which imports and egress need.
    #[serde(default = "yes")]
    pub plane_internet: bool,
    /// What every plane's executor is told besides its namespace, image and address.
    #[serde(default)]
    pub executor: BTreeMap<String, serde_json::Value>,
    /// How planes get a new image.
    #[serde(default)]
    pub waves: WavesConfig,
    /// Room on nodes that is held for planes which wake.
    #[serde(default)]
    pub warm: WarmConfig,
}

/// Addresses and ports that may be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `10.0.3.7/32`.
    pub cidr: String,
    /// TCP ports.
    pub ports: Vec<u16>,
}

/// The name servers of the cluster, as network policies see them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DnsConfig {
    /// The namespace of their pods.
    pub namespace: String,
    /// The labels of their pods.
    pub labels: BTreeMap<String, String>,
    /// The port that these pods listen on, which need not be that of their service.
    pub port: u16,
    /// Addresses of caches on nodes, which are no pods: `169.254.20.10/32`.
    pub cidrs: Vec<String>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            labels: BTreeMap::from([("k8s-app".to_owned(), "kube-dns".to_owned())]),
            port: 53,
            cidrs: Vec::new(),
        }
    }
}

/// PostgreSQL for tenants.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabasesConfig {
    /// As a role that may create roles and databases; `None`: the server of the control plane's own database.
    #[serde(default)]
    pub admin_url: Option<String>,
    /// As pods reach it.
    pub host: String,
    /// Its port.
    #[serde(default = "default_database_port")]
    pub port: u16,
    /// `disable`, `require`, `verify-full` …: how planes connect.
    #[serde(default = "default_ssl_mode")]
    pub ssl_mode: String,
    /// Where `host` leads, when it names neither an address nor a service of the cluster.
    #[serde(default)]
    pub targets: Vec<Target>,
}

/// An S3 service for tenants.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketsConfig {
    /// As pods and this process reach it; `None`: AWS.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Its region.
    pub region: String,
    /// Before the organization's id in the names of buckets: they are unique among all customers of an S3 service.
    #[serde(default = "default_bucket_prefix")]
    pub prefix: String,
    /// Who administers buckets, and what planes get.
    pub credentials: BucketCredentials,
    /// Where `endpoint` leads, when it names neither an address nor a service of the cluster.
    #[serde(default)]
    pub targets: Vec<Target>,
}

/// Who administers buckets, and what planes get.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum BucketCredentials {
    /// One key for everything, planes included: for development and stores that know no others.
    Static {
        /// Its id.
        access_key_id: String,
        /// Its secret.
        secret_access_key: String,
    },
    /// The administrator's key makes buckets; planes get keys of their own bucket alone, which a service of the operator's
    /// makes when asked.
    Issued {
        /// The administrator's key.
        access_key_id: String,
        /// Its secret.
        secret_access_key: String,
        /// Where keys are asked for: `PUT {issuer}/{bucket}` → `{access_key_id, secret_access_key}`, `DELETE` ends them.
        issuer: String,
        /// What is sent there as bearer token.
        issuer_token: String,
    },
    /// Planes get sessions of a role, each confined to its plane's bucket and followed by another long before it ends.
    Session {
        /// Who makes buckets and takes the role.
        #[serde(default)]
        administrator: Option<AdministratorKeys>,
        /// The role, which may do in every bucket of `prefix` what a plane does in its own.
        role_arn: String,
        /// The service that gives sessions; `None`: `endpoint`, where MinIO and its like have it, or that of AWS.
        #[serde(default)]
        sts_endpoint: Option<String>,
        /// So long a session lasts, 900 to 43,200.
        #[serde(default = "default_session_seconds")]
        session_seconds: u32,
    },
    /// Planes get no keys: the account of each is a role of its own, which AWS gives to whoever shows that account's token.
    Irsa {
        /// Who makes buckets.
        #[serde(default)]
        administrator: Option<AdministratorKeys>,
        /// Names the role of an organization: `arn:aws:iam::123456789012:role/howdah-{organization}`, where `{organization}` stands
        /// for what is in the names of its namespace and its bucket.
        role_arn: String,
        /// The service that gives sessions, `https://…`; `None`: that of AWS.
        #[serde(default)]
        sts_endpoint: Option<String>,
    },
}

/// Keys of who administers buckets. Where there are none, this process finds its own as AWS's programs do: variables, the role of
/// its account in the cluster, that of its machine.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdministratorKeys {
    /// The key's id.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
}

impl BucketCredentials {
    /// What stands for an organization in the template of roles.
    pub const ORGANIZATION: &str = "{organization}";

    /// The role of an organization's plane, where each has one of its own.
    pub fn role_of(&self, organization: OrganizationId) -> Option<String> {
        match self {
            Self::Irsa { role_arn, .. } => {
                Some(role_arn.replace(Self::ORGANIZATION, &organization.uuid().simple().to_string()))
            }
            Self::Static { .. } | Self::Issued { .. } | Self::Session { .. } => None,
        }
    }
}

/// Pods that do nothing but hold room, and the image, on nodes: a plane that wakes takes the place of one and need not wait for a
/// node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmConfig {
    /// Room for so many planes; 0: none is held.
    pub planes: u32,
}

/// GPU nodes: none of them serves two organizations.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GpuConfig {
    /// Who makes the nodes.
    pub backend: GpuBackend,
    /// The kinds that there are.
    pub classes: Vec<GpuClass>,
}

/// Who makes GPU nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuBackend {
    /// The operator, who labels and taints nodes with `howdah.dev/organization`.
    #[default]
    Static,
    /// Karpenter, by a node pool for each organization and class.
    Karpenter,
}

/// A kind of GPU node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuClass {
    /// Its name in specs: lower case letters, digits and `-`.
    pub name: String,
    /// How many GPUs of it an organization may have at once.
    #[serde(default = "default_gpus")]
    pub gpus_max: u32,
    /// What nodes must be, as Karpenter reads it: `{key, operator, values}`.
    #[serde(default)]
    pub requirements: Vec<serde_json::Value>,
    /// Group, kind and name of Karpenter's node class.
    #[serde(default)]
    pub node_class: NodeClass,
    /// Spare capacity first, at a third of the price; on demand when there is none.
    #[serde(default = "yes")]
    pub spot: bool,
    /// A node that has been idle for that long goes.
    #[serde(default = "default_consolidate_after")]
    pub consolidate_after: String,
    /// A node that is older than that is replaced.
    #[serde(default = "default_expire_after")]
    pub expire_after: String,
}

/// What Karpenter makes nodes by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeClass {
    /// `karpenter.k8s.aws`.
    pub group: String,
    /// `EC2NodeClass`.
    pub kind: String,
    /// `default`.
    pub name: String,
}

impl Default for NodeClass {
    fn default() -> Self {
        Self {
            group: "karpenter.k8s.aws".to_owned(),
            kind: "EC2NodeClass".to_owned(),
            name: "default".to_owned(),
        }
    }
}

/// What an organization may have at once, in the quantities of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuotaConfig {
    /// Cores, of requests.
    pub cpu: String,
    /// Memory, of requests and of limits.
    pub memory: String,
    /// Disk of nodes, of requests and of limits.
    pub ephemeral_storage: String,
    /// Pods.
    pub pods: u32,
    /// GPUs of all classes.
    pub gpus: u32,
}

impl Default for QuotaConfig {
    fn default() -> Self {
        Self {
            cpu: "64".to_owned(),
            memory: "256Gi".to_owned(),
            ephemeral_storage: "1Ti".to_owned(),
            pods: 500,
            gpus: 8,
        }
    }
}

/// What a data plane's own pod gets, in the quantities of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlaneResources {
    /// Cores that it is sure of.
    pub cpu: String,
    /// Memory that it has.
    pub memory: String,
    /// Disk for its state and cache.
    pub disk: String,
}

impl Default for PlaneResources {
    fn default() -> Self {
        Self {
            cpu: "100m".to_owned(),
            memory: "1Gi".to_owned(),
            disk: "12Gi".to_owned(),
        }
    }
}

/// How planes get a new image: one, then some, then the rest; the first wave that does not become ready ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WavesConfig {
    /// So many planes are the first.
    pub canaries: u32,
    /// Then that share of all, in percent, at once.
    pub percent: u32,
    /// A wave must be ready within that time.
    pub ready_seconds: u32,
    /// So long a wave that is ready is watched before the next.
    pub watch_seconds: u32,
}

impl Default for WavesConfig {
    fn default() -> Self {
        Self {
            canaries: 1,
            percent: 10,
            ready_seconds: 600,
            watch_seconds: 60,
        }
    }
}

fn default_system_namespace() -> String {
    "howdah-system".to_owned()
}

fn default_database_port() -> u16 {
    5432
}

fn default_ssl_mode() -> String {
    "require".to_owned()
}

fn default_bucket_prefix() -> String {
    "howdah".to_owned()
}

fn default_session_seconds() -> u32 {
    3600
}

fn default_gpus() -> u32 {
    8
}

fn default_consolidate_after() -> String {
    "5m".to_owned()
}

fn default_expire_after() -> String {
    "720h".to_owned()
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_kind(document: &serde_json::Value) -> serde_json::Value {
        let mut document = document.clone();
        document.as_object_mut().unwrap().remove("kind");
        document
    }

    #[test]
    fn a_role_is_named_by_what_is_in_the_names_of_buckets() {
        let organization = OrganizationId::generate(1, [7; 10]);
        let role = BucketCredentials::Irsa {
            administrator: None,
            role_arn: "arn:aws:iam::1:role/howdah-{organization}".to_owned(),
            sts_endpoint: None,
        };
        let simple = organization.uuid().simple();
        assert_eq!(
            role.role_of(organization),
            Some(format!("arn:aws:iam::1:role/howdah-{simple}"))
        );
    }

    #[test]
    fn a_cluster_is_told_by_its_kind_and_unknown_fields_are_refused() {
        let mut document = serde_json::json!({
            "kind": "kubernetes", "plane_image": "howdah/data-plane:1", "control_url": "http://10.0.0.1:7433",
            "databases": { "host": "10.0.0.1" },
            "buckets": { "region": "eu-1", "credentials": { "kind": "static", "access_key_id": "a", "secret_access_key": "b" } },
        });
        let read: CloudConfig = serde_json::from_value(document.clone()).unwrap();
        assert!(matches!(read, CloudConfig::Kubernetes(c) if c.databases.port == 5432 && c.plane_internet));
        document["buckets"]["credentials"] =
            serde_json::json!({ "kind": "session", "role_arn": "arn:aws:iam::1:role/r" });
        let read: KubernetesConfig = serde_json::from_value(without_kind(&document)).unwrap();
        assert!(matches!(
            read.buckets.credentials,
            BucketCredentials::Session {
                administrator: None,
                session_seconds: 3600,
                ..
            }
        ));
        document["typo"] = true.into();
        assert!(serde_json::from_value::<CloudConfig>(document).is_err());
        assert!(matches!(
            serde_json::from_str(r#"{"kind":"local"}"#).unwrap(),
            CloudConfig::Local
        ));
    }
}
