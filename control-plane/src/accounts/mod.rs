//! People: addresses, passwords, sign-up. What an address or password may be is decided here without I/O; hashing runs
//! beside the request threads and never more of it at once than memory allows.

mod address;
mod deletion;
mod password;
pub mod passwords;
pub mod queries;
mod routes;
mod sign_ups;

use std::collections::HashSet;
use std::sync::LazyLock;

use contract::problem::ProblemKind;
pub use routes::router;

use crate::authz::Proven;
use crate::database::Tx;
use crate::refusal::Refusal;

const EMAIL_LENGTH_MAX: usize = 254;
const PASSWORD_LENGTH_MIN: usize = 8;
const PASSWORD_LENGTH_MAX: usize = 512;

static COMMON_PASSWORDS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| include_str!("common_passwords.txt").lines().collect());

/// Refuses what would leave an account without a way to log in.
///
/// # Errors
/// `conflict` when there would be none.
pub(crate) async fn keeps_a_log_in(tx: &mut Tx, proven: &Proven) -> Result<(), Refusal> {
    if queries::has_log_in(tx, proven).await? {
        return Ok(());
    }
    Err(
        Refusal::new(ProblemKind::Conflict, "that is the last way to log in to the account")
            .hint("set a password first: `howdah account reset-password --email ADDRESS`"),
    )
}

/// An e-mail address as it was written, and the key by which it is unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailAddress {
    written: String,
}

/// A text that is not an e-mail address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an e-mail address: write it like `ada@example.org`")]
pub struct ParseEmailError(String);

impl std::str::FromStr for EmailAddress {
    type Err = ParseEmailError;

    fn from_str(text: &str) -> Result<Self, ParseEmailError> {
        let wrong = || ParseEmailError(text.chars().take(80).collect());
        let text = text.trim();
        let (local, domain) = text.rsplit_once('@').ok_or_else(wrong)?;
        let local_ok = !local.is_empty()
            && local.len() <= 64
            && !local.starts_with('.')
            && !local.ends_with('.')
            && !local.contains("..")
            && local
                .chars()
                .all(|c| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c));
        let label_ok = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_alphanumeric() || c == '-')
        };
        // Some letters elsewhere are written small like one of ASCII: two mailboxes would be one account.
        let one_case = text.to_lowercase() == text.to_ascii_lowercase();
        if one_case && local_ok && domain.split('.').all(label_ok) && text.len() <= EMAIL_LENGTH_MAX {
            return Ok(Self {
                written: text.to_owned(),
            });
        }
        Err(wrong())
    }
}

impl EmailAddress {
    /// The address as it was written.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// The form by which it is unique: addresses that differ in case only are one.
    pub fn key(&self) -> String {
        self.written.to_lowercase()
    }
}

/// Why a password is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    /// Under 8 characters.
    #[error("the password is too short: use at least 8 characters")]
    TooShort,
    /// Over 512 bytes.
    #[error("the password is too long: use at most 512 bytes")]
    TooLong,
    /// Among the first that anybody would try.
    #[error("the password is among the most common ones: use another, for example four random words")]
    Common,
    /// The address itself.
    #[error("the password is the e-mail address: use another, for example four random words")]
    Address,
}

/// Whether a password may be chosen for that address.
///
/// # Errors
/// Why not.
pub fn check_password(password: &str, email: &EmailAddress) -> Result<(), WeakPassword> {
    let lower = password.to_lowercase();
    let local = email.key();
    let local = local.split('@').next().unwrap_or_default();
    if password.chars().count() < PASSWORD_LENGTH_MIN {
        Err(WeakPassword::TooShort)
    } else if password.len() > PASSWORD_LENGTH_MAX {
        Err(WeakPassword::TooLong)
    } else if COMMON_PASSWORDS.contains(lower.as_str()) {
        Err(WeakPassword::Common)
    } else if lower == email.key() || lower == local {
        Err(WeakPassword::Address)
    } else {
        Ok(())
    }
}

impl From<ParseEmailError> for Refusal {
    fn from(error: ParseEmailError) -> Self {
        Self::invalid("/email", error.to_string())
    }
}

impl From<WeakPassword> for Refusal {
    fn from(error: WeakPassword) -> Self {
        Self::invalid("/password", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_compared_without_case() {
        for good in [
            "ada@example.test",
            "a.b+c@x-y.example",
            "me@localhost",
            " ada@example.test ",
        ] {
            assert!(good.parse::<EmailAddress>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "ada",
            "@x.y",
            "a@",
            "a b@x.y",
            "a@x..y",
            ".a@x.y",
            "a@-x.y",
            "a@x.y\n@z",
            "a@b@c d",
            "mi\u{212a}e@x.y",
            "ada@\u{212b}.y",
        ] {
            assert!(bad.parse::<EmailAddress>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "Ada@Example.Test".parse::<EmailAddress>().unwrap().key(),
            "ada@example.test"
        );
    }

    #[test]
    fn weak_passwords_are_refused_with_the_reason() {
        let email = "adalovelace@example.test".parse().unwrap();
        for (password, expected) in [
            ("short12", Err(WeakPassword::TooShort)),
            ("Password1", Err(WeakPassword::Common)),
            ("adalovelace", Err(WeakPassword::Address)),
            ("correct horse battery", Ok(())),
            ("päßwörtchen", Ok(())),
        ] {
            assert_eq!(check_password(password, &email), expected, "{password}");
        }
        assert_eq!(check_password(&"x".repeat(513), &email), Err(WeakPassword::TooLong));
    }
}
