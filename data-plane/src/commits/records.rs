//! Records: what a finished commit's digest covers (`contract::record`), from its row and what it names.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use contract::ids::CommitId;
use contract::record::{Record, RecordDigest, RecordedCommit, RecordedPipeline};
use sqlx::PgConnection;
use uuid::Uuid;

use super::log::uuids;
use super::{CommitRow, origins};
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::Plane;

/// What the digest of a commit's record covers besides the row itself.
pub struct Ancestry {
    /// The nearest commit before it that has a record.
    pub parent: Option<RecordedCommit>,
    /// Digest of the tree.
    pub tree: [u8; 32],
    /// Digest of the origin set.
    pub origins: [u8; 32],
    /// Its inputs, in any order.
    pub inputs: Vec<RecordedCommit>,
}

/// The canonical record of a finished commit.
pub fn record(commit: &CommitRow, finished_at: DateTime<Utc>, ancestry: Ancestry) -> Record {
    let pipeline = commit.pipeline.as_ref().map(|stamp| RecordedPipeline {
        id: stamp.id,
        version: stamp.version,
        image_digest: stamp.image_digest.clone(),
        code_revision: stamp.code_revision.clone(),
        spec_digest: commit.recorded_spec.as_deref().and_then(RecordDigest::from_slice),
    });
    Record {
        commit: commit.id,
        repo: commit.repo,
        branch: commit.branch.clone(),
        commit_set: commit.commit_set,
        parent: ancestry.parent,
        tree: RecordDigest::new(ancestry.tree),
        origins: RecordDigest::new(ancestry.origins),
        inputs: ancestry.inputs,
        message: commit.message.clone(),
        actor: commit.actor.clone(),
        pipeline,
        started_at: commit.started_at,
        finished_at,
        sources: commit.sources.clone(),
    }
}

/// The digest of a finished commit's canonical record.
pub fn record_digest(commit: &CommitRow, finished_at: DateTime<Utc>, ancestry: Ancestry) -> [u8; 32] {
    *record(commit, finished_at, ancestry).digest().as_bytes()
}

/// What the record's digest covers besides the row, of a commit with this tree.
///
/// # Errors
/// When the database is away or the origin set is damaged.
pub async fn ancestry(
    plane: &Plane,
    conn: &mut PgConnection,
    system: &System,
    commit: &CommitRow,
    tree: [u8; 32],
) -> Answer<Ancestry> {
    let mut found = ancestries(plane, conn, system, &[(commit, tree)]).await?;
    let missing = || Failure::internal(format!("commit {} is gone", commit.id));
    found.remove(&commit.id).ok_or_else(missing)
}

/// The same of many, in as many queries as of one.
///
/// # Errors
/// As [`ancestry`].
pub async fn ancestries(
    plane: &Plane,
    conn: &mut PgConnection,
    system: &System,
    commits: &[(&CommitRow, [u8; 32])],
) -> Answer<HashMap<CommitId, Ancestry>> {
    let ids: Vec<CommitId> = commits.iter().map(|(commit, _)| commit.id).collect();
    let parents: Vec<CommitId> = commits.iter().filter_map(|(commit, _)| commit.parent).collect();
    let parents = find_record_digests(conn, system, &parents).await?;
    let mut inputs = list_input_digests(conn, system, &ids).await?;
    // A retroactive release gives a commit another set later; its record goes on to name the one it was made with.
    let recorded = list_recorded_sets(conn, system, &ids).await?;
    let mut all = HashMap::new();
    for (commit, tree) in commits {
        let set = recorded.get(&commit.id).copied().unwrap_or(commit.origin_set);
        let set = origins::get(plane, conn, system, set).await?;
        let ancestry = Ancestry {
            parent: commit.parent.and_then(|parent| parents.get(&parent).cloned()),
            tree: *tree,
            origins: set.digest(),
            inputs: inputs.remove(&commit.id).unwrap_or_default(),
        };
        all.insert(commit.id, ancestry);
    }
    Ok(all)
}

/// The nearest record from each of these upward along parents, itself included. An errored commit has none; one that was
/// given up keeps its own.
async fn find_record_digests(
    conn: &mut PgConnection,
    _: &System,
    ids: &[CommitId],
) -> Answer<HashMap<CommitId, RecordedCommit>> {
    let rows = sqlx::query_as::<_, (Uuid, Uuid, Vec<u8>)>(
        "with recursive chain (start, id, parent_id, digest) as (
            select id, id, parent_id, digest from commits where id = any($1)
            union all
            select start, p.id, p.parent_id, p.digest from chain join commits p on p.id = chain.parent_id
             where chain.digest is null
         ) select start, id, digest from chain where digest is not null",
    )
    .bind(uuids(ids))
    .fetch_all(conn)
    .await?;
    let named = |(start, id, digest): (Uuid, Uuid, Vec<u8>)| {
        let named = RecordedCommit {
            name: String::new(),
            digest: RecordDigest::from_slice(&digest),
            commit: CommitId::from_uuid(id),
        };
        (CommitId::from_uuid(start), named)
    };
    Ok(rows.into_iter().map(named).collect())
}

