//! What a handler answers when it does not do what was asked: a problem document. Operation errors of the slices turn
//! into it through `From`; a database error never shows its text. A request that was answered before ends the same way, by `?`.

use axum::response::{IntoResponse, Response};
use chassis::http::ApiError;
use contract::problem::{FieldError, ProblemKind};

/// A problem that a handler answers, or what it answered before.
#[derive(Debug)]
pub struct Refusal(pub ApiError, Option<Box<Response>>);

impl Refusal {
    /// A problem of that kind: what and why, lowercase.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        ApiError::new(kind, detail).into()
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self(self.0.hint(hint), self.1)
    }

    /// The one answer for what does not exist or may not be known.
    pub fn not_found() -> Self {
        ApiError::not_found().into()
    }

    /// The answer that the same request was given before.
    pub fn answered(answer: Response) -> Self {
        let problem = ApiError::new(ProblemKind::Conflict, "the request was answered before");
        Self(problem, Some(Box::new(answer)))
    }

    /// The caller may know of it, but not do this.
    pub fn not_allowed(what: &str, hint: impl Into<String>) -> Self {
        Self::new(ProblemKind::NotAllowed, what).hint(hint)
    }

    /// One field of the body is not valid.
    pub fn invalid(pointer: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let mut refusal = Self::new(ProblemKind::Invalid, message.clone());
        refusal.0.0.errors.push(FieldError {
            pointer: pointer.to_owned(),
            message,
        });
        refusal
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(error, None)
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) | sqlx::Error::Tls(_) => {
                ApiError::overloaded(error)
            }
            // 57: operator intervention, 53: insufficient resources, 40: serialization failure or deadlock.
            sqlx::Error::Database(ref e)
                if e.code()
                    .is_some_and(|c| c.starts_with("57") || c.starts_with("53") || c.starts_with("40")) =>
            {
                ApiError::overloaded(error)
            }
            sqlx::Error::Database(ref e) if e.code().is_some_and(|code| is_unstorable(&code)) => ApiError::new(
                ProblemKind::Malformed,
                "a text of the request has a NUL character, which cannot be stored",
            ),
            other => ApiError::internal(other),
        }
        .into()
    }
}

/// Whether PostgreSQL refused a text for what is in it: it stores no NUL, neither in texts nor in JSON.
fn is_unstorable(code: &str) -> bool {
    matches!(code, "22021" | "22P05")
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self.1 {
            Some(answer) => *answer,
            None => self.0.into_response(),
        }
    }
}
