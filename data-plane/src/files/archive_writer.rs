//! Writes a directory of a commit as a tar archive, as it is asked for: small files are read ahead of time side by side,
//! large ones as streams, nothing waits for the whole.

use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream, StreamExt};
use storage::{FileEntry, FilePath, Storage, StorageError, TreeRef};
use tar::{EntryType, Header};

const BLOCK: usize = 512;
/// Files up to this size are read at once.
const WHOLE_BYTES_MAX: u64 = 256 << 10;
const READ_AHEAD: usize = 16;
const NAME_BYTES: usize = 100;

enum Piece {
    Whole(Bytes),
    Streamed(Bytes, FileEntry),
}

/// The archive of what lies below a directory (`None`: the root) or of one file; names are relative to it.
pub fn archive(
    storage: &Storage,
    tree: &TreeRef,
    below: Option<FilePath>,
    modified_at: DateTime<Utc>,
) -> BoxStream<'static, Result<Bytes, StorageError>> {
    let seconds = u64::try_from(modified_at.timestamp()).unwrap_or(0);
    let (ahead, behind) = (storage.clone(), storage.clone());
    let pieces = storage.list(tree, below.as_ref(), None).map(move |item| {
        let (storage, below) = (ahead.clone(), below.clone());
        async move {
            let (path, entry) = item?;
            let name = below
                .as_ref()
                .map_or(path.as_str(), |b| path.strip_directory(b).unwrap_or(path.name()));
            let header = header(name, &entry, seconds);
            if entry.size > WHOLE_BYTES_MAX {
                return Ok(Piece::Streamed(header.freeze(), entry));
            }
            let mut whole = header;
            whole.extend_from_slice(&storage.read_all(&entry).await?);
            pad(&mut whole, entry.size);
            Ok(Piece::Whole(whole.freeze()))
        }
    });
    let end = stream::once(async { Ok(Bytes::from_static(&[0; 2 * BLOCK])) });
    pieces
        .buffered(READ_AHEAD)
        .flat_map(move |piece| match piece {
            Err(error) => stream::iter([Err(error)]).boxed(),
            Ok(Piece::Whole(bytes)) => stream::iter([Ok(bytes)]).boxed(),
            Ok(Piece::Streamed(header, entry)) => {
                let mut tail = BytesMut::new();
                pad(&mut tail, entry.size);
                stream::iter([Ok(header)])
                    .chain(behind.read(&entry, 0..entry.size))
                    .chain(stream::iter([Ok(tail.freeze())]))
                    .boxed()
            }
        })
        .chain(end)
        .boxed()
}

fn pad(bytes: &mut BytesMut, size: u64) {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if over > 0 {
        bytes.put_bytes(0, BLOCK - over);
    }
}

fn header(name: &str, entry: &FileEntry, modified_at: u64) -> BytesMut {
    let mut out = BytesMut::with_capacity(2 * BLOCK);
    if name.len() > NAME_BYTES {
        // GNU's way for long names, which every tar reads.
        let mut long = plain("././@LongLink", name.len() as u64 + 1, 0o644, modified_at);
        long.set_entry_type(EntryType::GNULongName);
        long.set_cksum();
        out.extend_from_slice(long.as_bytes());
        out.extend_from_slice(name.as_bytes());
        out.put_u8(0);
        pad(&mut out, name.len() as u64 + 1);
    }
    let mode = if entry.executable { 0o755 } else { 0o644 };
    let mut header = plain(name, entry.size, mode, modified_at);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out
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
