//! R8: pipelines run on the `derive` grants of who applied them. Whenever another policy comes in force, when a release of it
//! ends and when the plane starts, it is asked for each pipeline whether its sponsor has lost one of them
//! (`provenance::access::Grants`): one transaction suspends the pipeline, ends its jobs and takes its branch back to what is
//! finished. With the right it goes on by itself, with one job for what its inputs point at. All of that is a function of the
//! policy and the database, so a plane that was killed between does it when it starts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chassis::process::Shutdown;
use chrono::{DateTime, Utc};
use contract::api::JobState;
use contract::ids::{DomainId, JobId};
use contract::policy::Principal;
use contract::problem::ProblemKind;
use provenance::access::{Grants, Grounds, Policy, Standing, in_words, revokes_nothing};
use provenance::origins::{OriginSet, required};
use tokio::sync::Notify;
use uuid::Uuid;

use super::propagate::{self, unknown_policy};
use super::queries::{self as pipelines, RunRow};
use super::sponsors_queries::{self as queries, SponsoredRow};
use crate::audit;
use crate::call::Call;
use crate::commits::lock::lock_dag;
use crate::commits::origins;
use crate::failure::{Answer, Failure};
use crate::history::heads;
use crate::jobs;
use crate::permissions::System;
use crate::plane::{Plane, Tx};
use crate::serving;
use crate::worker::claims::{self, Claiming};

const SELF: System = System::because("the plane asks whether pipelines may still run, and ends what may not");
/// What a database that is away costs.
const PAUSE: Duration = Duration::from_secs(1);

/// Up to which policy it was decided which pipelines may run.
#[derive(Default)]
pub struct Settled {
    reached: Mutex<Option<Reached>>,
    /// A transaction that found a loss by itself asks for the rest of what follows from it.
    found: Notify,
}

struct Reached {
    policy: Arc<Policy>,
    /// When a release ends, which is as good as another policy.
    until: Option<DateTime<Utc>>,
}

impl Settled {
    fn is_behind(&self, policy: &Arc<Policy>, now: DateTime<Utc>) -> bool {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        match reached.as_mut() {
            None => true,
            Some(reached) if reached.until.is_some_and(|until| until <= now) => true,
            Some(reached) if reached.policy.epoch() >= policy.epoch() => false,
            Some(reached) => {
                // Most policies bring a repo or a reader: nothing waits for a decision about those.
                let same = revokes_nothing(reached.policy.snapshot(), policy.snapshot());
                if same {
                    reached.policy = policy.clone();
                }
                !same
            }
        }
    }

    fn reached(&self, policy: Arc<Policy>, until: Option<DateTime<Utc>>) {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        if reached
            .as_ref()
            .is_none_or(|known| known.policy.epoch() <= policy.epoch())
        {
            *reached = Some(Reached { policy, until });
        }
    }
}

/// Whether a policy is in force, or none, by which it was not decided yet which pipelines may run: until then no datum is
/// handed out and nothing is sent.
pub fn is_unsettled(plane: &Plane) -> bool {
    let policy = plane.policy.last_known();
    policy.is_none_or(|policy| plane.sponsors.is_behind(&policy, plane.now()))
}

/// Waits until it is decided which pipelines may run by the policy in force.
pub async fn settled(plane: &Plane) {
    let mut work = plane.signals.work();
    loop {
        work.borrow_and_update();
        if !is_unsettled(plane) {
            return;
        }
        let _ = tokio::time::timeout(PAUSE, work.changed()).await;
    }
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
            () = plane.sponsors.found.notified() => {}
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
    plane.sponsors.reached(policy, decided.until);
    drop(gate);
    // Whoever waits for datums waited for this.
    plane.signals.work_changed();
    if decided.ended {
        plane.signals.commits_changed();
    }
    let mut done = run_again(plane).await;
    if decided.free.is_empty() || resume(plane, &decided.free).await.is_ok() {
        return done;
    }
    // One of them may be what it fails by: no other must wait for it.
    for one in &decided.free {
        if let Err(error) = resume(plane, std::slice::from_ref(one)).await {
            done = Err(error);
        }
    }
    done
}

/// What reads a suspended pipeline and was to read what is dropped runs with what is left of it.
async fn run_again(plane: &Plane) -> Answer<()> {
    let mut tx = plane.begin().await?;
    let outputs = queries::outputs_of_suspended(&mut tx, &SELF).await?;
    if outputs.is_empty() {
        return Ok(());
    }
    lock_dag(&mut tx).await?;
    settle_in(plane, &mut tx).await?;
    heads::run_again(plane, &mut tx, &outputs).await?;
    tx.commit().await?;
    plane.signals.work_changed();
    plane.signals.commits_changed();
    Ok(())
}

