//! Log-ins by another device, in the shape of RFC 8628: a command line shows a code, somebody who is logged in elsewhere looks at who
//! asks from where and approves it, the command line gets a session. Codes end after ten minutes and are used once; they are kept as
//! digests under a key, because the one that people type is short.

mod page;
mod queries;
mod routes;

use chrono::{DateTime, Duration, Utc};
use contract::api::DeviceState;
use contract::problem::ProblemKind;
use contract::token::SecretToken;
pub use routes::router;
use sqlx::PgPool;

use crate::app::App;
use crate::authz::System;
use crate::mac;
use crate::refusal::Refusal;

/// How long a code can be approved.
const LASTS: Duration = Duration::minutes(10);
/// Seconds between two questions, at the least; so many more after one that came too early.
const INTERVAL_SECONDS: i32 = 5;
const CLIENT_LENGTH_MAX: usize = 100;
/// Letters that cannot be taken for each other and make no words.
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const CODE_LENGTH: usize = 8;

/// What people type, without its hyphen.
#[derive(Clone, PartialEq, Eq)]
struct UserCode(String);

impl UserCode {
    /// Makes one of random bytes: those beyond the last whole 20 are not used, so that all letters are equally likely.
    fn generate(random: [u8; 32]) -> Option<Self> {
        let letters: String = random
            .iter()
            .filter(|byte| **byte < 240)
            .take(CODE_LENGTH)
            .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]))
            .collect();
        (letters.len() == CODE_LENGTH).then_some(Self(letters))
    }

    /// Reads one as people write it.
    fn parse(text: &str) -> Option<Self> {
        let letters: String = text
            .chars()
            .filter(|c| !c.is_whitespace() && *c != '-')
            .map(|c| c.to_ascii_uppercase())
            .collect();
        let known = letters.len() == CODE_LENGTH && letters.bytes().all(|b| LETTERS.contains(&b));
        known.then_some(Self(letters))
    }

    fn shown(&self) -> String {
        let (first, second) = self.0.split_at(CODE_LENGTH / 2);
        format!("{first}-{second}")
    }

    fn digest(&self, app: &App) -> [u8; 32] {
        mac::sha256(&app.device_key, &[b"user", self.0.as_bytes()])
    }
}

fn device_digest(app: &App, code: &SecretToken) -> [u8; 32] {
    mac::sha256(&app.device_key, &[b"device", code.expose().as_bytes()])
}

/// What a command line may call itself.
fn shown_client(text: Option<&str>) -> String {
    let plain: String = text
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(CLIENT_LENGTH_MAX)
        .collect();
    match plain.trim() {
        "" => "a client that does not say what it is".to_owned(),
        client => client.to_owned(),
    }
}

/// A question: how the log-in stands, and how long to wait before the next one.
fn answer(
    asked_at: Option<DateTime<Utc>>,
    interval_seconds: i32,
    denied: bool,
    approved: bool,
    now: DateTime<Utc>,
) -> (DeviceState, i32) {
    let early = asked_at.is_some_and(|at| now - at < Duration::seconds(i64::from(interval_seconds)));
    match (denied, approved) {
        (true, _) => (DeviceState::Denied, interval_seconds),
        (false, true) => (DeviceState::Approved, interval_seconds),
        (false, false) if early => (DeviceState::SlowDown, interval_seconds.saturating_add(INTERVAL_SECONDS)),
        (false, false) => (DeviceState::Pending, interval_seconds),
    }
}

/// One answer for a code that never was, is over or was used.
fn over() -> Refusal {
    Refusal::new(
        ProblemKind::TokenExpired,
        "the log-in is not known, is over, or was used already",
    )
    .hint("begin again with `howdah login`")
}

/// Forgets what is over.
///
/// # Errors
/// When the database fails.
pub async fn forget_expired(pool: &PgPool, proof: &System, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    queries::delete_expired(pool, proof, now).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_however_people_write_it() {
        let code = UserCode::generate([7; 32]).unwrap();
        assert_eq!(code.shown(), "KKKK-KKKK");
        for text in ["KKKK-KKKK", "kkkkkkkk", " kkkk kkkk "] {
            assert!(UserCode::parse(text).is_some_and(|read| read == code), "{text}");
        }
        for wrong in ["", "KKKK-JJJ", "KKKK-KKKKJ", "AAAA-AAAA", "ЈЈЈЈЈЈЈЈ"] {
            assert!(UserCode::parse(wrong).is_none(), "{wrong}");
        }
        assert!(UserCode::generate([255; 32]).is_none());
    }

    #[test]
    fn who_asks_too_often_has_to_wait_longer() {
        let now = DateTime::UNIX_EPOCH + Duration::hours(1);
        let asked = |seconds| Some(now - Duration::seconds(seconds));
        assert_eq!(answer(None, 5, false, false, now), (DeviceState::Pending, 5));
        assert_eq!(answer(asked(5), 5, false, false, now), (DeviceState::Pending, 5));
        assert_eq!(answer(asked(4), 5, false, false, now), (DeviceState::SlowDown, 10));
        assert_eq!(answer(asked(1), 5, false, true, now), (DeviceState::Approved, 5));
        assert_eq!(answer(asked(1), 5, true, true, now), (DeviceState::Denied, 5));
    }

    #[test]
    fn a_client_cannot_write_more_than_a_name() {
        assert_eq!(shown_client(Some(" howdah\n\u{1b}[2J on lab ")), "howdah[2J on lab");
        assert_eq!(shown_client(Some(&"x".repeat(500))).len(), 100);
        assert!(shown_client(None).contains("does not say"));
    }
}
