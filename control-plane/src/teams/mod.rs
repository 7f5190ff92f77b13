//! Teams: names for several members and service accounts, so that one grant serves them all.

pub mod queries;
mod routes;

use chrono::{DateTime, Utc};
use contract::ids::TeamId;
use contract::names::TeamName;
pub use routes::router;

/// A team as members of the organization see it.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct TeamView {
    /// Its id.
    pub id: TeamId,
    /// Its name.
    pub name: TeamName,
    /// Addresses and `sa:NAME`.
    pub members: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}
