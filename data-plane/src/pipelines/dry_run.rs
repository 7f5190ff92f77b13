//! What a job of specs that are not applied would have to do: how many datums there would be, which of them ran before, what
//! that may take, and what follows downstream. Nothing is written and no lock is held; what it looks at is bounded, and
//! answers with "at least" where there is more. Counts tell of content, so they are for whom may read the inputs (R1).

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::api::{CommitState, DryRun, Estimate};
use contract::ids::DomainId;
use contract::policy::Permission;
use provenance::datums::{Datum, Lists, Match, enumerate};
use provenance::propagation::{BranchOf, Dag};
use provenance::spec::{InputSpec, PipelineSpec, Reprocess};
use sqlx::PgConnection;
use storage::TreeRef;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::examine::{Examined, Parsed};
use super::{dry_run_queries, propagate};
use crate::call::Call;
use crate::commits;
use crate::failure::{Answer, Failure};
use crate::jobs;
use crate::permissions::System;
use crate::scheduler;
use crate::scheduler::matches::{self, Limit};
use crate::secrets;

const COUNT: System = System::because("what the caller may not read is found out here, and counts nothing");
/// So long a dry run looks at the inputs of all its specs, and so long at what is known.
const LONGEST: Duration = Duration::from_secs(5);
/// So many of all callers look at the same time: each holds its matches and datums in memory.
static AT_ONCE: Semaphore = Semaphore::const_new(2);
/// So many files of an input it looks at.
const FILES: u64 = 200_000;
/// So many datums it makes in order to look each of them up.
const DATUMS: u64 = 200_000;
/// So many keys are looked up at once.
const CHUNK: usize = 5000;

/// What each of these specs would set in motion, in their order.
///
/// # Errors
/// When the database or storage is away.
pub async fn look(call: &Call, specs: &[Parsed], examined: &[Examined], reprocess: bool) -> Answer<Vec<DryRun>> {
    let mut tx = call.plane.begin().await?;
    let dag = dag(&mut tx, specs, examined).await?;
    drop(tx);
    let _turn = AT_ONCE.acquire().await.map_err(Failure::internal)?;
    let until = Instant::now() + LONGEST;
    let begins: Vec<bool> = examined.iter().map(|one| one.changed || reprocess).collect();
    let mut found = Vec::new();
    for (at, (one, parsed)) in examined.iter().zip(specs).enumerate() {
        // One of this request that it reads and that runs before it gives it other inputs.
        let upstream = examined.iter().enumerate().find(|(other, up)| {
            *other != at && begins[*other] && !is_paused(up) && reads(one, up, &specs[*other].spec)
        });
        let mut told = match (begins[at], upstream) {
            (false, None) => idle("nothing changed, so no job begins"),
            (_, Some((other, _))) => {
                let name = &specs[other].spec.name;
                idle(&format!(
                    "it reads `{name}`, whose output is not known before its job is over"
                ))
            }
            (true, None) => one_of(call, one, parsed, (reprocess, until)).await?,
        };
        if begins[at] {
            told.downstream = downstream(call, &dag, one, (specs, examined));
        }
        found.push(told);
    }
    Ok(found)
}

fn idle(reason: &str) -> DryRun {
    DryRun {
        reason: Some(reason.to_owned()),
        ..DryRun::default()
    }
}

fn reads(one: &Examined, up: &Examined, spec: &PipelineSpec) -> bool {
    let of = |(_, repo, branch): &(String, DomainId, String)| *repo == up.id && branch == spec.output_branch.as_str();
    one.inputs.iter().any(of)
}

/// The pipelines as they would be.
async fn dag(conn: &mut crate::plane::Tx, specs: &[Parsed], examined: &[Examined]) -> Answer<Dag> {
    let mut dag = propagate::load_dag(conn).await?;
    for (one, parsed) in examined.iter().zip(specs) {
        let mut node = provenance::propagation::PipelineNode {
            pipeline: one.id,
            output_branch: parsed.spec.output_branch.clone(),
            inputs: Vec::new(),
            stopped: is_paused(one),
        };
        for (_, repo, branch) in &one.inputs {
            node.inputs.push(BranchOf {
                repo: *repo,
                branch: branch.parse()?,
            });
        }
        dag.pipelines.retain(|n| n.pipeline != one.id);
        dag.pipelines.push(node);
    }
    Ok(dag)
}

