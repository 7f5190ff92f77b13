//! Reading `transform.secrets`.

use contract::names::SecretName;
use serde_json::{Value, json};

use super::fields::{Errors, Fields, join, kind};
use super::{InputSpec, SecretTarget, SecretUse};

/// Directories that hold something else in every sandbox.
const TAKEN: [&str; 17] = [
    "pfs", "code", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "opt", "dev", "proc", "tmp", "var",
    "run", "sys",
];
/// Variables that say to the code where it runs begin so.
const OURS: [&str; 3] = ["HOWDAH_", "PACH_", "PPS_"];

fn items<'a>(value: &'a Value, pointer: &str, errors: &mut Errors) -> &'a [Value] {
    value.as_array().map_or_else(
        || {
            errors.add(pointer, format!("must be a list, not {}", kind(value)));
            &[][..]
        },
        Vec::as_slice,
    )
}

/// The secrets that user code gets.
pub(super) fn read(fields: &mut Fields<'_>, errors: &mut Errors) -> Vec<SecretUse> {
    let Some((value, pointer)) = fields.take("secrets") else {
        return Vec::new();
    };
    let mut all: Vec<SecretUse> = Vec::new();
    for (number, item) in items(value, &pointer, errors).iter().enumerate() {
        let at = join(&pointer, &number.to_string());
        let Some(used) = one(item, &at, errors) else {
            continue;
        };
        if all.iter().any(|other| clash(&other.target, &used.target)) {
            errors.add(
                &at,
                "goes where another secret of this list goes: give it another variable or directory",
            );
        }
        all.push(used);
    }
    all
}

fn clash(one: &SecretTarget, other: &SecretTarget) -> bool {
    let inside = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
    match (one, other) {
        (SecretTarget::Variable(a), SecretTarget::Variable(b)) => a == b,
        (SecretTarget::Files(a), SecretTarget::Files(b)) => inside(a, b) || inside(b, a),
        _ => false,
    }
}

fn one(value: &Value, pointer: &str, errors: &mut Errors) -> Option<SecretUse> {
    let mut fields = Fields::open(value, pointer, errors)?;
    if value.get("name").is_none_or(Value::is_null) {
        errors.add(pointer, "must have the `name` of a secret");
    }
    let name = fields.parsed::<SecretName>("name", errors);
    let variable = fields.string("env_var", errors);
    let directory = fields.string("mount_path", errors);
    let key = fields.string("key", errors);
    fields.finish(errors);
    let target = match (variable, directory) {
        (Some(variable), None) => {
            if variable.is_empty() || variable.contains(['=', '\0']) {
                errors.add(&join(pointer, "env_var"), "is no name of an environment variable");
            }
            if key.is_none() {
                errors.add(pointer, "must have the `key` of the value that the variable gets");
            }
            SecretTarget::Variable(variable)
        }
        (None, Some(directory)) => SecretTarget::Files(place(&directory, &join(pointer, "mount_path"), errors)?),
        _ => {
            errors.add(pointer, "must have either an `env_var` with a `key`, or a `mount_path`");
            return None;
        }
    };
    Some(SecretUse {
        name: name?,
        key,
        target,
    })
}

fn place(directory: &str, pointer: &str, errors: &mut Errors) -> Option<String> {
    let parts: Vec<&str> = directory.trim_end_matches('/').split('/').collect();
    let sound = parts.len() > 1
        && parts[0].is_empty()
        && parts[1..]
            .iter()
            .all(|part| !matches!(*part, "" | "." | "..") && !part.contains('\0'));
    if !sound {
        errors.add(
            pointer,
            "must be the absolute path of a directory, for example `/secrets/database`",
        );
        return None;
    }
    if TAKEN.contains(&parts[1]) {
        let message = format!(
            "lies in `/{}`, where there is something else: use `/secrets/…`",
            parts[1]
        );
        errors.add(pointer, message);
        return None;
    }
    Some(parts.join("/"))
}

/// Refuses variables that say something else already: of the datum, or of an input.
pub(super) fn check_names(secrets: &[SecretUse], input: &InputSpec, errors: &mut Errors) {
    let leaves = input.leaves();
    for (number, used) in secrets.iter().enumerate() {
        let SecretTarget::Variable(variable) = &used.target else {
            continue;
        };
        let of_input = |name: &str| {
            variable
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest == "_COMMIT")
        };
        let what = if OURS.iter().any(|prefix| variable.starts_with(prefix)) {
            "the datum and its job"
        } else if leaves.iter().any(|leaf| of_input(leaf.name.as_str())) {
            "an input"
        } else {
            continue;
        };
        let message = format!("`{variable}` is a variable that says something of {what}: take another name");
        errors.add(&format!("/transform/secrets/{number}/env_var"), message);
    }
}

/// The secrets by which an image is pulled.
pub(super) fn pull(fields: &mut Fields<'_>, errors: &mut Errors) -> Vec<SecretName> {
    let Some((value, pointer)) = fields.take("image_pull_secrets") else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for (number, item) in items(value, &pointer, errors).iter().enumerate() {
        match item.as_str().map(str::parse) {
            Some(Ok(name)) => names.push(name),
            _ => errors.add(&join(&pointer, &number.to_string()), "must be the name of a secret"),
        }
    }
    names
}

/// As in a spec.
pub(super) fn written(used: &SecretUse) -> Value {
    let mut value = json!({ "name": used.name });
    match &used.target {
        SecretTarget::Variable(name) => value["env_var"] = json!(name),
        SecretTarget::Files(path) => value["mount_path"] = json!(path),
    }
    if let Some(key) = &used.key {
        value["key"] = json!(key);
    }
    value
}
