//! API tokens of people (`hwd_pat_…`) and service accounts (`hwd_sat_…`): scoped, expiring, shown once, rotated, revocable by id and
//! by secret. A token makes no token that may more, or longer, than itself. An organization may demand more of those that work in it.

mod found;
pub mod queries;
mod rotation;
mod routes;
mod standing;
mod standing_queries;

use chrono::{DateTime, Duration, Utc};
use contract::claims::Scope;
use contract::policy::Principal;
use contract::token::TokenKind;
pub use routes::router;

use crate::refusal::Refusal;

const DAYS_DEFAULT: u32 = 90;
const DAYS_MAX: u32 = 366;
const NAME_LENGTH_MAX: usize = 100;

/// When a token that is made now ends.
///
/// # Errors
/// When the wish is outside 1 to 366 days.
pub fn expiry(days: Option<u32>, now: DateTime<Utc>) -> Result<DateTime<Utc>, Refusal> {
    let days = days.unwrap_or(DAYS_DEFAULT);
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(Refusal::invalid(
            "/expires_in_days",
            format!("a token lives 1 to {DAYS_MAX} days, not {days}"),
        ));
    }
    Ok(now + Duration::days(i64::from(days)))
}

/// Reads scopes.
///
/// # Errors
/// Which one is none.
pub fn parse_scopes(texts: &[String]) -> Result<Vec<Scope>, Refusal> {
    texts
        .iter()
        .enumerate()
        .map(|(at, text)| {
            text.parse()
                .map_err(|e| Refusal::invalid(&format!("/scopes/{at}"), format!("{e}")))
        })
        .collect()
}

/// Whether what a token may do is such that who makes one has to prove who he is. Whatever is not known to be harmless is.
pub fn is_powerful(scopes: &[Scope]) -> bool {
    let harmless = |scope: &Scope| ["discover", "read", "write", "derive"].contains(&scope.verb.as_str());
    scopes.is_empty() || !scopes.iter().all(harmless)
}

/// The kind of token that a principal makes for himself.
pub const fn kind_of(principal: Principal) -> TokenKind {
    match principal {
        Principal::Account(_) => TokenKind::Personal,
        Principal::ServiceAccount(_) => TokenKind::ServiceAccount,
    }
}

/// Checks after how many days without use a token ends.
///
/// # Errors
/// When it is outside 1 to 366 days.
pub fn check_idle(days: Option<u32>) -> Result<(), Refusal> {
    if days.is_some_and(|days| !(1..=DAYS_MAX).contains(&days)) {
        return Err(Refusal::invalid(
            "/idle_days",
            format!("1 to {DAYS_MAX} days, or nothing"),
        ));
    }
    Ok(())
}

/// Checks what a token is called.
///
/// # Errors
/// When it is empty or too long.
pub fn check_name(name: &str) -> Result<(), Refusal> {
    if name.trim().is_empty() || name.len() > NAME_LENGTH_MAX || name.chars().any(char::is_control) {
        return Err(Refusal::invalid(
            "/name",
            format!("a token's name has 1 to {NAME_LENGTH_MAX} characters, so that it is known what it is for"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_90_days_unless_told_otherwise_and_a_year_at_most() {
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(expiry(None, now).unwrap(), now + Duration::days(90));
        assert_eq!(expiry(Some(366), now).unwrap(), now + Duration::days(366));
        assert!(expiry(Some(0), now).is_err() && expiry(Some(367), now).is_err());
    }
}
