//! Incremental enumeration against the difference of two full ones.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use contract::ids::DomainId;
use contract::names::ProjectName;
use proptest::prelude::*;
use provenance::datums::{
    Datum, Kind, LeafChange, Match, changed_matches, enumerate, enumerate_changes, leaves_needed,
};
use provenance::glob::Glob;
use provenance::spec::{InputSpec, PipelineSpec};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::seed::Seed;

type Tree = BTreeMap<String, u8>;

const GLOBS: [&str; 6] = ["/(*)", "/", "/*/(*)", "/(a)*", "/**", "/(?)*/**"];
const REPOS: [&str; 3] = ["r", "s", "t"];

/// A random input; `names` holds the names that are still free where datums meet.
fn random_input(seed: &mut Seed, depth: usize, grouped: bool, next: &mut usize) -> Value {
    match seed.below(if depth == 0 { 1 } else { 5 }) {
        0 | 1 => {
            *next += 1;
            let glob = *seed.pick(&GLOBS);
            let keyed = grouped && glob.contains('(');
            let glob = if grouped && !keyed { "/(*)" } else { glob };
            let mut leaf = json!({ "repo": seed.pick(&REPOS), "glob": glob, "name": format!("n{next}") });
            if grouped {
                leaf["group_by"] = json!("$1");
            }
            json!({ "pfs": leaf })
        }
        2 => json!({ "cross": parts(seed, depth, grouped, next) }),
        3 => {
            let mut parts = parts(seed, depth, grouped, next);
            // Two leaves of one name and repo, so that their datums may be equal.
            if let (Some(Value::Object(first)), true) = (parts.first().cloned(), seed.one_in(2))
                && let Some(pfs) = first.get("pfs")
            {
                let mut twin = pfs.clone();
                twin["glob"] = json!("/(?)(*)");
                if grouped {
                    twin["group_by"] = json!("$2");
                }
                parts.push(json!({ "pfs": twin }));
            }
            json!({ "union": parts })
        }
        _ => json!({ "group": parts(seed, depth, true, next) }),
    }
}

fn parts(seed: &mut Seed, depth: usize, grouped: bool, next: &mut usize) -> Vec<Value> {
    (0..1 + seed.below(3))
        .map(|_| random_input(seed, depth - 1, grouped, next))
        .collect()
}

fn random_tree(seed: &mut Seed) -> Tree {
    let paths = ["/a", "/ab", "/b", "/c/a", "/c/b", "/d/e/f", "/d/e/g", "/d/h"];
    let kept: Vec<&str> = paths.into_iter().filter(|_| !seed.one_in(3)).collect();
    kept.into_iter().map(|p| (p.to_owned(), seed.below(3) as u8)).collect()
}

fn changed_tree(seed: &mut Seed, old: &Tree) -> Tree {
    if seed.one_in(2) {
        return old.clone();
    }
    let mut new = old.clone();
    for path in random_tree(seed).into_keys().take(3) {
        match seed.below(3) {
            0 => drop(new.remove(&path)),
            1 => drop(new.insert(path, 7)),
            _ => drop(new.insert(format!("{path}x"), 1)),
        }
    }
    new
}

fn lookup(tree: &Tree, path: &str, kind: Kind) -> Option<[u8; 32]> {
    if kind == Kind::File {
        return tree.get(path).map(|content| [*content; 32]);
    }
    let below = if path == "/" {
        "/".to_owned()
    } else {
        format!("{path}/")
    };
    let mut hasher = blake3::Hasher::new();
    let mut any = false;
    for (path, content) in tree.iter().filter(|(p, _)| p.starts_with(&below)) {
        hasher.update(path.as_bytes());
        hasher.update(&[*content]);
        any = true;
    }
    // The repo itself is there even when it is empty.
    (any || path == "/").then(|| *hasher.finalize().as_bytes())
}

fn all_matches(glob: &Glob, tree: &Tree) -> Arc<[Match]> {
    let mut paths: BTreeSet<(String, Kind)> = BTreeSet::from([("/".to_owned(), Kind::Directory)]);
    for path in tree.keys() {
        paths.insert((path.clone(), Kind::File));
        paths.extend(
            path.match_indices('/')
                .skip(1)
                .map(|(at, _)| (path[..at].to_owned(), Kind::Directory)),
        );
    }
    let found = paths.into_iter().filter_map(|(path, kind)| {
        let captures = glob.matches(&path, kind == Kind::Directory)?;
        let digest = lookup(tree, &path, kind)?;
        Some(Match {
            path,
            kind,
            digest,
            size: 1,
            captures,
        })
    });
    found.collect()
}

