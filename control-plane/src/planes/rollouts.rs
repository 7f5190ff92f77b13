//! New images of planes: `provisioner::waves` says who gets it next, here it is written down. A rollout begins when the configuration
//! names another image than the newest rollout; one that was taken back is not tried again before it names yet another.

use chrono::{DateTime, Utc};
use contract::cloud::WavesConfig;
use contract::ids::OrganizationId;
use provisioner::waves::{self, Move, Rollout, Standing};
use sqlx::PgPool;

use super::queries;
use crate::app::App;
use crate::authz::System;
use crate::database::Text;

/// Remembers of the planes that have the image since when they do not serve with it. One that served once is evidence from then on,
/// whatever was in its way before.
const LOOK: &str = "update planes p set
         rollout_unready_since = case when p.wanted = 'running' and not l.ready then coalesce(p.rollout_unready_since, $2) end,
         rollout_excused = p.rollout_excused and not (p.wanted = 'running' and l.ready)
     from (select organization_id, state = 'ready' and seen_generation >= generation as ready from planes) l
     where l.organization_id = p.organization_id and p.rollout_id = $1
       and (p.rollout_unready_since is null) = (p.wanted = 'running' and not l.ready)";

/// What a plane's row says of the rollout that runs, and since when.
const STANDING: &str = "select organization_id,
           case when rollout_id is distinct from $1 then case when wanted = 'running' and state = 'ready' then 'running' else 'silent' end
                when rollout_unready_since is null or rollout_excused then 'moved'
                else 'moving' end,
           rollout_unready_since
     from planes where wanted <> 'deleted' order by number";

/// The newest rollout.
struct Newest {
    id: i64,
    image: String,
    state: String,
    rollout: Rollout,
}

/// One step of whatever rollout there is to make. `true`: something was done, so the next may follow at once.
///
/// # Errors
/// When the database is away.
pub async fn step(app: &App, proof: &System, image: &str, config: &WavesConfig) -> anyhow::Result<bool> {
    let (pool, now) = (&app.pool, app.environment.now());
    let newest = match find_newest(pool, proof).await? {
        None => {
            // The first image: whatever is there has it already, or gets it when it is made.
            insert(pool, proof, image, "done", now).await?;
            return Ok(false);
        }
        Some(newest) if newest.state != "running" => {
            if newest.image == image {
                return Ok(false);
            }
            tracing::info!("planes get the image `{}` now, in waves", image);
            insert(pool, proof, image, "running", now).await?;
            return Ok(true);
        }
        Some(newest) => newest,
    };
    let planes = list_standings(pool, proof, newest.id, now).await?;
    match waves::next(&newest.rollout, &planes, config, now) {
        Move::Wait => return Ok(false),
        Move::Hold => {
            hold(pool, proof, newest.id, now).await?;
            return Ok(false);
        }
        Move::Tell(next) => tell(app, proof, &newest, &next).await?,
        Move::Advance => advance(pool, proof, newest.id, now).await?,
        Move::Done => finish(pool, proof, newest.id).await?,
        Move::RollBack(late) => {
            let reason = format!(
                "{} of the planes with it, in wave {}, did not serve within {} s, the first of them {}",
                late.len(),
                newest.rollout.wave + 1,
                config.ready_seconds,
                late.first().map(ToString::to_string).unwrap_or_default()
            );
            tracing::warn!("the image `{}` is taken back: {reason}", newest.image);
            roll_back(app, proof, &newest, &reason).await?;
        }
    }
    Ok(true)
}

async fn find_newest(pool: &PgPool, _proof: &System) -> Result<Option<Newest>, sqlx::Error> {
    let row: Option<(i64, String, String, i32, DateTime<Utc>)> =
        sqlx::query_as("select id, image, state, wave, wave_since from plane_rollouts order by id desc limit 1")
            .fetch_optional(pool)
            .await?;
    Ok(row.map(|(id, image, state, wave, since)| Newest {
        id,
        image,
        state,
        rollout: Rollout {
            wave: u32::try_from(wave).unwrap_or(0),
            since,
        },
    }))
}

async fn insert(
    pool: &PgPool,
    _proof: &System,
    image: &str,
    state: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    // Planes that have no image of their own keep the one that they have.
    sqlx::query(
        "with made as (insert into plane_rollouts (image, state, wave_since) values ($1, $2, $3)
                       on conflict do nothing returning id)
         update planes set image = coalesce(
             (select r.image from plane_rollouts r where r.state = 'done' order by r.id desc limit 1), $1)
         where image is null and wanted <> 'deleted' and exists (select from made)",
    )
    .bind(image)
    .bind(state)
    .bind(now)
    .execute(pool)
    .await
    .map(|_| ())
}

