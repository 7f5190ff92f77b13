//! Where a piece lies: a pack, an offset, a length. The pack is either a stored one, known by name,
//! or one that a write session of this process still holds.

use std::fmt;
use std::sync::Arc;

use crate::digest::Digest;
use crate::error::Result;
use crate::slot::PackSlot;

/// A pack, by name or, while it is being written, by the session that writes it.
#[derive(Clone)]
pub(crate) enum PackRef {
    Stored(Digest),
    Written(Arc<PackSlot>),
}

/// Bytes in a pack.
#[derive(Clone)]
pub struct Location {
    pub(crate) pack: PackRef,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

impl Location {
    /// The pack's name, once it is sealed.
    pub fn pack(&self) -> Option<Digest> {
        match &self.pack {
            PackRef::Stored(id) => Some(*id),
            PackRef::Written(slot) => slot.id(),
        }
    }

    /// The pack's name, once it is durable.
    pub(crate) fn durable_pack(&self) -> Result<Digest> {
        match &self.pack {
            PackRef::Stored(id) => Ok(*id),
            PackRef::Written(slot) => slot.durable_id(),
        }
    }

    /// Where the bytes begin in the pack.
    pub fn offset(&self) -> u64 {
        u64::from(self.offset)
    }

    /// How many bytes.
    pub fn length(&self) -> u64 {
        u64::from(self.length)
    }

    /// Whether both are the same bytes of the same pack.
    pub(crate) fn is_at(&self, other: &Location) -> bool {
        let same_pack = match (&self.pack, &other.pack) {
            (PackRef::Written(a), PackRef::Written(b)) => Arc::ptr_eq(a, b),
            _ => self.pack().is_some_and(|id| other.pack() == Some(id)),
        };
        same_pack && self.offset == other.offset && self.length == other.length
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset() + self.length()
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pack() {
            Some(id) => write!(f, "{id}@{}+{}", self.offset, self.length),
            None => write!(f, "open pack@{}+{}", self.offset, self.length),
        }
    }
}
