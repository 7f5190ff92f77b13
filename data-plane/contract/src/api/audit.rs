//! The audit trail, as it is listed and exported.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::audit::{Checkpoint, Trail};
use crate::ids::OrganizationId;

/// A row of an audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditEvent {
    /// Which chain: the control plane's or the data plane's.
    pub trail: Trail,
    /// The organization.
    pub organization: OrganizationId,
    /// Its number in its chain, from 1, without gaps.
    pub seq: u64,
    /// How its hash is made.
    pub format: u32,
    /// When.
    pub at: DateTime<Utc>,
    /// Id of who did it, or the part of the service that acted by itself.
    pub actor: String,
    /// Address or name at that time.
    pub actor_name: String,
    /// Id of the session or token; empty for the service itself.
    pub token: String,
    /// What kind of credential that was: `session`, `api token`, or a run of CI; empty for the service itself.
    pub via: String,
    /// `noun.verb`.
    pub action: String,
    /// What was changed, in names or ids.
    pub subject: String,
    /// Id of the request; empty where there was none.
    pub request_id: String,
    /// The address that the request came from; empty where there was none.
    pub address: String,
    /// `hash` of the row before it; empty in the first.
    pub prev_hash: String,
    /// SHA-256 of all of this and of the row before it, 64 hex digits.
    pub hash: String,
}

/// The last line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SignedCheckpoint {
    /// How far the trail goes.
    pub checkpoint: Checkpoint,
    /// The same as a compact JWS (EdDSA), by a key of `/.well-known/jwks.json`.
    pub signed: String,
}

/// A data plane asks for the signature under its own trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCheckpoint {
    /// The number of the last row, 0 where there is none.
    pub seq: u64,
    /// Its hash, 64 hex digits; empty where there is none.
    pub hash: String,
}
