//! Encrypts the few secrets that the database has to give back: the signing key and the tenants' database passwords.
//! XChaCha20-Poly1305 under the master key; what a secret belongs to is authenticated with it, so a stored secret cannot
//! be moved to another row.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use chassis::Environment;
use secrecy::{ExposeSecret, SecretBox};

const NONCE_LENGTH: usize = 24;

/// A stored secret that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "a stored secret cannot be decrypted: the master key is another one, or the row was changed; start with the master key of this state directory"
)]
pub struct OpenError;

/// Holds the master key.
pub struct Vault {
    key: SecretBox<[u8; 32]>,
}

impl Vault {
    /// Takes the master key as 64 hex digits.
    ///
    /// # Errors
    /// When it is not that.
    pub fn new(master_key: &str) -> anyhow::Result<Self> {
        let bytes: [u8; 32] = hex::decode(master_key.trim())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| anyhow::anyhow!("`master_key` must be 32 bytes as 64 hex digits"))?;
        Ok(Self {
            key: SecretBox::new(Box::new(bytes)),
        })
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(*self.key.expose_secret()))
    }

    /// A key of its own for a purpose that encrypts nothing.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        crate::mac::sha256(self.key.expose_secret(), &[purpose.as_bytes()])
    }

    /// Encrypts a secret that belongs to `purpose`.
    ///
    /// # Errors
    /// Never for secrets of our sizes; the library's type has the case.
    pub fn seal(&self, environment: &Environment, purpose: &str, secret: &[u8]) -> Result<Vec<u8>, OpenError> {
        let nonce: [u8; NONCE_LENGTH] = environment.random();
        let payload = Payload {
            msg: secret,
            aad: purpose.as_bytes(),
        };
        let sealed = self
            .cipher()
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| OpenError)?;
        Ok([nonce.as_slice(), sealed.as_slice()].concat())
    }

    /// Decrypts it again.
    ///
    /// # Errors
    /// When the key or the purpose is another one, or the bytes were changed.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LENGTH>().ok_or(OpenError)?;
        let payload = Payload {
            msg: sealed,
            aad: purpose.as_bytes(),
        };
        self.cipher()
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| OpenError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_for_its_own_purpose_only() {
        let vault = Vault::new(&"ab".repeat(32)).unwrap();
        let environment = Environment::simulated(chrono::DateTime::UNIX_EPOCH, 1);
        let sealed = vault.seal(&environment, "signing-key", b"secret").unwrap();
        assert_eq!(vault.open("signing-key", &sealed).unwrap(), b"secret");
        assert!(vault.open("database", &sealed).is_err());
        assert!(
            Vault::new(&"ac".repeat(32))
                .unwrap()
                .open("signing-key", &sealed)
                .is_err()
        );
        assert!(vault.open("signing-key", &sealed[..10]).is_err());
    }

    #[test]
    fn a_master_key_of_another_length_is_refused() {
        assert!(Vault::new("abcd").is_err());
    }
}
