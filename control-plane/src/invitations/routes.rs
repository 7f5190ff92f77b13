//! `POST,GET …/invitations`, `DELETE …/invitations/{id}`, `POST /v1/invitations/accept`.

use std::sync::Arc;

use axum::http::StatusCode;
use chassis::http::{Json, Path, Query};
use chassis::idempotency::KeyHeader;
use contract::api::{Invitation, Organization, Page};
use contract::ids::InvitationId;
use contract::names::OrganizationName;
use contract::policy::{OrganizationRole, Principal};
use contract::problem::ProblemKind;
use contract::token::{SecretToken, TokenKind};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{LIFETIME, check_accept, queries};
use crate::accounts::{self, EmailAddress};
use crate::app::App;
use crate::audit::{SystemIn, Who};
use crate::authz::{ManageMembers, System};
use crate::call::Call;
use crate::mail::{self, Letter};
use crate::paging::PageQuery;
use crate::policy;
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(revoke))
        .routes(routes!(accept))
}

/// An invitation to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Invite {
    /// The address.
    email: String,
    /// What he is to be.
    #[serde(default = "member")]
    role: OrganizationRole,
}

fn member() -> OrganizationRole {
    OrganizationRole::Member
}

/// Invites somebody by e-mail address, instead of an earlier invitation that was not accepted. The secret is in this answer only.
#[utoipa::path(
    post,
    path = "/v1/organizations/{org}/invitations",
    tag = "invitations",
    params(("org" = OrganizationName, Path), KeyHeader),
    responses((status = 201, body = Invitation)),
)]
async fn create(
    call: Call,
    Path(org): Path<OrganizationName>,
    Json(body): Json<Invite>,
) -> Result<(StatusCode, Json<Invitation>), Refusal> {
    let email: EmailAddress = body.email.parse()?;
    let mut tx = call.begin().await?;
    // An owner may do all that asks for a proof.
    if body.role == OrganizationRole::Owner {
        call.proven(&mut tx).await?;
    }
    let allowed = call.authorize::<ManageMembers>(&mut tx, &org).await?;
    if body.role == OrganizationRole::Owner && allowed.role() != OrganizationRole::Owner {
        return Err(crate::members::ChangeMember::OwnersOnly.into());
    }
    if queries::is_member(&mut tx, &allowed, &email).await? {
        return Err(Refusal::new(
            ProblemKind::AlreadyExists,
            format!("`{}` is a member of `{org}` already", email.as_str()),
        )
        .hint("change the role of a member instead"));
    }
    call.app.limiters.mail(&email.key(), call.peer.address)?;
    let secrets = queries::Secrets {
        shown: SecretToken::generate(TokenKind::Invitation, call.app.environment.random()),
        mailed: SecretToken::generate(TokenKind::Invitation, call.app.environment.random()),
    };
    let mut invitation = Invitation {
        id: call.id(),
        email: email.as_str().to_owned(),
        role: body.role,
        state: "pending".to_owned(),
        expires_at: call.now() + LIFETIME,
        token: None,
    };
    let replaced = queries::revoke_pending_of(&mut tx, &allowed, &email, call.now()).await?;
    queries::insert_invitation(&mut tx, &allowed, &invitation, &email, &secrets, call.now()).await?;
    let instead = if replaced { ", instead of an earlier one" } else { "" };
    let subject = format!("{} as {}{instead}", invitation.email, invitation.role.as_str());
    call.record(&mut tx, &allowed, "invitation.create", subject).await?;
    let letter = Letter::Invitation {
        organization: allowed.organization_name().as_str(),
        by: call.actor.name(),
        role: invitation.role.as_str(),
        secret: secrets.mailed.expose(),
    };
    let proof = System::because("who is invited is told");
    mail::write(&call.app, &mut tx, &proof, email.as_str(), &letter).await?;
    invitation.token = Some(secrets.shown.expose().to_owned());
    let answer = call.commit(tx, StatusCode::CREATED, invitation).await?;
    call.app.post.wake();
    Ok(answer)
}

