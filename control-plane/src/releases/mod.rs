//! Releases (declassification, R9): domains are excused on the edge into one pipeline with one spec and image. Each domain
//! needs the approval of somebody who holds `declassify` on it, of two where the organization demands it; a release counts
//! when none is awaiting.

pub mod queries;
mod routes;

use chrono::{DateTime, Duration, Utc};
use contract::names::{ProjectName, RepoName};
use contract::reference::RepoRef;
pub use routes::router;

use crate::refusal::Refusal;

const DAYS_MAX: u32 = 366;
const DOMAINS_MAX: usize = 50;
const PURPOSE_LENGTH_MAX: usize = 500;

/// Where a release stands.
pub fn state(
    activated_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    expires_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> &'static str {
    if revoked_at.is_some() {
        "revoked"
    } else if now >= expires_at {
        "expired"
    } else if activated_at.is_some() {
        "active"
    } else {
        "proposed"
    }
}

/// Checks what can be checked of a proposal without looking anything up; answers when it ends.
///
/// # Errors
/// Which field is not valid.
pub fn check(new: &contract::api::NewRelease, now: DateTime<Utc>) -> Result<DateTime<Utc>, Refusal> {
    if new.domains.is_empty() || new.domains.len() > DOMAINS_MAX {
        return Err(Refusal::invalid(
            "/domains",
            format!(
                "a release excuses 1 to {DOMAINS_MAX} domains, not {}",
                new.domains.len()
            ),
        ));
    }
    if new.purpose.trim().is_empty() || new.purpose.len() > PURPOSE_LENGTH_MAX {
        return Err(Refusal::invalid(
            "/purpose",
            format!("say in 1 to {PURPOSE_LENGTH_MAX} characters what the release is for"),
        ));
    }
    let digest_ok =
        (8..=128).contains(&new.spec_digest.len()) && new.spec_digest.bytes().all(|b| b.is_ascii_hexdigit());
    if !digest_ok {
        return Err(Refusal::invalid(
            "/spec_digest",
            "the digest of spec and image is hex, as `GET /v1/pipelines/…` of the data plane answers it",
        ));
    }
    if !(1..=DAYS_MAX).contains(&new.expires_in_days) {
        return Err(Refusal::invalid(
            "/expires_in_days",
            format!("a release lives 1 to {DAYS_MAX} days, not {}", new.expires_in_days),
        ));
    }
    Ok(now + Duration::days(i64::from(new.expires_in_days)))
}

/// Reads `[project/]repo`.
///
/// # Errors
/// When it is none.
pub fn parse_repo(pointer: &str, text: &str) -> Result<(ProjectName, RepoName), Refusal> {
    let repo: RepoRef = text
        .parse()
        .map_err(|_| Refusal::invalid(pointer, format!("`{text}` is not a repo: write `[project/]repo`")))?;
    Ok((repo.project.unwrap_or_else(ProjectName::default_project), repo.repo))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_counts_between_its_last_approval_and_its_end_or_revocation() {
        let at = |days| DateTime::UNIX_EPOCH + Duration::days(days);
        assert_eq!(state(None, None, at(10), at(1)), "proposed");
        assert_eq!(state(Some(at(1)), None, at(10), at(2)), "active");
        assert_eq!(state(Some(at(1)), None, at(10), at(10)), "expired");
        assert_eq!(state(Some(at(1)), Some(at(2)), at(10), at(3)), "revoked");
    }
}
