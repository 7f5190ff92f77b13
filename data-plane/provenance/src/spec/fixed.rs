//! Digests that stand in databases: a field that a spec does not have changes none of them, whatever fields are added.

use serde_json::json;

use super::*;

#[test]
fn specs_without_new_fields_keep_the_digests_that_they_always_had() {
    let least = json!({ "pipeline": { "name": "detect" }, "transform": { "cmd": ["python3", "detect.py"] },
        "input": { "pfs": { "repo": "images", "glob": "/*" } } });
    let much = json!({
        "pipeline": { "name": "p", "project": "vision" }, "description": "d",
        "transform": { "image": "python:3", "cmd": ["a"], "stdin": ["b"], "err_cmd": ["c"], "accept_return_code": [3],
            "env": { "A": "1" }, "user": "u", "working_dir": "/w",
            "secrets": [{ "name": "db", "env_var": "PGPASSWORD", "key": "password" }] },
        "input": { "cross": [
            { "pfs": { "repo": "a", "glob": "/", "branch": "b", "project": "other", "empty_files": true } },
            { "join": [{ "pfs": { "repo": "f", "glob": "/(*)-*", "join_on": "$1", "outer_join": true } }] },
            { "cron": { "name": "tick", "spec": "@daily" } } ] },
        "output_branch": "o", "parallelism_spec": { "constant": 4 }, "datum_timeout": "90s", "datum_tries": 5,
        "job_timeout": 60, "reprocess_spec": "every_job", "salt": "1", "resource_limits": { "cpu": 2, "memory": "1G" },
        "metadata": { "x": "y" }, "max_origins": 3, "network": "internet", "autoscaling": true, "path_collision": "append",
    });
    let service = json!({ "pipeline": { "name": "lab" }, "transform": { "cmd": ["lab"] }, "service": { "internal_port": 8888 },
        "input": { "pfs": { "repo": "images", "glob": "/" } } });
    let digests = |value: &Value, image: Option<&str>| {
        let spec = PipelineSpec::parse(value, &ProjectName::default_project()).unwrap_or_else(|e| panic!("{e:#?}"));
        [spec.spec_digest(image), spec.code_digest(image)].map(hex::encode)
    };
    for (value, image, expected) in [
        (
            least,
            None,
            [
                "6bb10624baf9c8cf9b76d2a584ce2cc2d27856d68d76cbe24c356af81308e653",
                "5ed5b31a81db8786d0871ed792aeb5c310c4ea74ac45ce2b5148c98f536beb6e",
            ],
        ),
        (
            much,
            Some("sha256:1"),
            [
                "4df97300b2363e2aae3c5dfdcfd2fedee31eb90419c34e73765e21c96ff66ec7",
                "dbe48eee2dbcec190355abed057dce927ed5fe9faf44188da9e735c76e3e5fd5",
            ],
        ),
        (
            service,
            None,
            [
                "f70262e161470ccca3ea81bc76742df5ae52ac14ceef8db4b1d17793d180fd1b",
                "85248c9e14d205e558c721a8efe5ff7f35e8a695b77b458ebcb97a9d4c0680de",
            ],
        ),
    ] {
        assert_eq!(digests(&value, image), expected);
    }
}
