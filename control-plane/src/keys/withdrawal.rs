//! A key that somebody else has: it is withdrawn everywhere at once. It is published no more, a new one signs, and every organization's
//! policy gets a higher epoch, so that it is signed anew and takes the place of whatever the key has signed. Data planes hear of it with the
//! poll that they wait in; those of the version before meet a policy of a key that they do not know, and read the published keys again.
//! What lives no longer than minutes anyway (access tokens) ends; sessions and API tokens have nothing to do with it.

use anyhow::Context;
use chassis::Environment;
use serde::Serialize;
use sqlx::PgPool;

use super::{PROOF, fresh, queries};
use crate::audit::{self, Event, SystemIn, Who};
use crate::policy;
use crate::vault::Vault;

/// What was done.
#[derive(Debug, Serialize)]
pub struct Withdrawn {
    /// Id of the key that nobody believes any more.
    pub withdrawn: String,
    /// Id of the one that signs from now on.
    pub signs: String,
    /// How many organizations get a policy signed anew.
    pub organizations: usize,
}

/// Withdraws a key. Services that run take it over within a second or two, their data planes at once then.
///
/// # Errors
/// When there is no such key, the database is away, or the master key is not its own; then nothing has changed.
pub async fn withdraw(pool: &PgPool, vault: &Vault, environment: &Environment, kid: &str) -> anyhow::Result<Withdrawn> {
    let now = environment.now();
    let spare = fresh(vault, environment)?;
    let mut tx = pool.begin().await?;
    if let Err(known) = queries::withdraw(&mut tx, &PROOF, kid, &spare, now).await? {
        anyhow::bail!(
            "no key `{kid}` is published, so there is none to withdraw: those that are have the ids {}",
            known.join(", ")
        );
    }
    let changed = policy::queries::bump_all(&mut tx, &PROOF)
        .await
        .context("the policies cannot be signed anew")?;
    for organization in &changed {
        let acting = SystemIn {
            system: &PROOF,
            organization: *organization,
            who: Who::without_token("operator"),
        };
        let event = Event {
            action: "signing_key.withdraw",
            subject: format!("{kid}, as stolen: access tokens that it signed have ended"),
            at: now,
        };
        audit::record(&mut tx, &acting, &event).await?;
    }
    tx.commit().await?;
    Ok(Withdrawn {
        withdrawn: kid.to_owned(),
        signs: spare.kid,
        organizations: changed.len(),
    })
}
