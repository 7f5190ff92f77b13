//! How a plane reaches its bucket. Keys that last stand in its configuration. Sessions, which do not, lie in a secret of their own,
//! which the cluster brings to the running plane: another one is written there long before the last one ends, and nobody is
//! started anew for that. What is kept here of when is memory: a look at a plane brings it back.

use std::path::PathBuf;

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use contract::config::{BucketSession, StoreConfig, TemporaryKeys};
use contract::ids::OrganizationId;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::KubernetesCloud;
use super::drift::first_difference;
use super::ports::BucketKeys;
use super::write::{check, digest, put_as};
use crate::cloud::Order;
use crate::kit::names::{self, DIGEST, RENEW_AT, SECRET, namespace};
use crate::kit::{self, BUCKET_DIRECTORY, BUCKET_KEYS_FILE, BUCKET_TOKEN_FILE, TenantKit};

/// Of the time that a session lasts, this part goes by before there is another: what is signed with one is good for a while too.
const PART: i32 = 3;
/// What could not be renewed is tried again after that.
const AGAIN: Duration = Duration::seconds(30);

/// When there has to be another session than one that was given then.
fn renew_at(given: DateTime<Utc>, session: &BucketSession) -> DateTime<Utc> {
    given + ((session.expires_at - given) / PART).max(AGAIN)
}

/// The session that a secret holds as we wrote it, and when there has to be another; `None`: it holds something else.
fn held(kit: &TenantKit<'_>, secret: &Value) -> Option<(BucketSession, DateTime<Utc>)> {
    use base64::Engine;
    let text = secret["data"][BUCKET_KEYS_FILE].as_str()?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    let session: BucketSession = serde_json::from_slice(&bytes).ok()?;
    let at: DateTime<Utc> = names::annotation(secret, RENEW_AT)?.parse().ok()?;
    let wanted = wanted(kit, &session, at).ok()?;
    let ours =
        first_difference(&wanted, secret).is_none() && names::annotation(secret, DIGEST) == Some(&digest(&wanted));
    ours.then_some((session, at))
}

fn wanted(kit: &TenantKit<'_>, session: &BucketSession, at: DateTime<Utc>) -> anyhow::Result<Value> {
    let mut secret = kit::bucket_keys(kit, &serde_json::to_string(session)?);
    secret["metadata"]["annotations"][RENEW_AT] = at.to_rfc3339_opts(SecondsFormat::Secs, true).into();
    Ok(secret)
}

impl KubernetesCloud {
    /// The bucket, as the plane's configuration says it.
    pub(super) async fn store(&self, organization: OrganizationId) -> anyhow::Result<StoreConfig> {
        let config = &self.settings.config.buckets;
        let (access_key_id, secret_access_key, temporary) = match self.buckets.keys(organization).await? {
            BucketKeys::Lasting {
                access_key_id,
                secret_access_key,
            } => (access_key_id, secret_access_key.expose_secret().to_owned(), None),
            BucketKeys::Sessions => {
                let path = PathBuf::from(BUCKET_DIRECTORY).join(BUCKET_KEYS_FILE);
                (
                    String::new(),
                    String::new(),
                    Some(Box::new(TemporaryKeys::File { path })),
                )
            }
            BucketKeys::Role { arn, sts_endpoint } => {
                let temporary = TemporaryKeys::WebIdentity {
                    role_arn: arn,
                    token_file: PathBuf::from(BUCKET_TOKEN_FILE),
                    sts_endpoint,
                };
                (String::new(), String::new(), Some(Box::new(temporary)))
            }
        };
        Ok(StoreConfig::S3 {
            bucket: self.buckets.name(organization),
            endpoint: config.endpoint.clone(),
            region: config.region.clone(),
            access_key_id,
            secret_access_key,
            temporary,
            cache: None,
            public_endpoint: None,
            direct: None,
        })
    }

    fn has_sessions(&self) -> bool {
        kit::has_sessions(&self.settings.config)
    }

