//! Datums: what a pipeline's input yields on given commits, all of them or only the difference between two states, and
//! the key by which a datum is known to have been done before. The caller walks the trees; here are only lists of
//! matches.

mod changes;
mod collisions;
mod combine;
mod select;
mod sizes;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use contract::api::FileKind;
use contract::ids::DomainId;
use contract::names::RepoName;

use crate::glob::{Captures, Glob};
use crate::spec::InputSpec;

pub use changes::{DatumChanges, LeafChange, enumerate_changes};
pub use collisions::{Collision, OutputPath, collision};
pub use sizes::{INPUTS_MAX, Size, TooMany};
pub use source::{By, Lists, Matches};

/// A path of a commit that a leaf's glob matched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    /// Absolute path without a final `/`; the whole repo is `/`.
    pub path: String,
    /// File or directory.
    pub kind: Kind,
    /// Digest of the content: of a directory, one that changes with every name and content below it.
    pub digest: [u8; 32],
    /// Bytes, of a directory: of all files below it. Takes no part in keys.
    pub size: u64,
    /// What the glob captured.
    pub captures: Captures,
}

/// A file or a directory, in an order that lists can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
}

impl From<Kind> for FileKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::File => Self::File,
            Kind::Directory => Self::Directory,
        }
    }
}

impl From<FileKind> for Kind {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::File => Self::File,
            FileKind::Directory => Self::Directory,
        }
    }
}

/// One input of a datum: user code sees it as `/pfs/<name><path>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DatumInput {
    /// The input's name.
    pub name: RepoName,
    /// The domain of its repo.
    pub domain: DomainId,
    /// The path.
    pub path: String,
    /// File or directory.
    pub kind: Kind,
    /// Digest of the content.
    pub digest: [u8; 32],
    /// Bytes.
    pub size: u64,
    /// Files are shown empty.
    pub empty_files: bool,
    /// The value of the leaf's `join_on`.
    pub join_on: Option<String>,
    /// The value of the leaf's `group_by`.
    pub group_by: Option<String>,
    /// The leaf that it comes from: its place in `InputSpec::leaves`.
    pub leaf: usize,
}

/// A datum: its inputs, in an order of their own so that equal datums are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Datum {
    /// The inputs, ascending by name and path.
    pub inputs: Vec<DatumInput>,
}

impl Datum {
    /// Its key with that code.
    pub fn key(&self, code_digest: &[u8; 32]) -> [u8; 32] {
        datum_key(code_digest, &self.inputs)
    }

    /// Its inputs for people: `images:/a.tif`.
    pub fn labels(&self) -> Vec<String> {
        self.inputs.iter().map(|i| format!("{}:{}", i.name, i.path)).collect()
    }

    /// One datum of all matches of all leaves, in the order of `InputSpec::leaves`, whatever combines them. Those of a leaf
    /// without a domain are left out.
    pub fn of_all(spec: &InputSpec, domains: &[DomainId], matches: &[Vec<Match>]) -> Self {
        let tree = combine::tree(spec, domains);
        let leaves = tree.leaves().into_iter().zip(matches);
        let datums = leaves.flat_map(|(leaf, found)| found.iter().filter_map(|found| leaf.datum(found)));
        Self::new(datums.flat_map(|datum| datum.inputs).collect())
    }

    /// Bytes that are fetched for it: those of all inputs but of files that are shown empty, and of the leaf at that place,
    /// which is the same for all datums.
    pub fn size(&self, code: Option<usize>) -> u64 {
        let fetched = |i: &&DatumInput| !i.empty_files && Some(i.leaf) != code;
        self.inputs.iter().filter(fetched).map(|i| i.size).sum()
    }

    fn new(mut inputs: Vec<DatumInput>) -> Self {
        inputs.sort();
        // The same match reached a group through two leaves of one name and repo: code sees it once.
        inputs.dedup_by(|a, b| place(a) == place(b));
        Self { inputs }
    }

