//! The audit trail's format: what a row says, and the hash by which rows are a chain. Planes write rows with it; the command line
//! checks them with an implementation of its own. The page `docs/audit.md` says the same in words.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::OrganizationId;

/// The format in which rows are written now. Rows of format 1 say neither `via` nor `request_id` nor `address`.
pub const FORMAT: u32 = 2;

/// Which chain of an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Trail {
    /// That of the control plane: who belongs to it, who may do what.
    Control,
    /// That of its data plane: what was done with its repos and pipelines.
    Plane,
}

impl Trail {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Plane => "plane",
        }
    }
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no trail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an audit trail: `control` or `plane`")]
pub struct ParseTrailError(String);

impl FromStr for Trail {
    type Err = ParseTrailError;

    fn from_str(text: &str) -> Result<Self, ParseTrailError> {
        [Self::Control, Self::Plane]
            .into_iter()
            .find(|trail| trail.as_str() == text)
            .ok_or_else(|| ParseTrailError(text.chars().take(40).collect()))
    }
}

/// All that the hash of a row covers, but the hash of the row before it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The chain.
    pub trail: Trail,
    /// The organization.
    pub organization: OrganizationId,
    /// The row's number in its chain, from 1.
    pub seq: u64,
    /// When; microseconds count.
    pub at: DateTime<Utc>,
    /// Id of the principal, or the part of the service that acted by itself.
    pub actor: &'a str,
    /// Address or name at that time.
    pub actor_name: &'a str,
    /// Id of the session or token; empty for the service itself.
    pub token: &'a str,
    /// What kind of credential that was: a session, an API token, a run of CI.
    pub via: &'a str,
    /// `noun.verb`.
    pub action: &'a str,
    /// What was changed.
    pub subject: &'a str,
    /// Id of the request.
    pub request_id: &'a str,
    /// The address that the request came from.
    pub address: &'a str,
}

impl Entry<'_> {
    /// The hash of a row: SHA-256 of the hash of the row before it (nothing before the first) and of all that it says, each part
    /// with its length in front (8 bytes, big-endian), so that no two rows have the same bytes.
    pub fn link(&self, prev_hash: &[u8]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let (organization, at) = (self.organization.to_string(), self.at.timestamp_micros().to_be_bytes());
        for part in [
            b"howdah audit 2".as_slice(),
            prev_hash,
            self.trail.as_str().as_bytes(),
            organization.as_bytes(),
            &self.seq.to_be_bytes(),
            &at,
            self.actor.as_bytes(),
            self.actor_name.as_bytes(),
            self.token.as_bytes(),
            self.via.as_bytes(),
            self.action.as_bytes(),
            self.subject.as_bytes(),
            self.request_id.as_bytes(),
            self.address.as_bytes(),
        ] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

/// What the signature under an export says: up to here the trail is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Checkpoint {
    /// The organization.
    pub organization: OrganizationId,
    /// The chain.
    pub trail: Trail,
    /// The number of the last row, 0 where there is none.
    pub seq: u64,
    /// Its hash, 64 hex digits; empty where there is none.
    pub hash: String,
    /// When the signature was made.
    pub at: DateTime<Utc>,
}

/// The claims of a signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointClaims {
    /// The control plane that signed it: its public address.
    pub iss: String,
    /// `audit:<organization id>`.
    pub aud: String,
    /// Issued at, Unix seconds.
    pub iat: i64,
    /// What it says.
    pub checkpoint: Checkpoint,
}

/// The audience of checkpoints of an organization's trails: no token that the service signs for anything else has it.
pub fn audience(organization: OrganizationId) -> String {
    format!("audit:{organization}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Entry<'_> = Entry {
        trail: Trail::Control,
        organization: OrganizationId::from_uuid(uuid::Uuid::nil()),
        seq: 1,
        at: DateTime::UNIX_EPOCH,
        actor: "ab",
        actor_name: "c",
        token: "",
        via: "",
        action: "",
        subject: "",
        request_id: "",
        address: "",
    };

    #[test]
    fn every_part_of_a_row_is_covered_and_so_is_where_it_ends() {
        let other = OrganizationId::from_uuid(uuid::Uuid::max());
        let rows = [
            EMPTY,
            Entry {
                trail: Trail::Plane,
                ..EMPTY
            },
            Entry {
                organization: other,
                ..EMPTY
            },
            Entry { seq: 2, ..EMPTY },
            Entry {
                at: DateTime::UNIX_EPOCH + chrono::Duration::microseconds(1),
                ..EMPTY
            },
            Entry {
                actor: "a",
                actor_name: "bc",
                ..EMPTY
            },
            Entry { token: "x", ..EMPTY },
            Entry { via: "x", ..EMPTY },
            Entry { action: "x", ..EMPTY },
            Entry { subject: "x", ..EMPTY },
            Entry {
                request_id: "x",
                ..EMPTY
            },
            Entry { address: "x", ..EMPTY },
        ];
        let mut hashes: Vec<[u8; 32]> = rows.iter().map(|row| row.link(&[])).collect();
        hashes.push(EMPTY.link(&[0; 32]));
        let all = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), all);
    }
}
