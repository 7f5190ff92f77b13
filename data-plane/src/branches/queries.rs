//! SQL of branches and of the triggers that move them.

use chrono::{DateTime, Utc};
use contract::api::{Actor, BranchTrigger, NewTrigger};
use contract::ids::{CommitId, DomainId};
use contract::names::BranchName;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

use crate::commits::queries::insert_move;
use crate::failure::Answer;
use crate::permissions::{Allowed, System, Visible};

const SELF: System = System::because("called by a query that was given a proof");

/// A branch with its head and the origins of that.
pub struct BranchRow {
    /// Its name.
    pub name: BranchName,
    /// Its newest commit.
    pub head: Option<CommitId>,
    /// The origin set of that commit.
    pub origin_set: Option<i64>,
}

/// The branches of a repo that the caller may know of, in the order of their names; of those that were made for a pipeline
/// the ones of these, or all of them.
pub async fn list_branches(
    conn: &mut PgConnection,
    repo: &Visible,
    made_for: Option<&[Uuid]>,
    after: Option<&str>,
    limit: i64,
) -> Answer<Vec<BranchRow>> {
    let rows = sqlx::query_as::<_, (String, Option<Uuid>, Option<i64>)>(
        "select b.name, b.head_id, c.origin_set_id from branches b left join commits c on c.id = b.head_id
         where b.repo_id = $1 and ($2::text is null or b.name > $2)
           and ($4::uuid[] is null or not exists (select 1 from branch_triggers t
                 where t.repo_id = b.repo_id and t.branch = b.name and t.pipeline_id <> all($4)))
         order by b.name limit $3",
    )
    .bind(repo.id.uuid())
    .bind(after)
    .bind(limit)
    .bind(made_for)
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|(name, head, origin_set)| {
            Ok(BranchRow {
                name: name.parse()?,
                head: head.map(CommitId::from_uuid),
                origin_set,
            })
        })
        .collect()
}

/// The branch of that name, if the caller may know of it: as [`list_branches`].
pub async fn find_branch(
    conn: &mut PgConnection,
    repo: &Visible,
    made_for: Option<&[Uuid]>,
    name: &BranchName,
) -> Answer<Option<BranchRow>> {
    let row = sqlx::query_as::<_, (Option<Uuid>, Option<i64>)>(
        "select b.head_id, c.origin_set_id from branches b left join commits c on c.id = b.head_id
         where b.repo_id = $1 and b.name = $2
           and ($3::uuid[] is null or not exists (select 1 from branch_triggers t
                 where t.repo_id = b.repo_id and t.branch = b.name and t.pipeline_id <> all($3)))",
    )
    .bind(repo.id.uuid())
    .bind(name.as_str())
    .bind(made_for)
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|(head, origin_set)| BranchRow {
        name: name.clone(),
        head: head.map(CommitId::from_uuid),
        origin_set,
    }))
}

/// Inserts a branch. Answers whether there was none of that name.
pub async fn insert_branch(
    conn: &mut PgConnection,
    allowed: &Allowed,
    name: &BranchName,
    head: Option<CommitId>,
    at: DateTime<Utc>,
) -> Answer<bool> {
    let done = sqlx::query(
        "insert into branches (repo_id, name, head_id, created_at) values ($1, $2, $3, $4) on conflict do nothing",
    )
    .bind(allowed.domain().uuid())
    .bind(name.as_str())
    .bind(head.map(CommitId::uuid))
    .bind(at)
    .execute(&mut *conn)
    .await?;
    let is_new = done.rows_affected() == 1;
    if is_new {
        insert_move(conn, &SELF, allowed.domain(), name, head, at).await?;
    }
    Ok(is_new)
}

/// Moves a branch.
pub async fn update_head(
    conn: &mut PgConnection,
    allowed: &Allowed,
    name: &BranchName,
    head: CommitId,
    at: DateTime<Utc>,
) -> Answer<()> {
    sqlx::query("update branches set head_id = $3 where repo_id = $1 and name = $2")
        .bind(allowed.domain().uuid())
        .bind(name.as_str())
        .bind(head.uuid())
        .execute(&mut *conn)
        .await?;
    insert_move(conn, &SELF, allowed.domain(), name, Some(head), at).await
}

