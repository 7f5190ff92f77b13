//! What a trust has to name, pure. An owner alone is too little: everybody who may push to any of his repositories, or make one, would be
//! let in. So it names the repository too, and which of its runs: what everybody who may open a branch there can change is no limit.

use contract::api::CiConditions;
use contract::ci::CiProvider;

use super::{claim_names, pattern};
use crate::refusal::Refusal;

/// Checks that conditions tell the runs that are meant from all others.
///
/// # Errors
/// What is missing, and how to say it.
pub(super) fn check(provider: CiProvider, conditions: &CiConditions) -> Result<(), Refusal> {
    let (owner, repository) = match provider {
        CiProvider::Github => ("`repository_owner_id` of GitHub", "repository"),
        CiProvider::Gitlab => ("`namespace_id` of GitLab", "project_path"),
        CiProvider::Generic => return check_subject(conditions),
    };
    if conditions.owner_id.is_none() {
        let why = format!("say whose runs are meant: `owner_id`, which is {owner}");
        return Err(Refusal::invalid("/conditions/owner_id", why));
    }
    let by_name = conditions
        .claims
        .get(repository)
        .is_some_and(|name| !name.contains('*'));
    if conditions.repository_id.is_none() && !by_name {
        let why = format!(
            "an owner alone lets in whatever runs in any of his repositories: name the repository too, by `repository_id` or by the claim \
             `{repository}` in full, without `*`"
        );
        return Err(Refusal::invalid("/conditions/repository_id", why));
    }
    if !tells_runs(conditions) {
        return Err(Refusal::invalid(
            "/conditions",
            "a repository alone lets in whatever anybody runs there: say which runs are meant, by `environment`, by `ref` below `refs/heads/` or \
             `refs/tags/`, by `workflow` with its file or its ref in full, or by the claim `ref_protected` as `true`",
        ));
    }
    Ok(())
}

fn tells_runs(conditions: &CiConditions) -> bool {
    let reference = |text: &String| text.starts_with("refs/heads/") || text.starts_with("refs/tags/");
    let workflow = |text: &String| {
        text.rsplit_once('@').map_or(!text.contains('*'), |(file, at)| {
            !file.contains('*') || !at.contains('*')
        })
    };
    conditions.environment.is_some()
        || conditions.reference.as_ref().is_some_and(reference)
        || conditions.workflow.as_ref().is_some_and(workflow)
        || conditions
            .claims
            .get("ref_protected")
            .is_some_and(|value| value == "true")
}

/// Of an issuer that nothing is known of: its subject in full, or how it begins and another claim.
fn check_subject(conditions: &CiConditions) -> Result<(), Refusal> {
    let says = |value: &String| value.chars().any(|c| c != '*');
    let others = conditions
        .claims
        .iter()
        .filter(|(name, value)| *name != "sub" && says(value));
    let named = match conditions.claims.get("sub") {
        Some(sub) if !sub.contains('*') => true,
        Some(sub) => pattern::is_specific(sub) && others.count() > 0,
        None => false,
    };
    if named {
        return Ok(());
    }
    Err(Refusal::invalid(
        "/conditions/claims",
        "say which runs are meant: the claim `sub` in full, or at least four characters before its first `*` and another claim beside it",
    ))
}

