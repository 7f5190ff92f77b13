//! Checks a bundle, without any service: what its records say must follow from what they are made of, down to the files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::path::Path;

use contract::api::{Evidence, EvidenceCommit, EvidenceVersion, EvidenceWay, ListedFile};
use contract::ids::{CommitId, DomainId};
use contract::record::{Record, RecordDigest, RecordedCommit};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bundle::{self, Reader, wrong};
use super::directory::Directory;
use super::tree::Tree;
use super::{openlineage, prov};
use crate::failure::Outcome;

/// The format of bundles that this program reads and writes.
pub const FORMAT: &str = "howdah provenance bundle 1";
/// A line of the list of files is not longer.
const LINE_MAX: usize = 64 << 10;
const SPEC: &str = "howdah spec v1";

/// What is in `evidence.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// [`FORMAT`].
    pub format: String,
    /// The rest.
    pub evidence: Evidence,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The commit that the bundle is about.
    pub commit: CommitId,
    /// Its name.
    pub name: String,
    /// Digest of its record: whoever knows that one knows that all else is what it was.
    pub record: Option<RecordDigest>,
    /// Digest of its content.
    pub content: Option<RecordDigest>,
    /// Records that were computed again.
    pub records: usize,
    /// Links between records that were followed.
    pub links: usize,
    /// Digests of specs that were computed again.
    pub specs: usize,
    /// Files that the content was computed from.
    pub files: u64,
    /// Whether the files of a directory were compared.
    pub data: bool,
    /// What could not be checked, and why.
    pub not_checkable: Vec<String>,
}

/// Checks a bundle.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(input: impl Read, data: Option<&Path>, expected: Option<RecordDigest>) -> Outcome<Report> {
    let mut reader = Reader::new(input);
    let bytes = reader.member(bundle::EVIDENCE)?;
    let document: Document = serde_json::from_slice(&bytes).map_err(|e| {
        wrong(format!(
            "`{}` is not what this program understands: {e}",
            bundle::EVIDENCE
        ))
    })?;
    if document.format != FORMAT {
        return Err(wrong(format!("its format is `{}`, not `{FORMAT}`", document.format)));
    }
    let evidence = document.evidence;
    let mut checked = Checked::default();
    let subject = checked.evidence(&evidence)?;
    if let Some(expected) = expected
        && subject.digest != Some(expected)
    {
        let found = subject.digest.map_or_else(|| "none".to_owned(), |d| d.to_string());
        return Err(wrong(format!("the digest of its record is {found}, not {expected}")));
    }
    let files = content(&mut reader, subject, data)?;
    let prov = reader.member(bundle::PROV)?;
    same(&prov, &super::lines(&[prov::document(&evidence)])?, bundle::PROV)?;
    let events = reader.member(bundle::OPENLINEAGE)?;
    same(
        &events,
        &super::lines(&openlineage::events(&evidence))?,
        bundle::OPENLINEAGE,
    )?;
    reader.member(bundle::README)?;
    reader.finish()?;
    Ok(Report {
        commit: subject.commit,
        name: format!("{}/{}", subject.project, subject.repo),
        record: subject.digest,
        content: subject.content,
        records: checked.records,
        links: checked.links,
        specs: checked.specs,
        files,
        data: data.is_some(),
        not_checkable: checked.not_checkable(&evidence),
    })
}

fn same(found: &[u8], expected: &[u8], name: &str) -> Outcome {
    match found == expected {
        true => Ok(()),
        false => Err(wrong(format!("`{name}` says something else than the records"))),
    }
}

/// Reads the list of files, computes the digest of the content, and compares the directory. Answers how many there are.
fn content<R: Read>(reader: &mut Reader<R>, subject: &EvidenceCommit, data: Option<&Path>) -> Outcome<u64> {
    let mut list = List {
        tree: Tree::new(),
        last: String::new(),
        directory: data.map(Directory::new).transpose()?,
    };
    let mut line = Vec::new();
    reader.stream(bundle::FILES, |piece| {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if line.len() > LINE_MAX {
                return Err(wrong(format!("a line of `{}` is too long", bundle::FILES)));
            }
            if line.ends_with(b"\n") {
                list.add(&line)?;
                line.clear();
            }
        }
        Ok(())
    })?;
    if !line.is_empty() {
        return Err(wrong(format!("the last line of `{}` has no end", bundle::FILES)));
    }
    let (files, bytes) = list.tree.totals();
    let Some(content) = subject.content else {
        return match files {
            0 if data.is_none() => Ok(0),
            0 => Err(wrong("the commit has no content any more that the directory could be")),
            _ => Err(wrong("files are listed of a commit without content")),
        };
    };
    if let Some(directory) = list.directory {
        directory.finish()?;
    }
    if (files, bytes) != (subject.files, subject.size_bytes) {
        return Err(wrong(format!(
            "{files} files of {bytes} bytes are listed, but the commit has {} of {}",
            subject.files, subject.size_bytes
        )));
    }
    let found = RecordDigest::new(list.tree.digest(&list.last));
    match found == content {
        true => Ok(files),
        false => Err(wrong(format!(
            "the listed files have the digest {found}, the commit's content {content}"
        ))),
    }
}

