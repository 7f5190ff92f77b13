//! Origin sets as rows: interned in the transaction that makes the commit (R3), read once and kept, since they never
//! change.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use provenance::origins::OriginSet;
use sqlx::PgConnection;

use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::Plane;

/// Origin sets by their row's id.
#[derive(Default)]
pub struct OriginSets(RwLock<HashMap<i64, Arc<OriginSet>>>);

impl OriginSets {
    fn known(&self, id: i64) -> Option<Arc<OriginSet>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn remember(&self, id: i64, set: &Arc<OriginSet>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(id, Arc::clone(set));
    }
}

/// The id of the row that holds this set, which is inserted if it is new.
///
/// # Errors
/// When the database is away.
pub async fn intern(conn: &mut PgConnection, _: &System, set: &OriginSet) -> Answer<i64> {
    // The update changes nothing; without it a row that is there would not be returned.
    let id = sqlx::query_scalar::<_, i64>(
        "insert into origin_sets (digest, entries) values ($1, $2)
         on conflict on constraint origin_sets_digest_unique do update set digest = excluded.digest
         returning id",
    )
    .bind(&set.digest()[..])
    .bind(set.encode())
    .fetch_one(conn)
    .await?;
    Ok(id)
}

/// The set of that row.
///
/// # Errors
/// `corrupt` when it is missing or does not decode: then nobody may read what has it (R2).
pub async fn get(plane: &Plane, conn: &mut PgConnection, _: &System, id: i64) -> Answer<Arc<OriginSet>> {
    if let Some(set) = plane.origin_sets.known(id) {
        return Ok(set);
    }
    let entries = sqlx::query_scalar::<_, Vec<u8>>("select entries from origin_sets where id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await?;
    let entries = entries.ok_or_else(|| damaged(id, "its row is missing"))?;
    let set = Arc::new(OriginSet::decode(&entries).map_err(|e| damaged(id, &e.to_string()))?);
    // A row of a transaction that is undone later does no harm here: its id is never given again.
    plane.origin_sets.remember(id, &set);
    Ok(set)
}

fn damaged(id: i64, why: &str) -> Failure {
    Failure::new(
        contract::problem::ProblemKind::Corrupt,
        format!("origin set {id} is damaged: {why}"),
    )
}
