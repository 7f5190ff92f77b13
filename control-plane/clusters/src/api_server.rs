//! The API server, asked in JSON.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use contract::cloud::{KubernetesConfig, Target};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use provisioner::kit::names::{Kind, MANAGER};
use provisioner::kubernetes::ports::{Cluster, ClusterError, Expected, Place};
use serde_json::{Value, json};
use url::form_urlencoded::Serializer;

use crate::lease::Leadership;

/// A request that takes longer is given up. Shorter than what is left of a lease when it is begun, so nothing is written by one
/// who does not lead any more.
const REQUEST_MAX: Duration = Duration::from_secs(4);
/// Objects of one page of a list.
const PAGE: &str = "500";
/// A version that no object has: what is applied with it is made, or refused where something is there.
const NO_VERSION: &str = "1";

/// An API server.
#[derive(Clone)]
pub struct ApiServer {
    client: Client,
    leadership: Arc<Leadership>,
}

/// Reaches the cluster of the configuration.
///
/// # Errors
/// When it does not say how.
pub async fn connect(config: &KubernetesConfig) -> anyhow::Result<Client> {
    let config = match &config.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("the kubeconfig `{}` cannot be read", path.display()))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| {
                    format!(
                        "the kubeconfig `{}` does not say how its cluster is reached",
                        path.display()
                    )
                })?
        }
        None => Config::incluster()
            .context("this process is in no cluster: `cloud.kubeconfig` must say how one is reached")?,
    };
    Client::try_from(config).context("the cluster's API server cannot be spoken to")
}

/// The path of a kind, in a namespace or everywhere.
pub(crate) fn path(kind: &Kind, namespace: Option<&str>) -> String {
    let group = match kind.api_version.contains('/') {
        true => format!("/apis/{}", kind.api_version),
        false => format!("/api/{}", kind.api_version),
    };
    match namespace {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{}", kind.plural),
        None => format!("{group}/{}", kind.plural),
    }
}

pub(crate) fn query(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut query = Serializer::new(String::new());
    query.extend_pairs(parameters.iter().filter(|(_, value)| !value.is_empty()));
    format!("{path}?{}", query.finish())
}

pub(crate) fn request(method: Method, uri: &str, kind: &str, body: Vec<u8>) -> Result<Request<Vec<u8>>, ClusterError> {
    Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", kind)
        .body(body)
        .map_err(|error| ClusterError::Refused(error.to_string()))
}

/// What an error of the client means.
pub(crate) fn meaning(error: kube::Error) -> ClusterError {
    match error {
        kube::Error::Api(status) => match status.code {
            409 => ClusterError::Conflict(status.message),
            410 => ClusterError::Gone,
            429 | 503 | 504 => ClusterError::Busy,
            400..=499 => ClusterError::Refused(status.message),
            _ => ClusterError::Failed(status.message),
        },
        other => ClusterError::Failed(other.to_string()),
    }
}

impl ApiServer {
    /// Writes only while this process leads.
    pub fn new(client: Client, leadership: Arc<Leadership>) -> Self {
        Self { client, leadership }
    }

    async fn send(&self, request: Request<Vec<u8>>) -> Result<Result<Value, kube::Error>, ClusterError> {
        tokio::time::timeout(REQUEST_MAX, self.client.request::<Value>(request))
            .await
            .map_err(|_| ClusterError::Failed(format!("no answer within {} s", REQUEST_MAX.as_secs())))
    }

    async fn ask(&self, request: Request<Vec<u8>>) -> Result<Value, ClusterError> {
        self.send(request).await?.map_err(meaning)
    }

    /// As [`ask`](Self::ask), `None` for what is not there. A kind that the cluster does not know is refused.
    async fn find(&self, request: Request<Vec<u8>>) -> Result<Option<Value>, ClusterError> {
        match self.send(request).await? {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 && status.reason == "NotFound" && has_name(&status) => {
                Ok(None)
            }
            Err(error) => Err(meaning(error)),
        }
    }

    fn lead(&self) -> Result<(), ClusterError> {
        if self.leadership.covers(REQUEST_MAX) {
            return Ok(());
        }
        Err(ClusterError::Fenced)
    }

