//! What every operation of this crate can end with, and how the failures of what it stands on (PostgreSQL, storage)
//! become problems: one table, so that a lost connection or a full disk is answered alike by every route.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use chassis::http::ApiError;
use contract::problem::{Problem, ProblemKind};
use storage::StorageError;

use crate::idempotency::Kept;

/// A problem on its way to the caller. `?` makes it of everything that can go wrong below a handler.
#[derive(Debug, Clone)]
pub struct Failure(pub ApiError, Option<Arc<Kept>>);

/// What handlers and operations answer.
pub type Answer<T> = Result<T, Failure>;

impl Failure {
    /// A problem of that kind with its detail: what and why, lowercase.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self::from(ApiError::new(kind, detail))
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self(self.0.hint(hint), self.1)
    }

    /// The one answer for what does not exist or may not be known.
    pub fn not_found() -> Self {
        Self::from(ApiError::not_found())
    }

    /// The answer that the same request was given before: not a failure, but it ends a handler in the same way.
    pub fn answered(kept: Arc<Kept>) -> Self {
        let problem = ApiError::new(ProblemKind::Conflict, "the request was answered before");
        Self(problem, Some(kept))
    }

    /// The answer that was given before, if this is one.
    pub fn kept(&self) -> Option<&Kept> {
        self.1.as_deref()
    }

    /// A request that can be read but makes no sense.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Invalid, detail)
    }

    /// Our mistake: logged in full, answered without any of it.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        Self::from(ApiError::internal(error))
    }

    /// The problem's kind, `internal` if it has none of ours.
    pub fn kind(&self) -> ProblemKind {
        self.0.0.kind().unwrap_or(ProblemKind::Internal)
    }

    /// The sentence for the reader.
    pub fn detail(&self) -> &str {
        &self.0.0.detail
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.0.0.slug(), self.0.0.detail)
    }
}

impl std::error::Error for Failure {}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self.1 {
            Some(kept) => kept.response(),
            None => self.0.into_response(),
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error, None)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::from(ApiError::from(problem))
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        if let Some(database) = error.as_database_error()
            && database.code().is_some_and(|code| code.starts_with("53100"))
        {
            return Self::new(
                ProblemKind::StorageFull,
                "the database's disk is full; nothing was kept",
            )
            .hint("free space on the database's disk, then repeat the request");
        }
        // PostgreSQL stores no NUL, neither in texts nor in JSON.
        if let Some(code) = error.as_database_error().and_then(|database| database.code())
            && matches!(code.as_ref(), "22021" | "22P05")
        {
            return Self::new(
                ProblemKind::Malformed,
                "a text of the request has a NUL character, which cannot be stored",
            );
        }
        if is_away(&error) {
            return Self::from(ApiError::overloaded(&error));
        }
        Self::from(ApiError::internal(&error))
    }
}

/// Whether the database is away, restarting or crowded, so that the same request may succeed in a moment.
pub fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // 08 connection, 40 serialization and deadlock, 53 resources, 57P shutdown and start-up.
        sqlx::Error::Database(database) => database
            .code()
            .is_some_and(|code| ["08", "40", "53", "57P"].iter().any(|class| code.starts_with(class))),
        _ => false,
    }
}

/// What a source of bytes fails with, so that it comes out of storage as it went in.
impl From<Failure> for StorageError {
    fn from(failure: Failure) -> Self {
        Self::Source(std::sync::Arc::new(std::io::Error::other(failure)))
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        match &error {
            StorageError::Full { .. } => Self::new(ProblemKind::StorageFull, error.to_string())
                .hint("nothing was changed; free space or raise the quota, then repeat the request"),
            StorageError::PathConflict { .. } => Self::new(ProblemKind::Conflict, error.to_string())
                .hint("delete the one that is in the way with `howdah rm`, then repeat the request"),
            StorageError::Source(source) if source.get_ref().is_some_and(|inner| inner.is::<Failure>()) => {
                let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<Failure>());
                inner.map_or_else(|| Self::internal(&error), Self::clone)
            }
            StorageError::Source(source) => Self::new(
                ProblemKind::Malformed,
                format!("the upload broke off, nothing was committed: {source}"),
            )
            .hint("repeat the upload"),
            _ if error.is_damage() => {
                tracing::error!(error = %error, "stored data is damaged: {error}");
                Self::new(ProblemKind::Corrupt, error.to_string())
                    .hint("run `howdah fsck` and restore the named object from a backup")
            }
            _ if error.is_retryable() => Self::from(ApiError::overloaded(&error)),
            _ => Self::from(ApiError::internal(&error)),
        }
    }
}

macro_rules! invalid_from {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::invalid(error.to_string())
            }
        }
    )*};
}

invalid_from!(
    contract::ids::ParseIdError,
    contract::names::ParseNameError,
    contract::reference::ParseRefError,
    provenance::datums::TooMany,
    storage::PathError,
);

/// Maps the violation of a named constraint to a problem of its own.
pub trait OnConstraint<T> {
    /// Replaces the violation of that constraint.
    ///
    /// # Errors
    /// The replacement, or what the error is otherwise.
    fn on_constraint(self, name: &str, replacement: impl FnOnce() -> Failure) -> Answer<T>;
}

impl<T> OnConstraint<T> for Result<T, sqlx::Error> {
    fn on_constraint(self, name: &str, replacement: impl FnOnce() -> Failure) -> Answer<T> {
        self.map_err(|error| {
            let violated = error.as_database_error().and_then(|e| e.constraint());
            if violated == Some(name) {
                replacement()
            } else {
                error.into()
            }
        })
    }
}