/// The conditions by the claims that they are about, for the audit trail.
pub(super) fn in_words(provider: CiProvider, conditions: &CiConditions) -> String {
    let named = claim_names(provider).map(|names| {
        [
            (names.owner_id, &conditions.owner_id),
            (names.repository_id, &conditions.repository_id),
            (names.workflow, &conditions.workflow),
            (names.environment, &conditions.environment),
            (names.reference, &conditions.reference),
        ]
    });
    let named = named.into_iter().flatten();
    let named = named.filter_map(|(name, value)| Some(format!("{name}={:?}", value.as_deref()?)));
    let claims = conditions
        .claims
        .iter()
        .map(|(name, value)| format!("{name}={value:?}"));
    named.chain(claims).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Conditions by `name=value`, as the command line takes them; what it does not know is a claim.
    fn conditions(said: &str) -> CiConditions {
        let mut all = CiConditions::default();
        for (name, value) in said.split_whitespace().filter_map(|pair| pair.split_once('=')) {
            let value = value.to_owned();
            match name {
                "owner" => all.owner_id = Some(value),
                "repo" => all.repository_id = Some(value),
                "workflow" => all.workflow = Some(value),
                "environment" => all.environment = Some(value),
                "ref" => all.reference = Some(value),
                claim => drop(all.claims.insert(claim.to_owned(), value)),
            }
        }
        all
    }

    #[test]
    fn a_trust_names_an_owner_his_repository_and_which_of_its_runs() {
        use CiProvider::{Generic, Github, Gitlab};
        for (provider, said, good) in [
            (Github, "", false),
            (Github, "owner=65", false),
            (Github, "owner=65 environment=production ref=refs/heads/main", false),
            (
                Github,
                "owner=65 workflow=acme/tiles/.github/workflows/ci.yml@refs/heads/main",
                false,
            ),
            (Github, "owner=65 sub=repo:acme/tiles:ref:refs/heads/main", false),
            (Github, "owner=65 repo=74", false),
            (Github, "repo=74 environment=production", false),
            (Github, "owner=65 repo=74 environment=production", true),
            (Github, "owner=65 repo=74 ref=refs/heads/main", true),
            (Github, "owner=65 repo=74 ref=refs/heads/**", true),
            (Github, "owner=65 repo=74 ref=refs/tags/v*", true),
            (Github, "owner=65 repo=74 ref=**", false),
            (Github, "owner=65 repo=74 ref=refs/**", false),
            (Github, "owner=65 repo=74 ref=refs/pull/**", false),
            (Github, "owner=65 repo=74 workflow=**", false),
            (Github, "owner=65 repo=74 workflow=acme/**@**", false),
            (Github, "owner=65 repo=74 workflow=acme/t/ci.yml@**", true),
            (Github, "owner=65 repo=74 workflow=acme/t/*@refs/heads/main", true),
            (Github, "owner=65 repo=74 workflow=**@refs/heads/x@**", false),
            (Github, "owner=65 repo=74 ref_protected=true", true),
            (Github, "owner=65 repo=74 ref_protected=*", false),
            (Github, "owner=65 repo=74 actor=ada", false),
            (Github, "owner=65 repository=acme/tiles environment=production", true),
            (Github, "owner=65 repository=acme/** environment=production", false),
            (Github, "owner=65 repository=* environment=production", false),
            (Gitlab, "owner=7", false),
            (Gitlab, "owner=7 ref_protected=true", false),
            (Gitlab, "owner=7 repo=8", false),
            (Gitlab, "owner=7 repo=8 ref_protected=true", true),
            (Gitlab, "owner=7 project_path=acme/site ref=refs/heads/main", true),
            (Gitlab, "owner=7 repository=acme/site ref=refs/heads/main", false),
            (Generic, "ref=main", false),
            (Generic, "sub=pipeline:tiles:main", true),
            (Generic, "sub=pipeline:tiles:*", false),
            (Generic, "sub=pipeline:tiles:* protected=true", true),
            (Generic, "sub=pipeline:tiles:* protected=**", false),
            (Generic, "sub=p** protected=true", false),
            (Generic, "sub=** protected=true", false),
        ] {
            assert_eq!(check(provider, &conditions(said)).is_ok(), good, "{provider:?} {said}");
        }
    }

    #[test]
    fn conditions_are_told_by_the_claims_that_they_are_about() {
        let said = conditions("owner=65 repo=74 ref=refs/heads/main actor=ada");
        assert_eq!(
            in_words(CiProvider::Github, &said),
            r#"repository_owner_id="65", repository_id="74", ref="refs/heads/main", actor="ada""#
        );
        let said = conditions("sub=pipeline:*");
        assert_eq!(in_words(CiProvider::Generic, &said), r#"sub="pipeline:*""#);
    }
}
