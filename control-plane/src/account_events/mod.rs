//! What happened to an account: log-ins, and every change of how it is proved who holds it. Rows are written in the transaction of
//! what they tell and chained by hash, so that a row that is removed or altered later shows to its holder, who can check the chain
//! himself (`contract::api::AccountEvent`).

mod queries;
mod routes;

use chrono::{DateTime, Utc};
use contract::api::AccountEvent;
use contract::ids::{AccountId, TokenId};
pub use routes::router;

use crate::authz::System;
use crate::database::{Tx, unsigned};
use crate::peer::Peer;

/// Something that happens to an account.
#[derive(Debug)]
pub struct Happening<'a> {
    /// To which.
    pub account: AccountId,
    /// `noun.verb`.
    pub action: &'static str,
    /// What about it, in words; never a secret.
    pub subject: String,
    /// The session or token in use.
    pub token: Option<TokenId>,
    /// From where.
    pub peer: &'a Peer,
    /// When.
    pub at: DateTime<Utc>,
}

/// Writes it down.
///
/// # Errors
/// When the database fails; then what happens must fail too.
pub async fn record(tx: &mut Tx, proof: &System, happening: &Happening<'_>) -> Result<(), sqlx::Error> {
    let (seq, prev_hash) = queries::lock_chain(tx, proof, happening.account).await?;
    let mut event = AccountEvent {
        seq: unsigned(seq),
        at: happening.at,
        action: happening.action.to_owned(),
        subject: happening.subject.clone(),
        token: happening.token.map(|id| id.to_string()).unwrap_or_default(),
        address: happening.peer.address.to_string(),
        prev_hash: hex::encode(prev_hash),
        hash: String::new(),
    };
    event.hash = event.link(happening.account);
    queries::insert_event(tx, proof, happening.account, &event).await?;
    tracing::info!(account.id = %happening.account, account.event = happening.action, "{}", happening.action);
    Ok(())
}