    /// What makes two datums the same: what user code sees and whose it is.
    fn identity(&self) -> Identity {
        Identity(self.inputs.iter().map(identity).collect())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Identity(Vec<One>);

/// An input, and its values: code is told these too.
type One = (Place, [Option<String>; 2]);

/// What is seen of an input below `/pfs`, and whose it is.
type Place = (RepoName, DomainId, String, Kind, [u8; 32], bool);

fn identity(input: &DatumInput) -> One {
    (place(input), [input.join_on.clone(), input.group_by.clone()])
}

fn place(input: &DatumInput) -> Place {
    (
        input.name.clone(),
        input.domain,
        input.path.clone(),
        input.kind,
        input.digest,
        input.empty_files,
    )
}

/// The skip rule's key: the code, and of each input its domain, name, path, kind, content, and the values of its leaf's
/// `join_on` and `group_by`, all of which code sees. The order of inputs, the commits they come from and sizes do not count.
pub fn datum_key(code_digest: &[u8; 32], inputs: &[DatumInput]) -> [u8; 32] {
    let mut sorted: Vec<&DatumInput> = inputs.iter().collect();
    sorted.sort();
    let mut hasher = blake3::Hasher::new_derive_key("howdah datum v1");
    hasher.update(code_digest);
    for input in sorted {
        hasher.update(input.domain.uuid().as_bytes());
        for text in [input.name.as_str(), &input.path] {
            hasher.update(&(text.len() as u64).to_be_bytes());
            hasher.update(text.as_bytes());
        }
        let values = [input.join_on.as_deref(), input.group_by.as_deref()];
        let [has_join, has_group] = values.map(|value| u8::from(value.is_some()));
        let flags = u8::from(input.empty_files) | has_join << 1 | has_group << 2;
        hasher.update(&[input.kind as u8, flags]);
        hasher.update(&input.digest);
        for value in values.into_iter().flatten() {
            hasher.update(&(value.len() as u64).to_be_bytes());
            hasher.update(value.as_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

/// Every datum of an input, ascending. `domains` has the domain of each leaf's repo; leaves are numbered as in
/// `InputSpec::leaves`, and only whole lists of their matches are asked for.
///
/// # Errors
/// [`TooMany`] when they could not be held, told before they are made; whatever `matches` fails with.
pub fn enumerate<M: Matches + ?Sized>(
    input: &InputSpec,
    domains: &[DomainId],
    matches: &M,
) -> Result<Vec<Datum>, M::Error> {
    let none = BTreeMap::new();
    let state = select::State::new(&none, matches);
    let tree = combine::tree(input, domains);
    let mut datums = state.select(&tree, &select::Within::default(), select::Side::New)?;
    datums.sort();
    Ok(datums)
}

/// A path that a leaf's glob matches and at or below which something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// The path, as in `Match`.
    pub path: String,
    /// Whether it is the changed file itself or a directory that holds it.
    pub kind: Kind,
    /// What the glob captured.
    pub captures: Captures,
}

/// Which matches of a glob the changed files touch, ascending: a changed file inside a directory match changes that
/// match. Each may exist on one side only: look it up in both trees, and leave it out where nothing differs.
pub fn changed_matches<'a>(glob: &Glob, changed: impl IntoIterator<Item = &'a str>) -> Vec<Touched> {
    let mut touched: BTreeMap<(String, Kind), Captures> = BTreeMap::new();
    let mut previous = "";
    for path in changed {
        if let Some(captures) = glob.matches(path, false) {
            touched.insert((path.to_owned(), Kind::File), captures);
        }
        let mut at = path;
        while let Some(slash) = at.rfind('/') {
            at = &at[..slash];
            // Sorted paths share their directories with the one before, which were looked at then.
            if previous.strip_prefix(at).is_some_and(|rest| rest.starts_with('/')) {
                break;
            }
            let directory = if at.is_empty() { "/" } else { at };
            if let Some(captures) = glob.matches(directory, true) {
                touched.insert((directory.to_owned(), Kind::Directory), captures);
            }
        }
        previous = path;
    }
    let list = touched
        .into_iter()
        .map(|((path, kind), captures)| Touched { path, kind, captures });
    list.collect()
}
