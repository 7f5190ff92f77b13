//! The keys that this plane believes: those that the control plane published last. They come with each answer to a poll for the policy
//! when they are newer than those known here, and are kept on disk beside the policy, so that a key that was withdrawn is not believed
//! again after a restart, whatever the configuration says. Never does an older set replace a newer one.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use anyhow::Context;
use chassis::signed::{Verifier, VerifyError};
use chrono::{DateTime, Duration, Utc};
use contract::claims::{AccessClaims, plane_audience};
use contract::config::DataPlaneConfig;
use contract::policy::{PolicyClaims, PublishedKeys};

use super::persist;

/// The published keys are asked for at most that often, whoever sends tokens with keys that nobody knows.
const PAUSE: Duration = Duration::seconds(5);

struct Known {
    verifier: Verifier,
    version: u64,
}

/// The keys, and where they are kept.
pub struct Keys {
    issuer: String,
    audience: String,
    path: PathBuf,
    known: RwLock<Known>,
    asked_at: Mutex<Option<DateTime<Utc>>>,
    /// Held while keys are taken, so that what is kept is the newest too.
    taking: Mutex<()>,
}

impl Keys {
    /// Those of the configuration, or those that were kept where they are newer.
    ///
    /// # Errors
    /// When the configured JWKS is not one.
    pub fn new(config: &DataPlaneConfig) -> anyhow::Result<Self> {
        let path = config.home.join("keys.json");
        let (issuer, audience) = (config.issuer.clone(), plane_audience(config.organization));
        let configured: PublishedKeys =
            serde_json::from_value(config.jwks.clone()).context("the configured JWKS is not one")?;
        let mut known = Known {
            version: configured.version,
            verifier: verifier(&configured, &issuer, &audience)?,
        };
        match kept(&path).and_then(|kept| {
            kept.map(|kept| Ok((kept.version, verifier(&kept, &issuer, &audience)?)))
                .transpose()
        }) {
            Ok(Some((version, verifier))) if version > known.version => known = Known { verifier, version },
            Ok(_) => {}
            Err(error) => tracing::warn!("the keys of the last run were not used: {error:#}"),
        }
        Ok(Self {
            issuer,
            audience,
            path,
            known: RwLock::new(known),
            asked_at: Mutex::new(None),
            taking: Mutex::new(()),
        })
    }

    fn read<T>(&self, ask: impl FnOnce(&Known) -> T) -> T {
        ask(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How new they are.
    pub fn version(&self) -> u64 {
        self.read(|known| known.version)
    }

    /// Whether a key is published still.
    pub fn holds(&self, kid: &str) -> bool {
        self.read(|known| known.verifier.knows(kid))
    }

    /// Verifies an access token.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn access(&self, token: &str, now: DateTime<Utc>) -> Result<AccessClaims, VerifyError> {
        self.read(|known| known.verifier.access(token, now.timestamp()))
    }

    /// Verifies a policy snapshot.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn policy(&self, signed: &str) -> Result<PolicyClaims, VerifyError> {
        self.read(|known| known.verifier.policy(signed))
    }

    /// Whether the published keys may be asked for now; the caller does it then.
    pub fn may_ask(&self, now: DateTime<Utc>) -> bool {
        let mut asked_at = self.asked_at.lock().unwrap_or_else(PoisonError::into_inner);
        let may = asked_at.is_none_or(|at| now - at >= PAUSE);
        if may {
            *asked_at = Some(now);
        }
        may
    }

    /// Takes published keys in the place of all that were known, and keeps them on disk; older ones than those known are left aside, and
    /// so are those that do not say how new they are once others did. Answers whether they were taken.
    ///
    /// # Errors
    /// When they are not keys.
    pub fn take(&self, published: PublishedKeys) -> anyhow::Result<bool> {
        let version = published.version;
        let text = serde_json::to_string(&published)?;
        let verifier = verifier(&published, &self.issuer, &self.audience)?;
        let _turn = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            let newer = version > known.version || (version, known.version) == (0, 0);
            if !newer {
                return Ok(false);
            }
            *known = Known { verifier, version };
        }
        // A full disk must not hold up a withdrawal.
        if version > 0
            && let Err(error) = persist(&self.path, &text)
        {
            tracing::error!(error = %error, "the published keys could not be kept on disk: {error}");
        }
        Ok(true)
    }
}

fn verifier(published: &PublishedKeys, issuer: &str, audience: &str) -> anyhow::Result<Verifier> {
    let set = serde_json::json!({ "keys": published.keys });
    Verifier::new(set, issuer, audience).context("the published keys are not a JWKS")
}

fn kept(path: &Path) -> anyhow::Result<Option<PublishedKeys>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(serde_json::from_str(&text)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
