//! The API server: versions, server-side apply, namespaces that have to exist, deletions that take their time, answers that get lost,
//! caches that lag behind.

use async_trait::async_trait;
use provisioner::kit::names::{self, Kind, NAMESPACE};
use provisioner::kubernetes::ports::{Cluster, ClusterError, Expected, Place};
use serde_json::{Value, json};

use crate::world::{Key, Luck, Shared, World};

pub fn key(kind: &str, namespace: Option<&str>, name: &str) -> Key {
    (
        kind.to_owned(),
        namespace.unwrap_or_default().to_owned(),
        name.to_owned(),
    )
}

fn key_of(object: &Value) -> Key {
    let kind = object["kind"].as_str().unwrap();
    key(kind, object["metadata"]["namespace"].as_str(), names::name(object))
}

/// Puts what is said onto what is there, without what was said before and is not any more.
fn merge(there: &mut Value, before: &Value, said: &Value) {
    match (there, said) {
        (Value::Object(there), Value::Object(said)) => {
            for name in before.as_object().into_iter().flat_map(|map| map.keys()) {
                if !said.contains_key(name) {
                    there.remove(name);
                }
            }
            for (name, value) in said {
                merge(
                    there.entry(name.clone()).or_insert(Value::Null),
                    &before[name.as_str()],
                    value,
                );
            }
        }
        (there, said) => *there = said.clone(),
    }
}

impl World {
    fn conflict(what: &Key) -> ClusterError {
        ClusterError::Conflict(format!("{} {}", what.0, what.2))
    }

    fn unlucky(&mut self) -> ClusterError {
        match self.pick(4) {
            0 => ClusterError::Busy,
            1 => ClusterError::Gone,
            _ => ClusterError::Failed("500".to_owned()),
        }
    }

    fn do_apply(&mut self, said: &Value, expected: &Expected) -> Result<Value, ClusterError> {
        let key = key_of(said);
        let namespace = self.objects.get(&self::key("Namespace", None, &key.1));
        if !key.1.is_empty() && namespace.is_none_or(|n| n["metadata"]["deletionTimestamp"].is_string()) {
            return Err(ClusterError::Refused(format!(
                "namespace {} is not there or goes",
                key.1
            )));
        }
        let there = self.objects.get(&key).cloned();
        match (&there, expected) {
            (None, Expected::Version(_)) | (Some(_), Expected::Absent) => return Err(Self::conflict(&key)),
            (Some(there), Expected::Version(version)) if there["metadata"]["resourceVersion"] != *version => {
                return Err(Self::conflict(&key));
            }
            _ => {}
        }
        // The property itself: an older instruction never overwrites a newer one.
        let (ours, theirs) = (names::generation(said), there.as_ref().and_then(names::generation));
        assert!(
            theirs <= ours || ours.is_none(),
            "{key:?}: {theirs:?} was overwritten by {ours:?}"
        );
        let owner = there.as_ref().map(names::owner);
        let is_default = key.0 == "ServiceAccount" && key.2 == "default";
        assert!(
            owner.is_none_or(|owner| owner == names::owner(said)) || is_default,
            "{key:?} was somebody else's"
        );
        let mut object = there
            .clone()
            .unwrap_or_else(|| json!({ "metadata": { "generation": 0 } }));
        let before = self.applied.insert(key.clone(), said.clone()).unwrap_or_default();
        let spec = object["spec"].clone();
        merge(&mut object, &before, said);
        if there.is_none() {
            self.version += 1;
            object["metadata"]["uid"] = format!("uid-{}", self.version).into();
            self.complete(&mut object);
        }
        if object["spec"] != spec {
            let generation = object["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            object["metadata"]["generation"] = generation.into();
        }
        if Some(&object) != there.as_ref() {
            object["metadata"]["resourceVersion"] = self.next_version().into();
        }
        self.objects.insert(key, object.clone());
        Ok(object)
    }

    /// What the API server and admission add.
    fn complete(&mut self, object: &mut Value) {
        match object["kind"].as_str() {
            Some("Service") => object["spec"]["clusterIP"] = format!("10.0.0.{}", self.version % 250).into(),
            Some("Namespace") => {
                let name = names::name(object).to_owned();
                object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.clone().into();
                let account = json!({
                    "apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": { "name": "default", "namespace": name, "resourceVersion": self.next_version(), "uid": "sa" },
                });
                self.objects
                    .insert(key("ServiceAccount", Some(&name), "default"), account);
            }
            Some("NodePool") => object["metadata"]["finalizers"] = json!(["karpenter.sh/termination"]),
            _ => {}
        }
    }

    fn do_delete(&mut self, place: &Place<'_>, uid: &str) -> Result<(), ClusterError> {
        let key = key(place.kind.kind, place.namespace, place.name);
        let now = self.now.to_rfc3339();
        let version = self.next_version();
        let Some(object) = self.objects.get_mut(&key) else {
            return Ok(());
        };
        if object["metadata"]["uid"] != uid {
            return Err(Self::conflict(&key));
        }
        assert!(
            names::label(object, "app.kubernetes.io/managed-by") == Some("howdah"),
            "{key:?} is not ours and was removed"
        );
        let lingers = matches!(place.kind.kind, "Namespace" | "NodePool" | "Deployment" | "Pod");
        if lingers {
            object["metadata"]["deletionTimestamp"] = now.into();
            object["metadata"]["resourceVersion"] = version.into();
        } else {
            self.objects.remove(&key);
        }
        Ok(())
    }
}

pub struct ApiServer(pub Shared);

impl ApiServer {
    /// A call that changes something: it is done, or not, and its answer may get lost.
    async fn write<T>(&self, change: impl FnOnce(&mut World) -> Result<T, ClusterError>) -> Result<T, ClusterError> {
        self.0.call(true).await;
        let mut world = self.0.world();
        world.asked += 1;
        let luck = world.luck();
        if luck == Luck::Before {
            return Err(world.unlucky());
        }
        let answer = change(&mut world);
        match luck {
            Luck::After => Err(world.unlucky()),
            _ => answer,
        }
    }
}

#[async_trait]
impl Cluster for ApiServer {
    async fn apply(&self, object: &Value, expected: &Expected) -> Result<Value, ClusterError> {
        self.write(|world| {
            let answer = world.do_apply(object, expected);
            let line = format!("apply {:?} {}", key_of(object), answer.is_ok());
            world.log.push(line);
            answer
        })
        .await
    }

