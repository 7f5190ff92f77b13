//! Problems as responses, extractors that answer problems, and the layers that every server has: a request id, a span,
//! a time limit for slow requests.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::{ListenerExt, TapIo};
use contract::config::TelemetryConfig;
use contract::problem::{Problem, ProblemKind, Retry};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tracing::Instrument;

use crate::telemetry::{self, Requests};

/// The header that carries a request's id, in and out.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header by which a caller names the highest policy epoch that it has seen.
pub const EPOCH: HeaderName = HeaderName::from_static("howdah-epoch");

/// A problem that is answered. `?` turns operation errors into it through `From`.
#[derive(Debug, Clone)]
pub struct ApiError(pub Box<Problem>);

impl ApiError {
    /// A problem of that kind with its detail: what and why, lowercase.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(kind, detail)))
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The one answer for what does not exist or may not be known; it never depends on which.
    pub fn not_found() -> Self {
        Self::new(
            ProblemKind::NotFound,
            "there is nothing of that name that you may know of",
        )
        .hint("check the name, the project and the organization, or ask its owner for access")
    }

    /// A mistake of ours or of something we depend on: logged here in full, answered without any of it.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(error = %error, "internal error: {error}");
        Self::new(
            ProblemKind::Internal,
            "something went wrong on our side; nothing of the request was kept",
        )
        .hint("repeat the request; if it stays, report the request id")
    }

    /// A part that we depend on is away.
    pub fn overloaded(error: impl std::fmt::Display) -> Self {
        tracing::warn!(error = %error, "temporarily not available: {error}");
        Self::new(
            ProblemKind::Overloaded,
            "a part that this request depends on is temporarily away",
        )
        .hint("repeat the request after a second")
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry = match self.0.kind() {
            // What holds it up lasts longer than a moment: something of the caller's own that runs, or a limit by the minute.
            Some(ProblemKind::SlowDown) => Some("10"),
            Some(kind) if kind.retry() == Retry::Later && kind != ProblemKind::Internal => Some("1"),
            _ => None,
        };
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if let Some(seconds) = retry {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response
    }
}

/// A JSON body; anything else is answered with a problem that names the place.
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = match Bytes::from_request(Request::from_parts(parts.clone(), body), state).await {
            Ok(bytes) => bytes,
            Err(e) if e.status() == StatusCode::PAYLOAD_TOO_LARGE => return Err(too_large()),
            Err(e) => {
                let detail = format!("the body cannot be read: {}", reason(&e.body_text()));
                return Err(ApiError::new(ProblemKind::Malformed, detail));
            }
        };
        // serde takes a list for an object of that many fields, which no document of ours says.
        if bytes.trim_ascii_start().starts_with(b"[") {
            let detail = "the body does not fit: it is a list, and has to be an object";
            return Err(ApiError::new(ProblemKind::Invalid, detail));
        }
        match axum::Json::<T>::from_request(Request::from_parts(parts, Body::from(bytes)), state).await {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(JsonRejection::JsonDataError(e)) => Err(ApiError::new(
                ProblemKind::Invalid,
                format!("the body does not fit: {}", reason(&e.body_text())),
            )),
            Err(e) => Err(ApiError::new(
                ProblemKind::Malformed,
                format!("the body is not JSON: {}", reason(&e.body_text())),
            )),
        }
    }
}

impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// All of a request's body, in memory.
///
/// # Errors
/// `too-large` when it has more than `bytes_max` bytes.
pub async fn whole(body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    axum::body::to_bytes(body, bytes_max).await.map_err(|_| too_large())
}

fn too_large() -> ApiError {
    ApiError::new(ProblemKind::TooLarge, "the body is over the limit of this route")
}

/// axum's texts begin with a sentence of their own; what follows the first colon is serde's.
fn reason(text: &str) -> String {
    text.split_once(": ").map_or(text, |(_, rest)| rest).to_lowercase()
}

