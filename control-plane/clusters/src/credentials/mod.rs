//! What planes reach their buckets with. One trait, and four ways: the administrator's keys (`static`), keys that a service of the
//! operator's issues, sessions of a role that are confined to one bucket, and a role for each plane's account.

mod everybody;
mod issued;
mod policy;
mod role;
mod session;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Credentials, Region, SharedCredentialsProvider, SharedHttpClient};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use contract::cloud::{AdministratorKeys, BucketCredentials, BucketsConfig};
use contract::config::BucketSession;
use contract::ids::OrganizationId;
use provisioner::kubernetes::ports::BucketKeys;
use provisioner::pass::Environment;

pub use everybody::Everybodys;
pub use issued::Issued;
pub use policy::session_policy;
pub use role::Roles;
pub use session::Sessions;

/// What the planes are given to reach their buckets.
#[async_trait]
pub trait PlaneCredentials: Send + Sync + 'static {
    /// How an organization's plane reaches that bucket: the same each time.
    ///
    /// # Errors
    /// When whoever knows does not answer.
    async fn keys(&self, organization: OrganizationId, bucket: &str) -> anyhow::Result<BucketKeys>;

    /// A new session for that bucket.
    ///
    /// # Errors
    /// When none is given; always where planes have no sessions.
    async fn session(&self, bucket: &str) -> anyhow::Result<BucketSession> {
        anyhow::bail!("planes have no sessions of their buckets here, `{bucket}` neither")
    }

    /// The bucket goes, and with it what was made for it.
    ///
    /// # Errors
    /// When that cannot be ended.
    async fn end(&self, bucket: &str) -> anyhow::Result<()> {
        let _ = bucket;
        Ok(())
    }

    /// What operators ought to know of it.
    fn concern(&self) -> Option<&'static str> {
        None
    }
}

/// What all clients of AWS's services here have in common.
#[derive(Clone)]
pub struct Access {
    /// Whose requests they are.
    pub administrator: SharedCredentialsProvider,
    /// How they are sent.
    pub http: SharedHttpClient,
    /// Where to.
    pub region: Region,
}

impl Access {
    /// How long an answer is waited for. An answer that never comes would hold up every plane behind it.
    pub fn timeouts() -> TimeoutConfig {
        TimeoutConfig::builder()
            .operation_attempt_timeout(Duration::from_secs(30))
            .operation_timeout(Duration::from_secs(90))
            .build()
    }

    /// The access of who administers the buckets of a configuration.
    pub async fn of(config: &BucketsConfig) -> Self {
        let region = Region::new(config.region.clone());
        let http = Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let administrator = match administrator(&config.credentials) {
            Some(keys) => {
                let keys = Credentials::new(keys.access_key_id, keys.secret_access_key, None, None, "howdah");
                SharedCredentialsProvider::new(keys)
            }
            None => {
                let settings = ProviderConfig::default()
                    .with_http_client(http.clone())
                    .with_region(Some(region.clone()));
                let chain = DefaultCredentialsChain::builder()
                    .configure(settings)
                    .region(region.clone());
                SharedCredentialsProvider::new(chain.build().await)
            }
        };
        Self {
            administrator,
            http,
            region,
        }
    }
}

fn administrator(credentials: &BucketCredentials) -> Option<AdministratorKeys> {
    match credentials {
        BucketCredentials::Static {
            access_key_id,
            secret_access_key,
        }
        | BucketCredentials::Issued {
            access_key_id,
            secret_access_key,
            ..
        } => Some(AdministratorKeys {
            access_key_id: access_key_id.clone(),
            secret_access_key: secret_access_key.clone(),
        }),
        BucketCredentials::Session { administrator, .. } | BucketCredentials::Irsa { administrator, .. } => {
            administrator.clone()
        }
    }
}

/// What planes are given by that configuration.
///
/// # Errors
/// When it cannot be meant so.
pub fn of(
    config: &BucketsConfig,
    access: &Access,
    environment: Arc<dyn Environment>,
) -> anyhow::Result<Arc<dyn PlaneCredentials>> {
    Ok(match &config.credentials {
        BucketCredentials::Static {
            access_key_id,
            secret_access_key,
        } => Arc::new(Everybodys::new(access_key_id, secret_access_key)),
        BucketCredentials::Issued {
            issuer, issuer_token, ..
        } => Arc::new(Issued::new(issuer, issuer_token, environment)),
        BucketCredentials::Session { .. } => {
            Arc::new(Sessions::new(config, access).context("`cloud.buckets.credentials` of kind `session`")?)
        }
        BucketCredentials::Irsa { .. } => {
            Arc::new(Roles::new(&config.credentials).context("`cloud.buckets.credentials` of kind `irsa`")?)
        }
    })
}
