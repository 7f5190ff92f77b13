//! The gateway: `/o/{organization}/…` goes to that organization's data plane, which is woken if it sleeps. The bearer's
//! signature is verified here too, before anything is looked up, so that a stranger neither wakes a plane nor learns
//! which organizations exist. Bodies stream both ways; nothing is buffered.

pub(crate) mod headers;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use chassis::http::ApiError;
use chassis::signed::{Verifier, VerifyError};
use contract::claims::{AccessClaims, plane_audience};
use contract::ids::OrganizationId;
use contract::problem::ProblemKind;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::app::App;
use crate::planes;
use crate::planes::live::InFlight;
use crate::refusal::Refusal;
use crate::traffic::{Ledger, Subject};

/// Bodies up to that size are forwarded in one piece.
const SHORT_BODY_BYTES: usize = 64 << 10;

/// The client that speaks to data planes.
pub type PlaneClient = Client<HttpConnector, Body>;

/// Makes the client: connections are kept and shared.
pub fn client() -> PlaneClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(std::time::Duration::from_secs(5)));
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(std::time::Duration::from_secs(20))
        .build(connector)
}

/// The routes of this slice.
pub fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/o/{org}/{*path}", any(forward))
        .layer(axum::extract::DefaultBodyLimit::disable())
}

async fn forward(State(app): State<Arc<App>>, mut request: Request) -> Result<Response, Refusal> {
    let claims = verify(&app, &request)?;
    if let Some(ledger) = request.extensions().get::<Ledger>() {
        ledger.count(&app, &Subject::Organization(claims.org.to_string()))?;
        ledger.count(&app, &Subject::Account(claims.sub.to_string()))?;
    }
    let path = request
        .uri()
        .path_and_query()
        .map_or("", http::uri::PathAndQuery::as_str);
    let (name, rest) = split(path).ok_or_else(Refusal::not_found)?;
    let (name, rest) = (name.to_owned(), rest.to_owned());
    let hold = hold(&app, claims.org);
    let route = match app.planes.route(claims.org) {
        Some(route) => route,
        None => {
            // The name is checked before the plane is woken: a token for one organization wakes no other.
            check_name(&app, claims.org, &name).await?;
            planes::wake(&app, claims.org).await?
        }
    };
    if !route.name.as_str().eq_ignore_ascii_case(&name) {
        return Err(Refusal::not_found());
    }
    *request.uri_mut() = format!("{}{rest}", route.url)
        .parse()
        .map_err(|_| Refusal::new(ProblemKind::Malformed, "the address of the request cannot be forwarded"))?;
    headers::strip_hop_by_hop(request.headers_mut());
    request.headers_mut().remove(http::header::HOST);
    // A browser's session here is not the plane's business.
    request.headers_mut().remove(http::header::COOKIE);
    // Services have an address of their own.
    request.headers_mut().remove(contract::serving::HEADER);
    chassis::telemetry::inject(request.headers_mut());
    *request.version_mut() = http::Version::HTTP_11;
    let request = at_once(request).await?;
    match app.plane_client.request(request).await {
        Ok(answer) => {
            let (mut parts, body) = answer.into_parts();
            headers::strip_hop_by_hop(&mut parts.headers);
            // The hold ends with the answer's last byte.
            let body = body.map_frame(move |frame| {
                let _ = &hold;
                frame
            });
            Ok(Response::from_parts(parts, Body::new(body)))
        }
        Err(error) => Err(broken(&app, claims.org, &error)),
    }
}

