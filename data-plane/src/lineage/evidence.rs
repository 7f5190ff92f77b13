//! `/v1/evidence` and `/v1/manifest`: lineage with the records, specs and lists of files by which a third party checks it
//! (`howdah verify`). Names are for who may know of a commit, everything that tells of content for who may read it (R1):
//! of a record that names what its reader may not read, that part is left out, and it says so. What he may not know of is
//! left out and counted nowhere (R15).

use std::collections::{HashMap, HashSet};

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
use provenance::spec::PipelineSpec;
use serde::Deserialize;
use sqlx::PgConnection;

use super::{Direction, Found, queries, walk};
use crate::call::Call;
use crate::commits::CommitRow;
use crate::commits::records::{ancestry, record};
use crate::failure::Answer;
use crate::files::guard::guarded;
use crate::permissions::System;
use crate::plane::Plane;
use crate::repos;

const EVIDENCE: System = System::because("what the caller may not know of or read is left out");
/// Lines of a list of files that go out together.
const LINES_AT_ONCE: usize = 256;

type Names = HashMap<DomainId, (ProjectName, RepoName)>;

#[derive(Deserialize)]
pub(super) struct EvidenceQuery {
    #[serde(rename = "ref")]
    reference: String,
    #[serde(default)]
    way: Option<EvidenceWay>,
}

#[derive(Deserialize)]
pub(super) struct ManifestQuery {
    #[serde(rename = "ref")]
    reference: String,
}

/// `GET /v1/evidence`.
pub(super) async fn show(
    State(plane): State<Plane>,
    call: Call,
    Query(query): Query<EvidenceQuery>,
) -> Answer<Json<Evidence>> {
    let reference: CommitRef = query.reference.parse()?;
    let way = query.way.unwrap_or(EvidenceWay::Up);
    let mut conn = plane.pool.acquire().await?;
    let subject = call.locate_readable(&mut conn, &reference).await?.commit;
    let direction = match way {
        EvidenceWay::Up => Direction::Up,
        EvidenceWay::Down => Direction::Down,
    };
    let found = walk(&mut conn, subject.id, direction).await?;
    Ok(Json(collect(&mut conn, &call, subject, way, found).await?))
}

async fn collect(
    conn: &mut PgConnection,
    call: &Call,
    subject: CommitRow,
    way: EvidenceWay,
    found: Found,
) -> Answer<Evidence> {
    let rights = call.rights();
    let (id, count) = (subject.id, found.commits.len());
    let mut rows = vec![subject];
    rows.extend(
        found
            .commits
            .into_iter()
            .filter(|c| rights.can(Permission::Discover, c.repo)),
    );
    let visible: HashSet<CommitId> = rows.iter().map(|row| row.id).collect();
    let domains: Vec<DomainId> = rows.iter().map(|row| row.repo).collect();
    let names = repos::queries::names_of(conn, &EVIDENCE, &domains).await?;
    let mut readable = Readable::default();
    let mut commits = Vec::new();
    for row in &rows {
        let Some((project, repo)) = names.get(&row.repo).cloned() else {
            continue;
        };
        let inputs = found.inputs.get(&row.id).into_iter().flatten();
        let shown = EvidenceCommit {
            commit: row.id,
            project,
            repo,
            pipeline: row.pipeline.as_ref().map(|stamp| stamp.id),
            pipeline_version: row.pipeline.as_ref().map(|stamp| stamp.version),
            image_digest: row.pipeline.as_ref().and_then(|stamp| stamp.image_digest.clone()),
            code_revision: row.pipeline.as_ref().and_then(|stamp| stamp.code_revision.clone()),
            earlier: found.earlier.contains(&row.id),
            removed: row.removed.as_ref().map(|removed| removed.how),
            inputs: inputs.filter(|input| visible.contains(input)).copied().collect(),
            digest: None,
            purged_digest: None,
            content: None,
            files: 0,
            size_bytes: 0,
            restricted: false,
            record: None,
        };
        commits.push(match readable.is(conn, call, row.origin_set).await? {
            true => with_record(conn, call, &mut readable, row, shown).await?,
            false => shown,
        });
    }
    Ok(Evidence {
        organization: call.plane.organization,
        subject: id,
        way,
        restricted: commits.len() <= count,
        versions: versions(conn, call, &rows, &names).await?,
        commits,
    })
}

