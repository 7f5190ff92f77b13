//! How datums are made of lists of others: products, and what has one key. Each list is counted before it is made.

use std::collections::{BTreeMap, BTreeSet};

use contract::ids::DomainId;

use super::sizes::{Size, TooMany};
use super::{By, Datum, DatumInput, Match};
use crate::spec::{InputSpec, PfsInput};

/// An input with its leaves numbered and their domains known.
pub(super) enum Tree<'a> {
    Leaf(Leaf<'a>),
    Cross(Vec<Tree<'a>>),
    Union(Vec<Tree<'a>>),
    /// What has one key, put together.
    Keyed(By, Vec<Tree<'a>>),
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
            InputSpec::Join(parts) => Tree::Keyed(By::Join, all(parts)),
            InputSpec::Group(parts) => Tree::Keyed(By::Group, all(parts)),
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
        let value = |by: By| by.template(self.spec).map(|key| found.captures.expand(key));
        Some(Datum {
            inputs: vec![DatumInput {
                name: self.spec.name.clone(),
                domain,
                path: found.path.clone(),
                kind: found.kind,
                digest: found.digest,
                size: found.size,
                empty_files: self.spec.empty_files,
                join_on: value(By::Join),
                group_by: value(By::Group),
                leaf: self.number,
            }],
        })
    }
}

impl<'a> Tree<'a> {
    pub(super) fn parts(&self) -> &[Tree<'a>] {
        match self {
            Self::Leaf(_) => &[],
            Self::Cross(parts) | Self::Union(parts) | Self::Keyed(_, parts) => parts,
        }
    }

    pub(super) fn leaves(&self) -> Vec<&Leaf<'a>> {
        match self {
            Self::Leaf(leaf) => vec![leaf],
            _ => self.parts().iter().flat_map(Tree::leaves).collect(),
        }
    }
}

/// The values of a datum's inputs: its key. Several where it is a combination; one that is itself of one key has that.
pub(super) fn key(by: By, datum: &Datum) -> BTreeSet<&str> {
    let values = datum.inputs.iter().filter_map(|input| match by {
        By::Join => input.join_on.as_deref(),
        By::Group => input.group_by.as_deref(),
    });
    values.collect()
}

/// Every combination; none if a factor is empty.
///
/// # Errors
/// When they are too many, before one is made.
pub(super) fn product(factors: &[impl AsRef<[Datum]>]) -> Result<Vec<Datum>, TooMany> {
    let size = factors.iter().fold(Size::ONE, |all, f| all.times(Size::of(f.as_ref())));
    size.admit()?;
    if size.datums == 0 {
        return Ok(Vec::new());
    }
    let mut combinations: Vec<Vec<DatumInput>> = vec![Vec::new()];
    for factor in factors {
        let factor = factor.as_ref();
        let mut longer = Vec::with_capacity(combinations.len() * factor.len());
        for combination in &combinations {
            for datum in factor {
                longer.push([combination.as_slice(), &datum.inputs].concat());
            }
        }
        combinations = longer;
    }
    Ok(combinations.into_iter().map(Datum::new).collect())
}

/// Equal datums once: of several, the one from the first leaf.
pub(super) fn distinct(datums: impl Iterator<Item = Datum>) -> Vec<Datum> {
    let mut seen = BTreeSet::new();
    datums.filter(|d| seen.insert(d.identity())).collect()
}

/// What has one key, of each part in a list of its own.
type Cells<'d> = BTreeMap<BTreeSet<&'d str>, Vec<Vec<&'d Datum>>>;

/// Puts together what has one key. Two keys can hold the same files where one repo is read twice under one name: user code
/// would see the same, so it is one datum.
///
/// # Errors
/// When they are too many, before they are made.
pub(super) fn combine(by: By, tree: &[Tree<'_>], lists: &[Vec<Datum>]) -> Result<Vec<Datum>, TooMany> {
    let mut cells = Cells::new();
    for (part, list) in lists.iter().enumerate() {
        for datum in list {
            let cell = cells
                .entry(key(by, datum))
                .or_insert_with(|| vec![Vec::new(); lists.len()]);
            cell[part].push(datum);
        }
    }
    match by {
        By::Group => {
            let inputs = |cell: Vec<Vec<&Datum>>| cell.into_iter().flatten().flat_map(|d| d.inputs.clone()).collect();
            Ok(distinct(cells.into_values().map(|cell| Datum::new(inputs(cell)))))
        }
        By::Join => join(tree, cells),
    }
}

fn join(tree: &[Tree<'_>], cells: Cells<'_>) -> Result<Vec<Datum>, TooMany> {
    let leaves = tree.iter().flat_map(Tree::leaves);
    let outer: BTreeSet<usize> = leaves.filter(|l| l.spec.outer_join).map(|l| l.number).collect();
    let stays = |datum: &&Datum| datum.inputs.iter().all(|input| outer.contains(&input.leaf));
    let chosen: Vec<Vec<Vec<&Datum>>> = cells.into_values().map(|cell| kept(cell, &stays)).collect();
    let size = |cell: &Vec<Vec<&Datum>>| {
        let part = |datums: &Vec<&Datum>| datums.iter().map(|d| Size::one(d)).fold(Size::default(), Size::plus);
        cell.iter().fold(Size::ONE, |all, datums| all.times(part(datums)))
    };
    let cells = chosen.iter().filter(|cell| !cell.is_empty());
    cells.clone().map(size).fold(Size::default(), Size::plus).admit()?;
    let mut made = Vec::new();
    for cell in cells {
        let factors: Vec<Vec<Datum>> = cell
            .iter()
            .map(|part| part.iter().copied().cloned().collect())
            .collect();
        made.extend(product(&factors)?);
    }
    Ok(distinct(made.into_iter()))
}

/// The factors of a join for one key: all of them where each has something, else what stays of those that do.
fn kept<'d>(cell: Vec<Vec<&'d Datum>>, stays: &dyn Fn(&&'d Datum) -> bool) -> Vec<Vec<&'d Datum>> {
    if cell.iter().all(|part| !part.is_empty()) {
        return cell;
    }
    let outer = cell
        .into_iter()
        .map(|part| part.into_iter().filter(|d| stays(d)).collect::<Vec<_>>());
    outer.filter(|part| !part.is_empty()).collect()
}
