//! `POST /v1/commits/attest`: somebody who holds `declassify` on what a spout received answers for a commit (R2). With it go
//! the commits before it, whose files it holds, up to one that was attested. The origin leaves these and everything made from them in one transaction, by
//! the way of retroactive releases; what the spout receives afterwards has it again.

use std::collections::BTreeSet;

use axum::extract::State;
use chassis::http::Json;
use contract::api::{Attest, Attestation, Commit, CommitState};
use contract::ids::DomainId;
use contract::policy::Permission;
use contract::problem::ProblemKind;
use contract::reference::{Base, CommitRef};
use provenance::access::shown_name;
use uuid::Uuid;

use super::queries;
use crate::call::Call;
use crate::commits::lock::lock_dag;
use crate::commits::{self, CommitRow, views};
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::pipelines::propagate::unknown_policy;
use crate::plane::Plane;
use crate::scheduler::releases;

const ALLOWED: System = System::because("the caller reads the commit and holds declassify on what it received");
/// Bytes of a reason.
const MESSAGE_BYTES_MAX: usize = 10_000;

/// Answers for what a spout received.
///
/// Attests a commit. Sent again it changes nothing: what was attested stays as it is.
///
/// # Errors
/// As a read of the commit; `invalid` for a branch, which may move; `not-allowed` without `declassify` on all that it would
/// attest; `conflict` for what no spout made or is not finished.
#[utoipa::path(post, path = "/v1/commits/attest", tag = "commits", responses((status = 200, body = Commit)))]
pub async fn attest(State(plane): State<Plane>, call: Call, Json(body): Json<Attest>) -> Answer<Json<Commit>> {
    let reference: CommitRef = body.reference.parse()?;
    if body.message.len() > MESSAGE_BYTES_MAX || body.message.contains('\0') {
        let detail = format!("the message must be text of {MESSAGE_BYTES_MAX} bytes at most");
        return Err(Failure::invalid(detail));
    }
    let mut conn = plane.pool.acquire().await?;
    let readable = call.locate_readable(&mut conn, &reference).await?;
    let is_carrier = queries::is_carrier(&mut conn, &ALLOWED, readable.commit.id).await?;
    drop(conn);
    let commit = &readable.commit;
    let unattested = attestable(&reference, commit, is_carrier)?;
    let policy = plane.policy.last_known().ok_or_else(unknown_policy)?;
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    let line = queries::list_line(&mut tx, &ALLOWED, commit.id).await?;
    // Of a pipeline that was deleted and made again, what was received before has another owner.
    let domains: BTreeSet<DomainId> = line.iter().map(|(_, domain)| *domain).chain([unattested]).collect();
    for domain in domains {
        if !call.may_still(Permission::Declassify, domain)? {
            let name = shown_name(&policy, &call.rights().subject, domain);
            let detail = format!("attesting what a spout received needs `declassify` on {name}");
            return Err(Failure::new(ProblemKind::NotAllowed, detail).hint("ask an owner of it to attest the commit"));
        }
    }
    let attestation = Attestation {
        by: call.actor(),
        at: plane.now(),
        message: body.message,
    };
    if !line.is_empty() {
        let attested: Vec<Uuid> = line.iter().map(|(id, _)| id.uuid()).collect();
        queries::update_attested(&mut tx, &ALLOWED, &attested, &attestation).await?;
        releases::recompute(&plane, &mut tx, &policy, &attested).await?;
    }
    let row = commits::queries::find_commit(&mut tx, &ALLOWED, commit.id)
        .await?
        .ok_or_else(Failure::not_found)?;
    let shown = views::show(&mut tx, &call, &readable.proof, row).await?;
    if !line.is_empty() {
        let subject = format!("{}/{}@{}", shown.project, shown.repo, commit.id);
        call.record(&mut tx, "commit.attest", &subject).await?;
    }
    tx.commit().await?;
    plane.signals.commits_changed();
    Ok(Json(shown))
}

/// The domain of what a commit received, if it can be attested.
fn attestable(reference: &CommitRef, commit: &CommitRow, is_carrier: bool) -> Answer<DomainId> {
    let conflict = |detail| Failure::new(ProblemKind::Conflict, detail);
    let Some(unattested) = commit.unattested else {
        let detail = format!("no spout made commit `{}`, so there is nothing to attest", commit.id);
        return Err(
            conflict(detail).hint("attest the spout's commit that it was made from: `howdah provenance` names it")
        );
    };
    if is_carrier {
        let detail = format!(
            "commit `{}` stands for what the spout prints, which nobody can attest before it is printed",
            commit.id
        );
        return Err(conflict(detail).hint("attest a commit of the spout's branch: `howdah log` names them"));
    }
    if commit.state != CommitState::Finished {
        let detail = format!("commit `{}` holds nothing that could be attested", commit.id);
        return Err(conflict(detail));
    }
    if let Base::Branch(branch) = &reference.base {
        let detail = format!("branch `{branch}` moves with what the spout receives: attest a commit by its id");
        return Err(Failure::invalid(detail).hint(format!(
            "look at what it holds, then attest `{}@{}`",
            reference.repo, commit.id
        )));
    }
    Ok(unattested)
}
