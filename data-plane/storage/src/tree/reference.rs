//! The stored form of a tree reference, for a database column.

use super::TreeRef;
use crate::codec::{DecodeError, Input, put_digest, put_number};
use crate::error::{Result, StorageError};
use crate::refs::{PackNames, PackTable};

const VERSION: u8 = 1;
const EMPTY: u8 = 0;
const ROOTED: u8 = 1;

impl TreeRef {
    /// A compact, versioned form for a database column. Fails with `NotFlushed` before the tree is durable.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let Some(root) = &self.root else {
            return Ok(vec![VERSION, EMPTY]);
        };
        let mut table = PackTable::outside();
        let mut place = Vec::new();
        table.put(&mut place, root)?;
        let mut out = vec![VERSION, ROOTED];
        table.encode(&mut out);
        out.extend_from_slice(&place);
        put_digest(&mut out, &self.digest);
        put_number(&mut out, self.files);
        put_number(&mut out, self.bytes);
        Ok(out)
    }

    /// Reads [`TreeRef::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        decode(bytes).map_err(|error| StorageError::Undecodable {
            what: "tree reference",
            why: error.0,
        })
    }
}

fn decode(bytes: &[u8]) -> Result<TreeRef, DecodeError> {
    let mut input = Input::new(bytes);
    match input.byte()? {
        VERSION => {}
        other => return Err(DecodeError(format!("version {other} is newer than this program"))),
    }
    let tree = match input.byte()? {
        EMPTY => TreeRef::empty(),
        ROOTED => {
            let names = PackNames::decode(&mut input, None)?;
            let root = Some(names.location(&mut input)?);
            TreeRef {
                root,
                digest: input.digest()?,
                files: input.number()?,
                bytes: input.number()?,
            }
        }
        other => return Err(DecodeError(format!("a tree of the unknown kind {other}"))),
    };
    input.finish()?;
    Ok(tree)
}
