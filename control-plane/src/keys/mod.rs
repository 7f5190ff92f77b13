//! The key that signs access tokens and policy snapshots: made at the first start, stored encrypted with the master key,
//! published as a JWKS. A retired key stays published until nothing that it signed can still be alive.

mod queries;
mod routes;

use anyhow::Context;
use chassis::Environment;
use chassis::signed::Signer;
pub use routes::router;
use secrecy::zeroize::Zeroize;
use sqlx::PgPool;

use crate::authz::System;
use crate::vault::Vault;

const PURPOSE: &str = "signing-key";

/// The key that signs, and everything that is published.
pub struct Keys {
    /// Signs.
    pub signer: Signer,
    /// The JWKS document.
    pub jwks: serde_json::Value,
}

/// Reads the key, or makes it at the first start. Several processes that start at once agree on one.
///
/// # Errors
/// When the database is away, or the master key is not the one that the stored key was encrypted with.
pub async fn open(pool: &PgPool, vault: &Vault, environment: &Environment) -> anyhow::Result<Keys> {
    let proof = System::because("the service needs its signing key at start");
    let mut fresh: [u8; 32] = environment.random();
    let sealed = vault.seal(environment, PURPOSE, &fresh)?;
    let kid = Signer::from_seed(&fresh)?.kid().to_owned();
    fresh.zeroize();
    let stored = queries::insert_unless_there(pool, &proof, &kid, &sealed, environment.now())
        .await
        .context("the signing key cannot be read")?;
    let mut signer = None;
    let mut published = Vec::new();
    for key in stored {
        let mut seed: [u8; 32] = vault
            .open(PURPOSE, &key.sealed)?
            .try_into()
            .map_err(|_| anyhow::anyhow!("the stored signing key has another length than a signing key"))?;
        let opened = Signer::from_seed(&seed)?;
        seed.zeroize();
        published.push(serde_json::to_value(opened.jwk())?);
        if !key.retired {
            signer = Some(opened);
        }
    }
    Ok(Keys {
        signer: signer.context("no signing key is in use: all are retired")?,
        jwks: serde_json::json!({ "keys": published }),
    })
}