async fn list_standings(
    pool: &PgPool,
    _proof: &System,
    rollout: i64,
    now: DateTime<Utc>,
) -> Result<Vec<(OrganizationId, Standing)>, sqlx::Error> {
    sqlx::query(LOOK).bind(rollout).bind(now).execute(pool).await?;
    let rows: Vec<(Text<OrganizationId>, String, Option<DateTime<Utc>>)> =
        sqlx::query_as(STANDING).bind(rollout).fetch_all(pool).await?;
    let standing = |word: &str, since: Option<DateTime<Utc>>| match (word, since) {
        ("running", _) => Standing::Running,
        ("silent", _) => Standing::Silent,
        ("moving", Some(since)) => Standing::Moving { since },
        _ => Standing::Moved,
    };
    Ok(rows
        .into_iter()
        .map(|(id, word, since)| (id.0, standing(&word, since)))
        .collect())
}

async fn tell(app: &App, proof: &System, newest: &Newest, next: &[OrganizationId]) -> Result<(), sqlx::Error> {
    let ids: Vec<String> = next.iter().map(ToString::to_string).collect();
    let mut tx = app.pool.begin().await?;
    sqlx::query(
        "update planes set image_before = image, image = $2, rollout_id = $3, generation = generation + 1,
             rollout_excused = wanted = 'running' and state <> 'ready',
             rollout_unready_since = case when wanted = 'running' then $4 end
         where organization_id = any($1) and wanted <> 'deleted' and rollout_id is distinct from $3",
    )
    .bind(&ids)
    .bind(&newest.image)
    .bind(newest.id)
    .bind(app.environment.now())
    .execute(&mut *tx)
    .await?;
    sqlx::query("update plane_rollouts set wave_since = $2 where id = $1")
        .bind(newest.id)
        .bind(app.environment.now())
        .execute(&mut *tx)
        .await?;
    let detail = format!("gets the image `{}`", newest.image);
    queries::insert_events(&mut tx, proof, next, "upgraded", &detail, app.environment.now()).await?;
    tx.commit().await?;
    for organization in next {
        app.planes.signal(*organization);
    }
    Ok(())
}

/// The time in which all must serve begins anew.
async fn hold(pool: &PgPool, _proof: &System, rollout: i64, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query("update plane_rollouts set wave_since = $2 where id = $1 and state = 'running'")
        .bind(rollout)
        .bind(now)
        .execute(pool)
        .await
        .map(|_| ())
}

async fn advance(pool: &PgPool, _proof: &System, rollout: i64, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query("update plane_rollouts set wave = wave + 1, wave_since = $2 where id = $1 and state = 'running'")
        .bind(rollout)
        .bind(now)
        .execute(pool)
        .await
        .map(|_| ())
}

async fn finish(pool: &PgPool, _proof: &System, rollout: i64) -> Result<(), sqlx::Error> {
    sqlx::query("update plane_rollouts set state = 'done' where id = $1 and state = 'running'")
        .bind(rollout)
        .execute(pool)
        .await
        .map(|_| ())
}

async fn roll_back(app: &App, proof: &System, newest: &Newest, reason: &str) -> Result<(), sqlx::Error> {
    let mut tx = app.pool.begin().await?;
    let back: Vec<(Text<OrganizationId>,)> = sqlx::query_as(
        "update planes set image = image_before, rollout_id = null, rollout_unready_since = null, rollout_excused = false,
             generation = generation + 1, next_try_at = null
         where rollout_id = $1 and wanted <> 'deleted' returning organization_id",
    )
    .bind(newest.id)
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query("update plane_rollouts set state = 'rolled_back', reason = $2 where id = $1")
        .bind(newest.id)
        .bind(reason)
        .execute(&mut *tx)
        .await?;
    let back: Vec<OrganizationId> = back.into_iter().map(|(id,)| id.0).collect();
    let detail = format!("has the image that it had before again: {reason}");
    queries::insert_events(&mut tx, proof, &back, "rolled_back", &detail, app.environment.now()).await?;
    tx.commit().await?;
    for organization in back {
        app.planes.signal(organization);
    }
    Ok(())
}
