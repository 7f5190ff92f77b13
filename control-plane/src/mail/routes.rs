//! `GET /v1/outbox`, `GET /v1/outbox/{id}`, `POST /v1/outbox/links`, and the page `/outbox`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use chassis::http::{ApiError, Json, Path};
use contract::api::{MailView, OutboxLink, Page};
use contract::ids::MailId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::operator::{Here, Links, Operator};
use super::queries::{self, Stored};
use super::{Post, purpose};
use crate::app::App;
use crate::refusal::Refusal;

/// The page shows nothing by itself: its script asks with the secret behind the `#` of its address, which no server sees.
const PAGE: &str = include_str!("outbox.html");
const SCRIPT: &str = include_str!("outbox.js");
const POLICY: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(link))
        .route(
            "/outbox",
            get(|_: Here| async { page("text/html; charset=utf-8", PAGE) }),
        )
        .route(
            "/outbox/script.js",
            get(|_: Here| async { page("text/javascript; charset=utf-8", SCRIPT) }),
        )
}

fn page(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, text)
}

fn view(post: &Post, mail: Stored) -> MailView {
    let state = match (mail.sent_at, mail.next_try_at) {
        (Some(_), _) => "sent",
        (None, None) => "failed",
        (None, Some(_)) if post.sends() => "waiting",
        (None, Some(_)) => "kept",
    };
    MailView {
        id: mail.id.0,
        kind: mail.kind,
        recipient: mail.recipient,
        subject: mail.subject,
        created_at: mail.created_at,
        state: state.to_owned(),
        tries: u32::try_from(mail.tries).unwrap_or(0),
        error: mail.error,
        text: None,
    }
}

/// Lists the newest 200 mails that the service wrote; for whoever operates the installation.
#[utoipa::path(get, path = "/v1/outbox", tag = "outbox", responses((status = 200, body = Page<MailView>)))]
async fn list(State(app): State<Arc<App>>, operator: Operator) -> Result<Json<Page<MailView>>, Refusal> {
    let mut tx = app.pool.begin().await?;
    let mails = queries::list_mails(&mut tx, &operator).await?;
    Ok(Json(Page {
        items: mails.into_iter().map(|mail| view(&app.post, mail)).collect(),
        next_cursor: None,
    }))
}

/// Shows a mail with its text, which is erased once it was sent.
#[utoipa::path(get, path = "/v1/outbox/{id}", tag = "outbox", responses((status = 200, body = MailView)))]
async fn show(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path(id): Path<MailId>,
) -> Result<Json<MailView>, Refusal> {
    let mut tx = app.pool.begin().await?;
    let mut mail = queries::find_mail(&mut tx, &operator, id)
        .await?
        .ok_or_else(Refusal::not_found)?;
    let sealed = mail.sealed_text.take();
    let text = sealed
        .map(|sealed| app.vault.open(&purpose(id), &sealed).map_err(ApiError::internal))
        .transpose()?;
    tracing::info!(mail.id = %id, "whoever operates the installation reads a mail");
    Ok(Json(MailView {
        text: text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        ..view(&app.post, mail)
    }))
}

/// Makes a link that shows the outbox in a browser on this machine for ten minutes.
///
/// Nothing is kept of it: sent again it answers another link.
#[utoipa::path(post, path = "/v1/outbox/links", tag = "outbox", responses((status = 200, body = OutboxLink)))]
async fn link(State(app): State<Arc<App>>, operator: Operator) -> Result<Json<OutboxLink>, Refusal> {
    if !operator.holds_secret {
        return Err(Refusal::not_allowed(
            "a link makes no further links",
            "use `howdah outbox` on the service's machine",
        ));
    }
    let (ticket, expires_at) = Links::of(&app).make(app.environment.now());
    Ok(Json(OutboxLink {
        url: format!("/outbox#{ticket}"),
        expires_at,
    }))
}
