//! Which crate may use which. Arrows point one way: tests → control-plane → data-plane's pure crates; the command line
//! speaks HTTP and links no plane.

use std::collections::BTreeMap;
use std::fs;

use super::sources::top;

/// Crate, its folder, which of our crates it may use, which packages it must never use.
const RULES: &[(&str, &str, &[&str], &[&str])] = &[
    (
        "contract",
        "data-plane/contract",
        &[],
        &["axum", "sqlx", "tokio", "reqwest", "object_store"],
    ),
    (
        "provenance",
        "data-plane/provenance",
        &["contract"],
        &["axum", "sqlx", "tokio", "reqwest", "object_store", "futures", "rand"],
    ),
    (
        "chunks",
        "data-plane/chunks",
        &[],
        &["axum", "sqlx", "tokio", "reqwest", "object_store", "futures", "rand"],
    ),
    (
        "packs",
        "data-plane/packs",
        &[],
        &["axum", "sqlx", "tokio", "reqwest", "object_store", "futures", "rand"],
    ),
    (
        "storage",
        "data-plane/storage",
        &["chunks", "packs"],
        &["axum", "sqlx", "reqwest", "kube", "aws-sdk-s3"],
    ),
    (
        "sandbox",
        "data-plane/sandbox",
        &[],
        &["axum", "sqlx", "tokio", "reqwest"],
    ),
    (
        "shim",
        "data-plane/shim",
        &["sandbox"],
        &["axum", "sqlx", "tokio", "reqwest"],
    ),
    (
        "chassis",
        "data-plane/chassis",
        &["contract"],
        &["sqlx", "kube", "object_store"],
    ),
    (
        "pods",
        "data-plane/pods",
        &["contract", "provenance"],
        &["axum", "sqlx", "reqwest", "object_store"],
    ),
    (
        "data-plane",
        "data-plane",
        &[
            "contract",
            "chassis",
            "pods",
            "provenance",
            "storage",
            "sandbox",
            "shim",
        ],
        &["argon2", "async-stripe"],
    ),
    (
        "control-plane",
        "control-plane",
        &["clusters", "contract", "chassis", "provenance", "provisioner"],
        &["object_store", "fastcdc", "kube", "aws-sdk-s3"],
    ),
    (
        "clusters",
        "control-plane/clusters",
        &["contract", "provisioner"],
        &["axum", "object_store"],
    ),
    (
        "provisioner",
        "control-plane/provisioner",
        &["contract"],
        &["axum", "sqlx", "tokio", "reqwest", "kube", "aws-sdk-s3", "rand"],
    ),
    (
        "private-postgres",
        "cli/private-postgres",
        &[],
        &["axum", "sqlx", "tokio"],
    ),
    (
        "cli",
        "cli",
        &["chunks", "contract", "packs", "private-postgres"],
        &["axum", "sqlx", "object_store"],
    ),
    ("testkit", "tests/testkit", &["private-postgres", "contract"], &["axum"]),
];

fn dependencies(folder: &str) -> Vec<String> {
    let manifest = fs::read_to_string(top().join(folder).join("Cargo.toml")).expect("a crate has a manifest");
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside && let Some(name) = line.split(['.', ' ', '=']).next().filter(|n| !n.is_empty()) {
            names.push(name.to_owned());
        }
    }
    names
}

#[test]
fn arrows_between_crates_point_one_way() {
    let ours: Vec<&str> = RULES.iter().map(|rule| rule.0).collect();
    let mut wrong = Vec::new();
    for (name, folder, may, never) in RULES {
        for dependency in dependencies(folder) {
            let is_ours = ours.contains(&dependency.as_str());
            if is_ours && !may.contains(&dependency.as_str()) || never.contains(&dependency.as_str()) {
                wrong.push(format!("`{name}` must not use `{dependency}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_member_of_the_workspace_has_a_rule() {
    let manifest = fs::read_to_string(top().join("Cargo.toml")).expect("the workspace has a manifest");
    let members = manifest
        .split("members = [")
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .expect("it lists members");
    let folders: BTreeMap<&str, &str> = RULES.iter().map(|rule| (rule.1, rule.0)).collect();
    for member in members
        .split(',')
        .map(|m| m.trim().trim_matches('"'))
        .filter(|m| !m.is_empty() && *m != "tests")
    {
        assert!(
            folders.contains_key(member),
            "`{member}` has no rule in tests/tidy/layers.rs"
        );
    }
}

#[test]
fn there_is_one_tls_provider() {
    let lock = fs::read_to_string(top().join("Cargo.lock")).expect("the lock file is kept in git");
    for other in ["aws-lc-sys", "openssl-sys", "native-tls"] {
        assert!(
            !lock.contains(&format!("name = \"{other}\"")),
            "`{other}` is in Cargo.lock: all TLS goes through ring"
        );
    }
}
