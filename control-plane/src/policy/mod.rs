//! The policy of an organization: its epoch, the snapshot that its data plane enforces, and the waiting on both sides. An
//! epoch grows in the transaction of the change itself; polls that wait are woken in this process and look into the
//! database now and then for changes that another process made.

pub mod queries;
mod routes;
pub mod subjects;
mod waiting;

use std::time::Duration;

use axum::http::StatusCode;
use chassis::http::Json;
use contract::ids::OrganizationId;
use contract::policy::Principal;
pub use routes::router;
use serde::Serialize;
pub use waiting::Announcer;

use crate::app::App;
use crate::audit::Acting;
use crate::authz::{Actor, System};
use crate::call::Call;
use crate::database::Tx;
use crate::refusal::Refusal;

/// How long the deletion of a grant waits for the data plane to say that it enforces it.
const ACKNOWLEDGEMENT_WAIT: Duration = Duration::from_secs(2);
/// For how long a revoked session or token is named in snapshots: longer than an access token lives.
pub const REVOKED_TOKENS_KEPT: chrono::Duration = chrono::Duration::minutes(15);

/// Bumps the epoch, commits, and tells everybody who waits. Answers the new epoch.
///
/// # Errors
/// When the database fails; then nothing has changed.
pub async fn commit(app: &App, mut tx: Tx, proof: &impl Acting) -> Result<u64, Refusal> {
    let epoch = queries::bump(&mut tx, proof).await?;
    tx.commit().await?;
    app.policy.announce(proof.organization(), epoch);
    Ok(epoch)
}

/// [`commit`] together with the answer to the request, which is kept for who sends it again.
///
/// # Errors
/// When the database fails; then nothing has changed.
pub async fn commit_answer<T: Serialize>(
    call: &Call,
    mut tx: Tx,
    proof: &impl Acting,
    status: StatusCode,
    answer: T,
) -> Result<(StatusCode, Json<T>), Refusal> {
    call.keep(&mut tx, status, &answer).await?;
    commit(&call.app, tx, proof).await?;
    Ok((status, Json(answer)))
}

/// Bumps the epochs of all organizations of the caller, because one of his sessions or tokens was revoked.
///
/// # Errors
/// When the database fails.
pub async fn bump_own(tx: &mut Tx, actor: &Actor) -> Result<Vec<(OrganizationId, u64)>, Refusal> {
    let proof = System::because("the caller's own sessions and tokens end");
    Ok(queries::bump_of(tx, &proof, actor.principal()).await?)
}

/// Bumps the epochs of all organizations of a principal, because something of what is known of it there has changed.
///
/// # Errors
/// When the database fails.
pub async fn bump_of(tx: &mut Tx, proof: &System, principal: Principal) -> Result<Vec<(OrganizationId, u64)>, Refusal> {
    Ok(queries::bump_of(tx, proof, principal).await?)
}

/// Waits a little for the data plane to enforce the epoch. `None` when it is asleep: it reads the policy before it serves.
///
/// # Errors
/// When the database fails.
pub async fn wait_for_acknowledgement(app: &App, proof: &impl Acting, epoch: u64) -> Result<Option<bool>, Refusal> {
    if !app.planes.is_running(proof.organization()) {
        return Ok(None);
    }
    Ok(Some(
        app.policy
            .wait_acknowledged(proof.organization(), epoch, ACKNOWLEDGEMENT_WAIT)
            .await,
    ))
}
