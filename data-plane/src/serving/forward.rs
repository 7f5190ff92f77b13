//! One request on its way to a service, and what comes back. The caller's rights are asked again for as long as anything
//! flows: at every change of the policy, and every 20 s in case there is none to be heard of any more (R6).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use contract::problem::ProblemKind;
use futures::StreamExt;
use http::StatusCode;
use hyper_util::rt::TokioIo;
use provenance::origins::OriginSet;
use tokio::net::TcpStream;

use super::headers;
use super::routes::Admitted;
use crate::activity::Busy;
use crate::call::Call;
use crate::failure::{Answer, Failure};

/// So often rights are asked again when nothing is said to have changed.
const RENEWED_EVERY: Duration = Duration::from_secs(20);

/// Sends the request and answers with what the service answers.
///
/// # Errors
/// `overloaded` when the service breaks the connection off.
pub(super) async fn forward(
    call: Call,
    admitted: &Admitted,
    connection: TcpStream,
    mut request: Request,
    path: &str,
) -> Answer<Response> {
    let caller = hyper::upgrade::on(&mut request);
    *request.uri_mut() = path.parse().map_err(|_| Failure::not_found())?;
    *request.version_mut() = http::Version::HTTP_11;
    headers::inward(request.headers_mut());
    let broken = |error: hyper::Error| {
        Failure::new(
            ProblemKind::Overloaded,
            format!("the service broke the connection off: {error}"),
        )
        .hint(format!("look at its log: `howdah logs {}`", admitted.job))
    };
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection))
        .await
        .map_err(broken)?;
    tokio::spawn(driver.with_upgrades());
    let mut answer = sender.send_request(request).await.map_err(broken)?;
    let revoked = revoked(call.renewed()?, Arc::clone(&admitted.origins));
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let service = hyper::upgrade::on(&mut answer);
        let busy = call.plane.activity.begin(&call.plane.environment);
        tokio::spawn(join(caller, service, revoked, busy));
    } else {
        let (mut parts, body) = answer.into_parts();
        headers::outward(&mut parts.headers);
        let body = Body::new(body).into_data_stream().take_until(Box::pin(revoked));
        return Ok(Response::from_parts(parts, Body::from_stream(body)));
    }
    let (mut parts, _) = answer.into_parts();
    headers::outward(&mut parts.headers);
    Ok(Response::from_parts(parts, Body::empty()))
}

/// Carries bytes both ways until one side ends or the caller may no longer read.
async fn join(
    caller: hyper::upgrade::OnUpgrade,
    service: hyper::upgrade::OnUpgrade,
    revoked: impl Future<Output = ()>,
    busy: Busy,
) {
    let (Ok(caller), Ok(service)) = tokio::join!(caller, service) else {
        return;
    };
    let (mut caller, mut service) = (TokioIo::new(caller), TokioIo::new(service));
    tokio::select! {
        // How it ended is the affair of the two.
        _ = tokio::io::copy_bidirectional(&mut caller, &mut service) => {}
        () = revoked => {}
    }
    drop(busy);
}

/// Returns when the caller may no longer read what has these origins, or nothing is known of that.
async fn revoked(call: Call, origins: Arc<OriginSet>) {
    let mut changes = call.plane.policy.changes();
    loop {
        changes.borrow_and_update();
        let may = call
            .renewed()
            .and_then(|renewed| renewed.readable(&origins, "").map(drop))
            .is_ok();
        if !may {
            return;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RENEWED_EVERY) => {}
        }
    }
}
