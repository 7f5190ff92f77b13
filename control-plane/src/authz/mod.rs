//! Who calls and what he may do. `authenticate` turns a secret into an `Actor`; `authorize` turns an actor, an
//! organization's name and an action into `Allowed<A>`, the proof that every query function asks for. Nothing else can
//! make one, so a route that forgets to ask does not compile.

mod queries;

use std::marker::PhantomData;

use chrono::{DateTime, Utc};
use contract::ci::CiIdentity;
use contract::claims::Scope;
use contract::ids::{AccountId, OrganizationId, TokenId};
use contract::names::OrganizationName;
use contract::policy::{OrganizationRole, OrganizationState, Principal};
use contract::problem::ProblemKind;
use contract::token::{SecretToken, TokenKind};
use sqlx::PgPool;

use crate::database::{Tx, confine};
use crate::refusal::Refusal;

/// By what the caller is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// A person who logged in.
    Session,
    /// An API token of a person or a service account.
    ApiToken,
}

/// An authenticated caller. Only `authenticate` makes one.
#[derive(Debug, Clone)]
pub struct Actor {
    principal: Principal,
    name: String,
    token: TokenId,
    credential: Credential,
    scopes: Vec<Scope>,
    organization: Option<OrganizationId>,
    expires_at: DateTime<Utc>,
    proved_at: Option<DateTime<Utc>>,
    ci: Option<Box<CiIdentity>>,
    seen_at: DateTime<Utc>,
}

/// For how long it counts that somebody proved who he is, for things that are dangerous in the wrong hands.
pub const PROOF_LIFETIME: chrono::Duration = chrono::Duration::minutes(15);

/// Proof that a person asks by a session of his, and that it was proved lately who holds it. Only `Actor::proven` makes one, which is
/// asked for that session again in a transaction that changes something (`Call::proven`).
#[derive(Debug)]
pub struct Proven {
    account: AccountId,
}

impl Proven {
    /// Whose account.
    pub fn account(&self) -> AccountId {
        self.account
    }
}

impl Actor {
    /// Who it is.
    pub fn principal(&self) -> Principal {
        self.principal
    }

    /// E-mail address or service account name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The session or token in use.
    pub fn token(&self) -> TokenId {
        self.token
    }

    /// By what the caller is known.
    pub fn credential(&self) -> Credential {
        self.credential
    }

    /// The same in words, for the audit trail.
    pub fn via(&self) -> String {
        match self.credential {
            Credential::Session => "session".to_owned(),
            Credential::ApiToken => "api token".to_owned(),
        }
    }

    /// Limits of the token; empty = none.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// The one organization that the token is for, if it is bound to one.
    pub fn organization(&self) -> Option<OrganizationId> {
        self.organization
    }

    /// The run of a CI system that the token was exchanged for.
    pub fn ci(&self) -> Option<&CiIdentity> {
        self.ci.as_deref()
    }

    /// When session or token end.
    pub fn expires_at(&self) -> DateTime<Utc> {
        self.expires_at
    }

    /// Whether the token's scopes cover the verb on the resource (`*`, `project:NAME` or `project/repo`).
    pub fn covers(&self, verb: &str, resource: &str) -> bool {
        let project = resource
            .strip_prefix("project:")
            .or_else(|| resource.split_once('/').map(|(project, _)| project));
        self.scopes.is_empty()
            || self.scopes.iter().any(|scope| {
                let verb_fits = scope.verb == "*" || scope.verb == verb;
                let resource_fits = scope.resource == "*"
                    || scope.resource == resource
                    || scope
                        .resource
                        .strip_prefix("project:")
                        .is_some_and(|p| Some(p) == project);
                verb_fits && resource_fits
            })
    }

    /// The caller's account, where it is a person who asks by a session.
    ///
    /// # Errors
    /// `not-allowed` when it is a token.
    pub fn person(&self) -> Result<AccountId, Refusal> {
        match (self.principal, self.credential) {
            (Principal::Account(account), Credential::Session) => Ok(account),
            _ => Err(Refusal::not_allowed(
                "an API token does not change how its holder logs in",
                "log in with `howdah login`, and unset HOWDAH_TOKEN",
            )),
        }
    }