/// The change of a leaf as a data plane finds it: from the changed paths alone.
fn leaf_change(glob: &Glob, old: &Tree, new: &Tree) -> LeafChange {
    let changed: BTreeSet<&str> = old
        .keys()
        .chain(new.keys())
        .filter(|p| old.get(*p) != new.get(*p))
        .map(String::as_str)
        .collect();
    let mut change = LeafChange::default();
    for touched in changed_matches(glob, changed) {
        let (before, after) = (
            lookup(old, &touched.path, touched.kind),
            lookup(new, &touched.path, touched.kind),
        );
        let found = |digest| Match {
            path: touched.path.clone(),
            kind: touched.kind,
            digest,
            size: 1,
            captures: touched.captures.clone(),
        };
        if before != after {
            change.removed.extend(before.map(found));
            change.added.extend(after.map(found));
        }
    }
    change
}

fn parsed(input: &Value) -> Option<InputSpec> {
    let spec = json!({ "pipeline": { "name": "p" }, "transform": { "cmd": ["x"] }, "input": input });
    PipelineSpec::parse(&spec, &ProjectName::default_project())
        .ok()
        .map(|s| s.input)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changes_are_the_difference_of_both_enumerations(number in any::<u64>()) {
        let seed = &mut Seed::new(number);
        let written = random_input(seed, 3, false, &mut 0);
        let Some(input) = parsed(&written) else { return Ok(()) };
        let leaves = input.leaves();
        if leaves.len() > 6 { return Ok(()) }
        let old: Vec<Tree> = REPOS.iter().map(|_| random_tree(seed)).collect();
        let new: Vec<Tree> = old.iter().map(|tree| changed_tree(seed, tree)).collect();
        let repo = |leaf: usize| REPOS.iter().position(|r| *r == leaves[leaf].repo.as_str()).unwrap();
        let domains: Vec<DomainId> =
            (0..leaves.len()).map(|l| DomainId::from_uuid(Uuid::from_bytes([repo(l) as u8; 16]))).collect();
        let side = |trees: &[Tree]| -> BTreeSet<Datum> {
            let lists: Vec<_> = (0..leaves.len()).map(|l| all_matches(&leaves[l].glob, &trees[repo(l)])).collect();
            let datums = enumerate(&input, &domains, &|l| lists[l].clone());
            assert!(datums.is_sorted(), "seed {number}");
            let keys: BTreeSet<_> = datums.iter().map(|d| d.key(&[0; 32])).collect();
            assert_eq!(keys.len(), datums.len(), "seed {number}");
            datums.into_iter().collect()
        };
        let (before, after) = (side(&old), side(&new));

        let changes: BTreeMap<usize, LeafChange> = (0..leaves.len())
            .map(|l| (l, leaf_change(&leaves[l].glob, &old[repo(l)], &new[repo(l)])))
            .filter(|(_, change)| !change.is_empty())
            .collect();
        let needed = leaves_needed(&input, &domains, &|l| changes.contains_key(&l));
        let asked = RefCell::new(BTreeSet::new());
        let found = enumerate_changes(&input, &domains, &changes, &|l| {
            asked.borrow_mut().insert(l);
            all_matches(&leaves[l].glob, &new[repo(l)])
        });
        prop_assert!(asked.into_inner().is_subset(&needed), "seed {}: {}", number, written);
        let removed: Vec<&Datum> = before.difference(&after).collect();
        let added: Vec<&Datum> = after.difference(&before).collect();
        prop_assert_eq!(found.removed.iter().collect::<Vec<_>>(), removed, "seed {}: {}", number, written);
        prop_assert_eq!(found.added.iter().collect::<Vec<_>>(), added, "seed {}: {}", number, written);
    }
}

#[test]
fn one_new_file_in_a_repo_of_a_million_makes_one_datum_without_a_listing() {
    let input = parsed(&json!({ "pfs": { "repo": "r", "glob": "/*" } })).unwrap();
    let domains = [DomainId::from_uuid(Uuid::nil())];
    let added = Match {
        path: "/new".to_owned(),
        kind: Kind::File,
        digest: [1; 32],
        size: 1,
        captures: Default::default(),
    };
    let changes = BTreeMap::from([(
        0,
        LeafChange {
            removed: Vec::new(),
            added: vec![added],
        },
    )]);
    let found = enumerate_changes(&input, &domains, &changes, &|_| panic!("the full list was asked for"));
    assert_eq!((found.removed.len(), found.added.len()), (0, 1));
}
