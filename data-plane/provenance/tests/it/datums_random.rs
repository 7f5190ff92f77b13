//! Incremental enumeration against the difference of two full ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use contract::ids::DomainId;
use contract::names::ProjectName;
use proptest::prelude::*;
use provenance::datums::{
    By, Datum, Kind, LeafChange, Lists, Match, Matches, TooMany, changed_matches, enumerate, enumerate_changes,
};
use provenance::glob::Glob;
use provenance::spec::{InputSpec, PipelineSpec};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::seed::Seed;

type Tree = BTreeMap<String, u8>;

const GLOBS: [&str; 6] = ["/(*)", "/", "/*/(*)", "/(a)*", "/**", "/(?)*/**"];
const REPOS: [&str; 3] = ["r", "s", "t"];

/// What a random input stands under.
#[derive(Clone, Copy, Default)]
struct Under {
    group: bool,
    join: bool,
}

/// A random input; `next` numbers the names that are used.
fn random_input(seed: &mut Seed, depth: usize, under: Under, next: &mut usize) -> Value {
    match seed.below(if depth == 0 { 1 } else { 6 }) {
        0 | 1 => {
            *next += 1;
            let glob = *seed.pick(&GLOBS);
            let keyed = under.group || under.join;
            let glob = if keyed && !glob.contains('(') { "/(*)" } else { glob };
            let mut leaf = json!({ "repo": seed.pick(&REPOS), "glob": glob, "name": format!("n{next}") });
            // Under a cross a part without a key is fine, and what is not gets its input refused.
            if under.group && !seed.one_in(6) {
                leaf["group_by"] = json!("$1");
            }
            if under.join {
                leaf["join_on"] = json!("$1");
                leaf["outer_join"] = json!(seed.one_in(2));
            }
            json!({ "pfs": leaf })
        }
        2 => json!({ "cross": parts(seed, depth, under, next) }),
        3 => {
            let mut parts = parts(seed, depth, under, next);
            // Two leaves of one name and repo, so that their datums may be equal.
            if let (Some(Value::Object(first)), true) = (parts.first().cloned(), seed.one_in(2))
                && let Some(pfs) = first.get("pfs")
            {
                let mut twin = pfs.clone();
                twin["glob"] = json!("/(?)(*)");
                for key in ["group_by", "join_on"] {
                    if twin.get(key).is_some() {
                        twin[key] = json!(seed.pick(&["$1", "$2", "$1$2"]));
                    }
                }
                parts.push(json!({ "pfs": twin }));
            }
            json!({ "union": parts })
        }
        4 => json!({ "join": parts(seed, depth, Under { join: true, ..under }, next) }),
        _ => json!({ "group": parts(seed, depth, Under { group: true, ..under }, next) }),
    }
}

fn parts(seed: &mut Seed, depth: usize, under: Under, next: &mut usize) -> Vec<Value> {
    (0..1 + seed.below(3))
        .map(|_| random_input(seed, depth - 1, under, next))
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
        let written = random_input(seed, 3, Under::default(), &mut 0);
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
            let datums = enumerate(&input, &domains, &Lists::new(&input, lists)).unwrap();
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
        let lists = (0..leaves.len()).map(|l| all_matches(&leaves[l].glob, &new[repo(l)])).collect();
        let found = enumerate_changes(&input, &domains, &changes, &Lists::new(&input, lists)).unwrap();
        let removed: Vec<&Datum> = before.difference(&after).collect();
        let added: Vec<&Datum> = after.difference(&before).collect();
        prop_assert_eq!(found.removed.iter().collect::<Vec<_>>(), removed, "seed {}: {}", number, written);
        prop_assert_eq!(found.added.iter().collect::<Vec<_>>(), added, "seed {}: {}", number, written);
    }
}

/// Lists that may not be asked for as a whole, and count what they give.
struct Counted<'a> {
    lists: Lists<'a>,
    given: std::cell::Cell<usize>,
}

impl Matches for Counted<'_> {
    type Error = TooMany;

    fn all(&self, leaf: usize) -> Result<Arc<[Match]>, TooMany> {
        panic!("the full list of {leaf} was asked for")
    }

    fn keyed(&self, leaf: usize, by: By, values: &BTreeSet<String>) -> Result<Vec<Match>, TooMany> {
        let found = self.lists.keyed(leaf, by, values)?;
        self.given.set(self.given.get() + found.len());
        Ok(found)
    }

    fn at(&self, leaf: usize, path: &str, kind: Kind) -> Result<Option<Match>, TooMany> {
        self.given.set(self.given.get() + 1);
        self.lists.at(leaf, path, kind)
    }
}

#[test]
fn one_new_file_makes_one_datum_without_a_listing_whatever_the_input() {
    let leaf = |repo: &str, name: &str| json!({ "pfs": { "repo": repo, "name": name, "glob": "/(*)-(*)", "join_on": "$1", "group_by": "$1" } });
    let plain = |leaf: Value, without: &[&str]| {
        let mut leaf = leaf;
        for field in without {
            leaf["pfs"].as_object_mut().unwrap().remove(*field);
        }
        leaf
    };
    let alone = |repo: &str| plain(leaf(repo, "n"), &["join_on", "group_by"]);
    let join = |a: Value, b: Value| json!({ "join": [a, b] });
    for written in [
        alone("r"),
        json!({ "union": [alone("r"), alone("s")] }),
        json!({ "union": [alone("r"), alone("r")] }),
        json!({ "group": [plain(leaf("r", "n"), &["join_on"])] }),
        join(
            plain(leaf("r", "n"), &["group_by"]),
            plain(leaf("s", "m"), &["group_by"]),
        ),
        json!({ "group": [join(leaf("r", "n"), leaf("s", "m"))] }),
        json!({ "union": [{ "group": [join(leaf("r", "n"), leaf("s", "m"))] }, alone("r")] }),
    ] {
        let input = parsed(&written).unwrap();
        let leaves = input.leaves();
        let tree: Tree = (0..2000).map(|n| (format!("/{}-{n}", n / 2), 1)).collect();
        let mut new = tree.clone();
        new.insert("/77-new".to_owned(), 1);
        let domains: Vec<DomainId> = leaves
            .iter()
            .map(|l| DomainId::from_uuid(Uuid::from_bytes([l.repo.as_str().as_bytes()[0]; 16])))
            .collect();
        let trees = |l: usize| if leaves[l].repo.as_str() == "r" { &new } else { &tree };
        let lists = (0..leaves.len())
            .map(|l| all_matches(&leaves[l].glob, trees(l)))
            .collect();
        let source = Counted {
            lists: Lists::new(&input, lists),
            given: Default::default(),
        };
        let changes = (0..leaves.len())
            .map(|l| (l, leaf_change(&leaves[l].glob, &tree, trees(l))))
            .filter(|(_, change)| !change.is_empty())
            .collect();
        let found = enumerate_changes(&input, &domains, &changes, &source).unwrap();
        assert!((1..=3).contains(&found.added.len()), "{written}: {:?}", found.added);
        assert!(
            source.given.get() <= 128,
            "{written}: {} matches were looked at",
            source.given.get()
        );
    }
}
