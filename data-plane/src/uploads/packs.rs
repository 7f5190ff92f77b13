//! Packs of large files that clients put into the bucket themselves, so that their bytes do not pass through this process: one is
//! announced, put to a place of its own by a signed request, and taken over. What a client says of it is not believed: after nobody
//! can change it any more every byte of it is read.
//!
//! A pack's name is unlike any other's, by a salt that we choose, and it is taken over once at most, whatever processes there are:
//! so nothing is ever written in place of a pack that something may refer to.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use chassis::http::{Json, Path};
use contract::api::{FileChunks, NewPack, PackPlace, UploadPart};
use contract::ids::UploadId;
use contract::policy::Permission;
use contract::problem::ProblemKind;
use moka::sync::Cache;
use storage::{Digest, FileEntry, FilePath, IncomingPack, Taken, Whole};

use super::pack_queries::{self, PackRow, PackState};
use super::queries::{self, Insertion, NewPart};
use super::{KEEP, is_over};
use crate::call::Call;
use crate::failure::{Answer, Failure};
use crate::files::change::{self, FileChange};
use crate::plane::Plane;

/// Packs that are read at once in a plane.
pub const TAKEN_AT_ONCE: usize = 4;
/// So long a pack waits to be read.
const TURN_WAIT: Duration = Duration::from_secs(60);
/// So long a client may take to begin to put one.
const EXPIRES_IN: Duration = Duration::from_secs(15 * 60);
/// Files whose digests are remembered, about 2 KiB each; of others what has arrived is read once more at the end.
const DIGESTS_MAX: u64 = 4096;
const DIGEST_IDLE: Duration = Duration::from_secs(3600);

/// The digests of files that arrive in packs, up to where they have arrived.
pub struct Digests(Cache<(UploadId, Digest), (u64, Whole)>);

impl Default for Digests {
    fn default() -> Self {
        let cache = Cache::builder().max_capacity(DIGESTS_MAX).time_to_idle(DIGEST_IDLE);
        Self(cache.build())
    }
}

impl Digests {
    /// The digest of the first `at` bytes of the file that has this key, if it is known.
    pub fn at(&self, upload: UploadId, key: Digest, at: u64) -> Option<Whole> {
        if at == 0 {
            return Some(Whole::default());
        }
        self.0
            .get(&(upload, key))
            .filter(|known| known.0 == at)
            .map(|known| known.1)
    }

    /// Only for what is the beginning of the kept pieces: of each place in the file there is one piece at most, for ever.
    fn note(&self, upload: UploadId, key: Digest, at: u64, whole: Whole) {
        self.0.insert((upload, key), (at, whole));
    }
}

/// Announces a pack that the client puts into the bucket itself; the place is a secret.
///
/// Sent again it answers another place; one that nothing is put into is given up after a quarter of an hour.
#[utoipa::path(
    post,
    path = "/v1/uploads/{id}/packs",
    tag = "uploads",
    operation_id = "announce_pack",
    params(("id" = UploadId, Path)),
    responses((status = 201, body = PackPlace)),
)]
pub(super) async fn announce(
    State(plane): State<Plane>,
    call: Call,
    Path(id): Path<UploadId>,
    Json(body): Json<NewPack>,
) -> Answer<(StatusCode, Json<PackPlace>)> {
    let mut conn = plane.pool.acquire().await?;
    let upload = call.upload(&mut conn, id, Permission::Write).await?;
    if upload.commit.is_some() {
        return Err(is_over());
    }
    if !plane.storage.takes_packs() {
        return Err(Failure::invalid("this bucket takes no packs of clients").hint("send the file by `POST /v1/files`"));
    }
    let salt = Digest::from_bytes(plane.environment.random());
    let pack = IncomingPack::new(salt, &chunks_of(&body.chunks)?).map_err(Failure::invalid)?;
    let row = PackRow {
        pack: pack.id(),
        key: body
            .key
            .parse()
            .map_err(|e: storage::ParseDigestError| Failure::invalid(e.to_string()))?,
        path: FilePath::parse(&body.path)?.to_string(),
        from: body.from,
        chunks: pack.index(),
        state: PackState::Announced,
    };
    let now = plane.now();
    if !pack_queries::insert_pack(&mut conn, &KEEP, id, &row, (now, now - EXPIRES_IN)).await? {
        let why = "the upload is over, or too many of its packs are on their way";
        return Err(Failure::new(ProblemKind::Conflict, why)
            .hint("put those that were announced, or wait a quarter of an hour"));
    }
    drop(conn);
    let (url, key) = plane.storage.place(&id.to_string(), &pack, EXPIRES_IN).await?;
    let place = PackPlace {
        pack: pack.id().to_string(),
        salt: salt.to_string(),
        url,
        key: key.map(|key| key.to_hex()),
    };
    Ok((StatusCode::CREATED, Json(place)))
}

