//! How stored records refer to packs: a table of pack names at the front, small numbers in the
//! items. Number 0 is the pack that holds the record itself, whose name does not exist while the
//! record is written.

use crate::codec::{DecodeError, Input, put_digest, put_number};
use crate::digest::Digest;
use crate::error::Result;
use crate::location::{Location, PackRef};
use crate::slot::PackSlot;

/// No piece of a pack is larger: what claims to be is damaged, and must not make us allocate.
pub(crate) const PIECE_BYTES_MAX: u32 = 1 << 20;

/// Collects the packs that a record refers to.
pub(crate) struct PackTable<'a> {
    own: Option<&'a PackSlot>,
    ids: Vec<Digest>,
}

impl<'a> PackTable<'a> {
    /// For a record that will be appended to this open pack.
    pub(crate) fn inside(own: &'a PackSlot) -> Self {
        Self {
            own: Some(own),
            ids: Vec::new(),
        }
    }

    /// For a record that is stored outside of packs and may refer to durable packs only.
    pub(crate) fn outside() -> Self {
        Self {
            own: None,
            ids: Vec::new(),
        }
    }

    /// True for records outside of packs.
    pub(crate) fn is_outside(&self) -> bool {
        self.own.is_none()
    }

    /// Appends a reference to `out`.
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, location: &Location) -> Result<()> {
        let number = match (&location.pack, self.own) {
            (PackRef::Written(slot), Some(own)) if std::ptr::eq(&raw const **slot, own) => 0,
            (PackRef::Written(slot), Some(own)) => self.number(slot.id_for(own)?),
            (PackRef::Written(slot), None) => self.number(slot.durable_id()?),
            (PackRef::Stored(id), _) => self.number(*id),
        };
        put_number(out, number);
        put_number(out, u64::from(location.offset));
        put_number(out, u64::from(location.length));
        Ok(())
    }

    fn number(&mut self, id: Digest) -> u64 {
        let found = self.ids.iter().rposition(|known| *known == id);
        let at = found.unwrap_or_else(|| {
            self.ids.push(id);
            self.ids.len() - 1
        });
        at as u64 + 1
    }

    /// Appends the table itself.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, self.ids.len() as u64);
        for id in &self.ids {
            put_digest(out, id);
        }
    }
}

/// The packs that a stored record refers to.
pub(crate) struct PackNames<'a> {
    own: Option<&'a PackRef>,
    ids: Vec<Digest>,
}

impl<'a> PackNames<'a> {
    pub(crate) fn decode(input: &mut Input<'_>, own: Option<&'a PackRef>) -> Result<Self, DecodeError> {
        let count = input.length()?;
        let mut ids = Vec::with_capacity(input.plausible(count, 32));
        for _ in 0..count {
            ids.push(input.digest()?);
        }
        Ok(Self { own, ids })
    }

    /// True for records outside of packs.
    pub(crate) fn is_outside(&self) -> bool {
        self.own.is_none()
    }

    pub(crate) fn location(&self, input: &mut Input<'_>) -> Result<Location, DecodeError> {
        let pack = match (input.length()?, self.own) {
            (0, Some(own)) => own.clone(),
            (0, None) => return Err(DecodeError::new("a reference to `this pack` stands outside of packs")),
            (number, _) => match self.ids.get(number - 1) {
                Some(id) => PackRef::Stored(*id),
                None => return Err(DecodeError(format!("pack number {number} is not in the table"))),
            },
        };
        let location = Location {
            pack,
            offset: input.number_u32()?,
            length: input.number_u32()?,
        };
        if location.length > PIECE_BYTES_MAX {
            return Err(DecodeError(format!(
                "a piece of {} bytes is larger than any can be",
                location.length
            )));
        }
        Ok(location)
    }
}
