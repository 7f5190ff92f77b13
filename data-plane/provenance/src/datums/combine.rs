//! All datums of an input: product, sum and groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use contract::ids::DomainId;

use super::{Datum, DatumInput, Match};
use crate::spec::{InputSpec, PfsInput};

/// An input with its leaves numbered and their domains known.
pub(super) enum Tree<'a> {
    Leaf(Leaf<'a>),
    Cross(Vec<Tree<'a>>),
    Union(Vec<Tree<'a>>),
    Group(Vec<Tree<'a>>),
}

pub(super) struct Leaf<'a> {
    pub spec: &'a PfsInput,
    pub number: usize,
    pub domain: Option<DomainId>,
}

pub(super) fn tree<'a>(input: &'a InputSpec, domains: &[DomainId]) -> Tree<'a> {
    fn grow<'a>(input: &'a InputSpec, domains: &[DomainId], next: &mut usize) -> Tree<'a> {
        let mut all = |parts: &'a [InputSpec]| parts.iter().map(|p| grow(p, domains, next)).collect();
        match input {
            InputSpec::Cross(parts) => Tree::Cross(all(parts)),
            InputSpec::Union(parts) => Tree::Union(all(parts)),
            InputSpec::Group(parts) => Tree::Group(all(parts)),
            InputSpec::Pfs(spec) => {
                let number = *next;
                *next += 1;
                Tree::Leaf(Leaf {
                    spec,
                    number,
                    domain: domains.get(number).copied(),
                })
            }
        }
    }
    grow(input, domains, &mut 0)
}

impl Leaf<'_> {
    /// The datum of a match; none where the caller did not know the leaf's domain, since nobody could be allowed it.
    pub(super) fn datum(&self, found: &Match) -> Option<Datum> {
        let domain = self.domain?;
        Some(Datum {
            inputs: vec![DatumInput {
                name: self.spec.name.clone(),
                domain,
                path: found.path.clone(),
                kind: found.kind,
                digest: found.digest,
                size: found.size,
                empty_files: self.spec.empty_files,
                group_by: self.spec.group_by.as_ref().map(|key| found.captures.expand(key)),
                leaf: self.number,
            }],
        })
    }
}

impl<'a> Tree<'a> {
    pub(super) fn parts(&self) -> &[Tree<'a>] {
        match self {
            Self::Leaf(_) => &[],
            Self::Cross(parts) | Self::Union(parts) | Self::Group(parts) => parts,
        }
    }

    pub(super) fn leaves(&self) -> Vec<&Leaf<'a>> {
        match self {
            Self::Leaf(leaf) => vec![leaf],
            _ => self.parts().iter().flat_map(Tree::leaves).collect(),
        }
    }
}

/// All datums, in no order that counts, none twice.
pub(super) fn all(tree: &Tree<'_>, matches: &dyn Fn(usize) -> Arc<[Match]>) -> Vec<Datum> {
    match tree {
        Tree::Leaf(leaf) => matches(leaf.number).iter().filter_map(|m| leaf.datum(m)).collect(),
        Tree::Cross(parts) => product(parts.iter().map(|p| all(p, matches))),
        Tree::Union(parts) => {
            let datums = parts.iter().flat_map(|p| all(p, matches));
            distinct(datums)
        }
        Tree::Group(parts) => groups(parts.iter().flat_map(|p| all(p, matches))),
    }
}

/// Every combination; none if a factor is empty.
pub(super) fn product(factors: impl Iterator<Item = Vec<Datum>>) -> Vec<Datum> {
    let mut combinations: Vec<Vec<DatumInput>> = vec![Vec::new()];
    for factor in factors {
        let mut longer = Vec::with_capacity(combinations.len() * factor.len());
        for combination in &combinations {
            for datum in &factor {
                longer.push([combination.as_slice(), &datum.inputs].concat());
            }
        }
        combinations = longer;
    }
    combinations.into_iter().map(Datum::new).collect()
}

/// Equal datums once: of several, the one from the first leaf.
pub(super) fn distinct(datums: impl Iterator<Item = Datum>) -> Vec<Datum> {
    let mut seen = BTreeSet::new();
    datums.filter(|d| seen.insert(d.identity())).collect()
}

/// One datum for each key, with everything of that key. Two keys can hold the same files where one repo is read twice
/// under one name: user code would see the same, so it is one datum.
fn groups(datums: impl Iterator<Item = Datum>) -> Vec<Datum> {
    let mut by_key: BTreeMap<Vec<String>, Vec<DatumInput>> = BTreeMap::new();
    for datum in datums {
        by_key.entry(key(&datum)).or_default().extend(datum.inputs);
    }
    distinct(by_key.into_values().map(Datum::new))
}

/// The key of a datum under a group: the different keys of its inputs. A group inside a group has one already.
fn key(datum: &Datum) -> Vec<String> {
    let mut keys: Vec<String> = datum.inputs.iter().filter_map(|i| i.group_by.clone()).collect();
    keys.sort();
    keys.dedup();
    keys
}
