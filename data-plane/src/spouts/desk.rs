//! `POST /internal/v1/worker/commits`: a spout's command asked for a commit, and the worker has stored its files. Answered when
//! the commit is there; the same request, or another one under the same key, is answered with the same commit.

use axum::extract::State;
use axum::http::HeaderMap;
use chassis::http::Json;
use contract::api::CommitState;
use contract::ids::{CommitSetId, DomainId};
use contract::names::BranchName;
use contract::problem::ProblemKind;
use provenance::spec::PipelineSpec;
use storage::{TreeRef, decode_entries};
use uuid::Uuid;

use super::begin::{origins_of, stamp};
use super::queries;
use crate::commits::lock::lock_dag;
use crate::commits::put::publish;
use crate::commits::{self, CommitRow, NewCommit, finish, origins};
use crate::failure::{Answer, Failure};
use crate::files::change::{self, FileChange};
use crate::files::stored::Stored;
use crate::permissions::System;
use crate::pipelines::conditions;
use crate::pipelines::queries::{RunRow, run_of_job};
use crate::plane::{Plane, Tx};
use crate::serving;
use crate::worker::admission::admit;
use crate::worker::protocol::{CommitAnswer, CommitRequest};

const WORKERS: System = System::because("workers act for the plane, which checked the rights when the job was made");
/// Who moves the branch at the same time is a person: that often in a row is a mistake.
const ATTEMPTS: usize = 20;

/// Makes the commit.
///
/// # Errors
/// `signed-out` for who is no worker; `not-found` for a worker of another pool; `conflict` when the run is not wanted any more, a path would be a file and a directory,
/// or the commit may not be made; when the database or storage is away. Nothing was made then.
pub async fn commit(
    State(plane): State<Plane>,
    headers: HeaderMap,
    Json(body): Json<CommitRequest>,
) -> Answer<Json<CommitAnswer>> {
    let admitted = admit(&plane, &headers)?;
    let mut tx = plane.begin().await?;
    admitted.may_name(&mut tx, &WORKERS, &[body.job.uuid()]).await?;
    drop(tx);
    let outputs = hex::decode(&body.outputs).map_err(|_| Failure::invalid("the list of files is not hexadecimal"))?;
    let files = decode_entries(&outputs)?;
    let mut conn = plane.pool.acquire().await?;
    let spout = queries::find_of_job(&mut conn, &WORKERS, body.job).await?;
    let run = run_of_job(&mut conn, &WORKERS, body.job).await?;
    drop(conn);
    let (Some((pipeline, unattested, branch)), Some((_, run))) = (spout, run) else {
        return Err(over());
    };
    if files.is_empty() {
        return made_before(&plane, pipeline, &body).await;
    }
    let spec = PipelineSpec::parse(&run.spec.0, &run.project.parse()?)
        .map_err(|errors| Failure::internal(format!("a stored spec is not valid any more: {errors:?}")))?;
    let mut changes: Vec<FileChange> = Vec::with_capacity(files.len() + 1);
    let replaces = spec.spout.is_some_and(|spout| spout.overwrite);
    if replaces {
        changes.push(FileChange::Clear);
    }
    changes.extend(files.into_iter().map(|(path, file)| FileChange::Put(path, file)));
    let spout = Receiving {
        plane: &plane,
        body: &body,
        worker: admitted.worker(body.worker),
        run: &run,
        pipeline,
        unattested,
        branch,
        replaces,
    };
    for _ in 0..ATTEMPTS {
        if let Some(answer) = spout.attempt(&changes).await? {
            return Ok(Json(answer));
        }
    }
    Err(Failure::new(
        ProblemKind::BranchMoved,
        "the branch was moved by others all the time; nothing was committed",
    ))
}

/// Who brings no files makes no commit, and may ask whether one was made under a key.
async fn made_before(plane: &Plane, pipeline: DomainId, body: &CommitRequest) -> Answer<Json<CommitAnswer>> {
    let mut conn = plane.pool.acquire().await?;
    let asked = (body.request, body.key.as_deref());
    match queries::find_made(&mut conn, &WORKERS, pipeline, asked).await? {
        Some(commit) => Ok(Json(CommitAnswer { commit })),
        None => Err(Failure::new(
            ProblemKind::Conflict,
            "there is no file in /pfs/out, and no commit was made under that key",
        )),
    }
}

fn over() -> Failure {
    Failure::new(
        ProblemKind::Conflict,
        "this run of the spout is over: it was stopped, replaced or started again",
    )
}