/// Takes a short body in, so that it goes out together with its head: a plane that refuses a request by its head alone closes the
/// connection when the body is not there yet, and what is sent on that connection next is lost.
async fn at_once(request: Request) -> Result<Request, Refusal> {
    let length = request.headers().get(http::header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if !length.is_some_and(|length| (1..=SHORT_BODY_BYTES).contains(&length)) {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, SHORT_BODY_BYTES)
        .await
        .map_err(|_| Refusal::new(ProblemKind::Malformed, "the body of the request broke off"))?;
    Ok(Request::from_parts(parts, body.into()))
}

/// The answer when a plane gave none. One that cannot be reached is looked at by the reconciler.
pub(crate) fn broken(app: &App, organization: OrganizationId, error: &hyper_util::client::legacy::Error) -> Refusal {
    if error.is_connect() {
        tracing::warn!(organization.id = %organization, "a data plane does not answer: {error}");
        app.planes.signal(organization);
        return Refusal::new(
            ProblemKind::PlaneStarting,
            "the data plane does not answer, it is being started again",
        )
        .hint("repeat the request in a second");
    }
    tracing::warn!(organization.id = %organization, "a request to a data plane broke off: {error}");
    Refusal::new(
        ProblemKind::Overloaded,
        "the connection to the data plane broke off; whether the request was carried out is not known",
    )
    .hint("look whether it was, then repeat it")
}

/// Keeps the plane from falling asleep until it is dropped.
pub(crate) fn hold(app: &Arc<App>, organization: OrganizationId) -> InFlight {
    let environment = app.environment.clone();
    app.planes.hold(organization, move || environment.now())
}

/// Believes a token for whichever plane it names; the audience must be that of its own organization.
pub(crate) fn verify(app: &App, request: &Request) -> Result<AccessClaims, Refusal> {
    let token = chassis::http::bearer(request.headers())?;
    let refused = |error: VerifyError| {
        let (kind, detail) = match error {
            VerifyError::Expired => (
                ProblemKind::TokenExpired,
                "the access token has expired, or is not valid yet",
            ),
            other => {
                // Who forges one is not told how far he got.
                tracing::debug!("an access token is not believed: {other}");
                (ProblemKind::SignedOut, "the access token is not valid")
            }
        };
        Refusal::new(kind, detail).hint("get a new one from `POST /v1/access-tokens`")
    };
    let organization = named_organization(token).ok_or_else(|| refused(VerifyError::Malformed))?;
    let verifier =
        Verifier::new(app.keys.jwks(), &app.public_url, &plane_audience(organization)).map_err(ApiError::internal)?;
    let claims = verifier
        .access(token, app.environment.now().timestamp())
        .map_err(refused)?;
    if claims.org != organization {
        return Err(refused(VerifyError::Refused));
    }
    Ok(claims)
}

/// The organization that an unverified token names, to know which audience to verify it for.
fn named_organization(token: &str) -> Option<OrganizationId> {
    use base64::Engine;
    #[derive(serde::Deserialize)]
    struct Named {
        org: OrganizationId,
    }
    let payload = token.split('.').nth(1)?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice::<Named>(&bytes).ok().map(|named| named.org)
}

/// Whether the organization of a verified token has that name.
pub(crate) async fn check_name(app: &App, organization: OrganizationId, name: &str) -> Result<(), Refusal> {
    let proof = crate::authz::System::because("a verified token names the organization");
    let found = planes::queries::find_name(&app.pool, &proof, organization).await?;
    match found {
        Some(known) if known.as_str().eq_ignore_ascii_case(name) => Ok(()),
        _ => Err(Refusal::not_found()),
    }
}

/// `/o/acme/v1/files?x=1` → (`acme`, `/v1/files?x=1`), as it was written, percent-encoding included.
fn split(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/o/")?;
    let at = rest.find('/')?;
    Some(rest.split_at(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_an_address_stays_as_it_was_written() {
        assert_eq!(
            split("/o/acme/v1/files?path=%2Fa%20b"),
            Some(("acme", "/v1/files?path=%2Fa%20b"))
        );
        assert_eq!(split("/o/acme"), None);
        assert_eq!(split("/v1/x"), None);
    }

    #[test]
    fn an_unreadable_token_names_no_organization() {
        for text in ["", "a.b.c", "hwd_pat_x", "..", "a.e30.c"] {
            assert_eq!(named_organization(text), None, "{text}");
        }
    }
}