    /// Where pods reach the API server itself.
    ///
    /// # Errors
    /// When the cluster does not say.
    pub async fn own_targets(&self) -> Result<Vec<Target>, ClusterError> {
        let slices = query(
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            &[("labelSelector", "kubernetes.io/service-name=kubernetes")],
        );
        let slices = self
            .ask(request(Method::GET, &slices, "application/json", Vec::new())?)
            .await?;
        let service = "/api/v1/namespaces/default/services/kubernetes";
        let service = self
            .ask(request(Method::GET, service, "application/json", Vec::new())?)
            .await?;
        let mut targets: Vec<Target> = list(&slices["items"])
            .flat_map(|slice| {
                let ports = ports(&slice["ports"]);
                let addresses = list(&slice["endpoints"]).flat_map(|endpoint| list(&endpoint["addresses"]));
                addresses
                    .filter_map(Value::as_str)
                    .map(move |address| target(address, ports.clone()))
                    .collect::<Vec<_>>()
            })
            .collect();
        // Some networks look at the address that a pod asked, others at the one that the service leads to.
        targets.extend(
            service["spec"]["clusterIP"]
                .as_str()
                .map(|address| target(address, ports(&service["spec"]["ports"]))),
        );
        Ok(targets)
    }
}

fn has_name(status: &kube::core::Status) -> bool {
    status.details.as_ref().is_some_and(|details| !details.name.is_empty())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn ports(of: &Value) -> Vec<u16> {
    list(of)
        .filter_map(|port| u16::try_from(port["port"].as_u64()?).ok())
        .collect()
}

fn target(address: &str, ports: Vec<u16>) -> Target {
    let bits = if address.contains(':') { 128 } else { 32 };
    Target {
        cidr: format!("{address}/{bits}"),
        ports,
    }
}

#[async_trait]
impl Cluster for ApiServer {
    async fn apply(&self, object: &Value, expected: &Expected) -> Result<Value, ClusterError> {
        self.lead()?;
        let kind = provisioner::kit::names::kind_of(object)
            .ok_or_else(|| ClusterError::Refused(format!("{} is no kind that is written", object["kind"])))?;
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = match expected {
            Expected::Absent => NO_VERSION.into(),
            Expected::Version(version) => version.clone().into(),
        };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{}/{name}", path(kind, object["metadata"]["namespace"].as_str()));
        let uri = query(&path, &[("fieldManager", MANAGER), ("force", "true")]);
        let body = object.to_string().into_bytes();
        self.ask(request(Method::PATCH, &uri, "application/apply-patch+yaml", body)?)
            .await
    }

    async fn get(&self, place: &Place<'_>) -> Result<Option<Value>, ClusterError> {
        let path = format!("{}/{}", path(place.kind, place.namespace), place.name);
        self.find(request(Method::GET, &path, "application/json", Vec::new())?)
            .await
    }

    async fn list(&self, kind: &Kind, namespace: Option<&str>, labels: &str) -> Result<Vec<Value>, ClusterError> {
        let (path, mut all, mut after) = (path(kind, namespace), Vec::new(), String::new());
        loop {
            let uri = query(
                &path,
                &[("labelSelector", labels), ("limit", PAGE), ("continue", &after)],
            );
            let mut page = self
                .ask(request(Method::GET, &uri, "application/json", Vec::new())?)
                .await?;
            if let Value::Array(items) = page["items"].take() {
                all.extend(items);
            }
            match page["metadata"]["continue"].as_str() {
                Some(next) if !next.is_empty() => next.clone_into(&mut after),
                _ => return Ok(all),
            }
        }
    }

    async fn delete(&self, place: &Place<'_>, uid: &str) -> Result<(), ClusterError> {
        self.lead()?;
        let path = format!("{}/{}", path(place.kind, place.namespace), place.name);
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground",
            "preconditions": { "uid": uid },
        });
        let body = options.to_string().into_bytes();
        self.find(request(Method::DELETE, &path, "application/json", body)?)
            .await
            .map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use provisioner::kit::names::{NAMESPACE, NETWORK_POLICY};

    #[test]
    fn paths_are_those_of_the_api_server() {
        assert_eq!(path(&NAMESPACE, None), "/api/v1/namespaces");
        assert_eq!(
            path(&NETWORK_POLICY, Some("a")),
            "/apis/networking.k8s.io/v1/namespaces/a/networkpolicies"
        );
        assert_eq!(query("/x", &[("a", "b=c"), ("d", "")]), "/x?a=b%3Dc");
    }
}
