//! Secrets of pipelines: what is set, and what is shown of them, which is never a value.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Actor;
use crate::names::{ProjectName, SecretName};

/// The values of a secret, which replace all that it had.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSecret {
    /// By their keys.
    pub values: BTreeMap<String, String>,
}

impl std::fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// A secret without its values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// Its name.
    pub name: SecretName,
    /// Its project.
    pub project: ProjectName,
    /// Counts how often it was set; another version runs the datums that use it again.
    pub version: u32,
    /// The keys of its values.
    pub keys: Vec<String>,
    /// Who set it last.
    pub actor: Actor,
    /// When.
    pub updated_at: DateTime<Utc>,
}
