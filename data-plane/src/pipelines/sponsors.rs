//! R8: pipelines run on the `derive` grants of who applied them. Whenever another policy comes in force, when a release of it
//! ends and when the plane starts, it is asked for each pipeline whether its sponsor has lost one of them
//! (`provenance::access::Grants`): one transaction suspends the pipeline, ends its jobs and takes its branch back to what is
//! finished. With the right it goes on by itself, with one job for what its inputs point at. All of that is a function of the
//! policy and the database, so a plane that was killed between does it when it starts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chassis::process::Shutdown;
use chrono::{DateTime, Utc};
use contract::api::JobState;
use contract::ids::{DomainId, JobId};
use contract::policy::Principal;
use contract::problem::ProblemKind;
use provenance::access::{Grants, Grounds, Policy, Standing, in_words};
use provenance::origins::{OriginSet, required};
use uuid::Uuid;

use super::propagate;
use super::queries::{self as pipelines, RunRow};
use super::sponsors_queries::{self as queries, SponsoredRow};
use crate::call::Call;
use crate::commits::lock::lock_dag;
use crate::commits::origins;
use crate::failure::{Answer, Failure};
use crate::jobs;
use crate::permissions::System;
use crate::plane::{Plane, Tx};
use crate::serving;

const SELF: System = System::because("the plane asks whether pipelines may still run, and ends what may not");
/// What a database that is away costs.
const PAUSE: Duration = Duration::from_secs(1);

/// Up to which policy it was decided which pipelines may run.
#[derive(Default)]
pub struct Settled(AtomicU64);

impl Settled {
    fn is_behind(&self, policy: &Policy) -> bool {
        self.0.load(Ordering::Acquire) < policy.epoch()
    }

    fn reached(&self, epoch: u64) {
        self.0.fetch_max(epoch, Ordering::AcqRel);
    }
}

/// Whether a policy is in force by which it was not decided yet which pipelines may run: until then no datum is handed out.
pub fn is_unsettled(plane: &Plane) -> bool {
    plane
        .policy
        .last_known()
        .is_some_and(|policy| plane.sponsors.is_behind(&policy))
}

