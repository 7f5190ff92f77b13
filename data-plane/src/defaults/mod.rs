//! What pipeline specs begin with (`provenance::spec::merged`): of the organization, and of a project above that. They
//! become part of a spec when it is applied; pipelines that are there stay as they are until then.

pub mod queries;
pub mod routes;

use std::collections::HashMap;

use contract::names::ProjectName;
use provenance::spec::{check_defaults, merged, project_named};
use serde_json::Value;
use sqlx::PgConnection;

use crate::failure::Answer;
use crate::permissions::System;

const APPLY: System = System::because("every member may know what specs begin with");

/// All defaults of an organization.
#[derive(Debug, Default)]
pub struct Defaults {
    organization: Option<Value>,
    projects: HashMap<ProjectName, Value>,
}

/// Reads them.
///
/// # Errors
/// When the database is away.
pub async fn load(conn: &mut PgConnection) -> Answer<Defaults> {
    let mut defaults = Defaults::default();
    for (project, spec) in queries::list(conn, &APPLY).await? {
        // Set when more could have a default: it counts no more.
        if check_defaults(&spec).is_err() {
            tracing::warn!(
                project,
                "defaults are left out that are not valid any more: set them again"
            );
            continue;
        }
        match project {
            None => defaults.organization = Some(spec),
            Some(project) => drop(defaults.projects.insert(project.parse()?, spec)),
        }
    }
    Ok(defaults)
}

impl Defaults {
    /// A spec with what it begins with. Without any it stays as it was written.
    pub fn below(&self, spec: &Value) -> Value {
        let project = project_named(spec).unwrap_or_else(ProjectName::default_project);
        let both = [self.organization.as_ref(), self.projects.get(&project)];
        let base = both.into_iter().flatten().fold(None, |below: Option<Value>, above| {
            Some(below.map_or_else(|| above.clone(), |below| merged(&below, above)))
        });
        base.map_or_else(|| spec.clone(), |base| merged(&base, spec))
    }
}
