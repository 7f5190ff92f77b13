//! Sessions of a role, by AWS's security token service or one that speaks like it (MinIO, Ceph, SeaweedFS): the role may do much, each
//! session only what its own policy says.

use anyhow::Context;
use async_trait::async_trait;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_sts::Client;
use aws_sdk_sts::config::BehaviorVersion;
use chrono::DateTime;
use contract::cloud::{BucketCredentials, BucketsConfig};
use contract::config::BucketSession;
use contract::ids::OrganizationId;
use provisioner::kubernetes::ports::BucketKeys;

use super::policy::session_policy;
use super::{Access, PlaneCredentials};

/// How long a session may last, seconds. What is signed with one at the end of its turn is good for a quarter of an hour.
const SECONDS: std::ops::RangeInclusive<u32> = 1_800..=43_200;
/// So long a session's name may be.
const NAME_MAX: usize = 64;

/// A service that gives sessions of a role.
pub struct Sessions {
    client: Client,
    region: Option<String>,
    role_arn: String,
    seconds: i32,
}

impl Sessions {
    /// The one of that configuration.
    ///
    /// # Errors
    /// When sessions would last too short or too long.
    pub fn new(config: &BucketsConfig, access: &Access) -> anyhow::Result<Self> {
        let BucketCredentials::Session {
            role_arn,
            sts_endpoint,
            session_seconds,
            ..
        } = &config.credentials
        else {
            anyhow::bail!("these credentials are no sessions");
        };
        anyhow::ensure!(
            SECONDS.contains(session_seconds),
            "`session_seconds` is {session_seconds}, and has to be from {} to {}",
            SECONDS.start(),
            SECONDS.end()
        );
        let mut settings = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(access.http.clone())
            .timeout_config(Access::timeouts())
            .credentials_provider(access.administrator.clone())
            .region(access.region.clone());
        if let Some(endpoint) = sts_endpoint.as_ref().or(config.endpoint.as_ref()) {
            settings = settings.endpoint_url(endpoint);
        }
        Ok(Self {
            client: Client::from_conf(settings.build()),
            region: config.endpoint.is_none().then(|| config.region.clone()),
            role_arn: role_arn.clone(),
            seconds: i32::try_from(*session_seconds)?,
        })
    }
}

#[async_trait]
impl PlaneCredentials for Sessions {
    async fn keys(&self, _: OrganizationId, _: &str) -> anyhow::Result<BucketKeys> {
        Ok(BucketKeys::Sessions)
    }

    async fn session(&self, bucket: &str) -> anyhow::Result<BucketSession> {
        let policy = session_policy(self.region.as_deref(), bucket).to_string();
        // What the object store's log shows of who did something.
        let name: String = bucket.chars().take(NAME_MAX).collect();
        let asked = self
            .client
            .assume_role()
            .role_arn(&self.role_arn)
            .role_session_name(name)
            .policy(policy)
            .duration_seconds(self.seconds);
        let given = asked.send().await.map_err(|error| {
            let code = error.code().unwrap_or("no answer").to_owned();
            let said = error.message().unwrap_or_default().to_owned();
            anyhow::Error::from(error).context(format!("no session for the bucket `{bucket}` is given: {code}: {said}"))
        })?;
        let given = given
            .credentials
            .context("the service that gives sessions answers without keys")?;
        let ends = given.expiration;
        let expires_at = DateTime::from_timestamp(ends.secs(), ends.subsec_nanos());
        Ok(BucketSession {
            access_key_id: given.access_key_id,
            secret_access_key: given.secret_access_key,
            session_token: given.session_token,
            expires_at: expires_at.context("the service that gives sessions does not say when this one ends")?,
        })
    }
}
