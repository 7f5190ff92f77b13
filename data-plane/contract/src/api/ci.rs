//! What an organization trusts of CI systems, and the exchange of a run's OIDC token for one of ours.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ci::{CiIdentity, CiProvider};
use crate::ids::{CiTrustId, TokenId};
use crate::names::{OrganizationName, ServiceAccountName};

/// What a run must prove. All of it holds at once; a claim that a token does not have fits nothing. In patterns, `*` stands for
/// characters other than `/` and `@`, `**` for characters other than `@`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CiConditions {
    /// Id of the owner: `repository_owner_id` of GitHub, `namespace_id` of GitLab. A number, because names change hands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_id: Option<String>,
    /// Id of the repository or project: `repository_id`, `project_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
    /// Pattern for the file that says what runs: `job_workflow_ref`, `ci_config_ref_uri`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// The environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Pattern for the branch or tag, `refs/heads/main`: `ref` of GitHub, `ref_path` of GitLab.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Other claims, exactly.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
}

/// A trust to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCiTrust {
    /// What it is called in the organization.
    pub name: String,
    /// `iss` of the tokens; one that the operator of the service allows.
    pub issuer: String,
    /// `aud` of the tokens, exactly. When absent: the service's address, `/o/` and the organization's name.
    #[serde(default)]
    pub audience: Option<String>,
    /// What runs act as.
    pub service_account: ServiceAccountName,
    /// What runs must prove.
    pub conditions: CiConditions,
    /// All that their tokens may do; without any, all that the service account may.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// How long their tokens live, 1 to 15.
    #[serde(default)]
    pub life_minutes: Option<u32>,
}

/// A trust.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CiTrust {
    /// Its id.
    pub id: CiTrustId,
    /// What it is called in the organization.
    pub name: String,
    /// What the claims are those of.
    pub provider: CiProvider,
    /// `iss` of the tokens.
    pub issuer: String,
    /// `aud` of the tokens.
    pub audience: String,
    /// What runs act as.
    pub service_account: ServiceAccountName,
    /// What runs must prove.
    pub conditions: CiConditions,
    /// All that their tokens may do; empty = all that the service account may.
    pub scopes: Vec<String>,
    /// How long their tokens live.
    pub life_minutes: u32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// Asks for a token of ours for a run's OIDC token.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenExchange {
    /// The organization.
    pub organization: OrganizationName,
    /// The OIDC token: a secret.
    pub token: String,
    /// Name or id of the trust, where several fit.
    #[serde(default)]
    pub trust: Option<String>,
}

/// What a run's OIDC token was exchanged for. The secret is shown once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct ExchangedToken {
    /// Id of the token.
    pub id: TokenId,
    /// `hwd_ci_…`.
    pub token: String,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// The organization that it works in.
    pub organization: OrganizationName,
    /// What it acts as.
    pub service_account: ServiceAccountName,
    /// All that it may do; empty = all that the service account may.
    pub scopes: Vec<String>,
    /// What is known of the run, and will be written down with what it makes.
    pub identity: CiIdentity,
}
