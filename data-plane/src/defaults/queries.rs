//! SQL of defaults.

use chrono::{DateTime, Utc};
use contract::api::Actor;
use contract::ids::ProjectId;
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::failure::Answer;
use crate::permissions::System;

/// All defaults: the project's name, none for the organization's, and the part of a spec.
pub async fn list(conn: &mut PgConnection, _: &System) -> Answer<Vec<(Option<String>, Value)>> {
    let rows: Vec<(Option<String>, Json<Value>)> =
        sqlx::query_as("select p.name, d.spec from pipeline_defaults d left join projects p on p.id = d.project_id")
            .fetch_all(conn)
            .await?;
    Ok(rows.into_iter().map(|(project, spec)| (project, spec.0)).collect())
}

/// The defaults of a project, or of the organization.
pub async fn find(conn: &mut PgConnection, _: &System, project: Option<ProjectId>) -> Answer<Option<Value>> {
    let row: Option<Json<Value>> =
        sqlx::query_scalar("select spec from pipeline_defaults where project_id is not distinct from $1")
            .bind(project.map(ProjectId::uuid))
            .fetch_optional(conn)
            .await?;
    Ok(row.map(|spec| spec.0))
}

/// Lets nobody else change any of them until the transaction ends.
pub async fn lock(conn: &mut PgConnection, _: &System) -> Answer<()> {
    sqlx::query("lock table pipeline_defaults in share row exclusive mode")
        .execute(conn)
        .await?;
    Ok(())
}

/// Sets them; an empty object takes them away.
pub async fn set(
    conn: &mut PgConnection,
    _: &System,
    project: Option<ProjectId>,
    spec: &Value,
    actor: &Actor,
    at: DateTime<Utc>,
) -> Answer<()> {
    sqlx::query(
        "insert into pipeline_defaults (project_id, spec, actor, updated_at) values ($1, $2, $3, $4)
         on conflict on constraint pipeline_defaults_unique do update
            set spec = excluded.spec, actor = excluded.actor, updated_at = excluded.updated_at",
    )
    .bind(project.map(ProjectId::uuid))
    .bind(Json(spec))
    .bind(Json(actor))
    .bind(at)
    .execute(&mut *conn)
    .await?;
    sqlx::query("delete from pipeline_defaults where spec = '{}'::jsonb")
        .execute(conn)
        .await?;
    Ok(())
}
