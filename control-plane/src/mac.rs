//! HMAC-SHA256 of several parts, each with its length, so that no two lists of parts have the same one.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The code of these parts under the key.
pub fn sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut whole = Vec::new();
    for part in parts {
        whole.extend_from_slice(&(part.len() as u64).to_be_bytes());
        whole.extend_from_slice(part);
    }
    plain(key, &whole)
}

fn plain(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC takes keys of every length; the library's type has the case.
    let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(key) else {
        unreachable!("HMAC refuses no key")
    };
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_one_part_ends_matters() {
        assert_ne!(sha256(b"k", &[b"ab", b"c"]), sha256(b"k", &[b"a", b"bc"]));
        assert_ne!(sha256(b"k", &[b"ab"]), sha256(b"l", &[b"ab"]));
    }
}
