//! What an organization trusts of CI systems: which issuer, for which audience, runs of whose repositories, as which service
//! account. What a trust may look like is decided here without I/O. Owners are named by id: a name can be taken over by somebody
//! else. What it has to name besides, `naming` says; trusts that were made before it did stay what they are. A trust that is deleted
//! takes the tokens that came of it along.

mod naming;
pub mod pattern;
pub(crate) mod queries;
mod routes;

use contract::api::{CiConditions, CiTrust};
use contract::ci::CiProvider;
use contract::ids::{OrganizationId, ServiceAccountId};
pub use routes::router;

use crate::refusal::Refusal;

/// How long a token of a run lives at most, minutes.
pub const LIFE_MINUTES_MAX: u32 = 15;
const AUDIENCE_LENGTH_MAX: usize = 512;
const CLAIMS_MAX: usize = 16;
const CLAIM_NAME_LENGTH_MAX: usize = 64;
/// Claims that are checked anyway, and by other rules.
const CHECKED_CLAIMS: [&str; 6] = ["iss", "aud", "exp", "nbf", "iat", "jti"];

/// A trust with what its tokens act as.
#[derive(Debug, Clone)]
pub(crate) struct Trusted {
    pub trust: CiTrust,
    pub organization: OrganizationId,
    pub service_account: ServiceAccountId,
}

/// The claims that the named conditions are about.
pub(crate) struct ClaimNames {
    pub owner_id: &'static str,
    pub repository_id: &'static str,
    pub workflow: &'static str,
    pub environment: &'static str,
    pub reference: &'static str,
}

/// What a provider calls them; `None` where nothing is known of its claims.
pub(crate) const fn claim_names(provider: CiProvider) -> Option<ClaimNames> {
    match provider {
        CiProvider::Github => Some(ClaimNames {
            owner_id: "repository_owner_id",
            repository_id: "repository_id",
            workflow: "job_workflow_ref",
            environment: "environment",
            reference: "ref",
        }),
        CiProvider::Gitlab => Some(ClaimNames {
            owner_id: "namespace_id",
            repository_id: "project_id",
            workflow: "ci_config_ref_uri",
            environment: "environment",
            reference: "ref_path",
        }),
        CiProvider::Generic => None,
    }
}

/// Checks what runs must prove: enough to tell one owner's runs from everybody else's.
///
/// # Errors
/// Which condition is missing or makes no sense.
pub fn check_conditions(provider: CiProvider, conditions: &CiConditions) -> Result<(), Refusal> {
    let named = [
        ("owner_id", &conditions.owner_id),
        ("repository_id", &conditions.repository_id),
        ("workflow", &conditions.workflow),
        ("environment", &conditions.environment),
        ("ref", &conditions.reference),
    ];
    for (name, value) in named {
        let Some(value) = value else { continue };
        if provider == CiProvider::Generic {
            let why = format!("what `{name}` means is known of GitHub and GitLab only: use `claims`");
            return Err(Refusal::invalid(&format!("/conditions/{name}"), why));
        }
        check_value(&format!("/conditions/{name}"), value)?;
        if name.ends_with("_id") && !is_number(value) {
            let why = format!("`{name}` is a number, because names change hands: `{value}` is none");
            return Err(Refusal::invalid(&format!("/conditions/{name}"), why));
        }
    }
    check_claims(conditions)?;
    naming::check(provider, conditions)
}

fn check_claims(conditions: &CiConditions) -> Result<(), Refusal> {
    if conditions.claims.len() > CLAIMS_MAX {
        let why = format!("at most {CLAIMS_MAX} claims");
        return Err(Refusal::invalid("/conditions/claims", why));
    }
    for (name, value) in &conditions.claims {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
        if name.is_empty() || name.len() > CLAIM_NAME_LENGTH_MAX || !name.chars().all(plain) {
            return Err(Refusal::invalid(
                "/conditions/claims",
                "a claim has a name of 1 to 64 characters",
            ));
        }
        if CHECKED_CLAIMS.contains(&name.as_str()) {
            let why = format!("`{name}` is checked anyway");
            return Err(Refusal::invalid("/conditions/claims", why));
        }
        check_value("/conditions/claims", value)?;
    }
    Ok(())
}

