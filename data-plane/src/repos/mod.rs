//! Repos: places for versioned data. A repo is a domain of the access policy and shares its id; a deleted one keeps its
//! row, because commits made from it still name its domain.

pub mod queries;
pub mod routes;

use chrono::{DateTime, Utc};
use contract::ids::{DomainId, ProjectId};
use contract::names::{ProjectName, RepoName};

/// A row of `repos` with its project's name.
#[derive(Debug, Clone)]
pub struct RepoRow {
    /// Its id, that of its domain.
    pub id: DomainId,
    /// Its project.
    pub project_id: ProjectId,
    /// The project's name.
    pub project: ProjectName,
    /// Its name.
    pub name: RepoName,
    /// What it is for.
    pub description: String,
    /// Whether a pipeline writes it.
    pub pipeline: bool,
    /// Whether that is the schedule of its cron input.
    pub ticks: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl RepoRow {
    /// What a repo that people do not write to holds, in words.
    pub fn made_of(&self) -> &'static str {
        match self.ticks {
            true => "the ticks of a pipeline's cron input",
            false => "the output of a pipeline",
        }
    }
}

impl std::fmt::Display for RepoRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.project, self.name)
    }
}