struct Receiving<'a> {
    plane: &'a Plane,
    body: &'a CommitRequest,
    /// Who asks, as it is called in leases.
    worker: Uuid,
    run: &'a RunRow,
    pipeline: DomainId,
    unattested: DomainId,
    branch: BranchName,
    /// Nothing of the commit before is in it.
    replaces: bool,
}

impl Receiving<'_> {
    fn asked(&self) -> (Uuid, Option<&str>) {
        (self.body.request, self.body.key.as_deref())
    }

    /// The newest commit of the branch whose content is there.
    async fn before(&self, conn: &mut sqlx::PgConnection) -> Answer<Option<CommitRow>> {
        let head = commits::queries::find_head(conn, &WORKERS, self.pipeline, &self.branch).await?;
        match head.flatten() {
            Some(head) if head.state != CommitState::Finished => {
                commits::queries::find_finished(conn, &WORKERS, head.id).await
            }
            head => Ok(head),
        }
    }

    /// `None` when the branch was moved meanwhile.
    async fn attempt(&self, changes: &[FileChange]) -> Answer<Option<CommitAnswer>> {
        let plane = self.plane;
        let mut conn = plane.pool.acquire().await?;
        if let Some(commit) = queries::find_made(&mut conn, &WORKERS, self.pipeline, self.asked()).await? {
            return Ok(Some(CommitAnswer { commit }));
        }
        let before = self.before(&mut conn).await?;
        drop(conn);
        let writer = Stored::begin(&plane.storage);
        let base = before.as_ref().map_or_else(|| Ok(TreeRef::empty()), CommitRow::tree)?;
        let tree = change::apply(&plane.storage, &writer, &base, changes).await?;
        writer.flush().await?;
        let _gate = plane.change().await?;
        let mut tx = plane.begin().await?;
        lock_dag(&mut tx).await?;
        self.is_wanted(&mut tx).await?;
        if let Some(commit) = queries::find_made(&mut tx, &WORKERS, self.pipeline, self.asked()).await? {
            return Ok(Some(CommitAnswer { commit }));
        }
        let root = |row: &Option<CommitRow>| row.as_ref().map(|row| (row.id, row.root.clone()));
        if root(&self.before(&mut tx).await?) != root(&before) {
            return Ok(None);
        }
        let row = self.insert(&mut tx, before.as_ref(), &tree).await?;
        writer.may_be_referred_to();
        publish(plane, tx, row.commit_set, std::slice::from_ref(&row)).await?;
        Ok(Some(CommitAnswer { commit: row.id }))
    }

    /// Whether that run is the one that goes on.
    async fn is_wanted(&self, tx: &mut Tx) -> Answer<()> {
        let run = serving::queries::Run {
            job: self.body.job,
            run: self.body.run,
            worker: self.worker,
        };
        match serving::queries::lock_run(tx, &WORKERS, run).await? {
            Some(_) => Ok(()),
            None => Err(over()),
        }
    }

    async fn insert(&self, tx: &mut Tx, before: Option<&CommitRow>, tree: &TreeRef) -> Answer<CommitRow> {
        let (plane, now) = (self.plane, self.plane.now());
        let parent = match before.filter(|_| !self.replaces) {
            None => None,
            Some(before) => Some(origins::get(plane, tx, &WORKERS, before.origin_set).await?),
        };
        let set = origins_of(self.pipeline, self.unattested, parent);
        // As when a job starts: who applied it may have lost what it takes, and the branch may have held something else.
        if let Some(reason) = conditions::refusal(plane, self.run, conditions::Purpose::Output, &[], &set)? {
            return Err(Failure::new(ProblemKind::Conflict, reason));
        }
        let new = NewCommit {
            id: plane.id(),
            repo: self.pipeline,
            branch: self.branch.clone(),
            commit_set: plane.id::<CommitSetId>(),
            parent: before.map(|row| row.id),
            message: self.body.message.clone(),
            actor: self.run.actor.0.clone(),
            pipeline: Some(stamp(self.pipeline, self.run)),
            origin_set: origins::intern(tx, &WORKERS, &set).await?,
            inputs: Vec::new(),
            started_at: now,
        };
        commits::queries::insert_commit(tx, &WORKERS, &new).await?;
        queries::update_received(tx, &WORKERS, new.id, self.unattested, self.replaces).await?;
        queries::insert_made(tx, &WORKERS, self.pipeline, self.asked(), (new.id, now)).await?;
        finish::finish_in_transaction(plane, tx, &WORKERS, new.id, tree, now).await
    }
}
