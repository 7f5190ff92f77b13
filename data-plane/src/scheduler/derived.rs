//! Rows that are derived from what is kept elsewhere, the indexes of keys and the states of appended outputs: there may be
//! millions below one parent. So a parent that is not to be read any more is only marked as gone where locks are held, and
//! its rows go here, in batches of transactions of their own. Nothing is written below one that is gone.

use sqlx::PgConnection;

use crate::failure::Answer;
use crate::permissions::System;
use crate::plane::Plane;

/// So many rows go at once.
const BATCH: i64 = 20_000;

struct Kind {
    parents: &'static str,
    rows: &'static str,
    parent: &'static str,
}

macro_rules! kind {
    ($parents:literal, $rows:literal, $id:literal) => {
        Kind {
            parents: concat!("select id from ", $parents, " where gone"),
            rows: concat!(
                "delete from ",
                $rows,
                " where ctid = any (array(select ctid from ",
                $rows,
                " where ",
                $id,
                " = $1 limit $2))"
            ),
            parent: concat!("delete from ", $parents, " where id = $1"),
        }
    };
}

const KINDS: [Kind; 2] = [
    kind!("leaf_indexes", "leaf_keys", "index_id"),
    kind!("append_states", "appended", "state_id"),
];

/// Held by who clears: of two at the same rows one would find none left and delete their parent with all the others.
static CLEARING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Deletes what is gone. Dying on the way leaves the rest to the next time.
///
/// # Errors
/// When the database is away.
pub async fn clear(plane: &Plane) -> Answer<()> {
    let _alone = CLEARING.lock().await;
    clear_alone(plane).await
}

async fn clear_alone(plane: &Plane) -> Answer<()> {
    let mut conn = plane.pool.acquire().await?;
    for kind in KINDS {
        let parents: Vec<i64> = sqlx::query_scalar(kind.parents).fetch_all(&mut *conn).await?;
        for parent in parents {
            loop {
                let delete = sqlx::query(kind.rows).bind(parent).bind(BATCH);
                if delete.execute(&mut *conn).await?.rows_affected() == 0 {
                    break;
                }
            }
            sqlx::query(kind.parent).bind(parent).execute(&mut *conn).await?;
        }
    }
    Ok(())
}

/// [`clear`] where it may as well be done later: garbage is collected every day.
pub async fn clear_if_possible(plane: &Plane) {
    let Ok(_alone) = CLEARING.try_lock() else { return };
    if let Err(error) = clear_alone(plane).await {
        tracing::warn!("rows that nobody reads any more were not deleted: {error}");
    }
}

/// Whether nothing that is gone is left.
///
/// # Errors
/// When the database is away.
pub async fn is_clear(conn: &mut PgConnection, _: &System) -> Answer<bool> {
    let left: Vec<i64> = sqlx::query_scalar(
        "(select id from leaf_indexes where gone limit 1) union all (select id from append_states where gone limit 1)",
    )
    .fetch_all(conn)
    .await?;
    Ok(left.is_empty())
}
