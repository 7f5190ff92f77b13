//! The members of a layer's archive, one after the other, each with its content. Long names and extensions stand in members
//! of their own before the one that they describe, as long as whoever made the layer says: here they are bounded, and what
//! lists the holes of a file is refused. (The iterators of `tar` read all of these whole into memory.)

use std::io::{self, Read};

use tar::{EntryType, Header, PaxExtensions};

const BLOCK_BYTES: u64 = 512;
/// Of a name or of the extensions of one member; the kernel takes paths of 4 KiB.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;

/// What an archive says of a file, directory or link.
pub(super) struct Member {
    pub header: Header,
    pub path: Vec<u8>,
    /// What a link leads to.
    pub link: Vec<u8>,
    /// Bytes of its content.
    pub size: u64,
}

/// Reads members; as a reader, the content of the member that came last.
pub(super) struct Members<R> {
    from: R,
    /// Bytes of content that were not read yet.
    content: u64,
    /// Bytes between the content and the next member.
    padding: u64,
}

/// What came before a member and describes it.
#[derive(Default)]
struct Ahead {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    extensions: Option<Vec<u8>>,
}

impl<R: Read> Members<R> {
    /// Reads an archive from its beginning.
    pub(super) fn new(from: R) -> Self {
        Self {
            from,
            content: 0,
            padding: 0,
        }
    }

    /// What is behind the members.
    pub(super) fn into_inner(self) -> R {
        self.from
    }

    /// The next member, or nothing at the end. What was not read of the one before is passed by.
    ///
    /// # Errors
    /// Those of the reader; when it is no archive, or beyond a bound.
    pub(super) fn next(&mut self) -> io::Result<Option<Member>> {
        let mut ahead = Ahead::default();
        loop {
            let Some(header) = self.header()? else {
                return match ahead {
                    Ahead {
                        path: None,
                        link: None,
                        extensions: None,
                    } => Ok(None),
                    _ => Err(io::Error::other("it ends behind the name of a file that does not come")),
                };
            };
            let size = header.entry_size()?;
            let described = match header.entry_type() {
                EntryType::GNULongName => &mut ahead.path,
                EntryType::GNULongLink => &mut ahead.link,
                EntryType::XHeader => &mut ahead.extensions,
                EntryType::XGlobalHeader => {
                    self.begin(size);
                    continue;
                }
                EntryType::GNUSparse => return Err(sparse()),
                _ => return self.member(header, size, ahead).map(Some),
            };
            if described.is_some() {
                return Err(io::Error::other("a file is described twice"));
            }
            if size > EXTENSION_BYTES_MAX {
                return Err(io::Error::other(format!(
                    "the name or the attributes of a file have {size} bytes, more than {EXTENSION_BYTES_MAX}"
                )));
            }
            self.begin(size);
            let mut bytes = Vec::new();
            self.read_to_end(&mut bytes)?;
            *described = Some(bytes);
        }
    }

    fn member(&mut self, header: Header, size: u64, ahead: Ahead) -> io::Result<Member> {
        let (mut path, mut link, mut long) = (None, None, None);
        let extensions = ahead.extensions.unwrap_or_default();
        // Values may be binary, and a line of one is no extension.
        for extension in PaxExtensions::new(&extensions).flatten() {
            let value = extension.value_bytes();
            match extension.key_bytes() {
                b"path" => path = path.or_else(|| Some(value.to_vec())),
                b"linkpath" => link = link.or_else(|| Some(value.to_vec())),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    long = Some(size.ok_or_else(|| io::Error::other("the size of a file is no number"))?);
                }
                key if key.starts_with(b"GNU.sparse.") => return Err(sparse()),
                _ => {}
            }
        }
        let size = long.unwrap_or(size);
        self.begin(size);
        Ok(Member {
            path: ahead
                .path
                .map(ended)
                .or(path)
                .unwrap_or_else(|| header.path_bytes().into_owned()),
            link: ahead
                .link
                .map(ended)
                .or(link)
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .unwrap_or_default(),
            header,
            size,
        })
    }

    fn begin(&mut self, size: u64) {
        self.content = size;
        self.padding = (BLOCK_BYTES - size % BLOCK_BYTES) % BLOCK_BYTES;
    }

    /// The next block, which is the head of a member, or nothing at the end.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let rest = self.content.checked_add(self.padding);
        let rest = rest.ok_or_else(|| io::Error::other("a file is too large"))?;
        (self.content, self.padding) = (0, 0);
        if io::copy(&mut (&mut self.from).take(rest), &mut io::sink())? < rest {
            return Err(cut_off());
        }
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut length = 0;
        while length < block.len() {
            match self.from.read(&mut block[length..])? {
                0 if length == 0 => return Ok(None),
                0 => return Err(cut_off()),
                read => length += read,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let bytes = header.as_bytes();
        let sum: u32 = bytes[..148]
            .iter()
            .chain(&bytes[156..])
            .map(|byte| u32::from(*byte))
            .sum();
        // Its own eight bytes count as blanks.
        if sum + 8 * 32 != header.cksum()? {
            return Err(io::Error::other("it is no archive, or was changed: a sum differs"));
        }
        Ok(Some(header))
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.from.read(&mut buffer[..most])? {
            0 => Err(cut_off()),
            read => {
                self.content -= read as u64;
                Ok(read)
            }
        }
    }
}

/// A long name without the NUL at its end.
fn ended(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

fn sparse() -> io::Error {
    io::Error::other("it holds a sparse file, which images do not have: build it without")
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut off")
}
