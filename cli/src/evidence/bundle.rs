//! The file that a bundle is: a tar archive of a few members with fixed names, in a fixed order, without owners and times. There
//! is one way to write it, so a reader accepts that and nothing else: no byte of it is there that is not looked at.

use std::io::{Read, Write};

use sha2::{Digest as _, Sha256};

use crate::failure::{Exit, Failure, Outcome};

/// What the evidence is in.
pub const EVIDENCE: &str = "evidence.json";
/// The files of the commit that the bundle is about.
pub const FILES: &str = "files.jsonl";
/// The same as W3C PROV.
pub const PROV: &str = "prov.json";
/// The same as OpenLineage events, one a line.
pub const OPENLINEAGE: &str = "openlineage.jsonl";
/// For people.
pub const README: &str = "README.md";
/// The digests of the members before it, as `sha256sum` writes them.
pub const SUMS: &str = "SHA256SUMS";

const BLOCK: usize = 512;
/// Commits in a bundle at most, as many as the service tells of.
pub const COMMITS_MAX: usize = 20_000;
/// The records are not larger.
const EVIDENCE_MAX: usize = 32 << 20;
/// What follows from them is not larger.
pub const DOCUMENT_MAX: usize = 256 << 20;

fn header(name: &str, size: u64) -> Outcome<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header
        .set_path(name)
        .map_err(|e| Failure::new("cannot write the bundle", e, "report this"))?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

fn padding(size: u64) -> usize {
    // Less than a block.
    usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or(0)
}

/// Writes a bundle.
pub struct Writer<W> {
    out: W,
    sums: String,
}

impl<W: Write> Writer<W> {
    /// Begins one.
    pub fn new(out: W) -> Self {
        Self {
            out,
            sums: String::new(),
        }
    }

    /// Adds a member.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn member(&mut self, name: &str, bytes: &[u8]) -> Outcome {
        if name == EVIDENCE && bytes.len() > EVIDENCE_MAX {
            return Err(too_large(EVIDENCE_MAX));
        }
        self.stream(name, bytes.len() as u64, bytes)
    }

    /// Adds a member of that many bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn stream(&mut self, name: &str, size: u64, mut bytes: impl Read) -> Outcome {
        let mut hasher = Sha256::new();
        self.out.write_all(header(name, size)?.as_bytes()).map_err(unwritten)?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let read = bytes.read(&mut buffer).map_err(unwritten)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            self.out.write_all(&buffer[..read]).map_err(unwritten)?;
        }
        self.out.write_all(&[0; BLOCK][..padding(size)]).map_err(unwritten)?;
        self.sums.push_str(&sum(name, &hasher.finalize()));
        Ok(())
    }

    /// Ends it; the writer has all of it then.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Outcome<W> {
        let sums = std::mem::take(&mut self.sums);
        self.member(SUMS, sums.as_bytes())?;
        self.out.write_all(&[0; 2 * BLOCK]).map_err(unwritten)?;
        self.out.flush().map_err(unwritten)?;
        Ok(self.out)
    }
}

fn sum(name: &str, digest: &[u8]) -> String {
    format!("{}  {name}\n", hex::encode(digest))
}

/// The bundle could not be written.
pub fn unwritten(error: std::io::Error) -> Failure {
    Failure::new(
        "cannot write the bundle",
        error,
        "check where it goes to, and the room there",
    )
}

/// There is more than a bundle may have.
pub fn too_large(most: usize) -> Failure {
    Failure::new(
        "the provenance is too large",
        format!("a part of it has more than {most} bytes"),
        "ask for that of a commit further upstream",
    )
    .with_exit(Exit::Limit)
}

/// A text that somebody else wrote, as a terminal may show it: what is no letter, digit or sign is told by its number.
pub fn plain(text: impl std::fmt::Display) -> String {
    let mut shown = String::new();
    for c in text.to_string().chars() {
        match c {
            '"' | '\'' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// The bundle is not what it should be.
pub fn wrong(why: impl std::fmt::Display) -> Failure {
    Failure::new(
        "the bundle does not hold",
        plain(why),
        "do not rely on it: ask for another one where you have it from",
    )
}

/// Reads a bundle, member by member.
pub struct Reader<R> {
    input: R,
    sums: String,
}

impl<R: Read> Reader<R> {
    /// Begins at the first member.
    pub fn new(input: R) -> Self {
        Self {
            input,
            sums: String::new(),
        }
    }

    fn fill(&mut self, buffer: &mut [u8], name: &str) -> Outcome {
        self.input
            .read_exact(buffer)
            .map_err(|e| wrong(format!("it ends in `{name}`, or before: {e}")))
    }

    /// The next member, which must be that one, piece by piece.
    ///
    /// # Errors
    /// When it is another one or not written as it must be, or what `each` returns.
    pub fn stream(&mut self, name: &str, mut each: impl FnMut(&[u8]) -> Outcome) -> Outcome {
        let mut block = [0; BLOCK];
        self.fill(&mut block, name)?;
        let size = tar::Header::from_byte_slice(&block).entry_size().unwrap_or(0);
        if header(name, size)?.as_bytes() != &block {
            return Err(wrong(format!("where `{name}` should begin there is something else")));
        }
        let (mut hasher, mut left) = (Sha256::new(), size);
        let mut buffer = vec![0; 128 << 10];
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            self.fill(&mut buffer[..now], name)?;
            hasher.update(&buffer[..now]);
            each(&buffer[..now])?;
            left -= now as u64;
        }
        let end = &mut [0; BLOCK][..padding(size)];
        self.fill(end, name)?;
        if end.iter().any(|byte| *byte != 0) {
            return Err(wrong(format!(
                "behind `{name}` there is something that is no part of it"
            )));
        }
        self.sums.push_str(&sum(name, &hasher.finalize()));
        Ok(())
    }

    /// The next member, which must be that one, whole.
    ///
    /// # Errors
    /// As [`Reader::stream`], and when it is larger than what is kept in memory.
    pub fn member(&mut self, name: &str) -> Outcome<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream(name, |piece| {
            bytes.extend_from_slice(piece);
            match bytes.len() > EVIDENCE_MAX {
                true => Err(wrong(format!("`{name}` is larger than {EVIDENCE_MAX} bytes"))),
                false => Ok(()),
            }
        })?;
        Ok(bytes)
    }

    /// The next member, which must be that one with these bytes.
    ///
    /// # Errors
    /// As [`Reader::stream`], and when it has others.
    pub fn compare(&mut self, name: &str, expected: &[u8]) -> Outcome {
        let mut left = expected;
        let other = || wrong(format!("`{name}` says something else than follows from the records"));
        self.stream(name, |piece| {
            left = left.strip_prefix(piece).ok_or_else(other)?;
            Ok(())
        })?;
        match left.is_empty() {
            true => Ok(()),
            false => Err(other()),
        }
    }

    /// The digests of all members, and the end.
    ///
    /// # Errors
    /// When they are not those of the members, or when it goes on.
    pub fn finish(mut self) -> Outcome {
        let expected = std::mem::take(&mut self.sums);
        if self.member(SUMS)? != expected.as_bytes() {
            return Err(wrong(format!("`{SUMS}` has other digests than the members")));
        }
        let mut end = [0; 2 * BLOCK];
        self.fill(&mut end, "the end")?;
        let more = self.input.read(&mut [0]).map_err(wrong)?;
        match more == 0 && end.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(wrong("it goes on where it should end")),
        }
    }
}
