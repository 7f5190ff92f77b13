//! What the cluster says of a pod, and what people are told.

use chrono::{DateTime, Duration, Utc};
use pods::PodSeen;
use pods::trouble::{Eviction, Fate, Trouble, diagnose, is_hopeless};
use serde_json::{Value, json};

fn now() -> DateTime<Utc> {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

fn pod(status: &Value) -> PodSeen {
    let pod = json!({
        "metadata": {
            "name": "w-00000000000000000000000000000007-2-3",
            "uid": "00000000-0000-0000-0000-000000000009",
            "creationTimestamp": "2026-11-26T11:50:00Z",
        },
        "spec": { "nodeName": "n1" },
        "status": status,
    });
    PodSeen::read(&pod).unwrap()
}

fn waiting(name: &str, reason: &str, message: &str) -> Value {
    let which = if name == "shim" {
        "initContainerStatuses"
    } else {
        "containerStatuses"
    };
    json!({ "phase": "Pending",
        which: [{ "name": name, "ready": false, "restartCount": 5,
            "state": { "waiting": { "reason": reason, "message": message } },
            "lastState": { "terminated": { "reason": "Error", "exitCode": 1, "finishedAt": "2026-11-26T11:59:30Z" } } }] })
}

fn words(status: &Value) -> String {
    diagnose(&pod(status), now())
        .map(|trouble| trouble.to_string())
        .unwrap_or_default()
}

#[test]
fn why_an_image_is_not_there_is_told_with_what_to_do() {
    for (reason, message, expected) in [
        (
            "InvalidImageName",
            "Failed to apply default image tag \"UP\": couldn't parse image name",
            "correct `transform.image`",
        ),
        (
            "ImagePullBackOff",
            "Back-off pulling image \"ghcr.io/a/b@sha256:1\": ErrImagePull: rpc error: code = NotFound desc = failed to pull: ghcr.io/a/b: not found",
            "push it",
        ),
        (
            "ErrImagePull",
            "failed to resolve reference: pulling from host ghcr.io failed with status code: 403 Forbidden",
            "`transform.image_pull_secrets`",
        ),
        (
            "ErrImagePull",
            "pull access denied, repository does not exist or may require authorization",
            "image_pull_secrets",
        ),
        (
            "ErrImagePull",
            "toomanyrequests: You have reached your pull rate limit",
            "asked too often",
        ),
        (
            "ErrImagePull",
            "dial tcp 10.0.0.1:443: i/o timeout",
            "do not reach its registry",
        ),
        (
            "ErrImagePull",
            "no match for platform in manifest: not found",
            "another kind of processor",
        ),
        (
            "ErrImagePull",
            "write /var/lib/x: no space left on device",
            "disk is full",
        ),
        ("ErrImagePull", "something else", "something else"),
    ] {
        let said = words(&waiting("user", reason, message));
        assert!(
            said.starts_with("the image cannot be pulled: ") && said.contains(expected),
            "{message}: {said}"
        );
    }
    let ours = words(&waiting("shim", "ErrImagePull", "not found"));
    assert!(ours.contains("whoever operates the service"), "{ours}");
}

#[test]
fn an_image_that_backs_off_is_told_as_when_it_was_pulled() {
    let said = "rpc error: code = NotFound desc = not found";
    let first = words(&waiting("user", "ErrImagePull", said));
    let then = words(&waiting(
        "user",
        "ImagePullBackOff",
        &format!("Back-off pulling image \"a\": ErrImagePull: {said}"),
    ));
    assert_eq!(first, then);
}

#[test]
fn containers_that_cannot_run_are_told_apart() {
    let crash = words(&waiting(
        "user",
        "CrashLoopBackOff",
        "back-off 5m0s restarting failed container",
    ));
    assert!(crash.contains("ends again and again (exit code 1, Error)"), "{crash}");
    let agent = words(&waiting("agent", "CrashLoopBackOff", "back-off"));
    assert!(
        agent.contains("the agent beside the code") && agent.contains("whoever operates"),
        "{agent}"
    );
    let config = words(&waiting("user", "CreateContainerConfigError", "secret not found"));
    assert!(config.contains("cannot be started: secret not found"), "{config}");
    assert_eq!(words(&waiting("user", "ContainerCreating", "")), "");
    assert_eq!(words(&waiting("user", "PodInitializing", "")), "");
}

#[test]
fn code_that_took_too_much_memory_is_told_of_for_a_while() {
    let killed = |at: &str| {
        json!({ "phase": "Running", "containerStatuses": [{ "name": "user", "ready": true, "restartCount": 1,
            "state": { "running": {} },
            "lastState": { "terminated": { "reason": "OOMKilled", "exitCode": 137, "finishedAt": at } } }] })
    };
    assert!(words(&killed("2026-11-26T11:59:00Z")).contains("`resource_limits.memory`"));
    assert_eq!(words(&killed("2026-11-26T11:40:00Z")), "");
}

#[test]
fn pods_that_will_not_run_again_are_told_apart_and_blamed_only_for_what_they_did() {
    let failed = |reason: &str, message: &str| json!({ "phase": "Failed", "reason": reason, "message": message });
    for (status, wanted, fate) in [
        (
            failed("Evicted", "Usage of EmptyDir volume \"pfs\" exceeds the limit \"1Gi\"."),
            Trouble::Evicted(Eviction::Disk),
            Fate::Lost,
        ),
        (
            failed(
                "Evicted",
                "Pod ephemeral local storage usage exceeds the total limit of containers 2Gi.",
            ),
            Trouble::Evicted(Eviction::Disk),
            Fate::Lost,
        ),
        (
            failed(
                "Evicted",
                "The node was low on resource: memory. Container user was using 5Gi",
            ),
            Trouble::Evicted(Eviction::Memory),
            Fate::Lost,
        ),
        (
            failed(
                "Evicted",
                "The node was low on resource: ephemeral-storage. Threshold quantity: 1",
            ),
            Trouble::Evicted(Eviction::NodeDisk),
            Fate::Lost,
        ),
        (
            failed("OutOfcpu", "Node didn't have enough resource"),
            Trouble::Turned("OutOfcpu".to_owned()),
            Fate::LostBlameless,
        ),
        (
            failed(
                "Terminated",
                "Pod was terminated in response to imminent node shutdown.",
            ),
            Trouble::NodeLost,
            Fate::LostBlameless,
        ),
        (failed("NodeLost", ""), Trouble::NodeLost, Fate::LostBlameless),
        (failed("", "bye"), Trouble::Ended("bye".to_owned()), Fate::Lost),
        (json!({ "phase": "Unknown" }), Trouble::NodeLost, Fate::LostBlameless),
        (
            json!({ "phase": "Failed", "conditions": [{ "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler" }] }),
            Trouble::Preempted,
            Fate::LostBlameless,
        ),
        (
            json!({ "phase": "Failed", "conditions": [{ "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI" }] }),
            Trouble::Evicted(Eviction::Drained),
            Fate::LostBlameless,
        ),
        (
            json!({ "phase": "Failed", "conditions": [{ "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager" }] }),
            Trouble::NodeLost,
            Fate::LostBlameless,
        ),
    ] {
        let found = diagnose(&pod(&status), now()).unwrap();
        assert_eq!((found.clone(), found.fate()), (wanted, fate), "{status}");
        assert!(!found.to_string().is_empty());
    }
}

#[test]
fn a_pod_that_is_being_removed_is_lost_once_it_ought_to_be_gone() {
    let mut leaving = pod(&json!({ "phase": "Running" }));
    leaving.gone_by = Some(now() - Duration::seconds(30));
    assert_eq!(diagnose(&leaving, now()), None);
    assert_eq!(
        diagnose(&leaving, now() + Duration::seconds(1)),
        Some(Trouble::NodeLost)
    );
}

#[test]
fn hopeless_is_only_what_the_pipeline_can_mend_and_only_after_a_while() {
    let status = waiting("user", "ErrImagePull", "not found");
    let old = pod(&status);
    let trouble = diagnose(&old, now()).unwrap();
    assert!(is_hopeless(&trouble, &old, now() + Duration::minutes(5)));
    let mut young = old.clone();
    young.created_at = now() - Duration::minutes(4);
    assert!(!is_hopeless(&trouble, &young, now()));
    let name = diagnose(&pod(&waiting("user", "InvalidImageName", "")), now()).unwrap();
    young.created_at = now();
    assert!(is_hopeless(&name, &young, now()));
    let unplaced = json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu." }] });
    let unplaced = pod(&unplaced);
    let trouble = diagnose(&unplaced, now()).unwrap();
    assert!(!is_hopeless(&trouble, &unplaced, now()) && trouble.to_string().contains("`resource_requests.cpu`"));
    let ours = pod(&waiting("agent", "ErrImagePull", "not found"));
    assert!(!is_hopeless(&diagnose(&ours, now()).unwrap(), &ours, now()));
    let starting = pod(&waiting("user", "CrashLoopBackOff", ""));
    assert!(
        !is_hopeless(&diagnose(&starting, now()).unwrap(), &starting, now()),
        "it was started five times only"
    );
}

#[test]
fn a_container_that_runs_again_has_got_over_what_kept_it_from_starting_and_patience_counts_from_its_end() {
    let ended = json!({ "terminated": { "reason": "StartError", "message": "no room", "exitCode": 128,
        "finishedAt": (now() - Duration::minutes(1)).to_rfc3339() } });
    let with = |state: serde_json::Value, ready: bool| {
        pod(&json!({ "phase": "Running", "containerStatuses": [
            { "name": "user", "restartCount": 1, "ready": ready, "state": state, "lastState": ended }] }))
    };
    let runs = with(json!({ "running": {} }), true);
    assert_eq!(diagnose(&runs, now()), None);
    let waits = with(json!({ "waiting": { "reason": "CrashLoopBackOff" } }), false);
    let trouble = diagnose(&waits, now()).unwrap();
    assert!(trouble.to_string().contains("no room"));
    assert!(!is_hopeless(&trouble, &waits, now()), "it ended a minute ago");
    assert!(is_hopeless(&trouble, &waits, now() + Duration::minutes(4)));
}

#[test]
fn long_words_of_others_are_cut() {
    let said = words(&waiting("user", "ErrImagePull", &"ä ".repeat(1_000)));
    assert!(said.chars().count() < 400 && said.ends_with('…'), "{said}");
}
