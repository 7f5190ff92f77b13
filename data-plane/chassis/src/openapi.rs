//! The OpenAPI document of a plane: what its routes say of themselves, and what holds for all of them. Slices give their handlers
//! `#[utoipa::path]` with the answer of success and register them with `routes!`, so no route is served that the document does not
//! know; problems, authentication and unique operation ids are added here.

use axum::http::header;
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, InfoBuilder, OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

use contract::problem::{FieldError, Problem};

/// Where every plane shows its document.
pub const PATH: &str = "/openapi.json";

const PROBLEM: &str = "Problem";
const TOKEN: &str = "token";

/// The whole document: what the routes said, a title and a description, how one authenticates, and that every route may answer a
/// problem. The tags of a route stand before its handler's name in the operation id.
#[must_use]
pub fn document(mut api: OpenApi, title: &str, description: &str) -> OpenApi {
    api.info = InfoBuilder::new()
        .title(title)
        .description(Some(description))
        .version(env!("CARGO_PKG_VERSION"))
        .build();
    for item in api.paths.paths.values_mut() {
        for operation in operations(item) {
            complete(operation);
        }
    }
    let components = api.components.get_or_insert_with(Components::new);
    components.add_security_scheme(
        TOKEN,
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some(
                    "a session or API token at the control plane, an access token at a data plane",
                ))
                .build(),
        ),
    );
    components
        .schemas
        .insert(Problem::name().into_owned(), Problem::schema());
    components
        .schemas
        .insert(FieldError::name().into_owned(), FieldError::schema());
    components.responses.insert(
        PROBLEM.to_owned(),
        ResponseBuilder::new()
            .description("what went wrong, why, and what to do (RFC 9457)")
            .content(
                "application/problem+json",
                ContentBuilder::new()
                    .schema(Some(Ref::from_schema_name(Problem::name())))
                    .build(),
            )
            .build()
            .into(),
    );
    api.security = Some(vec![SecurityRequirement::new(TOKEN, Vec::<String>::new())]);
    api
}

/// The route that shows a document.
pub fn served<S: Clone + Send + Sync + 'static>(api: &OpenApi) -> MethodRouter<S> {
    // A document is made of texts and maps by texts: JSON takes all of it.
    let json = Bytes::from(serde_json::to_vec(api).unwrap_or_default());
    get(move || async move { ([(header::CONTENT_TYPE, "application/json")], json) })
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.patch,
        &mut item.head,
        &mut item.options,
    ]
    .into_iter()
    .flatten()
}

fn complete(operation: &mut Operation) {
    let tag = operation.tags.iter().flatten().next().cloned().unwrap_or_default();
    if let Some(id) = operation.operation_id.as_mut() {
        *id = format!("{tag}_{id}").replace(['-', ' '], "_");
    }
    for range in ["4XX", "5XX"] {
        operation
            .responses
            .responses
            .entry(range.to_owned())
            .or_insert_with(|| RefOr::Ref(Ref::from_response_name(PROBLEM)));
    }
}
