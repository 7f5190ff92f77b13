//! Requests for access: who was denied asks those who can grant it.

mod queries;
mod routes;

use chrono::{DateTime, Utc};
use contract::ids::AccessRequestId;
pub use routes::router;

/// A request as its maker and those who can grant it see it.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct AccessRequestView {
    /// Its id.
    pub id: AccessRequestId,
    /// Who asks: address or service account name.
    pub by: String,
    /// To read what.
    #[serde(rename = "ref")]
    pub reference: String,
    /// What he is missing, `project/repo` or `restricted upstream #n`.
    pub missing: Vec<String>,
    /// What he says.
    pub message: String,
    /// When.
    pub created_at: DateTime<Utc>,
}