/// Lists the invitations.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/invitations",
    tag = "invitations",
    params(("org" = OrganizationName, Path), PageQuery),
    responses((status = 200, body = Page<Invitation>)),
)]
async fn list(
    call: Call,
    Path(org): Path<OrganizationName>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Invitation>>, Refusal> {
    let window = page.window(&call, &format!("invitations of {org}"))?;
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ManageMembers>(&mut tx, &org).await?;
    let rows = queries::list_invitations(&mut tx, &allowed, &window, call.now()).await?;
    Ok(Json(window.page(rows, |i| i.id.to_string())))
}

/// Takes an invitation back.
#[utoipa::path(delete, path = "/v1/organizations/{org}/invitations/{id}", tag = "invitations", responses((status = 204)))]
async fn revoke(call: Call, Path((org, id)): Path<(OrganizationName, String)>) -> Result<StatusCode, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ManageMembers>(&mut tx, &org).await?;
    let id: InvitationId = id.parse().map_err(|_| Refusal::not_found())?;
    let email = queries::revoke_invitation(&mut tx, &allowed, id, call.now())
        .await?
        .ok_or_else(Refusal::not_found)?;
    call.record(&mut tx, &allowed, "invitation.revoke", email).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An invitation to be accepted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Accept {
    /// The secret, `hwd_inv_…`.
    token: String,
}

/// Accepts an invitation by its secret.
#[utoipa::path(post, path = "/v1/invitations/accept", tag = "invitations", params(KeyHeader), responses((status = 200, body = Organization)))]
async fn accept(call: Call, Json(body): Json<Accept>) -> Result<(StatusCode, Json<Organization>), Refusal> {
    call.actor.unlimited()?;
    let (Principal::Account(account), None) = (call.actor.principal(), call.actor.organization()) else {
        return Err(Refusal::not_allowed(
            "only people accept invitations; this token stands for a service account or is bound to one organization",
            "log in with `howdah login`",
        ));
    };
    let secret: SecretToken = body
        .token
        .trim()
        .parse()
        .map_err(|e: contract::token::ParseTokenError| Refusal::invalid("/token", e.to_string()))?;
    let now = call.now();
    let mut tx = call.begin().await?;
    call.unanswered(&mut tx).await?;
    let held = queries::lock_by_secret(&mut tx, &call.actor, &secret, now)
        .await?
        .ok_or_else(Refusal::not_found)?;
    let own_key = accounts::queries::find_own_email_key(&mut tx, &call.actor)
        .await?
        .unwrap_or_default();
    check_accept(held.state, &held.email_key, &own_key, held.organization_name.as_str())?;
    // The secret that whoever invites was shown says nothing of who reads the address's mail.
    if call.app.verification_required
        && !held.by_mail
        && !accounts::queries::is_own_verified(&mut tx, &call.actor)
            .await?
            .unwrap_or(false)
    {
        return Err(Refusal::not_allowed(
            "the invitation is for an address that you have not shown to be yours",
            "accept with the token of the mail, or verify the address with `howdah account verify`",
        ));
    }
    queries::accept(&mut tx, &call.actor, account, &held, now).await?;
    let proof = System::because("the secret of an invitation gives the right to join");
    if held.by_mail && accounts::queries::mark_verified(&mut tx, &proof, account, now).await? {
        call.happened(&mut tx, "email.verify", "by an invitation that was mailed".to_owned())
            .await?;
    }
    let acting = SystemIn {
        system: &proof,
        organization: held.organization,
        who: Who {
            id: account.to_string(),
            name: call.actor.name().to_owned(),
            token: call.actor.token().to_string(),
        },
    };
    call.record(&mut tx, &acting, "invitation.accept", held.role.as_str().to_owned())
        .await?;
    let joined = Organization {
        id: held.organization,
        name: held.organization_name,
        role: held.role,
        created_at: held.organization_created_at,
    };
    policy::commit_answer(&call, tx, &acting, StatusCode::OK, joined).await
}
