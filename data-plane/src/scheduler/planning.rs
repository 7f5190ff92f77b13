//! Works out the datums of a job. With a base (the pipeline's last success with the same code and inputs) only the
//! difference of the input trees is looked at, and what its keys and paths lead to, so one new file in a large repo costs
//! what one file costs. The plan is written in one transaction; planning that was cut off begins again.

use std::collections::{BTreeMap, HashMap, HashSet};

use contract::ids::{DomainId, JobId};
use contract::problem::ProblemKind;
use provenance::datums::{Datum, LeafChange, enumerate, enumerate_changes};
use provenance::spec::{PathCollision, PfsInput, PipelineSpec};
use storage::TreeRef;
use uuid::Uuid;

use super::keys::{Keys, Planning};
use super::queries::{self, NewDatum, Planned, WorkRow};
use super::source::{Refused, Source};
use super::{SELF, matches};
use crate::failure::{Answer, Failure};
use crate::plane::Plane;
use crate::secrets;
use crate::serving;
use crate::worker::protocol::TaskInput;
use crate::worker::queries::encode_inputs;

/// So many rows go into one statement.
const CHUNK: usize = 5000;
/// A difference of more files is planned from only where it is less than a [`SHARE`] of the repo.
const LARGE: usize = 10_000;
const SHARE: u64 = 2;

/// What a job reads, decoded.
pub struct Inputs {
    /// The spec of its version.
    pub spec: PipelineSpec,
    /// The repo of each leaf.
    pub domains: Vec<DomainId>,
    /// The tree of each leaf.
    pub trees: Vec<TreeRef>,
    /// The code's part of a datum's key.
    pub code_digest: [u8; 32],
}

/// The spec of a job's version.
///
/// # Errors
/// When it is not valid any more.
pub fn spec(work: &WorkRow) -> Answer<PipelineSpec> {
    PipelineSpec::parse(&work.spec.0, &work.project.parse()?)
        .map_err(|errors| Failure::internal(format!("a stored spec is not valid any more: {errors:?}")))
}

/// Reads what a job reads.
///
/// # Errors
/// `deleted` when the content of an input was given up; when the database is away or something stored does not decode.
pub async fn inputs(plane: &Plane, job: Uuid, work: &WorkRow) -> Answer<Inputs> {
    let mut conn = plane.pool.acquire().await?;
    let spec = spec(work)?;
    let leaves = spec.input.leaves().len();
    // A leaf whose branch had no commit yet matches nothing, in no repo.
    let mut domains = vec![DomainId::from_uuid(Uuid::nil()); leaves];
    let mut trees = vec![TreeRef::empty(); leaves];
    for (position, domain, root) in queries::trees(&mut conn, &SELF, job).await? {
        if position < leaves {
            domains[position] = domain;
            // Taken for empty, it would make files of the base stay that are gone.
            trees[position] = TreeRef::from_bytes(&root.ok_or_else(gone)?)?;
        }
    }
    let code_digest: [u8; 32] = digest(&work.code_digest)?;
    Ok(Inputs {
        spec,
        domains,
        trees,
        code_digest: secrets::counted_in(code_digest, &work.secret_versions),
    })
}

fn digest(stored: &[u8]) -> Answer<[u8; 32]> {
    stored
        .try_into()
        .map_err(|_| Failure::internal("a stored digest is none"))
}

/// Another version of a secret makes other datums, so what was made with the one before is no base. The versions of now are
/// those of the job from here on: it runs with no others.
async fn pin_secrets(conn: &mut sqlx::PgConnection, job: JobId, work: &mut WorkRow) -> Answer<()> {
    let spec = PipelineSpec::parse(&work.spec.0, &work.project.parse()?)
        .map_err(|errors| Failure::internal(format!("a stored spec is not valid any more: {errors:?}")))?;
    if spec.transform.secrets.is_empty() {
        return Ok(());
    }
    let versions = secrets::versions(conn, &spec).await?;
    let counted = secrets::counted_in(digest(&work.plan_digest)?, &versions);
    queries::update_plan_digest(conn, &SELF, job, &counted, &versions).await?;
    work.plan_digest = counted.to_vec();
    work.secret_versions.0 = versions;
    Ok(())
}

fn gone() -> Failure {
    Failure::new(ProblemKind::Deleted, "what the job reads was removed")
        .hint("run the pipeline on what its branches hold now: `howdah pipeline run`")
}

/// Every datum of a job's inputs.
///
/// # Errors
/// When storage fails.
pub async fn everything(plane: &Plane, inputs: &Inputs) -> Answer<Vec<Datum>> {
    all(plane, inputs, Vec::new()).await
}

/// Without its code a job would have no datums, and succeed.
async fn code_is_there(plane: &Plane, inputs: &Inputs) -> Answer<()> {
    let leaves = inputs.spec.input.leaves();
    let Some(at) = leaves.iter().position(|leaf| leaf.is_code) else {
        return Ok(());
    };
    if matches::all(&plane.storage, &inputs.trees[at], &leaves[at].glob)
        .await?
        .is_empty()
    {
        let path = inputs
            .spec
            .transform
            .code
            .as_ref()
            .map_or("/", |code| code.path.as_str());
        let detail = format!(
            "transform.code names `{path}`, and its branch has nothing there: put the code, or correct the path"
        );
        return Err(Failure::invalid(detail));
    }
    Ok(())
}

