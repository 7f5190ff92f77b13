//! What specs are read, refused, and told apart by their digests.

use serde_json::json;

use super::*;

fn project() -> ProjectName {
    ProjectName::default_project()
}

fn minimal() -> Value {
    json!({
        "pipeline": { "name": "detect-red" },
        "transform": { "cmd": ["python3", "detect.py"] },
        "input": { "pfs": { "repo": "images", "glob": "/*" } },
    })
}

fn parse(value: &Value) -> PipelineSpec {
    PipelineSpec::parse(value, &project()).unwrap_or_else(|e| panic!("{e:#?}"))
}

/// The mistakes of the minimal spec with one field more.
fn mistakes(field: &str, value: Value) -> Vec<(String, String)> {
    let mut spec = minimal();
    spec[field] = value;
    let errors = PipelineSpec::parse(&spec, &project()).expect_err(field);
    errors.into_iter().map(|e| (e.pointer, e.message)).collect()
}

#[test]
fn a_minimal_spec_has_the_documented_defaults() {
    let spec = parse(&minimal());
    assert_eq!((spec.project.as_str(), spec.name.as_str()), ("default", "detect-red"));
    assert_eq!((spec.datum_tries, spec.output_branch.as_str()), (3, "main"));
    assert_eq!((spec.network, spec.reprocess), (Network::None, Reprocess::UntilSuccess));
    let leaf = spec.input.leaves()[0];
    assert_eq!(
        (leaf.name.as_str(), leaf.branch.as_str(), leaf.project.as_str()),
        ("images", "main", "default")
    );
}

/// Fields that have two spellings.
const LONG_NAMES: [&str; 18] = [
    "err_cmd",
    "err_stdin",
    "accept_return_code",
    "working_dir",
    "empty_files",
    "group_by",
    "join_on",
    "outer_join",
    "output_branch",
    "parallelism_spec",
    "datum_timeout",
    "datum_tries",
    "job_timeout",
    "reprocess_spec",
    "resource_requests",
    "resource_limits",
    "path_collision",
    "max_origins",
];

#[test]
fn both_spellings_of_every_field_are_read() {
    let snake = json!({
        "pipeline": { "name": "p", "project": "vision" },
        "description": "d",
        "transform": {
            "image": "python:3", "cmd": ["a"], "stdin": ["b"], "err_cmd": ["c"], "err_stdin": ["d"],
            "accept_return_code": [3], "env": { "A": 1, "B": "x" }, "user": "u", "working_dir": "/w",
        },
        "input": { "cross": [
            { "pfs": { "repo": "a", "glob": "/", "empty_files": true, "branch": "b", "project": "other" } },
            { "union": [{ "pfs": { "repo": "c", "glob": "/*" } }, { "pfs": { "repo": "c", "glob": "/x*" } }] },
            { "group": [{ "pfs": { "repo": "e", "glob": "/(*)-*", "group_by": "$1" } }] },
            { "join": [{ "pfs": { "repo": "f", "glob": "/(*)-*", "join_on": "$1", "outer_join": true } }] },
        ] },
        "output_branch": "o",
        "parallelism_spec": { "constant": 4 },
        "datum_timeout": "1h30m", "datum_tries": 5, "job_timeout": 60,
        "reprocess_spec": "every_job", "salt": 1,
        "resource_requests": { "cpu": 0.5, "memory": "64M", "disk": "1Gi" },
        "resource_limits": { "cpu": "500m" },
        "metadata": { "labels": { "x": "y" } },
        "max_origins": ["images", "other/x"],
        "network": "internet",
        "autoscaling": true,
        "path_collision": "append",
    });
    let spec = parse(&snake);
    assert_eq!(
        spec.max_origins,
        Some(MaxOrigins::Named(vec![
            "other/x".to_owned(),
            "vision/images".to_owned()
        ]))
    );
    assert_eq!(spec.transform.env["A"], "1");
    assert_eq!(spec.resource_requests.cpu_millis, spec.resource_limits.cpu_millis);
    let camel: String = {
        let text = snake.to_string();
        LONG_NAMES.iter().fold(text, |text, field| {
            let mut parts = field.split('_');
            let mut name = parts.next().unwrap().to_owned();
            for part in parts {
                name += &part[..1].to_uppercase();
                name += &part[1..];
            }
            text.replace(&format!("\"{field}\""), &format!("\"{name}\""))
        })
    };
    assert!(camel.contains("reprocessSpec"));
    assert_eq!(parse(&serde_json::from_str(&camel).unwrap()), spec);
    assert_eq!(parse(&spec.to_value()), spec);
    assert_eq!(parse(&parse(&minimal()).to_value()), parse(&minimal()));
}

