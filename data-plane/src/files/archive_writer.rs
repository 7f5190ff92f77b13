//! Writes a directory of a commit as a tar archive, as it is asked for.

use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream, StreamExt};
use storage::{FileEntry, FilePath, Storage, StorageError, TreeRef};
use tar::{EntryType, Header};

use super::portions::{self, Portion, name_below};

const BLOCK: usize = 512;
const NAME_BYTES: usize = 100;

/// The archive of what lies below a directory (`None`: the root) or of one file; names are relative to it. With `after`
/// only what comes behind that path.
pub fn archive(
    storage: &Storage,
    tree: &TreeRef,
    below: Option<FilePath>,
    after: Option<&FilePath>,
    modified_at: DateTime<Utc>,
) -> BoxStream<'static, Result<Bytes, StorageError>> {
    let seconds = u64::try_from(modified_at.timestamp()).unwrap_or(0);
    let storage = storage.clone();
    let end = stream::once(async { Ok(Bytes::from_static(&[0; 2 * BLOCK])) });
    portions::read(&storage, tree, below.as_ref(), after)
        .flat_map(move |portion| match portion {
            Err(error) => stream::iter([Err(error)]).boxed(),
            Ok(Portion::Window(files)) => stream::iter([Ok(window(below.as_ref(), files, seconds))]).boxed(),
            Ok(Portion::Large((path, entry))) => {
                let (mut header, mut tail) = (BytesMut::with_capacity(2 * BLOCK), BytesMut::new());
                put_header(&mut header, name_below(below.as_ref(), &path), &entry, seconds);
                pad(&mut tail, entry.size);
                stream::iter([Ok(header.freeze())])
                    .chain(storage.read(&entry, 0..entry.size))
                    .chain(stream::iter([Ok(tail.freeze())]))
                    .boxed()
            }
        })
        .chain(end)
        .boxed()
}

/// The members of a window, back to back.
fn window(below: Option<&FilePath>, files: Vec<(FilePath, FileEntry, Bytes)>, modified_at: u64) -> Bytes {
    let room = files.iter().map(|(_, _, bytes)| bytes.len() + 2 * BLOCK).sum();
    let mut out = BytesMut::with_capacity(room);
    for (path, entry, bytes) in files {
        put_header(&mut out, name_below(below, &path), &entry, modified_at);
        out.extend_from_slice(&bytes);
        pad(&mut out, entry.size);
    }
    out.freeze()
}

fn pad(bytes: &mut BytesMut, size: u64) {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if over > 0 {
        bytes.put_bytes(0, BLOCK - over);
    }
}

fn put_header(out: &mut BytesMut, name: &str, entry: &FileEntry, modified_at: u64) {
    if name.len() > NAME_BYTES {
        // GNU's way for long names, which every tar reads.
        let mut long = plain("././@LongLink", name.len() as u64 + 1, 0o644, modified_at);
        long.set_entry_type(EntryType::GNULongName);
        long.set_cksum();
        out.extend_from_slice(long.as_bytes());
        out.extend_from_slice(name.as_bytes());
        out.put_u8(0);
        pad(out, name.len() as u64 + 1);
    }
    let mode = if entry.executable { 0o755 } else { 0o644 };
    let mut header = plain(name, entry.size, mode, modified_at);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
}

fn plain(name: &str, size: u64, mode: u32, modified_at: u64) -> Header {
    let mut header = Header::new_gnu();
    let bytes = &name.as_bytes()[..name.len().min(NAME_BYTES)];
    header.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(modified_at);
    header
}
