//! The keys that sign access tokens and policy snapshots: stored encrypted with the master key, published as a JWKS. Two are
//! published at the least: the one that signs, and the next one, so that everybody knows it before it signs anything. They rotate by age
//! and when an operator says so; a retired key stays published for a day, which is longer than anything lives that it signed.

mod queries;
mod routes;
mod withdrawal;

use std::sync::Arc;

use anyhow::Context;
use chassis::Environment;
use chassis::signed::Signer;
use chrono::{DateTime, Duration, Utc};
use contract::policy::PublishedKeys;
pub use routes::router;
use secrecy::zeroize::Zeroize;
use serde::Serialize;
use sqlx::PgPool;
use tokio::sync::watch;

use crate::authz::System;
use crate::vault::Vault;

pub use withdrawal::{Withdrawn, withdraw};

const PURPOSE: &str = "signing-key";
const PROOF: System = System::because("the service needs its signing keys");
/// So long a key signs.
const SIGNS: Duration = Duration::days(30);
/// So long it is published when it signs no more.
const PUBLISHED_AFTER: Duration = Duration::days(1);

/// The key that signs, and everything that is published.
struct Keys {
    signer: Signer,
    published: PublishedKeys,
}

/// The keys as they are now; replaced as a whole when they rotate.
pub struct Keyring {
    keys: watch::Sender<Arc<Keys>>,
}

/// A key to be stored where one is missing.
struct Fresh {
    kid: String,
    sealed: Vec<u8>,
}

fn fresh(vault: &Vault, environment: &Environment) -> anyhow::Result<Fresh> {
    let mut seed: [u8; 32] = environment.random();
    let sealed = vault.seal(environment, PURPOSE, &seed)?;
    let kid = Signer::from_seed(&seed)?.kid().to_owned();
    seed.zeroize();
    Ok(Fresh { kid, sealed })
}

/// Makes what is missing, retires what began to sign at or before that time, forgets what nobody needs any more.
async fn settle(
    pool: &PgPool,
    vault: &Vault,
    environment: &Environment,
    retire: DateTime<Utc>,
) -> anyhow::Result<Keys> {
    let now = environment.now();
    let spare = [fresh(vault, environment)?, fresh(vault, environment)?];
    let stored = queries::settle(pool, &PROOF, &spare, (retire, now - PUBLISHED_AFTER), now)
        .await
        .context("the signing keys cannot be read")?;
    let mut signer = None;
    let mut published = Vec::new();
    for key in stored.keys {
        let mut seed: [u8; 32] = vault
            .open(PURPOSE, &key.sealed)?
            .try_into()
            .map_err(|_| anyhow::anyhow!("the stored signing key has another length than a signing key"))?;
        let opened = Signer::from_seed(&seed)?;
        seed.zeroize();
        published.push(serde_json::to_value(opened.jwk())?);
        if key.signs {
            signer = Some(opened);
        }
    }
    Ok(Keys {
        signer: signer.context("no signing key is in use: all are retired")?,
        published: PublishedKeys {
            keys: published.into(),
            version: stored.version,
        },
    })
}

/// Rotates the stored keys at once. Processes that serve take it over within seconds; the keys that they go on signing with
/// until then stay published.
///
/// # Errors
/// When the database is away, or the master key is not the one that the stored keys were encrypted with.
pub async fn rotate(pool: &PgPool, vault: &Vault, environment: &Environment) -> anyhow::Result<()> {
    settle(pool, vault, environment, environment.now()).await.map(|_| ())
}

impl Keyring {
    /// Reads the keys, or makes them at the first start. Several processes that start at once agree on them.
    ///
    /// # Errors
    /// As [`rotate`].
    pub async fn open(pool: &PgPool, vault: &Vault, environment: &Environment) -> anyhow::Result<Self> {
        let keys = settle(pool, vault, environment, environment.now() - SIGNS).await?;
        Ok(Self {
            keys: watch::Sender::new(Arc::new(keys)),
        })
    }

    /// Rotates what has signed for long enough, and takes over what other processes did.
    ///
    /// # Errors
    /// As [`rotate`]; then the keys stay what they are.
    pub async fn keep(&self, pool: &PgPool, vault: &Vault, environment: &Environment) -> anyhow::Result<()> {
        let keys = settle(pool, vault, environment, environment.now() - SIGNS).await?;
        self.keys.send_if_modified(|known| {
            let newer = keys.published.version > known.published.version;
            if newer {
                *known = Arc::new(keys);
            }
            newer
        });
        Ok(())
    }

    /// [`Keyring::keep`] where another process changed the keys.
    ///
    /// # Errors
    /// As [`rotate`]; then the keys stay what they are.
    pub async fn refresh(&self, pool: &PgPool, vault: &Vault, environment: &Environment) -> anyhow::Result<()> {
        if queries::get_version(pool, &PROOF).await? == self.version() {
            return Ok(());
        }
        self.keep(pool, vault, environment).await
    }

    fn now(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.borrow())
    }

    /// How new they are.
    pub fn version(&self) -> u64 {
        self.now().published.version
    }

    /// Ends when the keys are newer than that.
    pub async fn newer_than(&self, version: u64) {
        let mut keys = self.keys.subscribe();
        // The sender is ours: it does not end before.
        let _ = keys.wait_for(|keys| keys.published.version > version).await;
    }

    /// The public keys, where they are newer than that.
    pub fn published_since(&self, version: u64) -> Option<PublishedKeys> {
        let keys = self.now();
        (keys.published.version > version).then(|| keys.published.clone())
    }

    /// Signs claims.
    ///
    /// # Errors
    /// When they cannot be written as JSON.
    pub fn sign<T: Serialize>(&self, claims: &T) -> anyhow::Result<String> {
        self.now().signer.sign(claims)
    }

    /// The JWKS document: the key that signs, the next one, and those that lately did.
    pub fn jwks(&self) -> serde_json::Value {
        let keys = self.now();
        serde_json::json!({ "keys": keys.published.keys, "version": keys.published.version })
    }
}
