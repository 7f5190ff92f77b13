//! Idempotency keys: a request that is sent again with its `Idempotency-Key`, because its answer was lost, is answered as it was and
//! does nothing a second time. The answer is kept in the transaction of the effect ([`Call::commit`]); refusals are not kept. A key
//! belongs to the session or API token that sent it, and handlers ask for a kept answer once they know that the caller may do it still.
//! Bytes are put by uploads that can be taken up again, which are a way of their own.

mod queries;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chassis::http::Json;
use chrono::Duration;
use contract::problem::ProblemKind;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use utoipa::IntoParams;

use crate::call::Call;
use crate::failure::{Answer, Failure};
use crate::plane::{Plane, Tx};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const KEPT_FOR: Duration = Duration::hours(24);
const KEY_LENGTH_MAX: usize = 255;
/// As much as the bodies of requests may have otherwise.
const BODY_BYTES_MAX: usize = 2 << 20;
/// Whose bodies are streams.
const STREAMED: &str = "/v1/files";

/// The header of routes that keep their answers, for the document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct KeyHeader {
    /// A name for this request, chosen by the caller, 1 to 255 visible characters: sent again with it within 24 hours, the same
    /// request gets the same answer, marked by `Idempotent-Replayed: true`, and does nothing a second time.
    #[param(rename = "idempotency-key", min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    #[expect(dead_code, reason = "it stands for the header in the document")]
    key: Option<String>,
}

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
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (REPLAYED, HeaderValue::from_static("true")),
        ];
        (self.status, headers, self.json.clone()).into_response()
    }
}

fn parse(request: &Request) -> Answer<Option<String>> {
    let mut given = request.headers().get_all(KEY).iter();
    let Some(key) = given.next() else {
        return Ok(None);
    };
    let visible = |key: &&str| (1..=KEY_LENGTH_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    match (key.to_str().ok().filter(visible), given.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => Err(Failure::new(
            ProblemKind::Malformed,
            format!("`Idempotency-Key` must be given once and have 1 to {KEY_LENGTH_MAX} visible ASCII characters"),
        )),
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
    let Some(key) = parse(&request)? else {
        return Ok(next.run(request).await);
    };
    let (mut parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX)
        .await
        .map_err(|_| Failure::new(ProblemKind::TooLarge, "the body is over the limit of this route"))?;
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
            return Err(Failure::new(
                ProblemKind::RequestInProgress,
                "a request with this idempotency key is being worked on",
            )
            .hint("send it again in a moment, to get its answer"));
        }
        match queries::find_answer(tx, token, &keyed.key, self.plane.now() - KEPT_FOR).await? {
            None => Ok(()),
            Some((digest, _)) if digest != keyed.digest => Err(Failure::new(
                ProblemKind::IdempotencyKeyReused,
                "this idempotency key was sent with another request before",
            )
            .hint("choose a new key for a new request")),
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
