//! Hears what changes in the cluster, and says which plane to look at. What is heard decides nothing: a watch that breaks off or
//! lags behind only makes the reconciler look later, when its timer does.

use std::time::Duration;

use contract::ids::OrganizationId;
use futures::StreamExt;
use http::{HeaderValue, Method, header};
use kube::Client;
use kube::core::WatchEvent;
use provisioner::kit::names::{
    self, DEPLOYMENT, IN_NAMESPACE, Kind, MANAGER, NAMESPACE, NODE_POOL, ORGANIZATION, OURS, POD, SECRET,
};
use provisioner::kubernetes::ports::ClusterError;
use serde_json::Value;

use crate::api_server::{meaning, path, query, request};

/// What broke off is tried again after that.
const PAUSE: Duration = Duration::from_secs(5);
/// What the cluster does not know, Karpenter's kinds mostly, is asked for again after that.
const PAUSE_UNKNOWN: Duration = Duration::from_secs(300);
/// The API server ends a watch after that.
const WATCH_SECONDS: &str = "290";
/// Nobody needs more of an object than who it belongs to and who changed it.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Of whom something changed.
    pub organization: OrganizationId,
    /// Somebody else may have changed what stands around the plane.
    pub touched: bool,
}

/// Watches one kind for ever, and tells what it hears.
async fn watch(client: Client, kind: Kind, labels: String, tell: impl Fn(Heard)) {
    loop {
        let pause = match once(&client, &kind, &labels, &tell).await {
            Ok(()) | Err(ClusterError::Gone) => PAUSE / 10,
            Err(ClusterError::Refused(why)) => {
                tracing::debug!("{} cannot be watched: {why}", kind.plural);
                PAUSE_UNKNOWN
            }
            Err(error) => {
                tracing::info!("watching {} broke off, which is tried again: {error}", kind.plural);
                PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Watches all kinds that planes are made of, until it is dropped.
pub async fn watch_all(client: Client, tell: impl Fn(Heard) + Clone) {
    let planes = format!("{ORGANIZATION},{}=plane", names::PART);
    let mut kinds = vec![
        (NAMESPACE, OURS.to_owned()),
        (DEPLOYMENT, OURS.to_owned()),
        (NODE_POOL, OURS.to_owned()),
    ];
    kinds.extend(IN_NAMESPACE.map(|kind| (kind, OURS.to_owned())));
    kinds.extend([(SECRET, planes.clone()), (POD, planes)]);
    let watches = kinds
        .into_iter()
        .map(|(kind, labels)| watch(client.clone(), kind, labels, tell.clone()));
    futures::future::join_all(watches).await;
}

async fn once(client: &Client, kind: &Kind, labels: &str, tell: &impl Fn(Heard)) -> Result<(), ClusterError> {
    let all = path(kind, None);
    // Where to begin: an empty list says of when it is.
    let uri = query(&all, &[("labelSelector", labels), ("limit", "1")]);
    let mut first = request(Method::GET, &uri, "application/json", Vec::new())?;
    first
        .headers_mut()
        .insert(header::ACCEPT, HeaderValue::from_static(METADATA_LIST));
    let list: Value = client.request(first).await.map_err(meaning)?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let parameters = [
        ("watch", "true"),
        ("labelSelector", labels),
        ("resourceVersion", version),
        ("timeoutSeconds", WATCH_SECONDS),
    ];
    let mut following = request(Method::GET, &query(&all, &parameters), "application/json", Vec::new())?;
    following
        .headers_mut()
        .insert(header::ACCEPT, HeaderValue::from_static(METADATA));
    let events = client.request_events::<Value>(following).await.map_err(meaning)?;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let heard = match event.map_err(meaning)? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => hear(kind, &object, false),
            WatchEvent::Deleted(object) => hear(kind, &object, true),
            WatchEvent::Bookmark(_) => None,
            WatchEvent::Error(status) => return Err(meaning(kube::Error::Api(status))),
        };
        if let Some(heard) = heard {
            tell(heard);
        }
    }
    Ok(())
}

/// What an event says. What we wrote last ourselves is as we want it.
fn hear(kind: &Kind, object: &Value, gone: bool) -> Option<Heard> {
    let organization = names::label(object, ORGANIZATION)?.parse().ok()?;
    let fields = object["metadata"]["managedFields"].as_array();
    let last = fields
        .into_iter()
        .flatten()
        .filter(|entry| entry["subresource"].as_str().unwrap_or_default().is_empty())
        .max_by_key(|entry| entry["time"].as_str().unwrap_or_default().to_owned());
    let by_us = last.is_some_and(|entry| entry["manager"] == MANAGER);
    let moves = [DEPLOYMENT.kind, POD.kind].contains(&kind.kind);
    Some(Heard {
        organization,
        touched: !moves && (gone || !by_us),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use provisioner::kit::names::RESOURCE_QUOTA;
    use serde_json::json;

    #[test]
    fn what_somebody_else_changed_or_removed_is_looked_at_in_full() {
        let id = OrganizationId::generate(1, [1; 10]);
        let of = |entries: Value| json!({ "metadata": { "labels": { ORGANIZATION: id.to_string() }, "managedFields": entries } });
        let ours = json!({ "manager": "howdah", "time": "2026-11-26T12:00:01Z" });
        let status =
            json!({ "manager": "kube-controller-manager", "time": "2026-11-26T12:00:02Z", "subresource": "status" });
        let theirs = json!({ "manager": "kubectl", "time": "2026-11-26T12:00:03Z" });
        let touched = |kind: &Kind, entries: Value, gone| hear(kind, &of(entries), gone).map(|heard| heard.touched);
        assert_eq!(touched(&RESOURCE_QUOTA, json!([ours, status]), false), Some(false));
        assert_eq!(touched(&RESOURCE_QUOTA, json!([ours, theirs]), false), Some(true));
        assert_eq!(touched(&RESOURCE_QUOTA, json!([ours]), true), Some(true));
        assert_eq!(touched(&POD, json!([theirs]), false), Some(false));
        assert_eq!(hear(&POD, &json!({ "metadata": {} }), false), None);
    }
}
