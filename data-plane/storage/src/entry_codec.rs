//! The stored form of file entries, in leaves of trees and in lists for a database column.

use bytes::Bytes;

use crate::codec::{DecodeError, Input, put_digest, put_number, put_text_after, text_after};
use crate::entry::{BlockRef, Content, Extent, FileEntry, INLINE_EXTENTS_MAX, LISTED_EXTENTS_MAX};
use crate::error::{Result, StorageError};
use crate::path::{FilePath, PATH_BYTES_MAX};
use crate::refs::{PackNames, PackTable};

const LIST_VERSION: u8 = 1;

const EXECUTABLE: u8 = 1;
const EXTENTS: u8 = 0;
/// One extent whose digest and length are those of the file.
const WHOLE: u8 = 1;
const BLOCKS: u8 = 2;
const EMBEDDED: u8 = 3;

/// Appends an entry.
pub(crate) fn put_entry(out: &mut Vec<u8>, table: &mut PackTable<'_>, entry: &FileEntry) -> Result<()> {
    let whole = |extents: &[Extent]| extents.len() == 1 && extents[0].digest == entry.digest;
    let kind = match &entry.content {
        Content::Extents(extents) if whole(extents) => WHOLE,
        Content::Extents(_) => EXTENTS,
        Content::Blocks(_) => BLOCKS,
        Content::Embedded(_) => EMBEDDED,
    };
    out.push(kind << 1 | if entry.executable { EXECUTABLE } else { 0 });
    put_number(out, entry.size);
    put_digest(out, &entry.digest);
    match &entry.content {
        Content::Extents(extents) if kind == WHOLE => table.put(out, &extents[0].location)?,
        Content::Extents(extents) => {
            put_number(out, extents.len() as u64);
            for extent in extents {
                table.put(out, &extent.location)?;
                put_digest(out, &extent.digest);
            }
        }
        Content::Blocks(block) => {
            out.push(block.height);
            table.put(out, &block.location)?;
            put_digest(out, &block.digest);
        }
        Content::Embedded(bytes) if table.is_outside() => out.extend_from_slice(bytes),
        Content::Embedded(_) => return Err(StorageError::NotFlushed),
    }
    Ok(())
}

/// Reads what [`put_entry`] wrote.
pub(crate) fn entry(input: &mut Input<'_>, names: &PackNames<'_>) -> Result<FileEntry, DecodeError> {
    let flags = input.byte()?;
    let executable = flags & EXECUTABLE != 0;
    let size = input.number()?;
    let digest = input.digest()?;
    let content = match flags >> 1 {
        WHOLE => Content::Extents(vec![Extent {
            location: names.location(input)?,
            digest,
        }]),
        EXTENTS => {
            let count = input.length()?;
            let most = if names.is_outside() {
                LISTED_EXTENTS_MAX
            } else {
                INLINE_EXTENTS_MAX
            };
            if count > most {
                return Err(DecodeError(format!("{count} extents in an entry are too many")));
            }
            let extents = (0..count)
                .map(|_| {
                    Ok(Extent {
                        location: names.location(input)?,
                        digest: input.digest()?,
                    })
                })
                .collect::<Result<Vec<_>, DecodeError>>()?;
            Content::Extents(extents)
        }
        BLOCKS => {
            let height = input.byte()?;
            Content::Blocks(BlockRef {
                height,
                location: names.location(input)?,
                digest: input.digest()?,
            })
        }
        EMBEDDED if names.is_outside() => {
            let length = usize::try_from(size).map_err(|_| DecodeError::new("an embedded file is too long"))?;
            Content::Embedded(Bytes::copy_from_slice(input.take(length)?))
        }
        other => return Err(DecodeError(format!("content of the unknown kind {other}"))),
    };
    if let Content::Extents(extents) = &content
        && extents.iter().map(|extent| extent.location.length()).sum::<u64>() != size
    {
        return Err(DecodeError::new("the extents of a file do not add up to its size"));
    }
    Ok(FileEntry {
        size,
        digest,
        executable,
        content,
    })
}

/// Entries with their paths in a compact, versioned form for a database column. Fails with `NotFlushed` if bytes of
/// one are not durable yet. Any order is kept; sorted paths take less room.
pub fn encode_entries(entries: &[(FilePath, FileEntry)]) -> Result<Vec<u8>> {
    let mut table = PackTable::outside();
    let mut items = Vec::with_capacity(entries.len() * 64);
    let mut before = "";
    for (path, entry) in entries {
        put_text_after(&mut items, before, path.as_str());
        put_entry(&mut items, &mut table, entry)?;
        before = path.as_str();
    }
    let mut out = vec![LIST_VERSION];
    table.encode(&mut out);
    put_number(&mut out, entries.len() as u64);
    out.extend_from_slice(&items);
    Ok(out)
}

/// Reads [`encode_entries`].
pub fn decode_entries(bytes: &[u8]) -> Result<Vec<(FilePath, FileEntry)>> {
    entries(bytes).map_err(|error| StorageError::Undecodable {
        what: "entry list",
        why: error.0,
    })
}

fn entries(bytes: &[u8]) -> Result<Vec<(FilePath, FileEntry)>, DecodeError> {
    let mut input = Input::new(bytes);
    match input.byte()? {
        LIST_VERSION => {}
        other => return Err(DecodeError(format!("version {other} is newer than this program"))),
    }
    let names = PackNames::decode(&mut input, None)?;
    let count = input.length()?;
    let mut entries: Vec<(FilePath, FileEntry)> = Vec::with_capacity(input.plausible(count, 36));
    for _ in 0..count {
        let before = entries.last().map_or("", |(path, _)| path.as_str());
        let path = path_after(&mut input, before)?;
        entries.push((path, entry(&mut input, &names)?));
    }
    input.finish()?;
    Ok(entries)
}

/// Reads a path that was written as a continuation of the one before it.
pub(crate) fn path_after(input: &mut Input<'_>, before: &str) -> Result<FilePath, DecodeError> {
    let text = text_after(input, before, PATH_BYTES_MAX)?;
    FilePath::parse(&text).map_err(|error| DecodeError(error.to_string()))
}
