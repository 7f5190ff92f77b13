//! Pipelines as the API shows them. A spec names its inputs, and an input that the caller may not know of must not be
//! named, so such a spec is shown without everything that may name it. The reason of a failure tells of the data that its
//! job read and made, so it is shown to whom may read those.

use std::collections::{HashMap, HashSet};

use contract::api::{Pipeline, PipelineState};
use contract::ids::DomainId;
use contract::names::{ProjectName, RepoName};
use contract::policy::Permission;
use provenance::spec::PipelineSpec;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::queries::{self, PipelineRow};
use super::released::{self, Look};
use super::{standing, standing_queries};
use crate::call::Call;
use crate::commits;
use crate::failure::Answer;
use crate::jobs::reasons;
use crate::permissions::System;
use crate::repos;
use crate::serving;
use crate::serving::queries::ServiceRow;

const SHOW: System = System::because("what the caller may not know of is left out below");
/// Fields that neither name an input nor tell what is done with it, nor hold texts of somebody's own. A new field is not shown
/// until it stands here.
const HARMLESS: [&str; 15] = [
    "pipeline",
    "output_branch",
    "parallelism_spec",
    "autoscaling",
    "datum_set_spec",
    "datum_timeout",
    "datum_tries",
    "job_timeout",
    "reprocess_spec",
    "resource_requests",
    "resource_limits",
    "distributed",
    "network",
    "path_collision",
    "service",
];

/// Shows pipelines whose repos the caller may know of.
///
/// # Errors
/// When the database is away.
pub async fn show_all(conn: &mut PgConnection, call: &Call, rows: Vec<PipelineRow>) -> Answer<Vec<Pipeline>> {
    let ids: Vec<Uuid> = rows.iter().map(|r| r.id).collect();
    let mut current: HashMap<Uuid, Vec<DomainId>> = HashMap::new();
    for (pipeline, _, _, repo, _) in queries::inputs(conn, &SHOW, Some(&ids)).await? {
        current.entry(pipeline).or_default().push(DomainId::from_uuid(repo));
    }
    let failed: Vec<Uuid> = rows.iter().filter_map(|r| r.reason_output).collect();
    let open = reasons::open_to(call, conn, &failed).await?;
    let services = serving::queries::of_pipelines(conn, &SHOW, &ids).await?;
    let standings = standing_queries::list(conn, &SHOW, &ids).await?;
    let mut names = Names {
        call,
        known: HashMap::new(),
    };
    let mut shown = Vec::new();
    for mut row in rows {
        row.reason = reason(call, conn, &row, &open).await?;
        let inputs = current.get(&row.id).filter(|_| row.version == row.newest);
        let named = match inputs {
            Some(inputs) => inputs.iter().all(|d| call.rights().can(Permission::Discover, *d)),
            None => names.of_spec(conn, &row).await?,
        };
        if let Some(digest) = release_digest(call, conn, &row).await? {
            row.spec_digest = digest;
        }
        let service = services
            .iter()
            .find(|s| s.pipeline_id == row.id && row.version == row.newest);
        // Of the newest version alone: it names that one's inputs.
        let standing = standings.iter().find(|s| s.id == row.id && row.version == row.newest);
        let mut pipeline = view(row, named)?;
        if let Some(standing) = standing {
            standing::show(standing, named, &mut pipeline);
        }
        if let Some(service) = service {
            show_service(call, conn, service, &mut pipeline).await?;
        }
        shown.push(pipeline);
    }
    Ok(shown)
}

/// What a release of the pipeline with its code of now names, where that stands in a repo of ours. Who may not read the code
/// is not told of it, so that nobody approves what he may not look at.
async fn release_digest(call: &Call, conn: &mut PgConnection, row: &PipelineRow) -> Answer<Option<Vec<u8>>> {
    let Ok(spec) = PipelineSpec::parse(&row.spec.0, &row.project.parse()?) else {
        return Ok(None);
    };
    let Some(code) = &spec.transform.code else {
        return Ok(None);
    };
    let Some(repo) = repos::queries::find_repo(conn, &SHOW, &code.project, &code.repo).await? else {
        return Ok(None);
    };
    let head = commits::queries::find_head(conn, &SHOW, repo.id, &code.branch).await?;
    let Some(head) = head.flatten() else {
        return Ok(None);
    };
    if call.readable_among(conn, vec![head.origin_set]).await?.is_empty() {
        return Ok(None);
    }
    released::digest(
        &call.plane,
        conn,
        (&spec, &row.spec_digest),
        Some(head.id),
        Look::InStorage,
    )
    .await
}

