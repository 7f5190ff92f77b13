//! One key for everything.

use async_trait::async_trait;
use contract::ids::OrganizationId;
use provisioner::kubernetes::ports::BucketKeys;
use secrecy::SecretString;

use super::PlaneCredentials;

/// Planes have the administrator's keys: for development, and for stores that know no others.
pub struct Everybodys {
    access_key_id: String,
    secret_access_key: SecretString,
}

impl Everybodys {
    /// These keys.
    pub fn new(access_key_id: &str, secret_access_key: &str) -> Self {
        Self {
            access_key_id: access_key_id.to_owned(),
            secret_access_key: SecretString::from(secret_access_key.to_owned()),
        }
    }
}

#[async_trait]
impl PlaneCredentials for Everybodys {
    async fn keys(&self, _: OrganizationId, _: &str) -> anyhow::Result<BucketKeys> {
        Ok(BucketKeys::Lasting {
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
        })
    }

    fn concern(&self) -> Option<&'static str> {
        Some(
            "the plane has the administrator's keys of all buckets: `cloud.buckets.credentials` of kind `session`, `irsa` or `issued` gives it its own",
        )
    }
}