    /// The caller's account, where it was proved lately who holds the session.
    ///
    /// # Errors
    /// `not-allowed` when it is a token, `proof-required` when the proof is too old.
    pub fn proven(&self, now: DateTime<Utc>) -> Result<Proven, Refusal> {
        let account = self.person()?;
        if self.proved_at.is_some_and(|at| now < at + PROOF_LIFETIME) {
            return Ok(Proven { account });
        }
        Err(Refusal::new(
            ProblemKind::ProofRequired,
            format!(
                "this needs a proof of who you are that is younger than {} minutes",
                PROOF_LIFETIME.num_minutes()
            ),
        )
        .hint("type `howdah account prove`, or log in again, and repeat"))
    }

    /// Refuses tokens that are limited by scopes.
    ///
    /// # Errors
    /// `not-allowed` when the token has scopes.
    pub fn unlimited(&self) -> Result<(), Refusal> {
        if self.scopes.is_empty() {
            return Ok(());
        }
        Err(Refusal::not_allowed(
            "this token is limited by scopes and may not do that",
            "use a session (`howdah login`) or a token without scopes",
        ))
    }
}

/// Something that can be done in an organization.
pub trait Action: Send + Sync + 'static {
    /// What a scoped token must be allowed on everything.
    const VERB: &'static str;
    /// Whether it changes something: then the organization's row is locked, so that rules hold under concurrency.
    const CHANGES: bool;
    /// What it is called in a refusal: "only owners may …".
    const WHAT: &'static str;
    /// Which roles may.
    fn allows(role: OrganizationRole) -> bool;
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident($verb:literal, $changes:literal, $what:literal, $allows:expr);)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}
        impl Action for $name {
            const VERB: &'static str = $verb;
            const CHANGES: bool = $changes;
            const WHAT: &'static str = $what;
            fn allows(role: OrganizationRole) -> bool { let allows: fn(OrganizationRole) -> bool = $allows; allows(role) }
        }
    )*};
}

actions! {
    /// See the organization, its members, teams and plane.
    ViewOrganization("discover", false, "see the organization", |_| true);
    /// See the grants on one resource, which the slice asks the token for.
    ViewPolicy("", false, "see grants", |_| true);
    /// See the organization's policy as far as the slices show it.
    ViewWholePolicy("discover", false, "see all grants, releases and requests", |_| true);
    /// Change grants, releases and access requests as far as the slices allow it on the resource.
    ChangePolicy("", true, "change grants and releases", |_| true);
    /// Leave.
    Leave("admin", true, "leave", |_| true);
    /// Members and invitations.
    ManageMembers("admin", true, "manage members", OrganizationRole::manages);
    /// Teams.
    ManageTeams("admin", true, "manage teams", OrganizationRole::manages);
    /// Service accounts.
    ManageServiceAccounts("admin", true, "manage service accounts", OrganizationRole::manages);
    /// See the tokens that work in the organization, and what it demands of them.
    ViewTokens("admin", false, "see the organization's tokens", |role| role.manages() || role == OrganizationRole::Auditor);
    /// Approve and end tokens that work in the organization, and say what it demands of them.
    ManageTokens("admin", true, "manage the organization's tokens", OrganizationRole::manages);
    /// See what CI systems are trusted with.
    ViewCiTrusts("admin", false, "see what CI systems are trusted with", |role| role.manages() || role == OrganizationRole::Auditor);
    /// The organization's settings.
    ChangeSettings("admin", true, "change the organization's settings", |role| role == OrganizationRole::Owner);
    /// Read the audit trail.
    ViewAudit("admin", false, "read the audit trail", |role| role.manages() || role == OrganizationRole::Auditor);
    /// Delete the organization.
    DeleteOrganization("admin", true, "delete the organization", |role| role == OrganizationRole::Owner);
    /// Have a deleted organization back, or have it erased at once.
    RestoreOrganization("admin", true, "restore the organization", |role| role == OrganizationRole::Owner);
    /// Get an access token for the organization's data plane.
    UsePlane("", false, "use the data plane", |_| true);
}

