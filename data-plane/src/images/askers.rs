//! Who had an image, from where, kept beside it. The digest of an image opens nothing: it is told, and a registry may have
//! the manifest of an image without its layers. So another asker is given what is unpacked here only after the registry that
//! he names has given him the layers, or has been seen to have them and shows them to him.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Credentials, ImageReference};

const FILE: &str = "askers";
/// When there are more, it is begun anew: whoever is not in it asks his registry again.
const BYTES_MAX: u64 = 64 << 10;

/// Who asks, for an image of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Asker {
    registry: String,
    whole: String,
}

impl Asker {
    /// Whoever signs in like that, or does not, for an image of that name.
    pub fn of(reference: &ImageReference, who: Option<&Credentials>) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("howdah asker for an image v1");
        hasher.update(reference.host().as_bytes());
        let registry = hasher.finalize().to_hex().to_string();
        // No name has it in it.
        hasher.update(b"\n");
        hasher.update(reference.repository().as_bytes());
        hasher.update(b"\n");
        if let Some(who) = who {
            hasher.update(&who.digest());
        }
        Self {
            registry,
            whole: hasher.finalize().to_hex().to_string(),
        }
    }

    /// Whether the image there was given to just this one.
    pub fn had(&self, place: &Path) -> bool {
        holds(place, &self.whole)
    }

    /// Whether all of the image there came from the same registry once.
    pub fn names_registry_of(&self, place: &Path) -> bool {
        holds(place, &self.registry)
    }

    /// Notes that the image there was given to this one.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn note(&self, place: &Path) -> io::Result<()> {
        let at = place.join(FILE);
        let full = fs::metadata(&at).is_ok_and(|found| found.len() > BYTES_MAX);
        let mut options = OpenOptions::new();
        let options = options.create(true).write(true).mode(0o600);
        let mut file = match full {
            true => options.truncate(true).open(at)?,
            false => options.append(true).open(at)?,
        };
        file.write_all(format!("{}\n{}\n", self.registry, self.whole).as_bytes())
    }
}

fn holds(place: &Path, line: &str) -> bool {
    fs::read_to_string(place.join(FILE)).is_ok_and(|text| text.lines().any(|found| found == line))
}
