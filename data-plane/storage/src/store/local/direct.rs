//! Writing past the page cache. A long stream would only push out what is read often, and the copy into the cache is
//! what a put costs most.

use std::path::Path;
use std::{fs, io};

use bytes::Bytes;

/// Writes a new file and syncs it. False, and no file is there, where the file system or this machine cannot do it.
#[cfg(target_os = "linux")]
pub(super) fn write(path: &Path, parts: &[Bytes]) -> io::Result<bool> {
    match linux::write(path, parts) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(false),
            }
        }
        Err(error) => Err(error),
    }
}

/// Writes nothing: there is no portable way to do it.
#[cfg(not(target_os = "linux"))]
pub(super) fn write(_: &Path, _: &[Bytes]) -> io::Result<bool> {
    Ok(false)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::{File, OpenOptions};
    use std::io::{self, IoSlice, Write};
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    use bytes::Bytes;
    use nix::fcntl::OFlag;

    use crate::buffer::{ALIGNMENT, align};

    /// So many parts go to the disk in one call: 16 MiB.
    const PARTS: usize = 64;

    pub(super) fn write(path: &Path, parts: &[Bytes]) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .custom_flags(OFlag::O_DIRECT.bits())
            .open(path)?;
        let Some((last, whole)) = parts.split_last() else {
            return file.sync_all();
        };
        for some in whole.chunks(PARTS) {
            let mut slices: Vec<IoSlice<'_>> = some.iter().map(|part| IoSlice::new(part)).collect();
            write_all(&mut file, &mut slices)?;
        }
        let padded = last.len().next_multiple_of(ALIGNMENT);
        let mut end = Vec::with_capacity(padded + ALIGNMENT);
        let start = align(&mut end);
        end.extend_from_slice(last);
        end.resize(start + padded, 0);
        write_all(&mut file, &mut [IoSlice::new(&end[start..])])?;
        file.set_len(parts.iter().map(|part| part.len() as u64).sum())?;
        file.sync_all()
    }

    fn write_all(file: &mut File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        while !slices.is_empty() {
            match file.write_vectored(slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut slices, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::buffer::{Buffer, Pool};

    #[test]
    fn what_is_written_past_the_cache_is_what_was_given_at_any_length() {
        // Not in a directory for temporary files: that is often in memory, where it cannot be done.
        let program = std::env::current_exe().unwrap();
        let home = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let content: Vec<u8> = (0..(600 << 10) + 123_u32).map(|at| (at % 251) as u8).collect();
        for length in [0, 1, 4095, 4096, 4097, 256 << 10, (256 << 10) + 1, content.len()] {
            let mut buffer = Buffer::new(&Arc::new(Pool::default()));
            buffer.extend(&content[..length]);
            let path = home.path().join(length.to_string());
            if write(&path, buffer.freeze().parts()).unwrap() {
                assert_eq!(fs::read(&path).unwrap(), content[..length], "{length} bytes");
            } else {
                assert!(!path.exists(), "nothing is left of {length} bytes");
            }
        }
    }
}
