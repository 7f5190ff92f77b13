//! Extent lists of large files: a tree of blocks in packs, so that neither an entry nor memory nor
//! a seek grows with the size of a file. Built from left to right while the file streams by.

use crate::codec::{DecodeError, Input, put_digest, put_number};
use crate::digest::Digest;
use crate::entry::{BlockRef, Content, Extent, INLINE_EXTENTS_MAX};
use crate::error::Result;
use crate::location::PackRef;
use crate::pack::PieceKind;
use crate::refs::{PackNames, PackTable};
use crate::session::Session;
use crate::slot::PackSlot;

const BLOCK_VERSION: u8 = 1;
/// Items of a full block: about 42 KiB.
const BLOCK_ITEMS: usize = 1024;
/// A block of extents ends where the digest of a chunk says, so that blocks behind an insertion are found again: one
/// chunk in so many, once there are a few.
const BLOCK_EXTENTS_MIN: usize = 128;
const ENDS_OFTEN: u64 = 256;
/// 1024^8 chunks are more than a file of 2^64 bytes has.
const HEIGHT_MAX: u8 = 8;

/// A decoded block.
#[derive(Debug)]
pub(crate) enum Block {
    Extents(Vec<Extent>),
    Blocks(Vec<Part>),
}

/// A block below a block.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Bytes of the file that it covers.
    pub(crate) bytes: u64,
    pub(crate) block: BlockRef,
}

impl Block {
    /// How many bytes of the file the block covers.
    pub(crate) fn covered(&self) -> u64 {
        match self {
            Self::Extents(extents) => extents.iter().map(|extent| extent.location.length()).sum(),
            Self::Blocks(parts) => parts.iter().fold(0, |sum: u64, part| sum.saturating_add(part.bytes)),
        }
    }

    /// Memory that it takes, about.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Extents(extents) => extents.len() * size_of::<Extent>(),
            Self::Blocks(parts) => parts.len() * size_of::<Part>(),
        }
    }

    pub(crate) fn encode(&self, height: u8, own: &PackSlot) -> Result<Vec<u8>> {
        let mut table = PackTable::inside(own);
        let mut items = Vec::with_capacity(BLOCK_ITEMS * 44);
        let count = match self {
            Self::Extents(extents) => {
                for extent in extents {
                    table.put(&mut items, &extent.location)?;
                    put_digest(&mut items, &extent.digest);
                }
                extents.len()
            }
            Self::Blocks(parts) => {
                for part in parts {
                    put_number(&mut items, part.bytes);
                    table.put(&mut items, &part.block.location)?;
                    put_digest(&mut items, &part.block.digest);
                }
                parts.len()
            }
        };
        let mut out = vec![BLOCK_VERSION, height];
        table.encode(&mut out);
        put_number(&mut out, count as u64);
        out.extend_from_slice(&items);
        Ok(out)
    }

    /// Reads a block whose bytes have been checked against their digest.
    pub(crate) fn decode(bytes: &[u8], height: u8, own: &PackRef) -> Result<Self, DecodeError> {
        let mut input = Input::new(bytes);
        if input.byte()? != BLOCK_VERSION {
            return Err(DecodeError::new("an extent block of an unknown version"));
        }
        if input.byte()? != height || height > HEIGHT_MAX {
            return Err(DecodeError::new("an extent block of a height that was not expected"));
        }
        let names = PackNames::decode(&mut input, Some(own))?;
        let count = input.length()?;
        if count == 0 {
            return Err(DecodeError::new("an extent block without items"));
        }
        let room = input.plausible(count, 35);
        // Blocks that cover nothing could hang below each other without end, with no byte to show for the work.
        let covers = |bytes: u64| match bytes {
            0 => Err(DecodeError::new("a part of a file has no bytes")),
            _ => Ok(bytes),
        };
        let block = if height == 0 {
            let mut extents = Vec::with_capacity(room);
            for _ in 0..count {
                let extent = Extent {
                    location: names.location(&mut input)?,
                    digest: input.digest()?,
                };
                covers(extent.location.length())?;
                extents.push(extent);
            }
            Self::Extents(extents)
        } else {
            let mut parts = Vec::with_capacity(room);
            let mut sum = 0u64;
            for _ in 0..count {
                let bytes = covers(input.number()?)?;
                sum = sum
                    .checked_add(bytes)
                    .ok_or_else(|| DecodeError::new("an extent block covers more than a file can have"))?;
                let location = names.location(&mut input)?;
                let block = BlockRef {
                    location,
                    digest: input.digest()?,
                    height: height - 1,
                };
                parts.push(Part { bytes, block });
            }
            Self::Blocks(parts)
        };
        input.finish()?;
        Ok(block)
    }
}

