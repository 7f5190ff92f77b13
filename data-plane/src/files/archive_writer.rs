//! Writes a directory of a commit as a tar archive, as it is asked for: small files are read a window at a time, ahead of
//! what is being sent, large ones as streams; nothing waits for the whole.

use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use storage::{FileEntry, FilePath, Storage, StorageError, TreeRef};
use tar::{EntryType, Header};
use tokio_util::task::AbortOnDropHandle;

const BLOCK: usize = 512;
/// Files up to this size are read together with their neighbours.
const WHOLE_BYTES_MAX: u64 = 256 << 10;
/// A window of small files: what lies close together in the packs comes in one read, and leaves in one piece.
const WINDOW_FILES: usize = 512;
const WINDOW_BYTES: u64 = 1 << 20;
/// Windows that are read ahead of the one that is being sent.
const READ_AHEAD: usize = 2;
const NAME_BYTES: usize = 100;

type File = (FilePath, FileEntry);

/// What is sent in one go.
enum Portion {
    Window(Vec<File>),
    Large(File),
}

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
    let files = storage.list(tree, below.as_ref(), None);
    let pieces = portions(files).map(move |portion| {
        let (storage, below) = (ahead.clone(), below.clone());
        // A task of its own, so that reading and verifying go on while the network takes what was read before.
        let reading = AbortOnDropHandle::new(tokio::spawn(async move {
            let name = |path: &FilePath| match &below {
                None => path.as_str().to_owned(),
                Some(b) => path.strip_directory(b).unwrap_or(path.name()).to_owned(),
            };
            match portion? {
                Portion::Large((path, entry)) => {
                    let mut header = BytesMut::with_capacity(2 * BLOCK);
                    put_header(&mut header, &name(&path), &entry, seconds);
                    Ok(Piece::Streamed(header.freeze(), entry))
                }
                Portion::Window(files) => window(&storage, files, &name, seconds).await.map(Piece::Whole),
            }
        }));
        async move { reading.await.unwrap_or(Err(StorageError::Cancelled)) }
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

/// Groups files in their order: as many small ones as make a window, large ones alone.
fn portions(
    files: BoxStream<'static, Result<File, StorageError>>,
) -> impl Stream<Item = Result<Portion, StorageError>> + Send {
    let state = (files, None::<File>);
    stream::try_unfold(state, |(mut files, mut left)| async move {
        let mut window = Vec::new();
        let mut bytes = 0;
        loop {
            let next = match left.take() {
                Some(file) => Some(file),
                None => files.try_next().await?,
            };
            let Some(file) = next else { break };
            let size = file.1.size;
            if size > WHOLE_BYTES_MAX && window.is_empty() {
                return Ok(Some((Portion::Large(file), (files, None))));
            }
            if size > WHOLE_BYTES_MAX || window.len() == WINDOW_FILES || bytes + size > WINDOW_BYTES {
                left = Some(file);
                break;
            }
            bytes += size;
            window.push(file);
        }
        Ok((!window.is_empty()).then_some((Portion::Window(window), (files, left))))
    })
}

/// The members of a window, back to back.
async fn window(
    storage: &Storage,
    files: Vec<File>,
    name: &impl Fn(&FilePath) -> String,
    modified_at: u64,
) -> Result<Bytes, StorageError> {
    let entries = files.iter().map(|(_, entry)| entry.clone()).collect();
    let mut contents = vec![Bytes::new(); files.len()];
    let mut read = storage.read_many(entries);
    while let Some((index, bytes)) = read.try_next().await? {
        contents[index] = bytes;
    }
    let room = contents.iter().map(|c| c.len() + 2 * BLOCK).sum();
    let mut out = BytesMut::with_capacity(room);
    for ((path, entry), bytes) in files.iter().zip(contents) {
        put_header(&mut out, &name(path), entry, modified_at);
        out.extend_from_slice(&bytes);
        pad(&mut out, entry.size);
    }
    Ok(out.freeze())
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
