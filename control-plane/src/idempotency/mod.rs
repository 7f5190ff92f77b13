//! Idempotency keys: a request that is sent again with its `Idempotency-Key`, because its answer was lost, is answered as it was and
//! does nothing a second time. The answer is kept in the transaction of the effect ([`Call::commit`]), so there is no moment at which
//! one is there without the other; refusals are not kept. A key belongs to the session or token that sent it. Whether the caller may
//! do it at all is asked again before a kept answer is shown.

mod queries;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use chassis::http::{ApiError, Json};
use chassis::idempotency::{self, KEPT_FOR};
use chrono::{DateTime, Utc};
use http::{Method, StatusCode};
use serde::Serialize;
use sqlx::PgPool;

use crate::app::{App, BODY_MOST};
use crate::authz::System;
use crate::call::Call;
use crate::database::Tx;
use crate::mac;
use crate::refusal::Refusal;

/// The name of a request, and what the request is.
#[derive(Clone)]
pub struct Keyed {
    key: String,
    digest: [u8; 32],
}

/// An answer as it is kept.
struct Kept {
    digest: Vec<u8>,
    status: i16,
    sealed: Vec<u8>,
}

/// Notes of a POST that has a key what it asks for: handlers see the parsed body only.
///
/// # Errors
/// `malformed` for a key that is none, `too-large` for a body over the limit.
pub async fn note(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, Refusal> {
    if request.method() != Method::POST {
        return Ok(next.run(request).await);
    }
    let Some(key) = idempotency::key(request.headers())? else {
        return Ok(next.run(request).await);
    };
    let (mut parts, body) = request.into_parts();
    let body = chassis::http::whole(body, BODY_MOST).await?;
    let asked = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let digest = mac::sha256(&app.vault.derive("idempotency"), &[asked.as_bytes(), &body]);
    parts.extensions.insert(Keyed { key, digest });
    Ok(next.run(Request::from_parts(parts, body.into())).await)
}

impl Call {
    /// Takes the request's key for the time of the transaction, and ends a request that was answered before: with `?` its caller gets
    /// that answer. [`Call::authorize`] asks it too, so handlers whose right is another one ask by themselves, once they know that the
    /// caller may do it.
    ///
    /// # Errors
    /// The answer, if there is one; `request-in-progress` while the same key is worked on; `idempotency-key-reused` when it was another
    /// request's.
    pub async fn unanswered(&self, tx: &mut Tx) -> Result<(), Refusal> {
        let Some(keyed) = &self.keyed else {
            return Ok(());
        };
        if !queries::lock(tx, &self.actor, &keyed.key).await? {
            return Err(idempotency::in_progress().into());
        }
        let Some(kept) = queries::find_answer(tx, &self.actor, &keyed.key, self.now() - KEPT_FOR).await? else {
            return Ok(());
        };
        if kept.digest != keyed.digest {
            return Err(idempotency::reused().into());
        }
        let json = self
            .app
            .vault
            .open(&self.purpose(keyed), &kept.sealed)
            .map_err(ApiError::internal)?;
        let status = u16::try_from(kept.status)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok());
        let answer = idempotency::replayed(status.unwrap_or(StatusCode::OK), json.into());
        Err(Refusal::answered(answer))
    }

    /// Keeps the answer of this request in the transaction of its effect.
    pub(crate) async fn keep<T: Serialize>(&self, tx: &mut Tx, status: StatusCode, answer: &T) -> Result<(), Refusal> {
        let Some(keyed) = &self.keyed else {
            return Ok(());
        };
        self.unanswered(tx).await?;
        let json = serde_json::to_vec(answer).map_err(ApiError::internal)?;
        let sealed = self
            .app
            .vault
            .seal(&self.app.environment, &self.purpose(keyed), &json)
            .map_err(ApiError::internal)?;
        let kept = Kept {
            digest: keyed.digest.to_vec(),
            status: i16::try_from(status.as_u16()).map_err(ApiError::internal)?,
            sealed,
        };
        Ok(queries::upsert_answer(tx, &self.actor, &keyed.key, &kept, self.now()).await?)
    }

    /// Commits a change together with its answer, which is kept for who sends the request again.
    ///
    /// # Errors
    /// When the database fails; then nothing has changed.
    pub async fn commit<T: Serialize>(
        &self,
        mut tx: Tx,
        status: StatusCode,
        answer: T,
    ) -> Result<(StatusCode, Json<T>), Refusal> {
        self.keep(&mut tx, status, &answer).await?;
        tx.commit().await?;
        Ok((status, Json(answer)))
    }

    /// What a sealed answer belongs to.
    fn purpose(&self, keyed: &Keyed) -> String {
        format!("answer {} {}", self.actor.token(), keyed.key)
    }
}

/// Forgets answers whose time is over.
///
/// # Errors
/// When the database is away.
pub async fn forget_expired(pool: &PgPool, proof: &System, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    queries::delete_before(pool, proof, now - KEPT_FOR).await
}