fn chunks_of(text: &str) -> Answer<Vec<(u32, Digest)>> {
    let bytes = hex::decode(text).map_err(|e| Failure::invalid(format!("`chunks` is not hexadecimal: {e}")))?;
    let (records, []) = bytes.as_chunks::<{ FileChunks::CHUNK_BYTES }>() else {
        let why = format!("`chunks` is no list of records of {} bytes", FileChunks::CHUNK_BYTES);
        return Err(Failure::invalid(why));
    };
    let chunks = records.iter().map(FileChunks::decode_chunk);
    Ok(chunks
        .map(|(length, digest)| (length, Digest::from_bytes(digest)))
        .collect())
}

/// Takes over a pack that was put into the bucket.
#[utoipa::path(
    put,
    path = "/v1/uploads/{id}/packs/{pack}",
    tag = "uploads",
    operation_id = "take_pack",
    responses((status = 200, body = UploadPart)),
)]
pub(super) async fn take(
    State(plane): State<Plane>,
    call: Call,
    Path((id, pack)): Path<(UploadId, String)>,
) -> Answer<Json<UploadPart>> {
    let pack: Digest = pack.parse().map_err(|_| no_such_pack())?;
    let row = {
        let mut conn = plane.pool.acquire().await?;
        let upload = call.upload(&mut conn, id, Permission::Write).await?;
        if upload.commit.is_some() {
            return Err(is_over());
        }
        pack_queries::find_pack(&mut conn, &KEEP, id, pack).await?
    };
    let row = row.ok_or_else(no_such_pack)?;
    let incoming = IncomingPack::from_index(&row.chunks)?;
    let part = UploadPart {
        key: row.key.to_string(),
        whole: false,
        from: row.from,
        to: row.from.saturating_add(incoming.bytes()),
    };
    match row.state {
        PackState::Kept => return Ok(Json(part)),
        PackState::Taking => return Err(is_taken()),
        PackState::Announced => {}
    }
    // Goes on when the caller hangs up: what was begun is not begun again.
    let taking = Taking {
        plane,
        id,
        row,
        incoming,
    };
    tokio::spawn(taking.run()).await.map_err(Failure::internal)??;
    Ok(Json(part))
}

fn no_such_pack() -> Failure {
    Failure::new(ProblemKind::NotFound, "no such pack was announced for this upload").hint("announce it")
}

fn is_taken() -> Failure {
    Failure::new(
        ProblemKind::Overloaded,
        "the pack is being taken over, or that broke off",
    )
    .hint("ask again in a moment; announce the pack anew where the upload does not hold it after a minute")
}

/// A pack on its way from where it was put into the upload.
struct Taking {
    plane: Plane,
    id: UploadId,
    row: PackRow,
    incoming: IncomingPack,
}

impl Taking {
    async fn run(self) -> Answer<()> {
        self.is_there().await?;
        let turn = tokio::time::timeout(TURN_WAIT, self.plane.packs_taken.acquire()).await;
        let busy = |_| Failure::new(ProblemKind::Overloaded, "too many packs are being taken over").hint("try again");
        let _turn = turn.map_err(busy)?.map_err(Failure::internal)?;
        {
            let mut conn = self.plane.pool.acquire().await?;
            if !pack_queries::claim_pack(&mut conn, &KEEP, self.row.pack).await? {
                return Err(is_taken());
            }
        }
        let taken = self.read().await;
        self.remove_incoming().await;
        if taken.is_err() {
            self.forget().await;
        }
        taken
    }

