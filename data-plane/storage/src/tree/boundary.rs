//! Where nodes end: decided by a hash of the path of the last item and by the weight of the node so
//! far, so that the same items are cut the same way whatever the history, and a change of a file's
//! content moves no boundary at all.

use crate::digest::Digest;

const WEIGHT_MIN: usize = 1 << 10;
/// Nodes are about this large, in bytes.
const WEIGHT_TARGET: usize = 4 << 10;
const WEIGHT_MAX: usize = 16 << 10;
/// One path in so many ends a node that is still small, or that is large enough.
const RARE: u64 = 128;
const OFTEN: u64 = 16;

/// Decides, item by item, where nodes of one level end.
#[derive(Debug, Clone)]
pub(crate) struct Boundary {
    level: u8,
    weight: usize,
    items: usize,
}

impl Boundary {
    pub(crate) fn new(level: u8) -> Self {
        Self {
            level,
            weight: 0,
            items: 0,
        }
    }

    /// Takes the next item; true: it is the last of its node, and the next one begins afresh.
    pub(crate) fn ends_with(&mut self, path: &str) -> bool {
        // About the stored size; half of a path is shared with its neighbour.
        self.weight += path.len() / 2 + if self.level == 0 { 50 } else { 90 };
        self.items += 1;
        let ends = self.ends(path);
        if ends {
            *self = Self::new(self.level);
        }
        ends
    }

    fn ends(&self, path: &str) -> bool {
        // Each level must be at most half as long as the one below, or trees of long paths would never end.
        if self.weight < WEIGHT_MIN || (self.level > 0 && self.items < 2) {
            return false;
        }
        if self.weight >= WEIGHT_MAX {
            return true;
        }
        let one_in = if self.weight < WEIGHT_TARGET { RARE } else { OFTEN };
        mixed(path, self.level).is_multiple_of(one_in)
    }
}

/// A number from a path, independent for each level: the last path of a node is one where the level below ends.
fn mixed(path: &str, level: u8) -> u64 {
    let mut value = Digest::of(path.as_bytes()).prefix() ^ u64::from(level).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
