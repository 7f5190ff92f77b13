//! Indexes of keys: which matches of a leaf under a join or group have which value, so that a changed key is looked up and
//! the leaf is not listed. Each is kept as of the commit that the leaf read in the job planned last, and follows by the
//! difference of the trees, whatever became of that job. Rows name paths, never contents, and can be made again from a
//! listing; so what may not be known any more takes its index along ([`queries::forget_commits`]).
//!
//! A job that is over writes none: its row is locked while an index is begun or moved on, and a purge ends jobs before it
//! removes indexes.

pub mod queries;

use std::collections::BTreeSet;
use std::sync::Arc;

use contract::ids::JobId;
use provenance::datums::{By, Kind, Match};
use provenance::spec::PfsInput;
use storage::TreeRef;
use uuid::Uuid;

use super::{SELF, matches};
use crate::failure::Answer;
use crate::plane::Plane;
use queries::{IndexRow, NewIndex};

/// So many rows go into one statement.
const CHUNK: usize = 5000;
/// A difference of more files or rows is not made in one transaction: the index is made anew.
const MOVED_MAX: usize = 50_000;

/// A match under a key.
pub struct Row {
    key: [u8; 16],
    place: [u8; 16],
    path: String,
    directory: bool,
}

/// What is known of the keys of a leaf.
#[derive(Clone)]
pub enum Keys {
    /// Nothing: list it.
    Unknown,
    /// They were made from this list.
    Listed(Arc<[Match]>),
    /// They stand in the index of this id.
    Index(i64),
}

fn short(digest: &blake3::Hash) -> [u8; 16] {
    let mut out = [0; 16];
    for (to, from) in out.iter_mut().zip(digest.as_bytes()) {
        *to = *from;
    }
    out
}

/// The key of a value.
pub fn key(by: By, value: &str) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key("howdah leaf key v1");
    hasher.update(match by {
        By::Join => b"join ",
        By::Group => b"group ",
    });
    hasher.update(value.as_bytes());
    short(&hasher.finalize())
}

fn rows(leaf: &PfsInput, found: &Match) -> impl Iterator<Item = Row> {
    let directory = found.kind == Kind::Directory;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[u8::from(directory)]);
    hasher.update(found.path.as_bytes());
    let place = short(&hasher.finalize());
    let path = found.path.clone();
    let values: Vec<_> = By::ALL
        .into_iter()
        .filter_map(|by| Some(key(by, &found.captures.expand(by.template(leaf)?))))
        .collect();
    values.into_iter().map(move |key| Row {
        key,
        place,
        path: path.clone(),
        directory,
    })
}