fn check_value(pointer: &str, value: &str) -> Result<(), Refusal> {
    if value.is_empty() || value.len() > pattern::LENGTH_MAX || value.chars().any(char::is_control) {
        let why = format!("a value has 1 to {} characters", pattern::LENGTH_MAX);
        return Err(Refusal::invalid(pointer, why));
    }
    Ok(())
}

fn is_number(text: &str) -> bool {
    text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit())
}

/// Checks for whom tokens must have been made. What every token of the issuer says when nobody asked for an audience is none: it
/// would let tokens in that were meant for others.
///
/// # Errors
/// Why it is none.
pub fn check_audience(provider: CiProvider, issuer: &str, audience: &str) -> Result<(), Refusal> {
    let everybody = audience.trim_end_matches('/') == issuer.trim_end_matches('/')
        || provider == CiProvider::Github && audience.starts_with("https://github.com/");
    if everybody {
        return Err(Refusal::invalid(
            "/audience",
            "that is what tokens say which were made for nobody in particular: choose an audience of your own",
        ));
    }
    if audience.is_empty() || audience.len() > AUDIENCE_LENGTH_MAX || audience.chars().any(char::is_control) {
        let why = format!("an audience has 1 to {AUDIENCE_LENGTH_MAX} characters");
        return Err(Refusal::invalid("/audience", why));
    }
    Ok(())
}

/// Checks how long tokens live, minutes; as long as may be when nothing was said.
///
/// # Errors
/// When it is not 1 to 15.
pub fn check_life(minutes: Option<u32>) -> Result<u32, Refusal> {
    let minutes = minutes.unwrap_or(LIFE_MINUTES_MAX);
    if (1..=LIFE_MINUTES_MAX).contains(&minutes) {
        return Ok(minutes);
    }
    Err(Refusal::invalid(
        "/life_minutes",
        format!("a token of a run lives 1 to {LIFE_MINUTES_MAX} minutes, not {minutes}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(owner: Option<&str>, claims: &[(&str, &str)]) -> CiConditions {
        CiConditions {
            owner_id: owner.map(str::to_owned),
            claims: claims.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..CiConditions::default()
        }
    }

    #[test]
    fn a_trust_tells_one_owners_runs_from_everybody_elses() {
        use CiProvider::{Generic, Github, Gitlab};
        for (provider, owner, claims, good) in [
            (
                Github,
                Some("65"),
                &[("repository", "acme/tiles"), ("ref_protected", "true")][..],
                true,
            ),
            (Github, Some("65"), &[], false),
            (Github, None, &[], false),
            (Github, Some("acme"), &[], false),
            (
                Gitlab,
                Some("7"),
                &[("project_path", "acme/site"), ("ref_protected", "true")],
                true,
            ),
            (Gitlab, None, &[("sub", "project_path:acme/tiles")], false),
            (
                Generic,
                None,
                &[("sub", "pipeline:tiles:*"), ("protected", "true")],
                true,
            ),
            (Generic, None, &[("sub", "pipeline:tiles:*")], false),
            (Generic, None, &[("sub", "**")], false),
            (Generic, None, &[("ref", "main")], false),
            (Generic, Some("65"), &[("sub", "pipeline")], false),
            (Generic, None, &[("sub", "pipeline"), ("aud", "x")], false),
            (Generic, None, &[("sub", "pipeline"), ("", "x")], false),
        ] {
            let checked = check_conditions(provider, &conditions(owner, claims));
            assert_eq!(checked.is_ok(), good, "{provider:?} {owner:?} {claims:?}");
        }
    }

    #[test]
    fn an_audience_is_ones_own() {
        let github = "https://token.actions.githubusercontent.com";
        let checked = |audience: &str| check_audience(CiProvider::Github, github, audience).is_ok();
        assert!(checked("https://howdah.test/o/acme"));
        assert!(!checked("https://github.com/acme") && !checked(github) && !checked(""));
        assert!(check_audience(CiProvider::Gitlab, "https://gitlab.com", "https://gitlab.com/").is_err());
    }

    #[test]
    fn a_runs_token_lives_a_quarter_of_an_hour_at_most() {
        assert_eq!(check_life(None).unwrap(), 15);
        assert!(check_life(Some(0)).is_err() && check_life(Some(16)).is_err());
    }
}
