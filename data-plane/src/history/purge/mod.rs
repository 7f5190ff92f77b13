//! `purge`: a file or directory leaves every commit of a repo, and what was made from it goes with it. Each commit that held
//! it gets a tree without it and keeps the digest of the old one for its record. What is lost downstream is found datum by
//! datum ([`taint`]): outputs of pipelines with a datum that read it are given up, its results, logs and rows are deleted,
//! and the pipelines run again on what is left, for which everything else is known already. What people copied elsewhere is
//! named and left to them. A receipt says what was done, and which packs hold the bytes until garbage is collected.

mod addresses;
mod queries;
mod receipts;
pub mod routes;
mod survey;
mod taint;
mod trees;

use std::collections::{BTreeMap, HashMap};

use contract::api::{CommitState, JobState, Purge, PurgePath, RemovedHow};
use contract::ids::{CommitId, DomainId, PurgeId};
use contract::names::BranchName;
use contract::policy::Permission;
use contract::problem::ProblemKind;
use contract::reference::RepoRef;
use http::StatusCode;
use sqlx::PgConnection;
use storage::{FilePath, Marking};
use tokio::sync::MutexGuard;

use super::commits::remove;
use super::heads;
use crate::call::Call;
use crate::commits;
use crate::commits::lock::lock_dag;
use crate::commits::put::ATTEMPTS;
use crate::failure::{Answer, Failure};
use crate::files::listing::directory_path;
use crate::files::samples;
use crate::jobs;
use crate::permissions::{System, Visible};
use crate::plane::{Plane, Tx};
use crate::scheduler::{appending, derived, keys};
use crate::spouts;
use crate::worker;
use queries::{Made, NewReceipt};
use survey::{Survey, involved};
use taint::Taint;
use trees::Trees;

const PURGE: System =
    System::because("the caller administers the repo whose data is purged, with all that was made from it");

/// Purges a path of a repo.
///
/// # Errors
/// 404 where no commit holds it, `conflict` when something was made from it and `force` was not given, `not-allowed` for
/// who does not own the repo.
pub async fn purge(call: &Call, body: &PurgePath) -> Answer<Purge> {
    let plane = &call.plane;
    let path = directory_path(&body.path)?.ok_or_else(|| {
        Failure::invalid("name a file or directory to purge").hint("to remove everything use `howdah repo delete`")
    })?;
    let reference: RepoRef = body.repo.parse()?;
    let repo = {
        let mut conn = plane.pool.acquire().await?;
        let repo = call.repo(&mut conn, &reference).await?;
        may_purge(call, &mut conn, &repo).await?;
        repo
    };
    call.unanswered_yet().await?;
    let _turn = not_collecting(plane)?;
    let mut trees = Trees::new(plane, path).await?;
    let mut known = None;
    for _ in 0..ATTEMPTS {
        let Some(survey) = trees.ready(repo.id, known.take()).await? else {
            continue;
        };
        let _gate = plane.change().await?;
        let mut tx = plane.begin().await?;
        lock_dag(&mut tx).await?;
        commits::put::still_allowed(call, &mut tx, &repo).await?;
        // Making the trees may have taken long, and rights may have ended since (R6).
        let call = &call.renewed()?;
        may_purge(call, &mut tx, &repo).await?;
        call.unanswered(&mut tx).await?;
        let Some(affected) = trees.affected(&mut tx, repo.id).await? else {
            // A commit was made meanwhile. What was surveyed is settled all the same.
            known = Some(survey);
            continue;
        };
        let mut purging = Purging {
            call,
            repo: &repo,
            path: &trees.path,
            held: &mut trees.held,
        };
        let Some(done) = purging.all(&mut tx, affected, survey).await? else {
            continue;
        };
        if done.is_nothing() {
            return Err(nothing(&repo, &trees.path));
        }
        if !body.dry_run && !body.force && done.reaches_others() {
            return Err(more(call, &done));
        }
        let id: PurgeId = plane.id();
        let receipt = trees.receipt(id, call, repo.id, &done);
        samples::forget(&mut tx, &PURGE, &receipt.packs).await?;
        queries::insert_receipt(&mut tx, &PURGE, &receipt).await?;
        let shown = receipts::one(call, &mut tx, id).await?;
        if body.dry_run {
            tx.rollback().await?;
            return Ok(Purge { dry_run: true, ..shown });
        }
        trees.writer.may_be_referred_to();
        let subject = format!("{repo}:/{} with the receipt {id}", trees.path);
        call.record(&mut tx, "file.purge", &subject).await?;
        call.keep_answer(&mut tx, StatusCode::CREATED, &shown).await?;
        tx.commit().await?;
        plane.signals.commits_changed();
        plane.signals.work_changed();
        derived::clear_if_possible(plane).await;
        return Ok(shown);
    }
    Err(outrun(&repo))
}

