//! What comes to the address of services: who it is from, then on to the data plane. Bodies stream, connections may change
//! to another protocol (WebSockets).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use contract::ids::TokenId;
use contract::names::{OrganizationName, ProjectName, RepoName};
use contract::problem::ProblemKind;
use contract::serving::{COOKIE, HEADER, PREFIX, SECURE_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;

use super::entries::{self, Access, Entry};
use super::hosts::{Hosts, label};
use super::lasting;
use crate::app::App;
use crate::authz;
use crate::gateway::{self, headers::strip_hop_by_hop};
use crate::planes::live::InFlight;
use crate::refusal::Refusal;
use crate::traffic::{self, Ledger, Subject};

/// The parameter that a link of `howdah open` carries.
pub(super) const TICKET: &str = "howdah-ticket";

/// Serves until the shutdown begins.
///
/// # Errors
/// When the listener fails.
pub async fn serve(app: Arc<App>, listener: tokio::net::TcpListener) -> anyhow::Result<()> {
    let shutdown = app.shutdown.clone();
    let router = Router::new()
        .fallback(enter)
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(&app), traffic::counted_of_services))
        .with_state(app);
    let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
    let server = axum::serve(chassis::http::prompt(listener), service).with_graceful_shutdown(shutdown.begun());
    tokio::select! {
        ended = std::future::IntoFuture::into_future(server) => ended.context("the server of services ended"),
        () = async {
            shutdown.begun().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        } => Ok(()),
    }
}

async fn enter(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let hosts = app.hosts.get().ok_or_else(Refusal::not_found)?.clone();
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|value| value.to_str().ok())
        .or_else(|| request.uri().authority().map(http::uri::Authority::as_str))
        .unwrap_or_default()
        .to_owned();
    match hosts.label_of(&host) {
        Some(found) => browser(&app, &hosts, &host, &found.to_ascii_lowercase(), request).await,
        None => program(&app, &hosts, &host, request).await,
    }
}

/// Where a request goes on.
struct Onward {
    access: Access,
    /// `/services/{project}/{name}/…`.
    path: String,
    /// What browsers see in front of the service's own path.
    prefix: String,
    /// The session or token behind it, to look again.
    token: TokenId,
}

async fn browser(
    app: &Arc<App>,
    hosts: &Hosts,
    host: &str,
    label_asked: &str,
    request: Request,
) -> Result<Response, Refusal> {
    if let Some((ticket, rest)) = ticket(&request) {
        return admit(app, hosts, label_asked, (&ticket, &rest), request.headers()).await;
    }
    let entry = by_cookie(app, hosts, label_asked, request.headers()).await?;
    same_origin(hosts, &entry, request.headers())?;
    let actor = entries::actor(app, &entry).await?;
    let access = entries::access(app, &actor, &entry.place.organization_name).await?;
    if access.organization != entry.place.organization {
        return Err(Refusal::not_found());
    }
    let asked = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let onward = Onward {
        access,
        path: format!("{PREFIX}{}/{}{asked}", entry.place.project, entry.place.name),
        prefix: String::new(),
        token: entry.token,
    };
    let mut answer = forward(app, hosts, host, onward, request).await?;
    // Beside what the service itself says of it: all such headers count.
    answer.headers_mut().append(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("frame-ancestors 'self'"),
    );
    let problem = answer.headers().get(header::CONTENT_TYPE);
    if answer.status() == StatusCode::SERVICE_UNAVAILABLE
        && problem.is_some_and(|kind| kind == "application/problem+json")
    {
        // What is being started is there in a moment: the browser asks again by itself.
        answer
            .headers_mut()
            .insert(header::REFRESH, HeaderValue::from_static("3"));
    }
    Ok(answer)
}

/// The ticket of a request and its address without it.
fn ticket(request: &Request) -> Option<(String, String)> {
    let query = request.uri().query()?;
    let mut found = None;
    let rest: Vec<&str> = query
        .split('&')
        .filter(
            |part| match part.strip_prefix(TICKET).and_then(|p| p.strip_prefix('=')) {
                Some(ticket) => {
                    found = Some(ticket.to_owned());
                    false
                }
                None => true,
            },
        )
        .collect();
    let path = request.uri().path();
    let rest = match rest.as_slice() {
        [] => path.to_owned(),
        rest => format!("{path}?{}", rest.join("&")),
    };
    // A path of two slashes would be another host.
    let rest = format!("/{}", rest.trim_start_matches('/'));
    found.map(|ticket| (ticket, rest))
}

