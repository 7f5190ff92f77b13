//! The worker's side of the plane's internal API.

use std::time::Duration;

use contract::problem::Problem;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::protocol::{
    ClaimRequest, Claimed, CommitAnswer, CommitRequest, CompleteAnswer, CompleteRequest, HeartbeatAnswer,
    HeartbeatRequest, LeaveAnswer, LeaveRequest, LentKeys, POOL_HEADER, SECRET_HEADER, ServicesAnswer, ServicesRequest,
    WorkerConfig,
};

/// So many bytes of a refusal are shown.
const DETAIL_CHARS_MAX: usize = 500;

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    status: Option<StatusCode>,
    detail: String,
}

impl Refusal {
    /// The request itself is at fault: the same one will never be taken.
    pub fn is_final(&self) -> bool {
        self.status.is_some_and(|status| {
            let passes = matches!(status.as_u16(), 401 | 408 | 425 | 429);
            status.is_client_error() && !passes
        })
    }

    /// The plane failed in a way that it knows no better word for: waiting may not help.
    pub fn is_internal(&self) -> bool {
        self.status == Some(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// A refusal with that status.
    #[cfg(test)]
    pub fn with(status: u16) -> Self {
        Self {
            status: StatusCode::from_u16(status).ok(),
            detail: format!("{status}"),
        }
    }

    async fn read(answer: reqwest::Response) -> Self {
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        let detail = match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => problem.detail,
            Err(_) => text,
        };
        Self {
            status: Some(status),
            detail: format!(
                "{status}: {}",
                detail.chars().take(DETAIL_CHARS_MAX).collect::<String>()
            ),
        }
    }
}

impl From<reqwest::Error> for Refusal {
    fn from(error: reqwest::Error) -> Self {
        Self {
            status: None,
            detail: format!("{:#}", anyhow::Error::from(error)),
        }
    }
}

/// The plane, as a worker reaches it.
#[derive(Clone)]
pub struct Plane {
    client: reqwest::Client,
    url: String,
    /// What lets the worker in.
    headers: HeaderMap,
}

impl Plane {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// When what lets the worker in can't be sent.
    pub fn new(config: &WorkerConfig) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        let mut secret: HeaderValue = config.capability.as_ref().unwrap_or(&config.secret).parse()?;
        secret.set_sensitive(true);
        headers.insert(SECRET_HEADER, secret);
        if let Some(pool) = config.pool {
            headers.insert(POOL_HEADER, pool.to_string().parse()?);
        }
        Ok(Self {
            client: reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?,
            url: format!("{}/internal/v1/worker", config.plane_url.trim_end_matches('/')),
            headers,
        })
    }

    async fn post<T: DeserializeOwned>(&self, verb: &str, body: &impl Serialize) -> Result<T, Refusal> {
        let answer = self
            .client
            .post(format!("{}/{verb}", self.url))
            .headers(self.headers.clone())
            .json(body)
            .send()
            .await?;
        if !answer.status().is_success() {
            return Err(Refusal::read(answer).await);
        }
        Ok(answer.json().await?)
    }

    /// Asks for work.
    pub async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Refusal> {
        self.post("claim", request).await
    }

    /// Renews leases.
    pub async fn heartbeat(&self, request: &HeartbeatRequest) -> Result<HeartbeatAnswer, Refusal> {
        self.post("heartbeat", request).await
    }

    /// Says which services run, and asks which should.
    pub async fn services(&self, request: &ServicesRequest) -> Result<ServicesAnswer, Refusal> {
        self.post("services", request).await
    }

    /// Asks for a commit of a spout.
    pub async fn commit(&self, request: &CommitRequest) -> Result<CommitAnswer, Refusal> {
        self.post("commits", request).await
    }

    /// Asks for keys of the bucket that are good now.
    pub async fn keys(&self) -> Result<LentKeys, Refusal> {
        self.post("keys", &()).await
    }

    /// Gives back what it holds.
    pub async fn leave(&self, request: &LeaveRequest) -> Result<LeaveAnswer, Refusal> {
        self.post("leave", request).await
    }

    /// Brings results.
    pub async fn complete(&self, request: &CompleteRequest) -> Result<CompleteAnswer, Refusal> {
        self.post("complete", request).await
    }
}
