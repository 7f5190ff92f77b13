//! How many datums an input yields, without making any: a cross of two lists of twenty thousand files is told from their
//! lengths. An upper bound where equal datums fall together. Asked before anything is enumerated, because the
//! enumeration stands in memory.

use std::collections::BTreeMap;

use contract::ids::DomainId;

use super::changes::{LeafChange, may_coincide};
use super::combine::{Tree, tree};
use crate::spec::InputSpec;

/// So many files and directories may all datums of one plan read together, each counted in each datum: two gigabytes.
pub const INPUTS_MAX: u64 = 4_000_000;

/// Datums and what they read, at most; saturating.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Datums.
    pub datums: u64,
    /// Files and directories that they read, each counted in each datum.
    pub inputs: u64,
}

/// More than can be planned at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the input makes up to {} datums that read {} files and directories, and at most {INPUTS_MAX} can be planned at once: \
     narrow a glob, match directories instead of files, or use a group instead of a cross",
    .0.datums,
    .0.inputs
)]
pub struct TooMany(pub Size);

impl Size {
    /// Whether that can be planned.
    ///
    /// # Errors
    /// When it cannot.
    pub fn admit(self) -> Result<(), TooMany> {
        if self.inputs > INPUTS_MAX || self.datums > INPUTS_MAX {
            return Err(TooMany(self));
        }
        Ok(())
    }

    fn plus(self, other: Self) -> Self {
        Self {
            datums: self.datums.saturating_add(other.datums),
            inputs: self.inputs.saturating_add(other.inputs),
        }
    }

    fn times(self, other: Self) -> Self {
        let (left, right) = (
            self.inputs.saturating_mul(other.datums),
            other.inputs.saturating_mul(self.datums),
        );
        Self {
            datums: self.datums.saturating_mul(other.datums),
            inputs: left.saturating_add(right),
        }
    }

    fn of(count: u64) -> Self {
        Self {
            datums: count,
            inputs: count,
        }
    }
}

/// The one combination of nothing.
const ONE: Size = Size { datums: 1, inputs: 0 };

/// What [`super::enumerate`] would yield and hold on its way; `matches` gives the number of each leaf's matches.
pub fn size(input: &InputSpec, matches: &dyn Fn(usize) -> u64) -> Size {
    whole(&tree(input, &[]), matches)
}

/// What [`super::enumerate_changes`] would yield and hold on its way; `full` is asked for
/// [`leaves_needed`](super::leaves_needed) only.
pub fn size_of_changes(
    input: &InputSpec,
    domains: &[DomainId],
    changes: &BTreeMap<usize, LeafChange>,
    full: &dyn Fn(usize) -> u64,
) -> Size {
    let moved = |leaf: usize| {
        let change = changes.get(&leaf);
        change.map_or(0, |c| (c.removed.len() as u64).saturating_add(c.added.len() as u64))
    };
    differing(&tree(input, domains), &moved, full)
}

fn whole(tree: &Tree<'_>, matches: &dyn Fn(usize) -> u64) -> Size {
    match tree {
        Tree::Leaf(leaf) => Size::of(matches(leaf.number)),
        Tree::Cross(parts) => parts.iter().fold(ONE, |all, part| all.times(whole(part, matches))),
        Tree::Union(parts) | Tree::Group(parts) => {
            let sizes = parts.iter().map(|part| whole(part, matches));
            sizes.fold(Size::default(), Size::plus)
        }
    }
}

fn differing(tree: &Tree<'_>, moved: &dyn Fn(usize) -> u64, full: &dyn Fn(usize) -> u64) -> Size {
    let moves = |t: &Tree<'_>| t.leaves().iter().any(|l| moved(l.number) > 0);
    if !moves(tree) {
        return Size::default();
    }
    // The old matches are the new ones and what was removed, at most.
    let either = |leaf: usize| full(leaf).saturating_add(moved(leaf));
    match tree {
        Tree::Leaf(leaf) => Size::of(moved(leaf.number)),
        Tree::Union(parts) if !may_coincide(parts) => {
            let sizes = parts.iter().map(|part| differing(part, moved, full));
            sizes.fold(Size::default(), Size::plus)
        }
        Tree::Union(_) | Tree::Group(_) => whole(tree, full).plus(whole(tree, &either)),
        Tree::Cross(parts) => {
            let others = |at: usize, part: usize| match part == at {
                true => differing(&parts[part], moved, full),
                false => whole(&parts[part], &either),
            };
            let moving = (0..parts.len()).filter(|at| moves(&parts[*at]));
            let sizes = moving.map(|at| (0..parts.len()).fold(ONE, |all, part| all.times(others(at, part))));
            sizes.fold(Size::default(), Size::plus)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn input(kind: &str, leaves: usize) -> InputSpec {
        let leaf = |n: usize| match kind {
            "group" => json!({ "pfs": { "repo": format!("r{n}"), "glob": "/(*)", "group_by": "$1" } }),
            _ => json!({ "pfs": { "repo": format!("r{n}"), "glob": "/*" } }),
        };
        let parts: Vec<_> = (0..leaves).map(leaf).collect();
        let spec = json!({
            "pipeline": { "name": "p" },
            "transform": { "cmd": ["true"] },
            "input": { kind: parts },
        });
        let project = contract::names::ProjectName::default_project();
        crate::spec::PipelineSpec::parse(&spec, &project).unwrap().input
    }

    #[test]
    fn a_cross_is_refused_from_the_lengths_of_its_lists() {
        let cross = input("cross", 2);
        let found = size(&cross, &|_| 20_000);
        assert_eq!((found.datums, found.inputs), (400_000_000, 800_000_000));
        let refused = found.admit().unwrap_err().to_string();
        assert!(
            refused.contains("400000000 datums") && refused.contains("narrow a glob"),
            "{refused}"
        );
        assert_eq!(size(&cross, &|_| 1000).admit(), Ok(()));
        assert_eq!(size(&cross, &|_| u64::MAX).datums, u64::MAX);
        assert_eq!(size(&cross, &|leaf| leaf as u64 * 10), Size::default());
    }

    #[test]
    fn a_union_and_a_group_are_no_larger_than_their_lists() {
        assert_eq!(size(&input("union", 3), &|_| 5), Size::of(15));
        assert_eq!(size(&input("group", 1), &|_| 5), Size::of(5));
    }

    #[test]
    fn a_small_change_of_one_factor_costs_the_other_factor_once() {
        let cross = input("cross", 2);
        let one = super::super::Match {
            path: "/a".to_owned(),
            kind: super::super::Kind::File,
            digest: [0; 32],
            size: 1,
            captures: crate::glob::Captures::default(),
        };
        let change = LeafChange {
            removed: Vec::new(),
            added: vec![one],
        };
        let changes = BTreeMap::from([(0, change)]);
        let found = size_of_changes(&cross, &[], &changes, &|_| 1_000_000);
        assert_eq!((found.datums, found.admit()), (1_000_000, Ok(())));
        let both = BTreeMap::from([(0, changes[&0].clone()), (1, changes[&0].clone())]);
        assert_eq!(size_of_changes(&cross, &[], &both, &|_| 1000).datums, 2 * 1001);
        assert_eq!(
            size_of_changes(&cross, &[], &BTreeMap::new(), &|_| u64::MAX),
            Size::default()
        );
    }
}
