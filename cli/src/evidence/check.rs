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
    /// Digest of its content, where its record names that and the list of files has it.
    pub content: Option<RecordDigest>,
    /// Whether nothing of it rests on the word of whoever made the bundle.
    pub complete: bool,
    /// Records that were computed again.
    pub records: usize,
    /// Links between records whose digests were compared.
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
    let document = parse(&mut reader)?;
    let evidence = document.evidence;
    let mut checked = Checked::default();
    let subject = checked.evidence(&evidence)?;
    if let Some(expected) = expected {
        expect(&subject, expected)?;
    }
    let (files, content) = content(&mut reader, &subject, data)?;
    if content.is_none() {
        if data.is_some() || expected.is_some() {
            return Err(wrong(
                "the content that its record names was given up, or files of it were purged: no files can be held against it",
            ));
        }
        checked.gap("the content that the record of the commit names was given up, or files of it were purged");
    }
    reader.compare(bundle::PROV, &super::lines([prov::document(&evidence)])?)?;
    reader.compare(bundle::OPENLINEAGE, &super::lines(openlineage::events(&evidence))?)?;
    reader.compare(bundle::README, super::README)?;
    reader.finish()?;
    Ok(Report {
        commit: subject.commit.commit,
        name: format!("{}/{}", subject.commit.project, subject.commit.repo),
        record: subject.commit.digest.filter(|_| subject.computed),
        content,
        complete: !checked.partial && !evidence.restricted,
        records: checked.records,
        links: checked.links,
        specs: checked.specs,
        files,
        data: data.is_some(),
        not_checkable: checked.not_checkable(&evidence),
    })
}

fn parse<R: Read>(reader: &mut Reader<R>) -> Outcome<Document> {
    let bytes = reader.member(bundle::EVIDENCE)?;
    let document: Document = serde_json::from_slice(&bytes).map_err(|e| {
        wrong(format!(
            "`{}` is not what this program understands: {e}",
            bundle::EVIDENCE
        ))
    })?;
    match document.format == FORMAT {
        true => Ok(document),
        false => Err(wrong(format!("its format is `{}`, not `{FORMAT}`", document.format))),
    }
}

/// The commit that a bundle is about.
struct Subject<'a> {
    commit: &'a EvidenceCommit,
    record: &'a Record,
    /// Whether the digest of its record follows from the record, and not only from what the bundle says.
    computed: bool,
}

/// Demands the record with that digest.
fn expect(subject: &Subject<'_>, expected: RecordDigest) -> Outcome {
    if subject.commit.digest != Some(expected) {
        let found = subject
            .commit
            .digest
            .map_or_else(|| "none".to_owned(), |d| d.to_string());
        return Err(wrong(format!("the digest of its record is {found}, not {expected}")));
    }
    match subject.computed {
        true => Ok(()),
        false => Err(wrong(format!(
            "parts of its record are left out or were purged, so whether its digest is {expected} cannot be computed"
        ))),
    }
}

/// Reads the list of files, computes the digest of the content, and compares the directory. Answers how many there are, and the
/// digest where it is the one that the record names.
fn content<R: Read>(
    reader: &mut Reader<R>,
    subject: &Subject<'_>,
    data: Option<&Path>,
) -> Outcome<(u64, Option<RecordDigest>)> {
    let mut list = List {
        tree: Tree::new(),
        last: String::new(),
        directory: data.map(Directory::new).transpose()?,
    };
    list.read(reader)?;
    let (commit, (files, bytes)) = (subject.commit, list.tree.totals());
    let Some(content) = commit.content else {
        return match files {
            0 => Ok((0, None)),
            _ => Err(wrong("files are listed of a commit without content")),
        };
    };
    if let Some(directory) = list.directory {
        directory.finish()?;
    }
    if (files, bytes) != (commit.files, commit.size_bytes) {
        return Err(wrong(format!(
            "{files} files of {bytes} bytes are listed, but the commit has {} of {}",
            commit.files, commit.size_bytes
        )));
    }
    let found = RecordDigest::new(list.tree.digest(&list.last));
    match found == content {
        true => Ok((files, Some(found).filter(|found| *found == subject.record.tree))),
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
    fn read<R: Read>(&mut self, reader: &mut Reader<R>) -> Outcome {
        let mut line = Vec::new();
        reader.stream(bundle::FILES, |piece| {
            for part in piece.split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(part);
                if line.len() > LINE_MAX {
                    return Err(wrong(format!("a line of `{}` is too long", bundle::FILES)));
                }
                if line.ends_with(b"\n") {
                    self.add(&line)?;
                    line.clear();
                }
            }
            Ok(())
        })?;
        match line.is_empty() {
            true => Ok(()),
            false => Err(wrong(format!("the last line of `{}` has no end", bundle::FILES))),
        }
    }

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
    /// Whether something rests on the word of whoever made the bundle.
    partial: bool,
    /// What could not be checked: how many of which sort.
    open: BTreeMap<&'static str, usize>,
}

