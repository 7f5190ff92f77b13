//! SQL of invitations.

use chrono::{DateTime, Utc};
use contract::api::Invitation;
use contract::ids::{AccountId, InvitationId, OrganizationId};
use contract::names::OrganizationName;
use contract::policy::OrganizationRole;
use contract::token::SecretToken;

use super::InvitationState;
use crate::accounts::EmailAddress;
use crate::authz::{Actor, Allowed, ManageMembers};
use crate::database::{Text, Tx};
use crate::paging::Window;

/// Whether the address belongs to a member already.
pub(super) async fn is_member(
    tx: &mut Tx,
    allowed: &Allowed<ManageMembers>,
    email: &EmailAddress,
) -> Result<bool, sqlx::Error> {
    let (found,): (bool,) = sqlx::query_as(
        "select exists (select 1 from members m join accounts a on a.id = m.account_id
         where m.organization_id = $1 and a.email_key = $2)",
    )
    .bind(allowed.organization().to_string())
    .bind(email.key())
    .fetch_one(&mut **tx)
    .await?;
    Ok(found)
}

/// The two secrets of an invitation. Who has the mailed one has read the mail of the address that it is for.
pub(super) struct Secrets {
    pub shown: SecretToken,
    pub mailed: SecretToken,
}

pub(super) async fn insert_invitation(
    tx: &mut Tx,
    allowed: &Allowed<ManageMembers>,
    invitation: &Invitation,
    email: &EmailAddress,
    secrets: &Secrets,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into invitations
             (id, organization_id, email, email_key, role, secret_sha256, created_at, created_by, expires_at, mailed_sha256)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(invitation.id.to_string())
    .bind(allowed.organization().to_string())
    .bind(email.as_str())
    .bind(email.key())
    .bind(invitation.role.as_str())
    .bind(secrets.shown.sha256().as_slice())
    .bind(now)
    .bind(allowed.actor().principal().to_string())
    .bind(invitation.expires_at)
    .bind(secrets.mailed.sha256().as_slice())
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// Takes back what invites that address and was not accepted yet; whether there was any.
pub(super) async fn revoke_pending_of(
    tx: &mut Tx,
    allowed: &Allowed<ManageMembers>,
    email: &EmailAddress,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update invitations set revoked_at = $3
         where organization_id = $1 and email_key = $2 and accepted_at is null and revoked_at is null and expires_at > $3",
    )
    .bind(allowed.organization().to_string())
    .bind(email.key())
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn list_invitations(
    tx: &mut Tx,
    allowed: &Allowed<ManageMembers>,
    window: &Window,
    now: DateTime<Utc>,
) -> Result<Vec<Invitation>, sqlx::Error> {
    type Row = (
        Text<InvitationId>,
        String,
        Text<OrganizationRole>,
        DateTime<Utc>,
        Option<DateTime<Utc>>,
        Option<DateTime<Utc>>,
    );
    let rows: Vec<Row> = sqlx::query_as(
        "select id, email, role, expires_at, accepted_at, revoked_at from invitations
         where organization_id = $1 and id > $2 order by id limit $3",
    )
    .bind(allowed.organization().to_string())
    .bind(&window.after)
    .bind(window.fetch)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, email, role, expires_at, accepted_at, revoked_at)| Invitation {
            id: id.0,
            email,
            role: role.0,
            state: InvitationState::of(accepted_at, revoked_at, expires_at, now)
                .as_str()
                .to_owned(),
            expires_at,
            token: None,
        })
        .collect())
}

/// Takes an invitation back. `None` when there is no pending one of that id.
pub(super) async fn revoke_invitation(
    tx: &mut Tx,
    allowed: &Allowed<ManageMembers>,
    id: InvitationId,
    now: DateTime<Utc>,
) -> Result<Option<String>, sqlx::Error> {
    let row: Option<(String,)> = sqlx::query_as(
        "update invitations set revoked_at = $3
         where organization_id = $1 and id = $2 and accepted_at is null and revoked_at is null returning email",
    )
    .bind(allowed.organization().to_string())
    .bind(id.to_string())
    .bind(now)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(email,)| email))
}

/// An invitation that somebody holds the secret of.
pub(super) struct Held {
    pub id: InvitationId,
    pub organization: OrganizationId,
    pub organization_name: OrganizationName,
    pub organization_created_at: DateTime<Utc>,
    pub email_key: String,
    pub role: OrganizationRole,
    pub state: InvitationState,
    /// Whether the secret is the one that was mailed.
    pub by_mail: bool,
}

/// The invitation of a secret, locked together with its organization; the secret is what gives the right to see it.
pub(super) async fn lock_by_secret(
    tx: &mut Tx,
    _holder: &Actor,
    secret: &SecretToken,
    now: DateTime<Utc>,
) -> Result<Option<Held>, sqlx::Error> {
    type Row = (
        Text<InvitationId>,
        Text<OrganizationId>,
        Text<OrganizationName>,
        DateTime<Utc>,
        String,
        Text<OrganizationRole>,
        Option<DateTime<Utc>>,
        Option<DateTime<Utc>>,
        DateTime<Utc>,
        bool,
    );
    let row: Option<Row> = sqlx::query_as(
        "select i.id, o.id, o.name, o.created_at, i.email_key, i.role, i.accepted_at, i.revoked_at, i.expires_at,
             i.mailed_sha256 is not distinct from $1
         from invitations i join organizations o on o.id = i.organization_id
         where (i.secret_sha256 = $1 or i.mailed_sha256 = $1) and o.state = 'active' for update",
    )
    .bind(secret.sha256().as_slice())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|row| Held {
        id: row.0.0,
        organization: row.1.0,
        organization_name: row.2.0,
        organization_created_at: row.3,
        email_key: row.4,
        role: row.5.0,
        state: InvitationState::of(row.6, row.7, row.8, now),
        by_mail: row.9,
    }))
}

/// Makes the holder a member and the invitation used.
pub(super) async fn accept(
    tx: &mut Tx,
    holder: &Actor,
    account: AccountId,
    held: &Held,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query("update invitations set accepted_at = $2, accepted_by = $3 where id = $1")
        .bind(held.id.to_string())
        .bind(now)
        .bind(holder.principal().to_string())
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "insert into members (organization_id, account_id, role, joined_at) values ($1, $2, $3, $4)
         on conflict (organization_id, account_id) do nothing",
    )
    .bind(held.organization.to_string())
    .bind(account.to_string())
    .bind(held.role.as_str())
    .bind(now)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}
