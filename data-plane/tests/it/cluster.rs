//! A cluster's API over HTTP, as far as a plane uses it: pods that are listed, watched, made and removed, and secrets. What a
//! kubelet would do, tests do.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

/// What there is, and what happened.
#[derive(Default)]
pub struct Objects {
    pub pods: BTreeMap<String, Value>,
    pub secrets: BTreeMap<String, Value>,
    /// How many pods the quota admits.
    pub quota: Option<usize>,
    /// Pods that were made, by name.
    pub made: Vec<String>,
    events: Vec<(u64, Value)>,
    version: u64,
}

#[derive(Clone)]
pub struct Cluster {
    pub url: String,
    objects: Arc<Mutex<Objects>>,
    changed: watch::Sender<u64>,
}

impl Cluster {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cluster = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            objects: Arc::default(),
            changed: watch::Sender::new(0),
        };
        let app = Router::new()
            .route("/api/v1/namespaces/{ns}/pods", get(pods).post(create))
            .route("/api/v1/namespaces/{ns}/pods/{name}", delete(remove))
            .route(
                "/api/v1/namespaces/{ns}/secrets/{name}",
                delete(remove_secret).patch(apply_secret),
            )
            .with_state(cluster.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        cluster
    }

    /// What says to a client where it is.
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": { "server": self.url } }],
            "users": [{ "name": "u", "user": {} }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        })
        .to_string()
    }

    pub fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap()
    }

    /// Wakes when something is said of a pod.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Says how a pod is.
    pub fn set_status(&self, name: &str, status: &Value) {
        self.change(|objects| {
            let pod = objects.pods.get_mut(name)?;
            pod["status"] = status.clone();
            Some(("MODIFIED", pod.clone()))
        });
    }

    /// Removes a pod, as when its node is gone.
    pub fn lose(&self, name: &str) {
        self.change(|objects| Some(("DELETED", objects.pods.remove(name)?)));
    }

    fn change(&self, what: impl FnOnce(&mut Objects) -> Option<(&'static str, Value)>) {
        let mut objects = self.objects();
        if let Some((kind, mut pod)) = what(&mut objects) {
            objects.version += 1;
            let version = objects.version;
            pod["metadata"]["resourceVersion"] = json!(version.to_string());
            objects.events.push((version, json!({ "type": kind, "object": pod })));
            drop(objects);
            self.changed.send_replace(version);
        }
    }
}

fn refused(code: StatusCode, reason: &str, message: &str) -> Response {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(),
        "reason": reason, "message": message });
    (code, axum::Json(status)).into_response()
}

async fn pods(State(cluster): State<Cluster>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    assert_eq!(query["labelSelector"], pods::manifest::SELECTOR);
    if query.get("watch").is_none_or(|watch| watch != "true") {
        let objects = cluster.objects();
        let items: Vec<&Value> = objects.pods.values().collect();
        let list = json!({ "kind": "PodList", "apiVersion": "v1", "items": items,
            "metadata": { "resourceVersion": objects.version.to_string() } });
        return axum::Json(list).into_response();
    }
    let seen: u64 = query["resourceVersion"].parse().unwrap();
    let changed = cluster.changed.subscribe();
    let lines = futures::stream::unfold((cluster, seen, changed), async |(cluster, seen, mut changed)| {
        loop {
            changed.borrow_and_update();
            let next = cluster
                .objects()
                .events
                .iter()
                .find(|(version, _)| *version > seen)
                .cloned();
            if let Some((version, event)) = next {
                return Some((Ok::<_, Infallible>(format!("{event}\n")), (cluster, version, changed)));
            }
            changed.changed().await.ok()?;
        }
    });
    Body::from_stream(lines).into_response()
}

async fn create(State(cluster): State<Cluster>, axum::Json(mut pod): axum::Json<Value>) -> Response {
    let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
    {
        let objects = cluster.objects();
        if objects.pods.contains_key(&name) {
            return refused(StatusCode::CONFLICT, "AlreadyExists", "it is there");
        }
        if objects.quota.is_some_and(|most| objects.pods.len() >= most) {
            let message = "it is forbidden: exceeded quota: plan, requested: pods=1, used: pods=0, limited: pods=0";
            return refused(StatusCode::FORBIDDEN, "Forbidden", message);
        }
    }
    pod["metadata"]["uid"] = json!(Uuid::new_v4());
    let now = data_plane::Environment::system().now();
    pod["metadata"]["creationTimestamp"] = json!(now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
    pod["status"] = json!({ "phase": "Pending" });
    cluster.change(|objects| {
        objects.made.push(name.clone());
        objects.pods.insert(name, pod.clone());
        Some(("ADDED", pod.clone()))
    });
    (StatusCode::CREATED, axum::Json(pod)).into_response()
}

async fn remove(
    State(cluster): State<Cluster>,
    Path((_, name)): Path<(String, String)>,
    axum::Json(how): axum::Json<Value>,
) -> Response {
    let found = cluster.objects().pods.get(&name).cloned();
    let Some(pod) = found else {
        return refused(StatusCode::NOT_FOUND, "NotFound", "it is not there");
    };
    if pod["metadata"]["uid"] != how["preconditions"]["uid"] {
        return refused(StatusCode::CONFLICT, "Conflict", "it is another one");
    }
    cluster.lose(&name);
    axum::Json(pod).into_response()
}

async fn apply_secret(
    State(cluster): State<Cluster>,
    Path((_, name)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Response {
    assert_eq!(
        (query["fieldManager"].as_str(), query["force"].as_str()),
        ("howdah", "true")
    );
    let secret: Value = serde_json::from_slice(&body).unwrap();
    cluster.objects().secrets.insert(name, secret.clone());
    axum::Json(secret).into_response()
}

async fn remove_secret(State(cluster): State<Cluster>, Path((_, name)): Path<(String, String)>) -> Response {
    match cluster.objects().secrets.remove(&name) {
        Some(_) => axum::Json(json!({ "kind": "Status", "apiVersion": "v1", "status": "Success", "code": 200 }))
            .into_response(),
        None => refused(StatusCode::NOT_FOUND, "NotFound", "it is not there"),
    }
}