/// Which origin sets the caller may read, each decided once.
#[derive(Default)]
struct Readable(HashMap<i64, bool>);

impl Readable {
    async fn is(&mut self, conn: &mut PgConnection, call: &Call, set: i64) -> Answer<bool> {
        if let Some(known) = self.0.get(&set) {
            return Ok(*known);
        }
        let readable = !call.readable_among(conn, vec![set]).await?.is_empty();
        self.0.insert(set, readable);
        Ok(readable)
    }
}

/// The same commit with everything that its readers may know.
async fn with_record(
    conn: &mut PgConnection,
    call: &Call,
    readable: &mut Readable,
    row: &CommitRow,
    shown: EvidenceCommit,
) -> Answer<EvidenceCommit> {
    let tree = row.recorded_tree_digest()?;
    let (Some(tree), Some(finished_at), true) = (tree, row.finished_at, row.digest.is_some()) else {
        return Ok(shown);
    };
    let ancestry = ancestry(&call.plane, conn, &EVIDENCE, row, tree).await?;
    let mut record = record(row, finished_at, ancestry);
    let restricted = leave_out(conn, call, readable, &mut record).await?;
    let digest = |bytes: &Option<Vec<u8>>| bytes.as_deref().and_then(RecordDigest::from_slice);
    Ok(EvidenceCommit {
        digest: digest(&row.digest),
        purged_digest: digest(&row.purged_record),
        content: row.tree().ok().map(|tree| RecordDigest::new(*tree.digest().as_bytes())),
        files: u64::try_from(row.files).unwrap_or(0),
        size_bytes: u64::try_from(row.size_bytes).unwrap_or(0),
        restricted,
        record: Some(record),
        ..shown
    })
}

/// Takes out of a record what names commits that the caller may not read. Answers whether there was any.
async fn leave_out(conn: &mut PgConnection, call: &Call, readable: &mut Readable, record: &mut Record) -> Answer<bool> {
    let named: Vec<CommitId> = record.inputs.iter().chain(&record.parent).map(|c| c.commit).collect();
    let mut allowed = HashSet::new();
    for row in queries::list_commits(conn, &EVIDENCE, &named).await? {
        if readable.is(conn, call, row.origin_set).await? {
            allowed.insert(row.id);
        }
    }
    record.inputs.retain(|input| allowed.contains(&input.commit));
    record.parent = record.parent.take().filter(|parent| allowed.contains(&parent.commit));
    Ok(named.iter().any(|commit| !allowed.contains(commit)))
}

/// The versions of pipelines that made these commits; the spec of one only where the caller may know of all that it reads.
async fn versions(
    conn: &mut PgConnection,
    call: &Call,
    commits: &[CommitRow],
    names: &Names,
) -> Answer<Vec<EvidenceVersion>> {
    let mut wanted: Vec<(DomainId, i32)> = commits
        .iter()
        .filter_map(|commit| commit.pipeline.as_ref().map(|stamp| (stamp.id, stamp.version)))
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut shown = Vec::new();
    for found in queries::list_versions(conn, &EVIDENCE, &wanted).await? {
        let pipeline = DomainId::from_uuid(found.pipeline_id);
        let (Some((project, name)), Some(spec_digest)) =
            (names.get(&pipeline), RecordDigest::from_slice(&found.spec_digest))
        else {
            continue;
        };
        let sealed = match PipelineSpec::parse(&found.spec.0, project) {
            Ok(spec) if knows_all(conn, call, &spec).await? => Some(spec.sealed(found.image_digest.as_deref())),
            _ => None,
        };
        shown.push(EvidenceVersion {
            pipeline,
            project: project.clone(),
            name: name.clone(),
            version: found.version,
            spec_digest,
            sealed,
        });
    }
    Ok(shown)
}

/// Whether the caller may know of every repo that a spec names. One that is not there any more counts as hidden: nobody
/// can tell whose it was.
async fn knows_all(conn: &mut PgConnection, call: &Call, spec: &PipelineSpec) -> Answer<bool> {
    for leaf in spec.input.leaves() {
        let repo = repos::queries::find_repo(conn, &EVIDENCE, &leaf.project, &leaf.repo).await?;
        if !repo.is_some_and(|repo| call.rights().can(Permission::Discover, repo.id)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `GET /v1/manifest`: every file of a commit, one a line, in the order of the paths' bytes.
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
