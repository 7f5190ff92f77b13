//! What a cluster does by itself: pods of deployments come, become ready and go, what is being removed is gone after a while.

use serde_json::{Value, json};

use crate::api_server::key;
use crate::world::{Key, World};

fn leaves(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

impl World {
    /// One turn of all controllers; each does only a part of its work.
    pub fn turn(&mut self) {
        let keys: Vec<Key> = self.objects.keys().cloned().collect();
        for key in keys {
            if self.one_in(3) {
                continue;
            }
            match key.0.as_str() {
                "Namespace" => self.finish_namespace(&key),
                "NodePool" | "Pod" => self.finish(&key),
                "Deployment" => self.run_deployment(&key),
                _ => {}
            }
        }
        for space in self.objects.keys().filter(|key| key.0 == "Namespace") {
            // Two pods of a plane would be two writers.
            assert!(
                self.pods(&space.2).len() <= 1,
                "two pods of a plane at once in {}",
                space.2
            );
        }
        if self.trouble > 0 && self.one_in(4) {
            self.stale = self.objects.clone();
        }
    }

    fn pods(&self, space: &str) -> Vec<Key> {
        let first = key("Pod", Some(space), "");
        let pods = self.objects.range(first..).map(|(key, _)| key);
        pods.take_while(|key| key.0 == "Pod" && key.1 == space)
            .cloned()
            .collect()
    }

    fn finish(&mut self, key: &Key) {
        if self.objects.get(key).is_some_and(leaves) {
            self.objects.remove(key);
            self.applied.remove(key);
        }
    }

    fn finish_namespace(&mut self, key: &Key) {
        if !self.objects.get(key).is_some_and(leaves) {
            return;
        }
        let inside: Vec<Key> = self.objects.keys().filter(|k| k.1 == key.2).cloned().collect();
        let Some(next) = inside.first().cloned() else {
            self.finish(key);
            return;
        };
        // Pods end before they are gone.
        for inner in &inside {
            if inner.0 == "Pod" {
                let now = self.now.to_rfc3339();
                if let Some(pod) = self.objects.get_mut(inner) {
                    pod["metadata"]["deletionTimestamp"] = now.into();
                }
            } else if *inner == next || self.one_in(2) {
                self.objects.remove(inner);
                self.applied.remove(inner);
            }
        }
    }

    fn run_deployment(&mut self, at: &Key) {
        let Some(deployment) = self.objects.get(at).cloned() else {
            return;
        };
        let pods = self.pods(&at.1);
        let replicas = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
        let template = deployment["spec"]["template"].to_string();
        if leaves(&deployment) || replicas == 0 {
            for pod in &pods {
                self.end(pod);
            }
            if pods.is_empty() && leaves(&deployment) {
                self.finish(at);
                return;
            }
            self.tell(at, 0, false);
            return;
        }
        let Some(pod) = pods.first() else {
            let name = format!("plane-{}", self.next_version());
            let mut labels = deployment["spec"]["template"]["metadata"]["labels"].clone();
            labels["howdah.dev/part"] = "plane".into();
            let pod = json!({ "kind": "Pod", "metadata": { "name": name, "namespace": at.1, "labels": labels }, "template": template });
            let going = self.objects.get(&key("Namespace", None, &at.1)).is_none_or(leaves);
            if !going {
                self.objects.insert(key("Pod", Some(&at.1), &name), pod);
            }
            self.tell(at, 1, false);
            return;
        };
        let found = self.objects[pod].clone();
        if found["template"] != template {
            self.end(pod);
            self.tell(at, 1, false);
            return;
        }
        let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str();
        if image.is_some_and(|image| self.bad_images.contains(image)) {
            let status = json!({ "containerStatuses": [{ "name": "plane", "image": image,
                "state": { "waiting": { "reason": "ImagePullBackOff", "message": "not found" } } }] });
            if let Some(pod) = self.objects.get_mut(pod) {
                pod["status"] = status;
            }
            self.tell(at, 1, false);
            return;
        }
        let ready = !leaves(&found);
        self.tell(at, 1, ready);
    }

    fn end(&mut self, pod: &Key) {
        let now = self.now.to_rfc3339();
        if let Some(pod) = self.objects.get_mut(pod) {
            pod["metadata"]["deletionTimestamp"] = now.into();
        }
    }

    fn tell(&mut self, at: &Key, replicas: u32, ready: bool) {
        let version = self.next_version();
        let Some(deployment) = self.objects.get_mut(at) else {
            return;
        };
        let status = json!({
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": replicas, "updatedReplicas": replicas, "availableReplicas": u32::from(ready),
        });
        if deployment["status"] != status {
            deployment["status"] = status;
            deployment["metadata"]["resourceVersion"] = version.into();
        }
    }
}
