//! What a spec begins with: the organization's defaults, the project's above them, and above both the spec itself, put
//! together as merge patches (RFC 7386): objects field by field, `null` takes a default away, all else replaces.

use contract::names::ProjectName;
use contract::problem::FieldError;
use serde_json::{Map, Value, json};

use super::PipelineSpec;
use super::fields::{field_name, join};

/// Fields whose own fields are names of somebody else's.
const FREE: [&str; 3] = ["env", "metadata", "node_selector"];
/// Fields that may have a default. Whoever sets defaults has no right on the data of those who apply specs (R14), so none
/// may decide what code runs, sees or reaches, or where its output goes.
const ADMITTED: [&str; 12] = [
    "autoscaling",
    "datum_set_spec",
    "datum_timeout",
    "datum_tries",
    "job_timeout",
    "max_origins",
    "metadata",
    "parallelism_spec",
    "resource_limits",
    "resource_requests",
    "scheduling_spec",
    "tolerations",
];

/// `above` put onto `below`. A field is the same in both spellings; one that `above` has in both stays in both, so that
/// reading refuses it.
pub fn merged(below: &Value, above: &Value) -> Value {
    merge(below, above, false)
}

fn merge(below: &Value, above: &Value, free: bool) -> Value {
    let Value::Object(above) = above else {
        return above.clone();
    };
    let mut left = below.as_object().cloned().unwrap_or_else(Map::new);
    let mut all = Map::new();
    for (name, value) in above {
        let same = |known: &&String| match free {
            true => *known == name,
            false => field_name(known) == field_name(name),
        };
        let known = left.keys().find(same).cloned();
        let before = known.and_then(|known| left.remove(&known)).unwrap_or(Value::Null);
        if !value.is_null() {
            let free = free || FREE.contains(&field_name(name).as_str());
            all.insert(name.clone(), merge(&before, value, free));
        }
    }
    left.append(&mut all);
    Value::Object(left)
}

/// Whether something can be what specs begin with: fields that say with what means code runs, not what runs.
///
/// Answers the least spec that begins with it.
///
/// # Errors
/// Every mistake at its place.
pub fn check_defaults(value: &Value) -> Result<PipelineSpec, Vec<FieldError>> {
    let wrong = |pointer: &str, message: &str| FieldError {
        pointer: pointer.to_owned(),
        message: message.to_owned(),
    };
    let Some(object) = value.as_object() else {
        return Err(vec![wrong("", "must be an object with fields of a pipeline spec")]);
    };
    let refusal = |name: &str, value: &Value| match field_name(name).as_str() {
        "max_origins" if value.is_array() => {
            Some("names repos, of which not every member may know: give a number, or put the list into the specs")
        }
        field if ADMITTED.contains(&field) => None,
        "pipeline" | "input" | "description" | "output_branch" => {
            Some("is each spec's own, so it has no default: remove it")
        }
        "transform" | "network" | "salt" | "reprocess_spec" | "pod_patch" | "pod_spec" | "service" | "spout"
        | "egress" | "s3_out" | "path_collision" | "distributed" => Some(
            "decides what code runs, what it reaches or what becomes of its output, which those who apply a spec answer \
             for: put it into the specs",
        ),
        _ => None,
    };
    let refused = object.iter().filter_map(|(name, value)| {
        let message = refusal(name, value)?;
        Some(wrong(&join("", name), message))
    });
    let refused: Vec<FieldError> = refused.collect();
    if !refused.is_empty() {
        return Err(refused);
    }
    let least = json!({
        "pipeline": { "name": "p" }, "transform": { "cmd": ["true"] }, "input": { "pfs": { "repo": "r", "glob": "/" } },
    });
    let spec = PipelineSpec::parse(&merged(&least, value), &ProjectName::default_project())?;
    // A field that the reader knows and this list does not is refused too: it was not thought of.
    let unknown = object
        .keys()
        .filter(|name| !ADMITTED.contains(&field_name(name).as_str()));
    let unknown = unknown.map(|name| wrong(&join("", name), "has no default: put it into the specs"));
    match unknown.collect::<Vec<FieldError>>() {
        none if none.is_empty() => Ok(spec),
        some => Err(some),
    }
}

/// The project that a spec names, if it names a proper one.
pub fn project_named(value: &Value) -> Option<ProjectName> {
    let project = value.get("pipeline")?.get("project")?;
    project.as_str().or_else(|| project.get("name")?.as_str())?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_merged_field_by_field_in_both_spellings_and_null_takes_away() {
        let below =
            json!({ "datum_tries": 5, "transform": { "image": "a", "env": { "A": "1", "fooBar": "2" } }, "salt": "x" });
        let above = json!({ "datumTries": 2, "transform": { "cmd": ["b"], "env": { "foo_bar": "3", "A": null } }, "salt": null });
        let wanted = json!({ "datumTries": 2, "transform": { "image": "a", "cmd": ["b"], "env": { "fooBar": "2", "foo_bar": "3" } } });
        assert_eq!(merged(&below, &above), wanted);
        assert_eq!(
            merged(&json!({ "a": [1, 2] }), &json!({ "a": [3] })),
            json!({ "a": [3] })
        );
        assert_eq!(merged(&json!(1), &json!({ "a": { "b": null } })), json!({ "a": {} }));
    }

    #[test]
    fn a_field_in_both_spellings_is_refused_with_defaults_as_without() {
        let above = json!({ "datum_tries": 2, "datumTries": 3 });
        assert_eq!(
            merged(&json!({ "datum_tries": 5, "salt": "x" }), &above),
            json!({ "datum_tries": 2, "datumTries": 3, "salt": "x" })
        );
    }

    #[test]
    fn defaults_say_with_what_means_code_runs_and_never_what_runs() {
        assert!(check_defaults(&json!({})).is_ok());
        let admitted = json!({ "datum_tries": 1, "resourceLimits": { "memory": "1Gi" }, "metadata": { "Team": "x" },
            "max_origins": 3, "parallelism_spec": { "constant": 2 }, "job_timeout": "1h", "autoscaling": true });
        assert!(check_defaults(&admitted).is_ok());
        let labels = |name: &str| json!({ "scheduling_spec": { "node_selector": { name: "x" } } });
        let both = json!({ "scheduling_spec": { "node_selector": { "gpuType": "x", "gpu_type": "x" } } });
        assert_eq!(merged(&labels("gpuType"), &labels("gpu_type")), both);
        for (value, pointer) in [
            (json!([]), ""),
            (json!({ "input": {} }), "/input"),
            (json!({ "pipeline": { "name": "p" } }), "/pipeline"),
            (json!({ "datum_trys": 1 }), "/datum_trys"),
            (json!({ "datum_tries": 0 }), "/datum_tries"),
            (json!({ "transform": { "err_cmd": ["sh"] } }), "/transform"),
            (json!({ "Transform": { "err_cmd": ["sh"] } }), "/Transform"),
            (json!({ "network": "internet" }), "/network"),
            (json!({ "reprocessSpec": "every_job" }), "/reprocessSpec"),
            (json!({ "salt": "x" }), "/salt"),
            (json!({ "max_origins": ["in"] }), "/max_origins"),
        ] {
            assert_eq!(check_defaults(&value).unwrap_err()[0].pointer, pointer, "{value}");
        }
    }
}
