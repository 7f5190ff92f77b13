//! How types that are texts in JSON look in an OpenAPI document.

use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{RefOr, RefOr::T};

use crate::{ids, names};

/// A text that this regular expression fits.
pub fn text(pattern: &str) -> RefOr<Schema> {
    let object = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(pattern))
        .build();
    T(Schema::Object(object))
}

/// All ids and names by what they are called in a document. Parameters refer to them, and parameters bring no schemas along.
pub fn texts() -> Vec<(&'static str, RefOr<Schema>)> {
    let mut all = ids::schemas();
    all.extend(names::schemas());
    all
}