/// Deletes a branch; its commits stay.
pub async fn delete_branch(
    conn: &mut PgConnection,
    allowed: &Allowed,
    name: &BranchName,
    at: DateTime<Utc>,
) -> Answer<()> {
    sqlx::query("delete from branches where repo_id = $1 and name = $2")
        .bind(allowed.domain().uuid())
        .bind(name.as_str())
        .execute(&mut *conn)
        .await?;
    insert_move(conn, &SELF, allowed.domain(), name, None, at).await
}

/// A trigger.
pub struct TriggerRow {
    /// The repo.
    pub repo: DomainId,
    /// The branch that follows.
    pub branch: BranchName,
    /// The one that it watches.
    pub source: BranchName,
    /// It fires when the watched one has grown by so much.
    pub size_bytes: Option<u64>,
    /// It fires when that is ahead by so many commits.
    pub commits: Option<u64>,
    /// It fires at ticks of this schedule.
    pub cron: Option<String>,
    /// All of these have to hold.
    pub all: bool,
    /// Who set it.
    pub actor: Actor,
    /// When it fired last, or was set.
    pub since: DateTime<Utc>,
    /// When it fired last.
    pub fired_at: Option<DateTime<Utc>>,
    /// The commit that it followed to last.
    pub followed: Option<CommitId>,
    /// Why it does not fire.
    pub reason: Option<String>,
    /// Its branch was made for this pipeline.
    pub pipeline: Option<DomainId>,
}

impl FromRow<'_, PgRow> for TriggerRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let name = |column: &str| {
            let text: String = row.try_get(column)?;
            text.parse()
                .map_err(|error: contract::names::ParseNameError| sqlx::Error::ColumnDecode {
                    index: column.to_owned(),
                    source: error.into(),
                })
        };
        let number = |column: &str| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(column)?.map(i64::unsigned_abs));
        let fired_at: Option<DateTime<Utc>> = row.try_get("fired_at")?;
        Ok(Self {
            repo: DomainId::from_uuid(row.try_get("repo_id")?),
            branch: name("branch")?,
            source: name("source")?,
            size_bytes: number("size_bytes")?,
            commits: number("commits")?,
            cron: row.try_get("cron")?,
            all: row.try_get("all_hold")?,
            actor: row.try_get::<Json<Actor>, _>("actor")?.0,
            since: fired_at.unwrap_or(row.try_get("created_at")?),
            fired_at,
            followed: row.try_get::<Option<Uuid>, _>("followed_id")?.map(CommitId::from_uuid),
            reason: row.try_get("reason")?,
            pipeline: row.try_get::<Option<Uuid>, _>("pipeline_id")?.map(DomainId::from_uuid),
        })
    }
}

impl TriggerRow {
    /// As the API shows it.
    pub fn view(self) -> BranchTrigger {
        BranchTrigger {
            on: NewTrigger {
                branch: self.source,
                size_bytes: self.size_bytes,
                commits: self.commits,
                cron: self.cron,
                all: self.all,
            },
            fired_at: self.fired_at,
            reason: self.reason,
        }
    }
}

/// The triggers of a repo that the caller may know of.
pub async fn list_triggers_of(conn: &mut PgConnection, repo: &Visible) -> Answer<Vec<TriggerRow>> {
    let rows = sqlx::query_as("select * from branch_triggers where repo_id = $1")
        .bind(repo.id.uuid())
        .fetch_all(conn)
        .await?;
    Ok(rows)
}

/// Which branches of a repo watch which: (branch, the one that it watches).
pub async fn list_watched(
    conn: &mut PgConnection,
    _: &System,
    repo: DomainId,
) -> Answer<Vec<(BranchName, BranchName)>> {
    let rows: Vec<(String, String)> = sqlx::query_as("select branch, source from branch_triggers where repo_id = $1")
        .bind(repo.uuid())
        .fetch_all(conn)
        .await?;
    rows.into_iter()
        .map(|(branch, source)| Ok((branch.parse()?, source.parse()?)))
        .collect()
}