/// Proof that the caller may do `A` in this organization. Only `authorize` makes one.
#[derive(Debug)]
pub struct Allowed<A: Action> {
    organization: OrganizationId,
    organization_name: OrganizationName,
    created_at: DateTime<Utc>,
    role: OrganizationRole,
    until: DateTime<Utc>,
    actor: Actor,
    action: PhantomData<A>,
}

impl<A: Action> Allowed<A> {
    /// The organization.
    pub fn organization(&self) -> OrganizationId {
        self.organization
    }

    /// Its name, as it is written.
    pub fn organization_name(&self) -> &OrganizationName {
        &self.organization_name
    }

    /// When it was made.
    pub fn created_at(&self) -> DateTime<Utc> {
        self.created_at
    }

    /// What the caller is in it.
    pub fn role(&self) -> OrganizationRole {
        self.role
    }

    /// Until when the session or token that he uses is good in it.
    pub fn until(&self) -> DateTime<Utc> {
        self.until
    }

    /// The caller.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }
}

/// Proof that no caller's rights are in question: the program itself acts, or a route that is open to everybody.
#[derive(Debug)]
pub struct System {
    reason: &'static str,
}

impl System {
    /// States why no caller's rights are needed.
    pub const fn because(reason: &'static str) -> Self {
        Self { reason }
    }

    /// The reason, for logs and the audit trail.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

/// Proof that an organization's own data plane calls. Only `authenticate_plane` makes one.
#[derive(Debug)]
pub struct AsPlane {
    organization: OrganizationId,
}

impl AsPlane {
    /// The plane's organization.
    pub fn organization(&self) -> OrganizationId {
        self.organization
    }

    /// Begins a transaction that is confined to the plane's organization.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn begin(&self, pool: &PgPool) -> Result<Tx, Refusal> {
        let mut tx = pool.begin().await?;
        confine(&mut tx, self.organization).await?;
        Ok(tx)
    }
}

fn signed_out(detail: &str) -> Refusal {
    Refusal::new(ProblemKind::SignedOut, detail).hint("log in with `howdah login`, or use another API token")
}

/// Refuses a session that has ended since its request came in; holds it and its account until the transaction ends.
///
/// # Errors
/// `signed-out` when it has ended.
pub(crate) async fn still_stands(tx: &mut Tx, actor: &Actor, now: DateTime<Utc>) -> Result<(), Refusal> {
    if queries::hold_session(tx, actor, now).await? {
        return Ok(());
    }
    Err(signed_out("this session was ended"))
}

/// Who holds that secret.
///
/// # Errors
/// `signed-out` when nobody does, `token-expired` when its time is over.
pub async fn authenticate(pool: &PgPool, secret: &str, now: DateTime<Utc>) -> Result<Actor, Refusal> {
    let token: SecretToken = secret.parse().map_err(|e: contract::token::ParseTokenError| {
        signed_out(&format!("the token in the request is not usable: {e}"))
    })?;
    let found = match token.kind() {
        TokenKind::Session => queries::find_session(pool, queries::By::Secret(&token)).await?,
        TokenKind::Personal | TokenKind::ServiceAccount | TokenKind::Ci => {
            queries::find_api_token(pool, queries::By::Secret(&token)).await?
        }
        TokenKind::Device | TokenKind::Invitation | TokenKind::Agent | TokenKind::Code | TokenKind::Operator => None,
    };
    standing(pool, found, now).await
}

/// Who holds the session or API token of that id: for what was begun with it and goes on.
///
/// # Errors
/// As [`authenticate`].
pub async fn authenticate_again(pool: &PgPool, token: TokenId, now: DateTime<Utc>) -> Result<Actor, Refusal> {
    let by = queries::By::Id(token);
    let found = match queries::find_session(pool, by).await? {
        None => queries::find_api_token(pool, by).await?,
        found => found,
    };
    standing(pool, found, now).await
}