async fn all(plane: &Plane, inputs: &Inputs, keys: Vec<Keys>) -> Answer<Vec<Datum>> {
    let (spec, domains) = (inputs.spec.input.clone(), inputs.domains.clone());
    let asked = source(plane, inputs, keys).answer(move |matches| enumerate(&spec, &domains, matches));
    Ok(asked.await?)
}

fn source(plane: &Plane, inputs: &Inputs, keys: Vec<Keys>) -> Source {
    Source::new(plane, inputs.leaves(), inputs.trees.clone(), keys)
}

impl Inputs {
    fn leaves(&self) -> Vec<PfsInput> {
        self.spec.input.leaves().into_iter().cloned().collect()
    }
}

/// What differs from the base.
struct Difference {
    added: Vec<Datum>,
    /// Keys whose outputs leave.
    removed: Vec<[u8; 32]>,
    /// Datums that are gone.
    gone: usize,
    /// Datums of the base that `err_cmd` took care of: they are run again. Key, inputs, bytes to fetch.
    again: Vec<(Vec<u8>, Vec<u8>, i64)>,
}

/// Plans a starting job.
///
/// # Errors
/// When the database or storage is away: try again. When something stored is damaged: the job cannot run.
pub async fn plan(plane: &Plane, job: JobId) -> Answer<()> {
    let mut conn = plane.pool.acquire().await?;
    let Some(mut work) = queries::find_work(&mut conn, &SELF, job).await? else {
        return Ok(());
    };
    pin_secrets(&mut conn, job, &mut work).await?;
    let appends = spec(&work)?.path_collision == PathCollision::Append;
    let base = if work.reprocess {
        None
    } else {
        queries::find_base(&mut conn, &SELF, &work, appends).await?
    };
    drop(conn);
    let inputs = inputs(plane, job.uuid(), &work).await?;
    code_is_there(plane, &inputs).await?;
    if inputs.spec.service.is_some() || inputs.spec.spout.is_some() {
        if work.reproduces.is_some() {
            let detail = "a service or spout makes nothing that could be compared";
            return Err(Failure::new(ProblemKind::Conflict, detail));
        }
        let port = inputs.spec.service.map(|service| service.internal_port);
        return serving::begin::begin(plane, job, &work, &inputs, port).await;
    }
    let code_digest = inputs.code_digest;
    let keys = if work.reprocess {
        Vec::new()
    } else {
        let planning = Planning {
            plane,
            job,
            pipeline: work.pipeline_id,
        };
        planning.follow(&inputs.leaves(), &inputs.trees).await?
    };
    let compared = match base {
        None => None,
        Some((base, total)) => difference(plane, &inputs, &work, base, &keys)
            .await?
            .map(|difference| (base, total, difference)),
    };
    let (base, total_before, difference) = match compared {
        Some((base, total, difference)) => (Some(base), total, difference),
        None => {
            let added = all(plane, &inputs, keys).await?;
            (None, 0, Difference::of(added))
        }
    };
    let mut rows = datums(&difference.added, &inputs.spec, &code_digest);
    rows.extend(difference.again.iter().map(|(key, inputs, size_bytes)| NewDatum {
        key: key.clone(),
        inputs: inputs.clone(),
        size_bytes: *size_bytes,
        skipped: false,
    }));
    let mut saved_ms = 0;
    if !work.reprocess {
        saved_ms += skip_known(plane, &work, &mut rows).await?;
    }
    let plan = (difference, rows, saved_ms);
    write(
        plane,
        (job, work.pipeline_id, work.reproduces.is_none()),
        base,
        total_before,
        plan,
    )
    .await
}

impl Difference {
    /// That of a job without a base.
    fn of(added: Vec<Datum>) -> Self {
        Self {
            added,
            removed: Vec::new(),
            gone: 0,
            again: Vec::new(),
        }
    }
}

