//! The layer around all routes: finds out who it is that asks, counts, waits for a turn, and tells what is left.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use contract::problem::ProblemKind;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::{Class, Spent, Subject};
use crate::app::App;
use crate::refusal::Refusal;

/// No request of the API takes longer, the sending of its body included.
const LONGEST: Duration = Duration::from_secs(60);

/// What is left to the caller by the tightest of its limits; handlers that learn more of him add to it.
#[derive(Clone)]
pub struct Ledger {
    class: Class,
    here: bool,
    spent: Arc<Mutex<Option<Spent>>>,
}

impl Ledger {
    fn new(class: Class, here: bool) -> Self {
        Self {
            class,
            here,
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
    let ledger = Ledger::new(class, address.is_loopback());
    let caller = (address, token(request.headers()), organization(request.uri().path()));
    let mut response = match admit(&app, &ledger, caller).await {
        Ok(turn) => {
            request.extensions_mut().insert(ledger.clone());
            let answer = async {
                let response = next.run(request).await;
                drop(turn);
                response
            };
            match class {
                // Streams to and from planes last as long as they last.
                Class::Plane => answer.await,
                _ => match tokio::time::timeout(LONGEST, answer).await {
                    Ok(response) => response,
                    Err(_) => too_long().into_response(),
                },
            }
        }
        Err(refusal) => refusal.into_response(),
    };
    ledger.tell(response.headers_mut());
    response
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

/// Counts the request and waits for its turn.
async fn admit(
    app: &App,
    ledger: &Ledger,
    (address, token, organization): (IpAddr, Option<Subject>, Option<Subject>),
) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
    ledger.count(app, &Subject::address(address))?;
    if let Some(token) = &token {
        ledger.count(app, token)?;
    }
    // What goes through to a plane has streams that last, and waits for no connection here.
    if ledger.class == Class::Plane {
        return Ok(None);
    }
    let crowd = organization.or(token).unwrap_or_else(|| Subject::address(address));
    app.turns.take(crowd).await.map(Some)
}

/// The session or API token; access tokens are new every few minutes and counted where they are verified.
fn token(headers: &HeaderMap) -> Option<Subject> {
    let bearer = chassis::http::bearer(headers).ok()?;
    let digest: [u8; 32] = Sha256::digest(bearer.strip_prefix("hwd_")?.as_bytes()).into();
    let mut start = [0; 16];
    start.copy_from_slice(&digest[..16]);
    Some(Subject::Token(start))
}

/// The organization that a path names, true or not: only whose queue it waits in follows from it.
fn organization(path: &str) -> Option<Subject> {
    let name = path.strip_prefix("/v1/organizations/")?.split('/').next()?;
    Some(Subject::Organization(name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_whose_queue_it_waits_in() {
        let of = |path: &str| organization(path);
        assert_eq!(
            of("/v1/organizations/Acme/teams"),
            Some(Subject::Organization("acme".to_owned()))
        );
        assert_eq!(of("/v1/organizations"), None);
        assert_eq!(of("/v1/account"), None);
    }
}
