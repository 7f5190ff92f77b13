//! Where the key-encryption key is: a service that wraps and unwraps data keys. A key of one's own, given in the configuration, in
//! the environment or in a file, is the simplest one; what a cloud offers needs no more than the trait.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use chassis::Environment;
use secrecy::{ExposeSecret, SecretBox};
use sha2::{Digest, Sha256};

use super::{decrypt, encrypt};

/// Wraps and unwraps data keys.
#[async_trait]
pub trait KeyService: Send + Sync {
    /// Which key wraps; the same text finds it again. No secret.
    fn id(&self) -> &str;

    /// Wraps a data key; only the same context unwraps it.
    ///
    /// # Errors
    /// When the service is away or refuses.
    async fn wrap(&self, key: &SecretBox<[u8; 32]>, context: &str) -> anyhow::Result<Vec<u8>>;

    /// Unwraps it.
    ///
    /// # Errors
    /// When the service is away, or it was wrapped by another key or for another context.
    async fn unwrap(&self, wrapped: &[u8], context: &str) -> anyhow::Result<SecretBox<[u8; 32]>>;
}

/// A key that this process holds.
pub struct LocalKey {
    id: String,
    key: SecretBox<[u8; 32]>,
    environment: Environment,
}

impl LocalKey {
    /// Reads a key: 64 hex digits, `env:VARIABLE` or `file:PATH` where they stand.
    ///
    /// # Errors
    /// When there is no key there, or it is not 32 bytes in hex.
    pub fn from_source(source: &str, environment: Environment) -> anyhow::Result<Self> {
        let text = match source.split_once(':') {
            Some(("env", name)) => {
                std::env::var(name).with_context(|| format!("the environment has no variable `{name}`"))?
            }
            Some(("file", path)) => {
                std::fs::read_to_string(path).with_context(|| format!("the key file `{path}` cannot be read"))?
            }
            _ => source.to_owned(),
        };
        let bytes: [u8; 32] = hex::decode(text.trim())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .context("a master key must be 32 bytes as 64 hex digits")?;
        // Not of the key alone, so that the id is no digest that something else is known by.
        let digest = Sha256::digest([b"howdah master key".as_slice(), &bytes].concat());
        Ok(Self {
            id: format!("local:{}", hex::encode(&digest[..8])),
            key: SecretBox::new(Box::new(bytes)),
            environment,
        })
    }

    /// The key itself: values from before there were data keys are sealed with it.
    pub(super) fn bytes(&self) -> &SecretBox<[u8; 32]> {
        &self.key
    }
}

#[async_trait]
impl KeyService for LocalKey {
    fn id(&self) -> &str {
        &self.id
    }

    async fn wrap(&self, key: &SecretBox<[u8; 32]>, context: &str) -> anyhow::Result<Vec<u8>> {
        let (own, secret) = (self.key.expose_secret(), key.expose_secret());
        Ok(encrypt(&self.environment, own, context.as_bytes(), secret)?)
    }

    async fn unwrap(&self, wrapped: &[u8], context: &str) -> anyhow::Result<SecretBox<[u8; 32]>> {
        let bytes = decrypt(self.key.expose_secret(), context.as_bytes(), wrapped)?;
        let bytes: [u8; 32] = bytes
            .try_into()
            .map_err(|_| anyhow::anyhow!("a data key has another length than a data key"))?;
        Ok(SecretBox::new(Box::new(bytes)))
    }
}

/// The key services that are good: the current one wraps, all of them unwrap.
pub struct Services {
    current: Arc<dyn KeyService>,
    previous: Vec<Arc<dyn KeyService>>,
    local: Vec<Arc<LocalKey>>,
}

impl Services {
    /// Keys that this process holds.
    pub fn local(current: Arc<LocalKey>, previous: Vec<Arc<LocalKey>>) -> Self {
        let local = std::iter::once(&current).chain(&previous).map(Arc::clone).collect();
        let previous = previous.into_iter().map(|key| key as Arc<dyn KeyService>).collect();
        Self {
            current,
            previous,
            local,
        }
    }

    /// Another service; what local keys wrapped and sealed before is still opened.
    pub fn other(current: Arc<dyn KeyService>, before: Self) -> Self {
        let mut previous = before.previous;
        previous.push(before.current);
        Self {
            current,
            previous,
            local: before.local,
        }
    }

    pub(super) fn current(&self) -> &dyn KeyService {
        &*self.current
    }

    pub(super) fn find(&self, id: &str) -> Option<&dyn KeyService> {
        std::iter::once(&self.current)
            .chain(&self.previous)
            .find(|service| service.id() == id)
            .map(|service| &**service)
    }

    /// Keys that sealed values by themselves once.
    pub(super) fn legacy(&self) -> impl Iterator<Item = &LocalKey> {
        self.local.iter().map(|key| &**key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_local_key_unwraps_for_its_own_context_only_and_is_read_from_where_it_is() {
        let environment = Environment::simulated(chrono::DateTime::UNIX_EPOCH, 1);
        let hex = "ab".repeat(32);
        let own = LocalKey::from_source(&hex, environment.clone()).unwrap();
        let key = SecretBox::new(Box::new([7; 32]));
        let wrapped = own.wrap(&key, "a").await.unwrap();
        assert_eq!(own.unwrap(&wrapped, "a").await.unwrap().expose_secret(), &[7; 32]);
        assert!(own.unwrap(&wrapped, "b").await.is_err());
        let other = LocalKey::from_source(&"ac".repeat(32), environment.clone()).unwrap();
        assert!(other.unwrap(&wrapped, "a").await.is_err());
        assert!(own.id() != other.id() && !own.id().contains("abab"));

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{hex}\n")).unwrap();
        let source = format!("file:{}", file.path().display());
        assert_eq!(
            LocalKey::from_source(&source, environment.clone()).unwrap().id(),
            own.id()
        );
        for wrong in ["abcd", "env:HOWDAH_NO_SUCH_VARIABLE", "file:/nonexistent/key"] {
            assert!(LocalKey::from_source(wrong, environment.clone()).is_err(), "{wrong}");
        }
    }
}
