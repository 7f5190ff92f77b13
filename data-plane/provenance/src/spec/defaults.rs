//! What a spec begins with: the organization's defaults, the project's above them, and above both the spec itself, put
//! together as merge patches (RFC 7386): objects field by field, `null` takes a default away, all else replaces.

use contract::names::ProjectName;
use contract::problem::FieldError;
use serde_json::{Map, Value, json};

use super::PipelineSpec;
use super::fields::snake_case;

/// Fields whose own fields are names of somebody else's.
const FREE: [&str; 2] = ["env", "metadata"];

/// `above` put onto `below`. A field is the same in both spellings.
pub fn merged(below: &Value, above: &Value) -> Value {
    merge(below, above, false)
}

fn merge(below: &Value, above: &Value, free: bool) -> Value {
    let Value::Object(above) = above else {
        return above.clone();
    };
    let mut all = below.as_object().cloned().unwrap_or_else(Map::new);
    for (name, value) in above {
        let same = |known: &&String| match free {
            true => *known == name,
            false => snake_case(known) == snake_case(name),
        };
        let known = all.keys().find(same).cloned();
        let before = known.and_then(|known| all.remove(&known)).unwrap_or(Value::Null);
        if !value.is_null() {
            let free = free || FREE.contains(&snake_case(name).as_str());
            all.insert(name.clone(), merge(&before, value, free));
        }
    }
    Value::Object(all)
}

/// Whether something can be what specs begin with: all but `pipeline` and `input` of a spec.
///
/// # Errors
/// Every mistake at its place.
pub fn check_defaults(value: &Value) -> Result<(), Vec<FieldError>> {
    let wrong = |pointer: &str, message: &str| FieldError {
        pointer: pointer.to_owned(),
        message: message.to_owned(),
    };
    let Some(object) = value.as_object() else {
        return Err(vec![wrong("", "must be an object with fields of a pipeline spec")]);
    };
    let own = object
        .keys()
        .filter(|name| matches!(snake_case(name).as_str(), "pipeline" | "input"));
    let own: Vec<FieldError> = own
        .map(|name| {
            wrong(
                &format!("/{name}"),
                "is each spec's own, so it has no default: remove it",
            )
        })
        .collect();
    if !own.is_empty() {
        return Err(own);
    }
    let least = json!({
        "pipeline": { "name": "p" }, "transform": { "cmd": ["true"] }, "input": { "pfs": { "repo": "r", "glob": "/" } },
    });
    PipelineSpec::parse(&merged(&least, value), &ProjectName::default_project()).map(drop)
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
    fn defaults_are_parts_of_a_spec_but_for_its_name_and_input() {
        assert!(check_defaults(&json!({})).is_ok());
        assert!(check_defaults(&json!({ "transform": { "image": "python:3" }, "datum_tries": 1 })).is_ok());
        for (value, pointer) in [
            (json!([]), ""),
            (json!({ "input": {} }), "/input"),
            (json!({ "pipeline": { "name": "p" } }), "/pipeline"),
            (json!({ "datum_trys": 1 }), "/datum_trys"),
            (json!({ "transform": { "cmd": [] } }), "/transform/cmd"),
        ] {
            assert_eq!(check_defaults(&value).unwrap_err()[0].pointer, pointer, "{value}");
        }
    }
}
