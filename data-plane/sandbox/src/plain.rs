//! The fallback without namespaces: `/pfs/` in the command and its standard input becomes the host directory, because
//! there is no way to put anything at `/pfs`. A pure rewriting, so that what it touches is testable.

use std::path::Path;

/// Replaces `/pfs/` where it begins a path (and `/pfs` as a whole argument) by the host directory.
pub(crate) fn rewrite_argument(argument: &str, pfs: &Path) -> String {
    if argument == "/pfs" {
        return pfs.display().to_string();
    }
    String::from_utf8_lossy(&rewrite_bytes(argument.as_bytes(), pfs)).into_owned()
}

/// The same for bytes of standard input.
pub(crate) fn rewrite_bytes(input: &[u8], pfs: &Path) -> Vec<u8> {
    const NEEDLE: &[u8] = b"/pfs/";
    let pfs = pfs.as_os_str().as_encoded_bytes();
    let mut out = Vec::with_capacity(input.len());
    let mut at = 0;
    while at < input.len() {
        // "/data/pfs/x" is another path: only a `/pfs/` that nothing of a path precedes is ours.
        let begins = at == 0 || !is_path_byte(input[at - 1]);
        if begins && input[at..].starts_with(NEEDLE) {
            out.extend_from_slice(pfs);
            out.push(b'/');
            at += NEEDLE.len();
        } else {
            out.push(input[at]);
            at += 1;
        }
    }
    out
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b'}') || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_that_begins_with_pfs_is_rewritten() {
        let check = |input: &str, expect: &str| assert_eq!(rewrite_argument(input, Path::new("/d/1/pfs")), expect);
        check("/pfs", "/d/1/pfs");
        check("/pfs/out/a", "/d/1/pfs/out/a");
        check("cp /pfs/in/a '/pfs/out/b'", "cp /d/1/pfs/in/a '/d/1/pfs/out/b'");
        check("--path=/pfs/in", "--path=/d/1/pfs/in");
        check("/data/pfs/x", "/data/pfs/x");
        check("$PFS/in ${ROOT}/pfs/in", "$PFS/in ${ROOT}/pfs/in");
    }
}
