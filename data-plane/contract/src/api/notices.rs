//! Notices: what somebody should know of, told where he belongs.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ids::NoticeId;
use crate::names::OrganizationName;

/// Something that its reader should know of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Notice {
    /// Its id.
    pub id: NoticeId,
    /// In which organization.
    pub organization: OrganizationName,
    /// `noun.verb`, as the audit trail calls it.
    pub kind: String,
    /// One sentence.
    pub text: String,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// When it was marked as read.
    pub read_at: Option<DateTime<Utc>>,
}
