//! Runs of a CI system that prove who they are by an OIDC token of its issuer: what is known of such a run, and of issuers.
//! What a token that was exchanged for one writes names the run as its actor.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::CiTrustId;

/// Whose claims an issuer's tokens make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CiProvider {
    /// GitHub Actions.
    Github,
    /// GitLab CI.
    Gitlab,
    /// Any other issuer of OIDC tokens.
    Generic,
}

impl CiProvider {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Generic => "generic",
        }
    }

    /// The public issuer of that provider.
    pub const fn public_issuer(self) -> Option<&'static str> {
        match self {
            Self::Github => Some("https://token.actions.githubusercontent.com"),
            Self::Gitlab => Some("https://gitlab.com"),
            Self::Generic => None,
        }
    }
}

impl FromStr for CiProvider {
    type Err = ParseIssuerError;

    fn from_str(text: &str) -> Result<Self, ParseIssuerError> {
        [Self::Github, Self::Gitlab, Self::Generic]
            .into_iter()
            .find(|provider| provider.as_str() == text)
            .ok_or_else(|| ParseIssuerError(text.chars().take(120).collect()))
    }
}

/// An issuer whose tokens may be exchanged at all: the operator says which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CiIssuer {
    /// `iss` of its tokens, exactly; below it is its discovery document.
    pub url: String,
    /// What its claims mean.
    pub provider: CiProvider,
}

impl CiIssuer {
    /// The public issuers of GitHub and GitLab.
    pub fn public() -> Vec<Self> {
        [CiProvider::Github, CiProvider::Gitlab]
            .into_iter()
            .filter_map(|provider| {
                Some(Self {
                    url: provider.public_issuer()?.to_owned(),
                    provider,
                })
            })
            .collect()
    }
}

/// A text that names no issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no issuer of CI tokens: write `github`, `gitlab`, or `gitlab=https://gitlab.example.org` (`github=`, `generic=` alike); http is for loopback addresses only"
)]
pub struct ParseIssuerError(String);

impl FromStr for CiIssuer {
    type Err = ParseIssuerError;

    /// `github` or `gitlab` for the public one, or `provider=URL`.
    fn from_str(text: &str) -> Result<Self, ParseIssuerError> {
        let wrong = || ParseIssuerError(text.chars().take(120).collect());
        let (provider, url) = match text.split_once('=') {
            Some((provider, url)) => (provider.parse::<CiProvider>()?, url.to_owned()),
            None => {
                let provider: CiProvider = text.parse()?;
                (provider, provider.public_issuer().ok_or_else(wrong)?.to_owned())
            }
        };
        let loopback = ["http://127.0.0.1", "http://localhost", "http://[::1]"]
            .iter()
            .filter_map(|start| url.strip_prefix(start))
            .any(|rest| rest.is_empty() || rest.starts_with([':', '/']));
        let encrypted = url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty());
        let plain = !url
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || "?#@".contains(c));
        if (encrypted || loopback) && plain && url.len() <= 512 {
            return Ok(Self { url, provider });
        }
        Err(wrong())
    }
}

/// The run of a CI system that a token was exchanged for: claims of its OIDC token, which its issuer vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CiIdentity {
    /// What the claims are those of.
    pub provider: CiProvider,
    /// Who vouches for the run: `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// By which trust of the organization it was let in.
    pub trust: CiTrustId,
    /// The repository or project, as it was called then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Its id, which outlives a renaming.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
    /// Who owns it: the account or the namespace, as it was called then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The owner's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_id: Option<String>,
    /// The branch or tag, `refs/heads/main`.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The revision that ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha: Option<String>,
    /// The file that says what ran, and at which ref.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// The environment that the job was let into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// The run or pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Who set it off there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

impl CiIdentity {
    /// All that is known, by name, in an order that never changes; new names come last.
    pub fn parts(&self) -> Vec<(&'static str, String)> {
        let all = [
            ("provider", Some(self.provider.as_str().to_owned())),
            ("issuer", Some(self.issuer.clone())),
            ("subject", Some(self.subject.clone())),
            ("trust", Some(self.trust.to_string())),
            ("repository", self.repository.clone()),
            ("repository_id", self.repository_id.clone()),
            ("owner", self.owner.clone()),
            ("owner_id", self.owner_id.clone()),
            ("ref", self.reference.clone()),
            ("sha", self.sha.clone()),
            ("workflow", self.workflow.clone()),
            ("environment", self.environment.clone()),
            ("run_id", self.run_id.clone()),
            ("actor", self.actor.clone()),
        ];
        all.into_iter()
            .filter_map(|(name, value)| value.map(|value| (name, value)))
            .collect()
    }
}

/// One line for people: `github acme/tiles run 17, refs/heads/main at 0a1b…, set off by ada`.
impl fmt::Display for CiIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.repository.as_deref().unwrap_or(&self.subject);
        write!(f, "{} {what}", self.provider.as_str())?;
        if let Some(run) = &self.run_id {
            write!(f, " run {run}")?;
        }
        if let Some(reference) = &self.reference {
            write!(f, ", {reference}")?;
        }
        if let Some(sha) = &self.sha {
            write!(f, " at {sha}")?;
        }
        if let Some(environment) = &self.environment {
            write!(f, ", environment {environment}")?;
        }
        if let Some(actor) = &self.actor {
            write!(f, ", set off by {actor}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_are_encrypted_or_on_this_machine() {
        for (text, provider, url) in [
            (
                "github",
                CiProvider::Github,
                "https://token.actions.githubusercontent.com",
            ),
            ("gitlab", CiProvider::Gitlab, "https://gitlab.com"),
            (
                "gitlab=https://git.acme.test/x",
                CiProvider::Gitlab,
                "https://git.acme.test/x",
            ),
            ("generic=http://127.0.0.1:9", CiProvider::Generic, "http://127.0.0.1:9"),
        ] {
            let found: CiIssuer = text.parse().unwrap();
            assert_eq!((found.provider, found.url.as_str()), (provider, url));
        }
        for wrong in [
            "",
            "generic",
            "jenkins=https://a.test",
            "github=http://a.test",
            "github=http://127.0.0.1.evil.test",
            "gitlab=https://",
            "gitlab=https://a@b.test",
            "gitlab=ftp://a.test",
            "generic=https://a.test/?x",
        ] {
            assert!(wrong.parse::<CiIssuer>().is_err(), "{wrong}");
        }
    }
}
