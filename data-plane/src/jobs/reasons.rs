//! Why jobs failed, told to whom may read what they read. A reason quotes file names and errors of inputs, and a release may
//! open an output without opening its inputs; so the origins of the inputs are asked and not only those of the output.

use std::collections::{BTreeSet, HashSet};

use provenance::access::in_words;
use sqlx::PgConnection;
use uuid::Uuid;

use super::queries;
use crate::call::Call;
use crate::failure::Answer;
use crate::permissions::{Rights, System};

const DECIDE: System = System::because("origin sets are read in order to decide about what has them");
/// What stands in the place of what may not be told.
pub const RESTRICTED: &str = "restricted";

/// Of these commits, those that were made from no input that is hidden from the caller. One that no job makes has none.
///
/// # Errors
/// When the database is away or an origin set is damaged.
pub async fn open_to(call: &Call, conn: &mut PgConnection, outputs: &[Uuid]) -> Answer<HashSet<Uuid>> {
    let mut open: HashSet<Uuid> = outputs.iter().copied().collect();
    if open.is_empty() {
        return Ok(open);
    }
    let inputs = queries::input_sets(conn, &DECIDE, outputs).await?;
    let sets: BTreeSet<i64> = inputs.iter().map(|(_, set)| *set).collect();
    let readable = call.readable_among(conn, sets.into_iter().collect()).await?;
    for (output, set) in inputs {
        if !readable.contains(&set) {
            open.remove(&output);
        }
    }
    Ok(open)
}

/// A reason as this caller is told it: domains by the names that he may know.
pub fn told(rights: &Rights, reason: Option<String>, open: bool) -> Option<String> {
    reason.map(|reason| {
        if open {
            in_words(&rights.policy, &rights.subject, &reason)
        } else {
            RESTRICTED.to_owned()
        }
    })
}
