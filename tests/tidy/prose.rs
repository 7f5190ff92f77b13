//! What the text of the sources must and must not hold.

use std::fs;

use super::sources::{is_test, rust, top};

#[test]
fn every_module_says_what_it_owns() {
    let silent: Vec<String> = rust()
        .into_iter()
        .filter(|s| !is_test(&s.path) && !s.text.starts_with("//!"))
        .map(|s| s.path)
        .collect();
    assert!(
        silent.is_empty(),
        "these do not begin with a `//!` paragraph:\n{}",
        silent.join("\n")
    );
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here so that this file does not find itself.
    let banned = [
        ["todo", "!("].concat(),
        ["unimplemented", "!("].concat(),
        ["#[", "ignore"].concat(),
        ["#[", "allow("].concat(),
        ["FIX", "ME"].concat(),
    ];
    let mut found = Vec::new();
    for source in rust() {
        for (at, line) in source.text.lines().enumerate() {
            found.extend(
                banned
                    .iter()
                    .filter(|b| line.contains(*b))
                    .map(|b| format!("{}:{}: `{b}`", source.path, at + 1)),
            );
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    let empty = [
        "utils", "util", "common", "helpers", "core", "manager", "misc", "service",
    ];
    for source in rust() {
        let parts = source.path.trim_end_matches(".rs").split('/');
        let wrong: Vec<&str> = parts.filter(|part| empty.contains(part)).collect();
        assert!(wrong.is_empty(), "{}: {wrong:?}", source.path);
    }
}

#[test]
fn the_code_map_names_every_crate() {
    let readme = fs::read_to_string(top().join("README.md")).expect("there is a README");
    let manifest = fs::read_to_string(top().join("Cargo.toml")).expect("the workspace has a manifest");
    let members = manifest
        .split("members = [")
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .expect("it lists members");
    for member in members
        .split(',')
        .map(|m| m.trim().trim_matches('"'))
        .filter(|m| !m.is_empty())
    {
        assert!(
            readme.contains(&format!("`{member}/`")),
            "the code map of README.md does not name `{member}/`"
        );
    }
}

#[test]
fn the_real_clock_is_read_in_one_place() {
    let clock = ["Utc::", "now()"].concat();
    for source in rust() {
        let elsewhere = source.path != "data-plane/chassis/src/environment.rs" && !is_test(&source.path);
        assert!(
            !elsewhere || source.path.starts_with("cli/") || !source.text.contains(&clock),
            "{} reads the real clock",
            source.path
        );
    }
}
