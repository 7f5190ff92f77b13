//! Random inputs of pipelines, and what they yield by the definitions alone: everything from scratch, without an index, an
//! order of work or a thought of what was there before.

use std::collections::{BTreeMap, BTreeSet};

use provenance::glob::Glob;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

/// Files by path, without a leading `/`.
pub type Files = BTreeMap<String, String>;

const GLOBS: [&str; 5] = ["/*", "/", "/*/*", "/(?)*", "/[a-d]*"];
/// Under a join or a group: what it captures is the value.
const KEYED: &str = "/(?)*";

/// An input as the evaluator sees it.
#[derive(Debug, Clone)]
pub enum Input {
    Leaf(Leaf),
    Cross(Vec<Input>),
    Union(Vec<Input>),
    Join(Vec<Input>),
    Group(Vec<Input>),
}

#[derive(Debug, Clone)]
pub struct Leaf {
    repo: String,
    name: String,
    glob: String,
    outer: bool,
}

/// What keys the leaves below.
#[derive(Debug, Clone, Copy, Default)]
pub struct Above {
    join: bool,
    group: bool,
}

/// A match, as one datum's code sees it and is told of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Part {
    name: String,
    repo: String,
    place: String,
    is_dir: bool,
    /// By the path below the place; of a file by nothing.
    content: Files,
    join: Option<String>,
    group: Option<String>,
    outer: bool,
}

/// A datum: exactly what the skip rule's key is made of, beside the code. Two that are equal here have one key, and two that
/// differ in anything but `outer`, which no code is told, have two.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seen(BTreeSet<Part>);

impl Input {
    /// Made so that no two datums of a pipeline can see the same: every leaf has a name of its own.
    pub fn random(rng: &mut StdRng, repos: &[String], depth: usize, above: Above, next: &mut usize) -> Self {
        let kind = if depth == 0 { 0 } else { rng.random_range(0..8) };
        let parts = |rng: &mut StdRng, next: &mut usize, above| {
            let count = if rng.random_range(0..4) == 0 { 3 } else { 2 };
            (0..count)
                .map(|_| Self::random(rng, repos, depth - 1, above, next))
                .collect()
        };
        match kind {
            3 => Self::Cross(parts(rng, next, above)),
            4 => Self::Union(parts(rng, next, above)),
            5 if !above.group => Self::Group(parts(rng, next, Above { group: true, ..above })),
            6 | 7 if !above.join => Self::Join(parts(rng, next, Above { join: true, ..above })),
            _ => {
                *next += 1;
                let keyed = above.join || above.group;
                Self::Leaf(Leaf {
                    repo: repos.choose(rng).unwrap().clone(),
                    name: format!("n{next}"),
                    glob: (if keyed { KEYED } else { GLOBS.choose(rng).unwrap() }).to_owned(),
                    outer: above.join && rng.random_range(0..3) == 0,
                })
            }
        }
    }

    pub fn spec(&self, above: Above) -> Value {
        let all = |parts: &[Self], above| parts.iter().map(|p| p.spec(above)).collect::<Vec<_>>();
        match self {
            Self::Leaf(leaf) => {
                let mut spec = json!({ "repo": leaf.repo, "name": leaf.name, "glob": leaf.glob });
                for (keyed, field) in [(above.join, "join_on"), (above.group, "group_by")] {
                    if keyed {
                        spec[field] = json!("$1");
                    }
                }
                if leaf.outer {
                    spec["outer_join"] = json!(true);
                }
                json!({ "pfs": spec })
            }
            Self::Cross(parts) => json!({ "cross": all(parts, above) }),
            Self::Union(parts) => json!({ "union": all(parts, above) }),
            Self::Join(parts) => json!({ "join": all(parts, Above { join: true, ..above }) }),
            Self::Group(parts) => json!({ "group": all(parts, Above { group: true, ..above }) }),
        }
    }

    pub fn repos(&self) -> BTreeSet<&str> {
        match self {
            Self::Leaf(leaf) => BTreeSet::from([leaf.repo.as_str()]),
            Self::Cross(parts) | Self::Union(parts) | Self::Join(parts) | Self::Group(parts) => {
                parts.iter().flat_map(Self::repos).collect()
            }
        }
    }

