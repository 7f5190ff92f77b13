//! What lets the workers of a pool in: a code that the plane makes of a key of its own and the pool's name, and can make again
//! at any time. So it is good over restarts of the plane, it is stored nowhere but with the pool's workers, and it opens that pool
//! and nothing else. It ends with the plane's key; of a pipeline that is deleted or has another version there is nothing to claim.

use super::protocol::Pool;

/// What the key is for. Another text is another key.
const PURPOSE: &str = "howdah data plane 2026 capabilities of worker pools";

/// What the word is for that the plane says at doors.
const DOORS: &str = "howdah data plane 2026 doors of services in pods";
/// Bytes of that word.
pub const WORD_BYTES: usize = 32;

/// What the plane says at the door of a pool's service, so that nobody else is let through. Who hears it, as code could that takes
/// the agent's place, learns nothing of the capability.
pub fn door_word(capability: &str) -> [u8; WORD_BYTES] {
    blake3::derive_key(DOORS, capability.as_bytes())
}

/// Makes capabilities and checks them. It has no `Debug`: it is a key.
#[derive(Clone)]
pub struct Capabilities {
    key: [u8; 32],
}

impl Capabilities {
    /// Those of a plane: made of its data key, which it has again after a restart. One without makes them of `otherwise`, and they
    /// are good as long as that is.
    pub fn new(data_key: Option<&str>, otherwise: &str) -> Self {
        Self {
            key: blake3::derive_key(PURPOSE, data_key.unwrap_or(otherwise).as_bytes()),
        }
    }

    /// The capability of a pool.
    pub fn of(&self, pool: Pool) -> String {
        self.code(pool).to_hex().to_string()
    }

    /// Whether a text is the capability of that pool; the time that it takes tells nothing.
    pub fn is_of(&self, text: &str, pool: Pool) -> bool {
        let given = blake3::Hash::from_hex(text);
        given.is_ok_and(|given| given == self.code(pool))
    }

    fn code(&self, pool: Pool) -> blake3::Hash {
        blake3::keyed_hash(&self.key, pool.to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_capability_opens_its_own_pool_at_its_own_plane_and_nothing_else() {
        let plane = Capabilities::new(Some("5a"), "hwd_agt_1");
        let pool = |pipeline, version| Pool {
            pipeline: Uuid::from_u128(pipeline),
            version,
        };
        let text = plane.of(pool(1, 2));
        assert!(plane.is_of(&text, pool(1, 2)));
        assert!(Capabilities::new(Some("5a"), "hwd_agt_2").is_of(&text, pool(1, 2)));
        for other in [pool(1, 1), pool(2, 2), pool(1, 12)] {
            assert!(!plane.is_of(&text, other));
        }
        assert!(!Capabilities::new(Some("5b"), "hwd_agt_1").is_of(&text, pool(1, 2)));
        assert!(!plane.is_of("", pool(1, 2)) && !plane.is_of(&text[1..], pool(1, 2)));
        assert_eq!(pool(7, 3).to_string().parse(), Ok(pool(7, 3)));
        assert!("7".parse::<Pool>().is_err() && "x/1".parse::<Pool>().is_err());
    }
}