fn outrun(repo: &Visible) -> Failure {
    Failure::new(
        ProblemKind::BranchMoved,
        format!("commits were made in `{repo}` all the time; nothing was purged"),
    )
    .hint("repeat the request")
}

/// A collection that began before would copy what is needed until now into packs that no receipt names.
fn not_collecting(plane: &Plane) -> Answer<MutexGuard<'_, ()>> {
    plane.collecting.try_lock().map_err(|_| {
        Failure::new(ProblemKind::Conflict, "garbage is being collected; nothing was purged")
            .hint("repeat the request when that is done")
    })
}

/// Owners of a repo purge it. What they are told tells of its content, so they must be readers too.
async fn may_purge(call: &Call, conn: &mut PgConnection, repo: &Visible) -> Answer<()> {
    call.allowed(repo, Permission::Admin)?;
    call.allowed(repo, Permission::Read)?;
    if repo.ticks {
        let detail = format!("`{repo}` holds {}: empty files named by their times", repo.made_of());
        return Err(Failure::new(ProblemKind::Conflict, detail)
            .hint("with `overwrite: true` in the cron input only the last one stays"));
    }
    if !spouts::queries::among(conn, &PURGE, &[repo.id]).await?.is_empty() {
        let detail = format!("`{repo}` holds what a spout received, of which no single file can be purged");
        return Err(Failure::new(ProblemKind::Conflict, detail)
            .hint("`howdah commit drop` removes the first commit that holds it, with all that hold it after that"));
    }
    if repo.pipeline {
        return Err(Failure::new(
            ProblemKind::Conflict,
            format!("`{repo}` holds the output of a pipeline, which would make it again"),
        )
        .hint("purge the file that it was made from, in the input of the pipeline"));
    }
    receipts::demand(call, conn, repo).await
}

fn nothing(repo: &Visible, path: &FilePath) -> Failure {
    Failure::new(
        ProblemKind::NotFound,
        format!("no commit of `{repo}` holds `/{path}`, and nothing that is kept was made from it"),
    )
    .hint("if it was purged before, `howdah purge list` shows the receipt")
}

fn more(call: &Call, done: &Done) -> Failure {
    let hidden = |domain: &DomainId| !call.rights().can(Permission::Discover, *domain);
    let voided: usize = done.voided.iter().filter(|(d, _)| !hidden(d)).map(|(_, n)| n).sum();
    let copies = done.copies.iter().filter(|(d, _)| !hidden(d)).count();
    let some = done.voided.keys().any(hidden) || done.copies.iter().any(|(d, _)| hidden(d));
    let also = if some {
        ", and there is more that you may not know of"
    } else {
        ""
    };
    Failure::new(
        ProblemKind::Conflict,
        format!("{voided} commits were made from it and would be given up, {copies} hold copies that would stay{also}; nothing was purged"),
    )
    .hint("look at all of it with `--dry-run`, then repeat the command with `--force`")
}

/// What was purged.
#[derive(Debug, Default)]
pub struct Done {
    /// Commits with another tree.
    pub rewritten: Vec<CommitId>,
    /// Open commits that had been given it.
    pub open: usize,
    /// Commits that had its address.
    pub addresses: usize,
    /// Outputs that were given up, by repo.
    pub voided: BTreeMap<DomainId, usize>,
    /// Jobs that were stopped.
    pub jobs: usize,
    /// Results of datums.
    pub results: u64,
    /// Lines of logs.
    pub lines: u64,
    /// Commits that hold copies.
    pub copies: Vec<(DomainId, CommitId)>,
}

impl Done {
    fn is_nothing(&self) -> bool {
        self.rewritten.is_empty()
            && self.open + self.addresses == 0
            && self.results == 0
            && self.lines == 0
            && self.voided.is_empty()
    }

    fn reaches_others(&self) -> bool {
        !self.voided.is_empty() || !self.copies.is_empty()
    }
}

struct Purging<'a> {
    call: &'a Call,
    repo: &'a Visible,
    path: &'a FilePath,
    /// Where the bytes lie that go.
    held: &'a mut Marking,
}

