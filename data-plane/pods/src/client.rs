//! The real cluster. Pods are watched, so that a round looks at what is in memory; everything else is one request.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Config};
use serde_json::Value;
use tokio::sync::watch::{Receiver, Sender};
use uuid::Uuid;

use crate::manifest::SELECTOR;
use crate::ports::{Cluster, ClusterError};
use crate::seen::PodSeen;

/// Who applies.
const MANAGER: &str = "howdah";
/// So long a request may take; watching is longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What is known of the pods, by name; nothing before they were listed once.
type Known = Option<HashMap<String, PodSeen>>;

/// The namespace of a tenant in a real cluster.
#[derive(Clone)]
pub struct Namespace {
    pods: Api<DynamicObject>,
    secrets: Api<DynamicObject>,
    known: Arc<Mutex<Known>>,
    changed: Sender<u64>,
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: String::new(),
        version: "v1".to_owned(),
        api_version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

impl Namespace {
    /// Connects to the cluster that the process is in, or to that of a kubeconfig. Nothing is asked yet.
    ///
    /// # Errors
    /// When neither says how.
    pub async fn connect(namespace: &str, kubeconfig: Option<&Path>) -> anyhow::Result<Self> {
        let mut config = match kubeconfig {
            Some(path) => {
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?
            }
            None => Config::incluster()?,
        };
        config.connect_timeout = Some(ANSWER_WITHIN);
        let client = Client::try_from(config)?;
        Ok(Self {
            pods: Api::namespaced_with(client.clone(), namespace, &resource("Pod", "pods")),
            secrets: Api::namespaced_with(client, namespace, &resource("Secret", "secrets")),
            known: Arc::default(),
            changed: Sender::new(0),
        })
    }

    /// Wakes when something is said of a pod.
    pub fn changed(&self) -> Receiver<u64> {
        self.changed.subscribe()
    }

    /// Watches the pods, for ever.
    pub async fn follow(self) {
        let config = watcher::Config::default().labels(SELECTOR);
        let mut events = watch(self.pods.clone(), config).default_backoff().boxed();
        let mut listed = HashMap::new();
        loop {
            match events.try_next().await {
                Ok(Some(event)) => self.take(event, &mut listed),
                Ok(None) => return,
                Err(error) => tracing::warn!("the pods cannot be watched, which is tried again: {error}"),
            }
        }
    }

    fn take(&self, event: Event<DynamicObject>, listed: &mut HashMap<String, PodSeen>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(pod) => listed.extend(read(&pod)),
            Event::InitDone => *known = Some(std::mem::take(listed)),
            Event::Apply(pod) => {
                if let Some(known) = known.as_mut() {
                    known.extend(read(&pod));
                }
            }
            Event::Delete(pod) => {
                if let (Some(known), Some(name)) = (known.as_mut(), &pod.metadata.name) {
                    known.remove(name);
                }
            }
        }
        drop(known);
        self.changed.send_modify(|n| *n += 1);
    }
}

fn read(pod: &DynamicObject) -> Option<(String, PodSeen)> {
    let seen = PodSeen::read(&serde_json::to_value(pod).ok()?)?;
    Some((seen.name.clone(), seen))
}

/// What an object is on its way to the cluster.
fn object(value: &Value) -> Result<DynamicObject, ClusterError> {
    serde_json::from_value(value.clone()).map_err(|error| ClusterError::Invalid(error.to_string()))
}

fn name(value: &Value) -> &str {
    value["metadata"]["name"].as_str().unwrap_or_default()
}

/// What the cluster's refusal means.
fn failure(error: kube::Error) -> ClusterError {
    let kube::Error::Api(status) = error else {
        return ClusterError::Unavailable(error.to_string());
    };
    let message = status.message.clone();
    match status.code {
        403 => match message.split_once("exceeded quota: ") {
            Some((_, amounts)) => ClusterError::Quota(amounts.to_owned()),
            None => ClusterError::Forbidden(message),
        },
        400 | 413 | 422 => ClusterError::Invalid(message),
        _ => ClusterError::Unavailable(message),
    }
}

fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// An answer that does not come is one that says that it may go another time.
async fn within<T>(
    request: impl Future<Output = Result<T, kube::Error>> + Send,
) -> Result<Result<T, kube::Error>, ClusterError> {
    tokio::time::timeout(ANSWER_WITHIN, request)
        .await
        .map_err(|_| ClusterError::Unavailable(format!("it did not answer within {} s", ANSWER_WITHIN.as_secs())))
}

#[async_trait]
impl Cluster for Namespace {
    async fn pods(&self) -> Result<Vec<PodSeen>, ClusterError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known
            .as_ref()
            .ok_or_else(|| ClusterError::Unavailable("its pods were not listed yet".to_owned()))?;
        Ok(known.values().cloned().collect())
    }

    async fn create(&self, pod: &Value) -> Result<(), ClusterError> {
        let pod = object(pod)?;
        match within(self.pods.create(&PostParams::default(), &pod)).await? {
            Ok(_) => Ok(()),
            // One that is on its way out has the name still: the next round sees that.
            Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => Ok(()),
            Err(error) => Err(failure(error)),
        }
    }

    async fn delete(&self, name: &str, uid: Uuid, now: bool) -> Result<(), ClusterError> {
        let mut how = DeleteParams::default().preconditions(Preconditions {
            uid: Some(uid.to_string()),
            resource_version: None,
        });
        how.grace_period_seconds = now.then_some(0);
        match within(self.pods.delete(name, &how)).await? {
            Ok(_) => Ok(()),
            // It is gone, or the name is another one's.
            Err(error) if is(&error, 404) || is(&error, 409) => Ok(()),
            Err(error) => Err(failure(error)),
        }
    }

    async fn apply_secret(&self, secret: &Value) -> Result<(), ClusterError> {
        let how = PatchParams::apply(MANAGER).force();
        let applied = within(self.secrets.patch(name(secret), &how, &Patch::Apply(secret))).await?;
        applied.map(drop).map_err(failure)
    }

    async fn delete_secret(&self, name: &str) -> Result<(), ClusterError> {
        match within(self.secrets.delete(name, &DeleteParams::default())).await? {
            Ok(_) => Ok(()),
            Err(error) if is(&error, 404) => Ok(()),
            Err(error) => Err(failure(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_the_cluster_refuses_is_told_apart() {
        let refused = |code, message: &str| {
            failure(kube::Error::Api(Box::new(Status {
                code,
                message: message.to_owned(),
                ..Status::default()
            })))
        };
        let quota = "pods \"w-1\" is forbidden: exceeded quota: plan, requested: requests.cpu=4, used: requests.cpu=15, limited: requests.cpu=16";
        let told = refused(403, quota).to_string();
        assert_eq!(
            told,
            "the quota of the organization is used up: plan, requested: requests.cpu=4, used: requests.cpu=15, limited: requests.cpu=16"
        );
        let forbidden = refused(403, "violates PodSecurity");
        assert_eq!(forbidden, ClusterError::Forbidden("violates PodSecurity".to_owned()));
        assert!(matches!(refused(422, "bad"), ClusterError::Invalid(_)));
        for passing in [409, 410, 429, 500, 503] {
            assert!(matches!(refused(passing, "later"), ClusterError::Unavailable(_)));
        }
    }
}
