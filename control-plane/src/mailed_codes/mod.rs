//! Codes that are mailed to an address: who sends one back has read what came there. Each is for one thing, good once and for a
//! while; only its digest is stored. Whatever is wrong with one, the answer is the same.

mod queries;

use chrono::{DateTime, Duration, Utc};
use contract::ids::AccountId;
use contract::token::{SecretToken, TokenKind};

use crate::accounts::EmailAddress;
use crate::app::App;
use crate::authz::System;
use crate::database::Tx;
use crate::refusal::Refusal;

/// What a code is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Shows that an account's address is read by its holder.
    VerifyAddress,
    /// Sets a new password.
    ResetPassword,
    /// Makes another address the account's.
    NewAddress,
    /// Takes that back.
    UndoAddress,
    /// Lets an identity at a provider log in to the account.
    LinkIdentity,
}

impl Purpose {
    const ALL: [Self; 5] = [
        Self::VerifyAddress,
        Self::ResetPassword,
        Self::NewAddress,
        Self::UndoAddress,
        Self::LinkIdentity,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::VerifyAddress => "verify-address",
            Self::ResetPassword => "reset-password",
            Self::NewAddress => "new-address",
            Self::UndoAddress => "undo-address",
            Self::LinkIdentity => "link-identity",
        }
    }

    /// For how long the code is good.
    fn lifetime(self) -> Duration {
        match self {
            Self::VerifyAddress | Self::NewAddress => Duration::hours(24),
            Self::ResetPassword | Self::LinkIdentity => Duration::hours(1),
            Self::UndoAddress => Duration::days(7),
        }
    }
}

/// A word that no code is for.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no purpose of a code")]
pub struct ParsePurposeError(String);

impl std::str::FromStr for Purpose {
    type Err = ParsePurposeError;

    fn from_str(text: &str) -> Result<Self, ParsePurposeError> {
        let found = Self::ALL.into_iter().find(|purpose| purpose.as_str() == text);
        found.ok_or_else(|| ParsePurposeError(text.to_owned()))
    }
}

/// What a code stands for.
#[derive(Debug)]
pub struct Meaning {
    /// What it is for.
    pub purpose: Purpose,
    /// Whose account; `None` for a code that nobody gets.
    pub account: Option<AccountId>,
    /// The address that it proves, or leads back to.
    pub email: EmailAddress,
    /// For `LinkIdentity`: issuer and subject.
    pub identity: Option<(String, String)>,
}

/// A code that came back.
#[derive(Debug)]
pub struct Taken {
    /// What it is for.
    pub purpose: Purpose,
    /// Whose account.
    pub account: AccountId,
    /// The address that it proves, or leads back to.
    pub email: EmailAddress,
    /// For `LinkIdentity`: issuer and subject.
    pub identity: Option<(String, String)>,
    /// When it was made.
    pub made_at: DateTime<Utc>,
}

/// A code as it came in.
///
/// # Errors
/// When it cannot be one.
pub fn parse(text: &str) -> Result<SecretToken, Refusal> {
    let code = text.trim().parse::<SecretToken>().ok();
    code.filter(|code| code.kind() == TokenKind::Code).ok_or_else(wrong)
}

/// The one answer for a code that does nothing.
pub fn wrong() -> Refusal {
    Refusal::invalid("/code", "the code is not known, was used, or is too old").hint("ask for another mail")
}

/// Makes a code. Its mail is the caller's to write.
///
/// # Errors
/// When the database fails.
pub async fn make(app: &App, tx: &mut Tx, proof: &System, meaning: &Meaning) -> Result<SecretToken, Refusal> {
    let code = SecretToken::generate(TokenKind::Code, app.environment.random());
    let now = app.environment.now();
    queries::insert_code(tx, proof, &code, meaning, now, now + meaning.purpose.lifetime()).await?;
    Ok(code)
}

/// Uses a code up. `purposes`: what the caller can do with it.
///
/// # Errors
/// The one answer when it is not good, or not for that.
pub async fn take(
    app: &App,
    tx: &mut Tx,
    proof: &System,
    code: &SecretToken,
    purposes: &[Purpose],
) -> Result<Taken, Refusal> {
    // Whoever changes the account holds it and then voids its codes: in the same order nobody waits in a circle.
    queries::lock_account_of(tx, proof, code).await?;
    let taken = queries::delete_code(tx, proof, code, purposes, app.environment.now()).await?;
    taken.ok_or_else(wrong)
}

/// Makes codes of an account worthless.
///
/// # Errors
/// When the database fails.
pub async fn void(tx: &mut Tx, proof: &System, account: AccountId, purposes: &[Purpose]) -> Result<(), sqlx::Error> {
    queries::delete_codes_of(tx, proof, account, purposes).await
}

/// Makes worthless what would take back changes of the address that were made since then.
///
/// # Errors
/// When the database fails.
pub async fn void_undo_since(
    tx: &mut Tx,
    proof: &System,
    account: AccountId,
    since: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    queries::delete_undo_since(tx, proof, account, since).await
}

pub use queries::delete_expired;
