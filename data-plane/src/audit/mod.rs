//! The plane's audit trail: one row for each change that is not a commit itself (a commit says by itself who made it), written
//! last in the change's own transaction and chained by hash in the format of `contract::audit`. It is a chain of its own beside
//! the control plane's, which signs how far it goes.

mod queries;
pub mod routes;

use contract::audit::{Entry, Trail};

use crate::call::Call;
use crate::failure::Answer;
use crate::permissions::System;
use crate::plane::{Plane, Tx};

const RECORDS: System = System::because("whoever was allowed to change something leaves a row that says so");
/// What a row says of a person's credential; the token's id is that of the session or API token it was exchanged from.
const VIA: &str = "access token";

/// Who did something.
struct Who<'a> {
    id: &'a str,
    name: &'a str,
    token: &'a str,
    via: &'a str,
    request_id: &'a str,
}

impl Call {
    /// Writes the row of a change that the caller made. The last thing in its transaction: it locks the chain.
    ///
    /// # Errors
    /// When the database fails; then the change must fail too.
    pub async fn record(&self, tx: &mut Tx, action: &str, subject: &str) -> Answer<()> {
        let actor = self.actor();
        let who = Who {
            id: &actor.id.to_string(),
            name: &actor.name,
            token: &actor.token.to_string(),
            via: VIA,
            request_id: self.request_id(),
        };
        record(&self.plane, tx, &who, (action, subject)).await
    }
}

/// Writes the row of a change that the plane made by itself.
///
/// # Errors
/// As [`Call::record`].
pub async fn record_own(plane: &Plane, tx: &mut Tx, action: &str, subject: &str) -> Answer<()> {
    let who = Who {
        id: "data-plane",
        name: "data plane",
        token: "",
        via: "",
        request_id: "",
    };
    record(plane, tx, &who, (action, subject)).await
}

async fn record(plane: &Plane, tx: &mut Tx, who: &Who<'_>, (action, subject): (&str, &str)) -> Answer<()> {
    let (seq, prev_hash) = queries::lock_chain(tx, &RECORDS).await?;
    let entry = Entry {
        trail: Trail::Plane,
        organization: plane.organization,
        seq,
        at: plane.now(),
        actor: who.id,
        actor_name: who.name,
        token: who.token,
        via: who.via,
        action,
        subject,
        request_id: who.request_id,
        // A plane sees the gateway's address, and believes no header about another.
        address: "",
    };
    queries::insert_event(tx, &RECORDS, &entry, &prev_hash).await?;
    tracing::info!(
        actor.id = who.id,
        audit.action = action,
        "{} {action}: {subject}",
        who.name
    );
    Ok(())
}