async fn standing(
    pool: &PgPool,
    found: Option<(Actor, queries::TokenState)>,
    now: DateTime<Utc>,
) -> Result<Actor, Refusal> {
    let (mut actor, state) = found.ok_or_else(|| signed_out("the token is not known here, or was revoked"))?;
    actor.seen_at = now;
    if state.revoked {
        return Err(signed_out("the token is not known here, or was revoked"));
    }
    if now >= actor.expires_at {
        return Err(
            Refusal::new(ProblemKind::TokenExpired, "the session or token has expired")
                .hint("log in again with `howdah login`, or make a new token"),
        );
    }
    if state
        .idle_days
        .is_some_and(|days| now - state.unused_since >= chrono::Duration::days(days.into()))
    {
        return Err(Refusal::new(
            ProblemKind::TokenExpired,
            "the token was not used for so long that it has ended",
        )
        .hint("make a new one with `howdah token create`"));
    }
    if now - state.unused_since >= chrono::Duration::days(1) && actor.credential == Credential::ApiToken {
        // Before its use is noted: where that comes too late, it stays too late.
        queries::note_idle(pool, &actor, now).await?;
    }
    if state
        .last_used_at
        .is_none_or(|at| now - at >= chrono::Duration::minutes(1))
    {
        queries::touch(pool, &actor, now).await?;
    }
    Ok(actor)
}

/// Until when an API token is good in an organization, whose policy may demand more of it than that it lives.
async fn standing_in(
    tx: &mut Tx,
    actor: &Actor,
    organization: OrganizationId,
    name: &OrganizationName,
) -> Result<DateTime<Utc>, Refusal> {
    if actor.credential == Credential::Session {
        return Ok(actor.expires_at);
    }
    let (standing, ends_at) = queries::find_standing(tx, actor, organization).await?;
    let why = match standing.as_str() {
        "good" => return Ok(ends_at.map_or(actor.expires_at, |at| at.min(actor.expires_at))),
        "pending" => "does nothing until an admin has approved it",
        "idle" => "was not used for longer than its policy allows, and does nothing any more",
        "too_old" => "is older than its policy allows, and does nothing any more",
        _ => "was blocked by an admin",
    };
    Err(Refusal::not_allowed(
        &format!("in `{name}` this token {why}"),
        format!(
            "ask an admin of `{name}` (`howdah token approve {}`), or use another token",
            actor.token
        ),
    ))
}

/// The data plane that holds that agent token.
///
/// # Errors
/// `signed-out` when none does; `not-found` when it is another organization's.
pub async fn authenticate_plane(pool: &PgPool, secret: &str, path: OrganizationId) -> Result<AsPlane, Refusal> {
    let token: SecretToken = secret
        .parse()
        .map_err(|_| signed_out("the agent token is not usable"))?;
    let organization = queries::find_plane_of_agent(pool, &token)
        .await?
        .ok_or_else(|| signed_out("the agent token is not known here"))?;
    if organization != path {
        return Err(Refusal::not_found());
    }
    Ok(AsPlane { organization })
}

/// Whether the actor may do `A` in the organization of that name. From then on the transaction is confined to it.
///
/// # Errors
/// `not-found` to who is not a member, `not-allowed` to who may know of it but not do this.
pub async fn authorize<A: Action>(tx: &mut Tx, actor: &Actor, name: &OrganizationName) -> Result<Allowed<A>, Refusal> {
    let allowed = authorize_across(tx, actor, name).await?;
    confine(tx, allowed.organization()).await?;
    Ok(allowed)
}

/// The same for a transaction that goes on in several organizations of one person, and so cannot be confined to one.
///
/// # Errors
/// As [`authorize`].
pub async fn authorize_across<A: Action>(
    tx: &mut Tx,
    actor: &Actor,
    name: &OrganizationName,
) -> Result<Allowed<A>, Refusal> {
    authorize_in(tx, actor, name, &["active", "suspended"]).await
}

