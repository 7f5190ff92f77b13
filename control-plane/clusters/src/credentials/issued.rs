//! Keys of one bucket, from a service of the operator's: `PUT {issuer}/{bucket}` answers `{access_key_id, secret_access_key}`, the same
//! for the same bucket, `DELETE` ends them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use contract::ids::OrganizationId;
use provisioner::kubernetes::ports::BucketKeys;
use provisioner::pass::Environment;
use reqwest::{Client, Method, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::PlaneCredentials;

/// Planes are looked at often, and their keys are the same: what was answered is believed for that long.
const BELIEVED: TimeDelta = TimeDelta::minutes(10);
const ANSWER_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Deserialize)]
struct Keys {
    access_key_id: String,
    secret_access_key: SecretString,
}

/// A service that issues keys.
pub struct Issued {
    client: Client,
    issuer: String,
    token: SecretString,
    environment: Arc<dyn Environment>,
    known: Mutex<HashMap<String, (Keys, DateTime<Utc>)>>,
}

impl Issued {
    /// The one at that address, which takes that bearer token.
    pub fn new(issuer: &str, token: &str, environment: Arc<dyn Environment>) -> Self {
        Self {
            client: Client::new(),
            issuer: issuer.trim_end_matches('/').to_owned(),
            token: SecretString::from(token.to_owned()),
            environment,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, (Keys, DateTime<Utc>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, method: Method, bucket: &str) -> anyhow::Result<Response> {
        let url = format!("{}/{bucket}", self.issuer);
        let asked = self.client.request(method, url).bearer_auth(self.token.expose_secret());
        let answer = asked.timeout(ANSWER_MAX).send().await;
        // Without the address, which may hold more than a name.
        answer
            .map_err(|error| error.without_url())
            .context("the issuer of bucket keys does not answer")
    }
}

fn done(answer: Response) -> anyhow::Result<Response> {
    answer
        .error_for_status()
        .map_err(|error| error.without_url())
        .context("the issuer of bucket keys did not do it")
}

#[async_trait]
impl PlaneCredentials for Issued {
    async fn keys(&self, _: OrganizationId, bucket: &str) -> anyhow::Result<BucketKeys> {
        let now = self.environment.now();
        let known = self.known().get(bucket).cloned();
        let keys = match known.filter(|(_, at)| (now - *at).abs() < BELIEVED) {
            Some((keys, _)) => keys,
            None => {
                let answer = done(self.ask(Method::PUT, bucket).await?)?;
                let keys: Keys = answer
                    .json()
                    .await
                    .map_err(|error| error.without_url())
                    .context("the issuer of bucket keys answers something else")?;
                self.known().insert(bucket.to_owned(), (keys.clone(), now));
                keys
            }
        };
        Ok(BucketKeys::Lasting {
            access_key_id: keys.access_key_id,
            secret_access_key: keys.secret_access_key,
        })
    }

    async fn end(&self, bucket: &str) -> anyhow::Result<()> {
        self.known().remove(bucket);
        let answer = self.ask(Method::DELETE, bucket).await?;
        // It may have been ended before, and the answer lost.
        match answer.status() {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(()),
            _ => done(answer).map(drop),
        }
    }
}
