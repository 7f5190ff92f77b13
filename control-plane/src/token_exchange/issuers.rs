//! The issuers that the operator allows, and their published keys: found by discovery, kept for an hour, read again when a token
//! names a key that is not there, at most once a minute, whoever sends such tokens. Redirects are not followed, answers are short.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use contract::ci::CiIssuer;
use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::verify::{is_usable, makes};

const TIME_MAX: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 256 * 1024;
const KEYS_MAX: usize = 64;
/// Keys are read again when they are that old, so that what an issuer has withdrawn is believed no longer.
const FRESH: chrono::Duration = chrono::Duration::hours(1);
/// Keys that could not be read again are believed for so long.
const STALE_MAX: chrono::Duration = chrono::Duration::hours(24);
/// They are read again no sooner than that, or, where there are none yet, than the shorter time.
const PAUSE: chrono::Duration = chrono::Duration::minutes(1);
const PAUSE_WITHOUT_KEYS: chrono::Duration = chrono::Duration::seconds(5);

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// The operator allows no such issuer.
    #[error("the issuer is not allowed")]
    Issuer,
    /// It publishes no such key.
    #[error("the issuer publishes no such key")]
    Unknown,
    /// Its keys cannot be read.
    #[error("the keys of the issuer cannot be read")]
    Unreachable,
}

#[derive(Default)]
struct Keys {
    all: Arc<Vec<Jwk>>,
    read_at: Option<DateTime<Utc>>,
    tried_at: Option<DateTime<Utc>>,
}

struct Issuer {
    config: CiIssuer,
    keys: Mutex<Keys>,
    /// Whoever reads the keys; the others wait for him.
    reading: tokio::sync::Mutex<()>,
}

/// All allowed issuers.
pub struct Issuers {
    client: reqwest::Client,
    all: Vec<Arc<Issuer>>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: Url,
}

#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

impl Issuers {
    /// Takes what the operator allows.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(allowed: &[CiIssuer]) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIME_MAX)
            .connect_timeout(TIME_MAX)
            .user_agent(concat!("howdah/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("the client of CI issuers")?;
        let all = allowed.iter().map(|config| {
            Arc::new(Issuer {
                config: config.clone(),
                keys: Mutex::default(),
                reading: tokio::sync::Mutex::default(),
            })
        });
        Ok(Self {
            client,
            all: all.collect(),
        })
    }

    /// Those that are allowed.
    pub fn allowed(&self) -> impl Iterator<Item = &CiIssuer> {
        self.all.iter().map(|issuer| &issuer.config)
    }

    /// The one whose tokens say exactly that.
    pub fn find(&self, url: &str) -> Option<&CiIssuer> {
        self.allowed().find(|issuer| issuer.url == url)
    }

    /// The key of an issuer by which it makes signatures of that kind.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn key(&self, url: &str, kid: &str, algorithm: Algorithm, now: DateTime<Utc>) -> Result<Jwk, NoKey> {
        let issuer = self.all.iter().find(|i| i.config.url == url).ok_or(NoKey::Issuer)?;
        let wanted = |all: &[Jwk]| {
            let mut fitting = all.iter();
            fitting
                .find(|key| key.common.key_id.as_deref() == Some(kid) && makes(key, algorithm))
                .cloned()
        };
        if let Some(key) = issuer.known(now, FRESH).and_then(|all| wanted(&all)) {
            return Ok(key);
        }
        let _turn = issuer.reading.lock().await;
        if let Some(key) = issuer.known(now, FRESH).and_then(|all| wanted(&all)) {
            return Ok(key);
        }
        if issuer.may_read(now) {
            // Who hangs up must not use up the try that others wait for.
            let (client, issuer) = (self.client.clone(), Arc::clone(issuer));
            let read = tokio::spawn(async move {
                match read(&client, &issuer.config).await {
                    Ok(all) => issuer.keep(all, now),
                    Err(error) => tracing::warn!("the keys of {} cannot be read: {error:#}", issuer.config.url),
                }
            });
            if let Err(error) = read.await {
                tracing::error!("the keys of {url} cannot be read: {error}");
            }
        }
        let all = issuer.known(now, STALE_MAX).ok_or(NoKey::Unreachable)?;
        wanted(&all).ok_or(NoKey::Unknown)
    }
}

async fn read(client: &reqwest::Client, issuer: &CiIssuer) -> anyhow::Result<Vec<Jwk>> {
    let base = issuer.url.trim_end_matches('/');
    let discovered: Discovery = get(client, &format!("{base}/.well-known/openid-configuration")).await?;
    ensure!(
        discovered.issuer == issuer.url,
        "its discovery document is that of `{}`",
        discovered.issuer
    );
    let own = Url::parse(&issuer.url)?;
    let keys = discovered.jwks_uri;
    ensure!(
        keys.scheme() == "https" || keys.origin() == own.origin(),
        "its keys are not at an encrypted address"
    );
    let published: Published = get(client, keys.as_str()).await?;
    let read = published.keys.into_iter().take(KEYS_MAX);
    // One key of a kind that we do not know does not make the others useless.
    let usable: Vec<Jwk> = read
        .filter_map(|key| serde_json::from_value::<Jwk>(key).ok())
        .filter(is_usable)
        .collect();
    ensure!(!usable.is_empty(), "it publishes no key that can be used");
    Ok(usable)
}

async fn get<T: DeserializeOwned>(client: &reqwest::Client, url: &str) -> anyhow::Result<T> {
    let mut answer = client.get(url).send().await?;
    ensure!(answer.status().is_success(), "{url} answers {}", answer.status());
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        ensure!(
            body.len() + chunk.len() <= ANSWER_BYTES_MAX,
            "{url} answers more than {ANSWER_BYTES_MAX} bytes"
        );
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).with_context(|| format!("{url} answers something else"))
}

impl Issuer {
    fn known(&self, now: DateTime<Utc>, age_max: chrono::Duration) -> Option<Arc<Vec<Jwk>>> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.read_at
            .filter(|at| now - *at < age_max)
            .map(|_| Arc::clone(&keys.all))
    }

    /// Whether they may be read now; the caller does it then.
    fn may_read(&self, now: DateTime<Utc>) -> bool {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = if keys.read_at.is_some() {
            PAUSE
        } else {
            PAUSE_WITHOUT_KEYS
        };
        let may = keys.tried_at.is_none_or(|at| now - at >= pause);
        if may {
            keys.tried_at = Some(now);
        }
        may
    }

    fn keep(&self, all: Vec<Jwk>, now: DateTime<Utc>) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.all = Arc::new(all);
        keys.read_at = Some(now);
    }
}
