//! Where the matches of leaves come from: the narrow questions that enumeration asks, so that whoever keeps the trees can
//! answer each at its own cost.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Kind, Match, TooMany};
use crate::spec::{InputSpec, PfsInput};

/// By which of its values a datum finds its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    /// `join_on`.
    Join,
    /// `group_by`.
    Group,
}

impl By {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Join, Self::Group];

    /// The template of a leaf that makes its value, if it has one.
    pub fn template(self, leaf: &PfsInput) -> Option<&str> {
        match self {
            Self::Join => leaf.join_on.as_deref(),
            Self::Group => leaf.group_by.as_deref(),
        }
    }

    /// The other one.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Join => Self::Group,
            Self::Group => Self::Join,
        }
    }
}

/// The matches of each leaf (by its place in `InputSpec::leaves`) in the new state of its commit.
pub trait Matches {
    /// Why an answer may fail.
    type Error: From<TooMany>;

    /// All of them, in any order.
    ///
    /// # Errors
    /// When they can't be told.
    fn all(&self, leaf: usize) -> Result<Arc<[Match]>, Self::Error>;

    /// Those whose value is one of these; asked of leaves that have such a template only.
    ///
    /// # Errors
    /// When they can't be told.
    fn keyed(&self, leaf: usize, by: By, values: &BTreeSet<String>) -> Result<Vec<Match>, Self::Error>;

    /// The match of this path and kind, if it is there and the leaf's glob matches it.
    ///
    /// # Errors
    /// When it can't be told.
    fn at(&self, leaf: usize, path: &str, kind: Kind) -> Result<Option<Match>, Self::Error>;
}

/// Lists in memory.
#[derive(Debug)]
pub struct Lists<'a> {
    leaves: Vec<&'a PfsInput>,
    lists: Vec<Arc<[Match]>>,
}

impl<'a> Lists<'a> {
    /// The list of each leaf of an input.
    pub fn new(input: &'a InputSpec, lists: Vec<Arc<[Match]>>) -> Self {
        Self {
            leaves: input.leaves(),
            lists,
        }
    }

    fn list(&self, leaf: usize) -> &[Match] {
        self.lists.get(leaf).map_or(&[], |list| list)
    }
}

impl Matches for Lists<'_> {
    type Error = TooMany;

    fn all(&self, leaf: usize) -> Result<Arc<[Match]>, TooMany> {
        Ok(self.lists.get(leaf).cloned().unwrap_or_else(|| Arc::from([])))
    }

    fn keyed(&self, leaf: usize, by: By, values: &BTreeSet<String>) -> Result<Vec<Match>, TooMany> {
        let Some(template) = self.leaves.get(leaf).and_then(|l| by.template(l)) else {
            return Ok(Vec::new());
        };
        let wanted = |m: &&Match| values.contains(&m.captures.expand(template));
        Ok(self.list(leaf).iter().filter(wanted).cloned().collect())
    }

    fn at(&self, leaf: usize, path: &str, kind: Kind) -> Result<Option<Match>, TooMany> {
        let found = self.list(leaf).iter().find(|m| m.kind == kind && m.path == path);
        Ok(found.cloned())
    }
}
