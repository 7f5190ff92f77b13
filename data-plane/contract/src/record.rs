//! The canonical record of a finished commit: what its digest covers, in which bytes. Planes compute it when a commit is
//! finished; whoever holds the record can compute it again (`howdah verify`), and needs nobody for it. The page
//! `docs/provenance-bundle.md` says the same in words.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use crate::api::{Actor, ImportedSource};
use crate::ids::{CommitId, CommitSetId, DomainId};
use crate::names::BranchName;

/// A BLAKE3 digest of 32 bytes; as text, 64 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordDigest([u8; 32]);

impl RecordDigest {
    /// Takes the bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 32 bytes of a database column; `None` when there are not so many.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for RecordDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RecordDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 lowercase hex digits")]
pub struct ParseDigestError;

impl FromStr for RecordDigest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(ParseDigestError),
        };
        let text = text.as_bytes();
        if text.len() != 64 {
            return Err(ParseDigestError);
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = value(digits[0])? << 4 | value(digits[1])?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for RecordDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RecordDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for RecordDigest {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        crate::openapi::text("^[0-9a-f]{64}$")
    }
}

impl ToSchema for RecordDigest {}

/// Another commit that a record names by the digest of that one's record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordedCommit {
    /// The name of the input; nothing for the commit before it on its branch.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Digest of its record; nothing where it has none, being errored.
    pub digest: Option<RecordDigest>,
    /// Its id, which is not covered: its digest covers it.
    pub commit: CommitId,
}

/// What made a derived commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordedPipeline {
    /// The pipeline.
    pub id: DomainId,
    /// Its version.
    pub version: i32,
    /// Digest of the image that ran.
    pub image_digest: Option<String>,
    /// The git revision that CI passed along.
    pub code_revision: Option<String>,
    /// Digest of the version's spec; nothing in records of commits that were finished before records named it.
    pub spec_digest: Option<RecordDigest>,
}

/// All that the digest of a finished commit covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The commit.
    pub commit: CommitId,
    /// Its repo.
    pub repo: DomainId,
    /// The branch it was made on.
    pub branch: BranchName,
    /// The commit set.
    pub commit_set: CommitSetId,
    /// The nearest commit before it that has a record.
    pub parent: Option<RecordedCommit>,
    /// Digest of its tree of files.
    pub tree: RecordDigest,
    /// Digest of its origin set.
    pub origins: RecordDigest,
    /// Its direct inputs, in any order.
    pub inputs: Vec<RecordedCommit>,
    /// What its maker said.
    pub message: String,
    /// Who made it.
    pub actor: Actor,
    /// The pipeline that made it.
    pub pipeline: Option<RecordedPipeline>,
    /// When it was begun; microseconds count.
    pub started_at: DateTime<Utc>,
    /// When it was finished; microseconds count.
    pub finished_at: DateTime<Utc>,
    /// Where files of it were fetched from.
    pub sources: Vec<ImportedSource>,
}

impl Record {
    /// The canonical bytes: every field in a fixed order, each with its length in front (8 bytes, little-endian), so that
    /// no two records have the same bytes. Fields that came later are there only where they have a value.
    pub fn canonical(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024);
        let mut field = |part: &[u8]| {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        };
        field(b"howdah commit 1");
        field(self.commit.uuid().as_bytes());
        field(self.repo.uuid().as_bytes());
        field(self.branch.as_str().as_bytes());
        field(self.commit_set.uuid().as_bytes());
        field(digest_or_nothing(self.parent.as_ref().and_then(|p| p.digest.as_ref())));
        field(self.tree.as_bytes());
        field(self.origins.as_bytes());
        let mut inputs: Vec<_> = self.inputs.iter().map(|i| (&i.name, &i.digest)).collect();
        inputs.sort();
        field(&(inputs.len() as u64).to_le_bytes());
        for (name, digest) in inputs {
            field(name.as_bytes());
            field(digest_or_nothing(digest.as_ref()));
        }
        field(self.message.as_bytes());
        field(self.actor.id.to_string().as_bytes());
        field(self.actor.name.as_bytes());
        field(self.actor.token.to_string().as_bytes());
        if let Some(pipeline) = &self.pipeline {
            field(pipeline.id.uuid().as_bytes());
            field(&pipeline.version.to_le_bytes());
            field(pipeline.image_digest.as_deref().unwrap_or_default().as_bytes());
            field(pipeline.code_revision.as_deref().unwrap_or_default().as_bytes());
        }
        field(&self.started_at.timestamp_micros().to_le_bytes());
        field(&self.finished_at.timestamp_micros().to_le_bytes());
        if !self.sources.is_empty() {
            field(b"sources");
            field(&(self.sources.len() as u64).to_le_bytes());
            for source in &self.sources {
                field(source.url.as_bytes());
                field(source.path.as_bytes());
                field(&source.files.to_le_bytes());
                field(&source.size_bytes.to_le_bytes());
                field(source.etag.as_deref().unwrap_or_default().as_bytes());
                field(source.version.as_deref().unwrap_or_default().as_bytes());
                field(&source.fetched_at.timestamp_micros().to_le_bytes());
            }
        }
        if let Some(digest) = self.pipeline.as_ref().and_then(|p| p.spec_digest.as_ref()) {
            field(b"spec");
            field(digest.as_bytes());
        }
        if let Some(ci) = &self.actor.ci {
            let parts = ci.parts();
            field(b"ci");
            field(&(parts.len() as u64).to_le_bytes());
            for (name, value) in parts {
                field(name.as_bytes());
                field(value.as_bytes());
            }
        }
        bytes
    }

    /// The digest of the canonical bytes.
    pub fn digest(&self) -> RecordDigest {
        RecordDigest(*blake3::hash(&self.canonical()).as_bytes())
    }
}

fn digest_or_nothing(digest: Option<&RecordDigest>) -> &[u8] {
    digest.map_or(&[], |digest| digest.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_one_text() {
        let digest = RecordDigest::new([0xab; 32]);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for text in ["", "ab", &"AB".repeat(32), &"ab".repeat(33), &"ag".repeat(32)] {
            assert_eq!(text.parse::<RecordDigest>(), Err(ParseDigestError), "{text}");
        }
    }
}
