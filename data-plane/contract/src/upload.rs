//! What an archive that is put may say beside names and contents, in extension records (pax) of its headers; and deltas: a
//! file told by what it has in common with the file that stands at its path.

/// Record of a file whose content is a delta against the file at this path in the request's base commit: the file's size.
pub const DELTA: &str = "HOWDAH.delta";

/// Record of a large file in an upload that can be taken up again: the client's name for this file as it is now, 64 hex
/// digits. The service keeps pieces of it as they arrive.
pub const KEY: &str = "HOWDAH.key";

/// Record of a file of which this many bytes have arrived before: only what follows is in the archive.
pub const OFFSET: &str = "HOWDAH.offset";

/// Record of a global header in an upload that can be taken up again: everything since the last such mark is a part that is
/// to be kept under this key.
pub const END: &str = "HOWDAH.end";

/// Record of a global header: here belongs the part that is kept under this key.
pub const HELD: &str = "HOWDAH.held";

/// Record of a file that is handed over on this machine: a [`Ticket`] in hex, a space, and how many bytes of the file belong
/// here, from [`OFFSET`] on. They do not follow in the archive.
pub const HANDED: &str = "HOWDAH.handed";

/// By what a file that is handed over and its place in an archive find each other: random, made by the client for one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket([u8; Self::BYTES]);

impl Ticket {
    /// How many bytes it has.
    pub const BYTES: usize = 32;

    /// A ticket of these bytes.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

/// A delta may copy so many times the size of its base at most: whoever has little to send cannot make much to be read.
pub const DELTA_COPIES_MAX: u64 = 2;

/// One step of a delta: bytes that follow, or bytes of the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many bytes follow.
    Literal {
        /// How many.
        length: u64,
    },
    /// Bytes of the base.
    Copy {
        /// Where they begin there.
        offset: u64,
        /// How many.
        length: u64,
    },
}

impl Step {
    /// Bytes of an encoded step, those that follow a literal not counted.
    pub const BYTES: usize = 17;

    /// How many bytes of the file the step makes.
    pub const fn length(self) -> u64 {
        match self {
            Self::Literal { length } | Self::Copy { length, .. } => length,
        }
    }

    /// The step as it stands in an archive.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let (tag, offset, length) = match self {
            Self::Literal { length } => (0, 0, length),
            Self::Copy { offset, length } => (1, offset, length),
        };
        let mut bytes = [tag; Self::BYTES];
        bytes[1..9].copy_from_slice(&offset.to_le_bytes());
        bytes[9..].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    /// Reads [`Step::encode`]; `None` when it is something else, a step of no bytes among it.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let (offset, length) = (number(1), number(9));
        match (bytes[0], offset, length) {
            (_, _, 0) => None,
            (0, 0, length) => Some(Self::Literal { length }),
            (1, offset, length) => Some(Self::Copy { offset, length }),
            _ => None,
        }
    }
}

/// An extension record as it stands in the body of an extension header: its own length in front.
pub fn record(key: &str, value: impl std::fmt::Display) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length != length.to_string().len() + rest.len() {
        length = length.to_string().len() + rest.len();
    }
    format!("{length}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_survive_the_round_trip_and_nonsense_is_none() {
        for step in [
            Step::Literal { length: 5 },
            Step::Copy {
                offset: u64::MAX,
                length: 1 << 40,
            },
        ] {
            assert_eq!(Step::decode(&step.encode()), Some(step));
        }
        assert_eq!(Step::decode(&Step::Literal { length: 0 }.encode()), None);
        assert_eq!(Step::decode(&[2; Step::BYTES]), None);
    }

    #[test]
    fn a_record_counts_its_own_length_too() {
        assert_eq!(record("k", "v"), "6 k=v\n");
        for length in [90, 93, 94, 95, 96, 97, 990, 995] {
            let record = record("key", "v".repeat(length));
            let told = record.split(' ').next().and_then(|n| n.parse::<usize>().ok());
            assert_eq!(told, Some(record.len()));
        }
    }
}