/// The pipelines that run after it, those that the caller may know of.
fn downstream(call: &Call, dag: &Dag, one: &Examined, (specs, examined): (&[Parsed], &[Examined])) -> Vec<String> {
    let mut reached = BTreeSet::from([one.id]);
    loop {
        let outputs: HashSet<(DomainId, &str)> = dag
            .pipelines
            .iter()
            .filter(|n| reached.contains(&n.pipeline) && !n.stopped)
            .map(|n| (n.pipeline, n.output_branch.as_str()))
            .collect();
        let reads = |b: &BranchOf| outputs.contains(&(b.repo, b.branch.as_str()));
        let more: Vec<DomainId> = dag
            .pipelines
            .iter()
            .filter(|n| !n.stopped && !reached.contains(&n.pipeline) && n.inputs.iter().any(reads))
            .map(|n| n.pipeline)
            .collect();
        if more.is_empty() {
            break;
        }
        reached.extend(more);
    }
    reached.remove(&one.id);
    let name = |id: DomainId| {
        let new = examined.iter().zip(specs).find(|(other, _)| other.id == id);
        match new {
            Some((_, parsed)) => Some(format!("{}/{}", parsed.spec.project, parsed.spec.name)),
            None => call
                .rights()
                .can(Permission::Discover, id)
                .then(|| call.rights().policy.name_of(id))
                .flatten(),
        }
    };
    let mut names: Vec<String> = reached.into_iter().filter_map(name).collect();
    names.sort();
    names
}

/// Whether it stays stopped when it is applied; what was suspended goes on with another version.
fn is_paused(one: &Examined) -> bool {
    let state = one.before.as_ref().map(|before| before.state.as_str());
    state == Some("paused") || (state == Some("suspended") && !one.changed)
}

async fn one_of(call: &Call, one: &Examined, parsed: &Parsed, (reprocess, until): (bool, Instant)) -> Answer<DryRun> {
    let spec = &parsed.spec;
    if spec.service.is_some() {
        return Ok(idle("a service has no datums: it runs until it is replaced or stopped"));
    }
    if spec.spout.is_some() {
        return Ok(idle(
            "a spout has no datums: it runs until it is replaced or stopped, and makes commits of what it receives",
        ));
    }
    let mut conn = call.plane.pool.acquire().await?;
    let trees = match trees(call, &mut conn, one).await? {
        Err(reason) => return Ok(idle(&reason)),
        Ok(trees) => trees,
    };
    drop(conn);
    let mut told = match count(call, one, parsed, &trees, until).await? {
        Err(told) => told,
        Ok(datums) => known(call, one, parsed, &datums, reprocess).await?,
    };
    if is_paused(one) {
        told.reason = Some("it is stopped: a job begins with `howdah pipeline start`".to_owned());
    }
    if let Some(to_run) = told.to_run {
        told.estimate = Some(estimate(call, one, spec, to_run).await?);
    }
    Ok(told)
}

