//! The layer around all routes: finds out who it is that asks, counts, waits for a turn, and tells what is left.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use contract::names::OrganizationName;
use contract::problem::ProblemKind;
use sha2::{Digest, Sha256};

use super::{Class, Spent, Subject};
use crate::app::{App, BODY_MOST};
use crate::refusal::Refusal;

/// No request of the API takes longer, the sending of its body included.
const LONGEST: Duration = Duration::from_secs(60);

/// What is left to the caller by the tightest of its limits; handlers that learn more of him add to it.
#[derive(Clone)]
pub struct Ledger {
    class: Class,
    here: bool,
    token: Option<Subject>,
    spent: Arc<Mutex<Option<Spent>>>,
}

impl Ledger {
    fn new(class: Class, here: bool, token: Option<Subject>) -> Self {
        Self {
            class,
            here,
            token,
            spent: Arc::default(),
        }
    }

    /// Counts the request for one more subject.
    ///
    /// # Errors
    /// `slow-down`.
    pub fn count(&self, app: &App, subject: &Subject) -> Result<(), Refusal> {
        let counted = app.traffic.count(subject, self.class, self.here);
        let (spent, refusal) = match counted {
            Ok(spent) => (spent, None),
            Err((spent, refusal)) => (spent, Some(refusal)),
        };
        let mut tightest = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if tightest.is_none_or(|known| spent.left < known.left || spent.wait > 0) {
            *tightest = Some(spent);
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Notes that the caller was let into an organization, in whose queue he waits from now on.
    pub fn let_in(&self, app: &App, organization: &OrganizationName) {
        if let Some(token) = &self.token {
            app.turns.let_in(token.clone(), organization.clone());
        }
    }

    fn tell(&self, headers: &mut HeaderMap) {
        let Some(spent) = *self.spent.lock().unwrap_or_else(PoisonError::into_inner) else {
            return;
        };
        let mut tell = |name: &'static str, text: String| {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        };
        tell("ratelimit-policy", format!("\"{}\";q={};w=60", spent.of, spent.limit));
        // A bucket that is not full is full again after so much of its minute.
        let missing = u64::from(spent.limit.saturating_sub(spent.left));
        let reset = (missing * 60).div_ceil(u64::from(spent.limit.max(1)));
        tell("ratelimit", format!("\"{}\";r={};t={reset}", spent.of, spent.left));
        if spent.wait > 0 {
            tell("retry-after", spent.wait.to_string());
        }
    }
}

/// Counts a request and lets it through, or answers that it is too much.
pub async fn counted(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let address = client(&app, &mut request);
    let Some(class) = Class::of(request.method(), request.uri().path()) else {
        return next.run(request).await;
    };
    let token = token(request.headers());
    let ledger = Ledger::new(class, address.is_loopback(), token);
    let mut response = match admitted(&app, &ledger, address, request, next).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    };
    ledger.tell(response.headers_mut());
    response
}

/// The same for the address of services, all of which goes through to data planes. What user code answers says nothing of our limits:
/// only refusals do.
pub async fn counted_of_services(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let address = client(&app, &mut request);
    let ledger = Ledger::new(Class::Plane, address.is_loopback(), token(request.headers()));
    match admitted(&app, &ledger, address, request, next).await {
        Ok(response) => response,
        Err(refusal) => {
            let mut response = refusal.into_response();
            ledger.tell(response.headers_mut());
            response
        }
    }
}

fn too_long() -> Refusal {
    Refusal::new(
        ProblemKind::UpstreamTimeout,
        format!(
            "the request took longer than {} s and was given up; whether it was carried out is not known",
            LONGEST.as_secs()
        ),
    )
    .hint("look whether it was, then repeat it")
}

/// The client's address; handlers find it where they look for that of the connection.
fn client(app: &App, request: &mut Request) -> IpAddr {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|c| c.0);
    // A request without a connection is one of a test in this process.
    let peer = peer.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let address = app.proxies.client(peer.ip(), request.headers());
    request
        .extensions_mut()
        .insert(ConnectInfo(SocketAddr::new(address, peer.port())));
    address
}

/// Counts the request, waits for its turn, and has it answered.
async fn admitted(
    app: &App,
    ledger: &Ledger,
    address: IpAddr,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    ledger.count(app, &Subject::address(address))?;
    if let Some(token) = &ledger.token {
        ledger.count(app, token)?;
    }
    request.extensions_mut().insert(ledger.clone());
    // What goes through to a plane has streams that last, and waits for no connection here.
    if ledger.class == Class::Plane {
        return Ok(next.run(request).await);
    }
    let organization = organization(request.uri().path());
    let crowd = app.turns.crowd(ledger.token.as_ref(), organization);
    let crowd = crowd.or_else(|| ledger.token.clone());
    let answered = async {
        // All of the body is there before a turn is taken: nobody holds one while he sends it slowly.
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, chassis::http::whole(body, BODY_MOST).await?.into());
        let _turn = app
            .turns
            .take(crowd.unwrap_or_else(|| Subject::address(address)))
            .await?;
        Ok(next.run(request).await)
    };
    tokio::time::timeout(LONGEST, answered)
        .await
        .unwrap_or_else(|_| Err(too_long()))
}

/// The session or API token; access tokens are new every few minutes and counted where they are verified.
fn token(headers: &HeaderMap) -> Option<Subject> {
    let bearer = chassis::http::bearer(headers).ok()?;
    let digest: [u8; 32] = Sha256::digest(bearer.strip_prefix("hwd_")?.as_bytes()).into();
    let mut start = [0; 16];
    start.copy_from_slice(&digest[..16]);
    Some(Subject::Token(start))
}

/// The organization that a path names, true or not.
fn organization(path: &str) -> Option<OrganizationName> {
    path.strip_prefix("/v1/organizations/")?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_which_organization_it_names() {
        let of = |path: &str| organization(path).map(|name| name.to_string());
        assert_eq!(of("/v1/organizations/acme/teams"), Some("acme".to_owned()));
        assert_eq!(of(&format!("/v1/organizations/{}/teams", "x".repeat(60_000))), None);
        assert_eq!(of("/v1/organizations"), None);
        assert_eq!(of("/v1/account"), None);
    }
}