/// The reason as this caller is told it, if he is.
async fn reason(
    call: &Call,
    conn: &mut PgConnection,
    row: &PipelineRow,
    open: &HashSet<Uuid>,
) -> Answer<Option<String>> {
    if row.state != "failure" {
        // Somebody stopped it, or took a right away: no job's data is told of.
        return Ok(reasons::told(call.rights(), row.reason.clone(), true));
    }
    // A failure without its job is of a time in which jobs were not kept beside reasons.
    let (Some(output), Some(set)) = (row.reason_output, row.reason_set) else {
        return Ok(None);
    };
    let readable = open.contains(&output) && !call.readable_among(conn, vec![set]).await?.is_empty();
    Ok(reasons::told(
        call.rights(),
        row.reason.clone().filter(|_| readable),
        true,
    ))
}

/// What is served, for whom may reach it; that it ends again and again for all.
async fn show_service(call: &Call, conn: &mut PgConnection, service: &ServiceRow, shown: &mut Pipeline) -> Answer<()> {
    let crashes = service.failures > 0 && service.state != "answering";
    let works = matches!(shown.state, PipelineState::Running | PipelineState::Starting);
    let crashing = crashes && works;
    if crashing {
        shown.state = PipelineState::Crashing;
    }
    if call.readable_among(conn, vec![service.origin_set_id]).await?.is_empty() {
        return Ok(());
    }
    // A spout is kept running alike, and nobody reaches it.
    shown.service = service.port.map(|_| serving::routes::view(service));
    if crashing {
        shown.reason = crash(call, conn, service).await?;
    }
    Ok(())
}

/// Why a service ends again and again, for whom may read its log.
async fn crash(call: &Call, conn: &mut PgConnection, service: &ServiceRow) -> Answer<Option<String>> {
    let open = reasons::open_to(call, conn, &[service.output_commit_id]).await?;
    let job = contract::ids::JobId::from_uuid(service.job_id);
    let reason = format!(
        "it ended {} times in a row, last: {}; it is started again with growing pauses: look at `howdah logs {job}`",
        service.failures,
        service.reason.as_deref().unwrap_or("its machine stopped")
    );
    Ok(reasons::told(
        call.rights(),
        Some(reason),
        open.contains(&service.output_commit_id),
    ))
}

/// Which repos of older versions' specs the caller may know of.
struct Names<'a> {
    call: &'a Call,
    known: HashMap<(ProjectName, RepoName), bool>,
}

impl Names<'_> {
    /// Whether the caller may know of every input of a version that is no longer the newest. One that is not there any
    /// more counts as hidden: nobody can tell whose it was.
    async fn of_spec(&mut self, conn: &mut PgConnection, row: &PipelineRow) -> Answer<bool> {
        let Ok(spec) = PipelineSpec::parse(&row.spec.0, &row.project.parse()?) else {
            return Ok(false);
        };
        for leaf in spec.input.leaves() {
            let key = (leaf.project.clone(), leaf.repo.clone());
            if !self.known.contains_key(&key) {
                let repo = repos::queries::find_repo(conn, &SHOW, &key.0, &key.1).await?;
                let known = repo.is_some_and(|r| self.call.rights().can(Permission::Discover, r.id));
                self.known.insert(key.clone(), known);
            }
            if self.known.get(&key) != Some(&true) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn view(row: PipelineRow, named: bool) -> Answer<Pipeline> {
    let mut spec = row.spec.0;
    if !named {
        // As it is understood, where each field has one spelling; of one that is not, nothing.
        let read = PipelineSpec::parse(&spec, &row.project.parse()?);
        spec = read.map_or_else(|_| json!({}), |read| read.to_value());
        if let Some(object) = spec.as_object_mut() {
            object.retain(|field, _| HARMLESS.contains(&field.as_str()));
            object.insert("input".to_owned(), json!(reasons::RESTRICTED));
        }
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
        reason: row.reason,
        spec,
        spec_digest: hex::encode(row.spec_digest),
        image_digest: row.image_digest,
        code_revision: row.code_revision,
        actor: row.actor.0,
        created_at: row.created_at,
        service: None,
    })
}