/// The tree of each leaf as it is now, or why there is nothing to count.
async fn trees(call: &Call, conn: &mut PgConnection, one: &Examined) -> Answer<Result<Vec<TreeRef>, String>> {
    let mut heads = Vec::new();
    for (name, repo, branch) in &one.inputs {
        let head = commits::queries::find_head(conn, &COUNT, *repo, &branch.parse()?).await?;
        heads.push((name, head.flatten()));
    }
    let sets: Vec<i64> = heads
        .iter()
        .filter_map(|(_, head)| head.as_ref().map(|h| h.origin_set))
        .collect();
    let readable = call.readable_among(conn, sets).await?;
    let hidden: Vec<String> = heads
        .iter()
        .filter(|(_, head)| head.as_ref().is_some_and(|h| !readable.contains(&h.origin_set)))
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    if !hidden.is_empty() {
        let hidden = hidden.join(", ");
        return Ok(Err(format!(
            "the counts tell of content, and you may not read {hidden}; `howdah access explain` says who can grant it"
        )));
    }
    let mut trees = Vec::new();
    for (name, head) in heads {
        let Some(head) = head else {
            return Ok(Err(format!(
                "its input `{name}` has no commit yet: a job begins with the first one"
            )));
        };
        let tree = match (head.state, &head.root) {
            (CommitState::Finished, Some(root)) => TreeRef::from_bytes(root)?,
            (state, _) => {
                let state = format!("{state:?}").to_lowercase();
                return Ok(Err(format!(
                    "the commit of its input `{name}` is {state}, so what it holds can't be counted"
                )));
            }
        };
        trees.push(tree);
    }
    Ok(Ok(trees))
}

/// Datums that were found, and whether there are more.
struct Found {
    datums: Vec<Datum>,
    more: bool,
}

/// The datums, or what is to be told instead.
async fn count(
    call: &Call,
    one: &Examined,
    parsed: &Parsed,
    trees: &[TreeRef],
    until: Instant,
) -> Answer<Result<Found, DryRun>> {
    let limit = Limit { until, files: FILES };
    let leaves = parsed.spec.input.leaves();
    let (mut lists, mut more): (Vec<Arc<[Match]>>, bool) = (Vec::new(), false);
    for (leaf, tree) in leaves.iter().zip(trees) {
        let (found, cut) = match matches::some(&call.plane.storage, tree, &leaf.glob, Some(limit)).await {
            Ok(found) => found,
            // What can't be planned the job would fail with.
            Err(failure) if failure.kind() == contract::problem::ProblemKind::Invalid => {
                return Ok(Err(idle(&format!("the job would fail: {}", failure.detail()))));
            }
            Err(failure) => return Err(failure),
        };
        if leaf.is_code && found.is_empty() && !cut {
            return Ok(Err(idle(
                "the job would fail: there is nothing where transform.code is",
            )));
        }
        more |= cut;
        lists.push(found.into());
    }
    if more && depends_on_all(&parsed.spec.input) {
        return Ok(Err(idle(&format!(
            "an input has more than the {FILES} files, or takes longer than the {} s, that a dry run looks at, and what its \
             datums are depends on all of it",
            LONGEST.as_secs()
        ))));
    }
    let all: u64 = lists.iter().map(|list| list.len() as u64).sum();
    if all > FILES && lists.len() > 1 {
        return Ok(Err(idle(&format!(
            "its inputs match more than the {FILES} files that a dry run looks at"
        ))));
    }
    let mut sizes = lists.iter().map(|list| list.len() as u64);
    if let Some(product) = product(&parsed.spec.input, &mut sizes).filter(|n| *n > DATUMS) {
        return Ok(Err(DryRun {
            datums: Some(product),
            at_least: more,
            reason: Some(format!(
                "which of them are known is looked up for at most {DATUMS} datums"
            )),
            ..DryRun::default()
        }));
    }
    let input = parsed.spec.input.clone();
    let domains: Vec<DomainId> = one.inputs.iter().map(|(_, domain, _)| *domain).collect();
    let asked = tokio::task::spawn_blocking(move || {
        let lists = Lists::new(&input, lists);
        enumerate(&input, &domains, &lists)
    });
    match asked.await.map_err(Failure::internal)? {
        Ok(datums) => Ok(Ok(Found { datums, more })),
        Err(refused) => Ok(Err(idle(&format!("the job would fail: {refused}")))),
    }
}

/// Whether a part of the matches does not make a part of the datums.
fn depends_on_all(input: &InputSpec) -> bool {
    match input {
        InputSpec::Pfs(_) => false,
        InputSpec::Group(_) => true,
        InputSpec::Join(parts) => parts.iter().any(depends_on_all) || input.leaves().iter().any(|l| l.outer_join),
        InputSpec::Cross(parts) | InputSpec::Union(parts) => parts.iter().any(depends_on_all),
    }
}