#[test]
fn an_unknown_field_names_the_nearest_known_one_and_its_place() {
    let found = mistakes("datum_trys", json!(3));
    assert_eq!(
        found,
        [(
            "/datum_trys".to_owned(),
            "unknown field `datum_trys`; did you mean `datum_tries`?".to_owned()
        )]
    );
    let found = mistakes("transform", json!({ "cmd": ["a"], "errcmd": 1 }));
    assert_eq!(
        found[0],
        (
            "/transform/errcmd".to_owned(),
            "unknown field `errcmd`; did you mean `err_cmd`?".to_owned()
        )
    );
    let found = mistakes(
        "input",
        json!({ "cross": [{ "pfs": { "repo": "a", "glob": "/", "globe": "/" } }] }),
    );
    assert_eq!(found[0].0, "/input/cross/0/pfs/globe");
}

#[test]
fn fields_of_later_releases_are_refused_and_never_ignored() {
    for (field, value) in [
        ("s3_out", json!(true)),
        ("s3Out", json!(true)),
        ("pod_spec", json!("{}")),
        ("network", json!("data-plane")),
    ] {
        let found = mistakes(field, value);
        assert!(found[0].1.contains("not supported yet"), "{field}: {found:?}");
    }
    let found = mistakes("input", json!({ "pfs": { "repo": "a", "glob": "/", "s3": true } }));
    assert!(found[0].1.contains("not supported yet"), "{found:?}");
}

#[test]
fn a_cron_input_is_a_leaf_on_a_repo_of_its_own() {
    let mut value = minimal();
    value["input"] = json!({ "cross": [
        { "cron": { "name": "tick", "spec": "@daily", "overwrite": true, "start": "2026-11-01T01:00:00+01:00" } },
        { "pfs": { "repo": "images", "glob": "/*" } },
    ] });
    let spec = parse(&value);
    let leaf = spec.input.leaves()[0];
    assert_eq!(
        (leaf.repo.as_str(), leaf.name.as_str(), leaf.glob.as_str()),
        ("detect-red_tick", "tick", "/*")
    );
    let cron = leaf.cron.clone().unwrap();
    assert!(cron.overwrite);
    assert_eq!(cron.start, "2026-11-01T00:00:00Z".parse().ok());
    assert_eq!(parse(&spec.to_value()), spec);

    for (cron, pointer) in [
        (json!({ "spec": "@daily" }), "/input/cron"),
        (json!({ "name": "t" }), "/input/cron"),
        (json!({ "name": "t", "spec": "daily" }), "/input/cron/spec"),
        (
            json!({ "name": "t", "spec": "@daily", "start": "today" }),
            "/input/cron/start",
        ),
        (
            json!({ "name": "t", "spec": "@daily", "start": "1969-12-31T23:59:59Z" }),
            "/input/cron/start",
        ),
        (json!({ "name": "t", "spec": "0 0 30 2 *" }), "/input/cron/spec"),
        (
            json!({ "name": "t", "spec": "@daily", "glob": "/" }),
            "/input/cron/glob",
        ),
        (json!({ "name": "out", "spec": "@daily" }), "/input/cron/name"),
        (json!({ "name": "t".repeat(45), "spec": "@daily" }), "/input/cron/name"),
    ] {
        let found = mistakes("input", json!({ "cron": cron }));
        assert_eq!(found[0].0, pointer, "{found:?}");
    }
}

