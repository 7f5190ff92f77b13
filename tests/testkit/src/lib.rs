//! What tests of every crate need: databases of their own, processes to kill, ports, and waiting for a condition instead of
//! sleeping. Panics are fine here: a test that cannot be set up has failed.

pub mod openapi;
pub mod postgres;
pub mod processes;
mod reaper;
pub mod wait;

/// A temporary directory that is removed when dropped. Others may pass through it (not list it): services that root
/// starts run parts as other users.
///
/// # Panics
/// When it cannot be made.
pub fn temporary_directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::Builder::new()
        .prefix("howdah-test-")
        .tempdir()
        .unwrap_or_else(|e| panic!("no temporary directory: {e}"));
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711))
        .unwrap_or_else(|e| panic!("the permissions of a temporary directory: {e}"));
    directory
}
