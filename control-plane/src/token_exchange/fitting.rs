//! Which trust a run fits, and what is kept of it. Pure.

use contract::api::CiConditions;
use contract::ci::{CiIdentity, CiProvider};
use contract::ids::CiTrustId;

use super::verify::Claims;
use crate::ci_trusts::{Trusted, claim_names, pattern};

/// Why no trust lets a run in: for the organization's audit trail, never for who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The organization trusts nothing of that issuer, or not under that name.
    #[error("there is no such trust in its issuer")]
    None,
    /// Somebody else's run.
    #[error("its claim `{claim}` is not what `{trust}` demands")]
    Owner {
        /// The trust.
        trust: String,
        /// The claim that says whose it is.
        claim: String,
    },
    /// Another audience.
    #[error("it was made for another audience than that of `{0}`")]
    Audience(String),
    /// A claim is another one, or missing.
    #[error("its claim `{claim}` is not what `{trust}` demands")]
    Claim {
        /// The trust.
        trust: String,
        /// The claim.
        claim: String,
    },
    /// Several let it in.
    #[error("several trusts let it in ({0}): the run has to name one")]
    Several(String),
}

impl Misfit {
    /// The trust, or trusts, that the owner of the run is let in by; nothing for strangers, who are many.
    pub(super) fn trust(&self) -> &str {
        match self {
            Self::Audience(trust) | Self::Several(trust) | Self::Claim { trust, .. } => trust,
            Self::None | Self::Owner { .. } => "",
        }
    }

    /// How near a trust came to letting a run in.
    const fn nearness(&self) -> u8 {
        match self {
            Self::None => 0,
            Self::Owner { .. } => 1,
            Self::Audience(_) => 2,
            Self::Claim { .. } | Self::Several(_) => 3,
        }
    }
}

/// The one trust that lets a run in; of those by that name or id only, if one is wanted.
///
/// # Errors
/// Why there is not exactly one.
pub(crate) fn choose<'a>(trusts: &'a [Trusted], claims: &Claims, wanted: Option<&str>) -> Result<&'a Trusted, Misfit> {
    let meant = |trusted: &&Trusted| {
        wanted.is_none_or(|name| trusted.trust.name.eq_ignore_ascii_case(name) || trusted.trust.id.to_string() == name)
    };
    let (mut fitting, mut misfit) = (Vec::new(), Misfit::None);
    for trusted in trusts.iter().filter(meant) {
        match check(trusted, claims) {
            Ok(()) => fitting.push(trusted),
            Err(why) if why.nearness() >= misfit.nearness() => misfit = why,
            Err(_) => {}
        }
    }
    match fitting.as_slice() {
        [only] => Ok(only),
        [] => Err(misfit),
        several => {
            let names: Vec<&str> = several.iter().map(|t| t.trust.name.as_str()).collect();
            Err(Misfit::Several(names.join(", ")))
        }
    }
}

fn check(trusted: &Trusted, claims: &Claims) -> Result<(), Misfit> {
    let trust = &trusted.trust;
    let named = |claim: &str| (trust.name.clone(), claim.to_owned());
    let (claim, demanded) = owner(trust.provider, &trust.conditions);
    if !demanded.is_met(claim, claims) {
        let (trust, claim) = named(claim);
        return Err(Misfit::Owner { trust, claim });
    }
    if !claims.is_for(&trust.audience) {
        return Err(Misfit::Audience(trust.name.clone()));
    }
    for (claim, demanded) in demands(trust.provider, &trust.conditions) {
        if !demanded.is_met(claim, claims) {
            let (trust, claim) = named(claim);
            return Err(Misfit::Claim { trust, claim });
        }
    }
    Ok(())
}

enum Demand<'a> {
    Exactly(&'a str),
    Like(&'a str),
    Never,
}

impl Demand<'_> {
    fn is_met(&self, claim: &str, claims: &Claims) -> bool {
        let found = claims.text(claim);
        match self {
            Self::Exactly(value) => found.as_deref() == Some(value),
            Self::Like(value) => found.is_some_and(|found| pattern::fits(value, &found)),
            Self::Never => false,
        }
    }
}

/// Whose run it has to be. What a trust must name of that is demanded here again: a stored trust without it lets nobody in.
fn owner(provider: CiProvider, conditions: &CiConditions) -> (&'static str, Demand<'_>) {
    let Some(names) = claim_names(provider) else {
        let named = [
            &conditions.owner_id,
            &conditions.repository_id,
            &conditions.workflow,
            &conditions.environment,
            &conditions.reference,
        ];
        return match conditions.claims.get("sub") {
            Some(sub) if named.iter().all(|condition| condition.is_none()) => ("sub", Demand::Like(sub)),
            _ => ("sub", Demand::Never),
        };
    };
    match &conditions.owner_id {
        Some(id) => (names.owner_id, Demand::Exactly(id)),
        None => (names.owner_id, Demand::Never),
    }
}

/// All else that has to hold.
fn demands(provider: CiProvider, conditions: &CiConditions) -> Vec<(&str, Demand<'_>)> {
    let mut all: Vec<(&str, Demand<'_>)> = conditions
        .claims
        .iter()
        .map(|(name, value)| (name.as_str(), Demand::Like(value)))
        .collect();
    let Some(names) = claim_names(provider) else {
        return all;
    };
    let exact = [
        (names.repository_id, &conditions.repository_id),
        (names.environment, &conditions.environment),
    ];
    let alike = [
        (names.workflow, &conditions.workflow),
        (names.reference, &conditions.reference),
    ];
    let exact = exact
        .into_iter()
        .filter_map(|(n, v)| Some((n, Demand::Exactly(v.as_deref()?))));
    let alike = alike
        .into_iter()
        .filter_map(|(n, v)| Some((n, Demand::Like(v.as_deref()?))));
    all.extend(exact.chain(alike));
    all
}

/// What is kept of a run.
pub(crate) fn identity(provider: CiProvider, trust: CiTrustId, claims: &Claims) -> CiIdentity {
    let text = |name: &str| claims.text(name);
    let bare = CiIdentity {
        provider,
        issuer: text("iss").unwrap_or_default(),
        subject: text("sub").unwrap_or_default(),
        trust,
        repository: None,
        repository_id: None,
        owner: None,
        owner_id: None,
        reference: None,
        sha: None,
        workflow: None,
        environment: None,
        run_id: None,
        actor: None,
    };
    match provider {
        CiProvider::Github => CiIdentity {
            repository: text("repository"),
            repository_id: text("repository_id"),
            owner: text("repository_owner"),
            owner_id: text("repository_owner_id"),
            reference: text("ref"),
            sha: text("sha"),
            workflow: text("job_workflow_ref"),
            environment: text("environment"),
            run_id: text("run_id"),
            actor: text("actor"),
            ..bare
        },
        CiProvider::Gitlab => CiIdentity {
            repository: text("project_path"),
            repository_id: text("project_id"),
            owner: text("namespace_path"),
            owner_id: text("namespace_id"),
            reference: text("ref_path"),
            sha: text("sha"),
            workflow: text("ci_config_ref_uri"),
            environment: text("environment"),
            run_id: text("pipeline_id"),
            actor: text("user_login"),
            ..bare
        },
        CiProvider::Generic => bare,
    }
}
