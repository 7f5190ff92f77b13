//! `POST,GET …/releases`, `POST …/releases/{id}/approvals`, `DELETE …/releases/{id}?wait=true`.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::StatusCode;
use chassis::http::{Json, Path, Query};
use chassis::idempotency::KeyHeader;
use contract::api::{NewRelease, Page, PolicyChanged, ReleaseView};
use contract::ids::{DomainId, ReleaseId};
use contract::names::{OrganizationName, ProjectName, RepoName};
use contract::policy::Permission;
use contract::problem::ProblemKind;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries::{self, StoredRelease};
use super::{check, parse_repo};
use crate::app::App;
use crate::authz::{Action, Allowed, ChangePolicy, ViewWholePolicy};
use crate::call::Call;
use crate::database::Tx;
use crate::notices::occasions::{self, ReleaseNews};
use crate::paging::PageQuery;
use crate::policy::{self, subjects, subjects::Target};
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(revoke))
        .routes(routes!(approve))
}

async fn find_domain<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    (project, name): (ProjectName, RepoName),
) -> Result<Target, Refusal> {
    let target = subjects::find_target(tx, allowed, &format!("{project}/{name}")).await?;
    subjects::require(tx, allowed, &target, Permission::Discover, true).await?;
    Ok(target)
}

fn domain_id(target: &Target) -> Result<DomainId, Refusal> {
    match target {
        Target::Domain { id, .. } => Ok(*id),
        Target::Organization | Target::Project(_) => Err(Refusal::not_found()),
    }
}

/// Whether the caller, with his token, may declassify the domain.
async fn may_declassify<A: Action>(tx: &mut Tx, allowed: &Allowed<A>, target: &Target) -> Result<bool, Refusal> {
    let own = subjects::own_permissions(tx, allowed, target).await?;
    let covered = allowed.actor().covers(Permission::Declassify.as_str(), &target.scope());
    Ok(covered && own.contains(&Permission::Declassify))
}

/// Refuses tokens whose scopes do not allow to release anything at all.
fn releases_something(call: &Call) -> Result<(), Refusal> {
    let verb = Permission::Declassify.as_str();
    if call.actor.covers(verb, "*") || call.actor.scopes().iter().any(|s| s.verb == verb || s.verb == "*") {
        return Ok(());
    }
    Err(Refusal::not_allowed(
        "the token's scopes do not allow to release anything",
        "use a token with the scope `declassify:*`",
    ))
}

/// Proposes a release (R9); it is approved for what the caller may declassify.
#[utoipa::path(
    post,
    path = "/v1/organizations/{org}/releases",
    tag = "releases",
    params(("org" = OrganizationName, Path), KeyHeader),
    responses((status = 201, body = ReleaseView)),
)]
async fn create(
    call: Call,
    Path(org): Path<OrganizationName>,
    Json(body): Json<NewRelease>,
) -> Result<(StatusCode, Json<ReleaseView>), Refusal> {
    let expires_at = check(&body, call.now())?;
    let pipeline = parse_repo("/pipeline", &body.pipeline)?;
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ChangePolicy>(&mut tx, &org).await?;
    releases_something(&call)?;
    let pipeline = find_domain(&mut tx, &allowed, pipeline).await?;
    let mut domains = BTreeSet::new();
    let mut approved = Vec::new();
    for (at, text) in body.domains.iter().enumerate() {
        let repo = parse_repo(&format!("/domains/{at}"), text)?;
        let target = find_domain(&mut tx, &allowed, repo).await?;
        let id = domain_id(&target)?;
        if domains.insert(id) && may_declassify(&mut tx, &allowed, &target).await? {
            approved.push(id);
        }
    }
    let domains: Vec<DomainId> = domains.into_iter().collect();
    let epoch = policy::queries::get_epoch(&mut tx, &allowed).await? + 1;
    let new = queries::NewRow {
        id: call.id(),
        pipeline: domain_id(&pipeline)?,
        spec_digest: &body.spec_digest.to_lowercase(),
        purpose: body.purpose.trim(),
        retroactive: body.retroactive,
        expires_at,
        domains: &domains,
        epoch,
        now: call.now(),
    };
    queries::insert_release(&mut tx, &allowed, &new).await?;
    for domain in approved {
        queries::approve(&mut tx, &allowed, new.id, domain, call.now()).await?;
    }
    queries::activate_if_complete(&mut tx, &allowed, new.id, epoch, call.now()).await?;
    let release = find(&call, &mut tx, &allowed, new.id).await?;
    record(&call, &mut tx, &allowed, "release.create", &release).await?;
    policy::commit_answer(&call, tx, &allowed, StatusCode::CREATED, release.view).await
}

