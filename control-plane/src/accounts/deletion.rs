//! The end of an account. Its holder leaves all organizations; those that nobody else belongs to are deleted with it, and of none is
//! the last owner lost. What is left is a tombstone: an id that audit trails and provenance name, without an address.
//!
//! `DELETE /v1/account`.

use std::sync::Arc;

use axum::http::StatusCode;
use contract::api::Organization;
use contract::ids::OrganizationId;
use contract::policy::OrganizationRole;
use contract::problem::ProblemKind;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries;
use crate::app::App;
use crate::authz::{DeleteOrganization, Leave, System};
use crate::call::Call;
use crate::database::Tx;
use crate::mail::{self, Letter};
use crate::refusal::Refusal;
use crate::{authz, deletions, members, organizations, policy, sessions};

/// The routes of this part.
pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(delete))
}

/// How an account goes out of an organization.
enum Left {
    /// The organization goes on, at that epoch.
    Behind(OrganizationId, u64),
    /// It ends with its only member.
    Ended(OrganizationId),
}

/// Deletes the caller's account: sessions, tokens, memberships and organizations of his alone end; the address is free again.
#[utoipa::path(delete, path = "/v1/account", tag = "accounts", responses((status = 204)))]
async fn delete(call: Call) -> Result<StatusCode, Refusal> {
    let proven = call.actor.proven(call.now())?;
    let (app, account, now) = (&call.app, proven.account(), call.now());
    let proof = System::because("a person deletes his own account");
    let mut tx = call.begin().await?;
    let (mut changed, mut ended) = (Vec::new(), Vec::new());
    // In the order of their ids, as everybody locks several.
    for organization in organizations::queries::list_own(&mut tx, &call.actor).await? {
        match leave(&call, &mut tx, &organization).await? {
            Left::Behind(id, epoch) => changed.push((id, epoch)),
            Left::Ended(id) => ended.push(id),
        }
    }
    mail::write(app, &mut tx, &proof, call.actor.name(), &Letter::AccountDeleted).await?;
    sessions::end_all(&mut tx, &proof, account, None, now).await?;
    queries::end_other_log_ins(&mut tx, &proof, account, now).await?;
    queries::bury_account(&mut tx, &proven, now).await?;
    tx.commit().await?;
    tracing::info!(account.id = %account, "an account was deleted by its holder");
    app.policy.announce_all(&changed);
    app.post.wake();
    for id in ended {
        app.planes.forget_route(id);
        app.planes.signal(id);
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn leave(call: &Call, tx: &mut Tx, organization: &Organization) -> Result<Left, Refusal> {
    // The organization's row is locked from here on: who is counted cannot change.
    let allowed = authz::authorize_across::<Leave>(tx, &call.actor, &organization.name).await?;
    let last_owner =
        allowed.role() == OrganizationRole::Owner && members::queries::count_owners(tx, &allowed).await? <= 1;
    if !last_owner {
        let member = members::queries::find_member(tx, &allowed, &call.actor.principal().to_string())
            .await?
            .ok_or_else(Refusal::not_found)?;
        members::queries::delete_member(tx, &allowed, &member, call.now()).await?;
        call.record(
            tx,
            &allowed,
            "member.remove",
            format!("{}, whose account was deleted", member.name),
        )
        .await?;
        let epoch = policy::queries::bump(tx, &allowed).await?;
        return Ok(Left::Behind(allowed.organization(), epoch));
    }
    if members::queries::count_members(tx, &allowed).await? > 1 {
        return Err(Refusal::new(
            ProblemKind::Conflict,
            format!(
                "you are the last owner of `{}`, and it has other members",
                organization.name
            ),
        )
        .hint("make somebody else an owner first, or delete the organization"));
    }
    let allowed = authz::authorize_across::<DeleteOrganization>(tx, &call.actor, &organization.name).await?;
    // Nobody is left who could want it back.
    deletions::queries::begin_deletion(tx, &allowed, call.now(), call.now()).await?;
    call.record(
        tx,
        &allowed,
        "organization.delete",
        format!("{}, with its only member", organization.name),
    )
    .await?;
    Ok(Left::Ended(allowed.organization()))
}
