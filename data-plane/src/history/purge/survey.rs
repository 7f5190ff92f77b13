//! What was made from a path, as far as it is settled: the datums of jobs that are over, which change no more, and the
//! trees of their outputs. It is found before the lock of the DAG is taken, since there may be millions; under it only the
//! jobs are looked at that were not over then, or not there.

use std::collections::{HashMap, HashSet};

use contract::api::CommitState;
use contract::ids::{CommitId, DomainId, JobId};
use storage::{FilePath, Marking};

use super::queries::{self, Made};
use super::taint::Taint;
use super::{ByPipeline, PURGE};
use crate::commits::CommitRow;
use crate::failure::Answer;
use crate::plane::{Plane, Tx};

/// So many outputs are looked at at once.
pub const OUTPUTS_AT_ONCE: usize = 200;

/// What was found.
pub struct Survey {
    taint: Taint,
    /// Jobs whose datums were looked at.
    jobs: HashSet<JobId>,
    /// Outputs in whose trees the bytes were marked.
    marked: HashSet<CommitId>,
    /// How many paths of each pipeline were known then.
    counts: ByPipeline<usize>,
}

/// The commits that datums may have read it from.
pub fn involved(sources: &[CommitId], made: &[Made]) -> HashSet<CommitId> {
    let outputs = made.iter().map(|m| m.output);
    sources.iter().copied().chain(outputs).collect()
}

fn reprocessed(made: &[Made]) -> HashSet<DomainId> {
    made.iter().filter(|m| m.reprocess).map(|m| m.pipeline).collect()
}

impl Survey {
    /// Looks at everything that was made from these commits of the repo and is over; where the bytes lie is marked.
    ///
    /// # Errors
    /// When storage or the database is away, or a stored result does not decode.
    pub async fn take(
        plane: &Plane,
        repo: DomainId,
        path: &FilePath,
        sources: &[CommitId],
        held: &mut Marking,
    ) -> Answer<Self> {
        let made = {
            let mut conn = plane.pool.acquire().await?;
            queries::list_made(&mut conn, &PURGE, sources).await?
        };
        let involved = involved(sources, &made);
        let mut taint = Taint::new(repo, path, reprocessed(&made));
        let mut jobs = HashSet::new();
        for one in made.iter().filter(|m| !m.is_unfinished) {
            let mut conn = plane.pool.acquire().await?;
            taint.job(&mut conn, one, &involved, held).await?;
            jobs.insert(one.job);
        }
        let over = made.iter().filter(|m| !m.is_unfinished && m.state != "removed");
        let outputs: Vec<CommitId> = over.filter(|m| taint.touches(m.pipeline)).map(|m| m.output).collect();
        let mut survey = Self {
            counts: HashMap::new(),
            taint,
            jobs,
            marked: HashSet::new(),
        };
        for some in outputs.chunks(OUTPUTS_AT_ONCE) {
            let rows = {
                let mut conn = plane.pool.acquire().await?;
                queries::list_commits(&mut conn, &PURGE, some).await?
            };
            survey.mark(plane, &rows, held).await?;
        }
        survey.counts = survey.taint.counts();
        Ok(survey)
    }

    /// Goes on under the lock, with what was made up to now; `None` when it has to be taken again, since a pipeline ran everything
    /// again, which may have replaced results that were looked at.
    ///
    /// # Errors
    /// As [`Survey::take`].
    pub async fn complete(
        mut self,
        tx: &mut Tx,
        made: &[Made],
        involved: &HashSet<CommitId>,
        held: &mut Marking,
    ) -> Answer<Option<Self>> {
        if !self.taint.expected(&reprocessed(made)) {
            return Ok(None);
        }
        for one in made.iter().filter(|m| !self.jobs.contains(&m.job)) {
            self.taint.job(tx, one, involved, held).await?;
        }
        Ok(Some(self))
    }

    /// Which datums read it.
    pub fn taint(&self) -> &Taint {
        &self.taint
    }

    /// Marks where the bytes lie in the trees of these outputs, as far as that was not done.
    ///
    /// # Errors
    /// When storage is away, or a stored tree does not decode.
    pub async fn mark(&mut self, plane: &Plane, outputs: &[CommitRow], held: &mut Marking) -> Answer<()> {
        for row in outputs.iter().filter(|row| row.state == CommitState::Finished) {
            let known = self.counts.get(&row.repo).copied();
            let is_new = self.marked.insert(row.id) || known != Some(self.taint.count(row.repo));
            if is_new {
                self.taint.mark(&plane.storage, row.repo, &row.tree()?, held).await?;
            }
        }
        Ok(())
    }
}
