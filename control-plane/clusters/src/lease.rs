//! Who makes planes be as wanted, of several processes: whoever holds the lease. A leader that could not renew it in time writes
//! nothing more, well before anybody else may take it over; should a write be under way even so, the versions and generations of
//! what it is about refuse it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::SecondsFormat;
use http::Method;
use kube::Client;
use provisioner::kubernetes::ports::ClusterError;
use provisioner::pass::Environment;
use serde_json::{Value, json};

use crate::api_server::{meaning, request};

/// Nobody else may take it before that long after its last renewal.
const DURATION: Duration = Duration::from_secs(15);
/// Who could not renew it for so long leads no more.
const HELD: Duration = Duration::from_secs(10);
/// How often it is renewed, and looked at by who waits.
const PERIOD: Duration = Duration::from_secs(2);
/// A request that takes longer is given up.
const REQUEST_MAX: Duration = Duration::from_secs(4);
const NAME: &str = "howdah-reconciler";

/// Until when this process leads, by its own monotonic clock.
#[derive(Default)]
pub struct Leadership {
    until: Mutex<Option<Instant>>,
}

impl Leadership {
    /// Of a process that asks nobody.
    pub fn forever() -> Self {
        let far = Instant::now().checked_add(Duration::from_secs(60 * 60 * 24 * 365 * 30));
        Self { until: Mutex::new(far) }
    }

    /// Whether it will still lead after that long.
    pub fn covers(&self, long: Duration) -> bool {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() + long < until)
    }

    /// Whether it leads.
    pub fn is_held(&self) -> bool {
        self.covers(Duration::ZERO)
    }

    fn set(&self, until: Option<Instant>) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Takes and keeps the lease of a namespace.
pub struct Candidate {
    /// The cluster.
    pub client: Client,
    /// The namespace of the lease.
    pub namespace: String,
    /// Names this process.
    pub identity: String,
    /// The time, for whoever reads the lease.
    pub environment: Arc<dyn Environment>,
    /// What is told of it to those who write.
    pub leadership: Arc<Leadership>,
}

/// What was seen of the lease last, and since when it has not changed.
struct Watched {
    version: String,
    since: Instant,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// The lease is ours.
    Leads,
    /// It is somebody else's.
    Follows,
    /// It changed under us.
    Raced,
}

impl Candidate {
    /// Takes the lease whenever it is free, keeps it, until `stop` ends; then lets go of it.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut watched = None;
        let mut timer = tokio::time::interval(PERIOD);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                _ = timer.tick() => {}
            }
            let led = self.leadership.is_held();
            let asked_at = Instant::now();
            match tokio::time::timeout(REQUEST_MAX, self.attempt(&mut watched)).await {
                Ok(Ok(true)) => self.leadership.set(asked_at.checked_add(HELD)),
                Ok(Ok(false)) => self.leadership.set(None),
                // Held until its time is over.
                Ok(Err(error)) => tracing::warn!("the lease could not be asked for: {error}"),
                Err(_) => tracing::warn!("the lease could not be asked for: no answer"),
            }
            match (led, self.leadership.is_held()) {
                (false, true) => tracing::info!("this process makes planes be as wanted from now on"),
                (true, false) => tracing::warn!("this process does not make planes be as wanted any more"),
                _ => {}
            }
        }
        if self.leadership.is_held() {
            self.leadership.set(None);
            match tokio::time::timeout(REQUEST_MAX, self.let_go()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::info!("the lease could not be let go of and runs out by itself: {error}"),
                Err(_) => tracing::info!("the lease could not be let go of and runs out by itself: no answer"),
            }
        }
    }

    fn path(&self) -> String {
        let namespace = &self.namespace;
        format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
    }

    async fn read(&self) -> Result<Option<Value>, ClusterError> {
        let uri = format!("{}/{NAME}", self.path());
        match self
            .client
            .request::<Value>(request(Method::GET, &uri, "application/json", Vec::new())?)
            .await
        {
            Ok(lease) => Ok(Some(lease)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(meaning(error)),
        }
    }

    /// Whether this process leads now. What conflicts with our write may be our own, whose answer was lost: it is looked at anew.
    async fn attempt(&self, watched: &mut Option<Watched>) -> Result<bool, ClusterError> {
        let first = self.attempt_once(watched).await?;
        let last = match first {
            Attempt::Raced => self.attempt_once(watched).await?,
            _ => first,
        };
        Ok(last == Attempt::Leads)
    }

    async fn attempt_once(&self, watched: &mut Option<Watched>) -> Result<Attempt, ClusterError> {
        let Some(mut lease) = self.read().await? else {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": { "name": NAME, "namespace": self.namespace, "labels": {
                    "app.kubernetes.io/managed-by": "howdah" } },
                "spec": self.spec(0),
            });
            return self.write(Method::POST, &self.path(), &lease).await;
        };
        let version = lease["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let is_ours = holder == self.identity;
        let unchanged = watched.as_ref().filter(|watched| watched.version == version);
        let expired = unchanged.is_some_and(|watched| watched.since.elapsed() > DURATION);
        if !is_ours && !holder.is_empty() && !expired {
            if unchanged.is_none() {
                *watched = Some(Watched {
                    version,
                    since: Instant::now(),
                });
            }
            return Ok(Attempt::Follows);
        }
        let transitions = lease["spec"]["leaseTransitions"].as_i64().unwrap_or(0);
        let acquired = lease["spec"]["acquireTime"].take();
        lease["spec"] = self.spec(transitions + i64::from(!is_ours));
        if is_ours {
            lease["spec"]["acquireTime"] = acquired;
        }
        self.write(Method::PUT, &format!("{}/{NAME}", self.path()), &lease)
            .await
    }

    fn spec(&self, transitions: i64) -> Value {
        let now = self.environment.now().to_rfc3339_opts(SecondsFormat::Micros, true);
        json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION.as_secs(),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        })
    }

    async fn write(&self, method: Method, uri: &str, lease: &Value) -> Result<Attempt, ClusterError> {
        let request = request(method, uri, "application/json", lease.to_string().into_bytes())?;
        match self.client.request::<Value>(request).await.map_err(meaning) {
            Ok(_) => Ok(Attempt::Leads),
            Err(ClusterError::Conflict(_)) => Ok(Attempt::Raced),
            Err(error) => Err(error),
        }
    }

    /// Whoever waits need not wait for its end.
    async fn let_go(&self) -> Result<(), ClusterError> {
        let Some(mut lease) = self.read().await? else {
            return Ok(());
        };
        if lease["spec"]["holderIdentity"] != self.identity.as_str() {
            return Ok(());
        }
        lease["spec"]["holderIdentity"] = "".into();
        self.write(Method::PUT, &format!("{}/{NAME}", self.path()), &lease)
            .await
            .map(|_| ())
    }
}
