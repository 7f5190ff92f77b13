//! `path_collision: append`: datums that write one path give one file, their contents one after the other in the order of
//! the datums. That is the order of their inputs, each by name and then path as texts; where these agree in the first
//! [`PLACE_BYTES`] bytes, of the datums' keys. So it does not depend on which job ran what, or when.
//!
//! What each current datum of the last successful job wrote stands in rows, so a change puts together the files that it
//! touches and looks at no other result. A job whose base has no such rows is planned without it.

pub mod queries;

use std::collections::{BTreeMap, BTreeSet};

use contract::ids::JobId;
use futures::{StreamExt, TryStreamExt};
use sqlx::PgConnection;
use storage::{FileEntry, FilePath, Storage, TreeChange, TreeRef, Writer, decode_entries, encode_entries};
use tokio_util::io::StreamReader;
use uuid::Uuid;

use super::SELF;
use crate::failure::{Answer, Failure};
use crate::plane::Plane;
use crate::worker::protocol::TaskInput;

/// So much of the text of its inputs orders a datum.
const PLACE_BYTES: usize = 1024;
/// So many rows go into one statement.
const CHUNK: usize = 2000;

/// Where a datum comes among others: its inputs in order, then its key.
pub type Place = (Vec<u8>, Vec<u8>);

/// A file that a datum wrote.
pub struct Piece {
    /// Where it comes among others of its path.
    pub place: Place,
    /// Where it was written.
    pub path: FilePath,
    /// What.
    pub entry: FileEntry,
}

/// A piece as it is kept.
pub struct Stored {
    path_digest: [u8; 32],
    key: Vec<u8>,
    place: Vec<u8>,
    piece: Vec<u8>,
}

/// Where a datum comes.
pub fn place(key: &[u8], inputs: &[TaskInput], names: &[(i32, String)]) -> Place {
    let name = |position: u32| {
        let found = names.iter().find(|(at, _)| u32::try_from(*at) == Ok(position));
        found.map_or("", |(_, name)| name.as_str())
    };
    let mut sorted: Vec<(&str, &str)> = inputs.iter().map(|i| (name(i.position), i.path.as_str())).collect();
    sorted.sort_unstable();
    // No name or path holds a NUL, and nothing comes before it.
    let mut text: Vec<u8> = sorted
        .into_iter()
        .flat_map(|(name, path)| [name.as_bytes(), b"\0", path.as_bytes(), b"\0"].concat())
        .take(PLACE_BYTES)
        .collect();
    text.shrink_to_fit();
    (text, key.to_vec())
}

fn digest(path: &FilePath) -> [u8; 32] {
    *blake3::hash(path.as_str().as_bytes()).as_bytes()
}

/// What a job does to what is kept of its base.
pub struct Appending {
    state: i64,
    /// The rows are those of the base, and change with the end of the job.
    follows: bool,
    /// Datums whose pieces go.
    gone: Vec<Vec<u8>>,
    /// Pieces that come.
    come: Vec<Stored>,
}

/// The pieces of a job: those that come, and which datums' go.
pub struct Change<'a> {
    /// Of datums that the job added.
    pub come: &'a [Piece],
    /// Paths that datums of the base wrote that are gone.
    pub freed: BTreeSet<FilePath>,
    /// The keys of those.
    pub gone: &'a [Vec<u8>],
}

/// The changes of the base's tree, and what to keep when the job succeeds; `None` when nothing is kept of the base.
/// Without `work`, its pipeline and itself, it keeps nothing and has no base.
///
/// # Errors
/// When the database or storage is away.
pub async fn put_together(
    plane: &Plane,
    writer: &Writer,
    work: Option<(Uuid, JobId)>,
    base: Option<(Uuid, &TreeRef)>,
    change: Change<'_>,
) -> Answer<Option<(Vec<TreeChange>, Option<Appending>)>> {
    let mut gone: Vec<&[u8]> = change.gone.iter().map(Vec::as_slice).collect();
    gone.extend(change.come.iter().map(|piece| piece.place.1.as_slice()));
    gone.sort_unstable();
    gone.dedup();
    let mut paths: BTreeMap<FilePath, BTreeMap<Place, FileEntry>> = BTreeMap::new();
    for path in change.freed {
        paths.entry(path).or_default();
    }
    for piece in change.come {
        let here = paths.entry(piece.path.clone()).or_default();
        here.insert(piece.place.clone(), piece.entry.clone());
    }
    let appending = match work {
        None => None,
        Some(work) => {
            let come = change.come.iter().map(stored).collect::<Answer<_>>()?;
            let Some(begun) = begin(plane, work, base.map(|(base, _)| base), come).await? else {
                return Ok(None);
            };
            Some(Appending {
                gone: gone.iter().map(|key| key.to_vec()).collect(),
                ..begun
            })
        }
    };
    if let Some(kept) = appending.as_ref().filter(|kept| kept.follows) {
        let mut conn = plane.pool.acquire().await?;
        stay(&mut conn, kept.state, &gone, &mut paths).await?;
    }
    let empty = TreeRef::empty();
    let tree = base.map_or(&empty, |(_, tree)| tree);
    let mut changes = Vec::with_capacity(paths.len());
    for (path, pieces) in paths {
        changes.push(match whole(&plane.storage, writer, tree, &path, pieces).await? {
            None => TreeChange::Delete(path),
            Some(entry) => TreeChange::Put(path, entry),
        });
    }
    Ok(Some((changes, appending)))
}

