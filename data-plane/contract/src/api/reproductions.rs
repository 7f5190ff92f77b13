//! Running again what made a commit, and what came of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::pipelines::Job;
use crate::ids::{CommitId, JobId};

/// Asks for a reproduction.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReproduction {
    /// A commit that a pipeline made.
    #[serde(rename = "ref")]
    pub reference: String,
}

/// How far a reproduction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReproductionState {
    /// Its job is not over.
    Running,
    /// What came out is the same, byte for byte.
    Identical,
    /// Something else came out.
    Different,
    /// Its job did not come to its end, so there is nothing to compare.
    Failed,
}

/// The first path at which two contents differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// `added` (it came out this time only), `changed` or `removed` (it did not come out this time).
    pub change: String,
    /// Where.
    pub path: String,
}

/// What a job gave that reproduces a commit; as it is stored, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    /// Digest of the content of the commit.
    pub expected: String,
    /// Digest of the content that came out.
    pub found: String,
    /// Where they differ first; nothing when they are identical.
    pub difference: Option<Difference>,
}

/// A reproduction.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Reproduction {
    /// Its job's id, by which it is asked for.
    pub id: JobId,
    /// The commit that is reproduced.
    pub commit: CommitId,
    /// How far it is.
    pub state: ReproductionState,
    /// What came of it.
    pub comparison: Option<Comparison>,
    /// A secret that the code is given was set again since the commit was made.
    #[serde(default)]
    pub secrets_changed: bool,
    /// Its job, which is in no list.
    pub job: Job,
}
