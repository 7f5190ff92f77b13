//! New images of planes: `provisioner::waves` says who gets it next, here it is written down. A rollout begins when the configuration
//! names another image than the newest rollout; one that was taken back is not tried again before it names yet another.

use chrono::{DateTime, Utc};
use contract::cloud::WavesConfig;
use contract::ids::OrganizationId;
use provisioner::waves::{self, Move, Now, Part, Rollout, Standing, Told};
use sqlx::PgPool;

use super::queries;
use crate::app::App;
use crate::authz::System;
use crate::database::Text;

/// What a plane's row says of itself and of the rollout that runs.
const PLANES: &str =
    "select organization_id, wanted = 'running' as runs, state = 'ready' and seen_generation >= generation as ready,
         case when rollout_id = $1 then rollout_part end as part, rollout_ready_since, rollout_unready_since
     from planes where wanted <> 'deleted' order by number";

/// A row of [`PLANES`].
#[derive(sqlx::FromRow)]
struct Row {
    organization_id: Text<OrganizationId>,
    runs: bool,
    ready: bool,
    part: Option<String>,
    rollout_ready_since: Option<DateTime<Utc>>,
    rollout_unready_since: Option<DateTime<Utc>>,
}

impl Row {
    const fn now(&self) -> Now {
        match (self.runs, self.ready) {
            (true, true) => Now::Serves,
            (true, false) => Now::Fails,
            (false, _) => Now::Sleeps,
        }
    }

    /// What was known of it at the last look, if it was told.
    fn told(&self) -> Option<Told> {
        let part = match self.part.as_deref()? {
            "awaited" => Part::Awaited,
            "excused" => Part::Excused,
            _ => Part::Trusted,
        };
        Some(Told {
            part,
            ready_since: self.rollout_ready_since,
            unready_since: self.rollout_unready_since,
        })
    }
}

const fn word(part: Part) -> &'static str {
    match part {
        Part::Awaited => "awaited",
        Part::Excused => "excused",
        Part::Trusted => "trusted",
    }
}

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
    let planes = look(pool, proof, newest.id, config, now).await?;
    match waves::next(&newest.rollout, &planes, config, now) {
        Move::Wait => return Ok(false),
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

/// Looks at all planes, and remembers what is new of those that have the image.
async fn look(
    pool: &PgPool,
    _proof: &System,
    rollout: i64,
    config: &WavesConfig,
    now: DateTime<Utc>,
) -> Result<Vec<(OrganizationId, Standing)>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(PLANES).bind(rollout).fetch_all(pool).await?;
    let mut all = Vec::new();
    for row in rows {
        let id = row.organization_id.0;
        let standing = match row.told() {
            None if row.runs && row.ready => Standing::Running,
            None => Standing::Silent,
            Some(before) => {
                let told = before.seen(row.now(), config, now);
                if told != before {
                    remember(pool, rollout, id, &told).await?;
                }
                Standing::Told(told)
            }
        };
        all.push((id, standing));
    }
    Ok(all)
}

async fn remember(pool: &PgPool, rollout: i64, organization: OrganizationId, told: &Told) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update planes set rollout_part = $3, rollout_ready_since = $4, rollout_unready_since = $5
         where organization_id = $2 and rollout_id = $1",
    )
    .bind(rollout)
    .bind(organization.to_string())
    .bind(word(told.part))
    .bind(told.ready_since)
    .bind(told.unready_since)
    .execute(pool)
    .await
    .map(|_| ())
}

async fn tell(app: &App, proof: &System, newest: &Newest, next: &[OrganizationId]) -> Result<(), sqlx::Error> {
    let ids: Vec<String> = next.iter().map(ToString::to_string).collect();
    let mut tx = app.pool.begin().await?;
    sqlx::query(
        "update planes set image_before = image, image = $2, rollout_id = $3, generation = generation + 1,
             rollout_part = case when wanted <> 'running' then 'trusted' when state = 'ready' then 'awaited' else 'excused' end,
             rollout_ready_since = null, rollout_unready_since = case when wanted = 'running' then $4 end
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
        "update planes set image = image_before, rollout_id = null, rollout_part = null,
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