    async fn remove_incoming(&self) {
        let (upload, pack) = (self.id.to_string(), Some(self.row.pack));
        if let Err(error) = self.plane.storage.remove_incoming(&upload, pack).await {
            tracing::warn!("what was put for an upload is left to the collection of garbage: {error}");
        }
    }

    /// Whatever is wrong here may be put right: nothing has happened yet.
    async fn is_there(&self) -> Answer<()> {
        let size = self
            .plane
            .storage
            .incoming_size(&self.id.to_string(), self.row.pack)
            .await?;
        match size {
            None => {
                Err(Failure::new(ProblemKind::Conflict, "the pack has not been put").hint("put it, then ask again"))
            }
            Some(size) if size != self.incoming.length() => {
                self.remove_incoming().await;
                let announced = self.incoming.length();
                let why = format!("the pack has {size} bytes, and {announced} were announced");
                Err(Failure::invalid(why).hint("put it once more"))
            }
            Some(_) => Ok(()),
        }
    }

    async fn read(&self) -> Answer<()> {
        let known = self.plane.digests.at(self.id, self.row.key, self.row.from);
        let is_known = known.is_some();
        let whole = known.unwrap_or_default();
        let taken = self
            .plane
            .storage
            .take_over(&self.id.to_string(), &self.incoming, whole)
            .await;
        let (entry, whole) = match taken {
            Ok(Taken::Piece(entry, whole)) => (entry, whole),
            Ok(Taken::Wrong(why)) => {
                return Err(Failure::invalid(format!("the pack is not what was announced: {why}"))
                    .hint("announce it anew, or send the file by `POST /v1/files`"));
            }
            Err(error) => {
                self.remove().await;
                return Err(error.into());
            }
        };
        match self.keep(entry).await? {
            Insertion::Kept if is_known => {
                let to = self.row.from + self.incoming.bytes();
                self.plane.digests.note(self.id, self.row.key, to, whole);
                Ok(())
            }
            Insertion::Kept => Ok(()),
            Insertion::Already => {
                self.remove().await;
                let why = "another piece that begins there is kept already";
                Err(Failure::new(ProblemKind::Conflict, why).hint("ask what the upload holds and send the rest"))
            }
            Insertion::Over => {
                self.remove().await;
                Err(is_over())
            }
        }
    }

    async fn keep(&self, entry: FileEntry) -> Answer<Insertion> {
        let range = self.row.from..self.row.from + entry.size;
        let changes = change::encode(&[FileChange::Put(FilePath::parse(&self.row.path)?, entry)])?;
        let part = NewPart {
            key: self.row.key,
            whole: false,
            range,
            changes: &changes,
            packs: &[self.row.pack],
        };
        let mut tx = self.plane.begin().await?;
        let inserted = queries::insert_part(&mut tx, &KEEP, self.id, &part, self.plane.now()).await?;
        if inserted == Insertion::Kept {
            pack_queries::keep_pack(&mut tx, &KEEP, self.row.pack).await?;
            tx.commit().await?;
        }
        Ok(inserted)
    }

    /// Its name is used up: a copy that was given up may still arrive, so the same bytes may come by another name only. Who asks
    /// for it again is told that there is none.
    async fn forget(&self) {
        let forgotten = async {
            let mut conn = self.plane.pool.acquire().await?;
            pack_queries::forget_pack(&mut conn, &KEEP, self.row.pack).await
        };
        if let Err(error) = forgotten.await {
            tracing::warn!("a pack that was not taken over is told as being taken over: {error}");
        }
    }

    /// Nothing refers to it, nor can anything come to.
    async fn remove(&self) {
        if let Err(error) = self.plane.storage.remove_pack(self.row.pack).await {
            tracing::warn!("a pack of an upload is left to the collection of garbage: {error}");
        }
    }
}
