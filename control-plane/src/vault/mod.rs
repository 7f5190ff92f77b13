//! Encrypts the few secrets that the database has to give back: the signing keys, the tenants' database passwords and the keys of
//! their packs. Envelope encryption: a secret is sealed with the data key of its purpose, data keys are random and stand in the
//! database wrapped by a key-encryption key that comes from elsewhere ([`kms`]). What a secret belongs to is authenticated with it, so
//! a stored secret cannot be moved to another row. A sealed value names the data key that it was sealed with, so several versions
//! are good at once while keys are changed ([`rotation`]).
//!
//! XChaCha20-Poly1305 throughout. A sealed value is `hv2`, the id of the data key (8 bytes), a nonce (24 bytes) and the ciphertext. Values
//! from before there were data keys are a nonce and a ciphertext under the key-encryption key itself; they are still opened.

pub mod kms;
mod queries;
pub mod rotation;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use chassis::Environment;
use secrecy::{ExposeSecret, SecretBox};
use sqlx::PgPool;

use self::kms::{KeyService, LocalKey};
use crate::authz::System;

const NONCE_LENGTH: usize = 24;
const KEY_ID_LENGTH: usize = 8;
/// What a sealed value begins with that names its data key.
const MARK: &[u8; 3] = b"hv2";
/// Purposes with data keys of their own: the word before the colon. All others share `general`.
const PURPOSES: [&str; 4] = ["signing-key", "plane-database", "plane-data", GENERAL];
const GENERAL: &str = "general";
/// The purpose of the key that other keys are derived from. It has one version for good: what was made with those keys is kept.
const DERIVATION: &str = "derivation";
const PROOF: System = System::because("the service needs its keys to open what it stored");

/// A stored secret that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "a stored secret cannot be decrypted: its key is not among those of this service, or the row was changed; start with the master key of this state directory, and with the one before it in `previous_master_keys` while keys are changed"
)]
pub struct OpenError;

type KeyId = [u8; KEY_ID_LENGTH];
type KeyBytes = SecretBox<[u8; 32]>;

/// The data keys, unwrapped.
#[derive(Default)]
struct Ring {
    keys: HashMap<KeyId, KeyBytes>,
    /// The newest of each purpose.
    newest: HashMap<String, KeyId>,
}

/// Holds the data keys, and knows who unwraps them.
pub struct Vault {
    ring: RwLock<Ring>,
    services: kms::Services,
}

/// A data key as it is stored.
struct StoredKey {
    id: KeyId,
    purpose: String,
    version: i32,
    key_service: String,
    wrapped: Vec<u8>,
}

fn class(purpose: &str) -> &str {
    let word = purpose.split(':').next().unwrap_or_default();
    if PURPOSES.contains(&word) { word } else { GENERAL }
}

fn cipher(key: &[u8; 32]) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&Key::from(*key))
}

/// Encrypts under a key; `context` is authenticated with it.
pub(crate) fn encrypt(
    environment: &Environment,
    key: &[u8; 32],
    context: &[u8],
    secret: &[u8],
) -> Result<Vec<u8>, OpenError> {
    let nonce: [u8; NONCE_LENGTH] = environment.random();
    let payload = Payload {
        msg: secret,
        aad: context,
    };
    let sealed = cipher(key)
        .encrypt(&XNonce::from(nonce), payload)
        .map_err(|_| OpenError)?;
    Ok([nonce.as_slice(), sealed.as_slice()].concat())
}

/// Decrypts it again.
pub(crate) fn decrypt(key: &[u8; 32], context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LENGTH>().ok_or(OpenError)?;
    let payload = Payload {
        msg: sealed,
        aad: context,
    };
    cipher(key)
        .decrypt(&XNonce::from(*nonce), payload)
        .map_err(|_| OpenError)
}

/// The data key that a sealed value names, and the rest.
fn parts(sealed: &[u8]) -> Option<(KeyId, &[u8])> {
    let rest = sealed.strip_prefix(MARK)?;
    let (id, rest) = rest.split_first_chunk::<KEY_ID_LENGTH>()?;
    Some((*id, rest))
}

impl Vault {
    /// Reads the data keys, and makes those that are missing.
    ///
    /// # Errors
    /// When the database or the key service is away, or no key of the service unwraps a data key.
    pub async fn open_with(pool: &PgPool, environment: &Environment, services: kms::Services) -> anyhow::Result<Self> {
        let vault = Self {
            ring: RwLock::default(),
            services,
        };
        for purpose in PURPOSES {
            vault
                .make_if_missing(pool, environment, purpose, environment.random())
                .await?;
        }
        let derivation = match vault.services.legacy().last() {
            // What was derived from the master key before stays good.
            Some(master) if queries::has_signing_key(pool, &PROOF).await? => *master.bytes().expose_secret(),
            _ => environment.random(),
        };
        vault.make_if_missing(pool, environment, DERIVATION, derivation).await?;
        vault.refresh(pool).await?;
        Ok(vault)
    }