    async fn get(&self, place: &Place<'_>) -> Result<Option<Value>, ClusterError> {
        self.0.call(false).await;
        let mut world = self.0.world();
        world.asked += 1;
        if world.luck() != Luck::Good {
            return Err(world.unlucky());
        }
        let key = key(place.kind.kind, place.namespace, place.name);
        Ok(world.objects.get(&key).cloned())
    }

    async fn list(&self, kind: &Kind, namespace: Option<&str>, labels: &str) -> Result<Vec<Value>, ClusterError> {
        self.0.call(false).await;
        let mut world = self.0.world();
        world.asked += 1;
        if world.luck() != Luck::Good {
            return Err(world.unlucky());
        }
        // What many are read from at once may lag behind.
        let lags = world.trouble > 0 && kind.kind != "Pod" && world.one_in(5);
        let from = if lags { &world.stale } else { &world.objects };
        let wanted: Vec<(&str, &str)> = labels.split(',').filter_map(|label| label.split_once('=')).collect();
        let first = key(kind.kind, namespace, "");
        Ok(from
            .range(first..)
            .take_while(|(key, _)| key.0 == kind.kind && namespace.is_none_or(|namespace| key.1 == namespace))
            .filter(|(_, object)| {
                wanted
                    .iter()
                    .all(|(name, value)| names::label(object, name) == Some(value))
            })
            .map(|(_, object)| object.clone())
            .collect())
    }

    async fn delete(&self, place: &Place<'_>, uid: &str) -> Result<(), ClusterError> {
        self.write(|world| {
            let answer = world.do_delete(place, uid);
            world.log.push(format!("delete {} {}", place.kind.kind, place.name));
            answer
        })
        .await
    }
}

/// Whether a namespace is there, going or not.
pub fn has_namespace(world: &World, name: &str) -> bool {
    world.objects.contains_key(&key(NAMESPACE.kind, None, name))
}
