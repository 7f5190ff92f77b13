//! The tenants' buckets. What an S3 service does not know is said, not hidden: bytes are encrypted by the planes whatever it can.

mod emptying;

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, RequestChecksumCalculation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::types::{
    AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, BucketLocationConstraint, CreateBucketConfiguration,
    ExpirationStatus, LifecycleRule, LifecycleRuleFilter, PublicAccessBlockConfiguration, ServerSideEncryption,
    ServerSideEncryptionByDefault, ServerSideEncryptionConfiguration, ServerSideEncryptionRule, Tag, Tagging,
};
use contract::cloud::BucketsConfig;
use contract::config::BucketSession;
use contract::ids::OrganizationId;
use provisioner::kubernetes::ports::{BucketKeys, Buckets};
use provisioner::pass::Environment;

use crate::credentials::{self, Access, PlaneCredentials};

/// Pages of a thousand objects that one call removes.
const PAGES: usize = 10;
/// Parts of an upload that broke off are kept for so many days.
const PARTS_DAYS: i32 = 7;
/// The tags that say whose a bucket is.
const INSTALLATION: &str = "howdah-installation";
const ORGANIZATION: &str = "howdah-organization";

/// An S3 service.
pub struct TenantBuckets {
    client: Client,
    config: BucketsConfig,
    installation: String,
    credentials: Arc<dyn PlaneCredentials>,
}

impl TenantBuckets {
    /// Of that configuration.
    ///
    /// # Errors
    /// When what planes are to be given cannot be meant so.
    pub async fn open(
        config: BucketsConfig,
        installation: String,
        environment: Arc<dyn Environment>,
    ) -> anyhow::Result<Self> {
        let access = Access::of(&config).await;
        let mut settings = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(access.http.clone())
            .timeout_config(Access::timeouts())
            .credentials_provider(access.administrator.clone())
            .region(access.region.clone())
            // Older services know no checksums but their own.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
        if let Some(endpoint) = &config.endpoint {
            settings = settings.endpoint_url(endpoint).force_path_style(true);
        }
        Ok(Self {
            client: Client::from_conf(settings.build()),
            credentials: credentials::of(&config, &access, environment)?,
            config,
            installation,
        })
    }

    fn is_aws(&self) -> bool {
        self.config.endpoint.is_none()
    }

    async fn close(&self, bucket: &str) -> Result<(), Refused> {
        let closed = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .ignore_public_acls(true)
            .block_public_policy(true)
            .restrict_public_buckets(true)
            .build();
        let put = self.client.put_public_access_block().bucket(bucket);
        refused(put.public_access_block_configuration(closed).send().await)
    }

    async fn encrypt(&self, bucket: &str) -> Result<(), Refused> {
        let by_default = ServerSideEncryptionByDefault::builder()
            .sse_algorithm(ServerSideEncryption::Aes256)
            .build()
            .map_err(|error| Refused::Failed(error.into()))?;
        let rule = ServerSideEncryptionRule::builder()
            .apply_server_side_encryption_by_default(by_default)
            .build();
        let encrypted = ServerSideEncryptionConfiguration::builder()
            .rules(rule)
            .build()
            .map_err(|error| Refused::Failed(error.into()))?;
        let put = self.client.put_bucket_encryption().bucket(bucket);
        refused(put.server_side_encryption_configuration(encrypted).send().await)
    }

    async fn clean_up(&self, bucket: &str) -> Result<(), Refused> {
        let parts = AbortIncompleteMultipartUpload::builder()
            .days_after_initiation(PARTS_DAYS)
            .build();
        let rule = LifecycleRule::builder()
            .id("uploads-that-broke-off")
            .status(ExpirationStatus::Enabled)
            .filter(LifecycleRuleFilter::builder().prefix("").build())
            .abort_incomplete_multipart_upload(parts)
            .build()
            .map_err(|error| Refused::Failed(error.into()))?;
        let rules = BucketLifecycleConfiguration::builder()
            .rules(rule)
            .build()
            .map_err(|error| Refused::Failed(error.into()))?;
        let put = self.client.put_bucket_lifecycle_configuration().bucket(bucket);
        refused(put.lifecycle_configuration(rules).send().await)
    }

    async fn tag(&self, bucket: &str, organization: OrganizationId) -> Result<(), Refused> {
        let tag = |key: &str, value: String| Tag::builder().key(key).value(value).build();
        let mut tags = Tagging::builder();
        for (key, value) in [
            (INSTALLATION, self.installation.clone()),
            (ORGANIZATION, organization.to_string()),
        ] {
            tags = tags.tag_set(tag(key, value).map_err(|error| Refused::Failed(error.into()))?);
        }
        let tags = tags.build().map_err(|error| Refused::Failed(error.into()))?;
        refused(
            self.client
                .put_bucket_tagging()
                .bucket(bucket)
                .tagging(tags)
                .send()
                .await,
        )
    }

