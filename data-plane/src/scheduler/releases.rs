//! Retroactive releases (R9): when the policy brings one, the origin sets of that pipeline's commits with that spec, and
//! of everything made from them, are computed again, in the order in which they were made, in one transaction. Revoked
//! and expired ones need nothing: sets hold the ids of releases, and whether one counts is decided when somebody reads.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chassis::process::Shutdown;
use chrono::{DateTime, Utc};
use contract::ids::{CommitId, DomainId};
use contract::policy::Release;
use provenance::access::Policy;
use provenance::origins::{Edge, OriginSet, matching_releases};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::SELF;
use crate::commits::lock::lock_dag;
use crate::commits::origins;
use crate::failure::{Answer, Failure};
use crate::plane::{Plane, Tx};

/// Follows the policy until shutdown.
pub async fn follow(plane: Plane, shutdown: Shutdown) {
    let mut changes = plane.policy.changes();
    loop {
        let policy = changes.borrow_and_update().clone();
        if let Some(policy) = policy {
            while let Err(error) = apply(&plane, &policy).await {
                tracing::warn!("retroactive releases are tried again in a second: {error}");
                tokio::select! {
                    () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
                    () = shutdown.begun() => return,
                }
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = shutdown.begun() => return,
        }
    }
}

/// Applies the retroactive releases of a policy that were not applied yet.
///
/// # Errors
/// When the database is away; nothing was changed then.
pub async fn apply(plane: &Plane, policy: &Policy) -> Answer<()> {
    let retroactive: Vec<&Release> = policy.releases().filter(|r| r.retroactive).collect();
    if retroactive.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = retroactive.iter().map(|r| r.id.uuid()).collect();
    let mut conn = plane.pool.acquire().await?;
    let applied: Vec<Uuid> = sqlx::query_scalar("select release_id from applied_releases where release_id = any($1)")
        .bind(&ids)
        .fetch_all(&mut *conn)
        .await?;
    drop(conn);
    let new: Vec<&Release> = retroactive
        .into_iter()
        .filter(|r| !applied.contains(&r.id.uuid()))
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    let released = released(&mut tx, &new).await?;
    recompute(plane, &mut tx, policy, &released).await?;
    for release in &new {
        sqlx::query("insert into applied_releases (release_id, applied_at) values ($1, $2) on conflict do nothing")
            .bind(release.id.uuid())
            .bind(plane.now())
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    plane.signals.commits_changed();
    Ok(())
}

/// A commit whose origins are computed again.
#[derive(Debug, Clone, FromRow)]
struct Affected {
    id: Uuid,
    repo_id: Uuid,
    parent_id: Option<Uuid>,
    pipeline_id: Option<Uuid>,
    /// A spout made it, and its content holds that of its parent.
    received: bool,
    /// Nothing of its parent is in it.
    replaces: bool,
    /// The domain of what a spout received and nobody attested.
    unattested_id: Option<Uuid>,
    spec_digest: Option<Vec<u8>>,
    origin_set_id: i64,
    started_at: DateTime<Utc>,
}

/// Computes the origins of a commit and of everything made from it again. The transaction holds the lock of the DAG.
///
/// # Errors
/// When the database is away or something stored is damaged.
pub(super) async fn recompute_from(plane: &Plane, tx: &mut Tx, policy: &Policy, commit: CommitId) -> Answer<()> {
    recompute(plane, tx, policy, &[commit.uuid()]).await
}

/// As [`recompute_from`], of several commits.
///
/// # Errors
/// As [`recompute_from`].
pub async fn recompute(plane: &Plane, tx: &mut Tx, policy: &Policy, from: &[Uuid]) -> Answer<()> {
    let affected = affected(tx, from).await?;
    let ids: Vec<Uuid> = affected.iter().map(|a| a.id).collect();
    // A job gets the origins of its commit, and comes before it for whoever ends one.
    sqlx::query("select id from jobs where output_commit_id = any($1) order by id for update")
        .bind(&ids)
        .execute(&mut **tx)
        .await?;
    let mut inputs: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
    let edges: Vec<(Uuid, Uuid)> =
        sqlx::query_as("select distinct commit_id, input_id from commit_inputs where commit_id = any($1)")
            .bind(&ids)
            .fetch_all(&mut **tx)
            .await?;
    for (commit, input) in edges {
        inputs.entry(commit).or_default().push(input);
    }
    let mut sets = Sets::default();
    // What was copied into an open commit may be younger than it: go round until nothing changes.
    loop {
        let mut changed = false;
        for commit in &affected {
            let mut parents: Vec<Uuid> = inputs.get(&commit.id).cloned().unwrap_or_default();
            if (commit.pipeline_id.is_none() || commit.received) && !commit.replaces {
                parents.extend(commit.parent_id);
            }
            // A spout's only edge leads from the commit before it.
            let edge = if commit.received {
                Edge::plain()
            } else {
                edge(policy, commit)
            };
            let mut known = Vec::new();
            for parent in parents {
                known.push(sets.of(plane, tx, parent).await?);
            }
            let outside = commit.unattested_id.map(|id| OriginSet::own(DomainId::from_uuid(id)));
            let known = known.iter().map(|set| (set.as_ref(), edge.clone()));
            let outside = outside.iter().map(|set| (set, Edge::plain()));
            let combined: Vec<(&OriginSet, Edge)> = known.chain(outside).collect();
            let set = OriginSet::combine(DomainId::from_uuid(commit.repo_id), &combined);
            changed |= sets.set(commit, set);
        }
        if !changed {
            break;
        }
    }
    for commit in &affected {
        if let Some(set) = sets.new.get(&commit.id) {
            store(tx, commit, set).await?;
        }
    }
    Ok(())
}

/// The releases on the edge into a pipeline's output; nothing is released on other edges.
fn edge(policy: &Policy, commit: &Affected) -> Edge {
    match (commit.pipeline_id, &commit.spec_digest) {
        (Some(pipeline), Some(digest)) => {
            let pipeline = DomainId::from_uuid(pipeline);
            matching_releases(policy, pipeline, &hex::encode(digest), commit.started_at)
        }
        _ => Edge::plain(),
    }
}

/// Commits that the releases speak of.
async fn released(tx: &mut Tx, releases: &[&Release]) -> Answer<Vec<Uuid>> {
    let pipelines: Vec<Uuid> = releases.iter().map(|r| r.pipeline.uuid()).collect();
    let digests: Vec<Vec<u8>> = releases
        .iter()
        .map(|r| hex::decode(&r.spec_digest).unwrap_or_default())
        .collect();
    let rows = sqlx::query_scalar(
        "select c.id from unnest($1::uuid[], $2::bytea[]) r (pipeline_id, spec_digest)
           join pipeline_versions v on v.pipeline_id = r.pipeline_id
           join commits c on c.pipeline_id = v.pipeline_id and c.pipeline_version = v.version
          where coalesce(c.release_digest, v.spec_digest) = r.spec_digest",
    )
    .bind(pipelines)
    .bind(digests)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows)
}

/// These commits and all that was made from them, oldest first.
async fn affected(tx: &mut Tx, from: &[Uuid]) -> Answer<Vec<Affected>> {
    let rows = sqlx::query_as(
        "with recursive touched (id) as (
             select * from unnest($1::uuid[])
             union
             select down.id from touched t cross join lateral (
                 select commit_id as id from commit_inputs where input_id = t.id
                 union all
                 select id from commits where parent_id = t.id and (pipeline_id is null or unattested_id is not null) and not replaces) down
         )
         select c.id, c.repo_id, c.parent_id, c.pipeline_id,
                coalesce(c.release_digest, v.spec_digest) as spec_digest, c.origin_set_id, c.started_at,
                c.unattested_id is not null as received, c.replaces,
                case when c.attested is null then c.unattested_id end as unattested_id
           from commits c left join pipeline_versions v
             on v.pipeline_id = c.pipeline_id and v.version = c.pipeline_version
          where c.id in (select id from touched) order by c.seq",
    )
    .bind(from)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows)
}