/// Gives the cookie for a ticket, once.
async fn admit(
    app: &Arc<App>,
    hosts: &Hosts,
    label_asked: &str,
    (ticket, rest): (&str, &str),
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let redirect = |cookie: Option<String>| {
        let mut answer = (StatusCode::SEE_OTHER, [(header::LOCATION, rest.to_owned())]).into_response();
        let headers = answer.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if let Some(value) = cookie.and_then(|cookie| HeaderValue::from_str(&cookie).ok()) {
            headers.insert(header::SET_COOKIE, value);
        }
        answer
    };
    match entries::redeem(app, ticket).await? {
        Some((secret, entry)) if label(&entry.place) == label_asked => {
            let secure = if hosts.is_secure() { "; Secure" } else { "" };
            Ok(redirect(Some(format!(
                "{}={secret}; Path=/; HttpOnly; SameSite=Lax{secure}",
                name(hosts)
            ))))
        }
        // The link again, in a browser that has been let in.
        _ if by_cookie(app, hosts, label_asked, headers).await.is_ok() => Ok(redirect(None)),
        _ => Err(unknown()),
    }
}

fn name(hosts: &Hosts) -> &'static str {
    if hosts.is_secure() { SECURE_COOKIE } else { COOKIE }
}

/// The same for every host, whether there is a service of that label or not.
fn unknown() -> Refusal {
    Refusal::new(
        ProblemKind::SignedOut,
        "this address is opened by a link that is good once and for a minute",
    )
    .hint("get one with `howdah open PIPELINE`")
}

async fn by_cookie(app: &App, hosts: &Hosts, label_asked: &str, headers: &HeaderMap) -> Result<Entry, Refusal> {
    let wanted = name(hosts);
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    let secrets = cookies
        .flat_map(|value| value.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .filter(|(name, _)| *name == wanted)
        .map(|(_, secret)| secret);
    for secret in secrets.take(4) {
        let found = entries::find(app, secret).await?;
        if let Some(entry) = found.filter(|entry| label(&entry.place) == label_asked) {
            return Ok(entry);
        }
    }
    Err(unknown())
}

/// Pages of other origins may lead here, and nothing more: browsers send the cookie with their requests too.
fn same_origin(hosts: &Hosts, entry: &Entry, headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let own = hosts.origin(&entry.place);
    let foreign = text(header::ORIGIN).is_some_and(|origin| !origin.eq_ignore_ascii_case(&own));
    let site = text(HeaderName::from_static("sec-fetch-site")).unwrap_or("none");
    let mode = text(HeaderName::from_static("sec-fetch-mode")).unwrap_or("navigate");
    let dest = text(HeaderName::from_static("sec-fetch-dest")).unwrap_or("document");
    // Not into a frame either: what is clicked on in there would be clicked on here.
    let leads_here = mode == "navigate" && dest == "document";
    if foreign || (matches!(site, "cross-site" | "same-site") && !leads_here) {
        return Err(Refusal::not_allowed(
            "a page of another origin asked for this",
            "open the service itself: `howdah open PIPELINE`",
        ));
    }
    Ok(())
}

async fn program(app: &Arc<App>, hosts: &Hosts, host: &str, mut request: Request) -> Result<Response, Refusal> {
    let secret = chassis::http::bearer(request.headers())?;
    let claims = match secret.starts_with("hwd_") {
        true => None,
        false => Some(gateway::verify(app, &request)?),
    };
    let asked = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let (organization, project, name, rest) = split(asked).ok_or_else(Refusal::not_found)?;
    let (access, token) = match claims {
        Some(claims) => {
            gateway::check_name(app, claims.org, organization.as_str()).await?;
            let route = crate::planes::wake(app, claims.org).await?;
            let access = Access {
                organization: claims.org,
                organization_name: organization.clone(),
                plane_url: route.url,
                token: secret.to_owned(),
            };
            (access, claims.token)
        }
        None => {
            let actor = authz::authenticate(&app.pool, secret, app.environment.now()).await?;
            let access = entries::access(app, &actor, &organization).await?;
            (access, actor.token())
        }
    };
    let onward = Onward {
        path: format!("{PREFIX}{project}/{name}{rest}"),
        prefix: format!("/{organization}/{project}/{name}"),
        access,
        token,
    };
    // All services share this address: a cookie of one would be sent to the others.
    request.headers_mut().remove(header::COOKIE);
    let mut answer = forward(app, hosts, host, onward, request).await?;
    answer.headers_mut().remove(header::SET_COOKIE);
    Ok(answer)
}

/// `/acme/default/lab/tree?x=1` → organization, project, pipeline, `/tree?x=1`.
fn split(asked: &str) -> Option<(OrganizationName, ProjectName, RepoName, String)> {
    let mut parts = asked.strip_prefix('/')?.splitn(4, '/');
    let mut next = || parts.next();
    Some((
        next()?.parse().ok()?,
        next()?.parse().ok()?,
        next()?.parse().ok()?,
        format!("/{}", next()?),
    ))
}

async fn forward(
    app: &Arc<App>,
    hosts: &Hosts,
    host: &str,
    onward: Onward,
    mut request: Request,
) -> Result<Response, Refusal> {
    if let Some(ledger) = request.extensions().get::<Ledger>() {
        ledger.count(app, &Subject::Organization(onward.access.organization.to_string()))?;
    }
    let hold = gateway::hold(app, onward.access.organization);
    let caller = hyper::upgrade::on(&mut request);
    *request.uri_mut() = format!("{}{}", onward.access.plane_url, onward.path)
        .parse()
        .map_err(|_| Refusal::new(ProblemKind::Malformed, "the address of the request cannot be forwarded"))?;
    *request.version_mut() = http::Version::HTTP_11;
    let headers = request.headers_mut();
    strip_keeping_upgrade(headers);
    strip_forwarded(headers);
    headers.remove(header::HOST);
    for (name, value) in [
        (header::AUTHORIZATION, format!("Bearer {}", onward.access.token)),
        (HeaderName::from_static(HEADER), "1".to_owned()),
        (HeaderName::from_static("x-forwarded-host"), host.to_owned()),
        (HeaderName::from_static("x-forwarded-proto"), hosts.scheme().to_owned()),
        (HeaderName::from_static("x-forwarded-prefix"), onward.prefix),
    ] {
        let value = HeaderValue::from_str(&value).map_err(chassis::http::ApiError::internal)?;
        headers.insert(name, value);
    }
    let mut over = lasting::over(Arc::clone(app), onward.token);
    let mut answer = tokio::select! {
        answer = app.plane_client.request(request) => {
            answer.map_err(|error| gateway::broken(app, onward.access.organization, &error))?
        }
        () = &mut over => return Err(lasting::ended()),
    };
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let plane = hyper::upgrade::on(&mut answer);
        tokio::spawn(join((caller, plane), over, hold));
        let (mut parts, _) = answer.into_parts();
        strip_keeping_upgrade(&mut parts.headers);
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let (mut parts, body) = answer.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    let body = body.map_frame(move |frame| {
        let _ = &hold;
        frame
    });
    Ok(Response::from_parts(parts, lasting::until(Body::new(body), over)))
}

/// Only we say on whose behalf a request comes.
fn strip_forwarded(headers: &mut HeaderMap) {
    let said: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip")
        })
        .cloned()
        .collect();
    for name in said {
        headers.remove(name);
    }
}

