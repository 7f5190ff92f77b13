//! Who somebody says he is, and whether his password shows it: for log-ins, and for proofs of a session that is there already.

use chassis::http::ApiError;
use contract::api::Account;
use contract::ids::AccountId;
use contract::problem::ProblemKind;
use secrecy::SecretString;

use crate::accounts;
use crate::app::App;
use crate::authz::System;
use crate::database::Tx;
use crate::refusal::Refusal;

/// Whose password it is to be.
pub(super) enum Claim<'a> {
    /// The account of an address, in the form by which it is unique.
    Address(&'a str),
    /// An account that is known.
    Account(AccountId),
}

/// One answer for an unknown address, a malformed one and a wrong password.
pub(super) fn refused() -> Refusal {
    Refusal::new(
        ProblemKind::SignedOut,
        "there is no account with that address and password",
    )
    .hint("check both, or make an account with `howdah signup`")
}

/// An account whose password was shown, and the hash that it fitted.
pub(super) struct Shown {
    pub account: Account,
    hash: String,
}

/// The account whose password it is.
pub(super) async fn by_password(
    app: &App,
    proof: &System,
    claim: &Claim<'_>,
    password: SecretString,
) -> Result<Shown, Refusal> {
    let mut tx = app.pool.begin().await?;
    let found = match claim {
        Claim::Address(key) => accounts::queries::find_account_by_email(&mut tx, proof, key).await?,
        Claim::Account(id) => accounts::queries::find_account(&mut tx, proof, *id).await?,
    };
    // Nothing is held while the hash is worked out: a crowd of log-ins must not take all connections.
    drop(tx);
    let (account, stored) = found.map_or((None, None), |(account, hash)| (Some(account), hash));
    let fits = app
        .passwords
        .verify(password, stored.clone())
        .await
        .map_err(ApiError::internal)?;
    match (account, stored) {
        (Some(account), Some(hash)) if fits => Ok(Shown { account, hash }),
        _ => Err(refused()),
    }
}

impl Shown {
    /// Refuses a password that was changed while it was worked on: what ended the sessions then would miss the one that is made now.
    pub(super) async fn still_fits(&self, tx: &mut Tx, proof: &System) -> Result<(), Refusal> {
        if accounts::queries::lock_password(tx, proof, self.account.id)
            .await?
            .as_deref()
            == Some(self.hash.as_str())
        {
            return Ok(());
        }
        Err(refused())
    }
}
