//! What refers to packs beside finished commits: changes of open commits, what is kept of unfinished uploads, and results of datums; and the records of where the
//! bytes of repacked packs are. Paths are not told: what an open commit or a result will be read by is not settled yet.

use contract::ids::{DomainId, UploadId};
use storage::{Digest, FileEntry, FilePath, Finding, decode_entries};
use uuid::Uuid;

use super::queries::Holder;
use super::{CHECK, Checked, Line, error};
use crate::failure::Answer;
use crate::files::change::{self, FileChange};
use crate::garbage::queries;
use crate::plane::Plane;
use crate::uploads::queries::{PartPosition, list_changes};

/// A place in the changes of open commits.
pub type FilesetPlace = (Uuid, i64);
/// A place in the results of datums.
pub type ResultPlace = (Uuid, Vec<u8>);

/// Checks a page of the changes of open commits; `None` behind the last.
///
/// # Errors
/// When the database or the store is away.
pub async fn check_filesets(
    plane: &Plane,
    after: Option<FilesetPlace>,
    deep: bool,
    checked: &mut Checked,
) -> Answer<Option<(FilesetPlace, Vec<Line>)>> {
    let page = {
        let mut conn = plane.pool.acquire().await?;
        queries::list_filesets(&mut conn, &CHECK, after).await?
    };
    let Some((commit, seq, _)) = page.last() else {
        return Ok(None);
    };
    let place = (*commit, *seq);
    let mut lines = Vec::new();
    for (commit, seq, changes) in page {
        let subject = format!("open commit {}", contract::ids::CommitId::from_uuid(commit));
        let holder = Holder::Fileset(commit, seq, &changes);
        lines.extend(check_changes(checked, &holder, &subject, &changes, deep).await?);
    }
    Ok(Some((place, lines)))
}

/// Checks a page of what is kept of unfinished uploads; `None` behind the last.
///
/// # Errors
/// When the database or the store is away.
pub async fn check_uploads(
    plane: &Plane,
    after: Option<&PartPosition>,
    deep: bool,
    checked: &mut Checked,
) -> Answer<Option<(PartPosition, Vec<Line>)>> {
    let page = {
        let mut conn = plane.pool.acquire().await?;
        list_changes(&mut conn, &CHECK, after).await?
    };
    let Some((upload, key, whole, from, _)) = page.last() else {
        return Ok(None);
    };
    let place = (*upload, key.clone(), *whole, *from);
    let mut lines = Vec::new();
    for (upload, key, whole, from, changes) in page {
        let subject = format!("unfinished upload {}", UploadId::from_uuid(upload));
        let position = (upload, key, whole, from);
        let holder = Holder::Part(&position, &changes);
        lines.extend(check_changes(checked, &holder, &subject, &changes, deep).await?);
    }
    Ok(Some((place, lines)))
}

/// Checks a page of the results of datums; `None` behind the last.
///
/// # Errors
/// When the database or the store is away.
pub async fn check_results(
    plane: &Plane,
    after: Option<&ResultPlace>,
    deep: bool,
    checked: &mut Checked,
) -> Answer<Option<(ResultPlace, Vec<Line>)>> {
    let page = {
        let mut conn = plane.pool.acquire().await?;
        queries::list_results(&mut conn, &CHECK, after).await?
    };
    let Some((pipeline, key, _)) = page.last() else {
        return Ok(None);
    };
    let place = (*pipeline, key.clone());
    let mut lines = Vec::new();
    for (pipeline, key, outputs) in page {
        let subject = format!("a datum's result of pipeline {}", DomainId::from_uuid(pipeline));
        let holder = Holder::Result(pipeline, &key, &outputs);
        match decode_entries(&outputs) {
            Ok(files) => lines.extend(check_files(checked, &holder, &subject, files, deep).await?),
            Err(damage) => lines.push(error(&subject, damage.to_string())),
        }
    }
    Ok(Some((place, lines)))
}

async fn check_changes(
    checked: &mut Checked,
    holder: &Holder<'_>,
    subject: &str,
    changes: &[u8],
    deep: bool,
) -> Answer<Vec<Line>> {
    let changes = match change::decode(changes) {
        Ok(changes) => changes,
        Err(failure) => return Ok(vec![error(subject, failure.detail())]),
    };
    let mut files = Vec::new();
    let mut lines = Vec::new();
    for change in changes {
        match change {
            FileChange::Put(path, entry) | FileChange::Append(path, entry) => files.push((path, entry)),
            FileChange::Tree(tree) => lines.extend(told(subject, checked.verify(holder, &tree, deep).await?)),
            FileChange::Delete(_) | FileChange::Clear => {}
        }
    }
    lines.extend(check_files(checked, holder, subject, files, deep).await?);
    Ok(lines)
}

async fn check_files(
    checked: &mut Checked,
    holder: &Holder<'_>,
    subject: &str,
    files: Vec<(FilePath, FileEntry)>,
    deep: bool,
) -> Answer<Vec<Line>> {
    Ok(told(subject, checked.verify_files(holder, &files, deep).await?))
}

fn told(subject: &str, found: Option<Vec<Finding>>) -> Vec<Line> {
    let line = |finding: Finding| {
        let pack = finding.pack.map(|pack| format!(" (packs/{pack})")).unwrap_or_default();
        error(
            subject,
            format!("a file is damaged{pack}; restore the object from a backup"),
        )
    };
    let mut lines: Vec<Line> = found.into_iter().flatten().map(line).collect();
    lines.dedup();
    lines
}

/// Checks the forward of a pack by itself; whether it has what is needed of the pack is found with what needs it.
///
/// # Errors
/// When the store is away.
pub async fn check_forward(checked: &Checked, name: Digest) -> Answer<Option<Line>> {
    match checked.storage.forward_packs(name).await {
        Ok(_) => Ok(None),
        Err(damage) if damage.is_damage() => Ok(Some(error(&format!("forwards/{name}"), damage.to_string()))),
        Err(failure) => Err(failure.into()),
    }
}
