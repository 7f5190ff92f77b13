//! Where a cluster and its socket live. Two things can be in the way of the wanted directory: when root runs PostgreSQL as
//! another user, a directory above that this user cannot enter; and for the socket, a path that is too long for one.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::account::Account;
use crate::error::PostgresError;

/// Socket names must fit into 108 bytes, `/.s.PGSQL.5432.lock` included.
const LONGEST_SOCKET_DIRECTORY: usize = 88;

/// The directory that is in use for what was asked to be at `wanted`: the same, or one that was remembered.
pub(crate) fn current(wanted: &Path) -> PathBuf {
    std::fs::read_to_string(pointer(wanted))
        .ok()
        .map(|text| PathBuf::from(text.trim()))
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| wanted.to_path_buf())
}

/// Makes the cluster's directory, reachable for the account and for nobody else.
pub(crate) fn prepare(wanted: &Path, account: &Account) -> Result<PathBuf, PostgresError> {
    let place = current(wanted);
    if place == wanted {
        make_private(wanted, account)?;
        if account.can_enter(wanted) {
            return Ok(place);
        }
        open_the_way(wanted)?;
        if account.can_enter(wanted) {
            return Ok(place);
        }
        let _ = std::fs::remove_dir(wanted);
        let elsewhere = Path::new("/var/lib/howdah").join(format!("postgres-{}", short_hash(wanted)));
        make_private(&elsewhere, account)?;
        open_the_way(&elsewhere)?;
        std::fs::write(pointer(wanted), elsewhere.as_os_str().as_encoded_bytes())
            .map_err(PostgresError::directory("writing", pointer(wanted)))?;
        return Ok(elsewhere);
    }
    make_private(&place, account)?;
    Ok(place)
}

/// The directory of the socket, made if it is missing.
pub(crate) fn socket(place: &Path, account: &Account) -> Result<PathBuf, PostgresError> {
    let inside = place.join("socket");
    let text = inside.as_os_str().as_encoded_bytes();
    let plain = text.iter().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(b));
    if plain && text.len() <= LONGEST_SOCKET_DIRECTORY {
        make_private(&inside, account)?;
        return Ok(inside);
    }
    let name = format!("howdah-postgres-{}-{}", account.uid, short_hash(place));
    let base = if Uid::effective().is_root() && Path::new("/run").is_dir() {
        "/run"
    } else {
        "/tmp"
    };
    let outside = Path::new(base).join(name);
    make_private(&outside, account)?;
    Ok(outside)
}

fn pointer(wanted: &Path) -> PathBuf {
    let mut name = wanted.file_name().unwrap_or_default().to_owned();
    name.push(".location");
    wanted.with_file_name(name)
}

/// Makes a directory with mode 0700 that belongs to the account; one that exists must belong to it or to us.
fn make_private(path: &Path, account: &Account) -> Result<(), PostgresError> {
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(parent)
            .map_err(PostgresError::directory("making", parent))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let found = path
                .symlink_metadata()
                .map_err(PostgresError::directory("reading", path))?;
            let ours = found.uid() == account.uid || found.uid() == Uid::effective().as_raw();
            if !found.is_dir() || !ours {
                return Err(PostgresError::NotOurs {
                    path: path.to_path_buf(),
                });
            }
        }
        Err(e) => return Err(PostgresError::directory("making", path)(e)),
    }
    account.own(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
        .map_err(PostgresError::directory("changing the permissions of", path))
}

/// Lets others pass through (not list) the directory above, if it is ours: `mktemp -d` makes it 0700.
fn open_the_way(path: &Path) -> Result<(), PostgresError> {
    let Some(above) = path.parent() else { return Ok(()) };
    let found = above.metadata().map_err(PostgresError::directory("reading", above))?;
    if found.uid() == Uid::effective().as_raw() && found.mode() & 0o001 == 0 {
        let mode = Permissions::from_mode((found.mode() & 0o7777) | 0o011);
        std::fs::set_permissions(above, mode)
            .map_err(PostgresError::directory("changing the permissions of", above))?;
    }
    Ok(())
}

/// FNV-1a: only tells paths apart.
fn short_hash(path: &Path) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = path.as_os_str().as_encoded_bytes();
    hex::encode(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_never_has_a_path_that_is_too_long_for_one() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("d".repeat(60)).join("e".repeat(60));
        let account = Account::choose(&deep).unwrap();
        let found = socket(&deep, &account).unwrap();
        assert!(found.as_os_str().len() <= LONGEST_SOCKET_DIRECTORY, "{found:?}");
        assert_eq!(found.metadata().unwrap().mode() & 0o777, 0o700);
        std::fs::remove_dir(found).unwrap();
    }

    #[test]
    fn a_remembered_place_is_used_again() {
        let home = tempfile::tempdir().unwrap();
        let wanted = home.path().join("postgres");
        assert_eq!(current(&wanted), wanted);
        std::fs::write(home.path().join("postgres.location"), "/var/lib/elsewhere\n").unwrap();
        assert_eq!(current(&wanted), Path::new("/var/lib/elsewhere"));
    }
}
