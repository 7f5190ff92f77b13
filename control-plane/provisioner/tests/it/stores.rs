//! PostgreSQL and the object store of the tenants.

use async_trait::async_trait;
use chrono::Duration;
use contract::config::BucketSession;
use contract::ids::OrganizationId;
use provisioner::kubernetes::ports::{BucketKeys, Buckets, Databases};
use secrecy::{ExposeSecret, SecretString};

use crate::world::{Luck, Shared, World};

fn failed<T>() -> anyhow::Result<T> {
    anyhow::bail!("the store did not answer")
}

/// A call that changes something: it is done, or not, and its answer may get lost.
async fn write(shared: &Shared, change: impl FnOnce(&mut World)) -> anyhow::Result<()> {
    shared.call(true).await;
    let mut world = shared.world();
    let luck = world.luck();
    if luck != Luck::Before {
        change(&mut world);
    }
    if luck == Luck::Good { Ok(()) } else { failed() }
}

pub struct Postgres(pub Shared);

#[async_trait]
impl Databases for Postgres {
    async fn exists(&self, organization: OrganizationId) -> anyhow::Result<bool> {
        self.0.call(false).await;
        let mut world = self.0.world();
        match world.luck() {
            Luck::Good => Ok(world.databases.contains_key(&organization.to_string())),
            _ => failed(),
        }
    }

    async fn create(&self, organization: OrganizationId, password: &SecretString) -> anyhow::Result<()> {
        let password = password.expose_secret().to_owned();
        write(&self.0, |world| {
            world.databases.insert(organization.to_string(), password);
        })
        .await
    }

    async fn remove(&self, organization: OrganizationId) -> anyhow::Result<()> {
        write(&self.0, |world| {
            world.databases.remove(&organization.to_string());
        })
        .await
    }

    async fn list(&self) -> anyhow::Result<Vec<OrganizationId>> {
        self.0.call(false).await;
        let world = self.0.world();
        // One that is not ours has no tag that could be read.
        Ok(world.databases.keys().filter_map(|name| name.parse().ok()).collect())
    }

    fn url(&self, organization: OrganizationId, password: &SecretString) -> SecretString {
        SecretString::from(format!("postgres://{organization}:{}@db/x", password.expose_secret()))
    }
}

/// So long a session of a bucket lasts.
pub const SESSION: Duration = Duration::hours(1);

pub struct ObjectStore(pub Shared);

#[async_trait]
impl Buckets for ObjectStore {
    fn name(&self, organization: OrganizationId) -> String {
        organization.to_string()
    }

    async fn exists(&self, organization: OrganizationId) -> anyhow::Result<bool> {
        self.0.call(false).await;
        let mut world = self.0.world();
        match world.luck() {
            Luck::Good => Ok(world.buckets.contains_key(&organization.to_string())),
            _ => failed(),
        }
    }

    async fn create(&self, organization: OrganizationId) -> anyhow::Result<()> {
        write(&self.0, |world| {
            world.buckets.entry(organization.to_string()).or_insert(40);
        })
        .await
    }

    async fn lock_down(&self, organization: OrganizationId) -> anyhow::Result<Vec<String>> {
        self.0.call(true).await;
        let mut world = self.0.world();
        let there = world.buckets.contains_key(&organization.to_string());
        match world.luck() {
            Luck::Good if there => Ok(Vec::new()),
            _ => failed(),
        }
    }

    async fn keys(&self, organization: OrganizationId) -> anyhow::Result<BucketKeys> {
        if self.0.world().sessions {
            return Ok(BucketKeys::Sessions);
        }
        Ok(BucketKeys::Lasting {
            access_key_id: organization.to_string(),
            secret_access_key: SecretString::from("s3cret"),
        })
    }

    async fn session(&self, organization: OrganizationId) -> anyhow::Result<BucketSession> {
        self.0.call(false).await;
        let mut world = self.0.world();
        if world.luck() != Luck::Good {
            return failed();
        }
        world.given += 1;
        Ok(BucketSession {
            access_key_id: format!("{organization} {}", world.given),
            secret_access_key: "s3cret".to_owned(),
            session_token: "token".to_owned(),
            expires_at: world.now + SESSION,
        })
    }

    /// A page of it at a time.
    async fn remove(&self, organization: OrganizationId) -> anyhow::Result<()> {
        write(&self.0, |world| {
            let name = organization.to_string();
            match world.buckets.get(&name).copied() {
                Some(left) if left > 10 => {
                    world.buckets.insert(name, left - 10);
                }
                _ => {
                    world.buckets.remove(&name);
                }
            }
        })
        .await
    }

    async fn list(&self) -> anyhow::Result<Vec<OrganizationId>> {
        self.0.call(false).await;
        let mut world = self.0.world();
        world.listed += 1;
        Ok(world.buckets.keys().filter_map(|name| name.parse().ok()).collect())
    }
}