impl Purging<'_> {
    /// Everything, in the transaction that holds the lock of the DAG; `None` when what was found before it does not count any more.
    async fn all(
        &mut self,
        tx: &mut Tx,
        affected: Vec<(CommitId, trees::Rewritten)>,
        survey: Survey,
    ) -> Answer<Option<Done>> {
        let mut done = Done::default();
        for (id, rewritten) in affected {
            queries::update_tree(tx, &PURGE, id, &rewritten).await?;
            done.rewritten.push(id);
        }
        done.open = trees::purge_open(&self.call.plane.storage, tx, self.repo.id, self.path, self.held).await?;
        let (plane, repo) = (&self.call.plane, self.repo.id);
        done.addresses = addresses::purge(plane, tx, repo, self.path).await?;
        // Nobody knows any more what was in a commit whose content was given up.
        let mut sources = done.rewritten.clone();
        sources.extend(queries::list_removed(tx, &PURGE, self.repo.id).await?);
        let made = queries::list_made(tx, &PURGE, &sources).await?;
        done.jobs = self.stop(tx, &made).await?;
        // Behind the end of jobs that may be writing them. They name paths, of what is made from it too.
        let readers: Vec<DomainId> = made.iter().map(|m| m.pipeline).collect();
        keys::queries::forget_pipelines(tx, &PURGE, &readers).await?;
        appending::queries::forget_pipelines(tx, &PURGE, &readers).await?;
        let involved = involved(&sources, &made);
        let Some(mut survey) = survey.complete(tx, &made, &involved, self.held).await? else {
            return Ok(None);
        };
        self.forget(tx, survey.taint(), &made, &mut done).await?;
        self.give_up(tx, &mut survey, &made, &mut done).await?;
        Ok(Some(done))
    }

    /// Ends the jobs that may be reading it, or planning to; what they have reported is there afterwards, and no more comes.
    async fn stop(&self, tx: &mut Tx, made: &[Made]) -> Answer<usize> {
        let mut stopped = 0;
        let mut unfinished: Vec<_> = made.iter().filter(|m| m.is_unfinished).map(|m| m.job).collect();
        // In the order in which jobs are locked.
        unfinished.sort();
        let reason = format!("what it reads was purged by {}", self.call.actor().name);
        for job in unfinished {
            let ended = jobs::end::end(&self.call.plane, tx, job, JobState::Killed, Some(&reason)).await?;
            stopped += usize::from(ended);
        }
        worker::lines::lock(tx, &PURGE).await?;
        Ok(stopped)
    }

    /// What datums that read it gave and said.
    async fn forget(&self, tx: &mut Tx, taint: &Taint, made: &[Made], done: &mut Done) -> Answer<()> {
        for (pipeline, keys) in taint.keys() {
            let jobs: Vec<_> = made.iter().filter(|m| m.pipeline == pipeline).map(|m| m.job).collect();
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let forgotten = queries::forget(tx, &PURGE, pipeline, &jobs, &keys).await?;
            done.results += forgotten.0;
            done.lines += forgotten.1;
        }
        Ok(())
    }

    /// Outputs of pipelines that read it, and of jobs that may be reading it now.
    async fn give_up(&mut self, tx: &mut Tx, survey: &mut Survey, made: &[Made], done: &mut Done) -> Answer<()> {
        let lost = |m: &&Made| m.state != "removed" && (survey.taint().touches(m.pipeline) || m.is_unfinished);
        let ids: Vec<CommitId> = made.iter().filter(lost).map(|m| m.output).collect();
        for page in ids.chunks(survey::OUTPUTS_AT_ONCE) {
            let going = queries::list_commits(tx, &PURGE, page).await?;
            for row in going.iter().filter(|row| row.state != CommitState::Removed) {
                *done.voided.entry(row.repo).or_default() += 1;
            }
            survey.mark(&self.call.plane, &going, self.held).await?;
        }
        let gone = remove(self.call, tx, ids.clone(), RemovedHow::Purged).await?;
        let mut held = done.rewritten.clone();
        held.extend(&ids);
        done.copies = queries::list_copies(tx, &PURGE, &held).await?;
        let mut moved: Vec<(DomainId, BranchName)> = queries::list_branches(tx, &PURGE, self.repo.id).await?;
        moved.extend(gone.branches.into_iter().map(|b| (b.repo, b.branch)));
        heads::run_again(&self.call.plane, tx, &moved).await
    }
}

/// By pipeline.
type ByPipeline<T> = HashMap<DomainId, T>;

impl Trees<'_> {
    fn receipt<'r>(&self, id: PurgeId, call: &Call, repo: DomainId, done: &'r Done) -> NewReceipt<'r> {
        NewReceipt {
            id,
            repo,
            path: format!("/{}", self.path),
            actor: call.actor(),
            at: call.plane.now(),
            done,
            packs: self.held.packs().iter().map(|pack| pack.as_bytes().to_vec()).collect(),
        }
    }
}
