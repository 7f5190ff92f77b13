//! SQL of lines that workers send: kept once, counted, and removed again when they are too old or too many.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::protocol::SentLine;
use crate::failure::Answer;
use crate::permissions::System;

const SELF: System = System::because("called by a query that was given a proof");
/// The advisory lock of whoever writes lines.
const LOGS_LOCK: i64 = 0x6877_645f_6c6f_6773;
/// So many lines go at once.
const BATCH: i64 = 10_000;

/// Waits until nobody writes lines, and lets nobody do it until the transaction ends.
pub async fn lock(conn: &mut PgConnection, _: &System) -> Answer<()> {
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(LOGS_LOCK)
        .execute(conn)
        .await?;
    Ok(())
}

/// Keeps lines, but none of a job whose output was purged; one that was sent twice is kept once. Who writes lines takes turns
/// until the end of the transaction: so whoever has read up to a line has read all that are numbered below it. Answers the
/// bytes of the job that has most of them now.
pub async fn insert(conn: &mut PgConnection, _: &System, lines: &[SentLine]) -> Answer<i64> {
    if lines.is_empty() {
        return Ok(0);
    }
    lock(conn, &SELF).await?;
    let most = sqlx::query_scalar::<_, Option<i64>>(
        "with added as (
             insert into datum_logs (job_id, datum_key, attempt, line, at, stream, text)
             select r.* from unnest($1::uuid[], $2::bytea[], $3::int[], $4::int[], $5::timestamptz[], $6::text[], $7::text[])
                    as r (job_id, datum_key, attempt, line, at, stream, text)
              where not exists (select 1 from jobs j join commits c on c.id = j.output_commit_id
                                 where j.id = r.job_id and c.removed_how = 'purged')
             on conflict do nothing returning job_id, octet_length(text) + 64 as bytes, at
         ), counted as (
             insert into job_logs (job_id, bytes, oldest_at)
             select job_id, sum(bytes), min(at) from added group by job_id
             on conflict (job_id) do update set bytes = job_logs.bytes + excluded.bytes,
                 oldest_at = coalesce(job_logs.oldest_at, excluded.oldest_at)
             returning bytes
         ) select max(bytes) from counted",
    )
    .bind(lines.iter().map(|l| l.job.uuid()).collect::<Vec<_>>())
    .bind(
        lines
            .iter()
            .map(|l| hex::decode(&l.key).unwrap_or_default())
            .collect::<Vec<_>>(),
    )
    .bind(lines.iter().map(|l| l.run).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.line).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.at).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.stream.as_str()).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.text.as_str()).collect::<Vec<_>>())
    .fetch_one(conn)
    .await?;
    Ok(most.unwrap_or(0))
}

/// A job that has lines from before that time.
pub async fn find_old(conn: &mut PgConnection, _: &System, before: DateTime<Utc>) -> Answer<Option<Uuid>> {
    let job = sqlx::query_scalar("select job_id from job_logs where oldest_at < $1 order by oldest_at limit 1")
        .bind(before)
        .fetch_optional(conn)
        .await?;
    Ok(job)
}

/// A job that has more bytes than that, and how many.
pub async fn find_large(conn: &mut PgConnection, _: &System, most: i64) -> Answer<Option<(Uuid, i64)>> {
    let job = sqlx::query_as("select job_id, bytes from job_logs where bytes > $1 order by bytes desc limit 1")
        .bind(most)
        .fetch_optional(conn)
        .await?;
    Ok(job)
}

/// Removes lines of a job, its oldest first, one batch at most: those from before that time, and more until it has so many
/// bytes less. The transaction is the caller's, and holds the lock of whoever writes lines from here on.
pub async fn remove(conn: &mut PgConnection, _: &System, job: Uuid, before: DateTime<Utc>, excess: i64) -> Answer<()> {
    lock(conn, &SELF).await?;
    let oldest: Vec<(i64, DateTime<Utc>, i64)> = sqlx::query_as(
        "select seq, at, octet_length(text)::bigint + 64 from datum_logs where job_id = $1 order by seq limit $2",
    )
    .bind(job)
    .bind(BATCH)
    .fetch_all(&mut *conn)
    .await?;
    let mut bytes = 0;
    let count = oldest
        .iter()
        .take_while(|(_, at, size)| {
            let goes = *at < before || bytes < excess;
            bytes += if goes { *size } else { 0 };
            goes
        })
        .count();
    let (gone, left) = oldest.split_at(count);
    if let Some((last, ..)) = gone.last() {
        sqlx::query("delete from datum_logs where job_id = $1 and seq <= $2")
            .bind(job)
            .bind(last)
            .execute(&mut *conn)
            .await?;
    }
    let next = match left.first() {
        Some((_, at, _)) => Some(*at),
        None => {
            sqlx::query_scalar("select at from datum_logs where job_id = $1 order by seq limit 1")
                .bind(job)
                .fetch_optional(&mut *conn)
                .await?
        }
    };
    // One that has none left has no bytes, whatever was counted.
    sqlx::query(
        "update job_logs set bytes = case when $2::timestamptz is null then 0 else greatest(0, bytes - $3) end, oldest_at = $2,
                lines_gone = lines_gone + $4, gone_until = greatest(gone_until, $5) where job_id = $1",
    )
    .bind(job)
    .bind(next)
    .bind(bytes)
    .bind(i64::try_from(count).unwrap_or(i64::MAX))
    .bind(gone.iter().map(|(_, at, _)| *at).max())
    .execute(conn)
    .await?;
    Ok(())
}
