//! Configurations of the long-running processes. A parent writes one as a single line of JSON to the child's standard
//! input and keeps the pipe open: secrets stay out of arguments and environment, and the end of the pipe tells the
//! child that its parent is gone, so it stops too.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ci::CiIssuer;
use crate::cloud::CloudConfig;
use crate::executor::ExecutorConfig;
use crate::ids::OrganizationId;
use crate::reach::Reach;

/// What a child gets of its parent's environment; the rest may hold secrets, and the configuration says what it needs.
pub const KEPT_VARIABLES: [&str; 7] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "HOWDAH_LOG", "RUST_BACKTRACE"];

/// What `howdah-control-plane serve` reads.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlPlaneConfig {
    /// PostgreSQL, as a role that may create roles and databases (the tenants').
    pub database_url: String,
    /// Where to listen, `127.0.0.1:7433`.
    pub listen: String,
    /// What people and data planes reach it by, `http://127.0.0.1:7433`.
    pub public_url: String,
    /// State directory of the service.
    pub home: PathBuf,
    /// Encrypts what encrypts the secrets that the database holds: 32 bytes in hex, or `env:VARIABLE` or `file:PATH` where these stand.
    pub master_key: String,
    /// Master keys from before, in the same forms: needed until `rotate-key` has been run.
    #[serde(default)]
    pub previous_master_keys: Vec<String>,
    /// The data plane's binary, for the local cloud.
    #[serde(default)]
    pub data_plane_binary: PathBuf,
    /// The sandbox's binary, for the local cloud.
    #[serde(default)]
    pub sandbox_binary: PathBuf,
    /// Where data planes run.
    #[serde(default)]
    pub cloud: CloudConfig,
    /// A data plane without requests and jobs for that long is stopped.
    #[serde(default = "default_idle_seconds")]
    pub idle_seconds: u64,
    /// For so many days a deleted organization can be had back; then it is erased.
    #[serde(default = "default_deletion_grace_days")]
    pub deletion_grace_days: u32,
    /// What the data planes fetch, and from where.
    #[serde(default)]
    pub imports: ImportConfig,
    /// How much of logs the data planes keep.
    #[serde(default)]
    pub logs: LogsConfig,
    /// Where services of pipelines are reached, a listener of its own; nowhere when absent.
    #[serde(default)]
    pub services: Option<ServicesConfig>,
    /// The operator's own proxies before the service: what they say of a client's address (`X-Forwarded-For`) is believed.
    #[serde(default)]
    pub proxies: Vec<Reach>,
    /// What is told to operators, of the data planes too.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// How people prove who they are, and where mail goes.
    #[serde(default)]
    pub people: PeopleConfig,
    /// Whose OIDC tokens of CI runs organizations may trust.
    #[serde(default = "CiIssuer::public")]
    pub ci_issuers: Vec<CiIssuer>,
}

/// What operators see of a process.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Where traces, metrics and logs are sent by OTLP over HTTP, `http://otel:4318`; nowhere when absent.
    pub otlp_endpoint: Option<String>,
    /// The bearer token that reads `/metrics`; without one nothing is there.
    pub metrics_token: Option<String>,
}

/// How people prove who they are, and where mail goes.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeopleConfig {
    /// The server that takes mail; without one it stays in the outbox, which whoever operates the installation reads.
    pub mail: Option<MailConfig>,
    /// Whether an address must be verified before there is an account.
    pub verification: Verification,
    /// SHA-256 in hex of the secret by which whoever operates the installation is known; nobody is when absent.
    pub operator_sha256: Option<String>,
    /// Who else says who people are (OpenID Connect).
    pub providers: Vec<ProviderConfig>,
}

/// Whether an address must be verified before there is an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verification {
    /// When mail is sent.
    #[default]
    WithMail,
    /// Always; without a mail server the codes stand in the outbox.
    Required,
}

/// A server that takes mail.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailConfig {
    /// `smtps://user:password@host:465`, or `smtp://…?tls=required`; without TLS on this machine only.
    pub smtp_url: String,
    /// By whom mail is sent: `Howdah <howdah@example.org>`.
    pub from: String,
}

/// A provider of OpenID Connect that people log in with.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// Its name in addresses: lower case letters, digits and `-`.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// Its issuer, exactly as in its tokens.
    pub issuer: String,
    /// What we are called there.
    pub client_id: String,
    /// Our secret there.
    pub client_secret: String,
}

/// The address of services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicesConfig {
    /// Where to listen, `127.0.0.1:7434`.
    pub listen: String,
    /// What browsers reach it by, a host per service in the place of the star: `http://*.localhost:7434`.
    pub url: String,
}

fn default_idle_seconds() -> u64 {
    300
}

fn default_deletion_grace_days() -> u32 {
    14
}

