//! Service accounts: principals of an organization that are no people. They hold grants and API tokens of their own.

pub mod queries;
mod routes;

use chrono::{DateTime, Utc};
use contract::ids::ServiceAccountId;
use contract::names::ServiceAccountName;
pub use routes::router;

/// A service account as members see it.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct ServiceAccountView {
    /// Its id.
    pub id: ServiceAccountId,
    /// Its name.
    pub name: ServiceAccountName,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}
