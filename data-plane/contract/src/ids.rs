//! Typed ids. Text form: a prefix that tells the kind, then 32 lowercase hex digits of a UUID v7, so ids sort by
//! creation time and one kind cannot be passed for another. Commits and commit sets have no prefix because people
//! type them in references (`repo@0190…`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A text that is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id of kind {kind}: expected `{prefix}` and 32 hex digits")]
pub struct ParseIdError {
    kind: &'static str,
    prefix: &'static str,
    text: String,
}

/// Every kind of id can be made from a time and random bytes; lets one function of the process's environment make any.
pub trait GenerateId {
    /// Makes a new id.
    fn generate_id(unix_millis: u64, random: [u8; 10]) -> Self;
}

fn parse(kind: &'static str, prefix: &'static str, text: &str) -> Result<Uuid, ParseIdError> {
    let wrong = || ParseIdError {
        kind,
        prefix,
        text: text.chars().take(80).collect(),
    };
    let digits = text.strip_prefix(prefix).ok_or_else(wrong)?;
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(wrong());
    }
    Uuid::try_parse(digits).map_err(|_| wrong())
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// The text that every id of this kind begins with.
            pub const PREFIX: &'static str = $prefix;

            /// Makes the id of a UUID, as stored in a database column.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID to store in a database column.
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// Makes a new id from a time and random bytes that the caller supplies.
            pub fn generate(unix_millis: u64, random: [u8; 10]) -> Self {
                Self(uuid::Builder::from_unix_timestamp_millis(unix_millis, &random).into_uuid())
            }
        }

        impl GenerateId for $name {
            fn generate_id(unix_millis: u64, random: [u8; 10]) -> Self {
                Self::generate(unix_millis, random)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0.simple())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse(stringify!($name), $prefix, text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                crate::openapi::text(concat!("^", $prefix, "[0-9a-f]{32}$"))
            }
        }

        impl utoipa::ToSchema for $name {}
    )*

        /// What each of them is called in an OpenAPI document, and how it looks there.
        pub fn schemas() -> Vec<(&'static str, utoipa::openapi::RefOr<utoipa::openapi::schema::Schema>)> {
            vec![$((stringify!($name), <$name as utoipa::PartialSchema>::schema()),)*]
        }
    };
}

ids! {
    /// A person's account.
    AccountId = "acc_";
    /// An organization: the tenant.
    OrganizationId = "org_";
    /// A service account of an organization.
    ServiceAccountId = "sa_";
    /// A team of an organization.
    TeamId = "team_";
    /// An API token or a session (not its secret).
    TokenId = "tok_";
    /// A mail that the service writes.
    MailId = "mail_";
    /// A passkey of an account.
    PasskeyId = "pky_";
    /// An invitation into an organization.
    InvitationId = "invt_";
    /// What an organization trusts of a CI system.
    CiTrustId = "trust_";
    /// A grant of a role on a resource.
    GrantId = "grt_";
    /// A release (declassification).
    ReleaseId = "rel_";
    /// A request for access.
    AccessRequestId = "req_";
    /// A notice to a person.
    NoticeId = "ntc_";
    /// A domain: what grants are given on. Every repo is one and shares its id; it outlives the repo as a tombstone.
    DomainId = "dom_";
    /// A project of an organization.
    ProjectId = "prj_";
    /// A commit.
    CommitId = "";
    /// All commits caused by one change share one commit set.
    CommitSetId = "";
    /// An upload that can be taken up again.
    UploadId = "upl_";
    /// A job: one run of a pipeline version on a set of input commits.
    JobId = "job_";
    /// A lease on a datum that a worker holds.
    LeaseId = "lse_";
    /// A purge: the receipt of what was taken out of all history.
    PurgeId = "prg_";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_the_round_trip_through_text() {
        let id = OrganizationId::generate(1_700_000_000_000, [7; 10]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().starts_with("org_"));
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let id = AccountId::generate(1, [1; 10]).to_string();
        assert!(id.parse::<OrganizationId>().is_err());
        assert!("org_".parse::<OrganizationId>().is_err());
        assert!(
            "org_0190C0DE0190C0DE0190C0DE0190C0DE"
                .parse::<OrganizationId>()
                .is_err()
        );
    }
}
