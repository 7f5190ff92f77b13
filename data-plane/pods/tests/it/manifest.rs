//! The pods that specs get, and what they do not get.

use contract::executor::{AgentResources, GpuClass, PodsConfig, Taint};
use contract::ids::OrganizationId;
use contract::names::ProjectName;
use pods::manifest::{ORGANIZATION, Plane, TEMPLATE, USER, Unfit, config_secret, pod, pull_secret, refusals};
use pods::{Blueprint, Pool};
use provenance::spec::PipelineSpec;
use serde_json::{Value, json};
use uuid::Uuid;

fn plane() -> Plane {
    let config = json!({
        "namespace": "howdah-acme", "image": "howdah/data-plane:1", "workers_url": "http://plane:7433",
        "priority_class": "howdah-workers", "priority_classes": ["urgent"],
    });
    let mut config: PodsConfig = serde_json::from_value(config).unwrap();
    config.gpu_classes.push(GpuClass {
        name: "a100".to_owned(),
        kind: "nvidia.com/gpu".to_owned(),
        node_selector: [("howdah.dev/gpu-class".to_owned(), "a100".to_owned())].into(),
        taints: vec![Taint {
            key: ORGANIZATION.to_owned(),
            value: "acme".to_owned(),
            effect: "NoSchedule".to_owned(),
        }],
    });
    Plane {
        organization: OrganizationId::from_uuid(Uuid::from_u128(5)),
        config,
    }
}

fn spec(more: &Value) -> PipelineSpec {
    let mut value = json!({ "pipeline": { "name": "p" }, "transform": { "cmd": ["a"], "image": "a:1" },
        "input": { "pfs": { "repo": "r", "glob": "/" } } });
    for (name, field) in more.as_object().unwrap() {
        value[name] = field.clone();
    }
    PipelineSpec::parse(&value, &ProjectName::default_project()).unwrap()
}

fn made(more: &Value) -> Result<Value, Unfit> {
    let blueprint = Blueprint {
        spec: spec(more),
        image: "docker.io/library/a:1@sha256:00".to_owned(),
    };
    let pool = Pool {
        pipeline: Uuid::from_u128(1),
        version: 2,
    };
    pod(&plane(), &blueprint, pool, 3)
}

fn refused(more: &Value) -> Vec<(String, String)> {
    let refused = refusals(&plane(), &spec(more));
    refused
        .into_iter()
        .map(|unfit| (unfit.pointer, unfit.message))
        .collect()
}

#[test]
fn a_pod_is_as_the_strictest_rules_of_a_cluster_want_it() {
    let pod = made(&json!({ "transform": { "cmd": ["a"], "image": "a:1", "code": { "repo": "c" } } })).unwrap();
    let spec = &pod["spec"];
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for never in [
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "serviceAccountName",
        "shareProcessNamespace",
    ] {
        assert!(spec.get(never).is_none(), "{never}");
    }
    let containers = ["initContainers", "containers"]
        .into_iter()
        .flat_map(|kind| spec[kind].as_array().unwrap());
    for container in containers {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["capabilities"], json!({ "drop": ["ALL"] }));
        assert!(container["resources"]["requests"].is_object() && container.get("ports").is_none());
        assert_eq!(context["readOnlyRootFilesystem"], container["name"] != USER);
    }
    for volume in spec["volumes"].as_array().unwrap() {
        assert!(volume.get("hostPath").is_none(), "{volume}");
    }
}

