//! A source that is read: it must be the same file from its first byte to its last.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;

use super::sources::{Content, Identity, Source, identity};
use crate::failure::{Failure, Outcome, io as io_failure};

/// A source that is being read.
pub(super) struct Reading<'s> {
    pub(super) source: &'s Source,
    pub(super) file: File,
    /// As messages call it.
    pub(super) shown: String,
}

impl<'s> Reading<'s> {
    pub(super) fn open(source: &'s Source) -> Outcome<Self> {
        let (file, shown) = match &source.content {
            Content::Kept(file) => {
                let shown = "standard input".to_owned();
                let file = file.try_clone();
                (file.map_err(io_failure("read", Path::new(&shown)))?, shown)
            }
            Content::At(at) => (
                File::open(at).map_err(io_failure("read", at))?,
                at.display().to_string(),
            ),
        };
        Ok(Self { source, file, shown })
    }

    pub(super) fn failed(&self, error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return self.changed("it became shorter while it was read");
        }
        io_failure("read", Path::new(&self.shown))(error)
    }

    fn changed(&self, why: &str) -> Failure {
        let what = format!("cannot put {}", self.shown);
        Failure::new(what, why, "repeat the command when nothing writes to it")
    }

    pub(super) fn identity(&self) -> Outcome<Identity> {
        let metadata = self.file.metadata();
        Ok(identity(&metadata.map_err(io_failure("read", Path::new(&self.shown)))?))
    }

    /// What was sent stood there all the time: half of one version and half of another must not become a file.
    pub(super) fn unchanged_since(&self, seen: &Identity) -> Outcome {
        match self.source.content {
            Content::At(_) if self.identity()? != *seen => Err(self.changed("it changed while it was read")),
            _ => Ok(()),
        }
    }

    pub(super) fn seek(&mut self, to: u64) -> Outcome {
        let sought = self.file.seek(SeekFrom::Start(to)).map(drop);
        sought.map_err(io_failure("read", Path::new(&self.shown)))
    }
}
