//! Specs of spouts: what they are read as, and what they cannot have besides.

use serde_json::{Value, json};

use super::*;

fn spout() -> Value {
    json!({ "pipeline": { "name": "feed" }, "transform": { "cmd": ["listen"] }, "spout": {} })
}

fn errors(spec: &Value) -> Vec<String> {
    let found = PipelineSpec::parse(spec, &ProjectName::default_project());
    found.map_or_else(|errors| errors.into_iter().map(|e| e.pointer).collect(), |_| Vec::new())
}

#[test]
fn a_spout_reads_nothing_and_is_read_again_as_it_was_written() {
    let mut written = spout();
    written["spout"]["overwrite"] = json!(true);
    let spec = PipelineSpec::parse(&written, &ProjectName::default_project()).unwrap();
    assert!(spec.input.leaves().is_empty());
    assert_eq!(spec.spout, Some(Spout { overwrite: true }));
    assert_eq!(spec.outside().unwrap().as_str(), "feed_unattested");
    let again = spec.to_value();
    assert!(again.get("input").is_none(), "{again}");
    assert_eq!(
        PipelineSpec::parse(&again, &ProjectName::default_project()).unwrap(),
        spec
    );
    let plain = PipelineSpec::parse(&spout(), &ProjectName::default_project()).unwrap();
    assert_ne!(plain.code_digest(None), spec.code_digest(None));
    assert_ne!(plain.spec_digest(None), spec.spec_digest(None));
}

#[test]
fn a_spout_with_what_it_cannot_have_is_refused_at_its_place() {
    assert_eq!(errors(&spout()), Vec::<String>::new());
    for (field, value) in [
        ("input", json!({ "pfs": { "repo": "r", "glob": "/" } })),
        ("service", json!({ "internal_port": 8000 })),
        ("egress", json!({ "url": "s3://bucket/out" })),
        ("datum_timeout", json!("1h")),
        ("job_timeout", json!("1h")),
        ("path_collision", json!("append")),
    ] {
        let mut spec = spout();
        spec[field] = value;
        assert!(
            errors(&spec).contains(&format!("/{field}")),
            "{field}: {:?}",
            errors(&spec)
        );
    }
    let mut coded = spout();
    coded["transform"]["code"] = json!({ "repo": "programs" });
    assert_eq!(errors(&coded), ["/transform/code"]);
    let mut handled = spout();
    handled["transform"]["err_cmd"] = json!(["true"]);
    assert_eq!(errors(&handled), ["/transform/err_cmd"]);
    let mut marked = spout();
    marked["spout"] = json!({ "marker": "m", "overwrit": true });
    assert_eq!(errors(&marked), ["/spout/marker", "/spout/overwrit"]);
    let mut long = spout();
    long["pipeline"]["name"] = json!("x".repeat(45));
    assert_eq!(errors(&long), ["/pipeline/name"]);
}
