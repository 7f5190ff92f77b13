//! Answers what enumeration asks of the trees that a job reads. Enumeration computes and does not wait, so it runs on a
//! thread of its own and its questions are answered there.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use provenance::datums::{By, Kind, Match, Matches, TooMany, Touched};
use provenance::spec::PfsInput;
use storage::TreeRef;
use tokio::runtime::Handle;

use super::keys::{self, Keys};
use super::{SELF, matches};
use crate::failure::{Answer, Failure};
use crate::plane::Plane;

/// A list is read instead of looking up more than one in so many of its files: neighbours in a tree cost little.
const SPARSE: u64 = 16;
/// So many keys are looked up at once.
const KEYS_AT_ONCE: usize = 5000;

/// Why datums were not enumerated.
pub enum Refused {
    /// They are too many to hold.
    TooMany(TooMany),
    /// A question could not be answered.
    Failed(Failure),
}

impl From<TooMany> for Refused {
    fn from(refused: TooMany) -> Self {
        Self::TooMany(refused)
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooMany(refused) => refused.into(),
            Refused::Failed(failure) => failure,
        }
    }
}

/// The trees of a job's leaves.
pub struct Source {
    plane: Plane,
    leaves: Vec<PfsInput>,
    trees: Vec<TreeRef>,
    keys: Vec<Keys>,
    listed: RefCell<BTreeMap<usize, Arc<[Match]>>>,
    runtime: Handle,
}

impl Source {
    /// Those of leaves, in their order, and what is known of their keys.
    pub fn new(plane: &Plane, leaves: Vec<PfsInput>, trees: Vec<TreeRef>, keys: Vec<Keys>) -> Self {
        let listed = keys.iter().enumerate().filter_map(|(leaf, keys)| match keys {
            Keys::Listed(all) => Some((leaf, Arc::clone(all))),
            Keys::Unknown | Keys::Index(_) => None,
        });
        Self {
            plane: plane.clone(),
            leaves,
            trees,
            listed: RefCell::new(listed.collect()),
            keys,
            runtime: Handle::current(),
        }
    }

    /// Lets something ask.
    ///
    /// # Errors
    /// Whatever it fails with.
    pub async fn answer<T: Send + 'static>(
        self,
        ask: impl FnOnce(&Self) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let asked = tokio::task::spawn_blocking(move || ask(&self));
        asked
            .await
            .map_err(|broke| Failure::internal(format!("the enumeration of datums broke off: {broke}")))?
    }

    async fn places(&self, index: i64, by: By, values: &BTreeSet<String>) -> Answer<Vec<(String, bool)>> {
        let keys: Vec<_> = values.iter().map(|value| keys::key(by, value)).collect();
        let mut conn = self.plane.pool.acquire().await?;
        let mut places = Vec::new();
        for chunk in keys.chunks(KEYS_AT_ONCE) {
            places.extend(keys::queries::list_keyed(&mut conn, &SELF, index, chunk).await?);
        }
        Ok(places)
    }

    fn leaf(&self, leaf: usize) -> Result<(&PfsInput, &TreeRef), Refused> {
        let known = self.leaves.get(leaf).zip(self.trees.get(leaf));
        known.ok_or_else(|| Failure::internal("an input was asked for that the spec does not have").into())
    }
}

impl Matches for Source {
    type Error = Refused;

    fn all(&self, leaf: usize) -> Result<Arc<[Match]>, Refused> {
        if let Some(known) = self.listed.borrow().get(&leaf) {
            return Ok(Arc::clone(known));
        }
        let (spec, tree) = self.leaf(leaf)?;
        let all: Arc<[Match]> = self
            .runtime
            .block_on(matches::all(&self.plane.storage, tree, &spec.glob))?
            .into();
        self.listed.borrow_mut().insert(leaf, Arc::clone(&all));
        Ok(all)
    }

    fn keyed(&self, leaf: usize, by: By, values: &BTreeSet<String>) -> Result<Vec<Match>, Refused> {
        let (spec, tree) = self.leaf(leaf)?;
        let Some(template) = by.template(spec) else {
            return Ok(Vec::new());
        };
        if let Some(Keys::Index(index)) = self.keys.get(leaf) {
            let places = self.runtime.block_on(self.places(*index, by, values))?;
            if places.len() as u64 <= tree.files() / SPARSE {
                let mut found = Vec::with_capacity(places.len());
                for (path, directory) in places {
                    let kind = if directory { Kind::Directory } else { Kind::File };
                    found.extend(self.at(leaf, &path, kind)?);
                }
                // The index knows digests of values.
                found.retain(|m| values.contains(&m.captures.expand(template)));
                return Ok(found);
            }
        }
        let wanted = |m: &&Match| values.contains(&m.captures.expand(template));
        Ok(self.all(leaf)?.iter().filter(wanted).cloned().collect())
    }

    fn at(&self, leaf: usize, path: &str, kind: Kind) -> Result<Option<Match>, Refused> {
        let (spec, tree) = self.leaf(leaf)?;
        let Some(captures) = spec.glob.matches(path, kind == Kind::Directory) else {
            return Ok(None);
        };
        let touched = Touched {
            path: path.to_owned(),
            kind,
            captures,
        };
        Ok(self
            .runtime
            .block_on(matches::look_up(&self.plane.storage, tree, &touched))?)
    }
}
