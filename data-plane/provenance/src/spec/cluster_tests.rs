//! What specs say of machines and portions: read strictly in both spellings, kept, and without a part in what datums are.

use serde_json::json;

use super::*;

fn with(more: &Value) -> Value {
    let mut spec = json!({ "pipeline": { "name": "p" }, "transform": { "cmd": ["a"] },
        "input": { "pfs": { "repo": "r", "glob": "/" } } });
    for (name, value) in more.as_object().unwrap() {
        spec[name] = value.clone();
    }
    spec
}

fn parse(more: &Value) -> PipelineSpec {
    PipelineSpec::parse(&with(more), &ProjectName::default_project()).unwrap_or_else(|e| panic!("{e:#?}"))
}

fn mistake(more: &Value) -> (String, String) {
    let errors = PipelineSpec::parse(&with(more), &ProjectName::default_project()).expect_err(&more.to_string());
    assert_eq!(errors.len(), 1, "{errors:#?}");
    (errors[0].pointer.clone(), errors[0].message.clone())
}

#[test]
fn fields_of_machines_and_portions_are_read_in_both_spellings_and_written_back() {
    let snake = json!({
        "datum_set_spec": { "number": 3, "size_bytes": "64M" },
        "resource_limits": { "gpu": { "type": "nvidia.com/gpu", "number": 2 } },
        "scheduling_spec": { "node_selector": { "disktype": "ssd" }, "priority_class_name": "high" },
        "tolerations": [
            { "key": "spot", "operator": "Equal", "value": "yes", "effect": "NoExecute", "toleration_seconds": 60 },
            { "operator": "EXISTS", "effect": "NO_SCHEDULE" },
        ],
        "pod_patch": "[{\"op\": \"add\", \"path\": \"/spec/hostname\", \"value\": null}]",
        "distributed": { "nodes": 2, "processes_per_node": 4 },
    });
    let camel = json!({
        "datumSetSpec": { "number": 3, "sizeBytes": 64_000_000 },
        "resourceLimits": { "gpu": { "type": "nvidia.com/gpu", "number": 2 } },
        "schedulingSpec": { "nodeSelector": { "disktype": "ssd" }, "priorityClassName": "high" },
        "tolerations": [
            { "key": "spot", "value": "yes", "effect": "NO_EXECUTE", "tolerationSeconds": 60 },
            { "operator": "Exists", "effect": "NoSchedule" },
        ],
        "podPatch": [{ "op": "add", "path": "/spec/hostname", "value": null }],
        "distributed": { "nodes": 2, "processesPerNode": 4 },
    });
    let spec = parse(&snake);
    assert_eq!(parse(&camel), spec);
    assert_eq!(
        PipelineSpec::parse(&spec.to_value(), &ProjectName::default_project()),
        Ok(spec.clone())
    );
    assert_eq!(
        (spec.datum_set.number, spec.datum_set.size_bytes),
        (Some(3), Some(64_000_000))
    );
    assert_eq!(spec.tolerations[1].effect, Some("NoSchedule"));
    assert_eq!(spec.pod_patch[0]["value"], Value::Null);
    let nothing = parse(
        &json!({ "datum_set_spec": {}, "scheduling_spec": {}, "tolerations": [], "pod_patch": "", "s3_out": false }),
    );
    assert_eq!(nothing, parse(&json!({})));
}

#[test]
fn a_changed_field_of_machines_and_portions_is_told_in_the_diff() {
    let before = parse(&json!({ "tolerations": [{ "key": "spot" }] })).to_value();
    let after = json!({ "tolerations": [{ "key": "gpu" }], "datum_set_spec": { "number": 3 },
        "scheduling_spec": { "node_selector": { "a": "b" } } });
    assert_eq!(
        differences(&before, &parse(&after).to_value()),
        ["/datum_set_spec", "/scheduling_spec", "/tolerations/0/key"]
    );
}

#[test]
fn changing_machines_or_portions_reruns_nothing_and_changing_the_number_of_nodes_reruns_all() {
    let base = parse(&json!({}));
    let digests = |spec: &PipelineSpec| (spec.spec_digest(None), spec.code_digest(None));
    for more in [
        json!({ "datum_set_spec": { "number": 3, "size_bytes": 5 } }),
        json!({ "resource_limits": { "gpu": { "type": "nvidia.com/gpu", "number": 2 } } }),
        json!({ "resource_requests": { "gpu": { "type": "nvidia.com/gpu", "number": 2 } } }),
        json!({ "scheduling_spec": { "priority_class_name": "high" } }),
        json!({ "tolerations": [{ "operator": "Exists" }] }),
        json!({ "pod_patch": [{ "op": "remove", "path": "/spec/hostname" }] }),
    ] {
        assert_eq!(digests(&parse(&more)), digests(&base), "{more}");
    }
    let two = parse(&json!({ "distributed": { "nodes": 2 } }));
    let three = parse(&json!({ "distributed": { "nodes": 3 } }));
    for (one, other) in [(&base, &two), (&two, &three)] {
        assert_ne!(one.code_digest(None), other.code_digest(None));
        assert_ne!(one.spec_digest(None), other.spec_digest(None));
    }
}

fn told(cases: &[(Value, &str, &str)]) {
    for (more, at, text) in cases {
        let (place, message) = mistake(more);
        assert!(place == *at && message.contains(text), "{more}: {place} {message}");
    }
}

