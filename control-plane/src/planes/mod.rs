//! Data planes: one per organization, with a database, a role, a bucket and a process of its own. What ought to be stands
//! in the table `planes`; the reconciler looks at what is, plans (`plan`, pure) and acts (`cloud`), by signal and by
//! timer, until both are the same. Who needs a plane wakes it and waits.

pub(crate) mod cluster;
mod ledger;
pub mod live;
pub mod local;
mod operating;
pub mod queries;
pub mod reconciler;
pub mod rollouts;
mod routes;
mod summaries;

use contract::ids::OrganizationId;
use contract::problem::ProblemKind;
use contract::token::{SecretToken, TokenKind};
pub use live::{Planes, Route};
use queries::Wish;
pub use routes::router;

use crate::app::App;
use crate::authz::System;
use crate::database::Tx;
use crate::refusal::Refusal;

/// How long a request waits for a plane that is being started.
const WAKE_WAIT: std::time::Duration = std::time::Duration::from_secs(20);

/// What the plane's database password is encrypted for.
pub(crate) fn password_purpose(organization: OrganizationId) -> String {
    format!("plane-database:{organization}")
}

/// What the key of the plane's packs is encrypted for.
pub(crate) fn data_key_purpose(organization: OrganizationId) -> String {
    format!("plane-data:{organization}")
}

/// Enqueues the plane of a new organization, in the transaction that makes the organization.
pub(crate) async fn enqueue(
    app: &App,
    tx: &mut Tx,
    proof: &System,
    organization: OrganizationId,
) -> Result<(), Refusal> {
    // A token's text is 36 characters of base62: a fine password that needs no quoting anywhere.
    let password = SecretToken::generate(TokenKind::Agent, app.environment.random());
    let sealed = app
        .vault
        .seal(
            &app.environment,
            &password_purpose(organization),
            password.expose().as_bytes(),
        )
        .map_err(chassis::http::ApiError::internal)?;
    let data_key: [u8; 32] = app.environment.random();
    let sealed_data_key = app
        .vault
        .seal(&app.environment, &data_key_purpose(organization), &data_key)
        .map_err(chassis::http::ApiError::internal)?;
    let now = app.environment.now();
    queries::insert_plane(tx, proof, organization, &sealed, &sealed_data_key, now).await?;
    Ok(())
}

/// Makes sure that the plane runs and answers where. Waits while it is being started.
///
/// # Errors
/// `plane-starting` when it did not come up in time, with the reason where one is known.
pub async fn wake(app: &App, organization: OrganizationId) -> Result<Route, Refusal> {
    app.planes.note_use(organization, app.environment.now());
    if let Some(route) = app.planes.route(organization) {
        return Ok(route);
    }
    let proof = System::because("a request needs the plane");
    match queries::want_running(&app.pool, &proof, organization).await? {
        Wish::Taken => {}
        Wish::Suspended => {
            return Err(Refusal::new(
                ProblemKind::OrganizationSuspended,
                "the organization is suspended: its data plane is stopped, and everything in it is kept",
            )
            .hint("ask whoever operates the service"));
        }
        Wish::Unknown => return Err(Refusal::not_found()),
    }
    app.planes.signal(organization);
    if let Some(route) = app.planes.wait_for_route(organization, WAKE_WAIT).await {
        return Ok(route);
    }
    let reason = queries::find_obstacle(&app.pool, &proof, organization)
        .await?
        .unwrap_or_else(|| "it takes longer than usual".to_owned());
    Err(Refusal::new(
        ProblemKind::PlaneStarting,
        format!("the data plane of the organization is not up yet: {reason}"),
    )
    .hint("repeat the request in a few seconds; `howdah org show` tells what is in the way if it stays so"))
}