fn strip_keeping_upgrade(headers: &mut HeaderMap) {
    let wants = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(header::UPGRADE).filter(|_| wants).cloned();
    strip_hop_by_hop(headers);
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

/// Carries bytes both ways until a side ends or the session behind them does. The plane asks for the rights.
async fn join(
    (caller, plane): (hyper::upgrade::OnUpgrade, hyper::upgrade::OnUpgrade),
    over: lasting::Over,
    hold: InFlight,
) {
    let (Ok(caller), Ok(plane)) = tokio::join!(caller, plane) else {
        return;
    };
    let (mut caller, mut plane) = (TokioIo::new(caller), TokioIo::new(plane));
    tokio::select! {
        // How it ended is the affair of the two.
        _ = tokio::io::copy_bidirectional(&mut caller, &mut plane) => {}
        () = over => {}
    }
    drop(hold);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(uri: &str) -> Request {
        Request::get(uri).body(Body::empty()).unwrap()
    }

    #[test]
    fn a_ticket_is_taken_out_of_the_address() {
        let found = |uri| ticket(&asked(uri));
        assert_eq!(found("/?howdah-ticket=abc"), Some(("abc".to_owned(), "/".to_owned())));
        assert_eq!(
            found("/a/b?x=1&howdah-ticket=abc&y"),
            Some(("abc".to_owned(), "/a/b?x=1&y".to_owned()))
        );
        assert_eq!(
            found("http://h//evil.test/?howdah-ticket=a"),
            Some(("a".to_owned(), "/evil.test/".to_owned()))
        );
        assert_eq!(found("/?howdah-ticket-of-mine=abc"), None);
    }

    #[test]
    fn what_clients_say_of_whom_they_forward_for_is_dropped() {
        let mut headers = HeaderMap::new();
        for name in ["x-forwarded-for", "x-forwarded-user", "forwarded", "x-real-ip", "x-own"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        strip_forwarded(&mut headers);
        let left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-own"]);
    }

    #[test]
    fn a_program_names_the_service_in_its_path() {
        let (organization, project, name, rest) = split("/acme/default/lab/tree/a?x=/1").unwrap();
        assert_eq!(
            (organization.as_str(), project.as_str(), name.as_str(), rest.as_str()),
            ("acme", "default", "lab", "/tree/a?x=/1")
        );
        assert!(split("/acme/default/lab").is_none() && split("/acme/default/").is_none());
    }
}