/// Keeps a trigger; `head` is what the branch points at to begin with.
pub async fn insert_trigger(
    conn: &mut PgConnection,
    allowed: &Allowed,
    branch: &BranchName,
    new: &NewTrigger,
    actor: &Actor,
    head: Option<CommitId>,
    at: DateTime<Utc>,
) -> Answer<()> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    sqlx::query(
        "insert into branch_triggers (repo_id, branch, source, size_bytes, commits, cron, all_hold, actor, created_at, followed_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(allowed.domain().uuid())
    .bind(branch.as_str())
    .bind(new.branch.as_str())
    .bind(new.size_bytes.map(number))
    .bind(new.commits.map(number))
    .bind(&new.cron)
    .bind(new.all)
    .bind(Json(actor))
    .bind(at)
    .bind(head.map(CommitId::uuid))
    .execute(conn)
    .await?;
    Ok(())
}

/// The triggers of branches that watch this one.
pub async fn list_triggers(
    conn: &mut PgConnection,
    _: &System,
    repo: DomainId,
    source: &BranchName,
) -> Answer<Vec<TriggerRow>> {
    let rows = sqlx::query_as("select * from branch_triggers where repo_id = $1 and source = $2 order by branch")
        .bind(repo.uuid())
        .bind(source.as_str())
        .fetch_all(conn)
        .await?;
    Ok(rows)
}

/// Triggers with a schedule whose watched branch points elsewhere than they followed to.
pub async fn list_scheduled(conn: &mut PgConnection, _: &System) -> Answer<Vec<TriggerRow>> {
    let rows = sqlx::query_as(
        "select t.* from branch_triggers t join branches b on b.repo_id = t.repo_id and b.name = t.source
          where t.cron is not null and b.head_id is distinct from t.followed_id
          order by t.repo_id, t.branch",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// How many commits there are from `head` back to `followed`, as far as `limit`, and the size of `followed`. Where it is
/// not on the line, all count.
pub async fn count_since(
    conn: &mut PgConnection,
    _: &System,
    head: CommitId,
    followed: Option<CommitId>,
    limit: u64,
) -> Answer<(i64, i64)> {
    let row = sqlx::query_as(
        "with recursive line (parent_id, finished) as (
            select parent_id, (state = 'finished')::int::bigint from commits where id = $1 and id is distinct from $2
            union all
            select p.parent_id, line.finished + (p.state = 'finished')::int
              from line join commits p on p.id = line.parent_id
             where p.id is distinct from $2 and line.finished < $3
         ) select coalesce(max(finished), 0), coalesce((select size_bytes from commits where id = $2), 0) from line",
    )
    .bind(head.uuid())
    .bind(followed.map(CommitId::uuid))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_one(conn)
    .await?;
    Ok(row)
}

/// Moves a branch because its trigger fired.
pub async fn update_fired(
    conn: &mut PgConnection,
    _: &System,
    trigger: &TriggerRow,
    head: CommitId,
    at: DateTime<Utc>,
) -> Answer<()> {
    sqlx::query("update branches set head_id = $3 where repo_id = $1 and name = $2")
        .bind(trigger.repo.uuid())
        .bind(trigger.branch.as_str())
        .bind(head.uuid())
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "update branch_triggers set fired_at = $3, followed_id = $4, reason = null where repo_id = $1 and branch = $2",
    )
    .bind(trigger.repo.uuid())
    .bind(trigger.branch.as_str())
    .bind(at)
    .bind(head.uuid())
    .execute(&mut *conn)
    .await?;
    insert_move(conn, &SELF, trigger.repo, &trigger.branch, Some(head), at).await
}

/// Notes why a trigger did not fire.
pub async fn update_refused(conn: &mut PgConnection, _: &System, trigger: &TriggerRow, reason: &str) -> Answer<()> {
    sqlx::query("update branch_triggers set reason = $3 where repo_id = $1 and branch = $2")
        .bind(trigger.repo.uuid())
        .bind(trigger.branch.as_str())
        .bind(reason)
        .execute(conn)
        .await?;
    Ok(())
}
