//! Nodes: what they hold, their digests (over logical fields alone) and their stored form.

use std::mem::size_of;

use crate::codec::{DecodeError, Input, put_digest, put_number, put_text_after};
use crate::digest::Digest;
use crate::entry::FileEntry;
use crate::entry_codec::{entry, path_after, put_entry};
use crate::error::Result;
use crate::location::{Location, PackRef};
use crate::path::FilePath;
use crate::refs::{PackNames, PackTable};
use crate::slot::PackSlot;

const NODE_VERSION: u8 = 1;
/// Far more levels than 2^64 files need.
const LEVEL_MAX: u8 = 64;
const CHECKSUM_BYTES: usize = 16;

/// A node of a tree, decoded.
#[derive(Debug)]
pub(crate) struct Node {
    /// Over the logical content.
    pub(crate) digest: Digest,
    pub(crate) items: Items,
}

/// What a node holds, sorted by path.
#[derive(Debug)]
pub(crate) enum Items {
    Leaf(Vec<(FilePath, FileEntry)>),
    Inner(u8, Vec<Child>),
}

/// A node as its parent knows it.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    /// The last path below it.
    pub(crate) last: FilePath,
    pub(crate) digest: Digest,
    pub(crate) location: Location,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Node {
    pub(crate) fn new(items: Items) -> Self {
        Self {
            digest: items.digest(),
            items,
        }
    }

    /// 0 for a leaf.
    pub(crate) fn level(&self) -> u8 {
        match &self.items {
            Items::Leaf(_) => 0,
            Items::Inner(level, _) => *level,
        }
    }

    /// The last path below it.
    pub(crate) fn last(&self) -> Option<&FilePath> {
        match &self.items {
            Items::Leaf(files) => files.last().map(|(path, _)| path),
            Items::Inner(_, children) => children.last().map(|child| &child.last),
        }
    }

    /// Files below it and the sum of their sizes.
    pub(crate) fn totals(&self) -> (u64, u64) {
        match &self.items {
            Items::Leaf(files) => (
                files.len() as u64,
                files
                    .iter()
                    .fold(0, |sum: u64, (_, file)| sum.saturating_add(file.size)),
            ),
            Items::Inner(_, children) => children.iter().fold((0u64, 0u64), |(files, bytes), child| {
                (files.saturating_add(child.files), bytes.saturating_add(child.bytes))
            }),
        }
    }

    /// Memory that it takes, about.
    pub(crate) fn weight(&self) -> usize {
        match &self.items {
            Items::Leaf(files) => files
                .iter()
                .map(|(path, _)| path.as_str().len() + size_of::<(FilePath, FileEntry)>() + size_of::<Location>() + 48)
                .sum(),
            Items::Inner(_, children) => children
                .iter()
                .map(|child| child.last.as_str().len() + size_of::<Child>() + 16)
                .sum(),
        }
    }

    /// The stored form, for a place in this open pack.
    pub(crate) fn encode(&self, own: &PackSlot) -> Result<Vec<u8>> {
        let mut table = PackTable::inside(own);
        let mut body = Vec::with_capacity(8 << 10);
        let mut before = "";
        let count = match &self.items {
            Items::Leaf(files) => {
                for (path, file) in files {
                    put_text_after(&mut body, before, path.as_str());
                    put_entry(&mut body, &mut table, file)?;
                    before = path.as_str();
                }
                files.len()
            }
            Items::Inner(_, children) => {
                for child in children {
                    put_text_after(&mut body, before, child.last.as_str());
                    put_digest(&mut body, &child.digest);
                    put_number(&mut body, child.files);
                    put_number(&mut body, child.bytes);
                    table.put(&mut body, &child.location)?;
                    before = child.last.as_str();
                }
                children.len()
            }
        };
        let mut out = Vec::with_capacity(body.len() + 64);
        out.extend_from_slice(&[NODE_VERSION, self.level()]);
        table.encode(&mut out);
        put_number(&mut out, count as u64);
        out.extend_from_slice(&body);
        let checksum = Digest::of(&out);
        out.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_BYTES]);
        Ok(out)
    }

    /// Reads the stored form; `own` is the pack it was read from.
    pub(crate) fn decode(bytes: &[u8], own: &PackRef) -> Result<Self, DecodeError> {
        let Some((content, checksum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
            return Err(DecodeError::new("a node is too short"));
        };
        if Digest::of(content).as_bytes()[..CHECKSUM_BYTES] != *checksum {
            return Err(DecodeError::new("a node does not match its checksum"));
        }
        let mut input = Input::new(content);
        if input.byte()? != NODE_VERSION {
            return Err(DecodeError::new("a node of an unknown version"));
        }
        let level = input.byte()?;
        if level > LEVEL_MAX {
            return Err(DecodeError::new("a node of an impossible level"));
        }
        let names = PackNames::decode(&mut input, Some(own))?;
        let count = input.length()?;
        if count == 0 {
            return Err(DecodeError::new("a node without items"));
        }
        let items = if level == 0 {
            Items::Leaf(decode_files(&mut input, &names, count)?)
        } else {
            Items::Inner(level, decode_children(&mut input, &names, count)?)
        };
        input.finish()?;
        Ok(Self::new(items))
    }
}

fn decode_files(
    input: &mut Input<'_>,
    names: &PackNames<'_>,
    count: usize,
) -> Result<Vec<(FilePath, FileEntry)>, DecodeError> {
    let mut files: Vec<(FilePath, FileEntry)> = Vec::with_capacity(input.plausible(count, 36));
    for _ in 0..count {
        let before = files.last().map_or("", |(path, _)| path.as_str());
        let path = path_after(input, before)?;
        if path.as_str() <= before {
            return Err(DecodeError::new("paths of a node are out of order"));
        }
        files.push((path, entry(input, names)?));
    }
    Ok(files)
}

fn decode_children(input: &mut Input<'_>, names: &PackNames<'_>, count: usize) -> Result<Vec<Child>, DecodeError> {
    let mut children: Vec<Child> = Vec::with_capacity(input.plausible(count, 40));
    for _ in 0..count {
        let before = children.last().map_or("", |child| child.last.as_str());
        let last = path_after(input, before)?;
        if last.as_str() <= before {
            return Err(DecodeError::new("paths of a node are out of order"));
        }
        let (digest, files, bytes) = (input.digest()?, input.number()?, input.number()?);
        children.push(Child {
            last,
            digest,
            location: names.location(input)?,
            files,
            bytes,
        });
    }
    Ok(children)
}

impl Items {
    /// Over level, paths, sizes, digests, executable bits and counts; never over locations.
    fn digest(&self) -> Digest {
        let mut record = Vec::with_capacity(8 << 10);
        match self {
            Items::Leaf(files) => {
                record.extend_from_slice(b"howdah leaf\0");
                for (path, file) in files {
                    put_number(&mut record, path.as_str().len() as u64);
                    record.extend_from_slice(path.as_str().as_bytes());
                    put_number(&mut record, file.size);
                    put_digest(&mut record, &file.digest);
                    record.push(u8::from(file.executable));
                }
            }
            Items::Inner(level, children) => {
                record.extend_from_slice(b"howdah inner\0");
                record.push(*level);
                for child in children {
                    put_number(&mut record, child.last.as_str().len() as u64);
                    record.extend_from_slice(child.last.as_str().as_bytes());
                    put_digest(&mut record, &child.digest);
                    put_number(&mut record, child.files);
                    put_number(&mut record, child.bytes);
                }
            }
        }
        Digest::of(&record)
    }
}
