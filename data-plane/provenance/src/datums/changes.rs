//! The difference between the datums of two states of an input, at a cost in proportion to the difference: one new file
//! beside a million old ones makes one datum, and the million is not looked at. Of a group or join the keys that changed are
//! looked up, of a union the paths that changed in its other parts, of a cross the other factors, which its datums hold.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use contract::ids::DomainId;

use super::combine::{Tree, distinct, product, tree};
use super::select::{Side, State, Within, may_coincide, owned, repeats};
use super::sizes::Size;
use super::{Datum, Identity, Match, Matches};
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

/// The datums that leave and those that come when the leaves change as `changes` says (by leaf number; a leaf that is
/// not there is unchanged). `matches` tells of the new state; a whole list is asked for only where each of its matches is in
/// a datum that changes.
///
/// Equal to the difference of `enumerate` on both states, where a datum that now comes from another leaf is another one,
/// so that its `leaf` always names a commit that has it; its key is the same.
///
/// # Errors
/// [`TooMany`](super::TooMany) when they could not be held, told before they are made; whatever `matches` fails with.
pub fn enumerate_changes<M: Matches + ?Sized>(
    input: &InputSpec,
    domains: &[DomainId],
    changes: &BTreeMap<usize, LeafChange>,
    matches: &M,
) -> Result<DatumChanges, M::Error> {
    let state = State::new(changes, matches);
    let mut found = state.differ(&tree(input, domains))?;
    found.removed.sort();
    found.added.sort();
    Ok(found)
}

impl<M: Matches + ?Sized> State<'_, M> {
    fn moves(&self, tree: &Tree<'_>) -> bool {
        tree.leaves().iter().any(|l| self.change(l.number).is_some())
    }

    fn differ(&self, tree: &Tree<'_>) -> Result<DatumChanges, M::Error> {
        if !self.moves(tree) {
            return Ok(DatumChanges::default());
        }
        match tree {
            Tree::Leaf(leaf) => {
                let change = self.change(leaf.number);
                let datums = |side: fn(&LeafChange) -> &Vec<Match>| {
                    let matches = change.into_iter().flat_map(side);
                    matches.filter_map(|m| leaf.datum(m)).collect()
                };
                Ok(cancelled(&DatumChanges {
                    removed: datums(|c| &c.removed),
                    added: datums(|c| &c.added),
                }))
            }
            Tree::Union(parts) => {
                let sum = self.sum(parts)?;
                if !may_coincide(parts) {
                    return Ok(sum);
                }
                self.resolve(tree, &sum)
            }
            Tree::Cross(parts) => self.cross_changes(parts),
            Tree::Keyed(by, parts) => {
                let sum = self.sum(parts)?;
                let keys = sum.all().map(|d| owned(*by, d)).collect();
                let found = DatumChanges {
                    removed: self.cells(*by, parts, &keys, Side::Old)?,
                    added: self.cells(*by, parts, &keys, Side::New)?,
                };
                if !repeats(tree) {
                    return Ok(cancelled(&found));
                }
                self.resolve(tree, &found)
            }
        }
    }

    fn sum(&self, parts: &[Tree<'_>]) -> Result<DatumChanges, M::Error> {
        let mut sum = DatumChanges::default();
        for part in parts {
            let change = self.differ(part)?;
            sum.removed.extend(change.removed);
            sum.added.extend(change.added);
            Size::of(&sum.removed).plus(Size::of(&sum.added)).admit()?;
        }
        Ok(sum)
    }

    /// How what equals one of these datums changes, where there may be several equal ones of which one counts.
    fn resolve(&self, tree: &Tree<'_>, found: &DatumChanges) -> Result<DatumChanges, M::Error> {
        let identities: BTreeSet<Identity> = found.all().map(Datum::identity).collect();
        let mut changes = DatumChanges::default();
        for identity in identities {
            let before = self.find(tree, &identity, Side::Old)?;
            let after = self.find(tree, &identity, Side::New)?;
            if before != after {
                changes.removed.extend(before);
                changes.added.extend(after);
            }
        }
        Ok(changes)
    }

    /// Each combination that changed is counted at the first factor that moved in it. A factor is listed whole only where
    /// another one moves: then each of its datums is in one that changes.
    fn cross_changes(&self, parts: &[Tree<'_>]) -> Result<DatumChanges, M::Error> {
        let changes: Vec<DatumChanges> = parts.iter().map(|p| self.differ(p)).collect::<Result<_, _>>()?;
        let lists: Vec<OnceCell<Arc<[Datum]>>> = parts.iter().map(|_| OnceCell::new()).collect();
        let new = |at: usize| -> Result<Arc<[Datum]>, M::Error> {
            if let Some(known) = lists[at].get() {
                return Ok(Arc::clone(known));
            }
            let all: Arc<[Datum]> = self.select(&parts[at], &Within::default(), Side::New)?.into();
            Ok(Arc::clone(lists[at].get_or_init(|| all)))
        };
        let stable = |at: usize| -> Result<Arc<[Datum]>, M::Error> {
            let all = new(at)?;
            if changes[at].added.is_empty() {
                return Ok(all);
            }
            Ok(without(&all, &changes[at].added).into())
        };
        let old = |at: usize| -> Result<Arc<[Datum]>, M::Error> {
            if changes[at].is_nothing() {
                return new(at);
            }
            Ok([&stable(at)?[..], &changes[at].removed].concat().into())
        };
        let mut sum = DatumChanges::default();
        for (first, change) in changes.iter().enumerate() {
            let combined = |moved: &[Datum], behind: &dyn Fn(usize) -> Result<Arc<[Datum]>, M::Error>| {
                let mut factors: Vec<Arc<[Datum]>> = Vec::with_capacity(parts.len());
                if moved.is_empty() {
                    return Ok(Vec::new());
                }
                for at in 0..parts.len() {
                    let factor = match at.cmp(&first) {
                        std::cmp::Ordering::Less => stable(at)?,
                        std::cmp::Ordering::Equal => moved.into(),
                        std::cmp::Ordering::Greater => behind(at)?,
                    };
                    if factor.is_empty() {
                        return Ok(Vec::new());
                    }
                    factors.push(factor);
                }
                Ok::<_, M::Error>(product(&factors)?)
            };
            sum.added.extend(combined(&change.added, &new)?);
            sum.removed.extend(combined(&change.removed, &old)?);
            Size::of(&sum.removed).plus(Size::of(&sum.added)).admit()?;
        }
        Ok(sum)
    }
}

impl DatumChanges {
    fn is_nothing(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &Datum> {
        self.removed.iter().chain(&self.added)
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
