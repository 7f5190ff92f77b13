//! Datums of one state of an input, found by what is asked for: all of them, those whose values are among some, or the one
//! that is equal to a given one. What is not asked for is not looked at.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::changes::LeafChange;
use super::combine::{Leaf, Tree, combine, distinct, key, product};
use super::sizes::Size;
use super::{By, Datum, Identity, Kind, Match, Matches, One};

/// Before or after the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

/// Which datums are wanted: those whose values are all among these.
#[derive(Debug, Clone, Default)]
pub(super) struct Within {
    join: Option<BTreeSet<String>>,
    group: Option<BTreeSet<String>>,
}

/// A key: the different values of a datum.
pub(super) type Key = BTreeSet<String>;

impl Within {
    /// Those with these values of one kind.
    fn of(by: By, values: BTreeSet<String>) -> Self {
        match by {
            By::Join => Self {
                join: Some(values),
                group: None,
            },
            By::Group => Self {
                join: None,
                group: Some(values),
            },
        }
    }

    fn values(&self, by: By) -> Option<&BTreeSet<String>> {
        match by {
            By::Join => self.join.as_ref(),
            By::Group => self.group.as_ref(),
        }
    }

    fn is_everything(&self) -> bool {
        self.join.is_none() && self.group.is_none()
    }

    fn admits(&self, datum: &Datum) -> bool {
        By::ALL.into_iter().all(|by| {
            self.values(by)
                .is_none_or(|values| key(by, datum).into_iter().all(|value| values.contains(value)))
        })
    }
}

/// The new state as the caller tells it, and the old one, which is found from it by undoing the change.
pub(super) struct State<'a, M: Matches + ?Sized> {
    pub(super) changes: &'a BTreeMap<usize, LeafChange>,
    /// The same by what is looked for, made once: each datum that changes may ask.
    moved: BTreeMap<usize, Moved<'a>>,
    /// What was removed from a leaf, by its value.
    removed_by: RefCell<BTreeMap<(usize, By), Rc<ByValue<'a>>>>,
    source: &'a M,
}

