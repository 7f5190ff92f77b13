//! Names that customers choose. One parser, several types: a project's name cannot be passed where a repo's is wanted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a valid {kind} name: use 1 to 51 letters, digits, `-` and `_`, beginning with a letter or digit"
)]
pub struct ParseNameError {
    kind: &'static str,
    text: String,
}

fn check(kind: &'static str, text: &str) -> Result<(), ParseNameError> {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && text.len() <= 51 && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Ok(());
    }
    Err(ParseNameError {
        kind,
        text: text.chars().take(80).collect(),
    })
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseNameError;
            fn from_str(text: &str) -> Result<Self, ParseNameError> {
                check($kind, text).map(|()| Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
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
                crate::openapi::text("^[A-Za-z0-9][A-Za-z0-9_-]{0,50}$")
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

names! {
    /// The name of an organization, unique on a service.
    OrganizationName = "organization";
    /// The name of a project inside an organization.
    ProjectName = "project";
    /// The name of a repo inside a project. A pipeline has the name of its output repo.
    RepoName = "repo";
    /// The name of a branch of a repo.
    BranchName = "branch";
    /// The name of a secret of a project.
    SecretName = "secret";
    /// The name of a team inside an organization.
    TeamName = "team";
    /// The name of a service account inside an organization.
    ServiceAccountName = "service account";
}

impl ProjectName {
    /// The project that always exists.
    pub fn default_project() -> Self {
        Self("default".to_owned())
    }
}

impl BranchName {
    /// The branch that is meant when none is named.
    pub fn main() -> Self {
        Self("main".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_published_pattern() {
        for good in ["a", "9lives", "score-red", "A_b-c", &"x".repeat(51)] {
            assert!(good.parse::<RepoName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "a/b", "a.b", "ä", "a b", "a@b", &"x".repeat(52)] {
            assert!(bad.parse::<RepoName>().is_err(), "{bad}");
        }
    }
}
