//! Idempotency keys: a request that is sent again with its `Idempotency-Key`, because its answer was lost, is answered as it was and
//! does nothing a second time. The answer is kept in the transaction of the effect ([`Call::commit`]); refusals are not kept. A key
//! belongs to the session or API token that sent it, and handlers ask for a kept answer once they know that the caller may do it still.
//! Of files that are put the bytes are known once they have arrived, so that is when their key is looked at; uploads, which can be taken
//! up again, need none for them.

mod queries;

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use chassis::http::Json;
use chassis::idempotency::{self, KEPT_FOR};
use futures::TryStreamExt;
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
    asked: Asked,
}

/// What a request asks for.
#[derive(Clone)]
enum Asked {
    /// It is known.
    Known([u8; 32]),
    /// Its body is on its way.
    Arriving(Arc<Mutex<blake3::Hasher>>),
}

impl Keyed {
    /// What tells the request from others, as far as it has arrived.
    fn digest(&self) -> [u8; 32] {
        match &self.asked {
            Asked::Known(digest) => *digest,
            Asked::Arriving(hasher) => {
                let hasher = hasher.lock().unwrap_or_else(PoisonError::into_inner);
                *hasher.finalize().as_bytes()
            }
        }
    }
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

    /// What was answered.
    pub fn json(&self) -> &[u8] {
        &self.json
    }
}

/// Notes of a POST that has a key what it asks for: handlers see the parsed body only.
///
/// # Errors
/// `malformed` for a key that is none, `too-large` for a body over the limit.
pub async fn note(State(plane): State<Plane>, request: Request, next: Next) -> Answer<Response> {
    if request.method() != Method::POST {
        return Ok(next.run(request).await);
    }
    let Some(key) = idempotency::key(request.headers())? else {
        return Ok(next.run(request).await);
    };
    let (mut parts, body) = request.into_parts();
    let mut hasher = blake3::Hasher::new_keyed(&plane.cursor_key);
    let asked = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    for part in [b"idempotency".as_slice(), asked.as_bytes()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let (asked, body) = if parts.uri.path() == STREAMED {
        let hasher = Arc::new(Mutex::new(hasher));
        let heard = Arc::clone(&hasher);
        let pieces = body.into_data_stream().inspect_ok(move |piece| {
            heard.lock().unwrap_or_else(PoisonError::into_inner).update(piece);
        });
        (Asked::Arriving(hasher), Body::from_stream(pieces))
    } else {
        let body = chassis::http::whole(body, BODY_BYTES_MAX).await?;
        hasher.update(&(body.len() as u64).to_le_bytes());
        hasher.update(&body);
        (Asked::Known(*hasher.finalize().as_bytes()), body.into())
    };
    parts.extensions.insert(Keyed { key, asked });
    Ok(next.run(Request::from_parts(parts, body)).await)
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
            Some((digest, _)) if digest != keyed.digest() => Err(idempotency::reused().into()),
            Some((_, kept)) => Err(Failure::answered(Arc::new(kept))),
        }
    }

    /// As [`Self::unanswered`], for requests that have much to do before their transaction begins; there it is asked again.
    ///
    /// # Errors
    /// As [`Self::unanswered`].
    pub async fn unanswered_yet(&self) -> Answer<()> {
        if self.keyed.is_none() {
            return Ok(());
        }
        let mut tx = self.plane.begin().await?;
        self.unanswered(&mut tx).await
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
