//! Reads a tar archive as it arrives. Bytes are handed on as they come, nothing is kept, and everything that has no place
//! in a versioned tree (links, devices, paths that climb out) is refused by name.

use std::collections::{HashMap, HashSet};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use contract::problem::ProblemKind;
use contract::upload::{self, Ticket};
use storage::{Digest, FilePath};
use tar::{EntryType, Header, PaxExtension, PaxExtensions};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::failure::{Answer, Failure};

const BLOCK: usize = 512;
/// Extension headers hold one path and a few numbers.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Marks in front of one file: each is held in memory until that file or the end comes.
const MARKS_MAX: usize = 1 << 20;
/// No member is larger: what claims to be is an attempt at our arithmetic.
const MEMBER_BYTES_MAX: u64 = 1 << 60;

/// A file in an archive; its bytes follow from [`ArchiveReader::body`].
#[derive(Debug)]
pub struct Member {
    /// Where it goes, below the archive's root.
    pub path: FilePath,
    /// Its bytes.
    pub size: u64,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// The bytes are a delta ([`contract::upload`]), and this is the size of the file that it makes.
    pub delta: Option<u64>,
    /// The client's name for this file in an upload that can be taken up again.
    pub key: Option<Digest>,
    /// So many bytes of the file have arrived before.
    pub offset: u64,
    /// The file was handed over under this ticket, and so many bytes of it belong here.
    pub handed: Option<(Ticket, u64)>,
}

/// What stands between files in an upload that can be taken up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// What is kept under this key belongs here.
    Held(Digest),
    /// Everything since the last such mark is to be kept under this key.
    End(Digest),
}

/// The archive being read.
pub struct ArchiveReader<R> {
    source: R,
    left: u64,
    padding: u64,
    /// How names beyond ASCII were spelled: two spellings of one path would be one file, and one content lost.
    spelled: HashMap<FilePath, String>,
    marks: Vec<Mark>,
    /// Keys of what is kept that were named: once is enough, and each costs as much work as the part is long.
    held: HashSet<Digest>,
}

#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    size: Option<u64>,
    delta: Option<u64>,
    key: Option<Digest>,
    offset: u64,
    handed: Option<(Ticket, u64)>,
}

fn malformed(detail: impl Into<String>) -> Failure {
    Failure::new(ProblemKind::Malformed, detail).hint("send a tar archive; nothing was committed")
}

fn broken_off(error: &io::Error) -> Failure {
    malformed(format!("the upload broke off: {error}"))
}

impl<R: AsyncRead + Unpin> ArchiveReader<R> {
    /// Reads an archive from its beginning.
    pub fn new(source: R) -> Self {
        Self {
            source,
            left: 0,
            padding: 0,
            spelled: HashMap::new(),
            marks: Vec::new(),
            held: HashSet::new(),
        }
    }