#[derive(Default)]
struct Sets {
    new: BTreeMap<Uuid, Arc<OriginSet>>,
    stored: HashMap<Uuid, Arc<OriginSet>>,
}

impl Sets {
    async fn of(&mut self, plane: &Plane, conn: &mut PgConnection, commit: Uuid) -> Answer<Arc<OriginSet>> {
        if let Some(set) = self.new.get(&commit).or_else(|| self.stored.get(&commit)) {
            return Ok(Arc::clone(set));
        }
        let id = sqlx::query_scalar::<_, i64>("select origin_set_id from commits where id = $1")
            .bind(commit)
            .fetch_optional(&mut *conn)
            .await?;
        let id = id.ok_or_else(|| Failure::internal("a parent of a commit is missing"))?;
        let set = origins::get(plane, conn, &SELF, id).await?;
        self.stored.insert(commit, Arc::clone(&set));
        Ok(set)
    }

    fn set(&mut self, commit: &Affected, set: OriginSet) -> bool {
        let changed = self.new.get(&commit.id).is_none_or(|old| **old != set);
        self.new.insert(commit.id, Arc::new(set));
        changed
    }
}

async fn store(tx: &mut Tx, commit: &Affected, set: &OriginSet) -> Answer<()> {
    let id = origins::intern(tx, &SELF, set).await?;
    if id == commit.origin_set_id {
        return Ok(());
    }
    // The record of a finished commit goes on to name the set that it was made with.
    sqlx::query(
        "update commits set origin_set_id = $2,
                recorded_origin_set_id = case when digest is not null then coalesce(recorded_origin_set_id, origin_set_id) end
          where id = $1",
    )
    .bind(commit.id)
    .bind(id)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