    /// Before a plane starts it has a session with most of its time before it. One that it has is kept: whoever gives them may be away.
    pub(super) async fn write_session(&self, order: &Order) -> anyhow::Result<()> {
        if !self.has_sessions() {
            return Ok(());
        }
        let organization = order.identity.organization;
        let there = self.read_session(organization).await?;
        let kit = self.kit_of(organization);
        check(order, &kit::bucket_keys(&kit, ""), there.as_ref())?;
        if let Some((_, at)) = there.as_ref().and_then(|secret| held(&kit, secret))
            && at > self.environment.now()
        {
            self.sessions().insert(organization, at);
            return Ok(());
        }
        self.give_session(organization, order.generation, there.as_ref()).await
    }

    async fn read_session(&self, organization: OrganizationId) -> anyhow::Result<Option<Value>> {
        self.read(&SECRET, &namespace(organization), names::BUCKET_KEYS).await
    }

    async fn give_session(
        &self,
        organization: OrganizationId,
        generation: i64,
        there: Option<&Value>,
    ) -> anyhow::Result<()> {
        let given = self.environment.now();
        let session = self.buckets.session(organization).await?;
        let at = renew_at(given, &session);
        let secret = wanted(&self.kit_of(organization), &session, at)?;
        put_as(&*self.cluster, generation, &secret, there, None).await?;
        self.sessions().insert(organization, at);
        Ok(())
    }

    /// A plane runs: from now on its session is renewed. Said at each full look, which finds out when.
    pub(super) async fn note_session(&self, organization: OrganizationId) -> anyhow::Result<()> {
        if !self.has_sessions() {
            return Ok(());
        }
        let there = self.read_session(organization).await?;
        let held = there.and_then(|secret| held(&self.kit_of(organization), &secret));
        let at = held.map_or(DateTime::UNIX_EPOCH, |(_, at)| at);
        self.sessions().insert(organization, at);
        Ok(())
    }

    /// A plane does not run: it needs none.
    pub(super) fn forget_session(&self, organization: OrganizationId) {
        self.sessions().remove(&organization);
    }

    /// Whose planes need another session of their bucket now. Each is told once in a while, until there is one.
    pub fn sessions_due(&self) -> Vec<OrganizationId> {
        let now = self.environment.now();
        let mut due = Vec::new();
        for (organization, at) in self.sessions().iter_mut() {
            if *at <= now {
                *at = now + AGAIN;
                due.push(*organization);
            }
        }
        due
    }

    /// Gives a plane that runs another session of its bucket, if the one that it has is no longer good for long.
    ///
    /// # Errors
    /// When the object store gives none, or the API server does not write it. The one from before goes on being good meanwhile.
    pub async fn renew_session(&self, organization: OrganizationId) -> anyhow::Result<()> {
        let there = self.read_session(organization).await?;
        let kit = self.kit_of(organization);
        // Somebody else may have been faster, and led then.
        if let Some((_, at)) = there.as_ref().and_then(|secret| held(&kit, secret))
            && at > self.environment.now()
        {
            self.sessions().insert(organization, at);
            return Ok(());
        }
        // What is there says of which instruction the plane is; where nothing is, the plane's deployment does.
        let generation = match there.as_ref().and_then(names::generation) {
            Some(generation) => generation,
            None => {
                let space = namespace(organization);
                let deployment = self.read(&names::DEPLOYMENT, &space, "plane").await?;
                let generation = deployment.as_ref().and_then(names::generation);
                let Some(generation) = generation else {
                    self.forget_session(organization);
                    return Ok(());
                };
                generation
            }
        };
        self.give_session(organization, generation, there.as_ref()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_another_session_long_before_the_last_one_ends_and_not_at_once() {
        let given: DateTime<Utc> = "2026-11-26T12:00:00Z".parse().unwrap();
        let lasting = |seconds| BucketSession {
            access_key_id: String::new(),
            secret_access_key: String::new(),
            session_token: String::new(),
            expires_at: given + Duration::seconds(seconds),
        };
        for (lasts, after) in [(3600, 1200), (43_200, 14_400), (60, 30), (-5, 30)] {
            assert_eq!(
                renew_at(given, &lasting(lasts)),
                given + Duration::seconds(after),
                "{lasts}"
            );
        }
    }
}