#[test]
fn mistakes_in_fields_of_machines_and_portions_are_told_at_their_places() {
    let gpu = |gpu: Value| json!({ "resource_limits": { "gpu": gpu } });
    told(&[
        (json!({ "datum_set_spec": 3 }), "/datum_set_spec", "must be an object"),
        (
            json!({ "datum_set_spec": { "number": 0 } }),
            "/datum_set_spec/number",
            "from 1",
        ),
        (
            json!({ "datum_set_spec": { "sizeBytes": "x" } }),
            "/datum_set_spec/sizeBytes",
            "not an amount",
        ),
        (
            json!({ "datum_set_spec": { "size": 1 } }),
            "/datum_set_spec/size",
            "did you mean `size_bytes`",
        ),
        (
            json!({ "datum_set_spec": { "per_worker": 2 } }),
            "/datum_set_spec/per_worker",
            "workers come and go",
        ),
        (
            gpu(json!({ "number": 1 })),
            "/resource_limits/gpu",
            "must have a `type`",
        ),
        (
            gpu(json!({ "type": "x", "number": 0 })),
            "/resource_limits/gpu/number",
            "from 1",
        ),
        (
            gpu(json!({ "type": "", "number": 1 })),
            "/resource_limits/gpu/type",
            "may not be empty",
        ),
        (
            json!({ "scheduling_spec": { "node_selector": ["ssd"] } }),
            "/scheduling_spec/node_selector",
            "must be an object",
        ),
        (
            json!({ "scheduling_spec": { "node_selektor": {} } }),
            "/scheduling_spec/node_selektor",
            "did you mean `node_selector`",
        ),
    ]);
    let differing = json!({ "resource_requests": { "gpu": { "type": "x", "number": 1 } },
        "resource_limits": { "gpu": { "type": "x", "number": 2 } } });
    assert_eq!(mistake(&differing).0, "/resource_requests/gpu");
}

#[test]
fn mistakes_in_tolerations_are_told_at_their_places() {
    let toleration = |one: Value| json!({ "tolerations": [one] });
    told(&[
        (json!({ "tolerations": {} }), "/tolerations", "must be a list"),
        (
            toleration(json!({ "effect": "NoSchedule" })),
            "/tolerations/0",
            "must have the `key`",
        ),
        (
            toleration(json!({ "key": "a", "operator": "Has" })),
            "/tolerations/0/operator",
            "not known",
        ),
        (
            toleration(json!({ "key": "a", "effect": "Never" })),
            "/tolerations/0/effect",
            "not known",
        ),
        (
            toleration(json!({ "operator": "Exists", "value": "x" })),
            "/tolerations/0/value",
            "asks for no value",
        ),
        (
            toleration(json!({ "key": "a", "toleration_seconds": 1 })),
            "/tolerations/0/toleration_seconds",
            "NoExecute",
        ),
    ]);
}

#[test]
fn mistakes_in_a_pod_patch_are_told_at_their_places() {
    let patch = |one: Value| json!({ "pod_patch": [one] });
    told(&[
        (json!({ "pod_patch": "{" }), "/pod_patch", "is no JSON"),
        (
            json!({ "pod_patch": { "spec": {} } }),
            "/pod_patch",
            "must be a JSON patch",
        ),
        (patch(json!({ "path": "/a" })), "/pod_patch/0", "must have an `op`"),
        (
            patch(json!({ "op": "put", "path": "/a" })),
            "/pod_patch/0/op",
            "not known",
        ),
        (
            patch(json!({ "op": "remove", "path": "a" })),
            "/pod_patch/0/path",
            "begins with `/`",
        ),
        (
            patch(json!({ "op": "add", "path": "/a" })),
            "/pod_patch/0",
            "must have a `value`",
        ),
        (
            patch(json!({ "op": "remove", "path": "/a", "value": 1 })),
            "/pod_patch/0",
            "has a `value`",
        ),
        (
            patch(json!({ "op": "move", "path": "/a" })),
            "/pod_patch/0",
            "must have a `from`",
        ),
    ]);
}

#[test]
fn mistakes_in_distributed_and_what_needs_the_s3_gateway_are_told_at_their_places() {
    told(&[
        (json!({ "distributed": {} }), "/distributed", "must have `nodes`"),
        (json!({ "distributed": { "nodes": 0 } }), "/distributed/nodes", "from 1"),
        (
            json!({ "distributed": { "nodes": 1 }, "service": { "internal_port": 8888 } }),
            "/distributed",
            "a service",
        ),
        (json!({ "s3_out": true }), "/s3_out", "needs the S3 gateway"),
        (json!({ "network": "data-plane" }), "/network", "is the S3 gateway"),
        (
            json!({ "input": { "pfs": { "repo": "r", "glob": "/", "s3": true } } }),
            "/input/pfs/s3",
            "needs the S3 gateway",
        ),
    ]);
}

#[test]
fn a_patch_of_the_pod_is_bounded_however_it_is_written() {
    let patch = |value: Value| json!([{ "op": "add", "path": "/spec/x", "value": value }]);
    let deep = |levels: usize| (0..levels).fold(json!("x"), |inner, _| json!([inner]));
    let with = |patch: Value| {
        let spec = json!({ "pipeline": { "name": "p" }, "transform": { "cmd": ["a"] }, "pod_patch": patch,
            "input": { "pfs": { "repo": "r", "glob": "/" } } });
        PipelineSpec::parse(&spec, &ProjectName::default_project())
    };
    assert!(with(patch(deep(30))).is_ok());
    for much in [deep(31), json!("x".repeat(65_536))] {
        for written in [patch(much.clone()), json!(patch(much).to_string())] {
            let errors = with(written).unwrap_err();
            assert_eq!(errors[0].pointer, "/pod_patch");
            assert!(errors[0].message.contains("is too much"), "{errors:?}");
        }
    }
}
