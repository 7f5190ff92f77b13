//! SQL of authentication and authorization: the only queries that take a secret or an actor instead of a proof, because
//! they are what proofs are made of.

use chrono::{DateTime, Utc};
use contract::ci::CiIdentity;
use contract::claims::Scope;
use contract::ids::{AccountId, OrganizationId, TokenId};
use contract::names::OrganizationName;
use contract::policy::{OrganizationRole, OrganizationState, Principal};
use contract::token::SecretToken;
use sqlx::PgPool;
use sqlx::types::Json;

use super::{Actor, Credential};
use crate::database::{Text, Tx};

/// What is known of a session or token besides who holds it.
pub(super) struct TokenState {
    pub revoked: bool,
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was used last, or made.
    pub unused_since: DateTime<Utc>,
    /// It ends when it was not used for so many days.
    pub idle_days: Option<u32>,
}

type SessionRow = (
    Text<TokenId>,
    Text<AccountId>,
    String,
    DateTime<Utc>,
    DateTime<Utc>,
    Option<DateTime<Utc>>,
    Option<DateTime<Utc>>,
);

/// What a session or token is looked for by.
#[derive(Clone, Copy)]
pub(super) enum By<'a> {
    Secret(&'a SecretToken),
    Id(TokenId),
}

impl By<'_> {
    fn digest(self) -> Option<Vec<u8>> {
        match self {
            Self::Secret(token) => Some(token.sha256().to_vec()),
            Self::Id(_) => None,
        }
    }

    fn id(self) -> Option<String> {
        match self {
            Self::Secret(_) => None,
            Self::Id(id) => Some(id.to_string()),
        }
    }
}

pub(super) async fn find_session(pool: &PgPool, by: By<'_>) -> Result<Option<(Actor, TokenState)>, sqlx::Error> {
    let row: Option<SessionRow> = sqlx::query_as(
        "select s.id, s.account_id, a.email, s.expires_at, s.proved_at, s.revoked_at, s.last_used_at
         from sessions s join accounts a on a.id = s.account_id
         where a.deleted_at is null and (s.secret_sha256 = $1 or s.id = $2)",
    )
    .bind(by.digest())
    .bind(by.id())
    .fetch_optional(pool)
    .await?;
    Ok(row.map(
        |(id, account, email, expires_at, proved_at, revoked_at, last_used_at)| {
            let actor = Actor {
                principal: Principal::Account(account.0),
                name: email,
                token: id.0,
                credential: Credential::Session,
                scopes: Vec::new(),
                organization: None,
                expires_at,
                proved_at: Some(proved_at),
                ci: None,
                seen_at: DateTime::UNIX_EPOCH,
            };
            let state = TokenState {
                revoked: revoked_at.is_some(),
                last_used_at,
                unused_since: last_used_at.unwrap_or_default(),
                idle_days: None,
            };
            (actor, state)
        },
    ))
}

type TokenRow = (
    Text<TokenId>,
    Text<Principal>,
    Option<Text<OrganizationId>>,
    Option<String>,
    Vec<String>,
    DateTime<Utc>,
    Option<DateTime<Utc>>,
    Option<DateTime<Utc>>,
    Option<Json<Box<CiIdentity>>>,
    DateTime<Utc>,
    Option<i32>,
);

pub(super) async fn find_api_token(pool: &PgPool, by: By<'_>) -> Result<Option<(Actor, TokenState)>, sqlx::Error> {
    let row: Option<TokenRow> = sqlx::query_as(
        "select t.id, t.principal, t.organization_id, coalesce(a.email, s.name), t.scopes, t.expires_at, t.revoked_at, t.last_used_at, t.ci,
                t.created_at, t.idle_days
         from api_tokens t
         left join accounts a on a.id = t.principal and a.deleted_at is null
         left join service_accounts s on s.id = t.principal and s.deleted_at is null
         where t.secret_sha256 = $1 or t.id = $2",
    )
    .bind(by.digest())
    .bind(by.id())
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (id, principal, organization, Some(name), scopes, expires_at, revoked_at, last_used_at, ci, made_at, idle_days) =
        row
    else {
        return Ok(None);
    };
    let scopes = scopes
        .iter()
        .map(|text| text.parse::<Scope>())
        .collect::<Result<_, _>>()
        .map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    let actor = Actor {
        principal: principal.0,
        name,
        token: id.0,
        credential: Credential::ApiToken,
        scopes,
        organization: organization.map(|o| o.0),
        expires_at,
        proved_at: None,
        ci: ci.map(|ci| ci.0),
        seen_at: DateTime::UNIX_EPOCH,
    };
    let state = TokenState {
        revoked: revoked_at.is_some(),
        last_used_at,
        unused_since: last_used_at.unwrap_or(made_at),
        idle_days: idle_days.and_then(|days| u32::try_from(days).ok()),
    };
    Ok(Some((actor, state)))
}