/// The digest of the spec of the version that makes a commit; `None` of one that people make.
pub async fn find_spec_digest(conn: &mut PgConnection, _: &System, id: CommitId) -> Answer<Option<Vec<u8>>> {
    let digest = sqlx::query_scalar(
        "select v.spec_digest from commits c join pipeline_versions v
             on v.pipeline_id = c.pipeline_id and v.version = c.pipeline_version where c.id = $1",
    )
    .bind(id.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(digest)
}

/// The origin set that each of these commits was finished with, if a retroactive release has replaced it since.
async fn list_recorded_sets(conn: &mut PgConnection, _: &System, ids: &[CommitId]) -> Answer<HashMap<CommitId, i64>> {
    let rows = sqlx::query_as::<_, (Uuid, i64)>(
        "select id, recorded_origin_set_id from commits where id = any($1) and recorded_origin_set_id is not null",
    )
    .bind(uuids(ids))
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, set)| (CommitId::from_uuid(id), set))
        .collect())
}

/// Name and record digest of each direct input of each of these commits.
async fn list_input_digests(
    conn: &mut PgConnection,
    _: &System,
    ids: &[CommitId],
) -> Answer<HashMap<CommitId, Vec<RecordedCommit>>> {
    let rows = sqlx::query_as::<_, (Uuid, String, Uuid, Option<Vec<u8>>)>(
        "select i.commit_id, i.input_name, i.input_id, c.digest from commit_inputs i join commits c on c.id = i.input_id
         where i.commit_id = any($1) order by i.commit_id, i.input_name, i.input_id",
    )
    .bind(uuids(ids))
    .fetch_all(conn)
    .await?;
    let mut inputs: HashMap<CommitId, Vec<RecordedCommit>> = HashMap::new();
    for (commit, name, id, digest) in rows {
        inputs
            .entry(CommitId::from_uuid(commit))
            .or_default()
            .push(RecordedCommit {
                name,
                digest: digest.and_then(|digest| RecordDigest::from_slice(&digest)),
                commit: CommitId::from_uuid(id),
            });
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::api::{Actor, CommitState, ImportedSource};
    use contract::ids::{AccountId, GenerateId, TokenId};
    use contract::names::BranchName;
    use contract::policy::Principal;

    fn commit() -> CommitRow {
        fn id<T: GenerateId>(n: u8) -> T {
            T::generate_id(1_790_000_000_000, [n; 10])
        }
        CommitRow {
            id: id(1),
            seq: 1,
            repo: id(2),
            branch: BranchName::main(),
            commit_set: id(3),
            parent: None,
            state: CommitState::Open,
            reason: None,
            root: None,
            digest: None,
            purged_record: None,
            size_bytes: 1,
            files: 1,
            origin_set: 1,
            message: "m".to_owned(),
            actor: Actor {
                id: Principal::Account(id::<AccountId>(4)),
                name: "ada".to_owned(),
                token: id::<TokenId>(5),
                ci: None,
            },
            pipeline: None,
            started_at: DateTime::UNIX_EPOCH,
            finished_at: None,
            recorded_tree: None,
            recorded_spec: None,
            removed: None,
            sources: Vec::new(),
            unattested: None,
            replaces: false,
            attested: None,
        }
    }

    fn source() -> ImportedSource {
        ImportedSource {
            url: "https://a.org/f".to_owned(),
            path: "/f".to_owned(),
            files: 1,
            size_bytes: 7,
            etag: Some("\"v1\"".to_owned()),
            version: None,
            fetched_at: DateTime::UNIX_EPOCH,
        }
    }

    fn digest(sources: Vec<ImportedSource>) -> String {
        let ancestry = Ancestry {
            parent: None,
            tree: [1; 32],
            origins: [2; 32],
            inputs: Vec::new(),
        };
        let row = CommitRow { sources, ..commit() };
        hex::encode(record_digest(&row, DateTime::UNIX_EPOCH, ancestry))
    }

    #[test]
    fn records_without_sources_keep_the_digest_that_they_had_before_there_were_sources() {
        assert_eq!(
            digest(Vec::new()),
            "5945cbeba59a6cea4be8e038a039caf30e5651b5a3f3d959e220ad44adb034e3"
        );
    }

    #[test]
    fn every_field_of_a_source_is_covered() {
        let changes: [fn(&mut ImportedSource); 7] = [
            |s| s.url.push('x'),
            |s| s.path.push('x'),
            |s| s.files += 1,
            |s| s.size_bytes += 1,
            |s| s.etag = None,
            |s| s.version = Some("v".to_owned()),
            |s| s.fetched_at += chrono::Duration::microseconds(1),
        ];
        let mut seen = vec![
            digest(Vec::new()),
            digest(vec![source()]),
            digest(vec![source(), source()]),
        ];
        for change in changes {
            let mut other = source();
            change(&mut other);
            seen.push(digest(vec![other]));
        }
        let distinct: std::collections::HashSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len());
    }
}