/// Finds what is kept of the base, or begins anew; `None` when nothing is kept of it.
async fn begin(
    plane: &Plane,
    (pipeline, job): (Uuid, JobId),
    base: Option<Uuid>,
    come: Vec<Stored>,
) -> Answer<Option<Appending>> {
    let mut conn = plane.pool.acquire().await?;
    let (state, follows) = match base {
        Some(base) => match queries::find_state(&mut conn, &SELF, pipeline, base).await? {
            None => return Ok(None),
            Some(state) => (state, true),
        },
        None => {
            let state = queries::insert_state(&mut conn, &SELF, pipeline, job).await?;
            for chunk in come.chunks(CHUNK) {
                queries::insert_pieces(&mut conn, &SELF, state, chunk).await?;
            }
            (state, false)
        }
    };
    Ok(Some(Appending {
        state,
        follows,
        gone: Vec::new(),
        come,
    }))
}

fn stored(piece: &Piece) -> Answer<Stored> {
    Ok(Stored {
        path_digest: digest(&piece.path),
        key: piece.place.1.clone(),
        place: piece.place.0.clone(),
        piece: encode_entries(&[(piece.path.clone(), piece.entry.clone())])?,
    })
}

/// Adds what other datums of the base wrote to these paths.
async fn stay(
    conn: &mut PgConnection,
    state: i64,
    gone: &[&[u8]],
    paths: &mut BTreeMap<FilePath, BTreeMap<Place, FileEntry>>,
) -> Answer<()> {
    let digests: Vec<[u8; 32]> = paths.keys().map(digest).collect();
    for chunk in digests.chunks(CHUNK) {
        for (place, key, piece) in queries::list_pieces(&mut *conn, &SELF, state, chunk, gone).await? {
            for (path, entry) in decode_entries(&piece)? {
                let here = paths.entry(path).or_default();
                here.insert((place.clone(), key.clone()), entry);
            }
        }
    }
    Ok(())
}

/// The file of these pieces. Bytes are read for its digest, and stored only where they are in no pack yet.
async fn whole(
    storage: &Storage,
    writer: &Writer,
    base: &TreeRef,
    path: &FilePath,
    pieces: BTreeMap<Place, FileEntry>,
) -> Answer<Option<FileEntry>> {
    let mut pieces: Vec<FileEntry> = pieces.into_values().collect();
    if pieces.len() < 2 {
        return Ok(pieces.pop());
    }
    if let Some(before) = storage.get(base, path).await? {
        writer.learn(&before).await?;
    }
    let executable = pieces.iter().any(|piece| piece.executable);
    let parts: Vec<_> = pieces.iter().map(|piece| storage.read(piece, 0..piece.size)).collect();
    let parts = futures::stream::iter(parts).flatten().map_err(std::io::Error::other);
    let reader = StreamReader::new(parts);
    Ok(Some(writer.write_file(reader, executable).await?))
}

impl Appending {
    /// Keeps what is there now, in the transaction in which the job succeeds.
    ///
    /// # Errors
    /// When it was removed meanwhile, or the database is away: put together again.
    pub async fn keep(&self, conn: &mut PgConnection, pipeline: Uuid, job: JobId) -> Answer<()> {
        if self.follows {
            let gone: Vec<&[u8]> = self.gone.iter().map(Vec::as_slice).collect();
            queries::delete_pieces(&mut *conn, &SELF, self.state, &gone).await?;
            for chunk in self.come.chunks(CHUNK) {
                queries::insert_pieces(&mut *conn, &SELF, self.state, chunk).await?;
            }
        }
        match queries::update_state(conn, &SELF, pipeline, self.state, job).await? {
            true => Ok(()),
            false => Err(Failure::internal(
                "what is kept of appended outputs was removed meanwhile",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datums_come_in_the_order_of_their_inputs_whatever_the_order_these_are_told_in() {
        let names = [(0, "b".to_owned()), (1, "a".to_owned())];
        let input = |position: u32, path: &str| TaskInput {
            position,
            path: path.to_owned(),
            join_on: None,
            group_by: None,
        };
        let at = |inputs: &[TaskInput]| place(&[7], inputs, &names);
        let both = at(&[input(0, "/x"), input(1, "/y")]);
        assert_eq!(both, at(&[input(1, "/y"), input(0, "/x")]));
        assert!(both < at(&[input(0, "/x"), input(1, "/z")]));
        assert!(at(&[input(1, "/y")]) < both && both < at(&[input(0, "/a")]));
        assert!(at(&[input(0, "/a")]) < at(&[input(0, "/a!")]), "the shorter first");
        let long = "/x".repeat(PLACE_BYTES);
        let (first, second) = (
            place(&[1], &[input(0, &long)], &names),
            place(&[2], &[input(0, &long)], &names),
        );
        assert!(first < second && first.0.len() == PLACE_BYTES);
    }
}
