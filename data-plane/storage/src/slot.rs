//! The life of one pack in the process that writes it: open (bytes are appended), sealed (it has a
//! name, its bytes are on their way to the store), durable, or failed. References made before the
//! pack has a name hold the slot, so they can be read and, once durable, be stored.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::buffer::{Buffer, Frozen, Pool};
use crate::digest::Digest;
use crate::error::{Result, StorageError};
use crate::pack::{HEADER, Piece, PieceKind, encode_end};
use crate::store::{DataKey, PackKey};

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// One pack being written.
pub(crate) struct PackSlot {
    serial: u64,
    /// Which write session fills it.
    session: usize,
    state: Mutex<State>,
    outcome: watch::Sender<Option<Result<()>>>,
}

enum State {
    Open {
        bytes: Buffer,
        pieces: Vec<Piece>,
    },
    /// The bytes are as they will lie in the store: encrypted, if there is a key.
    Sealed {
        id: Digest,
        bytes: Frozen,
        key: Option<PackKey>,
    },
    Durable {
        id: Digest,
    },
    Failed(StorageError),
}

/// Where a slot's bytes are to be found.
pub(crate) enum SlotBytes {
    Memory(Bytes),
    Stored(Digest),
}

impl PackSlot {
    pub(crate) fn new(session: usize, pool: &Arc<Pool>, salt: Option<Digest>) -> Self {
        let mut bytes = Buffer::new(pool);
        bytes.extend(HEADER);
        let salt = salt.map(|digest| Piece {
            kind: PieceKind::Salt,
            length: 0,
            digest,
        });
        Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            session,
            state: Mutex::new(State::Open {
                bytes,
                pieces: salt.into_iter().collect(),
            }),
            outcome: watch::Sender::new(None),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is replaced in one assignment, so a poisoned lock holds a sound value.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key that no stored pack has, for caches.
    pub(crate) fn cache_key(&self) -> Digest {
        let mut bytes = [0xff; 32];
        bytes[..8].copy_from_slice(&self.serial.to_le_bytes());
        Digest::from_bytes(bytes)
    }

    /// The name, once sealed.
    pub(crate) fn id(&self) -> Option<Digest> {
        match *self.state() {
            State::Sealed { id, .. } | State::Durable { id } => Some(id),
            State::Open { .. } | State::Failed(_) => None,
        }
    }

    /// The name for a reference out of the pack `other`: packs of one session become durable in the order in which they
    /// were sealed, so a sealed one will do; those of other sessions must be durable.
    pub(crate) fn id_for(&self, other: &PackSlot) -> Result<Digest> {
        match &*self.state() {
            State::Durable { id } => Ok(*id),
            State::Sealed { id, .. } if self.session == other.session => Ok(*id),
            State::Failed(error) => Err(error.clone()),
            State::Open { .. } | State::Sealed { .. } => Err(StorageError::NotFlushed),
        }
    }

    /// Why writing the pack failed, if it did.
    pub(crate) fn failure(&self) -> Option<StorageError> {
        match &*self.state() {
            State::Failed(error) => Some(error.clone()),
            _ => None,
        }
    }

    /// True once the pack survives loss of power.
    pub(crate) fn is_durable(&self) -> bool {
        matches!(*self.state(), State::Durable { .. })
    }

    /// The name, once durable; the reason why there is none otherwise.
    pub(crate) fn durable_id(&self) -> Result<Digest> {
        match &*self.state() {
            State::Durable { id } => Ok(*id),
            State::Failed(error) => Err(error.clone()),
            State::Open { .. } | State::Sealed { .. } => Err(StorageError::NotFlushed),
        }
    }

    /// Appends a piece to an open pack and returns where it begins.
    pub(crate) fn append(&self, kind: PieceKind, digest: Digest, piece: &[u8]) -> Result<u32> {
        match &mut *self.state() {
            State::Open { bytes, pieces } => {
                let offset = u32::try_from(bytes.len()).map_err(|_| StorageError::NotFlushed)?;
                let length = u32::try_from(piece.len()).map_err(|_| StorageError::NotFlushed)?;
                bytes.extend(piece);
                pieces.push(Piece { kind, length, digest });
                Ok(offset)
            }
            State::Failed(error) => Err(error.clone()),
            State::Sealed { .. } | State::Durable { .. } => Err(StorageError::NotFlushed),
        }
    }

    /// Bytes held so far, those of the index among them: of pieces of three bytes it is most of a pack.
    pub(crate) fn len(&self) -> usize {
        match &*self.state() {
            State::Open { bytes, pieces } => bytes.len() + pieces.len() * size_of::<Piece>(),
            State::Sealed { bytes, .. } => bytes.len(),
            State::Durable { .. } | State::Failed(_) => 0,
        }
    }

    /// Gives an open pack its end and its name, and encrypts it where it is, in memory that is used again: at the speed of
    /// the cipher. `None` if it is not open.
    pub(crate) fn seal(&self, key: Option<&DataKey>) -> Option<(Digest, Frozen)> {
        let mut state = self.state();
        let State::Open { bytes, pieces } = &mut *state else {
            return None;
        };
        let (end, id) = encode_end(pieces);
        bytes.extend(&end);
        let mut bytes = bytes.take();
        let key = key.map(|key| key.of(id));
        if let Some(key) = &key {
            bytes.encrypt(key);
        }
        let bytes = bytes.freeze();
        *state = State::Sealed {
            id,
            bytes: bytes.clone(),
            key,
        };
        Some((id, bytes))
    }

    /// Records how writing the pack ended and wakes whoever waits for it.
    pub(crate) fn settle(&self, outcome: Result<()>) {
        {
            let mut state = self.state();
            match (&*state, &outcome) {
                (State::Sealed { id, .. }, Ok(())) => *state = State::Durable { id: *id },
                (State::Durable { .. }, _) => return,
                (_, Err(error)) => *state = State::Failed(error.clone()),
                (State::Open { .. } | State::Failed(_), Ok(())) => return,
            }
        }
        self.outcome.send_replace(Some(outcome));
    }

    /// Waits until the pack is durable or has failed.
    pub(crate) async fn settled(&self) -> Result<()> {
        let mut outcome = self.outcome.subscribe();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(StorageError::Cancelled)),
            Err(_) => Err(StorageError::Cancelled),
        }
    }

    /// Bytes from memory while the pack is open or on its way, its name afterwards.
    pub(crate) fn read(&self, offset: u32, length: u32) -> Result<SlotBytes> {
        let (from, length) = (offset as usize, length as usize);
        let outside = || StorageError::Undecodable {
            what: "reference",
            why: "it points behind its pack".to_owned(),
        };
        match &*self.state() {
            State::Open { bytes, .. } => bytes.copy(from, length).map(SlotBytes::Memory).ok_or_else(outside),
            State::Sealed { bytes, key, .. } => {
                let bytes = bytes.copy(from, length).ok_or_else(outside)?;
                Ok(SlotBytes::Memory(match key {
                    Some(key) => key.decrypt(u64::from(offset), bytes),
                    None => bytes,
                }))
            }
            State::Durable { id } => Ok(SlotBytes::Stored(*id)),
            State::Failed(error) => Err(error.clone()),
        }
    }
}
