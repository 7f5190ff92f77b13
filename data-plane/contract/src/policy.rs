//! The policy snapshot: all that a data plane needs to decide access on its own. The control plane is the one place
//! where it changes; every change has a higher epoch, and a data plane never goes back to a lower one.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{AccountId, DomainId, GrantId, OrganizationId, ReleaseId, ServiceAccountId, TeamId, TokenId};
use crate::names::{ProjectName, RepoName};

/// What may be done with a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Know that it exists.
    Discover,
    /// Read its data.
    Read,
    /// Change its data.
    Write,
    /// Use it as a pipeline's input.
    Derive,
    /// Approve releases of it.
    Declassify,
    /// Give and take grants on it, delete it.
    Admin,
}

impl Permission {
    /// The word in scopes and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Discover => "discover",
            Self::Read => "read",
            Self::Write => "write",
            Self::Derive => "derive",
            Self::Declassify => "declassify",
            Self::Admin => "admin",
        }
    }
}

/// A bundle of permissions that is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// discover.
    Discoverer,
    /// discover, read.
    Viewer,
    /// discover, read, derive.
    Deriver,
    /// discover, read, write, derive.
    Contributor,
    /// everything.
    Owner,
}

impl Role {
    /// All roles, weakest first.
    pub const ALL: [Self; 5] = [
        Self::Discoverer,
        Self::Viewer,
        Self::Deriver,
        Self::Contributor,
        Self::Owner,
    ];

    /// What the role allows.
    pub const fn permissions(self) -> &'static [Permission] {
        use Permission::{Admin, Declassify, Derive, Discover, Read, Write};
        match self {
            Self::Discoverer => &[Discover],
            Self::Viewer => &[Discover, Read],
            Self::Deriver => &[Discover, Read, Derive],
            Self::Contributor => &[Discover, Read, Write, Derive],
            Self::Owner => &[Discover, Read, Write, Derive, Declassify, Admin],
        }
    }

    /// The role's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Discoverer => "discoverer",
            Self::Viewer => "viewer",
            Self::Deriver => "deriver",
            Self::Contributor => "contributor",
            Self::Owner => "owner",
        }
    }
}

impl FromStr for Role {
    type Err = ParseRoleError;
    fn from_str(text: &str) -> Result<Self, ParseRoleError> {
        Self::ALL
            .into_iter()
            .find(|r| r.as_str() == text)
            .ok_or_else(|| ParseRoleError {
                text: text.chars().take(60).collect(),
                known: "discoverer, viewer, deriver, contributor or owner",
            })
    }
}

/// A text that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a role: use {known}")]
pub struct ParseRoleError {
    text: String,
    known: &'static str,
}

/// What a member is in an organization. It allows to manage, never to read data (R14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrganizationRole {
    /// Uses what was granted, creates repos of his own.
    Member,
    /// Reads the audit log.
    Auditor,
    /// Sees and pays bills.
    Billing,
    /// Manages members, grants, projects.
    Admin,
    /// Everything an admin does, and deletes the organization.
    Owner,
}

impl OrganizationRole {
    /// All roles.
    pub const ALL: [Self; 5] = [Self::Member, Self::Auditor, Self::Billing, Self::Admin, Self::Owner];

    /// The role's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Auditor => "auditor",
            Self::Billing => "billing",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// Whether the role manages members, grants and projects.
    pub const fn manages(self) -> bool {
        matches!(self, Self::Admin | Self::Owner)
    }
}

impl FromStr for OrganizationRole {
    type Err = ParseRoleError;
    fn from_str(text: &str) -> Result<Self, ParseRoleError> {
        Self::ALL
            .into_iter()
            .find(|r| r.as_str() == text)
            .ok_or_else(|| ParseRoleError {
                text: text.chars().take(60).collect(),
                known: "member, auditor, billing, admin or owner",
            })
    }
}

/// Who acts: a person or a service account. Text form: the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Principal {
    /// A person.
    Account(AccountId),
    /// A service account.
    ServiceAccount(ServiceAccountId),
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(id) => id.fmt(f),
            Self::ServiceAccount(id) => id.fmt(f),
        }
    }
}

impl FromStr for Principal {
    type Err = crate::ids::ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(id) => Ok(Self::ServiceAccount(id)),
            Err(_) => text.parse().map(Self::Account),
        }
    }
}