    /// All datums.
    pub fn datums(&self, heads: &BTreeMap<String, Files>, above: Above) -> Vec<Seen> {
        let of = |part: &Self, above| part.datums(heads, above);
        match self {
            Self::Leaf(leaf) => leaf.datums(heads.get(&leaf.repo), above),
            Self::Union(parts) => parts.iter().flat_map(|part| of(part, above)).collect(),
            Self::Cross(parts) => product(&parts.iter().map(|part| of(part, above)).collect::<Vec<_>>()),
            Self::Group(parts) => {
                let above = Above { group: true, ..above };
                let all = parts.iter().flat_map(|part| of(part, above));
                let mut groups: BTreeMap<BTreeSet<String>, Seen> = BTreeMap::new();
                for datum in all {
                    groups
                        .entry(datum.values(|part| part.group.as_ref()))
                        .or_default()
                        .0
                        .extend(datum.0);
                }
                groups.into_values().collect()
            }
            Self::Join(parts) => {
                let above = Above { join: true, ..above };
                let lists: Vec<Vec<Seen>> = parts.iter().map(|part| of(part, above)).collect();
                let key = |datum: &Seen| datum.values(|part| part.join.as_ref());
                let keys: BTreeSet<BTreeSet<String>> = lists.iter().flatten().map(key).collect();
                keys.iter()
                    .flat_map(|wanted| joined(&lists, |datum| key(datum) == *wanted))
                    .collect()
            }
        }
    }
}

/// The datums of a join that have one key: of all parts if each has one, else of those that are outer.
fn joined(lists: &[Vec<Seen>], has_key: impl Fn(&Seen) -> bool) -> Vec<Seen> {
    let of_key = |list: &Vec<Seen>| list.iter().filter(|datum| has_key(datum)).cloned().collect::<Vec<_>>();
    let cell: Vec<Vec<Seen>> = lists.iter().map(of_key).collect();
    if cell.iter().all(|part| !part.is_empty()) {
        return product(&cell);
    }
    let outer = |part: Vec<Seen>| {
        part.into_iter()
            .filter(|d| d.0.iter().all(|p| p.outer))
            .collect::<Vec<_>>()
    };
    let left: Vec<Vec<Seen>> = cell.into_iter().map(outer).filter(|part| !part.is_empty()).collect();
    if left.is_empty() { Vec::new() } else { product(&left) }
}

fn product(factors: &[Vec<Seen>]) -> Vec<Seen> {
    factors.iter().fold(vec![Seen::default()], |made, factor| {
        let pairs = made.iter().flat_map(|a| factor.iter().map(move |b| (a, b)));
        pairs.map(|(a, b)| Seen(a.0.union(&b.0).cloned().collect())).collect()
    })
}

impl Leaf {
    fn datums(&self, files: Option<&Files>, above: Above) -> Vec<Seen> {
        let glob: Glob = self.glob.parse().unwrap();
        let mut places = BTreeSet::new();
        for path in files.into_iter().flat_map(Files::keys) {
            places.insert((format!("/{path}"), false));
            places.insert(("/".to_owned(), true));
            let directories = path
                .match_indices('/')
                .map(|(at, _)| (format!("/{}", &path[..at]), true));
            places.extend(directories);
        }
        let found = places.into_iter().filter_map(|(place, is_dir)| {
            let captures = glob.matches(&place, is_dir)?;
            let value = captures.get(1).unwrap_or_default().to_owned();
            let below = if is_dir {
                format!("{}/", place.trim_end_matches('/'))
            } else {
                place.clone()
            };
            let content = files.into_iter().flatten().filter_map(|(path, text)| {
                let path = format!("/{path}");
                let rest = path.strip_prefix(&below).filter(|rest| is_dir || rest.is_empty())?;
                Some((rest.to_owned(), text.clone()))
            });
            Some(Seen(BTreeSet::from([Part {
                name: self.name.clone(),
                repo: self.repo.clone(),
                is_dir,
                content: content.collect(),
                join: above.join.then(|| value.clone()),
                group: above.group.then_some(value),
                outer: self.outer,
                place,
            }])))
        });
        found.collect()
    }
}

impl Seen {
    fn values<'a>(&'a self, of: impl Fn(&'a Part) -> Option<&'a String>) -> BTreeSet<String> {
        self.0.iter().filter_map(of).cloned().collect()
    }

    /// What the key is made of: whether a leaf is outer is nothing that code sees.
    pub fn key(&self) -> Self {
        let plain = |part: &Part| Part {
            outer: false,
            ..part.clone()
        };
        Self(self.0.iter().map(plain).collect())
    }

    /// The files below `/pfs`.
    pub fn files(&self) -> Files {
        let of = |part: &Part| {
            let at = format!("{}{}", part.name, part.place.trim_end_matches('/'));
            let names = part.content.iter().map(move |(rest, text)| match rest.as_str() {
                "" => (at.clone(), text.clone()),
                rest => (format!("{at}/{rest}"), text.clone()),
            });
            names.collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of).collect()
    }
}
