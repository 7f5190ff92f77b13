//! Keys of a bucket that do not last. They are read again from where they are before each request that comes after a while; when
//! that fails, those from before go on being used, which the bucket refuses once they have ended.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use chassis::Environment;
use chrono::{DateTime, TimeDelta, Utc};
use contract::config::BucketSession;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

/// For so long keys are used without a look at what there is now.
const FRESH: TimeDelta = TimeDelta::seconds(30);
/// What could not be read is read again no sooner.
const AGAIN: TimeDelta = TimeDelta::seconds(10);
/// Who has keys waits no longer than that for newer ones; who has none waits for the first.
const WAIT: Duration = Duration::from_secs(5);
const WAIT_FIRST: Duration = Duration::from_secs(60);

/// Where keys are.
#[async_trait]
pub trait Source: std::fmt::Debug + Send + Sync + 'static {
    /// Those of now.
    ///
    /// # Errors
    /// When there are none, in words that tell nothing of them.
    async fn read(&self) -> anyhow::Result<AwsCredential>;
}

/// A file that holds a [`BucketSession`].
#[derive(Debug)]
pub struct SessionFile(pub PathBuf);

#[async_trait]
impl Source for SessionFile {
    async fn read(&self) -> anyhow::Result<AwsCredential> {
        let place = self.0.display();
        let text = tokio::fs::read(&self.0)
            .await
            .with_context(|| format!("the keys of the bucket cannot be read from `{place}`"))?;
        // What the parser says could show some of it.
        let session: BucketSession =
            serde_json::from_slice(&text).map_err(|_| anyhow::anyhow!("`{place}` holds no keys of a bucket"))?;
        Ok(AwsCredential {
            key_id: session.access_key_id,
            secret_key: session.secret_access_key,
            token: Some(session.session_token),
        })
    }
}

/// Keys of a source, as the client of the bucket asks for them.
pub struct Renewed {
    source: Arc<dyn Source>,
    environment: Environment,
    known: Mutex<Option<Known>>,
}

struct Known {
    keys: Arc<AwsCredential>,
    /// When they were read, or when that was last begun, and how long they are used from then.
    at: DateTime<Utc>,
    fresh: TimeDelta,
}

impl Renewed {
    /// Nothing is read yet.
    pub fn new(source: Arc<dyn Source>, environment: Environment) -> Self {
        Self {
            source,
            environment,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys from before; `Err`: those, if there are any, have to be read again, and nobody else does it meanwhile.
    fn fresh(&self) -> Result<Arc<AwsCredential>, Option<Arc<AwsCredential>>> {
        let now = self.environment.now();
        match self.known().as_mut() {
            None => Err(None),
            // A clock that was set back makes them old too.
            Some(known) if (TimeDelta::zero()..known.fresh).contains(&(now - known.at)) => Ok(Arc::clone(&known.keys)),
            Some(known) => {
                (known.at, known.fresh) = (now, AGAIN);
                Err(Some(Arc::clone(&known.keys)))
            }
        }
    }

    async fn read(&self, wait: Duration) -> anyhow::Result<AwsCredential> {
        match tokio::time::timeout(wait, self.source.read()).await {
            Ok(read) => read,
            Err(_) => anyhow::bail!("there was no answer within {} s", wait.as_secs()),
        }
    }
}

impl std::fmt::Debug for Renewed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "keys of {:?}", self.source)
    }
}

#[async_trait]
impl CredentialProvider for Renewed {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let before = match self.fresh() {
            Ok(keys) => return Ok(keys),
            Err(before) => before,
        };
        let wait = if before.is_some() { WAIT } else { WAIT_FIRST };
        match (self.read(wait).await, before) {
            (Ok(read), _) => {
                let keys = Arc::new(read);
                *self.known() = Some(Known {
                    keys: Arc::clone(&keys),
                    at: self.environment.now(),
                    fresh: FRESH,
                });
                Ok(keys)
            }
            (Err(error), Some(before)) => {
                tracing::warn!("the bucket is reached with the keys from before: {error:#}");
                Ok(before)
            }
            (Err(error), None) => Err(object_store::Error::Generic {
                store: "S3",
                source: error.into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts its readings, and gives the count as key; of those that are listed nothing comes.
    #[derive(Debug, Default)]
    struct Counted {
        read: AtomicU32,
        fails: Vec<u32>,
    }

    #[async_trait]
    impl Source for Counted {
        async fn read(&self) -> anyhow::Result<AwsCredential> {
            let n = self.read.fetch_add(1, Ordering::SeqCst) + 1;
            anyhow::ensure!(!self.fails.contains(&n), "it is away");
            Ok(AwsCredential {
                key_id: n.to_string(),
                secret_key: "s3cret".to_owned(),
                token: None,
            })
        }
    }

    async fn key(keys: &Renewed) -> Result<String, String> {
        match keys.get_credential().await {
            Ok(keys) => Ok(keys.key_id.clone()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn keys_of(fails: Vec<u32>) -> (Renewed, Environment) {
        let environment = Environment::simulated(DateTime::UNIX_EPOCH, 1);
        let source = Counted {
            fails,
            ..Counted::default()
        };
        (Renewed::new(Arc::new(source), environment.clone()), environment)
    }

    #[tokio::test]
    async fn keys_are_read_again_after_a_while_and_kept_while_that_fails() {
        let (keys, environment) = keys_of(vec![2, 3]);
        // At each time twice: what fails keeps nobody from the bucket, and is not tried again at once.
        for (seconds, expected) in [
            (0, "1"),
            (29, "1"),
            (2, "1"),
            (11, "1"),
            (9, "1"),
            (2, "4"),
            (29, "4"),
            (1, "5"),
        ] {
            environment.advance(TimeDelta::seconds(seconds));
            assert_eq!(key(&keys).await.unwrap(), expected, "{seconds}");
            assert_eq!(key(&keys).await.unwrap(), expected, "{seconds}");
        }
    }

    #[tokio::test]
    async fn who_has_no_keys_at_all_is_told_why_and_may_ask_again() {
        let (keys, _) = keys_of(vec![1]);
        assert!(key(&keys).await.unwrap_err().contains("it is away"));
        assert_eq!(key(&keys).await.unwrap(), "2");
    }

    #[tokio::test]
    async fn a_file_is_read_as_it_is_now_and_nothing_of_it_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        let file = SessionFile(path.clone());
        assert!(file.read().await.unwrap_err().to_string().contains("keys.json"));
        let session = |key: &str| {
            serde_json::json!({ "access_key_id": key, "secret_access_key": "s", "session_token": "t",
                "expires_at": "2026-11-26T12:00:00Z" })
        };
        for key in ["one", "other"] {
            std::fs::write(&path, session(key).to_string()).unwrap();
            let read = file.read().await.unwrap();
            assert_eq!((read.key_id.as_str(), read.token.as_deref()), (key, Some("t")));
        }
        std::fs::write(&path, r#"{"access_key_id": "hidden"}"#).unwrap();
        assert!(!format!("{:#}", file.read().await.unwrap_err()).contains("hidden"));
    }
}
