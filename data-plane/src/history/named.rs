//! Which commits a request names, and what goes along with them, as far as the caller may know of it.

use std::collections::{BTreeMap, BTreeSet};

use contract::ids::{CommitId, CommitSetId, DomainId};
use contract::policy::Permission;
use contract::problem::ProblemKind;
use contract::reference::{Base, CommitRef};
use sqlx::PgConnection;

use super::queries;
use crate::call::Call;
use crate::commits::{self, CommitRow};
use crate::failure::{Answer, Failure};
use crate::permissions::{System, Visible};
use crate::plane::Tx;
use crate::repos;

const DECIDE: System = System::because("rows are read in order to decide whether the caller may remove them");

/// The commits that a request names: one, or all of a commit set. A branch stands for its head, whatever its state.
///
/// # Errors
/// 404 for what does not exist or may not be known.
pub async fn named(call: &Call, conn: &mut PgConnection, text: &str) -> Answer<Vec<CommitRow>> {
    if text.len() == 32
        && let Ok(id) = text.parse::<CommitId>()
    {
        let mut rows = commits::queries::list_set(conn, &DECIDE, CommitSetId::from_uuid(id.uuid())).await?;
        if rows.is_empty() {
            rows.extend(commits::queries::find_commit(conn, &DECIDE, id).await?);
        }
        let mut known = false;
        for row in &rows {
            known |= call.rights().can(Permission::Discover, row.repo);
        }
        return if known { Ok(rows) } else { Err(Failure::not_found()) };
    }
    let reference: CommitRef = text.parse()?;
    if let (Base::Branch(branch), None) = (&reference.base, &reference.step) {
        let repo = call.repo(conn, &reference.repo).await?;
        let head = commits::queries::find_head(conn, &DECIDE, repo.id, branch).await?;
        if let Some(head) = head.flatten() {
            return Ok(vec![head]);
        }
    }
    Ok(vec![call.locate(conn, &reference).await?.commit])
}

/// Ends a request that was answered before, as long as the caller may write to what it names. That may be gone since.
///
/// # Errors
/// As [`named`] and [`affected`]; the answer, if there is one.
pub async fn unanswered(call: &Call, tx: &mut Tx, text: &str) -> Answer<()> {
    if call.keyed.is_none() {
        return Ok(());
    }
    if is_id(text) {
        let rows = named(call, tx, text).await?;
        affected(call, tx, rows.iter().map(|row| row.repo).collect()).await?;
    } else {
        let reference: CommitRef = text.parse()?;
        let repo = call.repo(tx, &reference.repo).await?;
        call.allowed(&repo, Permission::Write)?;
    }
    call.unanswered(tx).await
}

fn is_id(text: &str) -> bool {
    text.len() == 32 && text.parse::<CommitId>().is_ok()
}

/// Repos that something goes in.
#[derive(Default)]
pub struct Affected {
    /// Those that the caller may write to.
    pub repos: BTreeMap<DomainId, Visible>,
    /// There are others, which he may not know of.
    pub restricted: bool,
}

/// Repos that something goes in, all of which the caller must be allowed to write to. One that is deleted is not asked for:
/// nobody can read it any more.
///
/// # Errors
/// `not-allowed` naming a repo that he may know of and not write to.
pub async fn affected(call: &Call, conn: &mut PgConnection, repos: BTreeSet<DomainId>) -> Answer<Affected> {
    let domains: Vec<DomainId> = repos.into_iter().collect();
    let mut affected = Affected::default();
    for id in queries::list_live_repos(conn, &DECIDE, &domains).await? {
        let row = repos::queries::find_repo_by_id(conn, &DECIDE, id).await?;
        let Some(repo) = row.and_then(|row| call.rights().visible(row)) else {
            affected.restricted = true;
            continue;
        };
        call.allowed(&repo, Permission::Write)?;
        affected.repos.insert(id, repo);
    }
    Ok(affected)
}

/// The answer where something goes that the caller may not know of.
pub fn restricted(what: &str) -> Failure {
    Failure::new(
        ProblemKind::NotAllowed,
        format!("{what} would remove something that you may not know of; nothing was changed"),
    )
    .hint("ask an owner of the organization who may write to everything that was made from it")
}
