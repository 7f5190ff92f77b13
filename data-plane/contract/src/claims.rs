//! Claims of access tokens: short-lived JWTs (EdDSA) that the control plane signs and a data plane verifies offline.

use serde::{Deserialize, Serialize};

use crate::ci::CiIdentity;
use crate::ids::{OrganizationId, TokenId};
use crate::policy::{OrganizationRole, Principal};

/// What an access token says. Lives at most ten minutes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    /// The control plane that signed it: its public address.
    pub iss: String,
    /// The data plane that it is for: `plane:<organization id>`.
    pub aud: String,
    /// Who acts.
    pub sub: Principal,
    /// What people know the subject by: an e-mail address or the service account's name.
    pub name: String,
    /// The organization.
    pub org: OrganizationId,
    /// The subject's role in the organization.
    pub role: OrganizationRole,
    /// The session or API token that it was exchanged from: revoking that one revokes this.
    pub token: TokenId,
    /// Limits of the API token; empty = no limits beyond the subject's own rights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
    /// The run of a CI system that the token was exchanged for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci: Option<Box<CiIdentity>>,
    /// Issued at, Unix seconds.
    pub iat: i64,
    /// Expires at, Unix seconds.
    pub exp: i64,
    /// Unique id of this token.
    pub jti: String,
}

/// One allowance of a scoped token: a verb on a resource. Text form `read:default/images`, `write:*`, `*:project:vision`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// `discover`, `read`, `write`, `derive`, `declassify`, `admin` or `*`.
    pub verb: String,
    /// `*`, `project:<name>` or `<project>/<repo>`.
    pub resource: String,
}

/// A text that is not a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a scope: write `verb:resource`, for example `read:default/images`, `write:project:vision` or `read:*`"
)]
pub struct ParseScopeError(String);

impl std::str::FromStr for Scope {
    type Err = ParseScopeError;

    fn from_str(text: &str) -> Result<Self, ParseScopeError> {
        let wrong = || ParseScopeError(text.chars().take(120).collect());
        let (verb, resource) = text.split_once(':').ok_or_else(wrong)?;
        let known = ["discover", "read", "write", "derive", "declassify", "admin", "*"].contains(&verb);
        let resource_ok = match resource.strip_prefix("project:") {
            Some(project) => project.parse::<crate::names::ProjectName>().is_ok(),
            None => resource == "*" || resource.contains('/') && resource.parse::<crate::reference::RepoRef>().is_ok(),
        };
        if known && resource_ok {
            return Ok(Self {
                verb: verb.to_owned(),
                resource: resource.to_owned(),
            });
        }
        Err(wrong())
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.verb, self.resource)
    }
}

/// The audience of tokens for an organization's data plane.
pub fn plane_audience(organization: OrganizationId) -> String {
    format!("plane:{organization}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_documented() {
        for good in ["read:*", "write:project:vision", "*:*", "read:default/images"] {
            assert_eq!(good.parse::<Scope>().map(|s| s.to_string()).as_deref(), Ok(good));
        }
        for bad in ["", "read", "eat:*", "read:", "read:images", "read:project:"] {
            assert!(bad.parse::<Scope>().is_err(), "{bad}");
        }
    }
}
