//! Projects: names under which repos stand. They carry no rights of their own in this database; grants on a project are
//! the control plane's.

pub mod queries;
pub mod routes;

use chrono::{DateTime, Utc};
use contract::ids::ProjectId;
use contract::names::ProjectName;

/// A row of `projects`.
#[derive(Debug, Clone)]
pub struct ProjectRow {
    /// Its id.
    pub id: ProjectId,
    /// Its name.
    pub name: ProjectName,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}
