//! Large files straight into the bucket: cut, digested and packed here, put by requests that the service signs, and taken over by it
//! after it has read them. What arrives is kept piece by piece, as of any upload that can be taken up again.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use chunks::Cutter;
use contract::api::{FileChunks, NewPack, PackPlace, Upload, UploadPart};
use contract::ids::UploadId;
use contract::problem::ProblemKind;
use futures::StreamExt;
use indicatif::ProgressBar;
use packs::{Builder, PackKey};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::ReceiverStream;

use super::parts::{Held, Part};
use super::reading::Reading;
use super::sources::Source;
use super::{PAUSE, TRIES, is_passing};
use crate::client::{Client, Request};
use crate::failure::{Failure, Outcome};

/// Bytes of files in a pack, about.
const PACK_BYTES: usize = 24 << 20;
/// Packs in memory, the one that is being filled among them.
const PACKS_HELD: usize = 4;
/// Packs on their way at once.
const PACKS_SENT: usize = 3;
const READ_BYTES: usize = 2 << 20;

/// Why a file did not arrive.
pub(super) enum Stop {
    /// It does not go by the bucket; the service takes the bytes.
    Bucket(String),
    /// The service said no, or did not answer.
    Service(Failure),
    /// The file itself cannot be read.
    Source(Failure),
}

/// Sends files of one upload.
pub(super) struct Direct<'c> {
    pub(super) client: &'c Client,
    pub(super) upload: UploadId,
    pub(super) bar: &'c ProgressBar,
}

/// A pack on its way, and where in the file it begins.
struct Filled {
    from: u64,
    pack: Builder,
    _room: OwnedSemaphorePermit,
}

impl Direct<'_> {
    /// Sends what is missing of a large file; notes in the part what has arrived, and answers how much that is.
    pub(super) async fn send(&self, sources: &Arc<Vec<Source>>, part: &mut Part) -> (u64, Result<(), Stop>) {
        let Held::First(from) = part.held else {
            return (0, Ok(()));
        };
        self.bar.inc(from);
        let (to, filled) = mpsc::channel(1);
        let (sources, at, room) = (Arc::clone(sources), part.sources.start, Semaphore::new(PACKS_HELD));
        let path = sources[at].path.clone();
        let runtime = Handle::current();
        let reading = tokio::task::spawn_blocking(move || {
            let mut packing = Packing {
                to: &to,
                room: Arc::new(room),
                runtime,
                open: None,
                at: from,
            };
            packing.file(&sources[at])
        });
        let (put, waiting) = mpsc::channel(PACKS_SENT);
        let file = File {
            direct: self,
            key: hex::encode(part.key),
            path,
        };
        let (put, (arrived, taken)) = tokio::join!(file.put_all(filled, put), file.take_all(waiting, from));
        part.held = Held::First(arrived);
        let failed = |e| Err(Failure::new("the sources could not be read", e, "repeat the command"));
        let read = reading.await.unwrap_or_else(failed);
        let ended = match (put, taken, read) {
            (Err(stop), ..) | (Ok(()), Err(stop), _) => Err(stop),
            (Ok(()), Ok(()), Err(failure)) => Err(Stop::Source(failure)),
            (Ok(()), Ok(()), Ok(())) => Ok(()),
        };
        (arrived - from, ended)
    }
}

struct File<'d> {
    direct: &'d Direct<'d>,
    key: String,
    path: String,
}