#[test]
fn an_input_with_a_trigger_reads_a_branch_of_the_pipelines_own() {
    let mut value = minimal();
    value["input"]["pfs"]["branch"] = json!("staging");
    value["input"]["pfs"]["trigger"] = json!({ "size": "1M", "commits": 3, "rateLimitSpec": "@hourly", "all": true });
    let spec = parse(&value);
    let leaf = spec.input.leaves()[0];
    assert_eq!(leaf.branch.as_str(), "staging");
    let trigger = leaf.trigger.clone().unwrap();
    assert_eq!(
        (trigger.source.as_str(), trigger.cron.as_deref()),
        ("staging", Some("0 * * * *"))
    );
    assert_eq!(
        (trigger.size_bytes, trigger.commits, trigger.all),
        (Some(1_000_000), Some(3), true)
    );
    assert_eq!(parse(&spec.to_value()), spec);
    for (trigger, pointer) in [
        (json!({}), "/input/pfs/trigger"),
        (json!({ "size": "much" }), "/input/pfs/trigger/size"),
        (json!({ "commits": 0 }), "/input/pfs/trigger/commits"),
        (json!({ "cron_spec": "0 0 30 2 *" }), "/input/pfs/trigger/cron_spec"),
        (
            json!({ "rate_limit_spec": "never" }),
            "/input/pfs/trigger/rate_limit_spec",
        ),
        (
            json!({ "cron_spec": "@daily", "rate_limit_spec": "@daily" }),
            "/input/pfs/trigger/rate_limit_spec",
        ),
        (json!({ "branch": "b", "commits": 1 }), "/input/pfs/trigger/branch"),
    ] {
        let found = mistakes(
            "input",
            json!({ "pfs": { "repo": "a", "branch": "a", "glob": "/", "trigger": trigger } }),
        );
        assert_eq!(found[0].0, pointer, "{found:?}");
    }
    let part = json!({ "pfs": { "repo": "a", "glob": "/", "trigger": { "commits": 1 } } });
    let found = mistakes("input", json!({ "union": [part, part] }));
    assert_eq!(found[0].0, "/input", "{found:?}");
}

#[test]
fn code_of_a_repo_is_one_more_input_and_stands_in_the_transform() {
    let mut value = minimal();
    value["transform"]["code"] = json!({ "repo": "programs", "path": "/a(1)/b/" });
    let spec = parse(&value);
    let leaves = spec.input.leaves();
    assert_eq!(
        (leaves.len(), leaves[1].repo.as_str(), leaves[1].is_code),
        (2, "programs", true)
    );
    assert!(leaves[1].glob.matches("/a(1)/b", true).is_some());
    assert!(leaves[1].glob.matches("/a1/b", true).is_none());
    let written = spec.to_value();
    assert_eq!(written["transform"]["code"]["path"], "/a(1)/b");
    assert_eq!(written["input"], parse(&minimal()).to_value()["input"]);
    assert_eq!(parse(&written), spec);
    assert_eq!(
        spec.code_digest(None),
        parse(&minimal()).code_digest(None),
        "its content counts, as of an input"
    );
    assert_ne!(spec.spec_digest(None), parse(&minimal()).spec_digest(None));
    let found = mistakes(
        "transform",
        json!({ "cmd": ["a"], "code": { "repo": "x", "path": "../y" } }),
    );
    assert_eq!(found[0].0, "/transform/code/path");
    value["input"]["pfs"]["name"] = json!("code");
    assert!(PipelineSpec::parse(&value, &project()).is_err());
}

