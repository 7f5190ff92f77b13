//! Receipts of purges, as owners of the repo see them, and whether the bytes are gone: the packs that held them are looked
//! for in the bucket, and once the last one is gone that is noted for good.

use std::collections::HashMap;
use std::sync::Arc;

use contract::api::{Purge, PurgeState, PurgedCopy, VoidedInRepo};
use contract::ids::{CommitId, DomainId, PurgeId};
use contract::names::{ProjectName, RepoName};
use contract::policy::Permission;
use provenance::origins::OriginSet;
use sqlx::PgConnection;
use storage::Digest;
use uuid::Uuid;

use super::PURGE;
use super::queries::{self, ReceiptRow};
use crate::call::Call;
use crate::commits::origins;
use crate::failure::{Answer, Failure};
use crate::permissions::Visible;
use crate::repos;
use crate::scheduler::derived;

/// The receipt of that id.
///
/// # Errors
/// 404 for who does not own the repo, as for what does not exist.
pub async fn one(call: &Call, conn: &mut PgConnection, id: PurgeId) -> Answer<Purge> {
    let row = queries::find_receipt(conn, &PURGE, id).await?;
    let row = row.ok_or_else(Failure::not_found)?;
    if !may_see(call, conn, DomainId::from_uuid(row.repo_id)).await? {
        return Err(Failure::not_found());
    }
    shown(call, conn, row).await
}

/// Whether receipts of this repo are for the caller.
///
/// # Errors
/// When the database is away or an origin set is damaged.
pub async fn may_see(call: &Call, conn: &mut PgConnection, repo: DomainId) -> Answer<bool> {
    if !call.rights().can(Permission::Admin, repo) || !call.rights().can(Permission::Read, repo) {
        return Ok(false);
    }
    let sets = origin_sets(call, conn, repo).await?;
    Ok(sets.iter().all(|set| call.readable(set, "").is_ok()))
}

/// Demands that the caller may read every commit of the repo, with what was copied into it: a purge tells whether there is
/// a file of some name (R1).
///
/// # Errors
/// `not-allowed` when there is one that he may not read; when the database is away or an origin set is damaged.
pub async fn demand(call: &Call, conn: &mut PgConnection, repo: &Visible) -> Answer<()> {
    for set in origin_sets(call, conn, repo.id).await? {
        call.readable(&set, &repo.to_string())?;
    }
    Ok(())
}

async fn origin_sets(call: &Call, conn: &mut PgConnection, repo: DomainId) -> Answer<Vec<Arc<OriginSet>>> {
    let mut sets = Vec::new();
    for id in queries::list_sets(conn, &PURGE, repo).await? {
        sets.push(origins::get(&call.plane, conn, &PURGE, id).await?);
    }
    Ok(sets)
}

/// A receipt as the caller sees it.
///
/// # Errors
/// When the database or the bucket is away.
pub async fn shown(call: &Call, conn: &mut PgConnection, mut row: ReceiptRow) -> Answer<Purge> {
    if row.erased_at.is_none() && is_erased(call, conn, &row).await? {
        let now = call.plane.now();
        queries::update_erased(conn, &PURGE, row.id, now).await?;
        row.erased_at = Some(now);
    }
    let known = |id: &Uuid| call.rights().can(Permission::Discover, DomainId::from_uuid(*id));
    let of: Vec<DomainId> = row
        .voided_repos
        .iter()
        .chain(&row.copy_repos)
        .chain([&row.repo_id])
        .map(|id| DomainId::from_uuid(*id))
        .collect();
    let names = repos::queries::names_of(conn, &PURGE, &of).await?;
    let name = |id: &Uuid| named(&names, *id).filter(|_| known(id));
    let voided = row
        .voided_repos
        .iter()
        .zip(&row.voided_counts)
        .filter_map(|(id, count)| {
            let (project, repo) = name(id)?;
            Some(VoidedInRepo {
                project,
                repo,
                count: number(*count),
            })
        });
    let copies = row.copy_repos.iter().zip(&row.copies).filter_map(|(id, commit)| {
        let (project, repo) = name(id)?;
        Some(PurgedCopy {
            project,
            repo,
            commit: CommitId::from_uuid(*commit),
        })
    });
    let (project, repo) = named(&names, row.repo_id).ok_or_else(Failure::not_found)?;
    Ok(Purge {
        id: PurgeId::from_uuid(row.id),
        dry_run: false,
        project,
        repo,
        voided: voided.collect(),
        copies: copies.collect(),
        restricted: row.voided_repos.iter().chain(&row.copy_repos).any(|id| !known(id)),
        path: row.path,
        by: row.actor.0,
        at: row.at,
        rewritten: number(row.rewritten),
        open_commits: number(row.open_commits),
        jobs: number(row.jobs),
        results: number(row.results),
        log_lines: number(row.log_lines),
        packs: row.packs.iter().map(hex::encode).collect(),
        state: match row.erased_at {
            Some(_) => PurgeState::Erased,
            None => PurgeState::Pending,
        },
        erased_at: row.erased_at,
    })
}

fn named(names: &HashMap<DomainId, (ProjectName, RepoName)>, id: Uuid) -> Option<(ProjectName, RepoName)> {
    names.get(&DomainId::from_uuid(id)).cloned()
}

fn number(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

async fn is_erased(call: &Call, conn: &mut PgConnection, row: &ReceiptRow) -> Answer<bool> {
    if !derived::is_clear(conn, &PURGE).await? {
        return Ok(false);
    }
    for pack in &row.packs {
        let Ok(id) = pack.as_slice().try_into() else { continue };
        if call.plane.storage.has_pack(Digest::from_bytes(id)).await? {
            return Ok(false);
        }
    }
    Ok(true)
}
