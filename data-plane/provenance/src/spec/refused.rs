//! What specs are refused for: spellings, names that get too long, and code of a repo with means to send away what it reads.
//! And what makes no difference to them.

use serde_json::json;

use super::*;

#[test]
fn fields_are_read_in_snake_case_and_lower_camel_case_only() {
    let base = || json!({ "pipeline": { "name": "p" }, "transform": { "cmd": ["a"] }, "input": { "pfs": { "repo": "r", "glob": "/" } } });
    let mut camel = base();
    camel["maxOrigins"] = json!(1);
    camel["transform"]["errCmd"] = json!(["b"]);
    let spec = PipelineSpec::parse(&camel, &ProjectName::default_project()).unwrap();
    assert_eq!(
        (spec.max_origins, &spec.transform.err_cmd[..]),
        (Some(MaxOrigins::Count(1)), &["b".to_owned()][..])
    );
    for (name, value) in [
        ("Network", json!("internet")),
        ("MaxOrigins", json!(1)),
        ("max_Origins", json!(1)),
        ("NETWORK", json!("none")),
    ] {
        let mut other = base();
        other[name] = value;
        let errors = PipelineSpec::parse(&other, &ProjectName::default_project()).unwrap_err();
        assert_eq!(errors[0].pointer, format!("/{name}"));
        assert!(errors[0].message.contains("did you mean"), "{errors:?}");
    }
    let mut inner = base();
    inner["transform"]["Secrets"] = json!([{ "name": "db", "mount_path": "/secrets" }]);
    let errors = PipelineSpec::parse(&inner, &ProjectName::default_project()).unwrap_err();
    assert_eq!(errors[0].pointer, "/transform/Secrets");
}

#[test]
fn a_name_that_gets_too_long_is_refused_at_its_place() {
    let spec = json!({ "pipeline": { "name": "x".repeat(45) }, "transform": { "cmd": ["a"] },
        "input": { "cron": { "name": "every-day", "spec": "@daily" } } });
    let errors = PipelineSpec::parse(&spec, &ProjectName::default_project()).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].pointer, "/input/cron/name");
    assert!(errors[0].message.contains("a shorter name"), "{errors:?}");
}

#[test]
fn code_of_a_repo_gets_no_secrets_and_no_network() {
    let spec = json!({ "pipeline": { "name": "p" }, "network": "internet", "input": { "pfs": { "repo": "r", "glob": "/" } },
        "transform": { "cmd": ["a"], "code": { "repo": "programs" }, "secrets": [{ "name": "db", "mount_path": "/secrets" }] } });
    let errors = PipelineSpec::parse(&spec, &ProjectName::default_project()).unwrap_err();
    let places: Vec<&str> = errors.iter().map(|e| e.pointer.as_str()).collect();
    assert_eq!(places, ["/transform/secrets", "/network"]);
}

#[test]
fn a_lazy_input_is_read_again_and_is_the_same_code_and_release() {
    let read = |lazy: bool| {
        let input = json!({ "pfs": { "repo": "r", "glob": "/*", "lazy": lazy } });
        let spec = json!({ "pipeline": { "name": "p" }, "transform": { "cmd": ["a"] }, "input": input });
        PipelineSpec::parse(&spec, &ProjectName::default_project()).unwrap()
    };
    let (lazy, eager) = (read(true), read(false));
    assert!(lazy.input.leaves()[0].lazy && !eager.input.leaves()[0].lazy);
    let again = PipelineSpec::parse(&lazy.to_value(), &ProjectName::default_project());
    assert_eq!(again.unwrap(), lazy);
    assert_eq!(lazy.spec_digest(None), eager.spec_digest(None));
    assert_eq!(lazy.code_digest(None), eager.code_digest(None));
    assert_eq!(lazy.read_input(), eager.read_input());
}
