//! SQL of secrets.

use chrono::{DateTime, Utc};
use contract::api::Actor;
use contract::ids::ProjectId;
use contract::names::{ProjectName, SecretName};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use crate::failure::Answer;
use crate::permissions::System;

/// A secret as it is stored.
#[derive(Clone, FromRow)]
pub struct SecretRow {
    /// Its name.
    pub name: String,
    /// Counts how often it was set.
    pub version: i32,
    /// The keys of its values.
    pub keys: Vec<String>,
    /// Its values, encrypted; `None`: it was deleted.
    pub sealed: Option<Vec<u8>>,
    /// Who set it last.
    pub actor: Json<Actor>,
    /// When.
    pub updated_at: DateTime<Utc>,
}

/// A secret, deleted or not.
pub async fn find(
    conn: &mut PgConnection,
    _: &System,
    project: &ProjectName,
    name: &SecretName,
) -> Answer<Option<SecretRow>> {
    let row = sqlx::query_as(
        "select s.name, s.version, s.keys, s.values_encrypted as sealed, s.actor, s.updated_at
           from secrets s join projects p on p.id = s.project_id where p.name = $1 and s.name = $2",
    )
    .bind(project.as_str())
    .bind(name.as_str())
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// A secret, deleted or not, whose row stays locked until the transaction ends.
pub async fn find_locked(
    conn: &mut PgConnection,
    _: &System,
    project: ProjectId,
    name: &SecretName,
) -> Answer<Option<SecretRow>> {
    let row = sqlx::query_as(
        "select name, version, keys, values_encrypted as sealed, actor, updated_at from secrets
          where project_id = $1 and name = $2 for update",
    )
    .bind(project.uuid())
    .bind(name.as_str())
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// The secrets of a project behind `after` in the order of their names, without the deleted ones.
pub async fn list(
    conn: &mut PgConnection,
    _: &System,
    project: ProjectId,
    after: Option<&str>,
    limit: i64,
) -> Answer<Vec<SecretRow>> {
    let rows = sqlx::query_as(
        "select name, version, keys, values_encrypted as sealed, actor, updated_at from secrets
          where project_id = $1 and values_encrypted is not null and ($2::text is null or name > $2)
          order by name limit $3",
    )
    .bind(project.uuid())
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The next version of a secret, whose row stays locked until the transaction ends.
pub async fn next_version(
    conn: &mut PgConnection,
    _: &System,
    project: ProjectId,
    name: &SecretName,
    actor: &Actor,
    at: DateTime<Utc>,
) -> Answer<i32> {
    let version = sqlx::query_scalar(
        "insert into secrets (project_id, name, version, keys, actor, updated_at) values ($1, $2, 1, '{}', $3, $4)
         on conflict (project_id, name) do update set version = secrets.version + 1, actor = excluded.actor,
             updated_at = excluded.updated_at
         returning version",
    )
    .bind(project.uuid())
    .bind(name.as_str())
    .bind(Json(actor))
    .bind(at)
    .fetch_one(conn)
    .await?;
    Ok(version)
}

/// Writes keys and values of the version that was taken; `None` deletes it.
pub async fn update_values(
    conn: &mut PgConnection,
    _: &System,
    (project, name): (ProjectId, &SecretName),
    keys: &[String],
    sealed: Option<&[u8]>,
) -> Answer<()> {
    sqlx::query("update secrets set keys = $3, values_encrypted = $4 where project_id = $1 and name = $2")
        .bind(project.uuid())
        .bind(name.as_str())
        .bind(keys)
        .bind(sealed)
        .execute(conn)
        .await?;
    Ok(())
}
