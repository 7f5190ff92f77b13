//! SQL of entries.

use chrono::{DateTime, Utc};
use contract::ids::{OrganizationId, TokenId};
use contract::names::{OrganizationName, ProjectName, RepoName};
use sqlx::PgPool;

use super::entries::{Entry, Kind, Place};
use crate::authz::System;
use crate::database::Text;

type Row = (
    Text<TokenId>,
    Text<OrganizationId>,
    Text<OrganizationName>,
    Text<ProjectName>,
    Text<RepoName>,
);

fn entry((token, organization, organization_name, project, name): Row) -> Entry {
    Entry {
        token: token.0,
        place: Place {
            organization: organization.0,
            organization_name: organization_name.0,
            project: project.0,
            name: name.0,
        },
    }
}

pub(super) async fn insert(
    pool: &PgPool,
    _proof: &System,
    (kind, digest): (Kind, &[u8]),
    entry: &Entry,
    expires_at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into service_entries (secret_sha256, kind, token_id, organization_id, organization_name, project, name,
                                      expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(digest)
    .bind(kind.as_str())
    .bind(entry.token.to_string())
    .bind(entry.place.organization.to_string())
    .bind(entry.place.organization_name.to_string())
    .bind(entry.place.project.to_string())
    .bind(entry.place.name.to_string())
    .bind(expires_at)
    .execute(pool)
    .await
    .map(|_| ())
}

/// Takes a ticket away: of two who show it one gets in.
pub(super) async fn take_ticket(
    pool: &PgPool,
    _proof: &System,
    digest: &[u8],
    now: DateTime<Utc>,
) -> Result<Option<Entry>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(
        "delete from service_entries where secret_sha256 = $1 and kind = 'ticket' and expires_at > $2
         returning token_id, organization_id, organization_name, project, name",
    )
    .bind(digest)
    .bind(now)
    .fetch_optional(pool)
    .await?;
    Ok(row.map(entry))
}

pub(super) async fn find_cookie(
    pool: &PgPool,
    _proof: &System,
    digest: &[u8],
    now: DateTime<Utc>,
) -> Result<Option<Entry>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(
        "select token_id, organization_id, organization_name, project, name from service_entries
         where secret_sha256 = $1 and kind = 'cookie' and expires_at > $2",
    )
    .bind(digest)
    .bind(now)
    .fetch_optional(pool)
    .await?;
    Ok(row.map(entry))
}

/// Forgets entries whose time is over.
///
/// # Errors
/// When the database is away.
pub async fn forget_expired(pool: &PgPool, _proof: &System, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query("delete from service_entries where expires_at <= $1")
        .bind(now)
        .execute(pool)
        .await
        .map(|_| ())
}
