//! Room that is held for planes which wake: pods of the plane's image and size that do nothing, and that give way to whoever has
//! something to do. A plane that starts takes the place of one at once, on a node that has its image; the one that gave way waits
//! for the next node.

use contract::cloud::KubernetesConfig;
use serde_json::{Value, json};

use super::names::{DEPLOYMENT, INSTALLATION, Kind, PART, PRIORITY_CLASS};
use super::workload;

const NAME: &str = "warm-planes";
/// Below everybody who does not say so, and not so low that autoscalers make no nodes for it.
const PRIORITY: i32 = -10;

/// The objects, which no organization owns: those to have, or none of them where room for no plane is to be held.
pub fn warm(config: &KubernetesConfig, installation: &str) -> Vec<Value> {
    let labels = json!({ "app.kubernetes.io/managed-by": "howdah", INSTALLATION: installation, PART: "warm" });
    // Other installations of the cluster have one of their own.
    let class = format!("{}-{NAME}", config.system_namespace);
    let object = |kind: &Kind, name: &str| {
        json!({
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": { "name": name, "labels": labels },
        })
    };
    let mut priority = object(&PRIORITY_CLASS, &class);
    priority["value"] = PRIORITY.into();
    priority["preemptionPolicy"] = "Never".into();
    priority["description"] = "holds room for data planes that wake, and gives way to anything else".into();
    let mut deployment = object(&DEPLOYMENT, NAME);
    deployment["metadata"]["namespace"] = config.system_namespace.clone().into();
    let mut container = workload::program(&config.plane, &config.plane_image, "room");
    container["command"] = json!([workload::BINARY, "wait"]);
    let apart = json!([{
        "topologyKey": "kubernetes.io/hostname",
        "maxSkew": 1,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": { "matchLabels": labels },
    }]);
    deployment["spec"] = json!({
        "replicas": config.warm.planes,
        // Room for one more than are wanted would be bought for nothing.
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 1 } },
        "revisionHistoryLimit": 1,
        "selector": { "matchLabels": labels },
        "template": {
            "metadata": { "labels": labels },
            "spec": {
                "priorityClassName": class,
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "securityContext": workload::security(),
                "topologySpreadConstraints": apart,
                "containers": [container],
            },
        },
    });
    // Made in this order: a pod names its class.
    vec![priority, deployment]
}
