//! Commits as the API shows them: names instead of ids, inputs that the caller may know of.

use std::collections::HashMap;

use contract::api;
use contract::ids::{CommitId, DomainId};
use contract::policy::Permission;
use provenance::access::Readable;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{CommitRow, origins};
use crate::call::Call;
use crate::failure::{Answer, Failure};
use crate::jobs::reasons;
use crate::permissions::System;
use crate::repos;

const DECIDE: System = System::because("the origin set is read in order to decide what is shown");
const NAMES: System = System::because("names of repos whose commits the caller may read or discover");

/// Shows one commit that the caller may read.
///
/// # Errors
/// When the database is away.
pub async fn show(conn: &mut PgConnection, call: &Call, _: &Readable, row: CommitRow) -> Answer<api::Commit> {
    let mut shown = show_all(conn, call, vec![row]).await?;
    shown
        .pop()
        .ok_or_else(|| Failure::internal("a commit got lost on its way out"))
}

/// Shows a commit to who has just made it. Who may write without reading learns that it was made, and nothing of the
/// content, most of which others put there.
///
/// # Errors
/// When the database is away.
pub async fn show_to_maker(conn: &mut PgConnection, call: &Call, mut row: CommitRow) -> Answer<api::Commit> {
    let set = origins::get(&call.plane, conn, &DECIDE, row.origin_set).await?;
    if call.readable(&set, "").is_err() {
        (row.root, row.size_bytes, row.files) = (None, 0, 0);
        row.sources.clear();
    }
    let mut shown = show_all(conn, call, vec![row]).await?;
    shown
        .pop()
        .ok_or_else(|| Failure::internal("a commit got lost on its way out"))
}

/// Shows commits that the caller may read: the rows came from a query that was given the readable origin sets.
///
/// # Errors
/// When the database is away.
pub(crate) async fn show_all(conn: &mut PgConnection, call: &Call, rows: Vec<CommitRow>) -> Answer<Vec<api::Commit>> {
    let rights = call.rights();
    let failed: Vec<Uuid> = rows
        .iter()
        .filter(|r| r.reason.is_some())
        .map(|r| r.id.uuid())
        .collect();
    let open = reasons::open_to(call, conn, &failed).await?;
    let ids: Vec<Uuid> = rows.iter().map(|r| r.id.uuid()).collect();
    let edges = sqlx::query_as::<_, (Uuid, Uuid, Uuid)>(
        "select i.commit_id, i.input_id, c.repo_id from commit_inputs i join commits c on c.id = i.input_id
         where i.commit_id = any($1) order by c.seq",
    )
    .bind(&ids)
    .fetch_all(&mut *conn)
    .await?;
    let mut wanted: Vec<DomainId> = rows.iter().map(|r| r.repo).collect();
    wanted.extend(rows.iter().filter_map(|r| r.pipeline.as_ref().map(|p| p.id)));
    wanted.extend(edges.iter().map(|(_, _, repo)| DomainId::from_uuid(*repo)));
    let names = repos::queries::names_of(conn, &NAMES, &wanted).await?;
    let mut inputs: HashMap<CommitId, Vec<api::ProvenanceEdge>> = HashMap::new();
    for (commit, input, repo) in edges {
        let repo = DomainId::from_uuid(repo);
        // A released domain may stand here that the caller may not know of.
        let Some((project, name)) = names.get(&repo).filter(|_| rights.can(Permission::Discover, repo)) else {
            continue;
        };
        let edge = api::ProvenanceEdge {
            repo: name.clone(),
            project: project.clone(),
            commit: CommitId::from_uuid(input),
        };
        let list = inputs.entry(CommitId::from_uuid(commit)).or_default();
        if !list.contains(&edge) {
            list.push(edge);
        }
    }
    rows.into_iter()
        .map(|mut row| {
            row.reason = reasons::told(rights, row.reason, open.contains(&row.id.uuid()));
            let (project, repo) = names
                .get(&row.repo)
                .cloned()
                .ok_or_else(|| Failure::internal(format!("commit {} is in a repo without a row", row.id)))?;
            let provenance = inputs.remove(&row.id).unwrap_or_default();
            let pipeline = row
                .pipeline
                .as_ref()
                .and_then(|p| names.get(&p.id))
                .map(|(_, name)| name.clone());
            one(row, project, repo, provenance, pipeline)
        })
        .collect()
}

fn one(
    row: CommitRow,
    project: contract::names::ProjectName,
    repo: contract::names::RepoName,
    provenance: Vec<api::ProvenanceEdge>,
    pipeline: Option<contract::names::RepoName>,
) -> Answer<api::Commit> {
    let digest = match &row.root {
        None => None,
        Some(root) => Some(storage::TreeRef::from_bytes(root)?.digest().to_string()),
    };
    let stamp = row.pipeline;
    Ok(api::Commit {
        repo,
        project,
        branch: row.branch,
        id: row.id,
        commit_set: row.commit_set,
        state: row.state,
        reason: row.reason,
        parent: row.parent,
        digest,
        size_bytes: u64::try_from(row.size_bytes).unwrap_or(0),
        files: u64::try_from(row.files).unwrap_or(0),
        started_at: row.started_at,
        finished_at: row.finished_at,
        message: row.message,
        actor: row.actor,
        provenance,
        pipeline,
        pipeline_version: stamp.as_ref().and_then(|s| u32::try_from(s.version).ok()),
        image_digest: stamp.as_ref().and_then(|s| s.image_digest.clone()),
        code_revision: stamp.and_then(|s| s.code_revision),
        removed: row.removed,
        sources: row.sources,
        unattested: row.unattested.is_some() && row.attested.is_none(),
        attested: row.attested,
    })
}
