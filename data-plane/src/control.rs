//! The control plane as this data plane sees it: where the policy comes from, where new repos are registered, and what
//! is told that the plane lives. The plane dials out only; it authenticates with its agent token.

use std::time::Duration;

use chassis::http::ApiError;
use contract::api::{NewCheckpoint, RegisterDomain, SignedCheckpoint};
use contract::config::{DataPlaneConfig, Heartbeat};
use contract::ids::{DomainId, OrganizationId};
use contract::policy::{PolicyAnswer, PublishedKeys};
use contract::problem::{Problem, ProblemKind};
use secrecy::{ExposeSecret, SecretString};

use crate::failure::{Answer, Failure};

/// A client of the control plane's internal routes.
pub struct ControlPlane {
    http: reqwest::Client,
    base: String,
    organization: OrganizationId,
    token: SecretString,
}

impl ControlPlane {
    /// Makes the client; connects to nothing yet.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(config: &DataPlaneConfig) -> anyhow::Result<Self> {
        Ok(Self {
            http: reqwest::Client::builder()
                .connect_timeout(Duration::from_secs(3))
                .tcp_keepalive(Duration::from_secs(15))
                .build()?,
            base: config.control_url.trim_end_matches('/').to_owned(),
            organization: config.organization,
            token: SecretString::from(config.agent_token.clone()),
        })
    }

    fn request(&self, method: reqwest::Method, path: &str, limit: Duration) -> reqwest::RequestBuilder {
        let url = format!("{}/internal/v1/planes/{}/{path}", self.base, self.organization);
        self.http
            .request(method, url)
            .bearer_auth(self.token.expose_secret())
            .timeout(limit)
    }

    /// Waits up to `wait_seconds` for a policy newer than `after`, or newer keys than `keys`. Asking acknowledges that `after` is enforced.
    ///
    /// # Errors
    /// `upstream-timeout` and the like when the control plane is away.
    pub async fn poll_policy(&self, after: u64, keys: u64, wait_seconds: u64) -> Answer<PolicyAnswer> {
        let limit = Duration::from_secs(wait_seconds + 5);
        let request = self.request(reqwest::Method::GET, "policy", limit).query(&[
            ("after", after),
            ("keys", keys),
            ("wait_seconds", wait_seconds),
        ]);
        read_json(request).await
    }

    /// The public keys that tokens are signed with.
    ///
    /// # Errors
    /// When the control plane is away.
    pub async fn keys(&self) -> Answer<PublishedKeys> {
        let url = format!("{}/.well-known/jwks.json", self.base);
        read_json(self.http.get(url).timeout(Duration::from_secs(5))).await
    }

    /// Tells of a new domain; telling again changes nothing. Answers the epoch from which on its owner's grant counts.
    ///
    /// # Errors
    /// When the control plane is away or refuses.
    pub async fn register_domain(&self, domain: &RegisterDomain) -> Answer<u64> {
        let request = self
            .request(reqwest::Method::POST, "domains", Duration::from_secs(10))
            .json(domain);
        read_json::<PolicyAnswer>(request).await.map(|answer| answer.epoch)
    }

    /// Makes the domain of a deleted repo a tombstone; doing it again changes nothing.
    ///
    /// # Errors
    /// When the control plane is away or refuses.
    pub async fn bury_domain(&self, domain: DomainId) -> Answer<()> {
        let request = self.request(
            reqwest::Method::DELETE,
            &format!("domains/{domain}"),
            Duration::from_secs(10),
        );
        let response = request.send().await.map_err(|e| away(&e))?;
        if response.status().is_success() || response.status() == http::StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(refused(response).await)
    }

    /// Has it signed how far the plane's audit trail goes.
    ///
    /// # Errors
    /// When the control plane is away or refuses: it has signed more rows before, or another last one.
    pub async fn sign_checkpoint(&self, seq: u64, hash: &str) -> Answer<SignedCheckpoint> {
        let body = NewCheckpoint {
            seq,
            hash: hash.to_owned(),
        };
        let request = self
            .request(reqwest::Method::POST, "audit-checkpoints", Duration::from_secs(5))
            .json(&body);
        read_json(request).await
    }

    /// Says that the plane lives.
    ///
    /// # Errors
    /// When the control plane is away.
    pub async fn heartbeat(&self, heartbeat: &Heartbeat) -> Answer<()> {
        let request = self
            .request(reqwest::Method::POST, "heartbeat", Duration::from_secs(5))
            .json(heartbeat);
        let response = request.send().await.map_err(|e| away(&e))?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(refused(response).await)
    }
}

async fn read_json<T: serde::de::DeserializeOwned>(request: reqwest::RequestBuilder) -> Answer<T> {
    let response = request.send().await.map_err(|e| away(&e))?;
    if !response.status().is_success() {
        return Err(refused(response).await);
    }
    response.json().await.map_err(|e| away(&e))
}

fn away(error: &reqwest::Error) -> Failure {
    ApiError::overloaded(format!("the control plane did not answer: {}", error_chain(error))).into()
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What the control plane says about the caller's request is passed on; what it says about ours is our mistake.
async fn refused(response: reqwest::Response) -> Failure {
    let status = response.status();
    let problem = response.json::<Problem>().await.ok();
    match problem.as_ref().and_then(|p| p.kind().map(|k| (k, p))) {
        Some((
            ProblemKind::Invalid
            | ProblemKind::Conflict
            | ProblemKind::AlreadyExists
            | ProblemKind::QuotaExceeded
            | ProblemKind::PaymentRequired
            | ProblemKind::OrganizationSuspended
            | ProblemKind::SlowDown
            | ProblemKind::Overloaded,
            problem,
        )) => problem.clone().into(),
        _ => Failure::internal(format!(
            "the control plane refused an internal request: {status} {}",
            problem.map(|p| p.detail).unwrap_or_default()
        )),
    }
}