#[test]
fn secrets_are_variables_or_files_and_count_as_code() {
    let mut value = minimal();
    value["transform"]["secrets"] = json!([
        { "name": "db", "envVar": "PGPASSWORD", "key": "password" }, { "name": "tls", "mount_path": "/secrets/tls/" },
    ]);
    let with_pull = |mut value: Value| {
        value["transform"]["image_pull_secrets"] = json!(["registry"]);
        value
    };
    let spec = parse(&with_pull(value.clone()));
    assert_eq!(
        spec.transform.secrets[1].target,
        SecretTarget::Files("/secrets/tls".to_owned())
    );
    assert_eq!(parse(&spec.to_value()), spec);
    assert_eq!(
        spec.code_digest(None),
        parse(&value).code_digest(None),
        "how an image is pulled changes no datum"
    );
    assert_ne!(spec.code_digest(None), parse(&minimal()).code_digest(None));
    for (secret, pointer) in [
        (json!({ "name": "db" }), "/transform/secrets/0"),
        (json!({ "env_var": "A", "key": "k" }), "/transform/secrets/0"),
        (json!({ "name": "db", "env_var": "A" }), "/transform/secrets/0"),
        (
            json!({ "name": "db", "env_var": "A=B", "key": "k" }),
            "/transform/secrets/0/env_var",
        ),
        (
            json!({ "name": "db", "mount_path": "/pfs/out" }),
            "/transform/secrets/0/mount_path",
        ),
        (
            json!({ "name": "db", "mount_path": "/etc/db" }),
            "/transform/secrets/0/mount_path",
        ),
        (
            json!({ "name": "db", "mount_path": "/a/../b" }),
            "/transform/secrets/0/mount_path",
        ),
        (
            json!({ "name": "db", "mount_path": "/run/howdah-sandbox" }),
            "/transform/secrets/0/mount_path",
        ),
        (
            json!({ "name": "db", "env_var": "images", "key": "k" }),
            "/transform/secrets/0/env_var",
        ),
        (
            json!({ "name": "db", "env_var": "HOWDAH_JOB_ID", "key": "k" }),
            "/transform/secrets/0/env_var",
        ),
        (
            json!({ "name": "db", "mount_path": "/a", "env_var": "A", "key": "k" }),
            "/transform/secrets/0",
        ),
    ] {
        let found = mistakes("transform", json!({ "cmd": ["a"], "secrets": [secret] }));
        assert_eq!(found[0].0, pointer, "{found:?}");
    }
    let nested = json!([{ "name": "a", "mount_path": "/s" }, { "name": "b", "mount_path": "/s/b" }]);
    assert_eq!(
        mistakes("transform", json!({ "cmd": ["a"], "secrets": nested }))[0].0,
        "/transform/secrets/1"
    );
}

#[test]
fn every_mistake_is_found_at_once() {
    let errors = PipelineSpec::parse(
        &json!({
            "pipeline": { "name": "a/b" },
            "transform": { "cmd": [] },
            "input": { "pfs": { "repo": "x", "glob": "/[a" } },
            "datum_tries": 0,
            "datum_timeout": "soon",
            "colour": "red",
        }),
        &project(),
    )
    .unwrap_err();
    let places: Vec<&str> = errors.iter().map(|e| e.pointer.as_str()).collect();
    for place in [
        "/pipeline/name",
        "/transform/cmd",
        "/input/pfs/glob",
        "/datum_tries",
        "/datum_timeout",
        "/colour",
    ] {
        assert!(places.contains(&place), "{place}: {errors:#?}");
    }
    for nothing in [json!(null), json!([]), json!("x"), json!({})] {
        assert!(PipelineSpec::parse(&nothing, &project()).is_err());
    }
}

#[test]
fn names_are_unique_where_inputs_meet_in_one_datum() {
    let pfs = |name: &str| json!({ "pfs": { "repo": "a", "name": name, "glob": "/(*)" } });
    let found = mistakes("input", json!({ "cross": [pfs("x"), pfs("x")] }));
    assert!(
        found[0].1.contains("the name `x` is used by input 0 of this cross too"),
        "{found:?}"
    );
    assert!(
        !mistakes(
            "input",
            json!({ "cross": [pfs("x"), { "union": [pfs("y"), pfs("x")] }] })
        )
        .is_empty()
    );
    let keyed = json!({ "pfs": { "repo": "a", "glob": "/(*)", "group_by": "$1" } });
    assert!(!mistakes("input", json!({ "group": [keyed, keyed] })).is_empty());
    let mut spec = minimal();
    spec["input"] = json!({ "union": [pfs("x"), pfs("x")] });
    parse(&spec);
    let found = mistakes("input", pfs("out"));
    assert!(found[0].1.contains("may not be `out`"), "{found:?}");
}

