//! What a release names of a pipeline whose code stands in a repo of ours (R9): the digest of its spec and of that code, so
//! that code pushed later is not what was released. A commit that was made so keeps that digest; all others have their
//! version's.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use contract::ids::{CommitId, JobId};
use provenance::spec::PipelineSpec;
use sqlx::PgConnection;
use storage::{FilePath, TreeRef};
use uuid::Uuid;

use crate::failure::Answer;
use crate::permissions::System;
use crate::plane::Plane;

const CODE: System =
    System::because("the digest of a pipeline's code decides whether a release counts; nobody is shown it");

/// So many digests are remembered; then all are forgotten.
const KNOWN_MOST: usize = 10_000;

/// Digests of what stands at a path of a tree, by tree and path: neither ever changes. `None`: nothing stands there.
#[derive(Default)]
pub struct Codes(Mutex<HashMap<Stands, Option<[u8; 32]>>>);

/// A tree, and the path of code in it.
type Stands = (Vec<u8>, String);

/// Where the digest of code is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// In storage, which takes as long as that does: not under the lock of the DAG.
    InStorage,
    /// Among those that are remembered. Of another one nothing is known: its job settles that when it starts.
    InMemory,
}

/// The digest of a spec with its code as it is in that commit; `None` where the spec names no code. Empty, so that no release
/// is of it, while the commit is open, when it has nothing at the path of the code, or when that is not known.
///
/// # Errors
/// When the database or storage is away.
pub async fn digest(
    plane: &Plane,
    conn: &mut PgConnection,
    (spec, spec_digest): (&PipelineSpec, &[u8]),
    commit: Option<CommitId>,
    look: Look,
) -> Answer<Option<Vec<u8>>> {
    let Some(code) = &spec.transform.code else {
        return Ok(None);
    };
    let root = match commit {
        Some(commit) => root(conn, &CODE, commit).await?,
        None => None,
    };
    let Some(root) = root else {
        return Ok(Some(Vec::new()));
    };
    let found = of_code(plane, (root, code.path.trim_matches('/')), look).await?;
    let digest = found.map(|found| PipelineSpec::digest_with_code(spec_digest, &found));
    Ok(Some(digest.map_or_else(Vec::new, |digest| digest.to_vec())))
}

async fn of_code(plane: &Plane, (root, path): (Vec<u8>, &str), look: Look) -> Answer<Option<[u8; 32]>> {
    let known = |codes: &Codes, key: &Stands| {
        let codes = codes.0.lock().unwrap_or_else(PoisonError::into_inner);
        codes.get(key).copied()
    };
    let key = (root, path.to_owned());
    if let Some(known) = known(&plane.codes, &key) {
        return Ok(known);
    }
    if look == Look::InMemory {
        return Ok(None);
    }
    let path = match path {
        "" => None,
        path => Some(FilePath::parse(path)?),
    };
    let tree = TreeRef::from_bytes(&key.0)?;
    let found = plane.storage.subtree_digest(&tree, path.as_ref()).await?;
    let found = found.map(|found| *found.digest.as_bytes());
    let mut codes = plane.codes.0.lock().unwrap_or_else(PoisonError::into_inner);
    if codes.len() >= KNOWN_MOST {
        codes.clear();
    }
    codes.insert(key, found);
    Ok(found)
}

/// Of a run's inputs, by their leaves, the commit that has its code.
pub fn code_commit(spec: &PipelineSpec, inputs: &[(usize, CommitId)]) -> Option<CommitId> {
    let leaf = spec.input.leaves().iter().position(|leaf| leaf.is_code)?;
    inputs.iter().find(|(at, _)| *at == leaf).map(|(_, commit)| *commit)
}

/// The tree of a finished commit.
async fn root(conn: &mut PgConnection, _: &System, commit: CommitId) -> Answer<Option<Vec<u8>>> {
    let root: Option<Option<Vec<u8>>> =
        sqlx::query_scalar("select root from commits where id = $1 and state = 'finished'")
            .bind(commit.uuid())
            .fetch_optional(conn)
            .await?;
    Ok(root.flatten())
}

/// The commit of each leaf of a job.
pub async fn leaves_of(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<Vec<(usize, CommitId)>> {
    let rows: Vec<(i32, Uuid)> = sqlx::query_as("select position, commit_id from job_inputs where job_id = $1")
        .bind(job.uuid())
        .fetch_all(conn)
        .await?;
    let leaf = |(at, commit)| (usize::try_from(at).unwrap_or(usize::MAX), CommitId::from_uuid(commit));
    Ok(rows.into_iter().map(leaf).collect())
}

/// Writes down what a release of a commit must name, where that is not its version's digest.
pub async fn update_release_digest(conn: &mut PgConnection, _: &System, commit: CommitId, digest: &[u8]) -> Answer<()> {
    sqlx::query("update commits set release_digest = $2 where id = $1")
        .bind(commit.uuid())
        .bind(digest)
        .execute(conn)
        .await?;
    Ok(())
}