/// Follows the policy until shutdown.
pub async fn follow(plane: Plane, shutdown: Shutdown) {
    let mut changes = plane.policy.changes();
    while !shutdown.has_begun() {
        let policy = changes.borrow_and_update().clone();
        let mut again = None;
        if let Some(policy) = policy {
            let until = policy.active_releases(plane.now()).until();
            again = until.map(|until| (until - plane.now()).to_std().unwrap_or_default().max(PAUSE));
            if let Err(error) = settle(&plane).await {
                tracing::warn!("which pipelines may run is decided in a second: {error}");
                again = Some(PAUSE);
            }
        }
        let timer = async {
            match again {
                Some(again) => tokio::time::sleep(again).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = timer => {}
            () = shutdown.begun() => return,
        }
    }
}

/// Decides by the policy in force which pipelines may run, ends what may not, and lets go on what may again.
///
/// # Errors
/// When the database is away: try again.
pub async fn settle(plane: &Plane) -> Answer<()> {
    let gate = plane.change().await?;
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    // That of this moment: whoever held the lock until now decided by it or by an earlier one.
    let Some(policy) = plane.policy.last_known() else {
        return Ok(());
    };
    let decided = decide(plane, &mut tx, &policy).await?;
    tx.commit().await?;
    plane.sponsors.reached(policy.epoch());
    drop(gate);
    // Whoever waits for datums waited for this.
    plane.signals.work_changed();
    if decided.ended {
        plane.signals.commits_changed();
    }
    if decided.free.is_empty() || resume(plane, &decided.free).await.is_ok() {
        return Ok(());
    }
    // One of them may be what it fails by: no other must wait for it.
    let mut failed = Ok(());
    for one in &decided.free {
        if let Err(error) = resume(plane, std::slice::from_ref(one)).await {
            failed = Err(error);
        }
    }
    failed
}

/// As [`settle`], in a transaction that holds the lock of the DAG and is about to begin or publish something: if another
/// policy came in force since it was decided last. What may go on again is left to [`follow`].
///
/// # Errors
/// When the database is away.
pub async fn settle_in(plane: &Plane, tx: &mut Tx) -> Answer<()> {
    let Some(policy) = plane.policy.last_known() else {
        return Ok(());
    };
    if plane.sponsors.is_behind(&policy) {
        decide(plane, tx, &policy).await?;
    }
    Ok(())
}

/// Notes what the sponsors of these pipelines hold of what their inputs point at now: that may be revoked later.
///
/// # Errors
/// When the database is away.
pub async fn note(plane: &Plane, tx: &mut Tx, ids: &[Uuid]) -> Answer<()> {
    let Some(policy) = plane.policy.last_known() else {
        return Ok(());
    };
    let rows = queries::list(tx, &SELF, Some(ids)).await?;
    let mut asking = Asking::begin(plane, tx, &policy, ids).await?;
    for row in &rows {
        asking.standing(tx, (row.id, row.actor.id), &row.heads).await?;
    }
    asking.keep(tx).await
}

/// What somebody lacks who wants a pipeline to run whose sponsor lost something: `None` where nothing is in the way.
///
/// # Errors
/// When the database is away.
pub async fn refusal(call: &Call, tx: &mut Tx, pipeline: DomainId, name: &str) -> Answer<Option<Failure>> {
    let plane = &call.plane;
    let Some(policy) = plane.policy.last_known() else {
        return Ok(None);
    };
    let lost = lost(plane, tx, &policy).await?;
    let found = lost.pipelines.get(&pipeline.uuid());
    let found = found.filter(|(lost, _)| !lost.is_empty());
    Ok(found.map(|(lost, row)| refused(call, name, lost, &row.actor.name)))
}

/// The same of one version, and what it would read.
///
/// # Errors
/// When the database is away.
pub async fn refusal_of(call: &Call, tx: &mut Tx, run: &RunRow, reads: &[i64], name: &str) -> Answer<Option<Failure>> {
    let plane = &call.plane;
    let Some(policy) = plane.policy.last_known() else {
        return Ok(None);
    };
    let sponsor = &run.actor.0;
    let mut asking = Asking::begin(plane, tx, &policy, &[run.id]).await?;
    let standing = asking.standing(tx, (run.id, sponsor.id), reads).await?;
    let lost: BTreeSet<DomainId> = standing.into_iter().flat_map(|standing| standing.lost).collect();
    Ok((!lost.is_empty()).then(|| refused(call, name, &lost, &sponsor.name)))
}

fn refused(call: &Call, name: &str, lost: &BTreeSet<DomainId>, sponsor: &str) -> Failure {
    let rights = call.rights();
    let told = in_words(&rights.policy, &rights.subject, &reason(lost, sponsor));
    Failure::new(ProblemKind::Conflict, format!("`{name}` may not run: {told}"))
        .hint("ask the owners of that input for the right, or somebody who has it to apply the pipeline again")
}

/// Whether the sponsor of a pipeline lost what its inputs require.
///
/// # Errors
/// When the database is away.
pub async fn is_lost(plane: &Plane, conn: &mut sqlx::PgConnection, policy: &Policy, pipeline: Uuid) -> Answer<bool> {
    let rows = queries::list(conn, &SELF, Some(&[pipeline])).await?;
    let mut asking = Asking::begin(plane, conn, policy, &[pipeline]).await?;
    for row in rows {
        let standing = asking.standing(conn, (row.id, row.actor.id), &row.heads).await?;
        if row.state == "suspended" || standing.is_some_and(|standing| !standing.lost.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What came of deciding.
struct Decided {
    /// Suspended pipelines that may run again.
    free: Vec<Uuid>,
    /// Whether jobs were ended.
    ended: bool,
}

async fn decide(plane: &Plane, tx: &mut Tx, policy: &Policy) -> Answer<Decided> {
    let lost = lost(plane, tx, policy).await?;
    let mut decided = Decided {
        free: Vec::new(),
        ended: false,
    };
    let mut emptied = BTreeSet::new();
    for (id, (domains, row)) in &lost.pipelines {
        if domains.is_empty() {
            if row.state == "suspended" {
                decided.free.push(*id);
            }
            continue;
        }
        let why = reason(domains, &row.actor.name);
        // Jobs before their pipeline, as by whoever ends one.
        if end_all(plane, tx, *id, &why).await? {
            emptied.insert(*id);
        }
        if row.state != "paused" && (row.state != "suspended" || row.reason.as_ref() != Some(&why)) {
            let pipeline = DomainId::from_uuid(*id);
            pipelines::update_state(tx, &SELF, pipeline, "suspended", Some(&why)).await?;
        }
    }
    for (job, pipeline, why) in &lost.jobs {
        if jobs::end::end(plane, tx, *job, JobState::Killed, Some(why)).await? {
            emptied.insert(*pipeline);
        }
    }
    if !emptied.is_empty() {
        decided.ended = true;
        let emptied: Vec<Uuid> = emptied.into_iter().collect();
        queries::move_back(tx, &SELF, &emptied, plane.now()).await?;
    }
    Ok(decided)
}

/// Ends everything of a pipeline that is not over; answers whether there was something.
async fn end_all(plane: &Plane, tx: &mut Tx, pipeline: Uuid, why: &str) -> Answer<bool> {
    let mut ended = serving::begin::end(plane, tx, pipeline, why).await?;
    for job in pipelines::unfinished_jobs(tx, &SELF, DomainId::from_uuid(pipeline)).await? {
        ended |= jobs::end::end(plane, tx, JobId::from_uuid(job), JobState::Killed, Some(why)).await?;
    }
    Ok(ended)
}

/// Domains by their ids, as all stored reasons have them.
fn reason(lost: &BTreeSet<DomainId>, sponsor: &str) -> String {
    let names: Vec<String> = lost.iter().map(ToString::to_string).collect();
    format!(
        "input revoked: {}; it goes on by itself when {sponsor} may derive from that again, or when somebody who may applies the pipeline",
        names.join(", ")
    )
}

async fn resume(plane: &Plane, free: &[Uuid]) -> Answer<()> {
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    settle_in(plane, &mut tx).await?;
    let Some(policy) = plane.policy.last_known() else {
        return Ok(());
    };
    // Something else may be missing by now.
    let lost = lost(plane, &mut tx, &policy).await?;
    let mut started = Vec::new();
    for id in free {
        let is_free = lost.pipelines.get(id).is_some_and(|(lost, _)| lost.is_empty());
        if is_free && queries::resume(&mut tx, &SELF, *id).await? {
            started.push(DomainId::from_uuid(*id));
        }
    }
    propagate::begin(plane, &mut tx, plane.id(), &[], &started, false).await?;
    tx.commit().await?;
    plane.signals.work_changed();
    plane.signals.commits_changed();
    Ok(())
}

/// What sponsors have lost.
struct Lost {
    /// By pipeline.
    pipelines: BTreeMap<Uuid, (BTreeSet<DomainId>, SponsoredRow)>,
    /// Jobs of pipelines that may go on, which run an earlier version or read something earlier: job, pipeline, why.
    jobs: Vec<(JobId, Uuid, String)>,
}

async fn lost(plane: &Plane, tx: &mut Tx, policy: &Policy) -> Answer<Lost> {
    let rows = queries::list(tx, &SELF, None).await?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let mut asking = Asking::begin(plane, tx, policy, &ids).await?;
    let (mut found, mut held) = (BTreeMap::new(), HashMap::new());
    for row in rows {
        let Some(standing) = asking.standing(tx, (row.id, row.actor.id), &row.heads).await? else {
            continue;
        };
        let holds: HashSet<DomainId> = standing.grounds.keys().copied().collect();
        held.insert(row.id, (asking.required(tx, &row.heads).await?, holds));
        found.insert(row.id, (standing.lost.into_iter().collect(), row));
    }
    downstream(&mut found, &held);
    let mut jobs = Vec::new();
    for job in queries::list_unfinished(tx, &SELF).await? {
        let of_pipeline = found.get(&job.pipeline_id).is_some_and(|(lost, _)| !lost.is_empty());
        let Some(standing) = asking.standing(tx, (job.pipeline_id, job.actor.id), &job.reads).await? else {
            continue;
        };
        if !of_pipeline && !standing.lost.is_empty() {
            let why = reason(&standing.lost.into_iter().collect(), &job.actor.name);
            jobs.push((JobId::from_uuid(job.id), job.pipeline_id, why));
        }
    }
    asking.keep(tx).await?;
    Ok(Lost { pipelines: found, jobs })
}

/// What a pipeline's sponsor never held came to it through another pipeline: it goes the way of that one.
fn downstream(
    found: &mut BTreeMap<Uuid, (BTreeSet<DomainId>, SponsoredRow)>,
    held: &HashMap<Uuid, (HashSet<DomainId>, HashSet<DomainId>)>,
) {
    loop {
        let mut news: Vec<(Uuid, DomainId)> = Vec::new();
        for (id, (lost, row)) in found.iter() {
            let Some((required, holds)) = held.get(id) else {
                continue;
            };
            let above = row
                .inputs
                .iter()
                .filter_map(|input| found.get(input))
                .flat_map(|(lost, _)| lost);
            let through = above.filter(|d| required.contains(d) && !holds.contains(d) && !lost.contains(d));
            news.extend(through.map(|domain| (*id, *domain)));
        }
        if news.is_empty() {
            return;
        }
        for (id, domain) in news {
            if let Some((lost, _)) = found.get_mut(&id) {
                lost.insert(domain);
            }
        }
    }
}

/// Asks how sponsors stand, and gathers what is to be kept of them.
struct Asking<'a> {
    plane: &'a Plane,
    policy: &'a Policy,
    grants: Grants<'a>,
    kept: HashMap<(Uuid, Principal), Grounds>,
    changed: BTreeMap<(Uuid, Principal), Grounds>,
    now: DateTime<Utc>,
}

impl<'a> Asking<'a> {
    async fn begin(plane: &'a Plane, conn: &mut sqlx::PgConnection, policy: &'a Policy, ids: &[Uuid]) -> Answer<Self> {
        Ok(Self {
            plane,
            policy,
            grants: Grants::of(policy),
            kept: queries::grounds(conn, &SELF, ids).await?,
            changed: BTreeMap::new(),
            now: plane.now(),
        })
    }

    async fn sets(&self, conn: &mut sqlx::PgConnection, ids: &[i64]) -> Answer<Vec<Arc<OriginSet>>> {
        let mut sets = Vec::with_capacity(ids.len());
        for id in ids {
            sets.push(origins::get(self.plane, conn, &SELF, *id).await?);
        }
        Ok(sets)
    }

    /// `None` where the origins are damaged: that is told where they are needed, and must hold nothing else up.
    async fn standing(
        &mut self,
        conn: &mut sqlx::PgConnection,
        of: (Uuid, Principal),
        heads: &[i64],
    ) -> Answer<Option<Standing>> {
        let sets = match self.sets(conn, heads).await {
            Err(error) if error.kind() == ProblemKind::Corrupt => {
                tracing::error!("whether a pipeline may run cannot be decided: {error}");
                return Ok(None);
            }
            sets => sets?,
        };
        let sets: Vec<&OriginSet> = sets.iter().map(AsRef::as_ref).collect();
        let known = self.changed.get(&of).or_else(|| self.kept.get(&of));
        let standing = self.grants.standing(of.1, known, &sets, self.now);
        if known != Some(&standing.grounds) {
            self.changed.insert(of, standing.grounds.clone());
        }
        Ok(Some(standing))
    }

    async fn required(&self, conn: &mut sqlx::PgConnection, heads: &[i64]) -> Answer<HashSet<DomainId>> {
        let active = self.policy.active_releases(self.now);
        let sets = self.sets(conn, heads).await?;
        Ok(sets.iter().flat_map(|set| required(set, &active)).collect())
    }

    /// Writes down what has changed.
    async fn keep(self, conn: &mut sqlx::PgConnection) -> Answer<()> {
        for (of, grounds) in &self.changed {
            let before = self.kept.get(of);
            for (domain, ground) in grounds {
                if before.and_then(|before| before.get(domain)) != Some(ground) {
                    queries::keep(conn, &SELF, *of, *domain, ground).await?;
                }
            }
        }
        Ok(())
    }
}
