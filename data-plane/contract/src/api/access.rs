//! Grants, releases, decisions and their explanations.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{DomainId, GrantId, ReleaseId};
use crate::names::{ProjectName, RepoName};
use crate::policy::{Permission, Principal};

/// Allowed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Yes.
    Allow,
    /// No.
    Deny,
}

/// One missing domain of an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MissingDomain {
    /// `project/repo`, or `restricted upstream #n`.
    pub domain: String,
    /// What is missing and why it is needed, in words.
    pub reason: String,
    /// One path from the domain to the object: `images@… -> detect-red@… -> score-red@…`.
    pub witness: Vec<String>,
    /// Who can grant it: names of people and teams.
    pub who_can_grant: Vec<String>,
}

/// The answer of `access explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// Allowed or not.
    pub decision: Decision,
    /// The least set that is missing.
    pub missing: Vec<MissingDomain>,
    /// The releases that the decision rests on.
    pub releases: Vec<ReleaseId>,
    /// The policy epoch it was decided at.
    pub token: u64,
}

/// A grant as people see it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GrantView {
    /// Its id.
    pub id: String,
    /// `user:E`, `team:T`, `sa:S`.
    pub subject: String,
    /// The role.
    pub role: String,
    /// `org`, `project:NAME`, `project/repo`.
    pub resource: String,
    /// When it was given.
    pub created_at: DateTime<Utc>,
    /// The policy epoch from which on it counts.
    pub epoch: u64,
}

/// Gives a grant: `subject` is `user:E`, `team:T` or `sa:S`; `resource` is `org`, `project:NAME` or `[project/]repo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGrant {
    /// Who.
    pub subject: String,
    /// The role.
    pub role: String,
    /// On what.
    pub resource: String,
}

/// What a change of the policy answers (R6, R13).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PolicyChanged {
    /// The epoch from which on it counts.
    pub epoch: u64,
    /// Whether the data plane said that it enforces it; `None` when nobody waited for it or the plane is asleep (then it
    /// reads the policy before it serves).
    pub acknowledged: Option<bool>,
}

/// Makes a release (R9).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRelease {
    /// What is excused, `[project/]repo` each.
    pub domains: Vec<String>,
    /// The pipeline, `[project/]name`.
    pub pipeline: String,
    /// The digest of spec and image that was looked at.
    pub spec_digest: String,
    /// Why.
    pub purpose: String,
    /// Days until it ends, at most 366.
    pub expires_in_days: u32,
    /// Whether commits made before are covered too.
    #[serde(default)]
    pub retroactive: bool,
}

/// A release as people see it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReleaseView {
    /// Its id.
    pub id: ReleaseId,
    /// What is excused, `project/repo` each.
    pub domains: Vec<String>,
    /// On the edge into which pipeline, `project/name`.
    pub pipeline: String,
    /// The digest of spec and image.
    pub spec_digest: String,
    /// Why.
    pub purpose: String,
    /// `proposed`, `active`, `revoked` or `expired`.
    pub state: String,
    /// Names of those who approved.
    pub approvers: Vec<String>,
    /// Domains that still need an approval.
    pub awaiting: Vec<String>,
    /// Whether older commits are covered.
    pub retroactive: bool,
    /// When it was proposed.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// The policy epoch from which on its state counts.
    pub epoch: u64,
}

/// Who may do what with a commit, and why (R12).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Reader {
    /// Who.
    pub id: Principal,
    /// Address or name.
    pub name: String,
    /// `grants`, or `grants and releases`.
    pub by: String,
}

/// A change that is asked about, and not made (R12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WhatIf {
    /// `subject` (`user:E`, `team:T`, `sa:S`) is given `role` on `resource` (`org`, `project:NAME`, `[project/]repo`).
    Grant(NewGrant),
    /// The grant of that id is taken.
    Revoke {
        /// Its id.
        grant: GrantId,
    },
    /// Somebody leaves the organization.
    Leave {
        /// `user:E` or `sa:S`.
        subject: String,
    },
    /// The domains are released to the pipeline as it is now; of outputs to come.
    Release {
        /// What is excused, `[project/]repo` each.
        domains: Vec<String>,
        /// The pipeline, `[project/]name`.
        pipeline: String,
    },
    /// The release of that id is revoked.
    RevokeRelease {
        /// Its id.
        release: ReleaseId,
    },
    /// The pipeline gets one more input; of outputs to come.
    Input {
        /// The pipeline, `[project/]name`.
        pipeline: String,
        /// What it would read, `[project/]repo@branch`.
        input: String,
    },
}

/// Somebody whose reading a change would touch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReadingShift {
    /// Who.
    pub id: Principal,
    /// Address or name.
    pub name: String,
    /// What he could read then and cannot now.
    pub gains: Vec<ShiftedRepo>,
    /// What he can read now and could not then.
    pub loses: Vec<ShiftedRepo>,
}

/// A repo whose commits somebody could read then, or not any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShiftedRepo {
    /// `project/repo`.
    pub repo: String,
    /// How many of its finished commits that touches; `None`: outputs to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commits: Option<u64>,
}

/// Somebody who read something that was made from a repo (R12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exposed {
    /// Who.
    pub id: Principal,
    /// Address or name, as it was then.
    pub name: String,
    /// What he read, `project/repo@commit`; of what the caller may not know of, that it is restricted.
    pub read: String,
    /// When first.
    pub first_at: DateTime<Utc>,
    /// When last, to the hour.
    pub last_at: DateTime<Utc>,
}

/// A data plane tells the control plane of a new repo or pipeline output: the domain and its first owner.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterDomain {
    /// The domain's id, made by the data plane; sending it again changes nothing.
    pub id: DomainId,
    /// The project.
    pub project: ProjectName,
    /// The name.
    pub name: RepoName,
    /// Who owns it.
    pub owner: Principal,
}

/// What a permission is missing on, for messages.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Missing {
    /// The permission.
    pub permission: Permission,
    /// The domain's name.
    pub domain: String,
}
