//! What is told on which occasion, in which words, and to whom.

use contract::api::MemberView;
use contract::ids::DomainId;
use contract::policy::{OrganizationRole, Permission, Principal};

use super::{News, Readers, queries, tell};
use crate::authz::{Action, Allowed};
use crate::call::Call;
use crate::database::Tx;
use crate::grants::{SELF_GRANT, StoredGrant};

/// A domain's id where the stored form of a resource is one.
fn domain_of(resource: &str) -> Vec<String> {
    resource
        .parse::<DomainId>()
        .map_or_else(|_| Vec::new(), |id| vec![id.to_string()])
}

/// A grant was given: its subject hears of it. One that somebody gave himself by managing the organization is told to the
/// owners of what it is on (R14).
pub(crate) async fn grant_given<A: Action>(
    call: &Call,
    tx: &mut Tx,
    allowed: &Allowed<A>,
    grant: &StoredGrant,
    by_own_hand: bool,
) -> Result<(), sqlx::Error> {
    let (by, view) = (call.actor.name(), &grant.view);
    let given = News {
        kind: "grant.create",
        text: format!("{by} gave `{}` to {} on `{}`", view.role, view.subject, view.resource),
        about: domain_of(&grant.resource),
        without_names: None,
    };
    tell(call, tx, allowed, &Readers::Grantee(grant.grantee.clone()), &given).await?;
    if !by_own_hand {
        return Ok(());
    }
    let taken = News {
        kind: SELF_GRANT,
        text: format!(
            "{by}, who manages the organization, gave `{}` on `{}` to himself ({})",
            view.role, view.resource, view.subject
        ),
        about: domain_of(&grant.resource),
        without_names: None,
    };
    let owners = Readers::Holders(Permission::Admin, vec![grant.resource.clone()]);
    tell(call, tx, allowed, &owners, &taken).await
}

/// A grant was taken back: its subject hears of it, without the name of what he may not know of any more.
pub(crate) async fn grant_taken<A: Action>(
    call: &Call,
    tx: &mut Tx,
    allowed: &Allowed<A>,
    grant: &StoredGrant,
) -> Result<(), sqlx::Error> {
    let (by, view, about) = (call.actor.name(), &grant.view, domain_of(&grant.resource));
    let unnamed = format!("{by} took back a grant of {}: `{}`", view.subject, view.role);
    let text = if about.is_empty() {
        unnamed.clone()
    } else {
        format!(
            "{by} took back `{}` from {} on `{}`",
            view.role, view.subject, view.resource
        )
    };
    let news = News {
        kind: "grant.delete",
        text,
        about,
        without_names: Some(unnamed),
    };
    tell(call, tx, allowed, &Readers::Grantee(grant.grantee.clone()), &news).await
}