async fn find<A: Action>(
    call: &Call,
    tx: &mut Tx,
    allowed: &Allowed<A>,
    id: ReleaseId,
) -> Result<StoredRelease, Refusal> {
    queries::find_release(tx, allowed, id, call.now())
        .await?
        .ok_or_else(Refusal::not_found)
}

/// Writes the audit row of a change, and the notices to whom it concerns.
async fn record(
    call: &Call,
    tx: &mut Tx,
    allowed: &Allowed<ChangePolicy>,
    action: &'static str,
    release: &StoredRelease,
) -> Result<(), Refusal> {
    let view = &release.view;
    let subject = format!(
        "{}: {} into {} ({})",
        view.id,
        view.domains.join(", "),
        view.pipeline,
        view.state
    );
    call.record(tx, allowed, action, subject).await?;
    let news = ReleaseNews {
        kind: action,
        id: view.id.to_string(),
        state: if action == "release.revoke" {
            "revoked"
        } else {
            &view.state
        },
        proposed_by: release.created_by.parse().ok(),
        domains: release
            .parts
            .iter()
            .map(|part| (part.domain, format!("{}/{}", part.project, part.name)))
            .collect(),
        pipeline: (release.pipeline, &view.pipeline),
    };
    Ok(occasions::release_changed(call, tx, allowed, &news).await?)
}

/// A release that the caller may know of.
async fn find_visible(
    call: &Call,
    tx: &mut Tx,
    allowed: &Allowed<ChangePolicy>,
    id: ReleaseId,
) -> Result<StoredRelease, Refusal> {
    let release = find(call, tx, allowed, id).await?;
    let own = release.created_by == call.actor.principal().to_string();
    if own || allowed.role().manages() {
        return Ok(release);
    }
    let discoverable: BTreeSet<String> = queries::list_discoverable(tx, allowed).await?.into_iter().collect();
    let all = std::iter::once(release.pipeline).chain(release.parts.iter().map(|p| p.domain));
    if all.into_iter().all(|id| discoverable.contains(&id.to_string())) {
        return Ok(release);
    }
    Err(Refusal::not_found())
}

fn target(part: &queries::Part) -> Result<Target, Refusal> {
    Ok(Target::Domain {
        id: part.domain,
        project: part.project.parse().map_err(|_| Refusal::not_found())?,
        name: part.name.parse().map_err(|_| Refusal::not_found())?,
    })
}

