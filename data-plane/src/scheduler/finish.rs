//! Puts the output of a job together: the base's tree without the outputs of datums that are gone, with those of datums
//! that are new. Costs what changed. The tree is made without any lock; one transaction then finishes the commit and ends
//! the job, so readers see all of it or nothing.

use std::collections::{BTreeMap, HashSet};

use contract::ids::{CommitId, JobId};
use provenance::datums::{OutputPath, collision};
use storage::{FilePath, StorageError, TreeChange, TreeRef, decode_entries};

use super::SELF;
use super::planning;
use super::queries::{self, WorkRow};
use super::reproduction;
use crate::commits::finish::finish_in_transaction;
use crate::failure::Answer;
use crate::jobs;
use crate::pipelines;
use crate::plane::Plane;
use crate::worker::queries::decode_inputs;

/// Finishes a job whose datums are settled.
///
/// # Errors
/// When the database or storage is away: try again.
pub async fn finish(plane: &Plane, job: JobId) -> Answer<()> {
    let mut conn = plane.pool.acquire().await?;
    let Some(work) = queries::find_work(&mut conn, &SELF, job).await? else {
        return Ok(());
    };
    drop(conn);
    if work.state != "finishing" {
        return Ok(());
    }
    let assembled = assemble(plane, job, &work).await?;
    if let (Some(original), Assembled::Tree(tree)) = (work.reproduces, &assembled) {
        return reproduction::finish(plane, job, &work, CommitId::from_uuid(original), tree).await;
    }
    let mut tx;
    match assembled {
        Assembled::Stale => {
            tx = plane.begin().await?;
            if !queries::plan_again(&mut tx, &SELF, job).await? {
                return Ok(());
            }
        }
        Assembled::Tree(tree) => {
            tx = plane.begin().await?;
            let now = plane.now();
            if !queries::succeed(&mut tx, &SELF, job, now).await? {
                return Ok(());
            }
            let commit = CommitId::from_uuid(work.output_commit_id);
            finish_in_transaction(plane, &mut tx, &SELF, commit, &tree, now).await?;
            pipelines::queries::update_outcome(&mut tx, &SELF, work.pipeline_id, None).await?;
        }
        Assembled::Collision(reason) => {
            tx = plane.begin().await?;
            jobs::end::fail(plane, &mut tx, job, &reason).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

/// What came of putting an output together.
enum Assembled {
    /// The tree.
    Tree(TreeRef),
    /// It cannot be put together.
    Collision(String),
    /// What the job was planned on, its base or the result of a datum, was given up meanwhile.
    Stale,
}

async fn assemble(plane: &Plane, job: JobId, work: &WorkRow) -> Answer<Assembled> {
    let mut conn = plane.pool.acquire().await?;
    let base = match work.base_job_id {
        None => TreeRef::empty(),
        Some(base) => match queries::output_root(&mut conn, &SELF, base).await? {
            Some(root) => TreeRef::from_bytes(&root)?,
            None => return Ok(Assembled::Stale),
        },
    };
    let names = jobs::queries::input_names(&mut conn, &SELF, job).await?;
    let rows = queries::outputs(&mut conn, &SELF, job, work.results_of).await?;
    let leaving = queries::results(&mut conn, &SELF, work.results_of, &work.removed_keys).await?;
    drop(conn);
    // Without its result nobody knows which files of the base a datum wrote.
    if leaving.len() < work.removed_keys.iter().collect::<HashSet<_>>().len() {
        return Ok(Assembled::Stale);
    }
    let mut changes = Vec::new();
    let mut freed: HashSet<FilePath> = HashSet::new();
    for (_, outputs) in leaving {
        for (path, _) in decode_entries(&outputs)? {
            if freed.insert(path.clone()) {
                changes.push(TreeChange::Delete(path));
            }
        }
    }
    let mut arriving = Vec::new();
    for (key, inputs, outputs) in rows {
        let Some(outputs) = outputs else {
            return Ok(Assembled::Stale);
        };
        let label = label(&jobs::views::labels(&decode_inputs(&inputs), &names), &key);
        for (path, entry) in decode_entries(&outputs)? {
            arriving.push((label.clone(), path, entry));
        }
    }
    if let Some(reason) = collide(&arriving) {
        return Ok(Assembled::Collision(reason));
    }
    if let Some((label, path)) = taken(plane, &base, &freed, &arriving).await? {
        return owner(plane, job, work, &path)
            .await
            .map(|other| Assembled::Collision(both(&other, &label, path.as_str())));
    }
    changes.extend(
        arriving
            .into_iter()
            .map(|(_, path, entry)| TreeChange::Put(path, entry)),
    );
    if changes.is_empty() {
        return Ok(Assembled::Tree(base));
    }
    let writer = plane.storage.writer();
    match plane.storage.apply(&writer, &base, changes).await {
        Ok(tree) => {
            writer.flush().await?;
            Ok(Assembled::Tree(tree))
        }
        Err(StorageError::PathConflict { path, file }) => {
            let first = owner(plane, job, work, &file).await?;
            Ok(Assembled::Collision(format!(
                "`{path}` can't be put together: the datum {first} writes the file `{file}`, which would be a directory too"
            )))
        }
        Err(error) => Err(error.into()),
    }
}

fn label(inputs: &[String], key: &[u8]) -> String {
    let id = hex::encode(key);
    format!("{} ({})", inputs.join(", "), id.get(..12).unwrap_or(&id))
}

/// Two of the new outputs in each other's way.
fn collide(arriving: &[(String, FilePath, storage::FileEntry)]) -> Option<String> {
    let paths: Vec<String> = arriving.iter().map(|(_, path, _)| format!("/{path}")).collect();
    let outputs = arriving
        .iter()
        .zip(&paths)
        .map(|((datum, ..), path)| OutputPath { datum, path });
    collision(outputs).map(|found| found.to_string())
}

fn both(first: &str, second: &str, path: &str) -> String {
    provenance::datums::Collision {
        path: format!("/{}", path.trim_start_matches('/')),
        first: first.to_owned(),
        second: second.to_owned(),
    }
    .to_string()
}

/// A new output where a datum of the base has one that stays.
async fn taken(
    plane: &Plane,
    base: &TreeRef,
    freed: &HashSet<FilePath>,
    arriving: &[(String, FilePath, storage::FileEntry)],
) -> Answer<Option<(String, FilePath)>> {
    if base.is_empty() {
        return Ok(None);
    }
    for (label, path, _) in arriving {
        if !freed.contains(path) && plane.storage.get(base, path).await?.is_some() {
            return Ok(Some((label.clone(), path.clone())));
        }
    }
    Ok(None)
}

/// The datum of the base that wrote a path. Looks at all of them: it is asked for only when the job fails.
async fn owner(plane: &Plane, job: JobId, work: &WorkRow, path: &FilePath) -> Answer<String> {
    let inputs = planning::inputs(plane, job.uuid(), work).await?;
    let datums = planning::everything(plane, &inputs).await?;
    let by_key: BTreeMap<Vec<u8>, Vec<String>> = datums
        .iter()
        .map(|d| (d.key(&inputs.code_digest).to_vec(), d.labels()))
        .collect();
    let keys: Vec<Vec<u8>> = by_key.keys().cloned().collect();
    let mut conn = plane.pool.acquire().await?;
    for chunk in keys.chunks(1000) {
        for (key, outputs) in queries::results(&mut conn, &SELF, work.results_of, chunk).await? {
            if decode_entries(&outputs)?.iter().any(|(written, _)| written == path) {
                return Ok(label(by_key.get(&key).map_or(&[], Vec::as_slice), &key));
            }
        }
    }
    Ok("of an earlier job".to_owned())
}
