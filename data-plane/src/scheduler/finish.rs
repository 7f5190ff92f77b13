//! Puts the output of a job together: the base's tree without the outputs of datums that are gone, with those of datums
//! that are new. Costs what changed. The tree is made without any lock; one transaction then finishes the commit and ends
//! the job, so readers see all of it or nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use contract::api::JobState;
use contract::ids::{CommitId, DomainId, JobId};
use provenance::datums::{Datum, OutputPath, collision};
use provenance::jobs::brief;
use provenance::spec::PathCollision;
use storage::{FilePath, StorageError, TreeChange, TreeRef, Writer, decode_entries};

use super::appending::{self, Appending, Piece};
use super::planning;
use super::queries::{self, WorkRow};
use super::reproduction;
use super::{SELF, derived};
use crate::commits::finish::finish_in_transaction;
use crate::commits::lock::lock_dag;
use crate::egress::{self, Sent};
use crate::failure::Answer;
use crate::files::stored::LONGEST;
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
    if !matches!(work.state.as_str(), "egressing" | "finishing") {
        return Ok(());
    }
    let began = plane.now();
    let assembled = assemble(plane, job, &work).await?;
    if let (Some(original), Assembled::Tree(tree, _)) = (work.reproduces, &assembled) {
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
        Assembled::Tree(tree, appending) => {
            if work.state == "egressing" && !send(plane, job, &work, &tree).await? {
                return Ok(());
            }
            tx = plane.begin().await?;
            // Asked again under the lock: a right that was taken away since takes the output along (R8).
            lock_dag(&mut tx).await?;
            pipelines::sponsors::settle_in(plane, &mut tx).await?;
            let now = plane.now();
            if is_stale(began, now) {
                // It is put together again. What was sent is known to be there, so that takes no time.
                return Ok(());
            }
            if work.state == "egressing" {
                queries::update_state(&mut tx, &SELF, job, JobState::Finishing.as_str()).await?;
            }
            if !queries::succeed(&mut tx, &SELF, job, now).await? {
                return Ok(());
            }
            jobs::traces::ended(&mut tx, &SELF, job).await?;
            match appending {
                Some(appending) => appending.keep(&mut tx, work.pipeline_id, job).await?,
                // Of an earlier version, perhaps.
                None => {
                    let pipeline = DomainId::from_uuid(work.pipeline_id);
                    appending::queries::forget_pipelines(&mut tx, &SELF, &[pipeline]).await?;
                }
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
    derived::clear_if_possible(plane).await;
    Ok(())
}

/// Whether what was put together then may be gone by now: packs that nothing refers to are kept for longer than [`LONGEST`],
/// and no longer.
fn is_stale(began: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    (now - began).to_std().is_ok_and(|took| took >= LONGEST)
}

/// Sends an output to where it goes besides: published is only what has arrived. Answers whether it has; else the job is
/// over.
async fn send(plane: &Plane, job: JobId, work: &WorkRow, tree: &TreeRef) -> Answer<bool> {
    match egress::send(plane, job, work, tree).await? {
        Sent::Whole => Ok(true),
        Sent::Over => Ok(false),
        Sent::Failed(reason) => {
            let mut tx = plane.begin().await?;
            jobs::end::fail(plane, &mut tx, job, &reason).await?;
            tx.commit().await?;
            Ok(false)
        }
    }
}

/// What came of putting an output together.
enum Assembled {
    /// The tree, and what is kept of it where outputs are appended to each other.
    Tree(TreeRef, Option<Appending>),
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
    let mut freed: BTreeSet<FilePath> = BTreeSet::new();
    for (_, outputs) in leaving {
        freed.extend(decode_entries(&outputs)?.into_iter().map(|(path, _)| path));
    }
    let collision = planning::spec(work)?.path_collision;
    let mut arriving = Vec::new();
    let mut datums = Vec::with_capacity(rows.len());
    for (key, inputs, outputs) in rows {
        let Some(outputs) = outputs else {
            return Ok(Assembled::Stale);
        };
        let place = match collision {
            PathCollision::Fail => appending::Place::default(),
            PathCollision::Append => appending::place(&key, &decode_inputs(&inputs), &names),
        };
        for (path, entry) in decode_entries(&outputs)? {
            let place = place.clone();
            arriving.push((datums.len(), Piece { place, path, entry }));
        }
        datums.push((key, inputs));
    }
    let assembly = Assembly {
        plane,
        job,
        work,
        base,
        datums,
        names,
        writer: plane.storage.writer(),
    };
    match collision {
        PathCollision::Fail => assembly.apart(freed, arriving).await,
        PathCollision::Append => assembly.together(freed, arriving).await,
    }
}

/// A file that a datum of the job wrote, and which.
type Arriving = (usize, Piece);

struct Assembly<'a> {
    plane: &'a Plane,
    job: JobId,
    work: &'a WorkRow,
    base: TreeRef,
    /// Key and inputs of the datums that write something.
    datums: Vec<(Vec<u8>, Vec<u8>)>,
    /// The names of the inputs.
    names: Vec<(i32, String)>,
    writer: Writer,
}

impl Assembly<'_> {
    /// Where no two datums may write one path.
    async fn apart(&self, freed: BTreeSet<FilePath>, arriving: Vec<Arriving>) -> Answer<Assembled> {
        if let Some(reason) = self.collide(&arriving) {
            return Ok(Assembled::Collision(reason));
        }
        if let Some((datum, path)) = taken(self.plane, &self.base, &freed, &arriving).await? {
            let other = self.owner(&path, Some(datum)).await?;
            return Ok(Assembled::Collision(both(&other, &self.name(datum), path.as_str())));
        }
        let mut changes: Vec<TreeChange> = freed.into_iter().map(TreeChange::Delete).collect();
        let come = arriving.into_iter().map(|(_, piece)| piece);
        changes.extend(come.map(|piece| TreeChange::Put(piece.path, piece.entry)));
        self.apply(changes, None).await
    }

    /// Where what they write to one path stands one after the other.
    async fn together(&self, freed: BTreeSet<FilePath>, mut arriving: Vec<Arriving>) -> Answer<Assembled> {
        let mut seen = HashSet::new();
        let firsts = arriving.iter().filter(|(_, piece)| seen.insert(&piece.path));
        if let Some(reason) = self.collide(firsts) {
            return Ok(Assembled::Collision(reason));
        }
        arriving.sort_by(|(_, a), (_, b)| a.place.cmp(&b.place));
        let come: Vec<Piece> = arriving.into_iter().map(|(_, piece)| piece).collect();
        let change = appending::Change {
            come: &come,
            freed,
            gone: &self.work.removed_keys,
        };
        let base = self.work.base_job_id.map(|base| (base, &self.base));
        // What the pipeline keeps is of its own jobs.
        let work = self.work.reproduces.is_none();
        let work = work.then_some((self.work.pipeline_id, self.job));
        match appending::put_together(self.plane, &self.writer, work, base, change).await? {
            None => Ok(Assembled::Stale),
            Some((changes, appending)) => self.apply(changes, appending).await,
        }
    }

    async fn apply(&self, changes: Vec<TreeChange>, appending: Option<Appending>) -> Answer<Assembled> {
        if changes.is_empty() {
            return Ok(Assembled::Tree(self.base.clone(), appending));
        }
        match self.plane.storage.apply(&self.writer, &self.base, changes).await {
            Ok(tree) => {
                self.writer.flush().await?;
                Ok(Assembled::Tree(tree, appending))
            }
            Err(StorageError::PathConflict { path, file }) => {
                let first = self.owner(&file, None).await?;
                Ok(Assembled::Collision(format!(
                    "`{path}` can't be put together: the datum {first} writes the file `{file}`, which would be a directory too"
                )))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The datum that wrote a path, or one of them, but not `other` of the job. Looks at all of them: it is asked for only when
    /// the job fails.
    async fn owner(&self, path: &FilePath, other: Option<usize>) -> Answer<String> {
        let (plane, work) = (self.plane, self.work);
        let inputs = planning::inputs(plane, self.job.uuid(), work).await?;
        let datums = planning::everything(plane, &inputs).await?;
        let by_key: BTreeMap<Vec<u8>, &Datum> = datums
            .iter()
            .map(|d| (d.key(&inputs.code_digest).to_vec(), d))
            .collect();
        let other = other.and_then(|at| self.datums.get(at)).map(|(key, _)| key);
        let keys: Vec<Vec<u8>> = by_key.keys().filter(|key| Some(*key) != other).cloned().collect();
        let mut conn = plane.pool.acquire().await?;
        for chunk in keys.chunks(1000) {
            for (key, outputs) in queries::results(&mut conn, &SELF, work.results_of, chunk).await? {
                if decode_entries(&outputs)?.iter().any(|(written, _)| written == path) {
                    let inputs = by_key.get(&key).map(|d| d.labels());
                    return Ok(label(inputs.into_iter().flatten(), &key));
                }
            }
        }
        Ok("of an earlier job".to_owned())
    }

    /// A datum of the job for people.
    fn name(&self, datum: usize) -> String {
        let Some((key, inputs)) = self.datums.get(datum) else {
            return String::new();
        };
        label(jobs::views::labels(&decode_inputs(inputs), &self.names), key)
    }

    /// Two of the new outputs in each other's way.
    fn collide<'a>(&self, arriving: impl IntoIterator<Item = &'a Arriving>) -> Option<String> {
        let numbers: Vec<String> = (0..self.datums.len()).map(|n| n.to_string()).collect();
        let paths: Vec<(&str, String)> = arriving
            .into_iter()
            .filter_map(|(datum, piece)| Some((numbers.get(*datum)?.as_str(), format!("/{}", piece.path))))
            .collect();
        let outputs = paths.iter().map(|(datum, path)| OutputPath { datum, path });
        let found = collision(outputs)?;
        let name = |number: &str| number.parse().map_or_else(|_| String::new(), |at| self.name(at));
        let mut names = [name(&found.first), name(&found.second)];
        names.sort();
        Some(both(&names[0], &names[1], &found.path))
    }
}

fn label(inputs: impl IntoIterator<Item = String>, key: &[u8]) -> String {
    let id = hex::encode(key);
    format!("{} ({})", brief(inputs), id.get(..12).unwrap_or(&id))
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
    freed: &BTreeSet<FilePath>,
    arriving: &[Arriving],
) -> Answer<Option<(usize, FilePath)>> {
    if base.is_empty() {
        return Ok(None);
    }
    for (datum, piece) in arriving {
        if !freed.contains(&piece.path) && plane.storage.get(base, &piece.path).await?.is_some() {
            return Ok(Some((*datum, piece.path.clone())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_was_on_its_way_out_for_half_a_day_is_put_together_again() {
        let began = DateTime::<Utc>::UNIX_EPOCH;
        let after = |hours| is_stale(began, began + chrono::Duration::hours(hours));
        assert_eq!([0, 11, 12, 500].map(after), [false, false, true, true]);
        // A clock that was set back says nothing.
        assert!(!after(-1));
    }
}
