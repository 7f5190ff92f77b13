//! SQL by which workers claim datums under leases.

use chrono::{DateTime, Utc};
use contract::ids::LeaseId;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::protocol::Pool;
use crate::failure::Answer;
use crate::permissions::System;

/// The advisory lock of whoever claims datums.
const CLAIMS_LOCK: i64 = 0x6877_645f_636c_6d73;

/// A datum that was claimed.
#[derive(Debug, FromRow)]
pub struct ClaimedRow {
    /// Its job.
    pub job_id: Uuid,
    /// Its place.
    pub position: i64,
    /// Its key.
    pub key: Vec<u8>,
    /// What it reads, as `encode_inputs` wrote it.
    pub inputs: Vec<u8>,
    /// How often it was claimed.
    pub claims: i32,
}

/// Whether datums are being claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claiming {
    /// They are, by any number at once.
    Datums,
    /// Nobody does.
    Nothing,
}

/// Waits until it is so, and keeps it so until the transaction ends.
pub async fn lock_claiming(conn: &mut PgConnection, _: &System, claiming: Claiming) -> Answer<()> {
    let sql = match claiming {
        Claiming::Datums => "select pg_advisory_xact_lock_shared($1)",
        Claiming::Nothing => "select pg_advisory_xact_lock($1)",
    };
    sqlx::query(sql).bind(CLAIMS_LOCK).execute(conn).await?;
    Ok(())
}

/// A claim in the making.
#[derive(Debug, Clone, Copy)]
pub struct NewClaim {
    /// The lease that will cover it.
    pub lease: LeaseId,
    /// Who claims.
    pub worker: Uuid,
    /// Whose datums alone; `None`: all.
    pub pool: Option<Pool>,
    /// At most so many datums.
    pub most: i64,
    /// Now.
    pub now: DateTime<Utc>,
    /// When the lease runs out, unless it is renewed.
    pub expires_at: DateTime<Utc>,
}

/// Claims datums under a new lease, in turn from every running job, the jobs that began first first. Of a job with
/// limited parallelism no more than twice that are out at a time, so that its queue does not fill a worker; of one whose
/// spec has a `datum_set_spec` no more than that says, but one at least. A suspect is
/// claimed alone, before all others, and when no other suspect is out: so it takes few others along. Each worker of a pool is a
/// machine of its own, which takes nobody along: there any number of suspects may be out. The 3 and 20 here are
/// `provenance::jobs::{SUSPECT_DEATHS, CLAIMS_MAX}`, literally, because only so the partial indexes are used.
pub async fn claim(conn: &mut PgConnection, _: &System, claim: NewClaim) -> Answer<Vec<ClaimedRow>> {
    let (pipeline, version) = claim.pool.map(|pool| (pool.pipeline, pool.version)).unzip();
    let mut rows = sqlx::query_as::<_, ClaimedRow>(
        "update datums d set state = 'running', lease_id = $1, claims = d.claims + 1, started_at = $2
           from (select x.job_id, x.position from datums x join jobs j on j.id = x.job_id
                  where x.deaths >= 3 and x.state in ('pending', 'running') and x.lost < 20 and x.state = 'pending'
                    and (x.not_before is null or x.not_before <= $2) and j.finished_at is null and j.state = 'running'
                    and case when $3::uuid is not null then j.pipeline_id = $3 and j.version = $4
                             else not exists (select 1 from datums o join jobs k on k.id = o.job_id
                                     where o.deaths >= 3 and o.state in ('pending', 'running') and o.state = 'running'
                                       and k.finished_at is null) end
                  order by x.deaths, j.seq, x.position limit 1) p
          where d.job_id = p.job_id and d.position = p.position and d.state = 'pending'
         returning d.job_id, d.position, d.key, d.inputs, d.claims",
    )
    .bind(claim.lease.uuid())
    .bind(claim.now)
    .bind(pipeline)
    .bind(version)
    .fetch_all(&mut *conn)
    .await?;
    if rows.is_empty() {
        rows = sqlx::query_as::<_, ClaimedRow>(
            "with open_jobs as (
                 select j.id, j.seq, v.datum_set_bytes as bytes_most,
                        least(v.datum_set_number, case when j.parallelism is null then $1 else greatest(0, least($1,
                            2 * j.parallelism -
                            (select count(*) from datums r where r.job_id = j.id and r.state = 'running'))) end) as share
                   from jobs j join pipeline_versions v on v.pipeline_id = j.pipeline_id and v.version = j.version
                  where j.finished_at is null and j.state = 'running' and j.datums_open > 0
                    and ($4::uuid is null or (j.pipeline_id = $4 and j.version = $5))
             ), picked as (
                 select d.job_id, d.position from open_jobs j cross join lateral (
                     select x.job_id, x.position, row_number() over (order by x.position) as n,
                            sum(x.size_bytes) over (order by x.position) as bytes from (
                         select job_id, position, size_bytes from datums where job_id = j.id and state = 'pending' and deaths < 3
                            and lost < 20 and (not_before is null or not_before <= $3)
                          order by position limit j.share) x) d
                  where d.n = 1 or j.bytes_most is null or d.bytes <= j.bytes_most
                  order by d.n, j.seq limit $1)
             update datums d set state = 'running', lease_id = $2, claims = d.claims + 1, started_at = $3
               from picked p where d.job_id = p.job_id and d.position = p.position and d.state = 'pending'
             returning d.job_id, d.position, d.key, d.inputs, d.claims",
        )
        .bind(claim.most)
        .bind(claim.lease.uuid())
        .bind(claim.now)
        .bind(pipeline)
        .bind(version)
        .fetch_all(&mut *conn)
        .await?;
    }
    if !rows.is_empty() {
        sqlx::query("insert into leases (id, worker, expires_at) values ($1, $2, $3)")
            .bind(claim.lease.uuid())
            .bind(claim.worker)
            .bind(claim.expires_at)
            .execute(conn)
            .await?;
    }
    Ok(rows)
}

/// When the first of the datums that wait, of the pool or of all, may be claimed.
pub async fn next_claimable(
    conn: &mut PgConnection,
    _: &System,
    pool: Option<Pool>,
    now: DateTime<Utc>,
) -> Answer<Option<DateTime<Utc>>> {
    let (pipeline, version) = pool.map(|pool| (pool.pipeline, pool.version)).unzip();
    let sql = "select min(not_before) from datums d where state = 'pending' and not_before > $1
                  and ($2::uuid is null or exists (select 1 from jobs j where j.id = d.job_id and j.pipeline_id = $2 and j.version = $3))";
    let next = sqlx::query_scalar(sql)
        .bind(now)
        .bind(pipeline)
        .bind(version)
        .fetch_one(conn)
        .await?;
    Ok(next)
}
