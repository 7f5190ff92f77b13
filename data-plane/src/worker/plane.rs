//! The worker's side of the plane's internal API.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::protocol::{
    ClaimRequest, Claimed, CompleteAnswer, CompleteRequest, HeartbeatAnswer, HeartbeatRequest, SECRET_HEADER,
};

/// The plane, as a worker reaches it.
#[derive(Clone)]
pub struct Plane {
    client: reqwest::Client,
    url: String,
    secret: String,
}

impl Plane {
    /// Nothing is sent yet.
    pub fn new(url: &str, secret: &str) -> anyhow::Result<Self> {
        Ok(Self {
            client: reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?,
            url: format!("{}/internal/v1/worker", url.trim_end_matches('/')),
            secret: secret.to_owned(),
        })
    }

    async fn post<T: DeserializeOwned>(&self, verb: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let answer = self
            .client
            .post(format!("{}/{verb}", self.url))
            .header(SECRET_HEADER, &self.secret)
            .json(body)
            .send()
            .await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// Asks for work.
    pub async fn claim(&self, request: &ClaimRequest) -> anyhow::Result<Claimed> {
        self.post("claim", request).await
    }

    /// Renews leases.
    pub async fn heartbeat(&self, request: &HeartbeatRequest) -> anyhow::Result<HeartbeatAnswer> {
        self.post("heartbeat", request).await
    }

    /// Brings results.
    pub async fn complete(&self, request: &CompleteRequest) -> anyhow::Result<CompleteAnswer> {
        self.post("complete", request).await
    }
}