/// Builds the content of a file from its extents in order.
#[derive(Default)]
pub(crate) struct ExtentTree {
    extents: Vec<Extent>,
    /// Parts that wait for a block of height 1, 2, ...
    levels: Vec<Vec<Part>>,
}

impl ExtentTree {
    pub(crate) fn push(&mut self, session: &Session, extent: Extent) -> Result<()> {
        let ends = extent.digest.prefix().is_multiple_of(ENDS_OFTEN);
        self.extents.push(extent);
        let count = self.extents.len();
        if count == BLOCK_ITEMS || ends && count >= BLOCK_EXTENTS_MIN {
            let block = Block::Extents(std::mem::take(&mut self.extents));
            self.raise(session, 0, &block)?;
        }
        Ok(())
    }

    /// Writes a block of this height and notes it one level up.
    fn raise(&mut self, session: &Session, height: u8, block: &Block) -> Result<()> {
        let part = write(session, height, block)?;
        let level = usize::from(height);
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        self.levels[level].push(part);
        if self.levels[level].len() == BLOCK_ITEMS {
            let parts = std::mem::take(&mut self.levels[level]);
            self.raise(session, height + 1, &Block::Blocks(parts))?;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self, session: &Session) -> Result<Content> {
        if self.levels.is_empty() && self.extents.len() <= INLINE_EXTENTS_MAX {
            return Ok(Content::Extents(self.extents));
        }
        if !self.extents.is_empty() {
            let block = Block::Extents(std::mem::take(&mut self.extents));
            self.raise(session, 0, &block)?;
        }
        let mut height = 0u8;
        loop {
            let level = usize::from(height);
            let top = level + 1 == self.levels.len();
            if top && self.levels[level].len() == 1 {
                return Ok(Content::Blocks(self.levels[level].remove(0).block));
            }
            let parts = std::mem::take(&mut self.levels[level]);
            if !parts.is_empty() {
                self.raise(session, height + 1, &Block::Blocks(parts))?;
            }
            height += 1;
        }
    }
}

/// What a block of these extents holds, wherever it lies.
pub(crate) fn content(extents: &[Extent]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for extent in extents {
        hasher.update(extent.digest.as_bytes());
        hasher.update(&extent.location.length.to_le_bytes());
    }
    hasher.finalize().into()
}

fn write(session: &Session, height: u8, block: &Block) -> Result<Part> {
    let known = match block {
        Block::Extents(extents) => Some(content(extents)),
        Block::Blocks(_) => None,
    };
    let bytes = block.covered();
    if let Some(stored) = known.and_then(|content| session.known_block(&content)) {
        return Ok(Part { bytes, block: stored });
    }
    let (location, digest) = session.record(PieceKind::Extents, |own| {
        let bytes = block.encode(height, own)?;
        let digest = Digest::of(&bytes);
        Ok((bytes, digest))
    })?;
    let block = BlockRef {
        location,
        digest,
        height,
    };
    if let Some(content) = known {
        session.learn_block(content, block.clone());
    }
    Ok(Part { bytes, block })
}
