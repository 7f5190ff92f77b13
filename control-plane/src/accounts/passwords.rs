//! Argon2id. Hashes run on blocking threads, one per core at most: each needs its memory at once, and a crowd that logs in
//! waits instead of exhausting the machine.

use std::sync::{Arc, OnceLock};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use chassis::Environment;

/// 19 MiB, two passes, one lane: OWASP's recommendation for Argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;

/// Hashes and checks passwords.
#[derive(Clone)]
pub struct Passwords {
    running: Arc<Semaphore>,
    dummy: Arc<OnceLock<String>>,
    environment: Environment,
}

fn argon2() -> anyhow::Result<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|e| anyhow::anyhow!("argon2: {e}"))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash_now(password: &str, salt: [u8; 16]) -> anyhow::Result<String> {
    let hash = argon2()?
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map_err(|e| anyhow::anyhow!("argon2: {e}"))?;
    Ok(hash.to_string())
}

impl Passwords {
    /// As many at once as there are cores.
    pub fn new(environment: Environment) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            running: Arc::new(Semaphore::new(cores)),
            dummy: Arc::new(OnceLock::new()),
            environment,
        }
    }

    /// The PHC string of a password.
    ///
    /// # Errors
    /// When the library refuses; never for passwords that were checked.
    pub async fn hash(&self, password: SecretString) -> anyhow::Result<String> {
        let salt = self.environment.random();
        let permit = Arc::clone(&self.running).acquire_owned().await?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            hash_now(password.expose_secret(), salt)
        })
        .await?
    }

    /// Whether the password fits the stored hash. Without a stored hash the same work is done on a made-up one, so that
    /// an unknown address takes as long as a wrong password.
    ///
    /// # Errors
    /// When the library refuses the stored hash.
    pub async fn verify(&self, password: SecretString, stored: Option<String>) -> anyhow::Result<bool> {
        let (dummy, salt) = (Arc::clone(&self.dummy), self.environment.random());
        let permit = Arc::clone(&self.running).acquire_owned().await?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let known = stored.is_some();
            let text = match stored {
                Some(text) => text,
                None => match dummy.get() {
                    Some(text) => text.clone(),
                    None => {
                        let text = hash_now("nobody's password", salt)?;
                        dummy.get_or_init(|| text).clone()
                    }
                },
            };
            let hash = PasswordHash::new(&text).map_err(|e| anyhow::anyhow!("a stored password hash: {e}"))?;
            let fits = argon2()?
                .verify_password(password.expose_secret().as_bytes(), &hash)
                .is_ok();
            Ok(fits && known)
        })
        .await?
    }

    /// Makes the made-up hash before the first log-in needs it.
    ///
    /// # Errors
    /// When the library refuses.
    pub async fn warm_up(&self) -> anyhow::Result<()> {
        self.verify(SecretString::from("x"), None).await.map(|_| ())
    }
}
