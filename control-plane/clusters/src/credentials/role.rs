//! A role for each plane's account: the cluster signs a token that says whose pod it is, and AWS gives the role for it. Nobody here has keys.

use anyhow::Context;
use async_trait::async_trait;
use contract::cloud::BucketCredentials;
use contract::ids::OrganizationId;
use provisioner::kubernetes::ports::BucketKeys;

use super::PlaneCredentials;

/// Roles that are named after organizations.
pub struct Roles(BucketCredentials);

impl Roles {
    /// Those of the template in these credentials.
    ///
    /// # Errors
    /// When it names one role for all, which would have all buckets.
    pub fn new(credentials: &BucketCredentials) -> anyhow::Result<Self> {
        let BucketCredentials::Irsa {
            role_arn, sts_endpoint, ..
        } = credentials
        else {
            anyhow::bail!("these credentials are no roles");
        };
        let of = BucketCredentials::ORGANIZATION;
        anyhow::ensure!(
            role_arn.starts_with("arn:") && role_arn.contains(of),
            "`role_arn` has to be an ARN with `{of}` in it: planes that share a role share their buckets"
        );
        anyhow::ensure!(
            sts_endpoint
                .as_ref()
                .is_none_or(|endpoint| endpoint.starts_with("https://")),
            "`sts_endpoint` has to begin with `https://`: who hears the token of an account is the account"
        );
        Ok(Self(credentials.clone()))
    }
}

#[async_trait]
impl PlaneCredentials for Roles {
    async fn keys(&self, organization: OrganizationId, _: &str) -> anyhow::Result<BucketKeys> {
        let arn = self.0.role_of(organization).context("there is no role")?;
        let sts_endpoint = match &self.0 {
            BucketCredentials::Irsa { sts_endpoint, .. } => sts_endpoint.clone(),
            _ => None,
        };
        Ok(BucketKeys::Role { arn, sts_endpoint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_for_all_planes_and_a_token_in_the_clear_are_refused() {
        let of = |role: &str, endpoint: Option<&str>| {
            Roles::new(&BucketCredentials::Irsa {
                administrator: None,
                role_arn: role.to_owned(),
                sts_endpoint: endpoint.map(str::to_owned),
            })
        };
        let good = "arn:aws:iam::1:role/howdah-{organization}";
        assert!(of(good, None).is_ok() && of(good, Some("https://sts.example.org")).is_ok());
        assert!(of("arn:aws:iam::1:role/howdah", None).is_err());
        assert!(of("howdah-{organization}", None).is_err());
        assert!(of(good, Some("http://sts.example.org")).is_err());
    }
}