struct List {
    tree: Tree,
    last: String,
    directory: Option<Directory>,
}

impl List {
    fn add(&mut self, line: &[u8]) -> Outcome {
        let file: ListedFile = serde_json::from_slice(line)
            .map_err(|e| wrong(format!("a line of `{}` is not understood: {e}", bundle::FILES)))?;
        let tricky = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\0');
        if file.path <= self.last || file.path.split('/').any(tricky) {
            return Err(wrong(format!(
                "`{}` has the path `{}` out of order",
                bundle::FILES,
                file.path
            )));
        }
        if let Some(directory) = &mut self.directory {
            directory.compare(&file)?;
        }
        self.tree.add(&file);
        self.last = file.path;
        Ok(())
    }
}

#[derive(Default)]
struct Checked {
    records: usize,
    links: usize,
    specs: usize,
    /// What could not be checked: how many of which sort.
    open: BTreeMap<&'static str, usize>,
}

/// What a commit or a version is looked up by.
struct Known<'a> {
    commits: HashMap<CommitId, &'a EvidenceCommit>,
    versions: HashMap<(DomainId, i32), &'a EvidenceVersion>,
}

impl Checked {
    fn open(&mut self, what: &'static str) {
        *self.open.entry(what).or_default() += 1;
    }

    /// Checks all but the content; the commit that it is about.
    fn evidence<'a>(&mut self, evidence: &'a Evidence) -> Outcome<&'a EvidenceCommit> {
        let known = Known {
            commits: evidence.commits.iter().map(|commit| (commit.commit, commit)).collect(),
            versions: evidence.versions.iter().map(|v| ((v.pipeline, v.version), v)).collect(),
        };
        if known.commits.len() != evidence.commits.len() || known.versions.len() != evidence.versions.len() {
            return Err(wrong("a commit or a version of a pipeline is in it twice"));
        }
        if evidence.way != EvidenceWay::Up {
            return Err(wrong("it is not about what a commit was made from"));
        }
        let subject = evidence
            .commits
            .first()
            .filter(|commit| commit.commit == evidence.subject);
        let subject = subject.ok_or_else(|| wrong("the commit that it is about does not come first"))?;
        for version in &evidence.versions {
            self.version(version)?;
        }
        for commit in &evidence.commits {
            match &commit.record {
                Some(record) => self.record(&known, commit, record)?,
                None => self.unrecorded(commit)?,
            }
            let made = |input: &CommitId| !known.commits.contains_key(input);
            if let Some(missing) = commit.inputs.iter().find(|input| made(input)) {
                return Err(wrong(format!(
                    "commit {} was made from {missing}, which is not in it",
                    commit.commit
                )));
            }
        }
        self.reached(evidence, &known)?;
        Ok(subject)
    }

    /// Of what is not hidden, all is there because something else is.
    fn reached(&self, evidence: &Evidence, known: &Known<'_>) -> Outcome {
        if evidence.restricted {
            return Ok(());
        }
        let (mut seen, mut left) = (HashSet::from([evidence.subject]), vec![evidence.subject]);
        while let Some(commit) = left.pop().and_then(|id| known.commits.get(&id)) {
            let parent = commit.record.iter().filter_map(|record| record.parent.as_ref());
            let named = commit.inputs.iter().copied().chain(parent.map(|parent| parent.commit));
            left.extend(named.filter(|id| seen.insert(*id)));
        }
        match evidence.commits.iter().find(|commit| !seen.contains(&commit.commit)) {
            Some(stray) => Err(wrong(format!("nothing in it was made from commit {}", stray.commit))),
            None => Ok(()),
        }
    }

    fn version(&mut self, version: &EvidenceVersion) -> Outcome {
        let name = format!("{}/{} version {}", version.project, version.name, version.version);
        let Some(sealed) = &version.sealed else {
            self.open("the spec of a pipeline names what may not be known and is left out");
            return Ok(());
        };
        let digest = RecordDigest::new(blake3::derive_key(SPEC, sealed.as_bytes()));
        if digest != version.spec_digest {
            return Err(wrong(format!(
                "the spec of {name} has the digest {digest}, not {}",
                version.spec_digest
            )));
        }
        let spec: Value = serde_json::from_str(sealed).map_err(|e| wrong(format!("the spec of {name}: {e}")))?;
        let named = &spec["spec"]["pipeline"];
        if named["name"] != version.name.as_str() || named["project"] != version.project.as_str() {
            return Err(wrong(format!("the spec of {name} is that of another pipeline")));
        }
        self.specs += 1;
        Ok(())
    }

    fn unrecorded(&mut self, commit: &EvidenceCommit) -> Outcome {
        if commit.digest.is_some() || commit.purged_digest.is_some() || commit.content.is_some() {
            return Err(wrong(format!("commit {} has digests without a record", commit.commit)));
        }
        self.open("a commit is named whose record may not be read");
        Ok(())
    }

    fn record(&mut self, known: &Known<'_>, commit: &EvidenceCommit, record: &Record) -> Outcome {
        let id = commit.commit;
        let Some(digest) = commit.digest.filter(|_| record.commit == id) else {
            return Err(wrong(format!(
                "the record of commit {id} has no digest or is another one's"
            )));
        };
        if commit.restricted {
            self.open("parts of a record name what may not be read and are left out, so its digest cannot be computed");
        } else {
            let found = record.digest();
            if found != commit.purged_digest.unwrap_or(digest) {
                return Err(wrong(format!(
                    "the record of commit {id} has the digest {found}, not {digest}"
                )));
            }
            self.records += 1;
        }
        if commit.purged_digest.is_some() {
            self.open("a record was changed by a purge, so the digest by which later ones name it cannot be computed");
        }
        match commit.content {
            Some(content) if content == record.tree => {}
            Some(_) => self.open("files of a commit were purged, so its content is not the one that its record names"),
            None => self.open("the content of a commit was given up; its record is still checked"),
        }
        for input in &record.inputs {
            if !self.link(known, input)? || !commit.inputs.contains(&input.commit) {
                let name = &input.name;
                return Err(wrong(format!(
                    "commit {id} was made from `{name}`, {}, which is not in it",
                    input.commit
                )));
            }
        }
        if let Some(parent) = &record.parent
            && !self.link(known, parent)?
        {
            self.open("the commit before one on its branch is no part of what was asked for; its digest is covered");
        }
        self.made_by(known, commit, record)
    }

    /// Follows a record's name of another one. Answers whether that one is there.
    fn link(&mut self, known: &Known<'_>, named: &RecordedCommit) -> Outcome<bool> {
        let Some(found) = known.commits.get(&named.commit) else {
            return Ok(false);
        };
        if found.record.is_some() && found.digest != named.digest {
            return Err(wrong(format!(
                "a record names commit {} by another digest than that commit has",
                named.commit
            )));
        }
        self.links += 1;
        Ok(true)
    }

    /// What is told of who made it is what the record says.
    fn made_by(&mut self, known: &Known<'_>, commit: &EvidenceCommit, record: &Record) -> Outcome {
        let told = (
            commit.pipeline,
            commit.pipeline_version,
            &commit.image_digest,
            &commit.code_revision,
        );
        let Some(pipeline) = &record.pipeline else {
            return match told {
                (None, None, None, None) => Ok(()),
                _ => Err(wrong(format!(
                    "commit {} is told to be a pipeline's and is not",
                    commit.commit
                ))),
            };
        };
        let said = (
            Some(pipeline.id),
            Some(pipeline.version),
            &pipeline.image_digest,
            &pipeline.code_revision,
        );
        if told != said {
            return Err(wrong(format!(
                "what is told to have made commit {} is not what did",
                commit.commit
            )));
        }
        let Some(version) = known.versions.get(&(pipeline.id, pipeline.version)) else {
            return Err(wrong(format!(
                "the version that made commit {} is not in it",
                commit.commit
            )));
        };
        match pipeline.spec_digest {
            None => {
                self.open("a record is older than records that name the spec, so only its version's number is covered");
            }
            Some(digest) if digest == version.spec_digest => {}
            Some(_) => {
                return Err(wrong(format!(
                    "commit {} was made by another spec than the one that is told",
                    commit.commit
                )));
            }
        }
        Ok(())
    }

    fn not_checkable(&self, evidence: &Evidence) -> Vec<String> {
        let mut told: Vec<String> = self
            .open
            .iter()
            .map(|(what, count)| match count {
                1 => (*what).to_owned(),
                count => format!("{what} ({count} times)"),
            })
            .collect();
        if evidence.restricted {
            told.insert(
                0,
                "there is more upstream that whoever made the bundle may not know of".to_owned(),
            );
        }
        told
    }
}
