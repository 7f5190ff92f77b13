//! SQL of repos.

use std::collections::HashMap;

use contract::api::Actor;
use contract::ids::{DomainId, ProjectId};
use contract::names::{ProjectName, RepoName};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

use super::RepoRow;
use crate::failure::{Answer, Failure, OnConstraint};
use crate::permissions::{Allowed, System};

macro_rules! select_repos {
    ($tail:literal) => {
        concat!(
            "select r.id, r.project_id, p.name as project, r.name, r.description, r.pipeline, r.created_at,
                    exists (select 1 from cron_inputs c where c.repo_id = r.id) as ticks
             from repos r join projects p on p.id = r.project_id ",
            $tail
        )
    };
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(row: &PgRow, column: &str) -> Result<T, sqlx::Error> {
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|e: T::Err| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: e.to_string().into(),
    })
}

impl FromRow<'_, PgRow> for RepoRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: DomainId::from_uuid(row.try_get("id")?),
            project_id: ProjectId::from_uuid(row.try_get("project_id")?),
            project: parsed(row, "project")?,
            name: parsed(row, "name")?,
            description: row.try_get("description")?,
            pipeline: row.try_get("pipeline")?,
            ticks: row.try_get("ticks")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// A repo that is not deleted.
pub async fn find_repo(
    conn: &mut PgConnection,
    _: &System,
    project: &ProjectName,
    name: &RepoName,
) -> Answer<Option<RepoRow>> {
    let row = sqlx::query_as(select_repos!(
        "where p.name = $1 and r.name = $2 and r.deleted_at is null"
    ))
    .bind(project.as_str())
    .bind(name.as_str())
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// A repo by its id, deleted or not.
pub async fn find_repo_by_id(conn: &mut PgConnection, _: &System, id: DomainId) -> Answer<Option<RepoRow>> {
    let row = sqlx::query_as(select_repos!("where r.id = $1"))
        .bind(id.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(row)
}

/// Repos of a project (`None` = all) behind `after` in the order of project and name, only these domains.
pub async fn list_repos(
    conn: &mut PgConnection,
    _: &System,
    project: Option<&ProjectName>,
    visible: &[Uuid],
    after: Option<(&str, &str)>,
    limit: i64,
) -> Answer<Vec<RepoRow>> {
    let rows = sqlx::query_as(select_repos!(
        "where r.deleted_at is null and r.id = any($1) and ($2::text is null or p.name = $2)
           and ($3::text is null or (p.name, r.name) > ($3, $4))
         order by p.name, r.name limit $5"
    ))
    .bind(visible)
    .bind(project.map(ProjectName::as_str))
    .bind(after.map(|a| a.0))
    .bind(after.map(|a| a.1))
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Branches of repos, by repo, in order; of those that were made for a pipeline the ones of the pipelines in `visible`, and
/// all in the repos in `owned`.
pub async fn branches_of(
    conn: &mut PgConnection,
    _: &System,
    repos: &[DomainId],
    (visible, owned): (&[Uuid], &[Uuid]),
) -> Answer<HashMap<DomainId, Vec<contract::names::BranchName>>> {
    let ids: Vec<Uuid> = repos.iter().map(|r| r.uuid()).collect();
    let rows = sqlx::query_as::<_, (Uuid, String)>(
        "select b.repo_id, b.name from branches b
              where b.repo_id = any($1) and (b.repo_id = any($3) or not exists (select 1 from branch_triggers t
                     where t.repo_id = b.repo_id and t.branch = b.name and t.pipeline_id <> all($2)))
              order by b.name",
    )
    .bind(ids)
    .bind(visible)
    .bind(owned)
    .fetch_all(conn)
    .await?;
    let mut branches: HashMap<DomainId, Vec<_>> = HashMap::new();
    for (repo, name) in rows {
        branches
            .entry(DomainId::from_uuid(repo))
            .or_default()
            .push(name.parse()?);
    }
    Ok(branches)
}

/// Project and name of repos, deleted ones too.
pub async fn names_of(
    conn: &mut PgConnection,
    _: &System,
    repos: &[DomainId],
) -> Answer<HashMap<DomainId, (ProjectName, RepoName)>> {
    let ids: Vec<Uuid> = repos.iter().map(|r| r.uuid()).collect();
    let rows = sqlx::query_as::<_, RepoRow>(select_repos!("where r.id = any($1)"))
        .bind(ids)
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().map(|r| (r.id, (r.project, r.name))).collect())
}

/// A repo to be inserted.
pub struct NewRepo<'a> {
    /// Its id, registered as a domain already.
    pub id: DomainId,
    /// Its project.
    pub project: ProjectId,
    /// Its name.
    pub name: &'a RepoName,
    /// What it is for.
    pub description: &'a str,
    /// Whether a pipeline writes it.
    pub pipeline: bool,
    /// Now.
    pub created_at: chrono::DateTime<chrono::Utc>,
    /// Who makes it.
    pub created_by: &'a Actor,
}

/// Inserts a repo.
///
/// # Errors
/// `already-exists`.
pub async fn insert_repo(conn: &mut PgConnection, _: &System, repo: &NewRepo<'_>) -> Answer<()> {
    sqlx::query(
        "insert into repos (id, project_id, name, description, pipeline, created_at, created_by)
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(repo.id.uuid())
    .bind(repo.project.uuid())
    .bind(repo.name.as_str())
    .bind(repo.description)
    .bind(repo.pipeline)
    .bind(repo.created_at)
    .bind(Json(repo.created_by))
    .execute(conn)
    .await
    .on_constraint("repos_name_unique", || taken(repo.name))?;
    Ok(())
}

/// The answer for a name that is taken.
pub fn taken(name: &RepoName) -> Failure {
    Failure::new(
        contract::problem::ProblemKind::AlreadyExists,
        format!("a repo `{name}` exists already in this project"),
    )
    .hint("choose another name")
}

/// Marks a repo as deleted and drops its branches. Its finished commits stay: others may be made from them. Open ones,
/// which nobody could finish any more, end with what was put into them, so that jobs do not wait for them for ever.
pub async fn delete_repo(conn: &mut PgConnection, allowed: &Allowed, at: chrono::DateTime<chrono::Utc>) -> Answer<()> {
    const ALLOWED: System = System::because("the caller may delete the repo");
    delete_made(conn, &ALLOWED, allowed.domain(), at).await
}

/// As [`delete_repo`], of a repo that goes with what it was made for.
pub async fn delete_made(
    conn: &mut PgConnection,
    _: &System,
    id: DomainId,
    at: chrono::DateTime<chrono::Utc>,
) -> Answer<()> {
    // The rows of the commits first: who adds to one at this moment holds its row.
    sqlx::query(
        "update commits set state = 'errored', reason = 'the repo was deleted', finished_at = $2
          where repo_id = $1 and state = 'open'",
    )
    .bind(id.uuid())
    .bind(at)
    .execute(&mut *conn)
    .await?;
    sqlx::query("delete from filesets f using commits c where c.id = f.commit_id and c.repo_id = $1")
        .bind(id.uuid())
        .execute(&mut *conn)
        .await?;
    sqlx::query("delete from branches where repo_id = $1")
        .bind(id.uuid())
        .execute(&mut *conn)
        .await?;
    sqlx::query("update repos set deleted_at = $2 where id = $1 and deleted_at is null")
        .bind(id.uuid())
        .bind(at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether commits of other repos were made from commits of this one.
pub async fn has_descendants(conn: &mut PgConnection, allowed: &Allowed) -> Answer<bool> {
    let found = sqlx::query_scalar::<_, bool>(
        "select exists (select 1 from commit_inputs i join commits up on up.id = i.input_id
             join commits down on down.id = i.commit_id where up.repo_id = $1 and down.repo_id <> $1)",
    )
    .bind(allowed.domain().uuid())
    .fetch_one(conn)
    .await?;
    Ok(found)
}