/// As [`settle`], in a transaction that holds the lock of the DAG and is about to begin or publish something: if another
/// policy came in force since it was decided last. What may go on again is left to [`follow`].
///
/// # Errors
/// When the database is away, or nothing is known of the policy.
pub async fn settle_in(plane: &Plane, tx: &mut Tx) -> Answer<()> {
    let policy = plane.policy.last_known().ok_or_else(unknown_policy)?;
    if plane.sponsors.is_behind(&policy, plane.now()) {
        decide(plane, tx, &policy).await?;
    }
    Ok(())
}

/// Notes what the sponsors of these pipelines hold of what their inputs point at now: that may be revoked later. What is
/// lost already suspends them in this transaction, which holds the lock of the DAG. With `applied` their newest versions are
/// of this moment: nothing was kept of them before.
///
/// # Errors
/// When the database is away, or nothing is known of the policy.
pub async fn note(plane: &Plane, tx: &mut Tx, ids: &[Uuid], applied: bool) -> Answer<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let policy = plane.policy.last_known().ok_or_else(unknown_policy)?;
    let rows = queries::list(tx, &SELF, Some(ids)).await?;
    let mut asking = Asking::begin(plane, tx, &policy, ids).await?;
    if applied {
        asking.with_rows.extend(ids);
    }
    let mut lost = false;
    for row in &rows {
        let standing = asking.standing_of(tx, row).await?;
        lost |= standing.is_some_and(|standing| !standing.lost.is_empty());
    }
    asking.keep(tx).await?;
    if lost {
        decide(plane, tx, &policy).await?;
        plane.sponsors.found.notify_one();
    }
    Ok(())
}