impl File<'_> {
    async fn put_all(&self, filled: Receiver<Filled>, put: Sender<String>) -> Result<(), Stop> {
        let filled = ReceiverStream::new(filled);
        let mut packs = std::pin::pin!(filled.map(|filled| self.put(filled)).buffered(PACKS_SENT));
        while let Some(pack) = packs.next().await {
            if put.send(pack?).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Puts a pack into the bucket; answers its name.
    async fn put(&self, filled: Filled) -> Result<String, Stop> {
        let Direct { client, upload, bar } = self.direct;
        let new = NewPack {
            key: self.key.clone(),
            path: self.path.clone(),
            from: filled.from,
            chunks: encoded(&filled.pack),
        };
        let request = Request::post(format!("/v1/uploads/{upload}/packs")).body(&new);
        let place: PackPlace = client
            .plane(request.map_err(Stop::Service)?)
            .await
            .map_err(of_service)?;
        let sealing = move || seal(filled.pack, &place).map(|bytes| (bytes, place));
        let (bytes, place) = tokio::task::spawn_blocking(sealing)
            .await
            .ok()
            .flatten()
            .ok_or_else(|| Stop::Bucket("the service's answer was not understood".to_owned()))?;
        client
            .put_to_bucket(&place.url, &bytes, bar)
            .await
            .map_err(Stop::Bucket)?;
        Ok(place.pack)
    }

    /// Has packs taken over in their order, so that the service need not read them a second time; answers how much of the file
    /// has arrived.
    async fn take_all(&self, mut put: Receiver<String>, from: u64) -> (u64, Result<(), Stop>) {
        let mut arrived = from;
        while let Some(pack) = put.recv().await {
            match self.take(&pack, arrived).await {
                Ok(to) => arrived = to,
                Err(stop) => return (arrived, Err(stop)),
            }
        }
        (arrived, Ok(()))
    }

    /// Has the pack taken over that begins there in the file; answers where it ends. A pack is taken over once at most, so asking
    /// again does no harm: while that is under way, by a request whose answer was lost, the service asks to wait.
    async fn take(&self, pack: &str, from: u64) -> Result<u64, Stop> {
        let request = Request::put(format!("/v1/uploads/{}/packs/{pack}", self.direct.upload));
        let mut tries = 0;
        loop {
            match self.direct.client.plane::<UploadPart>(request.clone()).await {
                Ok(part) => return Ok(part.to),
                Err(failure) if is_passing(&failure) && tries < TRIES => {
                    tokio::time::sleep(PAUSE * 2_u32.pow(tries)).await;
                    tries += 1;
                }
                // It failed, and the answer that said so was lost: what is missing is sent once more, by other names.
                Err(failure) if failure.is(ProblemKind::NotFound) => {
                    let what = "the service did not take over what was put into the bucket";
                    return Err(Stop::Service(Failure::new(what, failure.why, "repeat the command")));
                }
                Err(failure) if failure.is(ProblemKind::Conflict) => {
                    return self.there(from).await.ok_or_else(|| of_service(failure));
                }
                Err(failure) => return Err(of_service(failure)),
            }
        }
    }

    /// Where the piece of the file ends that begins there, if the service holds it.
    async fn there(&self, from: u64) -> Option<u64> {
        let request = Request::get(format!("/v1/uploads/{}", self.direct.upload));
        let upload: Upload = self.direct.client.plane(request).await.ok()?;
        let mut parts = upload.parts.iter();
        let piece = parts.find(|part| part.key == self.key && !part.whole && part.from == from);
        piece.map(|piece| piece.to)
    }
}

/// What the service cannot make a file of it may make one of by the other way.
fn of_service(failure: Failure) -> Stop {
    match failure.is(ProblemKind::Conflict) || failure.is(ProblemKind::Invalid) {
        true => Stop::Bucket(failure.why),
        false => Stop::Service(failure),
    }
}

fn encoded(pack: &Builder) -> String {
    let chunks = pack.chunks().iter();
    let records = chunks.map(|(length, digest)| FileChunks::encode_chunk(*length, digest.as_bytes()));
    hex::encode(records.collect::<Vec<_>>().as_flattened())
}

/// The bytes of the pack; `None`: what the service says of it makes no sense.
fn seal(pack: Builder, place: &PackPlace) -> Option<Bytes> {
    let key = match &place.key {
        Some(key) => Some(PackKey::from_hex(key)?),
        None => None,
    };
    let sealed = pack.seal(place.salt.parse().ok()?, key.as_ref());
    (sealed.id.to_string() == place.pack).then(|| sealed.bytes.into())
}

/// Makes packs of a file, on a thread that may wait.
struct Packing<'t> {
    to: &'t Sender<Filled>,
    room: Arc<Semaphore>,
    runtime: Handle,
    open: Option<Filled>,
    at: u64,
}

impl Packing<'_> {
    /// Hands on everything behind `at`, unless the file is another one by now. When nobody wants it any more, that is no failure.
    fn file(&mut self, source: &Source) -> Outcome {
        let mut reading = Reading::open(source)?;
        reading.unchanged_since(&source.identity)?;
        reading.seek(self.at)?;
        let mut cutter = Cutter::default();
        let mut buffer = vec![0; READ_BYTES];
        let mut left = source.size() - self.at;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
            let read = match reading.file.read(&mut buffer[..most]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) => return Err(reading.failed(io::ErrorKind::UnexpectedEof.into())),
                read => read.map_err(|e| reading.failed(e))?,
            };
            left -= read as u64;
            if cutter.push(&buffer[..read], |chunk| self.chunk(chunk)).is_err() {
                return Ok(());
            }
        }
        // The last piece is what makes the file whole: until it is handed on nothing can come of the others.
        reading.unchanged_since(&source.identity)?;
        let _ = cutter.finish(|chunk| self.chunk(chunk)).and_then(|()| self.hand_on());
        Ok(())
    }

    fn chunk(&mut self, chunk: &[u8]) -> Result<(), ()> {
        let is_full = |open: &Filled| open.pack.content_bytes() + chunk.len() > PACK_BYTES;
        if self.open.as_ref().is_some_and(is_full) {
            self.hand_on()?;
        }
        if self.open.is_none() {
            let room = self.runtime.block_on(Arc::clone(&self.room).acquire_owned());
            self.open = Some(Filled {
                from: self.at,
                // With its end: the index is some 40 bytes of each chunk.
                pack: Builder::with_room(PACK_BYTES + (64 << 10)),
                _room: room.map_err(drop)?,
            });
        }
        if let Some(open) = &mut self.open {
            open.pack.push(chunk);
        }
        self.at += chunk.len() as u64;
        Ok(())
    }

    fn hand_on(&mut self) -> Result<(), ()> {
        match self.open.take() {
            Some(full) => self.to.blocking_send(full).map_err(drop),
            None => Ok(()),
        }
    }
}