/// What a commit or a version is looked up by.
struct Known<'a> {
    commits: HashMap<CommitId, &'a EvidenceCommit>,
    versions: HashMap<(DomainId, i32), &'a EvidenceVersion>,
}

impl Checked {
    /// Something cannot be checked, and nothing that was checked depends on it.
    fn open(&mut self, what: &'static str) {
        *self.open.entry(what).or_default() += 1;
    }

    /// Something is told that nothing proves.
    fn gap(&mut self, what: &'static str) {
        self.partial = true;
        self.open(what);
    }

    /// Checks all but the content; the commit that it is about.
    fn evidence<'a>(&mut self, evidence: &'a Evidence) -> Outcome<Subject<'a>> {
        if evidence.commits.len() > bundle::COMMITS_MAX {
            return Err(wrong(format!("it has more than {} commits", bundle::COMMITS_MAX)));
        }
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
        let commit = subject.ok_or_else(|| wrong("the commit that it is about does not come first"))?;
        let Some(record) = &commit.record else {
            return Err(wrong("the commit that it is about has no record"));
        };
        for version in &evidence.versions {
            self.version(version)?;
        }
        let mut computed = HashSet::new();
        for commit in &evidence.commits {
            let inputs: HashSet<CommitId> = commit.inputs.iter().copied().collect();
            if inputs.len() != commit.inputs.len() {
                return Err(wrong(format!("commit {} names an input twice", commit.commit)));
            }
            if let Some(missing) = inputs.iter().find(|input| !known.commits.contains_key(input)) {
                return Err(wrong(format!(
                    "commit {} was made from {missing}, which is not in it",
                    commit.commit
                )));
            }
            match &commit.record {
                Some(record) => {
                    if self.record(&known, (commit, &inputs), record)? {
                        computed.insert(commit.commit);
                    }
                }
                None => self.unrecorded(commit)?,
            }
        }
        self.reached(evidence, &known)?;
        Ok(Subject {
            commit,
            record,
            computed: computed.contains(&commit.commit),
        })
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
            self.gap("the spec of a pipeline names what may not be known and is left out");
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
        self.gap("a commit is named whose record may not be read");
        Ok(())
    }

    /// Checks a record and what it names. Answers whether its digest was computed.
    fn record(
        &mut self,
        known: &Known<'_>,
        (commit, inputs): (&EvidenceCommit, &HashSet<CommitId>),
        record: &Record,
    ) -> Outcome<bool> {
        let id = commit.commit;
        let Some(digest) = commit.digest.filter(|_| record.commit == id) else {
            return Err(wrong(format!(
                "the record of commit {id} has no digest or is another one's"
            )));
        };
        if commit.restricted {
            self.gap("parts of a record name what may not be read and are left out, so its digest cannot be computed");
        } else {
            let found = record.digest();
            if found != commit.purged_digest.unwrap_or(digest) {
                return Err(wrong(format!(
                    "the record of commit {id} has the digest {found}, not {digest}"
                )));
            }
        }
        if commit.purged_digest.is_some() {
            self.gap("a record was changed by a purge, so the digest by which later ones name it cannot be computed");
        }
        let computed = !commit.restricted && commit.purged_digest.is_none();
        self.records += usize::from(computed);
        match commit.content {
            Some(content) if content == record.tree => {}
            Some(_) => self.open("files of a commit were purged, so its content is not the one that its record names"),
            None if commit.removed.is_none() => {
                return Err(wrong(format!(
                    "commit {id} has no content, and nothing says that it was given up"
                )));
            }
            None => self.open("the content of a commit was given up; its record is still checked"),
        }
        for input in &record.inputs {
            if !self.link(known, input)? || !inputs.contains(&input.commit) {
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
        self.made_by(known, commit, record)?;
        Ok(computed)
    }

    /// Follows a record's name of another one. Answers whether that one is there.
    fn link(&mut self, known: &Known<'_>, named: &RecordedCommit) -> Outcome<bool> {
        let Some(found) = known.commits.get(&named.commit) else {
            return Ok(false);
        };
        match (&found.record, named.digest) {
            (None, Some(_)) => Err(wrong(format!(
                "a record names commit {} by a digest, and the record with that digest is left out",
                named.commit
            ))),
            // One that failed, or was never finished.
            (None, None) => Ok(true),
            (Some(_), _) if found.digest == named.digest => {
                self.links += 1;
                Ok(true)
            }
            (Some(_), _) => Err(wrong(format!(
                "a record names commit {} by another digest than that commit has",
                named.commit
            ))),
        }
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
                self.gap("a record is older than records that name the spec, so only its version's number is covered");
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