/// How the datums of the job differ from those of its base; `None` where what the base read is gone, where the difference is
/// most of a repo, or both sides of that are too many to hold, though the job's own datums alone may not be: it is planned as
/// if it had no base then, and what is known is not run again.
async fn difference(
    plane: &Plane,
    new: &Inputs,
    work: &WorkRow,
    base: Uuid,
    keys: &[Keys],
) -> Answer<Option<Difference>> {
    let old = match inputs(plane, base, work).await {
        // Squashed since the base was looked for.
        Err(failure) if failure.kind() == ProblemKind::Deleted => return Ok(None),
        old => old?,
    };
    // A branch that is gone has no commit to take the repo from. It is the base's: jobs of one plan read the same repos.
    let mut domains = new.domains.clone();
    for (domain, before) in domains.iter_mut().zip(&old.domains) {
        if domain.uuid().is_nil() {
            *domain = *before;
        }
    }
    let leaves = new.spec.input.leaves();
    let mut changes: BTreeMap<usize, LeafChange> = BTreeMap::new();
    for (at, leaf) in leaves.iter().enumerate() {
        // What is as large as the repo costs more than planning all of it does.
        let share = usize::try_from(new.trees[at].files() / SHARE).unwrap_or(usize::MAX);
        let most = share.max(LARGE);
        let Some(files) = matches::difference(&plane.storage, &old.trees[at], &new.trees[at], most).await? else {
            return Ok(None);
        };
        if !files.is_empty() {
            let change = matches::changed(&plane.storage, &old.trees[at], &new.trees[at], &leaf.glob, &files).await?;
            changes.insert(at, change);
        }
    }
    let spec = new.spec.input.clone();
    let asked =
        source(plane, new, keys.to_vec()).answer(move |matches| enumerate_changes(&spec, &domains, &changes, matches));
    let found = match asked.await {
        Err(Refused::TooMany(_)) => return Ok(None),
        found => found?,
    };
    let mut removed: Vec<[u8; 32]> = found.removed.iter().map(|d| d.key(&new.code_digest)).collect();
    let mut conn = plane.pool.acquire().await?;
    let mut again = queries::recovered(&mut conn, &SELF, base).await?;
    let gone: HashSet<&[u8]> = removed.iter().map(|k| &k[..]).collect();
    let recovered: HashSet<Vec<u8>> = again.iter().map(|(key, ..)| key.clone()).collect();
    again.retain(|(key, ..)| !gone.contains(&key[..]));
    // A recovered one gave nothing that could be taken away, but it counted.
    let count = removed.len();
    removed.retain(|k| !recovered.contains(&k[..]));
    Ok(Some(Difference {
        added: found.added,
        removed,
        gone: count,
        again,
    }))
}

/// What a datum reads, as a worker is told.
pub fn task_inputs(datum: &Datum) -> Vec<TaskInput> {
    let input = datum.inputs.iter().map(|input| TaskInput {
        position: u32::try_from(input.leaf).unwrap_or(u32::MAX),
        path: input.path.clone(),
        join_on: input.join_on.clone(),
        group_by: input.group_by.clone(),
    });
    input.collect()
}

fn datums(datums: &[Datum], spec: &PipelineSpec, code_digest: &[u8; 32]) -> Vec<NewDatum> {
    let code = spec.input.leaves().iter().position(|leaf| leaf.is_code);
    let row = |datum: &Datum| NewDatum {
        key: datum.key(code_digest).to_vec(),
        inputs: encode_inputs(&task_inputs(datum)),
        size_bytes: i64::try_from(datum.size(code)).unwrap_or(i64::MAX),
        skipped: false,
    };
    datums.iter().map(row).collect()
}

/// The skip rule: what succeeded before in any job of this pipeline is not run again.
/// Answers what user code took when these results were made, milliseconds.
async fn skip_known(plane: &Plane, work: &WorkRow, rows: &mut [NewDatum]) -> Answer<i64> {
    let mut conn = plane.pool.acquire().await?;
    let mut saved_ms = 0;
    for chunk in rows.chunks_mut(CHUNK) {
        let keys: Vec<Vec<u8>> = chunk.iter().map(|r| r.key.clone()).collect();
        let known: HashMap<Vec<u8>, i64> = queries::known(&mut conn, &SELF, work.pipeline_id, &keys)
            .await?
            .into_iter()
            .collect();
        for row in chunk {
            if let Some(ms) = known.get(&row.key) {
                row.skipped = true;
                saved_ms += ms;
            }
        }
    }
    Ok(saved_ms)
}

async fn write(
    plane: &Plane,
    (job, pipeline, replaces): (JobId, Uuid, bool),
    base: Option<Uuid>,
    total_before: i64,
    (difference, rows, saved_ms): (Difference, Vec<NewDatum>, i64),
) -> Answer<()> {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let total = total_before - count(difference.gone) + count(difference.added.len());
    let open = count(rows.iter().filter(|r| !r.skipped).count());
    let now = plane.now();
    let mut planned = Planned {
        base,
        removed: difference.removed.into_iter().map(|k| k.to_vec()).collect(),
        total,
        skipped: total - open,
        open,
        saved_ms,
        at: now,
    };
    let mut tx = plane.begin().await?;
    if let Some(base) = base {
        planned.saved_ms += queries::kept_ms(&mut tx, &SELF, base, pipeline, &planned.removed).await?;
    }
    // First, so that it is the only one that writes rows.
    if !queries::update_planned(&mut tx, &SELF, job, &planned).await? {
        return Ok(());
    }
    if replaces {
        // One of an earlier version, which was a service.
        serving::begin::replace(plane, &mut tx, pipeline, "replaced by a newer version").await?;
    }
    for (at, chunk) in rows.chunks(CHUNK).enumerate() {
        queries::insert_datums(&mut tx, &SELF, job, count(at * CHUNK), chunk, now).await?;
    }
    tx.commit().await?;
    plane.signals.work_changed();
    Ok(())
}