#[test]
fn a_group_wants_keys_that_exist() {
    let group =
        |glob: &str, key: Value| json!({ "group": [{ "pfs": { "repo": "a", "glob": glob, "group_by": key } }] });
    assert!(
        mistakes("input", group("/(*)", json!("$2")))[0]
            .1
            .contains("names `$2`")
    );
    assert!(
        mistakes("input", group("/(*)", json!("x")))[0]
            .1
            .contains("names no capture")
    );
    assert!(
        mistakes("input", group("/(*)", Value::Null))[0]
            .1
            .contains("has no `group_by`")
    );
    let outside = json!({ "pfs": { "repo": "a", "glob": "/(*)", "group_by": "$1" } });
    assert!(mistakes("input", outside)[0].1.contains("under `group` only"));
}

#[test]
fn a_join_wants_keys_of_all_its_inputs_and_says_which_lacks_one() {
    let leaf = |repo: &str, more: Value| {
        let mut pfs = json!({ "repo": repo, "glob": "/(*)" });
        for (name, value) in more.as_object().unwrap() {
            pfs[name] = value.clone();
        }
        json!({ "pfs": pfs })
    };
    let keyed = leaf("a", json!({ "join_on": "$1" }));
    let join = |second: Value| json!({ "join": [keyed, second] });
    let found = mistakes("input", join(leaf("b", json!({}))));
    assert_eq!(found[0].0, "/input/join/1/pfs");
    assert!(found[0].1.contains("has no `join_on`"), "{found:?}");
    let nested = json!({ "union": [leaf("b", json!({ "join_on": "$1" })), leaf("c", json!({}))] });
    assert_eq!(mistakes("input", join(nested))[0].0, "/input/join/1/union/1/pfs");
    let found = mistakes("input", join(leaf("b", json!({ "join_on": "$2" }))));
    assert!(found[0].1.contains("names `$2`"), "{found:?}");
    let found = mistakes("input", join(keyed.clone()));
    assert!(found[0].1.contains("used by input 0 of this join too"), "{found:?}");
    for field in [json!({ "join_on": "$1" }), json!({ "outer_join": true })] {
        let found = mistakes("input", leaf("a", field));
        assert!(found[0].1.contains("under `join` only"), "{found:?}");
    }
    // What stands alone in an outer join needs a key of the group around it.
    let both = json!({ "join_on": "$1", "group_by": "$1" });
    let group = |outer: bool| {
        let second = leaf("b", json!({ "join_on": "$1", "outer_join": outer }));
        json!({ "group": [{ "join": [leaf("a", both.clone()), second] }] })
    };
    assert!(mistakes("input", group(true))[0].1.contains("has no `group_by`"));
    let mut spec = minimal();
    spec["input"] = group(false);
    let parsed = parse(&spec);
    assert_eq!(parse(&parsed.to_value()), parsed);
    spec["input"] = leaf("a", json!({ "outer_join": false }));
    assert_eq!(parse(&spec).to_value()["input"]["pfs"].get("outer_join"), None);
}