/// What `howdah-data-plane serve` (and `migrate`) reads.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPlaneConfig {
    /// Whose plane it is.
    pub organization: OrganizationId,
    /// The tenant's own database with the tenant's own role.
    pub database_url: String,
    /// Where to listen; port 0 = any free one. The process prints one line of JSON, `DataPlaneReady`, when it serves.
    pub listen: String,
    /// The bucket.
    pub store: StoreConfig,
    /// What its packs are encrypted with, 32 bytes in hex; a bucket that holds packs without encryption stays as it is.
    #[serde(default)]
    pub data_key: Option<String>,
    /// State directory of this plane: policy snapshot, caches, datum directories.
    pub home: PathBuf,
    /// The control plane, as the data plane reaches it.
    pub control_url: String,
    /// The issuer that access tokens must name.
    pub issuer: String,
    /// The plane's own token at the control plane (`hwd_agt_…`).
    pub agent_token: String,
    /// The JWKS at start, so that the plane can verify tokens while the control plane is away.
    pub jwks: serde_json::Value,
    /// The sandbox's binary.
    pub sandbox_binary: PathBuf,
    /// Directories that user code must never see, the service's state above all.
    pub masked: Vec<PathBuf>,
    /// How many datums run at once on this machine; 0: none, no worker is started beside the plane.
    pub slots: usize,
    /// The uid and gid that user code of this tenant runs as when the service was started by root.
    pub sandbox_uid: u32,
    /// All new reads are denied when nothing was heard from the control plane for that long.
    #[serde(default = "default_fail_closed_seconds")]
    pub fail_closed_seconds: u64,
    /// Clients may be on this machine and hand files over instead of sending them.
    #[serde(default)]
    pub handover: bool,
    /// What is fetched, and from where.
    #[serde(default)]
    pub imports: ImportConfig,
    /// How much of logs is kept.
    #[serde(default)]
    pub logs: LogsConfig,
    /// What is told to operators.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// What runs the code of pipelines.
    #[serde(default)]
    pub executor: ExecutorConfig,
}

/// How much of what user code prints is kept. Older lines, and the oldest ones of a job that has more, are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogsConfig {
    /// For so many days; [`LogsConfig::DAYS_MAX`] are as many as count.
    pub keep_days: u32,
    /// So many bytes of a job; a line counts 64 more than its text.
    pub job_bytes_max: u64,
}

impl LogsConfig {
    /// A century: what is older than that is older than any log.
    pub const DAYS_MAX: u32 = 36_500;
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self {
            keep_days: 30,
            job_bytes_max: 1 << 30,
        }
    }
}

/// How files are fetched from elsewhere, and from where. What is not public may not be reached unless it is named here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImportConfig {
    /// What may be reached although it is not public, or by other ports than 80 and 443.
    pub allow: Vec<Reach>,
    /// So long a connection may take to be made.
    pub connect_seconds: u64,
    /// So long nothing may come before the connection counts as broken.
    pub idle_seconds: u64,
    /// The wait before what broke off is tried again; twice as long each time, up to 10 s.
    pub retry_milliseconds: u64,
    /// So often in a row it is tried again without getting anywhere.
    pub retries: u32,
    /// Bytes of one request at most.
    pub bytes_max: u64,
}

impl Default for ImportConfig {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            connect_seconds: 10,
            idle_seconds: 60,
            retry_milliseconds: 500,
            retries: 6,
            bytes_max: 4 << 40,
        }
    }
}

fn default_fail_closed_seconds() -> u64 {
    60
}

/// Where a tenant's bytes are.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum StoreConfig {
    /// A directory.
    Local {
        /// The directory.
        directory: PathBuf,
    },
    /// An S3 bucket.
    S3 {
        /// The bucket.
        bucket: String,
        /// The endpoint, `None` = AWS.
        endpoint: Option<String>,
        /// The region.
        region: String,
        /// Access key id; nothing where `temporary` says how there are keys.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        access_key_id: String,
        /// Its secret.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        secret_access_key: String,
        /// How there are keys that do not last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        temporary: Option<Box<TemporaryKeys>>,
        /// Where what was read is kept on local disk; `None`: below the plane's home.
        #[serde(default)]
        cache: Option<CacheConfig>,
        /// By what clients reach the bucket, where that is not the endpoint.
        #[serde(default)]
        public_endpoint: Option<String>,
        /// Whether clients put large files into the bucket themselves. `None`: unless they would have to reach a loopback address.
        #[serde(default)]
        direct: Option<bool>,
    },
}

impl StoreConfig {
    /// The same for a worker: of keys that do not last it asks its plane.
    #[must_use]
    pub fn for_worker(&self) -> Self {
        let mut store = self.clone();
        if let Self::S3 {
            temporary: Some(keys), ..
        } = &mut store
        {
            **keys = TemporaryKeys::Plane;
        }
        store
    }
}

/// How there are keys of a bucket that do not last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum TemporaryKeys {
    /// A file holds a [`BucketSession`], and another one before that ends.
    File {
        /// The file.
        path: PathBuf,
    },
    /// A role is given to whoever shows a token.
    WebIdentity {
        /// The role.
        role_arn: String,
        /// The file that holds the token, and another one before that ends.
        token_file: PathBuf,
        /// Who gives it, `None` = AWS.
        #[serde(default)]
        sts_endpoint: Option<String>,
    },
    /// The plane that a worker works for has them.
    Plane,
}

/// Keys of one bucket for a while.
#[derive(Clone, Serialize, Deserialize)]
pub struct BucketSession {
    /// Access key id.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// What is shown beside them.
    pub session_token: String,
    /// Then they are good for nothing.
    pub expires_at: DateTime<Utc>,
}

/// A cache on local disk, which the plane and its worker share.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// The directory, of this plane alone.
    pub directory: PathBuf,
    /// How many bytes it may take, 0 = there is none. `None`: 10 GiB, or a tenth of the disk if that is less.
    #[serde(default)]
    pub most_bytes: Option<u64>,
}

/// The line that a data plane prints on standard output once it serves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DataPlaneReady {
    /// Its address, `http://127.0.0.1:40123`.
    pub url: String,
}

/// What a data plane tells the control plane every few seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The policy epoch that it enforces.
    pub epoch: u64,
    /// Since when it has had nothing to do, in seconds; 0 = busy.
    pub idle_seconds: u64,
    /// When it has something to do by itself, and is to be woken for that if it sleeps.
    #[serde(default)]
    pub wake_at: Option<DateTime<Utc>>,
}
