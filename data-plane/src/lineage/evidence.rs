//! `/v1/evidence` and `/v1/manifest`: lineage with the records, specs and lists of files by which a third party checks it
//! (`howdah verify`). Names are for who may know of a commit, everything that tells of content for who may read it (R1):
//! of a record that names what its reader may not read, that part is left out, and it says so. What he may not know of is
//! left out and counted nowhere (R15).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chassis::http::{Json, Query};
use contract::api::{Evidence, EvidenceCommit, EvidenceVersion, EvidenceWay, ListedFile};
use contract::ids::{CommitId, DomainId};
use contract::names::{ProjectName, RepoName};
use contract::policy::Permission;
use contract::record::{Record, RecordDigest};
use contract::reference::CommitRef;
use futures::{StreamExt, TryStreamExt};
use provenance::origins::OriginSet;
use provenance::spec::PipelineSpec;
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa::IntoParams;

use super::{Direction, Earlier, Extent, Found, queries, walk_within};
use crate::call::Call;
use crate::commits::records::{ancestries, record};
use crate::commits::{CommitRow, origins};
use crate::failure::Answer;
use crate::files::guard::guarded;
use crate::permissions::System;
use crate::plane::Plane;
use crate::repos;

const EVIDENCE: System = System::because("what the caller may not know of or read is left out");
/// As many commits as a bundle may have.
const EXTENT: Extent = Extent {
    earlier: Earlier::OfAll,
    commits_max: 20_000 - 1,
};
/// Lines of a list of files that go out together.
const LINES_AT_ONCE: usize = 256;

type Names = HashMap<DomainId, (ProjectName, RepoName)>;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EvidenceQuery {
    /// A commit: `[project/]repo@branch` or `…@id`, with `^n` or `.n`.
    #[serde(rename = "ref")]
    reference: String,
    /// Which way to walk; `up` when it is left out.
    #[serde(default)]
    way: Option<EvidenceWay>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ManifestQuery {
    /// A commit: `[project/]repo@branch` or `…@id`, with `^n` or `.n`.
    #[serde(rename = "ref")]
    reference: String,
}

/// Lineage with the records and specs that it is checked by.
///
/// `GET /v1/evidence`. All that it takes is read first, and then decided by the rights of that moment at once (R6).
#[utoipa::path(
    get,
    path = "/v1/evidence",
    tag = "lineage",
    operation_id = "evidence",
    params(EvidenceQuery),
    responses((status = 200, body = Evidence)),
)]
pub(super) async fn show(
    State(plane): State<Plane>,
    call: Call,
    Query(query): Query<EvidenceQuery>,
) -> Answer<Json<Evidence>> {
    let reference: CommitRef = query.reference.parse()?;
    let way = query.way.unwrap_or(EvidenceWay::Up);
    let mut conn = plane.pool.acquire().await?;
    let subject = call.locate_readable(&mut conn, &reference).await?;
    let direction = match way {
        EvidenceWay::Up => Direction::Up,
        EvidenceWay::Down => Direction::Down,
    };
    let found = walk_within(&mut conn, subject.commit.id, direction, EXTENT).await?;
    let facts = Facts::read(&mut conn, &plane, subject.commit, found).await?;
    drop(conn);
    let call = call.renewed()?;
    call.readable(&subject.origins, &subject.name)?;
    Ok(Json(collect(&call, way, &facts)))
}

/// What is known of the commits of a walk, whoever asks.
struct Facts {
    /// The one that is asked for first.
    rows: Vec<CommitRow>,
    inputs: HashMap<CommitId, Vec<CommitId>>,
    earlier: HashSet<CommitId>,
    names: Names,
    records: HashMap<CommitId, Record>,
    /// The origin set of each commit that is one of these or named in a record.
    sets: HashMap<CommitId, Arc<OriginSet>>,
    versions: Vec<Version>,
}

/// A version of a pipeline, and the repos that its spec reads, where they are still there.
struct Version {
    row: queries::VersionRow,
    spec: Option<(PipelineSpec, Vec<Option<DomainId>>)>,
}

