//! The OpenAPI document of a plane: what its routes say of themselves, and what holds for all of them. Slices give their handlers
//! `#[utoipa::path]` with the answer of success and register them with `routes!`, so no route is served that the document does not
//! know; problems, authentication and unique operation ids are added here.

use axum::http::{StatusCode, header};
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, Header, InfoBuilder, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use contract::problem::{FieldError, Problem};

/// Where every plane shows its document.
pub const PATH: &str = "/openapi.json";

const PROBLEM: &str = "Problem";
const TOKEN: &str = "token";

/// What parts of paths are, where the route does not say more.
const PARAMETERS: &[(&str, &str)] = &[
    ("org", "the name of the organization"),
    ("project", "the name of the project"),
    ("repo", "the name of the repo"),
    ("branch", "the name of the branch"),
    ("name", "its name"),
    ("id", "its id"),
    ("principal", "an account id or an e-mail address"),
    ("team", "the name or id of the team"),
    ("member", "an e-mail address, or `sa:NAME` of a service account"),
];

/// The whole document: what the routes said, a title and a description, how one authenticates, and that every route may answer a
/// problem. The tags of a route stand before its handler's name in the operation id.
#[must_use]
pub fn document(mut api: OpenApi, title: &str, description: &str) -> OpenApi {
    api.info = InfoBuilder::new()
        .title(title)
        .description(Some(description))
        .version(env!("CARGO_PKG_VERSION"))
        .build();
    for (path, item) in &mut api.paths.paths {
        item.get.iter_mut().for_each(tag);
        for operation in operations(item) {
            complete(path, operation);
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
    with_texts(api)
}

/// Adds ids and names that are referred to and that nothing brought along.
fn with_texts(mut api: OpenApi) -> OpenApi {
    let written = serde_json::to_string(&api).unwrap_or_default();
    let wanted = |name: &str| written.contains(&format!("\"#/components/schemas/{name}\""));
    let components = api.components.get_or_insert_with(Components::new);
    for (name, schema) in contract::openapi::texts() {
        if wanted(name) {
            components.schemas.entry(name.to_owned()).or_insert(schema);
        }
    }
    api
}

/// Bytes, in an answer or a body.
pub struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
            .into()
    }
}

impl ToSchema for Binary {}

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

/// Says of what answers JSON that it has a tag and can be asked for by it (`crate::etag`).
fn tag(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    let Some(RefOr::T(answer)) = responses.get_mut("200") else {
        return;
    };
    if !answer.content.contains_key("application/json") {
        return;
    }
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let header = Header::builder()
        .schema(Some(text()))
        .description(Some("the tag of this answer"))
        .build();
    answer.headers.insert("etag".to_owned(), header.into());
    responses
        .entry("304".to_owned())
        .or_insert_with(|| Response::new("nothing has changed").into());
    operation.parameters.get_or_insert_default().push(
        ParameterBuilder::new()
            .name("if-none-match")
            .parameter_in(ParameterIn::Header)
            .description(Some("the tags of answers that the caller has"))
            .schema(Some(text()))
            .build()
            .into(),
    );
}

/// Describes the parts of the path, and adds those that the handler did not tell the type of.
fn describe_path(path: &str, operation: &mut Operation) {
    let parameters = operation.parameters.get_or_insert_default();
    for name in path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    {
        let known = PARAMETERS.iter().find(|(known, _)| *known == name);
        let description = known.map_or_else(|| format!("its {name}"), |(_, known)| (*known).to_owned());
        let is_that = |p: &&mut RefOr<Parameter>| matches!(p, RefOr::T(p) if p.name == name && p.parameter_in == ParameterIn::Path);
        match parameters.iter_mut().find(is_that) {
            Some(RefOr::T(parameter)) => {
                parameter.description.get_or_insert(description);
            }
            _ => parameters.push(
                ParameterBuilder::new()
                    .name(name)
                    .parameter_in(ParameterIn::Path)
                    .required(Required::True)
                    .description(Some(description))
                    .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
                    .build()
                    .into(),
            ),
        }
    }
}

fn complete(path: &str, operation: &mut Operation) {
    describe_path(path, operation);
    let tag = operation.tags.iter().flatten().next().cloned().unwrap_or_default();
    if let Some(id) = operation.operation_id.as_mut() {
        *id = format!("{tag}_{id}").replace(['-', ' '], "_");
    }
    for (status, response) in &mut operation.responses.responses {
        let known = status
            .parse()
            .ok()
            .and_then(|code: u16| StatusCode::from_u16(code).ok());
        if let (RefOr::T(response), Some(reason)) = (response, known.and_then(|code| code.canonical_reason()))
            && response.description.is_empty()
        {
            response.description = reason.to_lowercase();
        }
    }
    for range in ["4XX", "5XX"] {
        operation
            .responses
            .responses
            .entry(range.to_owned())
            .or_insert_with(|| RefOr::Ref(Ref::from_response_name(PROBLEM)));
    }
}