    /// Whose a bucket is, by its tags.
    async fn owner(&self, bucket: &str) -> anyhow::Result<Option<OrganizationId>> {
        let tags = match self.client.get_bucket_tagging().bucket(bucket).send().await {
            Ok(tags) => tags,
            Err(error) => {
                let code = error.code().unwrap_or_default().to_owned();
                if ["NoSuchTagSet", "NoSuchBucket", "AccessDenied"].contains(&code.as_str()) || is_unknown(&error) {
                    return Ok(None);
                }
                return Err(error).context("the tags of a bucket cannot be read");
            }
        };
        let value = |key: &str| tags.tag_set().iter().find(|tag| tag.key() == key).map(Tag::value);
        let ours = value(INSTALLATION) == Some(self.installation.as_str());
        Ok(value(ORGANIZATION)
            .filter(|_| ours)
            .and_then(|owner| owner.parse().ok()))
    }
}

/// Why a call was not done.
enum Refused {
    /// The service does not know it.
    Unknown,
    /// Anything else.
    Failed(anyhow::Error),
}

fn is_unknown<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    let code = error.code().unwrap_or_default();
    [
        "NotImplemented",
        "MethodNotAllowed",
        "UnsupportedOperation",
        "XNotImplemented",
    ]
    .contains(&code)
}

fn refused<T, E, R>(answer: Result<T, SdkError<E, R>>) -> Result<(), Refused>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    match answer {
        Ok(_) => Ok(()),
        Err(error) if is_unknown(&error) => Err(Refused::Unknown),
        Err(error) => Err(Refused::Failed(error.into())),
    }
}

#[async_trait]
impl Buckets for TenantBuckets {
    fn name(&self, organization: OrganizationId) -> String {
        format!("{}-{}", self.config.prefix, organization.uuid().simple())
    }

    async fn exists(&self, organization: OrganizationId) -> anyhow::Result<bool> {
        let bucket = self.name(organization);
        match self.client.head_bucket().bucket(&bucket).send().await {
            Ok(_) => Ok(true),
            Err(SdkError::ServiceError(error)) if error.raw().status().as_u16() == 404 => Ok(false),
            Err(error) => Err(error).with_context(|| format!("the bucket `{bucket}` cannot be asked for")),
        }
    }

    async fn create(&self, organization: OrganizationId) -> anyhow::Result<()> {
        let bucket = self.name(organization);
        let mut make = self.client.create_bucket().bucket(&bucket);
        // The first region is told by saying nothing.
        if self.is_aws() && self.config.region != "us-east-1" {
            let place = BucketLocationConstraint::from(self.config.region.as_str());
            make = make
                .create_bucket_configuration(CreateBucketConfiguration::builder().location_constraint(place).build());
        }
        match make.send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("BucketAlreadyOwnedByYou") => Ok(()),
            Err(error) => {
                let request = error.request_id().unwrap_or_default().to_owned();
                Err(error).with_context(|| format!("the bucket `{bucket}` cannot be made (request {request})"))
            }
        }
    }

    async fn lock_down(&self, organization: OrganizationId) -> anyhow::Result<Vec<String>> {
        let bucket = self.name(organization);
        let mut missing = Vec::new();
        for (what, done) in [
            ("closed to the public by a setting", self.close(&bucket).await),
            ("encrypted by the service", self.encrypt(&bucket).await),
            ("cleaned up behind uploads that broke off", self.clean_up(&bucket).await),
            ("marked with whose it is", self.tag(&bucket, organization).await),
        ] {
            match done {
                Ok(()) => {}
                Err(Refused::Unknown) => {
                    missing.push(format!("the bucket cannot be {what}: the S3 service does not know how"));
                }
                Err(Refused::Failed(error)) => {
                    return Err(error).with_context(|| format!("the bucket `{bucket}` cannot be {what}"));
                }
            }
        }
        missing.extend(self.credentials.concern().map(str::to_owned));
        Ok(missing)
    }

    async fn keys(&self, organization: OrganizationId) -> anyhow::Result<BucketKeys> {
        self.credentials.keys(organization, &self.name(organization)).await
    }

    async fn session(&self, organization: OrganizationId) -> anyhow::Result<BucketSession> {
        self.credentials.session(&self.name(organization)).await
    }

    async fn remove(&self, organization: OrganizationId) -> anyhow::Result<()> {
        let bucket = self.name(organization);
        for _ in 0..PAGES {
            if emptying::remove_page(&self.client, &bucket).await? {
                continue;
            }
            self.credentials.end(&bucket).await?;
            return match self.client.delete_bucket().bucket(&bucket).send().await {
                Ok(_) => Ok(()),
                Err(error) if error.code() == Some("NoSuchBucket") => Ok(()),
                Err(error) => Err(error).with_context(|| format!("the bucket `{bucket}` cannot be removed")),
            };
        }
        Ok(())
    }

    async fn list(&self) -> anyhow::Result<Vec<OrganizationId>> {
        let listed = self
            .client
            .list_buckets()
            .send()
            .await
            .context("the buckets cannot be listed")?;
        let mut found = Vec::new();
        for bucket in listed.buckets().iter().filter_map(|bucket| bucket.name()) {
            if bucket.starts_with(&format!("{}-", self.config.prefix)) {
                found.extend(self.owner(bucket).await?);
            }
        }
        Ok(found)
    }
}
