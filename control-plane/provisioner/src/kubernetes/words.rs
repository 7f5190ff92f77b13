//! Why a plane does not come up, in words that say what to do.

use serde_json::Value;

/// Messages of images and of the scheduler can be pages long.
const MESSAGE_MAX: usize = 400;

/// What is in the way of a deployment's pods; `None`: nothing that would not pass by itself.
pub(super) fn why(deployment: &Value, pods: &[Value]) -> Option<String> {
    pods.iter().find_map(of_pod).or_else(|| of_deployment(deployment))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn message(of: &Value) -> String {
    let text = of["message"].as_str().unwrap_or("no reason is given");
    text.chars().take(MESSAGE_MAX).collect()
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(&object["status"]["conditions"]).find(|condition| condition["type"] == kind)
}

fn of_deployment(deployment: &Value) -> Option<String> {
    let refused = condition(deployment, "ReplicaFailure").filter(|c| c["status"] == "True")?;
    let message = message(refused);
    Some(if message.contains("exceeded quota") {
        format!("the quota of the organization leaves no room for its data plane: {message}")
    } else {
        format!("the cluster refuses the data plane's pod: {message}")
    })
}

fn of_pod(pod: &Value) -> Option<String> {
    let unscheduled =
        condition(pod, "PodScheduled").filter(|c| c["status"] == "False" && c["reason"] == "Unschedulable");
    if let Some(unscheduled) = unscheduled {
        return Some(format!(
            "no node of the cluster has room for the data plane: {}",
            message(unscheduled)
        ));
    }
    if pod["status"]["reason"] == "Evicted" {
        return Some(format!(
            "the data plane was evicted from its node: {}",
            message(&pod["status"])
        ));
    }
    let status = &pod["status"];
    list(&status["initContainerStatuses"])
        .chain(list(&status["containerStatuses"]))
        .find_map(of_container)
}

fn of_container(status: &Value) -> Option<String> {
    let what = match status["name"].as_str() {
        Some("migrate") => "bringing the schema of its database up to date",
        _ => "the data plane",
    };
    let waiting = &status["state"]["waiting"];
    match waiting["reason"].as_str().unwrap_or_default() {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "RegistryUnavailable" => {
            let image = status["image"].as_str().unwrap_or_default();
            return Some(format!("the image `{image}` cannot be pulled: {}", message(waiting)));
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            return Some(format!(
                "the pod of the data plane cannot be started: {}",
                message(waiting)
            ));
        }
        _ => {}
    }
    let last = &status["lastState"]["terminated"];
    let now = &status["state"]["terminated"];
    let ended = [now, last].into_iter().find(|ended| ended.is_object())?;
    let code = ended["exitCode"].as_i64().unwrap_or(0);
    if code == 0 {
        return None;
    }
    if ended["reason"] == "OOMKilled" {
        return Some(format!(
            "{what} needs more memory than the data plane's pod has, and was ended"
        ));
    }
    let said = ended["message"].as_str().and_then(|text| text.trim().lines().last());
    let said: String = said.unwrap_or("it said nothing").chars().take(MESSAGE_MAX).collect();
    Some(format!("{what} ends again and again, with exit code {code}: {said}"))
}

/// What keeps a namespace from going, of what it says itself.
pub(super) fn what_holds(space: &Value) -> String {
    let kinds = [
        "NamespaceContentRemaining",
        "NamespaceFinalizersRemaining",
        "NamespaceDeletionContentFailure",
    ];
    let held: Vec<String> = kinds
        .iter()
        .filter_map(|kind| condition(space, kind))
        .filter(|condition| condition["status"] == "True")
        .map(message)
        .collect();
    match held.is_empty() {
        true => String::new(),
        false => format!(" ({})", held.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: &Value) -> Value {
        json!({ "status": status })
    }

    #[test]
    fn each_thing_in_the_way_is_told_apart() {
        let waiting = |reason: &str| {
            pod(&json!({ "containerStatuses": [{
                "name": "plane", "image": "x:1", "state": { "waiting": { "reason": reason, "message": "m" } },
            }] }))
        };
        let ended = |name: &str, reason: &str| {
            pod(&json!({ "initContainerStatuses": [{
                "name": name, "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                "lastState": { "terminated": { "exitCode": 1, "reason": reason, "message": "first\nlast\n" } },
            }] }))
        };
        let unscheduled =
            json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes" });
        for (pod, expected) in [
            (waiting("ImagePullBackOff"), "the image `x:1` cannot be pulled: m"),
            (waiting("CreateContainerConfigError"), "cannot be started: m"),
            (ended("plane", "Error"), "ends again and again, with exit code 1: last"),
            (ended("migrate", "Error"), "bringing the schema"),
            (ended("plane", "OOMKilled"), "more memory"),
            (
                pod(&json!({ "conditions": [unscheduled] })),
                "no node of the cluster has room",
            ),
        ] {
            let said = why(&Value::Null, &[pod]).unwrap();
            assert!(said.contains(expected), "{said}");
        }
        let quota = json!({ "status": { "conditions": [{
            "type": "ReplicaFailure", "status": "True", "message": "forbidden: exceeded quota: plan",
        }] } });
        assert!(why(&quota, &[]).unwrap().starts_with("the quota"));
        assert_eq!(why(&Value::Null, &[waiting("ContainerCreating")]), None);
        assert_eq!(why(&Value::Null, &[]), None);
    }
}
