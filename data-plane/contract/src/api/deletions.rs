//! Deleted organizations: how long they can be had back, and the receipt of what was erased.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ids::OrganizationId;
use crate::names::OrganizationName;

/// An organization was deleted, as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OrganizationDeleted {
    /// Its id, by which the receipt is found.
    pub id: OrganizationId,
    /// Its name.
    pub name: OrganizationName,
    /// When access ended.
    pub deleted_at: DateTime<Utc>,
    /// Until then an owner can have it back; afterwards its data is erased.
    pub kept_until: DateTime<Utc>,
}

/// What was erased in one store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErasedStore {
    /// Which one.
    pub store: String,
    /// What was there.
    pub detail: String,
    /// When it was gone.
    pub erased_at: DateTime<Utc>,
}

/// What the receipt of a deleted organization says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeletionReceipt {
    /// The organization.
    pub organization: OrganizationId,
    /// Its name.
    pub name: OrganizationName,
    /// `kept` while it can be had back, `erasing`, `erased`.
    pub state: String,
    /// When access ended.
    pub deleted_at: DateTime<Utc>,
    /// Until when an owner can have it back.
    pub kept_until: DateTime<Utc>,
    /// Store by store, once it is erased.
    pub stores: Vec<ErasedStore>,
    /// The last row of the audit trail, which is kept: its number.
    pub audit_seq: u64,
    /// And its hash.
    pub audit_hash: String,
}

/// A receipt and the service's word for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SignedReceipt {
    /// What it says.
    #[serde(flatten)]
    pub receipt: DeletionReceipt,
    /// SHA-256 of the receipt's stores as they were written, 64 hex digits; empty until it is erased.
    pub digest: String,
    /// The receipt as a compact JWS (EdDSA), by a key of `/.well-known/jwks.json`; empty until it is erased.
    pub signed: String,
}
