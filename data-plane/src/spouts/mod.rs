//! Spouts: pipelines without inputs whose command runs until it is stopped and makes commits of what it receives. They are
//! kept running as services are (`serving`), without a port; their job's own commit is on no branch and carries the origins of
//! what the command prints. The worker stores the files of each commit and asks for it (`desk`): one transaction makes the
//! commit, notes what asked for it and lets everything downstream know, so a commit is whole or not there, and asking again
//! makes no other. What arrived has the origin `unattested` (R2): the domain of an empty repo of the pipeline's, which who
//! applied it owns, until a steward attests the commit (`attest`).

pub mod attest;
pub mod begin;
pub mod desk;
pub mod queries;

use contract::ids::{DomainId, ProjectId};
use contract::names::RepoName;

/// The repo whose readers may read what a spout received and nobody attested, as `apply` finds or makes it.
#[derive(Debug, Clone)]
pub struct Outside {
    /// Its domain.
    pub id: DomainId,
    /// Its project.
    pub project: ProjectId,
    /// Its name.
    pub name: RepoName,
    /// Whether it has to be made.
    pub new: bool,
}