/// Somebody came into a team or out of it.
pub(crate) async fn team_changed<A: Action>(
    call: &Call,
    tx: &mut Tx,
    allowed: &Allowed<A>,
    principal: Principal,
    (kind, words): (&'static str, String),
) -> Result<(), sqlx::Error> {
    let news = News {
        kind,
        text: format!("{} {words}", call.actor.name()),
        about: Vec::new(),
        without_names: None,
    };
    tell(call, tx, allowed, &Readers::Principal(principal), &news).await
}

/// Somebody who manages the organization took for himself what a team holds: the owners of that hear of it (R14).
pub(crate) async fn team_joined_by_own_hand<A: Action>(
    call: &Call,
    tx: &mut Tx,
    allowed: &Allowed<A>,
    team: &str,
    held: Vec<String>,
) -> Result<(), sqlx::Error> {
    let news = News {
        kind: SELF_GRANT,
        text: format!(
            "{}, who manages the organization, added himself to the team `{team}`, which holds grants on what you own",
            call.actor.name()
        ),
        about: Vec::new(),
        without_names: None,
    };
    tell(call, tx, allowed, &Readers::Holders(Permission::Admin, held), &news).await
}

/// A member has another role now.
pub(crate) async fn role_changed<A: Action>(
    call: &Call,
    tx: &mut Tx,
    allowed: &Allowed<A>,
    member: &MemberView,
    role: OrganizationRole,
) -> Result<(), sqlx::Error> {
    let news = News {
        kind: "member.role",
        text: format!("{} made you `{}`", call.actor.name(), role.as_str()),
        about: Vec::new(),
        without_names: None,
    };
    tell(call, tx, allowed, &Readers::Principal(member.id), &news).await
}

/// A member was removed: he hears of it, and of nothing else there any more.
pub(crate) async fn removed<A: Action>(
    call: &Call,
    tx: &mut Tx,
    allowed: &Allowed<A>,
    member: &MemberView,
) -> Result<(), sqlx::Error> {
    let news = News {
        kind: "member.remove",
        text: format!("{} removed you from the organization", call.actor.name()),
        about: Vec::new(),
        without_names: None,
    };
    tell(call, tx, allowed, &Readers::Principal(member.id), &news).await
}

/// What happened to a release.
pub(crate) struct ReleaseNews<'a> {
    /// `release.create`, `release.approve` or `release.revoke`.
    pub kind: &'static str,
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub state: &'a str,
    /// Who proposed it.
    pub proposed_by: Option<Principal>,
    /// The domains that it excuses, with their names.
    pub domains: Vec<(DomainId, String)>,
    /// The pipeline that it is for.
    pub pipeline: (DomainId, &'a str),
}

/// A release was proposed, approved or revoked: those who may declassify one of its domains hear of that one, and who proposed
/// it of all.
pub(crate) async fn release_changed<A: Action>(
    call: &Call,
    tx: &mut Tx,
    allowed: &Allowed<A>,
    release: &ReleaseNews<'_>,
) -> Result<(), sqlx::Error> {
    let done = match release.kind {
        "release.approve" => "approved",
        "release.revoke" => "revoked",
        _ => "proposed",
    };
    let (by, id, state) = (call.actor.name(), &release.id, release.state);
    for (domain, name) in &release.domains {
        let news = News {
            kind: release.kind,
            text: format!("{by} {done} the release {id} of `{name}`, which is {state}; see `howdah release list`"),
            about: vec![domain.to_string()],
            without_names: None,
        };
        let holders = Readers::Holders(Permission::Declassify, vec![domain.to_string()]);
        tell(call, tx, allowed, &holders, &news).await?;
    }
    let Some(proposer) = release.proposed_by else {
        return Ok(());
    };
    let names: Vec<&str> = release.domains.iter().map(|(_, name)| name.as_str()).collect();
    let about = release.domains.iter().map(|(id, _)| id.to_string());
    let news = News {
        kind: release.kind,
        text: format!(
            "{by} {done} your release {id} of `{}` into `{}`, which is {state}",
            names.join("`, `"),
            release.pipeline.1
        ),
        about: about.chain([release.pipeline.0.to_string()]).collect(),
        without_names: Some(format!("{by} {done} your release {id}, which is {state}")),
    };
    tell(call, tx, allowed, &Readers::Principal(proposer), &news).await
}

/// Somebody asks for access: those who can grant it hear of it, each by the name of what he owns. Where he was not told what he
/// is missing, those who manage the organization do.
pub(crate) async fn access_requested<A: Action>(
    call: &Call,
    tx: &mut Tx,
    allowed: &Allowed<A>,
    missing: &[String],
) -> Result<(), sqlx::Error> {
    let by = call.actor.name();
    let named = queries::list_domains_named(tx, allowed, missing).await?;
    for (domain, name) in &named {
        let news = News {
            kind: "access_request.create",
            text: format!("{by} asks for access to `{name}`: `howdah grant add user:{by} viewer {name}` gives it"),
            about: vec![domain.clone()],
            without_names: None,
        };
        let owners = Readers::Holders(Permission::Admin, vec![domain.clone()]);
        tell(call, tx, allowed, &owners, &news).await?;
    }
    if named.len() == missing.len() && !missing.is_empty() {
        return Ok(());
    }
    let news = News {
        kind: "access_request.create",
        text: format!("{by} asks for access to something whose parts he may not know of; see the requests for access"),
        about: Vec::new(),
        without_names: None,
    };
    tell(call, tx, allowed, &Readers::Managers, &news).await
}
