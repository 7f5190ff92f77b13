//! Accounts, organizations, members, invitations, tokens.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ci::CiIdentity;
use crate::ids::{AccountId, InvitationId, OrganizationId, TokenId};
use crate::names::OrganizationName;
use crate::policy::{OrganizationRole, Principal};

/// A new account.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignUp {
    /// The address.
    pub email: String,
    /// The password.
    pub password: String,
    /// An organization to make at once.
    #[serde(default)]
    pub organization: Option<OrganizationName>,
}

/// E-mail and password.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    /// The address.
    pub email: String,
    /// The password.
    pub password: String,
    /// A code of the second factor, or a recovery code, where the account has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_factor: Option<String>,
}

/// A session was made. The secret is shown once.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct SessionMade {
    /// The account.
    pub account: Account,
    /// The organizations it is a member of.
    pub organizations: Vec<Organization>,
    /// `hwd_ses_…`.
    pub session_token: String,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

/// An account.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its address.
    pub email: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// An organization as one of its members sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Organization {
    /// Its id.
    pub id: OrganizationId,
    /// Its name.
    pub name: OrganizationName,
    /// What the caller is in it.
    pub role: OrganizationRole,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// An organization with what its owners have set.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OrganizationSettings {
    /// The organization.
    #[serde(flatten)]
    pub organization: Organization,
    /// How many people must approve each domain of a release: 1 or 2.
    pub release_approvals: u32,
}

/// Changes what owners set.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeOrganization {
    /// How many people must approve each domain of a release: 1 or 2.
    pub release_approvals: u32,
}

/// Who the caller is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// The principal.
    pub id: Principal,
    /// E-mail address or service account name.
    pub name: String,
    /// The session or token in use.
    pub token: TokenId,
    /// Whether it is proved that mail to the address is read by its holder; absent for service accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email_verified: Option<bool>,
    /// The organizations.
    pub organizations: Vec<Organization>,
}

/// Asks for an access token for an organization's data plane.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessTokenRequest {
    /// The organization's name; `None` = the only one, or the one of the token.
    #[serde(default)]
    pub organization: Option<OrganizationName>,
}

/// An access token for an organization's data plane. Asking for one wakes the plane.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct AccessTokenMade {
    /// The JWT.
    pub access_token: String,
    /// Seconds that it lives.
    pub expires_in: u64,
    /// The organization.
    pub organization: Organization,
    /// Where the plane is reached through the gateway, `http://127.0.0.1:7433/o/acme`.
    pub plane_url: String,
    /// Where bulk bytes may go directly, where the caller can reach it.
    pub direct_url: Option<String>,
    /// The current policy epoch, to be sent back as `Howdah-Epoch`.
    pub epoch: u64,
}

/// A member.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MemberView {
    /// Who.
    pub id: Principal,
    /// Address or name.
    pub name: String,
    /// What he is.
    pub role: OrganizationRole,
    /// Since when.
    pub joined_at: DateTime<Utc>,
}

/// An invitation. `token` is present in the answer that made it only.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Invitation {
    /// Its id.
    pub id: InvitationId,
    /// For whom.
    pub email: String,
    /// As what.
    pub role: OrganizationRole,
    /// `pending`, `accepted`, `revoked` or `expired`.
    pub state: String,
    /// Until when.
    pub expires_at: DateTime<Utc>,
    /// `hwd_inv_…`, shown once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// An API token. `secret` is present in the answer that made it only.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ApiToken {
    /// Its id.
    pub id: TokenId,
    /// Its name.
    pub name: String,
    /// Whom it stands for.
    pub principal: Principal,
    /// Limits, text form; empty = none.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// When it was used last, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// `pat`: a person's, `sat`: a service account's, `ci`: exchanged from the OIDC token of a CI run.
    #[serde(default)]
    pub kind: String,
    /// Address or name of whom it stands for.
    #[serde(default)]
    pub principal_name: String,
    /// The one organization that it is good for; `None` = all of that person's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<OrganizationId>,
    /// It ends when it was not used for so many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_days: Option<u32>,
    /// The token that it was rotated to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<TokenId>,
    /// In the list of an organization: `good`, `pending` (an admin has to approve it), `blocked`, `too_old` or `idle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<String>,
    /// The run that it was exchanged for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci: Option<Box<CiIdentity>>,
    /// `hwd_pat_…`, shown once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Where an organization's data plane stands.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PlaneStatus {
    /// `requested`, `provisioning`, `ready`, `degraded`, `asleep`, `suspended`, `deleting` or `deleted`.
    pub state: String,
    /// Its own address while it runs.
    pub url: Option<String>,
    /// What is in the way, oldest first.
    pub conditions: Vec<PlaneCondition>,
    /// The version of the data plane that brought its schema up to date.
    pub schema_version: Option<String>,
    /// Grows with every change of what is wanted; `seen_generation` is as high once it is so.
    #[serde(default)]
    pub generation: u64,
    /// The generation that was reached last.
    #[serde(default)]
    pub seen_generation: u64,
    /// What was done to it without being asked for, newest first: what somebody had changed and was put right, upgrades.
    #[serde(default)]
    pub events: Vec<PlaneEvent>,
}

/// Something that was done to a plane without being asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlaneEvent {
    /// Its kind, a fixed word: `drift_repaired`, `upgraded`, `rolled_back`, `suspended`, `resumed`.
    pub kind: String,
    /// What, in words.
    pub detail: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// A plane as whoever operates the installation sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlaneSummary {
    /// Whose it is.
    pub organization: OrganizationId,
    /// The organization's name.
    pub name: OrganizationName,
    /// As in the status of a plane.
    pub state: String,
    /// `running`, `asleep`, `suspended` or `deleted`.
    pub wanted: String,
    /// Grows with every change of what is wanted.
    pub generation: u64,
    /// The generation that was reached last.
    pub seen_generation: u64,
    /// The version of the data plane that brought its schema up to date.
    pub schema_version: Option<String>,
    /// What is in the way, oldest first.
    pub conditions: Vec<PlaneCondition>,
}

/// Something that is in a plane's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlaneCondition {
    /// Its kind, a fixed word.
    pub kind: String,
    /// What, why, what to do.
    pub reason: String,
    /// Since when.
    pub since: DateTime<Utc>,
}