    /// The next file, behind what is left of the one before; `None` at the archive's end mark.
    ///
    /// # Errors
    /// `malformed` when it is no archive or ends too early; `invalid` for a member that has no place in a tree.
    pub async fn next(&mut self) -> Answer<Option<Member>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest().await?;
            let mut header = Header::new_old();
            let block = header.as_mut_bytes();
            self.source.read_exact(block).await.map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => malformed("the archive has no end: the upload broke off"),
                _ => broken_off(&e),
            })?;
            if block.iter().all(|b| *b == 0) {
                self.drain().await?;
                return Ok(None);
            }
            verify_checksum(&header)?;
            let size = header
                .entry_size()
                .map_err(|_| malformed("a header of the archive has no size"))?;
            let kind = header.entry_type();
            self.expect(size)?;
            if extend(&mut extensions, kind, size, self).await? {
                continue;
            }
            let size = extensions.size.unwrap_or(size);
            self.expect(if kind.is_dir() { 0 } else { size })?;
            let bytes = extensions
                .path
                .take()
                .unwrap_or_else(|| header.path_bytes().into_owned());
            let executable = header.mode().is_ok_and(|mode| mode & 0o100 != 0);
            if let Some((path, spelled)) = place(kind, &bytes)? {
                self.spell(&path, &spelled)?;
                return Ok(Some(Member {
                    path,
                    size,
                    executable,
                    delta: extensions.delta,
                    key: extensions.key,
                    offset: extensions.offset,
                    handed: extensions.handed,
                }));
            }
            extensions = Extensions::default();
        }
    }

    /// The marks in front of the file that was read last, or of the end, since the last time.
    pub fn marks(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.marks)
    }

    /// The bytes of the current file.
    pub fn body(&mut self) -> Body<'_, R> {
        Body(self)
    }

    /// The whole current file in memory; for small ones.
    ///
    /// # Errors
    /// `malformed` when the upload broke off.
    pub async fn read_all(&mut self) -> Answer<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.left).map_err(|_| malformed("a member is too large"))?];
        self.source.read_exact(&mut bytes).await.map_err(|e| broken_off(&e))?;
        self.left = 0;
        Ok(bytes)
    }

    fn expect(&mut self, size: u64) -> Answer<()> {
        if size > MEMBER_BYTES_MAX {
            return Err(malformed(format!(
                "a member of the archive claims to have {size} bytes"
            )));
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    async fn skip_rest(&mut self) -> Answer<()> {
        let mut rest = self.left + self.padding;
        let mut scratch = [0; 16 * BLOCK];
        while rest > 0 {
            let most = scratch.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            let read = self
                .source
                .read(&mut scratch[..most])
                .await
                .map_err(|e| broken_off(&e))?;
            if read == 0 {
                return Err(malformed("the archive has no end: the upload broke off"));
            }
            rest -= read as u64;
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// Reads what stands behind the end mark: only then it is certain that the request has arrived whole. There are only
    /// zeros; anything else would be lost.
    async fn drain(&mut self) -> Answer<()> {
        let mut scratch = [0; 16 * BLOCK];
        loop {
            let read = self.source.read(&mut scratch).await.map_err(|e| broken_off(&e))?;
            if scratch[..read].iter().any(|b| *b != 0) {
                return Err(malformed(
                    "there is more behind the end of the archive, as when two archives are put together; make one of them",
                ));
            }
            if read == 0 {
                return Ok(());
            }
        }
    }

    fn spell(&mut self, path: &FilePath, spelled: &str) -> Answer<()> {
        if spelled.is_ascii() {
            return Ok(());
        }
        let known = self.spelled.entry(path.clone()).or_insert_with(|| spelled.to_owned());
        if known == spelled {
            return Ok(());
        }
        Err(Failure::invalid(format!(
            "two files of the archive have names that differ only in how characters are composed: `{path}`"
        ))
        .hint("rename one of them"))
    }
}

fn verify_checksum(header: &Header) -> Answer<()> {
    let sum: u32 = header
        .as_bytes()
        .iter()
        .enumerate()
        .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
        .sum();
    if header.cksum().is_ok_and(|given| given == sum) {
        return Ok(());
    }
    Err(malformed("the body is not a tar archive, or it is damaged"))
}

/// Takes in an extension header; answers whether it was one.
async fn extend<R: AsyncRead + Unpin>(
    extensions: &mut Extensions,
    kind: EntryType,
    size: u64,
    archive: &mut ArchiveReader<R>,
) -> Answer<bool> {
    let long_name = kind.is_gnu_longname();
    let local = kind.is_pax_local_extensions();
    if !(long_name || local || kind.is_pax_global_extensions() || kind.is_gnu_longlink()) {
        return Ok(false);
    }
    if size > EXTENSION_BYTES_MAX {
        return Err(malformed("an extension header of the archive is too large"));
    }
    let bytes = archive.read_all().await?;
    if long_name {
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        extensions.path = Some(bytes[..end].to_vec());
    }
    if kind.is_pax_global_extensions() {
        mark(&bytes, archive)?;
    }
    if local {
        for extension in PaxExtensions::new(&bytes) {
            let extension = extension.map_err(|_| malformed("an extension header of the archive is damaged"))?;
            match extension.key_bytes() {
                b"path" => extensions.path = Some(extension.value_bytes().to_vec()),
                b"size" => extensions.size = Some(number(&extension)?),
                key if key == upload::DELTA.as_bytes() => extensions.delta = Some(number(&extension)?),
                key if key == upload::OFFSET.as_bytes() => extensions.offset = number(&extension)?,
                key if key == upload::HANDED.as_bytes() => extensions.handed = Some(handed(&extension)?),
                key if key == upload::KEY.as_bytes() => extensions.key = Some(digest(&extension)?),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(Failure::invalid("sparse members of an archive can't be stored")
                        .hint("make the archive without `--sparse`"));
                }
                _ => {}
            }
        }
    }
    Ok(true)
}

/// Takes in a global header; what is not ours in it says nothing of files.
fn mark<R>(bytes: &[u8], archive: &mut ArchiveReader<R>) -> Answer<()> {
    for extension in PaxExtensions::new(bytes).flatten() {
        if extension.key_bytes() == upload::HELD.as_bytes() {
            let key = digest(&extension)?;
            if !archive.held.insert(key) {
                let twice = malformed(format!("the archive names the part `{key}` twice"));
                return Err(twice.hint("name each file once; nothing was committed"));
            }
            archive.marks.push(Mark::Held(key));
        } else if extension.key_bytes() == upload::END.as_bytes() {
            archive.marks.push(Mark::End(digest(&extension)?));
        }
        if archive.marks.len() > MARKS_MAX {
            return Err(malformed("the archive has too many marks in front of one file"));
        }
    }
    Ok(())
}

fn digest(extension: &PaxExtension<'_>) -> Answer<Digest> {
    let digest = extension.value().ok().and_then(|v| v.parse().ok());
    digest.ok_or_else(|| malformed("a key in the archive is not 64 hexadecimal digits"))
}

fn handed(extension: &PaxExtension<'_>) -> Answer<(Ticket, u64)> {
    let parse = |text: &str| {
        let (ticket, length) = text.split_once(' ')?;
        let mut bytes = [0; Ticket::BYTES];
        hex::decode_to_slice(ticket, &mut bytes).ok()?;
        let length = length.parse().ok().filter(|length| *length <= MEMBER_BYTES_MAX)?;
        Some((Ticket::from_bytes(bytes), length))
    };
    let handed = extension.value().ok().and_then(parse);
    handed.ok_or_else(|| malformed("a ticket in the archive is none"))
}

fn number(extension: &PaxExtension<'_>) -> Answer<u64> {
    let number = extension.value().ok().and_then(|v| v.parse().ok());
    number.ok_or_else(|| malformed("a size in the archive is no number"))
}

/// Where a member goes, and how that was spelled; `None` for a directory, which exists by the files below it.
fn place(kind: EntryType, bytes: &[u8]) -> Answer<Option<(FilePath, String)>> {
    let shown = || String::from_utf8_lossy(bytes).chars().take(200).collect::<String>();
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Failure::invalid(format!("path `{}` is not UTF-8", shown())).hint("rename the file"))?;
    // `./a` and `/a` are `a`; `..` is left for the path's own parser to refuse.
    let parts: Vec<&str> = text.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    let what = match kind {
        EntryType::Regular | EntryType::Continuous => {
            let spelled = parts.join("/");
            return Ok(Some((FilePath::parse(&spelled)?, spelled)));
        }
        EntryType::Directory => {
            if !parts.is_empty() {
                FilePath::parse(&parts.join("/"))?;
            }
            return Ok(None);
        }
        EntryType::Symlink => "a symbolic link",
        EntryType::Link => "a hard link",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a pipe",
        _ => "neither a file nor a directory",
    };
    Err(
        Failure::invalid(format!("`{}` is {what}: only files can be stored", shown()))
            .hint("leave it out, or put the file that it stands for"),
    )
}

/// The bytes of one member.
pub struct Body<'a, R>(&'a mut ArchiveReader<R>);

