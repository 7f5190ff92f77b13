//! Pipeline specs from a file: YAML or JSON, one or several, and with `--set` a template. A placeholder without a value is an
//! error: a spec with a hole in it must never be applied.

use minijinja::{Environment, UndefinedBehavior};
use serde_json::Value;

use crate::failure::{Failure, Outcome};

/// A value of `--set`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The placeholder's name.
    pub key: String,
    /// What takes its place.
    pub value: String,
}

/// Parses `KEY=VALUE`.
///
/// # Errors
/// When it is something else.
pub fn setting(text: &str) -> Result<Setting, String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    let good = key.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !good {
        return Err(format!("`{key}` is no name of a placeholder: letters, digits and `_`"));
    }
    Ok(Setting {
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

/// The specs of a file.
///
/// # Errors
/// When a placeholder has no value, or the text is neither YAML nor JSON.
pub fn specs(name: &str, text: &str, settings: &[Setting]) -> Outcome<Vec<Value>> {
    let text = if settings.is_empty() {
        text.to_owned()
    } else {
        render(name, text, settings)?
    };
    let unreadable = |why: String| {
        Failure::usage(
            format!("cannot read {name}"),
            why,
            "write each spec as YAML or JSON; several are separated by `---`",
        )
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).map_err(|e| unreadable(e.to_string()))?;
    let mut specs = Vec::new();
    for document in documents {
        match document {
            Value::Array(several) => specs.extend(several),
            Value::Null => {}
            one => specs.push(one),
        }
    }
    if specs.is_empty() {
        return Err(unreadable("it holds no spec".to_owned()));
    }
    if let Some(wrong) = specs.iter().find(|s| !s.is_object()) {
        return Err(unreadable(format!("`{wrong}` is no spec")));
    }
    Ok(specs)
}

fn render(name: &str, text: &str, settings: &[Setting]) -> Outcome<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    let values: std::collections::BTreeMap<String, String> =
        settings.iter().map(|s| (s.key.clone(), s.value.clone())).collect();
    environment.render_named_str(name, text, values).map_err(|error| {
        let given: Vec<&str> = settings.iter().map(|s| s.key.as_str()).collect();
        let hint = match error.kind() {
            minijinja::ErrorKind::UndefinedError => {
                format!("give every placeholder a value with --set; given: {}", given.join(", "))
            }
            _ => "placeholders are written `{{ name }}`".to_owned(),
        };
        Failure::usage(format!("cannot fill in {name}"), error, hint)
    })
}

/// Names the project in specs that name none, when it is not the default one.
pub fn set_project(specs: &mut [Value], project: &str) {
    if project == "default" {
        return;
    }
    for spec in specs {
        if let Some(pipeline) = spec.get_mut("pipeline").and_then(Value::as_object_mut) {
            let unnamed = pipeline.get("project").is_none_or(Value::is_null);
            if unnamed {
                pipeline.insert("project".to_owned(), Value::from(project));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "pipeline: {name: \"detect-{{ competitor }}\"}\n---\npipeline:\n  name: score-{{ competitor }}\n";

    fn with(key: &str, value: &str) -> Vec<Setting> {
        vec![setting(&format!("{key}={value}")).unwrap_or_else(|e| panic!("{e}"))]
    }

    #[test]
    fn placeholders_are_filled_in_and_both_specs_are_found() {
        let found = specs("f", TWO, &with("competitor", "red")).unwrap_or_else(|e| panic!("{e:?}"));
        let names: Vec<&Value> = found.iter().map(|s| &s["pipeline"]["name"]).collect();
        assert_eq!(names, ["detect-red", "score-red"]);
    }

    #[test]
    fn a_placeholder_without_a_value_is_an_error() {
        let failure = specs("f", TWO, &with("other", "red")).unwrap_err();
        assert_eq!(failure.exit, crate::failure::Exit::Usage);
        assert!(failure.hint.contains("other"), "{}", failure.hint);
    }

    #[test]
    fn json_and_lists_are_read_too() {
        let json = r#"[{"pipeline": {"name": "a"}}, {"pipeline": {"name": "b"}}]"#;
        assert_eq!(specs("f", json, &[]).unwrap_or_else(|e| panic!("{e:?}")).len(), 2);
        assert!(specs("f", "", &[]).is_err());
        assert!(specs("f", "just words", &[]).is_err());
        assert!(specs("f", "a: [1", &[]).is_err());
    }

    #[test]
    fn values_of_set_are_pairs() {
        assert_eq!(setting("a=b=c").map(|s| s.value), Ok("b=c".to_owned()));
        assert!(setting("a").is_err() && setting("=b").is_err() && setting("a-b=c").is_err());
    }

    #[test]
    fn the_project_is_named_where_none_is() {
        let mut found = specs("f", "pipeline: {name: a}\n---\npipeline: {name: b, project: q}\n", &[]).unwrap();
        set_project(&mut found, "p");
        assert_eq!(
            (&found[0]["pipeline"]["project"], &found[1]["pipeline"]["project"]),
            (&Value::from("p"), &Value::from("q"))
        );
    }
}