/// Lists the releases that the caller may know of.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/releases",
    tag = "releases",
    params(("org" = OrganizationName, Path), PageQuery),
    responses((status = 200, body = Page<ReleaseView>)),
)]
async fn list(
    call: Call,
    Path(org): Path<OrganizationName>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<ReleaseView>>, Refusal> {
    let window = page.window(&call, &format!("releases of {org}"))?;
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewWholePolicy>(&mut tx, &org).await?;
    let discoverable = queries::list_discoverable(&mut tx, &allowed).await?;
    let rows = queries::list_releases(&mut tx, &allowed, &discoverable, &window, call.now()).await?;
    let rows: Vec<ReleaseView> = rows.into_iter().map(|r| r.view).collect();
    Ok(Json(window.page(rows, |r| r.id.to_string())))
}

/// Approves a release for what the caller may declassify.
#[utoipa::path(
    post,
    path = "/v1/organizations/{org}/releases/{id}/approvals",
    tag = "releases",
    params(KeyHeader),
    responses((status = 200, body = ReleaseView)),
)]
async fn approve(
    call: Call,
    Path((org, id)): Path<(OrganizationName, ReleaseId)>,
) -> Result<(StatusCode, Json<ReleaseView>), Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ChangePolicy>(&mut tx, &org).await?;
    let release = find_visible(&call, &mut tx, &allowed, id).await?;
    releases_something(&call)?;
    match release.view.state.as_str() {
        "proposed" => {}
        "active" => return Ok((StatusCode::OK, Json(release.view))),
        over => {
            return Err(Refusal::new(
                ProblemKind::Conflict,
                format!("the release is {over}, it can be approved no more"),
            )
            .hint("propose a new one with `howdah release create`"));
        }
    }
    // Fewer approvals may be demanded now than when the last one was given, or a right may be back: nothing is missing
    // then but somebody who may say so.
    let mut approved = 0;
    if release.parts.iter().all(|part| part.complete) {
        for part in &release.parts {
            approved += u32::from(may_declassify(&mut tx, &allowed, &target(part)?).await?);
        }
    }
    for part in release.parts.iter().filter(|p| !p.complete && !p.by_caller) {
        if may_declassify(&mut tx, &allowed, &target(part)?).await? {
            queries::approve(&mut tx, &allowed, release.id, part.domain, call.now()).await?;
            approved += 1;
        }
    }
    if approved == 0 && release.parts.iter().any(|p| !p.complete && p.by_caller) {
        return Err(Refusal::new(
            ProblemKind::Conflict,
            format!(
                "you have approved it; it waits for a second approver of {}",
                release.view.awaiting.join(", ")
            ),
        )
        .hint("ask another owner of those repos to approve"));
    }
    if approved == 0 {
        return Err(Refusal::not_allowed(
            &format!(
                "you do not hold `declassify` on what awaits approval: {}",
                release.view.awaiting.join(", ")
            ),
            "ask an owner of those repos to approve",
        ));
    }
    let epoch = policy::queries::get_epoch(&mut tx, &allowed).await? + 1;
    queries::activate_if_complete(&mut tx, &allowed, release.id, epoch, call.now()).await?;
    let release = find(&call, &mut tx, &allowed, release.id).await?;
    record(&call, &mut tx, &allowed, "release.approve", &release).await?;
    policy::commit_answer(&call, tx, &allowed, StatusCode::OK, release.view).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wait {
    /// Answers when the data plane enforces it.
    #[serde(default)]
    wait: bool,
}

/// Revokes a release.
#[utoipa::path(
    delete,
    path = "/v1/organizations/{org}/releases/{id}",
    tag = "releases",
    params(Wait),
    responses((status = 200, body = PolicyChanged)),
)]
async fn revoke(
    call: Call,
    Path((org, id)): Path<(OrganizationName, ReleaseId)>,
    Query(query): Query<Wait>,
) -> Result<Json<PolicyChanged>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ChangePolicy>(&mut tx, &org).await?;
    let release = find_visible(&call, &mut tx, &allowed, id).await?;
    let mut may = allowed.role().manages() || release.created_by == call.actor.principal().to_string();
    for part in &release.parts {
        may = may || may_declassify(&mut tx, &allowed, &target(part)?).await?;
    }
    if !may
        || !call.actor.scopes().is_empty()
            && !call
                .actor
                .covers("declassify", &format!("project:{}", release.pipeline_project))
    {
        return Err(Refusal::not_allowed(
            "only who proposed a release, who may declassify one of its domains, or an admin revokes it",
            "ask one of its approvers",
        ));
    }
    let epoch = policy::queries::get_epoch(&mut tx, &allowed).await? + 1;
    if !queries::revoke(&mut tx, &allowed, release.id, epoch, call.now()).await? {
        // Revoked before: nothing changes, and the answer is the same.
        return Ok(Json(PolicyChanged {
            epoch: epoch - 1,
            acknowledged: None,
        }));
    }
    record(&call, &mut tx, &allowed, "release.revoke", &release).await?;
    let epoch = policy::commit(&call.app, tx, &allowed).await?;
    let acknowledged = if query.wait {
        policy::wait_for_acknowledgement(&call.app, &allowed, epoch).await?
    } else {
        None
    };
    Ok(Json(PolicyChanged { epoch, acknowledged }))
}
