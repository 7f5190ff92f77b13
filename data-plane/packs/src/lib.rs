//! How packs look: their format, their names, and how they are encrypted where they lie. Whoever writes packs builds them by this
//! crate alone: the storage of a plane, and clients that put theirs into the bucket themselves.

#![warn(missing_docs)]

mod builder;
mod cipher;
pub mod codec;
pub mod digest;
pub mod pack;

pub use builder::{Builder, Chunk, PACK_BYTES_MAX, Sealed, pieces_of};
pub use cipher::{DataKey, PackKey};
pub use digest::{Digest, ParseDigestError};
