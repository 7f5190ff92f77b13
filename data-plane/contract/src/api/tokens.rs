//! The life of API tokens: rotation, revocation by secret, what an organization demands of tokens; and log-ins of a command line by
//! another device.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Account, Organization};

/// Makes a new secret for a token.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateToken {
    /// For how long the old secret stays good, hours, 0 to 72. When absent: 24.
    #[serde(default)]
    pub overlap_hours: Option<u32>,
}

/// Revokes the token of a secret that was found somewhere.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeSecret {
    /// The secret.
    pub token: String,
}

/// What an organization demands of tokens that work in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenPolicy {
    /// So many days after it was made, a token does nothing in the organization any more. `None`: as long as it lives.
    #[serde(default)]
    pub longest_days: Option<u32>,
    /// Nor one that was not used for so many days.
    #[serde(default)]
    pub idle_days: Option<u32>,
    /// A token of a person does nothing in the organization until an admin has approved it there.
    #[serde(default)]
    pub approval: bool,
}

/// A command line asks to be logged in.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDeviceLogin {
    /// What it calls itself: shown to who approves.
    #[serde(default)]
    pub client: Option<String>,
}

/// A log-in that waits for somebody to approve it.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct DeviceLogin {
    /// The secret that the answer is asked for with.
    pub device_code: String,
    /// What the person types, `WDJB-MJHT`.
    pub user_code: String,
    /// Where.
    pub verification_url: String,
    /// Seconds that it waits.
    pub expires_in: u64,
    /// Seconds between two questions, at the least.
    pub interval: u64,
}

/// Asks how a log-in stands.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceQuestion {
    /// Its secret.
    pub device_code: String,
}

/// How a log-in stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Nobody has decided.
    Pending,
    /// The same, and the question came too early: the interval is longer from now on.
    SlowDown,
    /// Somebody said no.
    Denied,
    /// There is a session.
    Approved,
}

/// How a log-in stands. The session is told once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct DeviceAnswer {
    /// How.
    pub state: DeviceState,
    /// Seconds until the next question, at the least.
    pub interval: u64,
    /// `hwd_ses_…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<String>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// The organizations of that account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub organizations: Vec<Organization>,
}

/// What who approves a log-in is shown of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeviceRequest {
    /// The code.
    pub user_code: String,
    /// What the command line calls itself.
    pub client: String,
    /// The address that it asked from.
    pub address: String,
    /// When it asked.
    pub requested_at: DateTime<Utc>,
    /// Until when it can be approved.
    pub expires_at: DateTime<Utc>,
}

/// Approves a log-in, or refuses it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecideDeviceLogin {
    /// What the command line shows.
    pub user_code: String,
    /// Whether it is logged in.
    #[serde(default)]
    pub approve: bool,
}