/// How an API token stands in an organization, and when its policy ends it.
pub(super) async fn find_standing(
    tx: &mut Tx,
    actor: &Actor,
    organization: OrganizationId,
) -> Result<(String, Option<DateTime<Utc>>), sqlx::Error> {
    let row: (String, Option<DateTime<Utc>>) = sqlx::query_as(
        "select token_standing($1, $2, $3),
             (select coalesce(t.counted_from, t.created_at) + make_interval(days => p.longest_days)
              from api_tokens t join token_policies p on p.organization_id = $2 where t.id = $1 and t.ci_trust_id is null)",
    )
    .bind(actor.token.to_string())
    .bind(organization.to_string())
    .bind(actor.seen_at)
    .fetch_one(&mut **tx)
    .await?;
    Ok(row)
}

/// Notes the organizations in which a token was not used for longer than their policy allows.
pub(super) async fn note_idle(pool: &PgPool, actor: &Actor, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into token_decisions (organization_id, token_id, decision, decided_at, decided_by)
         select p.organization_id, $1, 'idle', $2, 'policy' from token_policies p
         where p.idle_days is not null and token_standing($1, p.organization_id, $2) = 'idle'
         on conflict (organization_id, token_id) do update set decision = 'idle', decided_at = $2, decided_by = 'policy'
             where token_decisions.decision = 'approved'",
    )
    .bind(actor.token.to_string())
    .bind(now)
    .execute(pool)
    .await
    .map(|_| ())
}

/// Notes the use of a session or token, to the minute.
pub(super) async fn touch(pool: &PgPool, actor: &Actor, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let statement = match actor.credential {
        Credential::Session => "update sessions set last_used_at = date_trunc('minute', $2::timestamptz) where id = $1",
        Credential::ApiToken => {
            "update api_tokens set last_used_at = date_trunc('minute', $2::timestamptz) where id = $1"
        }
    };
    sqlx::query(statement)
        .bind(actor.token.to_string())
        .bind(now)
        .execute(pool)
        .await
        .map(|_| ())
}

pub(super) async fn find_plane_of_agent(
    pool: &PgPool,
    token: &SecretToken,
) -> Result<Option<OrganizationId>, sqlx::Error> {
    let row: Option<(Text<OrganizationId>,)> =
        sqlx::query_as("select organization_id from planes where agent_sha256 = $1")
            .bind(token.sha256().as_slice())
            .fetch_optional(pool)
            .await?;
    Ok(row.map(|(organization,)| organization.0))
}

pub(super) type Membership = (
    OrganizationId,
    OrganizationName,
    DateTime<Utc>,
    OrganizationState,
    OrganizationRole,
);

pub(super) async fn find_membership(
    tx: &mut Tx,
    actor: &Actor,
    name: &OrganizationName,
    lock: bool,
    states: &[&str],
) -> Result<Option<Membership>, sqlx::Error> {
    if lock {
        // Before the membership is read: what it was before a change that we waited for does not count.
        sqlx::query("select 1 from organizations where lower(name) = lower($1) and state <> 'deleted' for update")
            .bind(name.as_str())
            .execute(&mut **tx)
            .await?;
    }
    type Row = (
        Text<OrganizationId>,
        Text<OrganizationName>,
        DateTime<Utc>,
        String,
        Text<OrganizationRole>,
    );
    let row: Option<Row> = sqlx::query_as(
        "select o.id, o.name, o.created_at, o.state, m.role
         from organizations o join memberships m on m.organization_id = o.id
         where lower(o.name) = lower($1) and o.state = any($3) and m.principal = $2",
    )
    .bind(name.as_str())
    .bind(actor.principal.to_string())
    .bind(states)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(id, name, created_at, state, role)| {
        let state = match state.as_str() {
            "active" => OrganizationState::Active,
            "suspended" => OrganizationState::Suspended,
            _ => OrganizationState::Deleting,
        };
        (id.0, name.0, created_at, state, role.0)
    }))
}

/// Locks the caller's account, then his session. `false` when the session has ended, or the account is gone.
pub(super) async fn hold_session(tx: &mut Tx, actor: &Actor, now: DateTime<Utc>) -> Result<bool, sqlx::Error> {
    let account = sqlx::query("select 1 from accounts where id = $1 and deleted_at is null for no key update")
        .bind(actor.principal().to_string())
        .fetch_optional(&mut **tx)
        .await?;
    let session =
        sqlx::query("select 1 from sessions where id = $1 and revoked_at is null and expires_at > $2 for share")
            .bind(actor.token().to_string())
            .bind(now)
            .fetch_optional(&mut **tx)
            .await?;
    Ok(account.is_some() && session.is_some())
}