/// How many datums there are, as far as that follows from the lengths of the lists.
fn product(input: &InputSpec, sizes: &mut impl Iterator<Item = u64>) -> Option<u64> {
    match input {
        InputSpec::Pfs(_) => sizes.next(),
        InputSpec::Cross(parts) => {
            let sizes: Vec<Option<u64>> = parts.iter().map(|part| product(part, sizes)).collect();
            sizes
                .into_iter()
                .try_fold(1, |all: u64, size| size.map(|n| all.saturating_mul(n)))
        }
        InputSpec::Union(_) | InputSpec::Join(_) | InputSpec::Group(_) => {
            let _ = input.leaves().iter().map_while(|_| sizes.next()).count();
            None
        }
    }
}

/// Which of the datums succeeded before.
async fn known(call: &Call, one: &Examined, parsed: &Parsed, found: &Found, reprocess: bool) -> Answer<DryRun> {
    let spec = &parsed.spec;
    let until = Instant::now() + LONGEST;
    let total = found.datums.len() as u64;
    let mut told = DryRun {
        datums: Some(total),
        at_least: found.more,
        ..DryRun::default()
    };
    if reprocess || spec.reprocess == Reprocess::EveryJob {
        (told.to_run, told.known) = (Some(total), Some(0));
        return Ok(told);
    }
    let mut conn = call.plane.pool.acquire().await?;
    let versions = secrets::versions(&mut conn, spec).await?;
    let code = secrets::counted_in(spec.code_digest(parsed.image_digest.as_deref()), &versions);
    let (mut looked_up, mut known) = (0, 0);
    for chunk in found.datums.chunks(CHUNK) {
        if Instant::now() >= until {
            let seconds = LONGEST.as_secs();
            told.reason = Some(format!(
                "which of them are known takes longer to look up than the {seconds} s of a dry run"
            ));
            return Ok(told);
        }
        let keys: HashSet<Vec<u8>> = chunk.iter().map(|datum| datum.key(&code).to_vec()).collect();
        let keys: Vec<Vec<u8>> = keys.into_iter().collect();
        let before = scheduler::queries::known(&mut conn, &COUNT, one.id.uuid(), &keys).await?;
        looked_up += chunk.len() as u64;
        known += before.len() as u64;
    }
    (told.to_run, told.known) = (Some(looked_up - known), Some(known));
    Ok(told)
}

/// What that many datums may take, by what others of this pipeline took.
async fn estimate(call: &Call, one: &Examined, spec: &PipelineSpec, to_run: u64) -> Answer<Estimate> {
    let slots = call.plane.config.slots.max(1) as u64;
    let at_once = spec.parallelism.map_or(slots, u64::from).min(slots);
    let mut conn = call.plane.pool.acquire().await?;
    let sets = jobs::queries::origin_sets(&mut conn, &COUNT, Some(one.id.uuid())).await?;
    let sets = call.readable_among(&mut conn, sets).await?;
    let pipeline: Uuid = one.id.uuid();
    let took = dry_run_queries::took(&mut conn, &COUNT, pipeline, &sets).await?;
    let seconds = |ms: Option<f64>| ms.map(|ms| ms / 1000.0);
    let mean = seconds(took.mean_ms);
    let rounds = to_run.div_ceil(at_once) as f64;
    let unknown = took.datums == 0 && to_run > 0;
    Ok(Estimate {
        from_datums: u64::try_from(took.datums).unwrap_or(0),
        at_once,
        datum_s: mean,
        datum_median_s: seconds(took.median_ms),
        datum_cpu_s: seconds(took.mean_cpu_ms),
        cpu_s: match to_run {
            0 => Some(0.0),
            n => seconds(took.mean_cpu_ms).map(|s| s * n as f64),
        },
        wall_s: match to_run {
            0 => Some(0.0),
            _ => mean.map(|s| s * rounds),
        },
        reason: unknown.then(|| "unknown: none of its datums ran yet".to_owned()),
    })
}
