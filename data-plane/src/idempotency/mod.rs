//! Idempotency keys: a request that is sent again with its `Idempotency-Key`, because its answer was lost, is answered as it was and
//! does nothing a second time. The answer is kept in the transaction of the effect ([`Call::commit`]); refusals are not kept. A key
//! belongs to the session or API token that sent it, and handlers ask for a kept answer once they know that the caller may do it still.
//! Bytes are put by uploads that can be taken up again, which are a way of their own.

mod queries;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use chassis::http::Json;
use chassis::idempotency::{self, KEPT_FOR};
use http::{Method, StatusCode};
use serde::Serialize;

use crate::call::Call;
use crate::failure::{Answer, Failure};
use crate::plane::{Plane, Tx};

/// As much as the bodies of requests may have otherwise.
const BODY_BYTES_MAX: usize = 2 << 20;
/// Whose bodies are streams.
const STREAMED: &str = "/v1/files";

/// The name of a request, and what the request is.
#[derive(Clone)]
pub struct Keyed {
    key: String,
    digest: [u8; 32],
}

/// An answer that was given before.
#[derive(Debug)]
pub struct Kept {
    status: StatusCode,
    json: Bytes,
}

impl Kept {
    /// The answer again.
    pub fn response(&self) -> Response {
        idempotency::replayed(self.status, self.json.clone())
    }
}

/// Notes of a POST that has a key what it asks for: handlers see the parsed body only.
///
/// # Errors
/// `malformed` for a key that is none, `too-large` for a body over the limit.
pub async fn note(State(plane): State<Plane>, request: Request, next: Next) -> Answer<Response> {
    if request.method() != Method::POST || request.uri().path() == STREAMED {
        return Ok(next.run(request).await);
    }
    let Some(key) = idempotency::key(request.headers())? else {
        return Ok(next.run(request).await);
    };
    let (mut parts, body) = request.into_parts();
    let body = chassis::http::whole(body, BODY_BYTES_MAX).await?;
    let mut hasher = blake3::Hasher::new_keyed(&plane.cursor_key);
    let asked = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    for part in [b"idempotency".as_slice(), asked.as_bytes(), &body] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digest = *hasher.finalize().as_bytes();
    parts.extensions.insert(Keyed { key, digest });
    Ok(next.run(Request::from_parts(parts, body.into())).await)
}

impl Call {
    /// Takes the request's key for the time of the transaction, and ends a request that was answered before: with `?` its caller gets
    /// that answer. To be asked when it is known that the caller may do what he asks for.
    ///
    /// # Errors
    /// The answer, if there is one; `request-in-progress` while the same key is worked on; `idempotency-key-reused`.
    pub async fn unanswered(&self, tx: &mut Tx) -> Answer<()> {
        let Some(keyed) = &self.keyed else {
            return Ok(());
        };
        let token = self.claims().token;
        if !queries::lock(tx, token, &keyed.key).await? {
            return Err(idempotency::in_progress().into());
        }
        match queries::find_answer(tx, token, &keyed.key, self.plane.now() - KEPT_FOR).await? {
            None => Ok(()),
            Some((digest, _)) if digest != keyed.digest => Err(idempotency::reused().into()),
            Some((_, kept)) => Err(Failure::answered(Arc::new(kept))),
        }
    }

    /// Keeps the answer of this request in the transaction of its effect.
    pub(crate) async fn keep_answer<T: Serialize>(&self, tx: &mut Tx, status: StatusCode, answer: &T) -> Answer<()> {
        let Some(keyed) = &self.keyed else {
            return Ok(());
        };
        let (token, now) = (self.claims().token, self.plane.now());
        self.unanswered(tx).await?;
        let kept = Kept {
            status,
            json: serde_json::to_vec(answer).map_err(Failure::internal)?.into(),
        };
        queries::upsert_answer(tx, token, keyed, &kept, now).await?;
        queries::delete_before(tx, now - KEPT_FOR).await
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
    ) -> Answer<(StatusCode, Json<T>)> {
        self.keep_answer(&mut tx, status, &answer).await?;
        tx.commit().await?;
        Ok((status, Json(answer)))
    }
}
