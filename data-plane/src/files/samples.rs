//! What a put has in common with files of the repo at other paths: samples of the chunks of earlier commits are kept with
//! the packs that they lie in, a put looks for samples of what arrives, and is told the packs whose contents it may use.
//!
//! Only who may read the commit that a pack was written for is led to it: how much is stored anew tells what is there (R1).
//! Only packs that are not condemned are named, and rows of a pack go before it may (`crate::garbage`).

use std::collections::HashSet;
use std::sync::Arc;

use contract::ids::CommitId;
use contract::policy::Permission;
use sqlx::PgConnection;
use storage::{Digest, PackSamples};

use super::stored::Stored;
use crate::call::Call;
use crate::commits::origins;
use crate::failure::Answer;
use crate::permissions::{Allowed, System, Visible};

const SAMPLES: System = System::because("what a commit was made of is asked to find its origins, which decide");
/// So many samples of one commit are kept; of more, some are left out: one leads to a pack, and that to the next.
const KEPT_MAX: usize = 4096;
/// So many packs are named at most for one batch of samples.
const FOUND_MAX: i64 = 16;

/// Lets the session find what it stores again from this repo, if the caller may read it.
///
/// # Errors
/// When the database is away.
pub async fn find(call: &Call, repo: &Visible, writer: &Stored) -> Answer<()> {
    let Ok(allowed) = call.allowed(repo, Permission::Read) else {
        return Ok(());
    };
    let any = {
        let mut conn = call.plane.pool.acquire().await?;
        has_any(&mut conn, &allowed).await?
    };
    let (true, Ok(call)) = (any, call.renewed()) else {
        return Ok(());
    };
    let (call, repo) = (Arc::new(call), Arc::new(repo.clone()));
    writer.find_with(Box::new(move |samples| {
        let (call, repo) = (Arc::clone(&call), Arc::clone(&repo));
        Box::pin(async move {
            packs(&call, &repo, &samples).await.unwrap_or_else(|error| {
                tracing::debug!("what is there already was not looked for: {error}");
                Vec::new()
            })
        })
    }));
    Ok(())
}

/// The packs of commits that the caller may read at this moment (R6), each with the one behind it.
async fn packs(call: &Call, repo: &Visible, samples: &[i64]) -> Answer<Vec<Digest>> {
    let call = call.renewed()?;
    let allowed = call.allowed(repo, Permission::Read)?;
    let mut conn = call.plane.pool.acquire().await?;
    let mut packs = Vec::new();
    for (pack, next, set) in list_packs(&mut conn, &allowed, samples).await? {
        let set = origins::get(&call.plane, &mut conn, &SAMPLES, set).await?;
        if call.readable(&set, "").is_ok() {
            packs.extend([Some(pack), next].into_iter().flatten());
        }
    }
    let mut known = HashSet::new();
    packs.retain(|pack| known.insert(pack.clone()));
    Ok(packs.iter().filter_map(|pack| digest(pack)).collect())
}

fn digest(bytes: &[u8]) -> Option<Digest> {
    Some(Digest::from_bytes(bytes.try_into().ok()?))
}

/// Whether there is anything to be found in a repo.
async fn has_any(conn: &mut PgConnection, allowed: &Allowed) -> Answer<bool> {
    let any = sqlx::query_scalar("select exists (select 1 from chunk_samples where repo_id = $1)")
        .bind(allowed.domain().uuid())
        .fetch_one(conn)
        .await?;
    Ok(any)
}

/// The packs that hold these samples, those with the most of them first: pack, the one behind it, the origin set of the
/// commit that both were written for. What a commit held that was given up or is open is not told of.
async fn list_packs(
    conn: &mut PgConnection,
    allowed: &Allowed,
    samples: &[i64],
) -> Answer<Vec<(Vec<u8>, Option<Vec<u8>>, i64)>> {
    let rows = sqlx::query_as(
        "select s.pack, n.pack, c.origin_set_id
           from (select pack, next_pack, commit_id, count(*) as found from chunk_samples
                  where repo_id = $1 and sample = any($2) group by pack, next_pack, commit_id) s
           join commits c on c.id = s.commit_id
           left join lateral (select s.next_pack as pack where not exists
                (select 1 from condemned_packs where id = s.next_pack)) n on true
          where c.repo_id = $1 and c.state = 'finished' and c.root is not null
            and not exists (select 1 from condemned_packs where id = s.pack)
          order by s.found desc, s.pack limit $3",
    )
    .bind(allowed.domain().uuid())
    .bind(samples)
    .bind(FOUND_MAX)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Keeps samples of what was written for a commit, in the transaction that makes it or adds to it.
///
/// # Errors
/// When the database is away.
pub async fn keep(conn: &mut PgConnection, allowed: &Allowed, commit: CommitId, writer: &Stored) -> Answer<()> {
    let rows = rows(&writer.samples());
    if rows.samples.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into chunk_samples (repo_id, sample, pack, next_pack, commit_id)
         select $1, s.sample, s.pack, s.next_pack, $2 from unnest($3::bigint[], $4::bytea[], $5::bytea[])
             as s (sample, pack, next_pack) on conflict do nothing",
    )
    .bind(allowed.domain().uuid())
    .bind(commit.uuid())
    .bind(&rows.samples)
    .bind(&rows.packs)
    .bind(&rows.next)
    .execute(conn)
    .await?;
    Ok(())
}

#[derive(Default)]
struct Rows {
    samples: Vec<i64>,
    packs: Vec<Vec<u8>>,
    next: Vec<Option<Vec<u8>>>,
}

/// Of too many samples, evenly distributed ones.
fn rows(packs: &[PackSamples]) -> Rows {
    let all: usize = packs.iter().map(|pack| pack.samples.len()).sum();
    let each = packs
        .iter()
        .flat_map(|pack| pack.samples.iter().map(move |sample| (pack, *sample)));
    let mut rows = Rows::default();
    for (pack, sample) in each.step_by(all.div_ceil(KEPT_MAX).max(1)) {
        rows.samples.push(sample);
        rows.packs.push(pack.pack.as_bytes().to_vec());
        rows.next.push(pack.next.map(|next| next.as_bytes().to_vec()));
    }
    rows
}

/// Lets no put that looks from now on be led to these packs.
///
/// # Errors
/// When the database is away.
pub async fn forget(conn: &mut PgConnection, _: &System, packs: &[Vec<u8>]) -> Answer<()> {
    sqlx::query("delete from chunk_samples where pack = any($1)")
        .bind(packs)
        .execute(&mut *conn)
        .await?;
    sqlx::query("update chunk_samples set next_pack = null where next_pack = any($1)")
        .bind(packs)
        .execute(conn)
        .await?;
    Ok(())
}

/// Lets go of samples of commits whose contents were given up, and of deleted repos.
///
/// # Errors
/// When the database is away.
pub async fn forget_deleted(conn: &mut PgConnection, _: &System) -> Answer<()> {
    sqlx::query(
        "delete from chunk_samples s using commits c, repos r
          where c.id = s.commit_id and r.id = s.repo_id
            and (r.deleted_at is not null or c.state not in ('open', 'finished'))",
    )
    .execute(conn)
    .await?;
    Ok(())
}