fn shape(leaf: &PfsInput) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("howdah leaf shape v1");
    for text in [
        Some(leaf.glob.as_str()),
        leaf.join_on.as_deref(),
        leaf.group_by.as_deref(),
    ] {
        let text = text.map_or_else(|| "none".to_owned(), |text| format!("{} {text}", text.len()));
        hasher.update(text.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// The job that is planned.
pub struct Planning<'a> {
    /// The plane.
    pub plane: &'a Plane,
    /// The job.
    pub job: JobId,
    /// Its pipeline.
    pub pipeline: Uuid,
}

impl Planning<'_> {
    /// Brings the index of each leaf that has keys to the tree that it reads now.
    ///
    /// # Errors
    /// When the database or storage is away, or a first listing finds more than can be planned.
    pub async fn follow(&self, leaves: &[PfsInput], trees: &[TreeRef]) -> Answer<Vec<Keys>> {
        let has_keys = |leaf: &PfsInput| By::ALL.into_iter().any(|by| by.template(leaf).is_some());
        let place = |position: usize| i32::try_from(position).unwrap_or(i32::MAX);
        let keyed: Vec<i32> = leaves
            .iter()
            .enumerate()
            .filter(|(_, leaf)| has_keys(leaf))
            .map(|(position, _)| place(position))
            .collect();
        let mut conn = self.plane.pool.acquire().await?;
        queries::forget_others(&mut conn, &SELF, self.pipeline, &keyed).await?;
        drop(conn);
        let mut known = Vec::with_capacity(leaves.len());
        for (position, (leaf, tree)) in leaves.iter().zip(trees).enumerate() {
            known.push(match has_keys(leaf) {
                true => self.one(place(position), leaf, tree).await?,
                false => Keys::Unknown,
            });
        }
        Ok(known)
    }

    async fn one(&self, position: i32, leaf: &PfsInput, tree: &TreeRef) -> Answer<Keys> {
        let mut conn = self.plane.pool.acquire().await?;
        let found = queries::find_index(&mut conn, &SELF, self.pipeline, position).await?;
        drop(conn);
        if let Some(index) = found
            && let Some(moved) = self.move_on(index, leaf, tree).await?
        {
            return Ok(moved);
        }
        self.make(position, leaf, tree).await
    }

    /// By the difference; `None` when it has to be made anew.
    async fn move_on(&self, index: IndexRow, leaf: &PfsInput, tree: &TreeRef) -> Answer<Option<Keys>> {
        let Some(root) = index.root.filter(|_| index.shape == shape(leaf)) else {
            return Ok(None);
        };
        let before = TreeRef::from_bytes(&root)?;
        if before.digest().as_bytes()[..] != index.tree_digest {
            return Ok(None);
        }
        let storage = &self.plane.storage;
        let Some(files) = matches::difference(storage, &before, tree, MOVED_MAX).await? else {
            return Ok(None);
        };
        let change = matches::changed(storage, &before, tree, &leaf.glob, &files).await?;
        let place = |m: &Match| (m.path.clone(), m.kind);
        let (gone, come): (BTreeSet<_>, BTreeSet<_>) = (
            change.removed.iter().map(place).collect(),
            change.added.iter().map(place).collect(),
        );
        // What has another content only keeps its rows.
        let moved = |all: &[Match], others: &BTreeSet<_>| -> Vec<Row> {
            let only = all.iter().filter(|m| !others.contains(&place(m)));
            only.flat_map(|m| rows(leaf, m)).collect()
        };
        let (gone, come) = (moved(&change.removed, &come), moved(&change.added, &gone));
        if gone.len() + come.len() > MOVED_MAX {
            return Ok(None);
        }
        let mut tx = self.plane.begin().await?;
        if !queries::lock_starting(&mut tx, &SELF, self.job).await?
            || !queries::update_index(&mut tx, &SELF, index.id, self.job, tree.digest().as_bytes()).await?
        {
            return Ok(None);
        }
        for chunk in gone.chunks(CHUNK) {
            queries::delete_keys(&mut tx, &SELF, index.id, chunk).await?;
        }
        for chunk in come.chunks(CHUNK) {
            queries::insert_keys(&mut tx, &SELF, index.id, chunk).await?;
        }
        tx.commit().await?;
        Ok(Some(Keys::Index(index.id)))
    }

    /// From a listing. In many short transactions, since what ends the job waits for each; the index is gone, and gets no
    /// rows, when what it is of may not be known any more.
    async fn make(&self, position: i32, leaf: &PfsInput, tree: &TreeRef) -> Answer<Keys> {
        let all = matches::all(&self.plane.storage, tree, &leaf.glob).await?;
        let digest = tree.digest();
        let new = NewIndex {
            pipeline: self.pipeline,
            position,
            shape: &shape(leaf),
            job: self.job,
            tree: digest.as_bytes(),
        };
        let mut tx = self.plane.begin().await?;
        if !queries::lock_starting(&mut tx, &SELF, self.job).await? {
            return Ok(Keys::Unknown);
        }
        let id = queries::insert_index(&mut tx, &SELF, new).await?;
        tx.commit().await?;
        let mut conn = self.plane.pool.acquire().await?;
        for chunk in all.chunks(CHUNK) {
            let rows: Vec<Row> = chunk.iter().flat_map(|m| rows(leaf, m)).collect();
            queries::insert_keys(&mut conn, &SELF, id, &rows).await?;
        }
        queries::update_index(&mut conn, &SELF, id, self.job, new.tree).await?;
        Ok(Keys::Listed(all.into()))
    }
}
