//! Branches that follow others.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::names::BranchName;

/// What shall make a branch follow another one of its repo; one condition at the least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTrigger {
    /// The branch to watch.
    pub branch: BranchName,
    /// It has grown by so many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// It is ahead by so many commits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commits: Option<u64>,
    /// A tick of this cron expression (five fields, UTC) has passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// All of these have to hold, and not one of them.
    #[serde(default)]
    pub all: bool,
}

/// What makes a branch follow another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchTrigger {
    /// The conditions.
    #[serde(flatten)]
    pub on: NewTrigger,
    /// When it followed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired_at: Option<DateTime<Utc>>,
    /// Why it did not when it should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl PartialSchema for BranchTrigger {
    fn schema() -> RefOr<Schema> {
        // Not `allOf`: a new trigger takes no other fields than its own, and this has some.
        match NewTrigger::schema() {
            RefOr::T(Schema::Object(mut object)) => {
                object.additional_properties = None;
                let time = ObjectBuilder::new()
                    .schema_type(Type::String)
                    .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
                object.properties.insert("fired_at".to_owned(), time.into());
                object.properties.insert("reason".to_owned(), String::schema());
                object.into()
            }
            other => other,
        }
    }
}

impl ToSchema for BranchTrigger {}
