//! The difference between the datums of two states of an input, at a cost in proportion to the difference: one new file
//! beside a million old ones makes one datum, and the million is not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use contract::ids::DomainId;

use super::combine::{Tree, all, distinct, product, tree};
use super::{Datum, Match};
use crate::spec::InputSpec;

/// How the matches of one leaf changed. A match with another content is in both lists.
#[derive(Debug, Clone, Default)]
pub struct LeafChange {
    /// Matches of the old commit that are not in the new one.
    pub removed: Vec<Match>,
    /// Matches of the new commit that were not in the old one.
    pub added: Vec<Match>,
}

impl LeafChange {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}

/// How the datums changed. A datum with another content is in both lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatumChanges {
    /// Datums whose output must leave, ascending.
    pub removed: Vec<Datum>,
    /// Datums that are new, ascending.
    pub added: Vec<Datum>,
}

/// The leaves whose full list of new matches `enumerate_changes` will ask for, given which leaves changed. Load them
/// beforehand. Empty for a pfs input, and for a union of inputs whose names differ.
pub fn leaves_needed(input: &InputSpec, domains: &[DomainId], changed: &dyn Fn(usize) -> bool) -> BTreeSet<usize> {
    let mut needed = BTreeSet::new();
    need(&tree(input, domains), changed, &mut needed);
    needed
}

fn need(tree: &Tree<'_>, changed: &dyn Fn(usize) -> bool, needed: &mut BTreeSet<usize>) {
    let moves = |t: &Tree<'_>| t.leaves().iter().any(|l| changed(l.number));
    if !moves(tree) {
        return;
    }
    let whole = match tree {
        Tree::Leaf(_) => false,
        Tree::Group(_) => true,
        Tree::Union(parts) => may_coincide(parts),
        Tree::Cross(parts) => parts.iter().filter(|p| moves(p)).count() > 1,
    };
    if whole {
        needed.extend(tree.leaves().iter().map(|l| l.number));
        return;
    }
    for part in tree.parts() {
        if moves(part) {
            need(part, changed, needed);
        } else if matches!(tree, Tree::Cross(_)) {
            needed.extend(part.leaves().iter().map(|l| l.number));
        }
    }
}

/// Whether two parts of a union can yield equal datums: only then must the others be looked at for each change.
pub(super) fn may_coincide(parts: &[Tree<'_>]) -> bool {
    let mut seen = BTreeSet::new();
    let visible = |t: &Tree<'_>| -> BTreeSet<_> {
        let leaves = t.leaves();
        leaves
            .iter()
            .map(|l| (l.spec.name.clone(), l.domain, l.spec.empty_files))
            .collect()
    };
    parts
        .iter()
        .map(visible)
        .any(|names| names.into_iter().any(|name| !seen.insert(name)))
}

/// The datums that leave and those that come when the leaves change as `changes` says (by leaf number; a leaf that is
/// not there is unchanged). `full` gives the full list of a leaf's matches in the new state, and is asked for
/// `leaves_needed` only.
///
/// Equal to the difference of `enumerate` on both states, where a datum that now comes from another leaf is another one,
/// so that its `leaf` always names a commit that has it; its key is the same.
pub fn enumerate_changes(
    input: &InputSpec,
    domains: &[DomainId],
    changes: &BTreeMap<usize, LeafChange>,
    full: &dyn Fn(usize) -> Arc<[Match]>,
) -> DatumChanges {
    let state = State { changes, full };
    let mut found = state.differ(&tree(input, domains));
    found.removed.sort();
    found.added.sort();
    found
}

struct State<'a> {
    changes: &'a BTreeMap<usize, LeafChange>,
    full: &'a dyn Fn(usize) -> Arc<[Match]>,
}

