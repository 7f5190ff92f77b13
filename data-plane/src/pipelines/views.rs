//! Pipelines as the API shows them. A spec names its inputs, and an input that the caller may not know of must not be
//! named, so such a spec is shown without its input.

use contract::api::{Pipeline, PipelineState};
use contract::ids::DomainId;
use contract::policy::Permission;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::queries::{self, PipelineRow};
use crate::failure::Answer;
use crate::permissions::{Rights, System};

const SHOW: System = System::because("what the caller may not know of is left out below");

/// Shows pipelines whose repos the caller may know of.
///
/// # Errors
/// When the database is away.
pub async fn show_all(conn: &mut PgConnection, rights: &Rights, rows: Vec<PipelineRow>) -> Answer<Vec<Pipeline>> {
    let ids: Vec<Uuid> = rows.iter().map(|r| r.id).collect();
    let inputs = queries::inputs(conn, &SHOW, Some(&ids)).await?;
    let mut shown = Vec::new();
    for row in rows {
        let own = inputs
            .iter()
            .filter(|i| i.0 == row.id)
            .map(|i| DomainId::from_uuid(i.3));
        let domains: Vec<DomainId> = own.chain([DomainId::from_uuid(row.id)]).collect();
        let all = |permission| domains.iter().all(|d| rights.can(permission, *d));
        shown.push(view(row, all(Permission::Discover), all(Permission::Read))?);
    }
    Ok(shown)
}

fn view(row: PipelineRow, names: bool, contents: bool) -> Answer<Pipeline> {
    let mut spec = row.spec.0;
    if !names && let Some(object) = spec.as_object_mut() {
        object.insert("input".to_owned(), json!("restricted"));
    }
    Ok(Pipeline {
        id: DomainId::from_uuid(row.id),
        name: row.name.parse()?,
        project: row.project.parse()?,
        version: u32::try_from(row.version).unwrap_or(0),
        state: match row.state.as_str() {
            "paused" => PipelineState::Paused,
            "suspended" => PipelineState::Suspended,
            "failure" => PipelineState::Failure,
            _ => PipelineState::Running,
        },
        // It may quote what user code printed or name files.
        reason: row.reason.filter(|_| contents),
        spec,
        spec_digest: hex::encode(row.spec_digest),
        image_digest: row.image_digest,
        code_revision: row.code_revision,
        actor: row.actor.0,
        created_at: row.created_at,
    })
}
