//! How people prove who they are: verification, passwords, second factors, passkeys, sessions, mails that wait.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::ids::{AccountId, MailId, PasskeyId, TokenId};

/// A code was mailed. The same for addresses that are known and those that are not.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CodeMailed {
    /// The address.
    pub email: String,
    /// What to do next.
    pub next: String,
}

/// Finishes a sign-up: the code that was mailed and the password that was chosen, so that neither alone makes an account.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifySignUp {
    /// `hwd_cod_…`.
    pub code: String,
    /// The password of the sign-up.
    pub password: String,
}

/// A code that was mailed.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MailedCode {
    /// `hwd_cod_…`.
    pub code: String,
}

/// An address.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForAddress {
    /// The address.
    pub email: String,
}

/// Sets a new password by a code that was mailed.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetPassword {
    /// `hwd_cod_…`.
    pub code: String,
    /// The new password.
    pub password: String,
}

/// Sets a new password.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// The new password.
    pub password: String,
}

/// Proves who holds a session.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProveIdentity {
    /// The password.
    pub password: String,
    /// A code of the second factor, or a recovery code, where the account has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_factor: Option<String>,
}

/// Who holds the session was proved.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Proved {
    /// Until when dangerous things are done without asking again.
    pub until: DateTime<Utc>,
}

/// A session as its holder sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// Its id.
    pub id: TokenId,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// When it was used last, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was proved last who holds it.
    pub proved_at: DateTime<Utc>,
    /// What the program that logged in calls itself.
    #[serde(default)]
    pub user_agent: String,
    /// From where it was made.
    #[serde(default)]
    pub address: String,
    /// Whether it is the one that asks.
    pub current: bool,
}

/// Sessions were ended.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionsEnded {
    /// How many.
    pub ended: u64,
}

/// A mail that the service wrote, as whoever operates the installation sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MailView {
    /// Its id.
    pub id: MailId,
    /// What it is about, a fixed word.
    pub kind: String,
    /// For whom.
    pub recipient: String,
    /// Its subject.
    pub subject: String,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// `waiting`, `sent` or `failed`; `kept` where there is no server to send it by.
    pub state: String,
    /// How often sending was tried.
    pub tries: u32,
    /// Why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it says, until it is sent; where one mail was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Where a browser on this machine shows the outbox.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OutboxLink {
    /// The address, with a secret behind `#` that is good for a few minutes.
    pub url: String,
    /// Until when.
    pub expires_at: DateTime<Utc>,
}

/// A second factor that is to be confirmed by its first code. Shown once.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct TotpBegun {
    /// The secret in base32, to be typed into an authenticator.
    pub secret: String,
    /// The same as an `otpauth:` address, for a QR code.
    pub url: String,
}

/// The code that an authenticator shows.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TotpCode {
    /// Six digits.
    pub code: String,
}

/// Recovery codes: each takes the place of a second factor once. Shown once.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct RecoveryCodes {
    /// The codes.
    pub recovery_codes: Vec<String>,
}

/// Which second factors an account has.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SecondFactors {
    /// Whether codes of an authenticator are asked for.
    pub totp: bool,
    /// How many recovery codes are left.
    pub recovery_codes_left: u32,
}

/// How one can log in here.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogInMethods {
    /// By address and password.
    pub password: bool,
    /// By passkey.
    pub passkeys: bool,
    /// By others.
    pub providers: Vec<LogInProvider>,
}

/// Somebody else who says who people are.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogInProvider {
    /// Its name in addresses.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// Where a browser begins.
    pub url: String,
}

/// A passkey as its holder sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PasskeyView {
    /// Its id.
    pub id: PasskeyId,
    /// Its name.
    pub name: String,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
    /// When it was used last.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// An identity at another provider that may log in to the account.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LinkedIdentity {
    /// The provider's issuer.
    pub issuer: String,
    /// Who it is there.
    pub subject: String,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

/// Something that happened to an account, chained by hash to what happened before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccountEvent {
    /// Its number, from 1 without gaps.
    pub seq: u64,
    /// When.
    pub at: DateTime<Utc>,
    /// `noun.verb`.
    pub action: String,
    /// What about it, in words.
    pub subject: String,
    /// The session or token that was used; empty where none was.
    pub token: String,
    /// From where it was asked.
    pub address: String,
    /// The hash of the event before it, in hex; empty for the first one.
    pub prev_hash: String,
    /// Its own hash, in hex.
    pub hash: String,
}

impl AccountEvent {
    /// The hash that this event must have, in hex: of the one before it and of everything that it says, each part with its length.
    #[must_use]
    pub fn link(&self, account: AccountId) -> String {
        let mut hasher = Sha256::new();
        let at = self.at.timestamp_micros().to_be_bytes();
        for part in [
            self.prev_hash.as_bytes(),
            account.to_string().as_bytes(),
            &self.seq.to_be_bytes(),
            &at,
            self.action.as_bytes(),
            self.subject.as_bytes(),
            self.token.as_bytes(),
            self.address.as_bytes(),
        ] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether these events, newest first, are a chain without gaps. Names the first one that is not as it was written.
    ///
    /// # Errors
    /// The number of that event.
    pub fn check(events: &[Self], account: AccountId) -> Result<(), u64> {
        for (at, event) in events.iter().enumerate() {
            let follows = events
                .get(at + 1)
                .is_none_or(|before| before.seq + 1 == event.seq && before.hash == event.prev_hash);
            if !follows || event.link(account) != event.hash {
                return Err(event.seq);
            }
        }
        match events.last() {
            Some(first) if first.seq == 1 && !first.prev_hash.is_empty() => Err(1),
            _ => Ok(()),
        }
    }
}