/// The same for an organization that was deleted and is still kept: nothing can be done in it but to have it back, or to have
/// it erased at once.
///
/// # Errors
/// As [`authorize`].
pub async fn authorize_deleted(
    tx: &mut Tx,
    actor: &Actor,
    name: &OrganizationName,
) -> Result<Allowed<RestoreOrganization>, Refusal> {
    let allowed = authorize_in::<RestoreOrganization>(tx, actor, name, &["deleting"]).await;
    // Whoever was no owner has not known of it since it was deleted.
    let allowed = allowed.map_err(|_| Refusal::not_found())?;
    confine(tx, allowed.organization()).await?;
    Ok(allowed)
}

async fn authorize_in<A: Action>(
    tx: &mut Tx,
    actor: &Actor,
    name: &OrganizationName,
    states: &[&str],
) -> Result<Allowed<A>, Refusal> {
    let row = queries::find_membership(tx, actor, name, A::CHANGES, states).await?;
    let Some((organization, organization_name, created_at, state, role)) = row else {
        return Err(Refusal::not_found());
    };
    if actor.organization.is_some_and(|bound| bound != organization) {
        return Err(Refusal::not_found());
    }
    let until = standing_in(tx, actor, organization, &organization_name).await?;
    if A::CHANGES && state == OrganizationState::Suspended {
        return Err(Refusal::new(
            ProblemKind::OrganizationSuspended,
            format!("the organization `{organization_name}` is suspended, nothing in it can be changed"),
        ));
    }
    if !A::VERB.is_empty() && !actor.covers(A::VERB, "*") {
        return Err(Refusal::not_allowed(
            &format!("the token's scopes do not allow to {}", A::WHAT),
            format!("use a token with the scope `{}:*`", A::VERB),
        ));
    }
    if !A::allows(role) {
        return Err(Refusal::not_allowed(
            &format!(
                "your role `{}` in `{organization_name}` does not allow to {}",
                role.as_str(),
                A::WHAT
            ),
            format!("ask an owner or admin of `{organization_name}`"),
        ));
    }
    Ok(Allowed {
        organization,
        organization_name,
        created_at,
        role,
        until,
        actor: actor.clone(),
        action: PhantomData,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(scopes: &[&str]) -> Actor {
        Actor {
            principal: Principal::Account(AccountId::generate(1, [1; 10])),
            name: "ada@example.test".to_owned(),
            token: TokenId::generate(1, [2; 10]),
            credential: Credential::ApiToken,
            scopes: scopes.iter().map(|s| s.parse().unwrap()).collect(),
            organization: None,
            expires_at: DateTime::UNIX_EPOCH,
            proved_at: None,
            ci: None,
            seen_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_proof_is_good_for_a_quarter_of_an_hour_and_never_a_tokens() {
        let at = |minutes| DateTime::UNIX_EPOCH + chrono::Duration::minutes(minutes);
        let session = Actor {
            credential: Credential::Session,
            proved_at: Some(at(0)),
            ..actor(&[])
        };
        assert!(session.proven(at(14)).is_ok() && session.proven(at(15)).is_err());
        let token = Actor {
            proved_at: Some(at(0)),
            ..actor(&[])
        };
        assert!(token.proven(at(1)).is_err());
    }

    #[test]
    fn scopes_cover_what_they_name_and_what_is_below_it() {
        for (scopes, verb, resource, expected) in [
            (&[][..], "admin", "*", true),
            (&["read:*"], "admin", "*", false),
            (&["*:*"], "admin", "default/images", true),
            (&["admin:project:vision"], "admin", "vision/images", true),
            (&["admin:project:vision"], "admin", "project:vision", true),
            (&["admin:project:vision"], "admin", "default/images", false),
            (&["admin:project:vision"], "admin", "*", false),
            (&["admin:default/images"], "admin", "default/images", true),
            (&["admin:default/images"], "admin", "project:default", false),
        ] {
            assert_eq!(
                actor(scopes).covers(verb, resource),
                expected,
                "{scopes:?} {verb} {resource}"
            );
        }
    }
}