/// What somebody lacks who wants a pipeline to run whose sponsor lost something: `None` where nothing is in the way.
///
/// # Errors
/// When the database is away.
pub async fn refusal(call: &Call, tx: &mut Tx, pipeline: DomainId, name: &str) -> Answer<Option<Failure>> {
    let plane = &call.plane;
    let policy = plane.policy.last_known().ok_or_else(unknown_policy)?;
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
    let policy = plane.policy.last_known().ok_or_else(unknown_policy)?;
    let sponsor = &run.actor.0;
    let mut asking = Asking::begin(plane, tx, &policy, &[run.id]).await?;
    let standing = asking.standing(tx, (run.id, sponsor.id), (reads, &[])).await?;
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
        let standing = asking.standing_of(conn, &row).await?;
        if row.state == "suspended" || standing.is_some_and(|standing| !standing.lost.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What came of deciding.
#[derive(Default)]
struct Decided {
    /// Suspended pipelines that may run again.
    free: Vec<Uuid>,
    /// Whether jobs were ended.
    ended: bool,
    /// Until when it holds, with this policy.
    until: Option<DateTime<Utc>>,
}

async fn decide(plane: &Plane, tx: &mut Tx, policy: &Policy) -> Answer<Decided> {
    let lost = lost(plane, tx, policy).await?;
    let mut decided = Decided {
        until: lost.until,
        ..Decided::default()
    };
    let mut stopped = Vec::new();
    let mut ending = lost.jobs;
    for (id, (domains, row)) in &lost.pipelines {
        if !domains.is_empty() {
            let why = reason(domains, &row.actor.name);
            for job in pipelines::unfinished_jobs(tx, &SELF, DomainId::from_uuid(*id)).await? {
                ending.push((JobId::from_uuid(job), *id, why.clone()));
            }
            stopped.push((*id, row, why));
        } else if row.state == "suspended" {
            decided.free.push(*id);
        }
    }
    let mut touched: BTreeSet<Uuid> = stopped.iter().map(|(id, ..)| *id).collect();
    touched.extend(ending.iter().map(|(_, pipeline, _)| *pipeline));
    if !ending.is_empty() {
        // Whoever claims a datum has it before this, or sees that its job is over.
        claims::lock_claiming(tx, &SELF, Claiming::Nothing).await?;
        // All of them in the order of those who report of several.
        let ids: Vec<Uuid> = ending.iter().map(|(job, ..)| job.uuid()).collect();
        queries::lock_jobs(tx, &SELF, &ids).await?;
        for (id, _, why) in &stopped {
            decided.ended |= serving::begin::end(plane, tx, *id, why).await?;
        }
        for (job, _, why) in &ending {
            decided.ended |= jobs::end::end(plane, tx, *job, JobState::Killed, Some(why)).await?;
        }
    }
    // Pipelines after their jobs, as by whoever ends one.
    let mut suspended = Vec::new();
    for (id, row, why) in &stopped {
        if row.state != "paused" && (row.state != "suspended" || row.reason.as_ref() != Some(why)) {
            let id = DomainId::from_uuid(*id);
            pipelines::update_state(tx, &SELF, id, "suspended", Some(why)).await?;
            suspended.push(format!("{id}: {why}"));
        }
    }
    if !touched.is_empty() {
        let touched = Vec::from_iter(touched);
        queries::move_back(tx, &SELF, &touched, plane.now()).await?;
    }
    for subject in suspended {
        audit::record_own(plane, tx, "pipeline.suspend", &subject).await?;
    }
    Ok(decided)
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
    let policy = plane.policy.last_known().ok_or_else(unknown_policy)?;
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
    for id in &started {
        audit::record_own(plane, &mut tx, "pipeline.resume", &id.to_string()).await?;
    }
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
    /// When the first release ends that counted.
    until: Option<DateTime<Utc>>,
}

async fn lost(plane: &Plane, tx: &mut Tx, policy: &Policy) -> Answer<Lost> {
    let rows = queries::list(tx, &SELF, None).await?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let mut asking = Asking::begin(plane, tx, policy, &ids).await?;
    let (mut found, mut held) = (BTreeMap::new(), HashMap::new());
    for row in rows {
        let Some(standing) = asking.standing_of(tx, &row).await? else {
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
        let Some(standing) = asking
            .standing(tx, (job.pipeline_id, job.actor.id), (&job.reads, &[]))
            .await?
        else {
            continue;
        };
        if !of_pipeline && !standing.lost.is_empty() {
            let why = reason(&standing.lost.into_iter().collect(), &job.actor.name);
            jobs.push((JobId::from_uuid(job.id), job.pipeline_id, why));
        }
    }
    let until = asking.grants.active().until();
    asking.keep(tx).await?;
    Ok(Lost {
        pipelines: found,
        jobs,
        until,
    })
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
    grants: Grants<'a>,
    kept: HashMap<(Uuid, Principal), Grounds>,
    /// Pipelines of which something was kept. Of one that is older than that, what is held now is what may be revoked.
    with_rows: HashSet<Uuid>,
    changed: BTreeMap<(Uuid, Principal), Grounds>,
}

impl<'a> Asking<'a> {
    async fn begin(plane: &'a Plane, conn: &mut sqlx::PgConnection, policy: &'a Policy, ids: &[Uuid]) -> Answer<Self> {
        let kept = queries::grounds(conn, &SELF, ids).await?;
        Ok(Self {
            plane,
            grants: Grants::of(policy, plane.now()),
            with_rows: kept.keys().map(|(pipeline, _)| *pipeline).collect(),
            kept,
            changed: BTreeMap::new(),
        })
    }

    async fn sets(&self, conn: &mut sqlx::PgConnection, ids: &[i64]) -> Answer<Vec<Arc<OriginSet>>> {
        let mut sets = Vec::with_capacity(ids.len());
        for id in ids {
            sets.push(origins::get(self.plane, conn, &SELF, *id).await?);
        }
        Ok(sets)
    }

    /// That of a pipeline's sponsor towards what its inputs point at. One that points at nothing yet is its own repo's.
    async fn standing_of(&mut self, conn: &mut sqlx::PgConnection, row: &SponsoredRow) -> Answer<Option<Standing>> {
        let empty: Vec<DomainId> = row.empty.iter().copied().map(DomainId::from_uuid).collect();
        self.standing(conn, (row.id, row.actor.id), (&row.heads, &empty)).await
    }

    /// `None` where the origins are damaged: that is told where they are needed, and must hold nothing else up.
    async fn standing(
        &mut self,
        conn: &mut sqlx::PgConnection,
        of: (Uuid, Principal),
        (heads, empty): (&[i64], &[DomainId]),
    ) -> Answer<Option<Standing>> {
        let sets = match self.sets(conn, heads).await {
            Err(error) if error.kind() == ProblemKind::Corrupt => {
                tracing::error!("whether a pipeline may run cannot be decided: {error}");
                return Ok(None);
            }
            sets => sets?,
        };
        let own: Vec<OriginSet> = empty.iter().copied().map(OriginSet::own).collect();
        let sets: Vec<&OriginSet> = sets.iter().map(AsRef::as_ref).chain(&own).collect();
        let nothing = Grounds::new();
        let known = self.changed.get(&of).or_else(|| self.kept.get(&of));
        let known = known.or_else(|| (!self.with_rows.contains(&of.0)).then_some(&nothing));
        let standing = self.grants.standing(of.1, known, &sets);
        if known != Some(&standing.grounds) {
            self.changed.insert(of, standing.grounds.clone());
        }
        Ok(Some(standing))
    }

    async fn required(&self, conn: &mut sqlx::PgConnection, heads: &[i64]) -> Answer<HashSet<DomainId>> {
        let sets = self.sets(conn, heads).await?;
        Ok(sets
            .iter()
            .flat_map(|set| required(set, self.grants.active()))
            .collect())
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
