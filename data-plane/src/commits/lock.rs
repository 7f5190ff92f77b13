//! The plane's lock for its DAG. Whoever moves branch heads, makes commits of a set or changes pipelines holds it, so
//! that propagation sees one state of the DAG. Held for one short transaction, released by its end.

use crate::failure::Answer;
use crate::plane::Tx;

/// Any number that nothing else in the tenant's database uses.
const DAG: i64 = 0x686f_7764_6168;

/// Waits for the lock; it is released when the transaction ends.
///
/// # Errors
/// When the database is away.
pub async fn lock_dag(tx: &mut Tx) -> Answer<()> {
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(DAG)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
