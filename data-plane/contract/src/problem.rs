//! Problem kinds: the one table from what went wrong to an HTTP status, an RFC 9457 document and an exit code.

use serde::{Deserialize, Serialize};

/// What a caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same request will fail again.
    Never,
    /// The same request may succeed after a while.
    Later,
    /// After something else was changed.
    AfterChange,
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident = $slug:literal, $status:literal, $title:literal, $retry:ident;)*) => {
        /// A kind of problem. Clients branch on its slug only.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ProblemKind {
            $($(#[$doc])* #[serde(rename = $slug)] $name,)*
        }

        impl ProblemKind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The last part of the type URI.
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug,)* }
            }

            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The fixed title.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// Whether to try again.
            pub const fn retry(self) -> Retry {
                match self { $(Self::$name => Retry::$retry,)* }
            }

            /// The page that the type URI leads to.
            pub const fn page(self) -> &'static str {
                match self { $(Self::$name => include_str!(concat!("../problems/", $slug, ".md")),)* }
            }
        }
    };
}

problems! {
    /// No valid session or token.
    SignedOut = "signed-out", 401, "not logged in", AfterChange;
    /// The token's time is over.
    TokenExpired = "token-expired", 401, "the token has expired", AfterChange;
    /// The password was right, and a second factor is needed.
    SecondFactorRequired = "second-factor-required", 401, "a second factor is needed", AfterChange;
    /// Something dangerous needs a fresh proof of who asks.
    ProofRequired = "proof-required", 403, "prove again who you are", AfterChange;
    /// Known, but not allowed.
    NotAllowed = "not-allowed", 403, "not allowed", AfterChange;
    /// It does not exist, or may not be known.
    NotFound = "not-found", 404, "not found", Never;
    /// The request cannot be read.
    Malformed = "malformed", 400, "the request cannot be read", Never;
    /// The request is too large.
    TooLarge = "too-large", 413, "too large", Never;
    /// The request can be read but makes no sense.
    Invalid = "invalid", 422, "the request is not valid", Never;
    /// Something of that name exists.
    AlreadyExists = "already-exists", 409, "already exists", AfterChange;
    /// A finished commit never changes.
    CommitFinished = "commit-finished", 409, "the commit is finished", Never;
    /// The branch's head is another one now.
    BranchMoved = "branch-moved", 409, "the branch has moved", AfterChange;
    /// Something else is in the way.
    Conflict = "conflict", 409, "conflict", AfterChange;
    /// A commit needs more origins than its repo admits.
    OriginGuardViolated = "origin-guard-violated", 409, "the repo does not admit these origins", AfterChange;
    /// It was deleted.
    Deleted = "deleted", 410, "deleted", Never;
    /// The invitation's time is over or it was used.
    InvitationExpired = "invitation-expired", 410, "the invitation has expired", AfterChange;
    /// What `If-Match` asked for is not so.
    PreconditionFailed = "precondition-failed", 412, "precondition failed", AfterChange;
    /// The idempotency key belongs to another request.
    IdempotencyKeyReused = "idempotency-key-reused", 422, "the idempotency key belongs to another request", Never;
    /// The same request is being worked on.
    RequestInProgress = "request-in-progress", 409, "the same request is being worked on", Later;
    /// The address does not know the method.
    MethodNotAllowed = "method-not-allowed", 405, "the address does not know that method", Never;
    /// A plan or a card is needed.
    PaymentRequired = "payment-required", 402, "payment required", AfterChange;
    /// A quota or budget is used up.
    QuotaExceeded = "quota-exceeded", 403, "quota exceeded", AfterChange;
    /// Too many requests.
    SlowDown = "slow-down", 429, "too many requests", Later;
    /// The organization is suspended.
    OrganizationSuspended = "organization-suspended", 403, "the organization is suspended", AfterChange;
    /// The data plane is being started.
    PlaneStarting = "plane-starting", 503, "the data plane is starting", Later;
    /// The data plane has not heard from the control plane and denies reads.
    PolicyUnreachable = "policy-unreachable", 503, "the access policy is not known", Later;
    /// No capacity, or a database away.
    Overloaded = "overloaded", 503, "temporarily not available", Later;
    /// The disk or bucket takes no more.
    StorageFull = "storage-full", 507, "the storage is full", AfterChange;
    /// Stored bytes are not what they were.
    Corrupt = "corrupt", 500, "stored data is damaged", Never;
    /// Something else took too long.
    UpstreamTimeout = "upstream-timeout", 504, "it took too long", Later;
    /// What was to be fetched cannot be.
    SourceFailed = "source-failed", 502, "the source could not be read", Later;
    /// Our mistake.
    Internal = "internal", 500, "internal error", Later;
}

/// An RFC 9457 document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// The type URI: `https://howdah.dev/problems/<slug>`.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The fixed title of the kind.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened here and why, for the reader.
    pub detail: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The request's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// For `invalid`: which parts of the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One part of a request that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// JSON pointer into the request.
    pub pointer: String,
    /// What is wrong with it.
    pub message: String,
}

const TYPE_BASE: &str = "https://howdah.dev/problems/";

impl Problem {
    /// A document of that kind.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            type_uri: format!("{TYPE_BASE}{}", kind.slug()),
            title: kind.title().to_owned(),
            status: kind.status(),
            detail: detail.into(),
            hint: None,
            instance: None,
            errors: Vec::new(),
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The last part of the type URI.
    pub fn slug(&self) -> &str {
        self.type_uri.strip_prefix(TYPE_BASE).unwrap_or(&self.type_uri)
    }

    /// The kind, `None` if it is one that this version does not know.
    pub fn kind(&self) -> Option<ProblemKind> {
        ProblemKind::ALL.iter().copied().find(|k| k.slug() == self.slug())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_slug_of_its_own_and_a_page() {
        for (i, kind) in ProblemKind::ALL.iter().enumerate() {
            assert!(!kind.page().trim().is_empty(), "{kind:?}");
            assert!(kind.page().starts_with("# "), "{kind:?}");
            assert!(ProblemKind::ALL[..i].iter().all(|k| k.slug() != kind.slug()));
            assert_eq!(Problem::new(*kind, "x").kind(), Some(*kind));
        }
    }
}