impl Serialize for Principal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for Principal {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        crate::openapi::text("^(acc|sa)_[0-9a-f]{32}$")
    }
}

impl utoipa::ToSchema for Principal {}

/// Who receives a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "id")]
pub enum Grantee {
    /// A person.
    Account(AccountId),
    /// A service account.
    ServiceAccount(ServiceAccountId),
    /// All members of a team.
    Team(TeamId),
}

/// What a grant is given on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "id")]
pub enum Resource {
    /// Every domain of the organization.
    Organization,
    /// Every domain of a project.
    Project(ProjectName),
    /// One domain.
    Domain(DomainId),
}

/// One grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// Who.
    pub grantee: Grantee,
    /// What.
    pub role: Role,
    /// On what.
    pub resource: Resource,
}

/// A member of the organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub principal: Principal,
    /// E-mail address, or the service account's name.
    pub name: String,
    /// What he is.
    pub role: OrganizationRole,
}

/// A team.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Team {
    /// Its id.
    pub id: TeamId,
    /// Its name.
    pub name: String,
    /// Who belongs to it.
    pub members: Vec<Principal>,
}

/// A domain as the control plane knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Its id, that of the repo.
    pub id: DomainId,
    /// The project it is or was in.
    pub project: ProjectName,
    /// The repo's name.
    pub name: RepoName,
    /// Whether the repo is gone and only the tombstone is left.
    pub deleted: bool,
}

/// A release (R9): the domains are excused on the edge into the outputs of one pipeline with one spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its id: the literal in origin sets.
    pub id: ReleaseId,
    /// What is excused.
    pub domains: Vec<DomainId>,
    /// On the edge into which pipeline: the domain of its output repo.
    pub pipeline: DomainId,
    /// The digest of the spec and image that was looked at, hex. Another digest voids the release.
    pub spec_digest: String,
    /// Why.
    pub purpose: String,
    /// Who approved.
    pub approvers: Vec<Principal>,
    /// Whether commits made before the release are covered too.
    pub retroactive: bool,
    /// When it began to count.
    pub created_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_at: DateTime<Utc>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

impl Release {
    /// Whether it counts at that time.
    pub fn is_active(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none_or(|at| now < at) && now < self.expires_at
    }
}

/// Whether an organization may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrganizationState {
    /// All is well.
    Active,
    /// Nothing may be read or written.
    Suspended,
    /// It is being deleted.
    Deleting,
}

/// Everything a data plane decides access by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySnapshot {
    /// Whose.
    pub organization: OrganizationId,
    /// May it be used.
    pub state: OrganizationState,
    /// Grows with every change.
    pub epoch: u64,
    /// Members, service accounts included.
    pub members: Vec<Member>,
    /// Teams.
    pub teams: Vec<Team>,
    /// Domains.
    pub domains: Vec<Domain>,
    /// Grants.
    pub grants: Vec<Grant>,
    /// Releases that were ever approved, so that a revoked one is known as such.
    pub releases: Vec<Release>,
    /// Sessions and API tokens that were revoked while access tokens made from them may still live.
    pub revoked_tokens: Vec<TokenId>,
}

/// The answer to a data plane's poll: the snapshot signed by the control plane (a compact JWS, EdDSA, whose claims are
/// `PolicyClaims`), or nothing new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyAnswer {
    /// The current epoch.
    pub epoch: u64,
    /// Present when it is higher than the asked one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_snapshot: Option<String>,
    /// The keys that are published now, `PublishedKeys`: present when they are newer than those that the poll named. They replace
    /// all that were known, before the snapshot is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<PublishedKeys>,
}

/// The public keys that tokens and policies are verified by: a JWKS (RFC 7517) that says how new it is. What is not in the newest one
/// is not believed, whatever it was signed with before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedKeys {
    /// The keys, each a JWK.
    pub keys: serde_json::Value,
    /// Grows with every change; 0 where it is not said.
    #[serde(default)]
    pub version: u64,
}

/// The claims of a signed snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyClaims {
    /// The control plane.
    pub iss: String,
    /// The data plane it is for.
    pub aud: String,
    /// Issued at, Unix seconds.
    pub iat: i64,
    /// The snapshot.
    pub policy: PolicySnapshot,
}
