//! Whether an object is as we want it: what we say of it must be so, what we do not say is somebody else's business.

use serde_json::Value;

/// Lists whose elements are known by a field, and which others may add to.
const KEYED: [(&str, &str); 6] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("volumes", "name"),
    ("volumeMounts", "mountPath"),
    ("env", "name"),
    ("ownerReferences", "uid"),
];
/// Maps of quantities: `1024Mi` is stored as `1Gi`.
const QUANTITIES: [&str; 8] = [
    "hard",
    "requests",
    "limits",
    "default",
    "defaultRequest",
    "max",
    "min",
    "emptyDir",
];
/// What is wholly ours: one entry more lets something through, or keeps something off, that we did not say.
const WHOLE: [&str; 9] = [
    "ingress",
    "egress",
    "policyTypes",
    "podSelector",
    "selector",
    "rules",
    "subjects",
    "validations",
    "taints",
];
/// What says nothing about the object itself.
const ABOUT_US: [&str; 3] = [
    super::super::kit::names::GENERATION,
    super::super::kit::names::DIGEST,
    super::super::kit::names::COMPLETE,
];

/// The first place where what is there is not what is wanted: `spec.hard.pods`.
pub fn first_difference(wanted: &Value, there: &Value) -> Option<String> {
    differs(wanted, there, "", "").map(|path| path.trim_start_matches('.').to_owned())
}

fn differs(wanted: &Value, there: &Value, path: &str, key: &str) -> Option<String> {
    match (wanted, there) {
        _ if WHOLE.contains(&key) => (wanted != there).then(|| path.to_owned()),
        (Value::Object(wanted), _) => wanted
            .iter()
            .filter(|(name, _)| !ABOUT_US.contains(&name.as_str()))
            .find_map(|(name, value)| {
                let path = format!("{path}.{name}");
                let in_quantities = QUANTITIES.contains(&key);
                match there.get(name) {
                    Some(found) if in_quantities && same_quantity(value, found) => None,
                    Some(found) => differs(value, found, &path, name),
                    None if is_empty(value) => None,
                    None => Some(path),
                }
            }),
        (Value::Array(wanted), Value::Array(there)) => match KEYED.iter().find(|(list, _)| *list == key) {
            Some((_, by)) => wanted.iter().find_map(|element| {
                let path = format!("{path}[{}]", element[*by].as_str().unwrap_or_default());
                match there.iter().find(|found| found[*by] == element[*by]) {
                    Some(found) => differs(element, found, &path, ""),
                    None => Some(path),
                }
            }),
            None if wanted.len() != there.len() => Some(path.to_owned()),
            None => wanted
                .iter()
                .zip(there)
                .enumerate()
                .find_map(|(at, (wanted, there))| differs(wanted, there, &format!("{path}[{at}]"), "")),
        },
        _ if wanted == there => None,
        _ => Some(path.to_owned()),
    }
}

/// What the API server leaves out when it is empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn same_quantity(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (quantity(a), quantity(b)) else {
        return false;
    };
    a == b
}

/// A quantity in thousandths.
fn quantity(value: &Value) -> Option<i128> {
    if let Some(number) = value.as_i64() {
        return Some(i128::from(number) * 1000);
    }
    let text = value.as_str()?;
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale: i128 = match &text[digits.len()..] {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if fraction.len() > 6 {
        return None;
    }
    let parts = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let units: i128 = format!("{whole}{fraction}").parse().ok()?;
    Some(units * scale / parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_add_is_no_difference_and_what_they_change_is() {
        let wanted = json!({ "spec": { "hard": { "pods": "5", "cpu": "1500m" }, "list": [{ "a": 1 }] } });
        let same = json!({ "status": {}, "spec": { "hard": { "pods": "5", "cpu": "1500m", "more": 1 }, "list": [{ "a": 1, "b": 2 }] } });
        assert_eq!(first_difference(&wanted, &same), None);
        for (path, value, expected) in [
            ("/spec/hard/pods", json!("6"), "spec.hard.pods"),
            ("/spec/list", json!([]), "spec.list"),
            ("/spec/list", json!([{ "a": 1 }, { "a": 2 }]), "spec.list"),
            ("/spec/list/0/a", json!(2), "spec.list[0].a"),
        ] {
            let mut other = same.clone();
            *other.pointer_mut(path).unwrap() = value;
            assert_eq!(first_difference(&wanted, &other).as_deref(), Some(expected));
        }
    }

    #[test]
    fn quantities_are_compared_by_what_they_mean() {
        let of = |text: &str| json!({ "limits": { "memory": text } });
        assert_eq!(first_difference(&of("1024Mi"), &of("1Gi")), None);
        assert_eq!(first_difference(&of("0.5"), &of("500m")), None);
        assert!(first_difference(&of("1G"), &of("1Gi")).is_some());
        assert!(first_difference(&of("x"), &of("1Gi")).is_some());
    }

    #[test]
    fn containers_are_found_by_their_names() {
        let wanted = json!({ "containers": [{ "name": "plane", "image": "a" }] });
        let injected = json!({ "containers": [{ "name": "proxy" }, { "name": "plane", "image": "a" }] });
        assert_eq!(first_difference(&wanted, &injected), None);
        let other = json!({ "containers": [{ "name": "plane", "image": "b" }] });
        assert_eq!(
            first_difference(&wanted, &other).as_deref(),
            Some("containers[plane].image")
        );
    }

    #[test]
    fn an_empty_selector_may_be_left_out_but_not_filled() {
        let wanted = json!({ "podSelector": {} });
        assert_eq!(first_difference(&wanted, &json!({})), None);
        assert_eq!(first_difference(&wanted, &json!({ "podSelector": {} })), None);
        let narrower = json!({ "podSelector": { "matchLabels": { "a": "b" } } });
        assert_eq!(first_difference(&wanted, &narrower).as_deref(), Some("podSelector"));
    }
}