/// How the matches of a leaf changed, by path and kind.
struct Moved<'a> {
    removed: BTreeMap<(&'a str, Kind), &'a Match>,
    added: BTreeMap<(&'a str, Kind), &'a Match>,
}

type ByValue<'a> = BTreeMap<String, Vec<&'a Match>>;

impl<'a> Moved<'a> {
    fn of(change: &'a LeafChange) -> Self {
        let by_place = |matches: &'a [Match]| matches.iter().map(|m| ((m.path.as_str(), m.kind), m)).collect();
        Self {
            removed: by_place(&change.removed),
            added: by_place(&change.added),
        }
    }

    fn has_added(&self, found: &Match) -> bool {
        self.added
            .get(&(found.path.as_str(), found.kind))
            .is_some_and(|m| *m == found)
    }
}

impl<'a, M: Matches + ?Sized> State<'a, M> {
    pub(super) fn new(changes: &'a BTreeMap<usize, LeafChange>, source: &'a M) -> Self {
        let moved = changes.iter().filter(|(_, change)| !change.is_empty());
        Self {
            changes,
            moved: moved.map(|(leaf, change)| (*leaf, Moved::of(change))).collect(),
            removed_by: RefCell::default(),
            source,
        }
    }

    /// The datums that are wanted, in no order that counts, none twice.
    pub(super) fn select(&self, tree: &Tree<'_>, within: &Within, side: Side) -> Result<Vec<Datum>, M::Error> {
        match tree {
            Tree::Leaf(leaf) => self.leaf(leaf, within, side),
            Tree::Union(parts) => self.union(parts, within, side),
            Tree::Cross(parts) => self.cross(parts, within, side),
            Tree::Keyed(by, parts) => {
                let made = if within.values(by.other()).is_none() {
                    let lists = self.each(parts, within, side)?;
                    combine(*by, parts, &lists)?
                } else {
                    // What has one key is whole only with what is not wanted of it.
                    let lists = self.each(parts, within, side)?;
                    let keys = lists.iter().flatten().map(|d| owned(*by, d)).collect();
                    let mut whole = self.cells(*by, parts, &keys, side)?;
                    whole.retain(|d| within.admits(d));
                    whole
                };
                if within.is_everything() || !repeats(tree) {
                    return Ok(made);
                }
                // An equal one of another key may come first.
                retain(made, |d| {
                    self.find(tree, &d.identity(), side)
                        .map(|first| first.as_ref() == Some(d))
                })
            }
        }
    }

    fn each(&self, parts: &[Tree<'_>], within: &Within, side: Side) -> Result<Vec<Vec<Datum>>, M::Error> {
        parts.iter().map(|part| self.select(part, within, side)).collect()
    }

    fn leaf(&self, leaf: &Leaf<'_>, within: &Within, side: Side) -> Result<Vec<Datum>, M::Error> {
        let keyed = By::ALL
            .into_iter()
            .filter(|by| by.template(leaf.spec).is_some())
            .filter_map(|by| Some((by, within.values(by)?)))
            .min_by_key(|(_, values)| values.len());
        let moved = self.moved.get(&leaf.number).filter(|_| side == Side::Old);
        let undone = |found: &[Match], removed: &[&Match]| -> Vec<Datum> {
            let stays = found.iter().filter(|m| moved.is_none_or(|moved| !moved.has_added(m)));
            let all = stays.chain(removed.iter().copied());
            let datums = all.filter_map(|m| leaf.datum(m));
            datums.filter(|d| within.admits(d)).collect()
        };
        let datums = match keyed {
            None => {
                let removed: Vec<&Match> = moved.iter().flat_map(|m| m.removed.values().copied()).collect();
                undone(&self.source.all(leaf.number)?, &removed)
            }
            Some((by, values)) => {
                let known = moved.map(|moved| self.removed_by(leaf, by, moved));
                let of = |value| known.as_ref().and_then(|known| known.get(value));
                let removed: Vec<&Match> = values.iter().filter_map(of).flatten().copied().collect();
                undone(&self.source.keyed(leaf.number, by, values)?, &removed)
            }
        };
        Size::of(&datums).admit()?;
        Ok(datums)
    }

    fn removed_by(&self, leaf: &Leaf<'_>, by: By, moved: &Moved<'a>) -> Rc<ByValue<'a>> {
        let mut known = self.removed_by.borrow_mut();
        let made = known.entry((leaf.number, by)).or_insert_with(|| {
            let mut all = ByValue::new();
            if let Some(template) = by.template(leaf.spec) {
                for found in moved.removed.values().copied() {
                    all.entry(found.captures.expand(template)).or_default().push(found);
                }
            }
            Rc::new(all)
        });
        Rc::clone(made)
    }

    pub(super) fn change(&self, leaf: usize) -> Option<&LeafChange> {
        self.changes.get(&leaf).filter(|c| !c.is_empty())
    }

    fn union(&self, parts: &[Tree<'_>], within: &Within, side: Side) -> Result<Vec<Datum>, M::Error> {
        let hidden = !within.is_everything() && may_coincide(parts);
        let mut all = Vec::new();
        let mut size = Size::default();
        for (at, part) in parts.iter().enumerate() {
            let mut datums = self.select(part, within, side)?;
            if hidden && at > 0 {
                // An equal one with another key, which is not wanted, comes first.
                datums = retain(datums, |d| {
                    self.find_first(&parts[..at], &d.identity(), side)
                        .map(|found| found.is_none())
                })?;
            }
            size = size.plus(Size::of(&datums));
            size.admit()?;
            all.extend(datums);
        }
        Ok(distinct(all.into_iter()))
    }

    fn cross(&self, parts: &[Tree<'_>], within: &Within, side: Side) -> Result<Vec<Datum>, M::Error> {
        let mut factors = Vec::with_capacity(parts.len());
        for part in parts {
            let factor = self.select(part, within, side)?;
            if factor.is_empty() {
                return Ok(factor);
            }
            factors.push(factor);
        }
        Ok(product(&factors)?)
    }

    /// Everything that a group or join makes of these keys.
    pub(super) fn cells(
        &self,
        by: By,
        parts: &[Tree<'_>],
        keys: &BTreeSet<Key>,
        side: Side,
    ) -> Result<Vec<Datum>, M::Error> {
        let within = Within::of(by, keys.iter().flatten().cloned().collect());
        let mut lists = self.each(parts, &within, side)?;
        for list in &mut lists {
            list.retain(|d| keys.contains(&owned(by, d)));
        }
        Ok(combine(by, parts, &lists)?)
    }

    /// The datum that is equal to this, as the input yields it.
    pub(super) fn find(&self, tree: &Tree<'_>, wanted: &Identity, side: Side) -> Result<Option<Datum>, M::Error> {
        match tree {
            Tree::Leaf(leaf) => {
                let [one] = &wanted.0[..] else { return Ok(None) };
                let found = self.at(leaf, one, side)?.and_then(|m| leaf.datum(&m));
                Ok(found.filter(|d| d.identity() == *wanted))
            }
            Tree::Union(parts) => self.find_first(parts, wanted, side),
            Tree::Cross(parts) => {
                let mut inputs = Vec::with_capacity(wanted.0.len());
                for part in parts {
                    // Names are unique under a cross, so each input is that of one factor.
                    let Some(datum) = self.find(part, &named_in(part, wanted), side)? else {
                        return Ok(None);
                    };
                    inputs.extend(datum.inputs);
                }
                Ok(Some(Datum::new(inputs)).filter(|d| d.identity() == *wanted))
            }
            Tree::Keyed(by, parts) => {
                let mut values = BTreeSet::new();
                for one in &wanted.0 {
                    let known = values.len();
                    for leaf in tree.leaves() {
                        let found = self.at(leaf, one, side)?;
                        let template = by.template(leaf.spec);
                        values.extend(found.zip(template).map(|(m, template)| m.captures.expand(template)));
                    }
                    // Of a leaf that has no key of its own under a cross, others have it.
                    if known == values.len() && !self.is_there(tree, one, side)? {
                        return Ok(None);
                    }
                }
                let within = Within::of(*by, values);
                let lists = self.each(parts, &within, side)?;
                let mut made = combine(*by, parts, &lists)?.into_iter();
                Ok(made.find(|d| d.identity() == *wanted))
            }
        }
    }

    fn find_first(&self, parts: &[Tree<'_>], wanted: &Identity, side: Side) -> Result<Option<Datum>, M::Error> {
        for part in parts {
            let found = self.find(part, wanted, side)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Whether any leaf has this input.
    fn is_there(&self, tree: &Tree<'_>, one: &One, side: Side) -> Result<bool, M::Error> {
        for leaf in tree.leaves() {
            if self.at(leaf, one, side)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The match of a leaf that makes this input.
    fn at(&self, leaf: &Leaf<'_>, one: &One, side: Side) -> Result<Option<Match>, M::Error> {
        let ((name, domain, path, kind, digest, empty_files), _) = one;
        if leaf.spec.name != *name || leaf.domain != Some(*domain) || leaf.spec.empty_files != *empty_files {
            return Ok(None);
        }
        let here = (path.as_str(), *kind);
        let same = |m: &Match| m.digest == *digest;
        if let (Side::Old, Some(moved)) = (side, self.moved.get(&leaf.number)) {
            if let Some(before) = moved.removed.get(&here) {
                return Ok(Some((*before).clone()).filter(same));
            }
            if moved.added.contains_key(&here) {
                return Ok(None);
            }
        }
        Ok(self.source.at(leaf.number, path, *kind)?.filter(same))
    }
}

/// The key of a datum.
pub(super) fn owned(by: By, datum: &Datum) -> Key {
    key(by, datum).into_iter().map(str::to_owned).collect()
}

fn retain<E>(datums: Vec<Datum>, keep: impl Fn(&Datum) -> Result<bool, E>) -> Result<Vec<Datum>, E> {
    let mut kept = Vec::with_capacity(datums.len());
    for datum in datums {
        if keep(&datum)? {
            kept.push(datum);
        }
    }
    Ok(kept)
}

fn named_in(tree: &Tree<'_>, wanted: &Identity) -> Identity {
    let names: BTreeSet<_> = tree.leaves().iter().map(|l| &l.spec.name).collect();
    let here = wanted.0.iter().filter(|(place, _)| names.contains(&place.0));
    Identity(here.cloned().collect())
}

/// What two inputs of a datum have in common when they may be equal.
fn looks<'t>(tree: &'t Tree<'_>) -> Vec<impl Ord + use<'t>> {
    let leaves = tree.leaves().into_iter();
    leaves
        .map(|l| (l.spec.name.as_str(), l.domain, l.spec.empty_files))
        .collect()
}

/// Whether two parts of a union can yield equal datums: only then must the others be looked at for each change.
pub(super) fn may_coincide(parts: &[Tree<'_>]) -> bool {
    let mut seen = BTreeSet::new();
    let different = |tree| looks(tree).into_iter().collect::<BTreeSet<_>>();
    parts
        .iter()
        .any(|tree| different(tree).into_iter().any(|look| !seen.insert(look)))
}

/// Whether two keys can hold the same: only where one input is read by two leaves.
pub(super) fn repeats(tree: &Tree<'_>) -> bool {
    let mut seen = BTreeSet::new();
    looks(tree).into_iter().any(|look| !seen.insert(look))
}