impl Facts {
    async fn read(conn: &mut PgConnection, plane: &Plane, subject: CommitRow, found: Found) -> Answer<Self> {
        let mut rows = vec![subject];
        rows.extend(found.commits);
        let domains: Vec<DomainId> = rows.iter().map(|row| row.repo).collect();
        let names = repos::queries::names_of(conn, &EVIDENCE, &domains).await?;
        let mut recorded = Vec::new();
        for row in rows
            .iter()
            .filter(|row| row.digest.is_some() && row.finished_at.is_some())
        {
            recorded.extend(row.recorded_tree_digest()?.map(|tree| (row, tree)));
        }
        let mut ancestries = ancestries(plane, conn, &EVIDENCE, &recorded).await?;
        let records: HashMap<CommitId, Record> = recorded
            .iter()
            .filter_map(|(row, _)| Some((row.id, record(row, row.finished_at?, ancestries.remove(&row.id)?))))
            .collect();
        let named = records
            .values()
            .flat_map(|record| record.inputs.iter().chain(&record.parent));
        let mut commits: Vec<CommitId> = named.map(|named| named.commit).collect();
        commits.extend(rows.iter().map(|row| row.id));
        commits.sort_unstable();
        commits.dedup();
        let mut sets = HashMap::new();
        for (commit, set) in queries::list_sets(conn, &EVIDENCE, &commits).await? {
            sets.insert(commit, origins::get(plane, conn, &EVIDENCE, set).await?);
        }
        Ok(Self {
            versions: versions(conn, &rows, &names).await?,
            rows,
            inputs: found.inputs,
            earlier: found.earlier,
            names,
            records,
            sets,
        })
    }
}

/// The versions of pipelines that made these commits.
async fn versions(conn: &mut PgConnection, commits: &[CommitRow], names: &Names) -> Answer<Vec<Version>> {
    let mut wanted: Vec<(DomainId, i32)> = commits
        .iter()
        .filter_map(|commit| commit.pipeline.as_ref().map(|stamp| (stamp.id, stamp.version)))
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut versions = Vec::new();
    let mut repos = HashMap::new();
    for row in queries::list_versions(conn, &EVIDENCE, &wanted).await? {
        let project = names
            .get(&DomainId::from_uuid(row.pipeline_id))
            .map(|(project, _)| project);
        let spec = project.and_then(|project| PipelineSpec::parse(&row.spec.0, project).ok());
        let mut reads = Vec::new();
        for leaf in spec.iter().flat_map(|spec| spec.input.leaves()) {
            let name = (leaf.project.clone(), leaf.repo.clone());
            let known = repos.get(&name).copied();
            reads.push(match known {
                Some(known) => known,
                None => {
                    let repo = repos::queries::find_repo(conn, &EVIDENCE, &leaf.project, &leaf.repo).await?;
                    let id = repo.map(|repo| repo.id);
                    repos.insert(name, id);
                    id
                }
            });
        }
        let spec = spec.map(|spec| (spec, reads));
        versions.push(Version { row, spec });
    }
    Ok(versions)
}

/// What the caller may know of it.
fn collect(call: &Call, way: EvidenceWay, facts: &Facts) -> Evidence {
    let rights = call.rights();
    let shown = facts.rows.iter().enumerate();
    let shown = shown.filter(|(n, row)| *n == 0 || rights.can(Permission::Discover, row.repo));
    let rows: Vec<&CommitRow> = shown.map(|(_, row)| row).collect();
    let visible: HashSet<CommitId> = rows.iter().map(|row| row.id).collect();
    let readable: HashSet<CommitId> = facts
        .sets
        .iter()
        .filter(|(_, set)| call.readable(set, "").is_ok())
        .map(|(commit, _)| *commit)
        .collect();
    let mut commits = Vec::new();
    for row in &rows {
        let Some((project, repo)) = facts.names.get(&row.repo).cloned() else {
            continue;
        };
        let inputs = facts.inputs.get(&row.id).into_iter().flatten();
        let mut listed = HashSet::new();
        let shown = EvidenceCommit {
            commit: row.id,
            project,
            repo,
            pipeline: row.pipeline.as_ref().map(|stamp| stamp.id),
            pipeline_version: row.pipeline.as_ref().map(|stamp| stamp.version),
            image_digest: row.pipeline.as_ref().and_then(|stamp| stamp.image_digest.clone()),
            code_revision: row.pipeline.as_ref().and_then(|stamp| stamp.code_revision.clone()),
            earlier: facts.earlier.contains(&row.id),
            removed: row.removed.as_ref().map(|removed| removed.how),
            inputs: inputs
                .filter(|input| visible.contains(input) && listed.insert(**input))
                .copied()
                .collect(),
            digest: None,
            purged_digest: None,
            content: None,
            files: 0,
            size_bytes: 0,
            restricted: false,
            record: None,
        };
        commits.push(
            match facts.records.get(&row.id).filter(|_| readable.contains(&row.id)) {
                Some(record) => with_record(row, record.clone(), &readable, shown),
                None => shown,
            },
        );
    }
    let made: HashSet<(DomainId, i32)> = rows
        .iter()
        .filter_map(|row| row.pipeline.as_ref().map(|stamp| (stamp.id, stamp.version)))
        .collect();
    Evidence {
        organization: call.plane.organization,
        subject: facts.rows[0].id,
        way,
        restricted: way == EvidenceWay::Up && commits.len() < facts.rows.len(),
        versions: facts
            .versions
            .iter()
            .filter_map(|version| shown_version(call, version, &facts.names))
            .filter(|version| made.contains(&(version.pipeline, version.version)))
            .collect(),
        commits,
    }
}