impl State<'_> {
    fn moves(&self, tree: &Tree<'_>) -> bool {
        let changed = |n: &usize| self.changes.get(n).is_some_and(|c| !c.is_empty());
        tree.leaves().iter().any(|l| changed(&l.number))
    }

    fn new_matches(&self, leaf: usize) -> Arc<[Match]> {
        (self.full)(leaf)
    }

    /// The old matches, found from the new ones by undoing the change.
    fn old_matches(&self, leaf: usize) -> Arc<[Match]> {
        let new = (self.full)(leaf);
        let Some(change) = self.changes.get(&leaf).filter(|c| !c.is_empty()) else {
            return new;
        };
        let added: BTreeSet<&Match> = change.added.iter().collect();
        new.iter()
            .filter(|m| !added.contains(m))
            .chain(&change.removed)
            .cloned()
            .collect()
    }

    fn differ(&self, tree: &Tree<'_>) -> DatumChanges {
        if !self.moves(tree) {
            return DatumChanges::default();
        }
        match tree {
            Tree::Leaf(leaf) => {
                let Some(change) = self.changes.get(&leaf.number) else {
                    return DatumChanges::default();
                };
                cancelled(&DatumChanges {
                    removed: change.removed.iter().filter_map(|m| leaf.datum(m)).collect(),
                    added: change.added.iter().filter_map(|m| leaf.datum(m)).collect(),
                })
            }
            Tree::Union(parts) if !may_coincide(parts) => {
                let mut sum = DatumChanges::default();
                for change in parts.iter().map(|p| self.differ(p)) {
                    sum.removed.extend(change.removed);
                    sum.added.extend(change.added);
                }
                sum
            }
            Tree::Cross(parts) => self.cross(parts),
            Tree::Group(_) | Tree::Union(_) => cancelled(&DatumChanges {
                removed: all(tree, &|leaf| self.old_matches(leaf)),
                added: all(tree, &|leaf| self.new_matches(leaf)),
            }),
        }
    }

    fn cross(&self, parts: &[Tree<'_>]) -> DatumChanges {
        let changes: Vec<DatumChanges> = parts.iter().map(|p| self.differ(p)).collect();
        let moving: Vec<usize> = (0..parts.len()).filter(|i| !changes[*i].is_nothing()).collect();
        let full = |i: usize| all(&parts[i], &|leaf| self.new_matches(leaf));
        if let [only] = moving[..] {
            let side = |changed: &[Datum]| {
                let factor = |i: usize| if i == only { changed.to_vec() } else { full(i) };
                product((0..parts.len()).map(factor))
            };
            return DatumChanges {
                removed: side(&changes[only].removed),
                added: side(&changes[only].added),
            };
        }
        // Several factors move: each combination is counted at the first factor that moved in it.
        let mut sum = DatumChanges::default();
        let news: Vec<Vec<Datum>> = if moving.is_empty() {
            Vec::new()
        } else {
            (0..parts.len()).map(full).collect()
        };
        let stable: Vec<Vec<Datum>> = news
            .iter()
            .zip(&changes)
            .map(|(new, c)| without(new, &c.added))
            .collect();
        for first in moving {
            let before = |i: usize| stable[i].clone();
            let added = (0..parts.len()).map(|i| match i.cmp(&first) {
                std::cmp::Ordering::Less => before(i),
                std::cmp::Ordering::Equal => changes[i].added.clone(),
                std::cmp::Ordering::Greater => news[i].clone(),
            });
            sum.added.extend(product(added));
            let removed = (0..parts.len()).map(|i| match i.cmp(&first) {
                std::cmp::Ordering::Less => before(i),
                std::cmp::Ordering::Equal => changes[i].removed.clone(),
                std::cmp::Ordering::Greater => [stable[i].as_slice(), &changes[i].removed].concat(),
            });
            sum.removed.extend(product(removed));
        }
        sum
    }
}

impl DatumChanges {
    fn is_nothing(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}

fn without(datums: &[Datum], gone: &[Datum]) -> Vec<Datum> {
    let gone: BTreeSet<&Datum> = gone.iter().collect();
    datums.iter().filter(|d| !gone.contains(d)).cloned().collect()
}

/// Leaves out what is on both sides.
fn cancelled(changes: &DatumChanges) -> DatumChanges {
    let removed = without(&changes.removed, &changes.added);
    let added = without(&changes.added, &changes.removed);
    DatumChanges {
        removed: distinct(removed.into_iter()),
        added: distinct(added.into_iter()),
    }
}