impl<R: AsyncRead + Unpin> AsyncRead for Body<'_, R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let archive = &mut *self.get_mut().0;
        if archive.left == 0 || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        // Taken in front of the buffer's memory and not as a part of it, which would have to be cleared each time.
        let mut rest = (&mut archive.source).take(archive.left);
        ready!(Pin::new(&mut rest).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        if read == 0 {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive has no end",
            )));
        }
        archive.left -= read as u64;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(members: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, bytes) in members {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            header.as_mut_bytes()[..path.len().min(100)].copy_from_slice(&path.as_bytes()[..path.len().min(100)]);
            if path.len() > 100 {
                builder.append_data(&mut header, path, *bytes).unwrap();
                continue;
            }
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    async fn read(bytes: &[u8]) -> Answer<Vec<(String, Vec<u8>)>> {
        let mut reader = ArchiveReader::new(bytes);
        let mut found = Vec::new();
        while let Some(member) = reader.next().await? {
            let mut content = Vec::new();
            reader
                .body()
                .read_to_end(&mut content)
                .await
                .map_err(|e| broken_off(&e))?;
            found.push((member.path.to_string(), content));
        }
        Ok(found)
    }

    #[tokio::test]
    async fn files_come_out_with_their_paths_below_the_root() {
        let long = format!("deep/{}", "x".repeat(150));
        let bytes = archive(&[
            ("./a", EntryType::Regular, b"one"),
            ("dir/", EntryType::Directory, b""),
            ("/dir/b", EntryType::Regular, &[7; 1000]),
            (&long, EntryType::Regular, b""),
        ]);
        let found = read(&bytes).await.unwrap();
        let paths: Vec<&str> = found.iter().map(|(p, _)| p.as_str()).collect();
        assert_eq!(paths, ["a", "dir/b", &long]);
        assert_eq!((found[0].1.len(), found[1].1.len(), found[2].1.len()), (3, 1000, 0));
    }

    #[tokio::test]
    async fn what_has_no_place_in_a_tree_is_refused_by_name() {
        for (path, kind) in [
            ("../up", EntryType::Regular),
            ("a/../../up", EntryType::Regular),
            ("soft", EntryType::Symlink),
            ("hard", EntryType::Link),
            ("dev", EntryType::Char),
            ("pipe", EntryType::Fifo),
        ] {
            let refused = read(&archive(&[(path, kind, b"")])).await.unwrap_err();
            assert_eq!(refused.kind(), ProblemKind::Invalid, "{path}");
            assert!(refused.detail().contains(path), "{refused}");
        }
    }

    #[tokio::test]
    async fn an_archive_that_breaks_off_anywhere_is_noticed() {
        let bytes = archive(&[("a", EntryType::Regular, b"one"), ("b", EntryType::Regular, b"two")]);
        for cut in [0, 100, 512, 513, 700, 1024, 1600, 2048] {
            assert!(read(&bytes[..cut]).await.is_err(), "cut at {cut}");
        }
        assert!(read(b"this is no archive at all").await.is_err());
        assert!(read(&[65; 2048]).await.is_err());
    }

    #[tokio::test]
    async fn marks_are_limited_and_what_is_kept_is_named_once() {
        let held = |n: u8| upload::record(upload::HELD, hex::encode([n; 32]));
        let global = |records: &str| archive(&[("", EntryType::XGlobalHeader, records.as_bytes())]);
        read(&global(&(held(1) + &held(2)))).await.unwrap();
        let twice = read(&global(&(held(1) + &held(2) + &held(1)))).await.unwrap_err();
        assert_eq!(twice.kind(), ProblemKind::Malformed);

        let end = upload::record(upload::END, hex::encode([1; 32])).repeat(8_000);
        let many = |n: usize| archive(&vec![("", EntryType::XGlobalHeader, end.as_bytes()); n]);
        read(&many(MARKS_MAX / 8_000)).await.unwrap();
        let refused = read(&many(MARKS_MAX / 8_000 + 1)).await.unwrap_err();
        assert!(refused.detail().contains("too many marks"), "{refused}");
    }

    #[tokio::test]
    async fn what_would_be_lost_without_a_word_is_refused() {
        let one = archive(&[("a", EntryType::Regular, b"one")]);
        let two = [one.clone(), one.clone()].concat();
        assert!(read(&two).await.unwrap_err().detail().contains("behind the end"));
        assert_eq!(read(&[one, vec![0; 9000]].concat()).await.unwrap().len(), 1);

        let spelled = archive(&[
            ("\u{e9}", EntryType::Regular, b"composed"),
            ("e\u{301}", EntryType::Regular, b"not composed"),
        ]);
        assert_eq!(read(&spelled).await.unwrap_err().kind(), ProblemKind::Invalid);
        let twice = archive(&[
            ("\u{e9}", EntryType::Regular, b"one"),
            ("\u{e9}", EntryType::Regular, b"two"),
        ]);
        assert_eq!(
            read(&twice).await.unwrap().len(),
            2,
            "a later member replaces an earlier one, as in every tar"
        );
    }
}