    async fn make_if_missing(
        &self,
        pool: &PgPool,
        environment: &Environment,
        purpose: &str,
        fresh: [u8; 32],
    ) -> anyhow::Result<()> {
        let known = queries::list_keys(pool, &PROOF).await?;
        if known.iter().any(|key| key.purpose == purpose) {
            return Ok(());
        }
        self.insert(pool, environment, (purpose, 1), fresh).await
    }

    /// Adds a version of a purpose's data key, unless somebody else has added it.
    async fn insert(
        &self,
        pool: &PgPool,
        environment: &Environment,
        (purpose, version): (&str, i32),
        fresh: [u8; 32],
    ) -> anyhow::Result<()> {
        let id: KeyId = environment.random();
        let key: KeyBytes = SecretBox::new(Box::new(fresh));
        let service = self.services.current();
        let wrapped = service.wrap(&key, &context(&id, purpose)).await?;
        let stored = StoredKey {
            id,
            purpose: purpose.to_owned(),
            version,
            key_service: service.id().to_owned(),
            wrapped,
        };
        queries::insert_key(pool, &PROOF, &stored, environment.now()).await?;
        Ok(())
    }

    /// Reads the data keys again: another process may have made newer ones.
    ///
    /// # Errors
    /// As [`Vault::open_with`].
    pub async fn refresh(&self, pool: &PgPool) -> anyhow::Result<()> {
        let mut fresh = Ring::default();
        for stored in queries::list_keys(pool, &PROOF).await? {
            let known = {
                let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
                ring.keys.get(&stored.id).map(|key| *key.expose_secret())
            };
            let key = match known {
                Some(bytes) => SecretBox::new(Box::new(bytes)),
                None => self.unwrap(&stored).await?,
            };
            fresh.keys.insert(stored.id, key);
            // In the order of their versions.
            fresh.newest.insert(stored.purpose, stored.id);
        }
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    async fn unwrap(&self, stored: &StoredKey) -> anyhow::Result<KeyBytes> {
        let context = context(&stored.id, &stored.purpose);
        let service = self.services.find(&stored.key_service).with_context(|| {
            format!(
                "the data keys are wrapped by the key `{}`, which this service was not given: start with it as the master key, or in \
                 `previous_master_keys`",
                stored.key_service
            )
        })?;
        service.unwrap(&stored.wrapped, &context).await
    }

    /// A key of its own for a purpose that encrypts nothing; the same for good, also when keys are changed.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let key = ring.newest.get(DERIVATION).and_then(|id| ring.keys.get(id));
        match key {
            Some(key) => crate::mac::sha256(key.expose_secret(), &[purpose.as_bytes()]),
            // The key is made before the vault is.
            None => unreachable!("a vault has a key to derive from"),
        }
    }

    /// Encrypts a secret that belongs to `purpose`.
    ///
    /// # Errors
    /// Never for secrets of our sizes; the library's type has the case.
    pub fn seal(&self, environment: &Environment, purpose: &str, secret: &[u8]) -> Result<Vec<u8>, OpenError> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let id = ring.newest.get(class(purpose)).ok_or(OpenError)?;
        let key = ring.keys.get(id).ok_or(OpenError)?;
        let sealed = encrypt(environment, key.expose_secret(), purpose.as_bytes(), secret)?;
        Ok([MARK.as_slice(), id.as_slice(), sealed.as_slice()].concat())
    }

    /// Decrypts it again.
    ///
    /// # Errors
    /// When the key or the purpose is another one, or the bytes were changed.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        if let Some((id, rest)) = parts(sealed) {
            let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(key) = ring.keys.get(&id) {
                return decrypt(key.expose_secret(), purpose.as_bytes(), rest);
            }
        }
        // From before there were data keys.
        let mut masters = self.services.legacy();
        masters
            .find_map(|master| decrypt(master.bytes().expose_secret(), purpose.as_bytes(), sealed).ok())
            .ok_or(OpenError)
    }

    /// Whether a value is sealed with the newest data key of its purpose.
    fn is_current(&self, purpose: &str, sealed: &[u8]) -> bool {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let newest = ring.newest.get(class(purpose));
        parts(sealed).is_some_and(|(id, _)| newest == Some(&id))
    }
}

/// What a wrapped data key belongs to.
fn context(id: &KeyId, purpose: &str) -> String {
    format!("howdah data key {} for {purpose}", hex::encode(id))
}

/// The key services of a configuration: the current one, and those before it.
///
/// # Errors
/// When one of the keys cannot be read.
pub fn services(master_key: &str, previous: &[String], environment: &Environment) -> anyhow::Result<kms::Services> {
    let local = |source: &String| LocalKey::from_source(source, environment.clone()).map(Arc::new);
    let current = local(&master_key.to_owned()).context("`master_key`")?;
    let previous = previous
        .iter()
        .map(local)
        .collect::<anyhow::Result<Vec<_>>>()
        .context("`previous_master_keys`")?;
    Ok(kms::Services::local(current, previous))
}

/// For whoever has another key service than a key of his own.
pub type AnyKeyService = Arc<dyn KeyService>;
