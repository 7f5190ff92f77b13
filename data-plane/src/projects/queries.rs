//! SQL of projects. Every member may know all project names; a token with scopes those that it reaches.

use contract::ids::ProjectId;
use contract::names::ProjectName;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};

use super::ProjectRow;
use crate::failure::{Answer, Failure, OnConstraint};
use crate::permissions::System;

impl FromRow<'_, PgRow> for ProjectRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let name: &str = row.try_get("name")?;
        Ok(Self {
            id: ProjectId::from_uuid(row.try_get("id")?),
            name: name
                .parse()
                .map_err(|e: contract::names::ParseNameError| sqlx::Error::ColumnDecode {
                    index: "name".to_owned(),
                    source: e.to_string().into(),
                })?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// The project of that name.
pub async fn find_project(conn: &mut PgConnection, _: &System, name: &ProjectName) -> Answer<Option<ProjectRow>> {
    let row = sqlx::query_as("select id, name, created_at from projects where name = $1")
        .bind(name.as_str())
        .fetch_optional(conn)
        .await?;
    Ok(row)
}

/// Projects in the order of their names, behind `after`; with `among` only those.
pub async fn list_projects(
    conn: &mut PgConnection,
    _: &System,
    among: Option<&[String]>,
    after: Option<&str>,
    limit: i64,
) -> Answer<Vec<ProjectRow>> {
    let rows = sqlx::query_as(
        "select id, name, created_at from projects
          where ($1::text is null or name > $1) and ($3::text[] is null or name = any($3)) order by name limit $2",
    )
    .bind(after)
    .bind(limit)
    .bind(among)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Inserts a project.
///
/// # Errors
/// `already-exists`.
pub async fn insert_project(conn: &mut PgConnection, _: &System, project: &ProjectRow) -> Answer<()> {
    sqlx::query("insert into projects (id, name, created_at) values ($1, $2, $3)")
        .bind(project.id.uuid())
        .bind(project.name.as_str())
        .bind(project.created_at)
        .execute(conn)
        .await
        .on_constraint("projects_name_unique", || {
            Failure::new(
                contract::problem::ProblemKind::AlreadyExists,
                format!("a project `{}` exists already", project.name),
            )
        })?;
    Ok(())
}

/// Deletes a project that never had a repo, with its secrets and defaults. Answers whether it could; what it did is for a
/// transaction that is not committed then.
pub async fn delete_project(conn: &mut PgConnection, _: &System, id: ProjectId) -> Answer<bool> {
    sqlx::query("delete from secrets where project_id = $1")
        .bind(id.uuid())
        .execute(&mut *conn)
        .await?;
    sqlx::query("delete from pipeline_defaults where project_id = $1")
        .bind(id.uuid())
        .execute(&mut *conn)
        .await?;
    let done = sqlx::query(
        "delete from projects p where p.id = $1 and not exists (select 1 from repos r where r.project_id = p.id)",
    )
    .bind(id.uuid())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}