/// The same commit with everything that its readers may know. What names commits that the caller may not read is taken out.
fn with_record(
    row: &CommitRow,
    mut record: Record,
    readable: &HashSet<CommitId>,
    shown: EvidenceCommit,
) -> EvidenceCommit {
    let named = |record: &Record| record.inputs.len() + usize::from(record.parent.is_some());
    let all = named(&record);
    record.inputs.retain(|input| readable.contains(&input.commit));
    record.parent = record.parent.take().filter(|parent| readable.contains(&parent.commit));
    let digest = |bytes: &Option<Vec<u8>>| bytes.as_deref().and_then(RecordDigest::from_slice);
    EvidenceCommit {
        digest: digest(&row.digest),
        purged_digest: digest(&row.purged_record),
        content: row.tree().ok().map(|tree| RecordDigest::new(*tree.digest().as_bytes())),
        files: u64::try_from(row.files).unwrap_or(0),
        size_bytes: u64::try_from(row.size_bytes).unwrap_or(0),
        restricted: named(&record) < all,
        record: Some(record),
        ..shown
    }
}

/// A version; its spec only where the caller may know of all that it reads. A repo that is not there any more counts as hidden:
/// nobody can tell whose it was.
fn shown_version(call: &Call, version: &Version, names: &Names) -> Option<EvidenceVersion> {
    let pipeline = DomainId::from_uuid(version.row.pipeline_id);
    let (project, name) = names.get(&pipeline)?.clone();
    let may_know = |repo: &Option<DomainId>| repo.is_some_and(|repo| call.rights().can(Permission::Discover, repo));
    let spec = version.spec.as_ref().filter(|(_, reads)| reads.iter().all(may_know));
    Some(EvidenceVersion {
        pipeline,
        project,
        name,
        version: version.row.version,
        spec_digest: RecordDigest::from_slice(&version.row.spec_digest)?,
        sealed: spec.map(|(spec, _)| spec.sealed(version.row.image_digest.as_deref())),
    })
}

/// All files of a commit.
///
/// `GET /v1/manifest`: every file of a commit, one a line, in the order of the paths' bytes.
#[utoipa::path(
    get,
    path = "/v1/manifest",
    tag = "lineage",
    params(ManifestQuery),
    responses(
        (status = 200, body = ListedFile, content_type = "application/x-ndjson", description = "lines of JSON, one `ListedFile` each, in the order of their paths"),
    ),
)]
pub(super) async fn manifest(
    State(plane): State<Plane>,
    call: Call,
    Query(query): Query<ManifestQuery>,
) -> Answer<Response> {
    let reference: CommitRef = query.reference.parse()?;
    let commit = {
        let mut conn = plane.pool.acquire().await?;
        call.locate_readable(&mut conn, &reference).await?
    };
    let files = plane.storage.list(&commit.commit.tree()?, None, None);
    let lines = files
        .map_ok(|(path, file)| ListedFile {
            path: path.as_str().to_owned(),
            size_bytes: file.size,
            digest: RecordDigest::new(*file.digest.as_bytes()),
            executable: file.executable,
        })
        .try_chunks(LINES_AT_ONCE)
        .map_err(|error| error.1)
        .map_ok(|files| {
            let mut bytes = Vec::with_capacity(files.len() * 160);
            for file in files {
                bytes.extend(serde_json::to_vec(&file).unwrap_or_default());
                bytes.push(b'\n');
            }
            Bytes::from(bytes)
        })
        .boxed();
    let body = Body::from_stream(guarded(lines, call.keep(), vec![commit.origins.clone()]));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}