#[test]
fn the_codes_container_sees_nothing_of_ours_but_the_program_that_runs_it() {
    let pod = made(&json!({})).unwrap();
    let user = &pod["spec"]["containers"][0];
    assert_eq!(user["name"], USER);
    assert_eq!(user["image"], "docker.io/library/a:1@sha256:00");
    let mounts: Vec<(&str, bool)> = user["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (m["mountPath"].as_str().unwrap(), m["readOnly"] == true))
        .collect();
    assert_eq!(
        mounts,
        [
            ("/howdah/bin", true),
            ("/howdah/run", false),
            ("/pfs", false),
            ("/tmp", false)
        ]
    );
    assert!(user.get("env").is_none() && user.get("envFrom").is_none());
    let text = user.to_string();
    assert!(!text.contains("config"), "{text}");
    // Of an image that has a `/code` of its own nothing is hidden.
    assert!(!pod.to_string().contains("\"/code\""));
}

#[test]
fn files_of_secrets_are_in_memory_and_in_the_codes_container_alone() {
    let secrets = json!([{ "name": "db", "mount_path": "/secrets/db" }, { "name": "x", "env_var": "X", "key": "k" },
        { "name": "tls", "mount_path": "/secrets/tls" }]);
    let pod = made(&json!({ "transform": { "cmd": ["a"], "image": "a:1", "secrets": secrets } })).unwrap();
    let containers = pod["spec"]["containers"].as_array().unwrap();
    let mounts = containers[0]["volumeMounts"].as_array().unwrap();
    for (name, path) in [("secret-0", "/secrets/db"), ("secret-1", "/secrets/tls")] {
        assert!(mounts.contains(&json!({ "name": name, "mountPath": path })));
        assert!(!containers[1].to_string().contains(path));
        let volume = json!({ "name": name, "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } });
        assert!(pod["spec"]["volumes"].as_array().unwrap().contains(&volume));
    }
}

#[test]
fn what_the_spec_asks_for_is_asked_of_the_cluster() {
    let gpu = json!({ "type": "nvidia.com/gpu", "number": 2 });
    let pod = made(&json!({
        "resource_requests": { "cpu": 0.5, "memory": "1Gi" },
        "resource_limits": { "cpu": 2, "memory": "2Gi", "disk": "3Gi", "gpu": gpu },
        "tolerations": [{ "key": "spot", "operator": "Exists", "effect": "NoExecute", "toleration_seconds": 5 }],
        "scheduling_spec": { "node_selector": { "disk": "ssd" }, "priority_class_name": "urgent" },
        "network": "internet",
    }))
    .unwrap();
    let user = &pod["spec"]["containers"][0];
    assert_eq!(
        user["resources"],
        json!({
            "requests": { "cpu": "500m", "memory": "1073741824", "nvidia.com/gpu": "2" },
            "limits": { "cpu": "2000m", "memory": "2147483648", "ephemeral-storage": "3221225472", "nvidia.com/gpu": "2" },
        })
    );
    assert_eq!(
        pod["spec"]["nodeSelector"],
        json!({ "disk": "ssd", "howdah.dev/gpu-class": "a100" })
    );
    assert_eq!(pod["spec"]["priorityClassName"], "urgent");
    assert_eq!(pod["metadata"]["labels"]["howdah.dev/network"], "internet");
    let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
    for wanted in [
        json!({ "key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5 }),
        json!({ "key": ORGANIZATION, "operator": "Equal", "value": "acme", "effect": "NoSchedule" }),
        json!({ "key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule" }),
    ] {
        assert!(tolerations.contains(&wanted), "{wanted} {tolerations:?}");
    }
    let pfs = pod["spec"]["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|v| v["name"] == "pfs")
        .unwrap();
    assert_eq!(pfs["emptyDir"]["sizeLimit"], "3221225472");
    // What the code writes counts for the pod, whoever's limit it is.
    let agent = &pod["spec"]["containers"][1]["resources"]["limits"]["ephemeral-storage"];
    let least = 3_221_225_472 + AgentResources::default().disk_bytes;
    assert!(agent.as_str().unwrap().parse::<u64>().unwrap() > least);
    let plain = made(&json!({})).unwrap();
    assert_eq!(plain["spec"]["priorityClassName"], "howdah-workers");
    assert!(plain["metadata"]["labels"].get("howdah.dev/network").is_none());
    assert!(
        !plain["spec"].to_string().contains("howdah.dev/"),
        "without GPUs nobody goes to the nodes that have some"
    );
}

#[test]
fn the_template_is_the_same_for_all_slots_and_another_for_another_spec() {
    let template = |pod: &Value| pod["metadata"]["annotations"][TEMPLATE].as_str().unwrap().to_owned();
    let blueprint = |more: &Value| Blueprint {
        spec: spec(more),
        image: "a".to_owned(),
    };
    let pool = Pool {
        pipeline: Uuid::from_u128(1),
        version: 2,
    };
    let of = |more: &Value, slot| template(&pod(&plane(), &blueprint(more), pool, slot).unwrap());
    assert_eq!(of(&json!({}), 0), of(&json!({}), 7));
    assert_ne!(of(&json!({}), 0), of(&json!({ "network": "internet" }), 0));
}

#[test]
fn what_would_lead_to_the_nodes_of_others_is_refused_at_its_place() {
    for (more, pointer) in [
        (json!({ "tolerations": [{ "operator": "Exists" }] }), "/tolerations/0"),
        (
            json!({ "tolerations": [{ "key": "a", "operator": "Exists" }, { "key": ORGANIZATION, "value": "other" }] }),
            "/tolerations/1",
        ),
        (
            json!({ "tolerations": [{ "key": "node-role.kubernetes.io/control-plane", "operator": "Exists" }] }),
            "/tolerations/0",
        ),
        (
            json!({ "scheduling_spec": { "node_selector": { ORGANIZATION: "other" } } }),
            "/scheduling_spec/node_selector",
        ),
        (
            json!({ "scheduling_spec": { "priority_class_name": "system-cluster-critical" } }),
            "/scheduling_spec/priority_class_name",
        ),
        (
            json!({ "resource_limits": { "gpu": { "type": "amd.com/gpu", "number": 1 } } }),
            "/resource_limits/gpu",
        ),
        (
            json!({ "resource_limits": { "gpu": { "type": "nvidia.com/gpu", "number": 1 } },
                "scheduling_spec": { "node_selector": { "howdah.dev/gpu-class": "h100" } } }),
            "/resource_limits/gpu",
        ),
        (
            json!({ "resource_requests": { "cpu": 2 }, "resource_limits": { "cpu": 1 } }),
            "/resource_requests/cpu",
        ),
    ] {
        let found = refused(&more);
        assert_eq!(found.len(), 1, "{more} {found:?}");
        assert_eq!(found[0].0, pointer, "{more}");
    }
    assert!(
        refused(&json!({ "scheduling_spec": { "node_selector": { "kubernetes.io/arch": "arm64", "disk": "ssd" } } }))
            .is_empty()
    );
}

fn patched(operations: &Value) -> Result<Value, Unfit> {
    made(&json!({ "pod_patch": operations }))
}

#[test]
fn a_patch_changes_what_it_may() {
    let shm = json!({ "name": "shm", "emptyDir": { "medium": "Memory" } });
    let pod = patched(&json!([
        { "op": "add", "path": "/spec/volumes/-", "value": shm },
        { "op": "add", "path": "/spec/containers/0/volumeMounts/-", "value": { "name": "shm", "mountPath": "/dev/shm" } },
        { "op": "add", "path": "/metadata/annotations/team", "value": "vision" },
        { "op": "add", "path": "/metadata/labels/example.org~1cost", "value": "42" },
        { "op": "add", "path": "/spec/tolerations/-", "value": { "key": "spot", "operator": "Exists" } },
        { "op": "add", "path": "/spec/nodeSelector/disk", "value": "ssd" },
        { "op": "replace", "path": "/spec/terminationGracePeriodSeconds", "value": 5 },
        { "op": "add", "path": "/spec/affinity", "value": { "podAntiAffinity": {} } },
        { "op": "add", "path": "/spec/containers/0/resources/requests/cpu", "value": "100m" },
        { "op": "test", "path": "/spec/restartPolicy", "value": "Always" },
    ]))
    .unwrap();
    assert!(pod["spec"]["volumes"].as_array().unwrap().contains(&shm));
    assert_eq!(pod["metadata"]["labels"]["example.org/cost"], "42");
    assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], "100m");
}

fn one(op: &str, path: &str, value: &Value) -> Value {
    json!({ "op": op, "path": path, "value": value })
}

/// Changes of the pod and of who runs in it.
fn of_isolation() -> Vec<Value> {
    vec![
        one("add", "/spec/hostNetwork", &json!(true)),
        one("add", "/spec/hostPID", &json!(true)),
        one("add", "/spec/serviceAccountName", &json!("plane")),
        one("replace", "/spec/automountServiceAccountToken", &json!(true)),
        one("add", "/spec/nodeName", &json!("gpu-1")),
        one("add", "/spec/imagePullSecrets", &json!([{ "name": "plane-config" }])),
        one("replace", "/spec/securityContext/runAsUser", &json!(0)),
        one("add", "/spec/containers/0/securityContext/privileged", &json!(true)),
        one("replace", "/spec/containers/0/image", &json!("evil")),
        one("add", "/spec/containers/0/command/0", &json!("evil")),
        one(
            "add",
            "/spec/containers/0/envFrom",
            &json!([{ "secretRef": { "name": "plane-config" } }]),
        ),
        one("add", "/spec/containers/0/env", &json!([])),
        one("replace", "/spec/containers/1/image", &json!("evil")),
        one("replace", "/spec/initContainers/0/image", &json!("evil")),
        one("add", "/spec/containers/-", &json!({ "name": "more", "image": "evil" })),
        json!({ "op": "remove", "path": "/spec/containers/1" }),
        json!({ "op": "move", "from": "/spec/containers/1", "path": "/spec/containers/0" }),
    ]
}

/// Changes of what it sees and of where it goes.
fn of_surroundings() -> Vec<Value> {
    let volume = |volume: Value| one("add", "/spec/volumes/-", &volume);
    let mount = |path: &str| {
        one(
            "add",
            "/spec/containers/0/volumeMounts/-",
            &json!({ "name": "x", "mountPath": path }),
        )
    };
    vec![
        volume(json!({ "name": "x", "hostPath": { "path": "/" } })),
        volume(json!({ "name": "x", "secret": { "secretName": "plane-config" } })),
        volume(json!({ "name": "x", "projected": { "sources": [{ "serviceAccountToken": {} }] } })),
        volume(json!({ "name": "x", "configMap": { "name": "a" } })),
        volume(json!({ "name": "x", "csi": {} })),
        volume(json!({ "name": "config", "emptyDir": {} })),
        json!({ "op": "remove", "path": "/spec/volumes/0" }),
        one(
            "add",
            "/spec/containers/0/volumeMounts/-",
            &json!({ "name": "config", "mountPath": "/x" }),
        ),
        mount("/pfs/a"),
        mount("/"),
        mount("/howdah"),
        mount("/x/../pfs"),
        mount("relative"),
        json!({ "op": "remove", "path": "/spec/containers/0/volumeMounts/0" }),
        one("add", "/spec/tolerations/-", &json!({ "operator": "Exists" })),
        one(
            "add",
            "/spec/tolerations/-",
            &json!({ "key": ORGANIZATION, "operator": "Exists" }),
        ),
        one("add", "/spec/nodeSelector/howdah.dev~1organization", &json!("other")),
        one("replace", "/spec/terminationGracePeriodSeconds", &json!(86_400)),
        one(
            "add",
            "/spec/containers/0/resources/limits/nvidia.com~1gpu",
            &json!("8"),
        ),
        one("add", "/spec/containers/0/resources/claims", &json!([])),
        one("replace", "/metadata/name", &json!("plane")),
        one("replace", "/metadata/namespace", &json!("kube-system")),
        one("add", "/metadata/finalizers", &json!(["a/b"])),
        one("add", "/metadata/labels/howdah.dev~1network", &json!("internet")),
        one("replace", "/metadata/labels/howdah.dev~1part", &json!("plane")),
        one(
            "add",
            "/metadata/annotations/container.apparmor.security.beta.kubernetes.io~1user",
            &json!("unconfined"),
        ),
        one("replace", "/kind", &json!("Node")),
        one("add", "/spec/priorityClassName", &json!("system-node-critical")),
        one("add", "/spec/runtimeClassName", &json!("weaker")),
        one("replace", "", &json!({})),
        one("replace", "/spec", &json!({})),
    ]
}

#[test]
fn a_patch_that_would_undo_the_isolation_is_refused_at_its_operation() {
    for operation in of_isolation().into_iter().chain(of_surroundings()) {
        let fine = json!({ "op": "test", "path": "/kind", "value": "Pod" });
        // What a spec's own reader refuses does not come this far.
        let value = json!({ "pipeline": { "name": "p" }, "transform": { "cmd": ["a"], "image": "a:1" },
            "input": { "pfs": { "repo": "r", "glob": "/" } }, "pod_patch": [fine, operation] });
        let Ok(_) = PipelineSpec::parse(&value, &ProjectName::default_project()) else {
            continue;
        };
        let unfit = patched(&json!([fine, operation])).expect_err(&operation.to_string());
        assert_eq!(unfit.pointer, "/pod_patch/1", "{operation}");
        assert_eq!(
            refused(&json!({ "pod_patch": [fine, operation] })).len(),
            1,
            "{operation}"
        );
    }
}

#[test]
fn an_operator_may_let_specs_change_less_and_never_more_than_is_safe() {
    let mut tight = plane();
    tight.config.pod_patch_allowed = vec![
        "/spec/containers/*/resources".to_owned(),
        "/spec/hostNetwork".to_owned(),
    ];
    let cpu = json!([{ "op": "add", "path": "/spec/containers/0/resources/requests/cpu", "value": "1" }]);
    let label = json!([{ "op": "add", "path": "/metadata/labels/a", "value": "b" }]);
    let host = json!([{ "op": "add", "path": "/spec/hostNetwork", "value": true }]);
    let ours = json!([{ "op": "add", "path": "/spec/containers/1/resources/requests/cpu", "value": "1" }]);
    for (patch, fits) in [(cpu, true), (label, false), (host, false), (ours, false)] {
        let found = refusals(&tight, &spec(&json!({ "pod_patch": patch })));
        assert_eq!(found.is_empty(), fits, "{patch} {found:?}");
    }
}

#[test]
fn secrets_are_whole_objects_of_their_pool() {
    let pool = Pool {
        pipeline: Uuid::from_u128(1),
        version: 2,
    };
    let config = config_secret(&plane(), pool, "{}");
    assert_eq!(config["metadata"]["name"], pool.secret());
    assert_eq!(config["stringData"], json!({ "config.json": "{}" }));
    let pull = pull_secret(&plane(), pool, "{}");
    assert_eq!(pull["type"], "kubernetes.io/dockerconfigjson");
    assert_eq!(pull["stringData"], json!({ ".dockerconfigjson": "{}" }));
}

#[test]
fn a_pod_that_lasts_says_what_it_is_and_that_of_a_service_is_reached_at_its_agent_alone() {
    let lasting = |more: Value| {
        let mut value = json!({ "pipeline": { "name": "p" }, "transform": { "cmd": ["a"], "image": "a:1" } });
        for (name, field) in more.as_object().unwrap() {
            value[name] = field.clone();
        }
        let spec = PipelineSpec::parse(&value, &ProjectName::default_project()).unwrap();
        let blueprint = Blueprint {
            spec,
            image: "a@sha256:00".to_owned(),
        };
        let pool = Pool {
            pipeline: Uuid::from_u128(1),
            version: 2,
        };
        pod(&plane(), &blueprint, pool, 0).unwrap()
    };
    let input = json!({ "pfs": { "repo": "r", "glob": "/" } });
    let service = lasting(json!({ "service": { "internal_port": 8080 }, "input": input }));
    let spout = lasting(json!({ "spout": {} }));
    let plain = made(&json!({})).unwrap();
    for (pod, part) in [(&service, "service"), (&spout, "spout"), (&plain, "worker")] {
        assert_eq!(pod["metadata"]["labels"]["howdah.dev/part"], part);
        let [user, agent] = pod["spec"]["containers"].as_array().unwrap().as_slice() else {
            panic!("{pod}");
        };
        assert!(user.get("ports").is_none() && user.get("env").is_none(), "{user}");
        let address = agent["env"].to_string().contains("status.podIP");
        assert_eq!(
            (address, agent.get("ports").is_some()),
            (part == "service", part == "service")
        );
    }
    let ports = &service["spec"]["containers"][1]["ports"];
    assert_eq!(ports[0]["containerPort"], contract::executor::SERVICE_PORT);
    assert_eq!(service["metadata"]["name"], "w-00000000000000000000000000000001-2-0");
    let taken = json!({ "service": { "internal_port": contract::executor::SERVICE_PORT } });
    assert_eq!(refused(&taken)[0].0, "/service/internal_port");
}