#[test]
fn parallelism_and_memory_change_no_digest_and_code_and_data_do() {
    let base = parse(&minimal());
    let with = |field: &str, value: Value| {
        let mut spec = minimal();
        spec[field] = value;
        parse(&spec)
    };
    let digests = |s: &PipelineSpec| (s.spec_digest(None), s.code_digest(None));
    for (field, value) in [
        ("parallelism_spec", json!({ "constant": 9 })),
        ("resource_limits", json!({ "memory": "1G" })),
        ("resource_requests", json!({ "cpu": 2 })),
        ("description", json!("x")),
        ("metadata", json!({ "a": 1 })),
        ("autoscaling", json!(true)),
    ] {
        assert_eq!(digests(&with(field, value)), digests(&base), "{field}");
    }
    for (field, value) in [
        ("transform", json!({ "cmd": ["python3", "other.py"] })),
        ("transform", json!({ "cmd": ["python3", "detect.py"], "stdin": ["x"] })),
        (
            "transform",
            json!({ "cmd": ["python3", "detect.py"], "env": { "A": "1" } }),
        ),
        (
            "transform",
            json!({ "cmd": ["python3", "detect.py"], "err_cmd": ["true"] }),
        ),
        ("salt", json!("2")),
        ("network", json!("internet")),
    ] {
        let other = with(field, value);
        assert_ne!(other.code_digest(None), base.code_digest(None), "{field}");
        assert_ne!(other.spec_digest(None), base.spec_digest(None), "{field}");
    }
    // It decides what the output is and nothing that code does.
    let append = with("path_collision", json!("append"));
    assert_eq!(append.code_digest(None), base.code_digest(None));
    assert_ne!(append.spec_digest(None), base.spec_digest(None));
    assert_eq!(digests(&with("path_collision", json!("fail"))), digests(&base));
    let glob = with("input", json!({ "pfs": { "repo": "images", "glob": "/" } }));
    assert_eq!(glob.code_digest(None), base.code_digest(None));
    assert_ne!(glob.spec_digest(None), base.spec_digest(None));
    assert_ne!(base.code_digest(Some("sha256:1")), base.code_digest(Some("sha256:2")));
    assert_ne!(base.spec_digest(Some("sha256:1")), base.spec_digest(None));
}

#[test]
fn a_service_names_its_port_and_changes_what_the_code_is() {
    let base = parse(&minimal());
    let with = |value| {
        let mut spec = minimal();
        spec["service"] = value;
        spec
    };
    let service = parse(&with(json!({ "internalPort": 8888, "type": "ClusterIP" })));
    assert_eq!(service.service, Some(Service { internal_port: 8888 }));
    assert_eq!(parse(&service.to_value()), service);
    assert_ne!(service.code_digest(None), base.code_digest(None));
    assert_ne!(service.spec_digest(None), base.spec_digest(None));
    for (value, at, text) in [
        (json!({}), "/service", "must have an `internal_port`"),
        (json!({ "internal_port": 80 }), "/service/internal_port", "from 1024"),
        (
            json!({ "internal_port": 70000 }),
            "/service/internal_port",
            "at most 65535",
        ),
        (
            json!({ "internal_port": 8888, "type": "Own" }),
            "/service/type",
            "not known",
        ),
        (
            json!({ "internal_port": 8888, "external_port": 30888 }),
            "/service/external_port",
            "howdah open",
        ),
        (
            json!({ "internal_port": 8888, "ip": "10.0.0.1" }),
            "/service/ip",
            "howdah open",
        ),
    ] {
        let found = mistakes("service", value);
        assert!(found[0].0 == at && found[0].1.contains(text), "{found:?}");
    }
    for (field, value) in [
        ("network", json!("internet")),
        ("datum_timeout", json!("1m")),
        ("job_timeout", json!("1m")),
    ] {
        let mut spec = with(json!({ "internal_port": 8888 }));
        spec[field] = value;
        let found = PipelineSpec::parse(&spec, &"default".parse().unwrap()).unwrap_err();
        assert_eq!(found[0].pointer, format!("/{field}"), "{found:?}");
    }
}

#[test]
fn a_file_may_hold_several_specs() {
    let text = "---\npipeline: {name: a}\nsalt: 1\n---\n# nothing\n---\n- pipeline: {name: b}\n- pipeline: {name: c}\n";
    let specs = parse_yaml(text).unwrap();
    let names: Vec<_> = specs.iter().map(|s| s["pipeline"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let one = parse_yaml(&minimal().to_string()).unwrap();
    assert_eq!(one, [minimal()]);
    assert!(parse_yaml("a: [").is_err());
    assert!(parse_yaml("").unwrap().is_empty());
}

#[test]
fn differences_name_the_innermost_fields() {
    let (old, mut new) = (minimal(), minimal());
    new["transform"]["cmd"][1] = json!("other.py");
    new["salt"] = json!("x");
    assert_eq!(differences(&old, &new), ["/salt", "/transform/cmd/1"]);
    assert!(differences(&old, &old).is_empty());
}