/// Query parameters.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned + Send> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, ApiError> {
        axum::extract::Query::<T>::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|e: QueryRejection| {
                ApiError::new(
                    ProblemKind::Malformed,
                    format!("a query parameter does not fit: {}", reason(&e.body_text())),
                )
            })
    }
}

/// Parts of the path. A part that cannot be parsed cannot name anything: 404.
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, ApiError> {
        axum::extract::Path::<T>::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|_: PathRejection| ApiError::not_found())
    }
}

/// The bearer token of a request.
///
/// # Errors
/// `signed-out` when there is none.
pub fn bearer(headers: &axum::http::HeaderMap) -> Result<&str, ApiError> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    let (first, second) = (sent.next(), sent.next());
    if second.is_some() {
        // Whoever stands between might have looked at the other one.
        return Err(
            ApiError::new(ProblemKind::SignedOut, "the request carries several tokens")
                .hint("send one `Authorization: Bearer <token>`"),
        );
    }
    first
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")))
        .map(str::trim)
        .filter(|token| !token.is_empty())
        .ok_or_else(|| {
            ApiError::new(ProblemKind::SignedOut, "the request carries no token")
                .hint("log in with `howdah login`, or send `Authorization: Bearer <token>`")
        })
}

/// A listener for [`axum::serve`] whose connections send at once what there is: a head and a body written one after the other would
/// otherwise wait for the other side's delayed acknowledgement, some 40 ms.
pub fn prompt(listener: TcpListener) -> TapIo<TcpListener, fn(&mut TcpStream)> {
    listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!("a connection could not be set to send at once: {error}");
        }
    })
}

/// Adds to a router what every server answers alike: problems for unknown routes and methods, a request id on each
/// response and in each problem, a span around each request.
pub fn with_common_layers(router: Router, telemetry: &TelemetryConfig) -> Router {
    let token = telemetry.metrics_token.as_deref();
    let token: Option<[u8; 32]> = token.map(|token| Sha256::digest(token.as_bytes()).into());
    router
        .route("/metrics", get(telemetry::metrics_served).with_state(token))
        .fallback(|| async { ApiError::not_found() })
        .method_not_allowed_fallback(|| async {
            ApiError::new(ProblemKind::MethodNotAllowed, "this address does not know that method")
        })
        .layer(axum::middleware::from_fn(request_id))
}

async fn request_id(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(&REQUEST_ID).and_then(|v| v.to_str().ok());
    let usable =
        given.filter(|v| v.len() <= 64 && v.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    let id = usable.map_or_else(|| format!("req_{}", uuid::Uuid::now_v7().simple()), str::to_owned);
    let Ok(value) = HeaderValue::from_str(&id) else {
        return ApiError::internal("a request id is not a header value").into_response();
    };
    request.headers_mut().insert(&REQUEST_ID, value.clone());
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!(
        "request",
        otel.name = %format!("{} {route}", telemetry::known_method(request.method())),
        otel.kind = "server",
        request.id = %id,
        http.method = %telemetry::known_method(request.method()),
        http.route = %route,
        http.response.status_code = tracing::field::Empty,
    );
    telemetry::of_request(&span, request.headers());
    let timed = Requests::begin(request.method(), &route);
    let mut response = next.run(request).instrument(span.clone()).await;
    timed.end(response.status());
    span.record("http.response.status_code", response.status().as_u16());
    response.headers_mut().insert(&REQUEST_ID, value);
    if is_problem(&response) {
        with_instance(response, &id).await
    } else {
        response
    }
}

fn is_problem(response: &Response) -> bool {
    response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v == "application/problem+json")
}

/// Writes the request id into a problem document; one that came from another process keeps its own.
async fn with_instance(response: Response, id: &str) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, 1 << 20).await else {
        return ApiError::internal("a problem document could not be read").into_response();
    };
    let Ok(mut problem) = serde_json::from_slice::<Problem>(&bytes) else {
        return Response::from_parts(parts, bytes.into());
    };
    problem.instance.get_or_insert_with(|| id.to_owned());
    let bytes = serde_json::to_vec(&problem).unwrap_or_default();
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, bytes.into())
}
