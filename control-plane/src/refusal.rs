//! What a handler answers when it does not do what was asked: a problem document. Operation errors of the slices turn
//! into it through `From`; a database error never shows its text.

use axum::response::{IntoResponse, Response};
use chassis::http::ApiError;
use contract::problem::{FieldError, ProblemKind};

/// A problem that a handler answers.
#[derive(Debug)]
pub struct Refusal(pub ApiError);

impl Refusal {
    /// A problem of that kind: what and why, lowercase.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self(ApiError::new(kind, detail))
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self(self.0.hint(hint))
    }

    /// The one answer for what does not exist or may not be known.
    pub fn not_found() -> Self {
        Self(ApiError::not_found())
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
        Self(error)
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self(match error {
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
            other => ApiError::internal(other),
        })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}
