//! How a command fails: what, why, what to do, and an exit code that scripts can branch on (the table is part of the
//! contract). A server's problem document is kept whole, so that `--json` can print it.

use std::fmt;
use std::time::Duration;

use contract::problem::{Problem, ProblemKind};

/// What a command returns.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Exit codes, fixed for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// Not found.
    NotFound = 3,
    /// Denied or not logged in.
    Denied = 4,
    /// The job waited for failed.
    JobFailed = 5,
    /// Conflict.
    Conflict = 6,
    /// A limit or budget is reached.
    Limit = 7,
    /// Interrupted.
    Interrupted = 130,
}

/// The exit code of a problem that a server answered.
pub fn exit_of(kind: ProblemKind) -> Exit {
    use ProblemKind as P;
    match kind {
        P::SignedOut
        | P::TokenExpired
        | P::SecondFactorRequired
        | P::ProofRequired
        | P::NotAllowed
        | P::OrganizationSuspended => Exit::Denied,
        P::NotFound | P::Deleted => Exit::NotFound,
        P::Malformed | P::Invalid | P::MethodNotAllowed => Exit::Usage,
        P::AlreadyExists
        | P::CommitFinished
        | P::BranchMoved
        | P::Conflict
        | P::OriginGuardViolated
        | P::InvitationExpired
        | P::PreconditionFailed
        | P::IdempotencyKeyReused
        | P::RequestInProgress => Exit::Conflict,
        P::TooLarge | P::PaymentRequired | P::QuotaExceeded | P::SlowDown | P::StorageFull => Exit::Limit,
        P::PlaneStarting
        | P::PolicyUnreachable
        | P::Overloaded
        | P::Corrupt
        | P::UpstreamTimeout
        | P::SourceFailed
        | P::Internal => Exit::Failed,
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, Clone)]
pub struct Failure {
    /// One line: what failed.
    pub what: String,
    /// One line: why.
    pub why: String,
    /// One line: what to do.
    pub hint: String,
    /// The exit code.
    pub exit: Exit,
    /// What the server answered, if it was the server.
    pub problem: Option<Box<Problem>>,
    /// The status of an answer that was no success.
    pub status: Option<u16>,
    /// How long the server asks to wait before it is asked again.
    pub pause: Duration,
}

impl Failure {
    /// Something on this machine failed.
    pub fn new(what: impl Into<String>, why: impl fmt::Display, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.to_string(),
            hint: hint.into(),
            exit: Exit::Failed,
            problem: None,
            status: None,
            pause: Duration::ZERO,
        }
    }

    /// The command was written wrong.
    pub fn usage(what: impl Into<String>, why: impl fmt::Display, hint: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            ..Self::new(what, why, hint)
        }
    }

    /// Somebody pressed Ctrl-C.
    pub fn interrupted() -> Self {
        Self::new("interrupted", "Ctrl-C was pressed", "repeat the command").with_exit(Exit::Interrupted)
    }

    /// The same failure with another exit code.
    #[must_use]
    pub fn with_exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// What a server answered.
    pub fn from_problem(problem: Problem) -> Self {
        let kind = problem.kind();
        let mut why = problem.detail.clone();
        // The detail quotes the first of them.
        let quoted = problem
            .errors
            .first()
            .is_some_and(|e| problem.detail.contains(&e.message));
        for error in problem.errors.iter().skip(usize::from(quoted)) {
            why.push_str(&format!("; {}: {}", error.pointer, error.message));
        }
        let hint = problem.hint.clone().unwrap_or_else(|| match kind {
            Some(ProblemKind::SignedOut | ProblemKind::TokenExpired) => "log in with `howdah login`".to_owned(),
            Some(ProblemKind::NotAllowed) => "see what is missing with `howdah access explain REF`".to_owned(),
            Some(ProblemKind::NotFound) => "check the name, the project and the organization".to_owned(),
            _ => problem.instance.as_ref().map_or_else(
                || "see `howdah status`".to_owned(),
                |id| format!("see the service's log for request {id}"),
            ),
        });
        Self {
            what: problem.title.clone(),
            why,
            hint,
            exit: kind.map_or(Exit::Failed, exit_of),
            status: Some(problem.status),
            problem: Some(Box::new(problem)),
            pause: Duration::ZERO,
        }
    }

    /// Whether the server answered this kind.
    pub fn is(&self, kind: ProblemKind) -> bool {
        self.problem.as_ref().and_then(|p| p.kind()) == Some(kind)
    }

    /// Whether the server answered and said no; else nothing answered, or something on the way that knows no better.
    pub fn is_refusal(&self) -> bool {
        let passing = [408, 425, 429];
        let refused = |status| (400..500).contains(&status) && !passing.contains(&status);
        self.problem.is_some() || self.status.is_some_and(refused)
    }

    /// The problem document: the server's, or one made of the three lines.
    pub fn document(&self) -> Problem {
        if let Some(problem) = &self.problem {
            return (**problem).clone();
        }
        let mut document = match self.exit {
            Exit::Usage => Problem::new(ProblemKind::Malformed, &self.why),
            Exit::NotFound => Problem::new(ProblemKind::NotFound, &self.why),
            Exit::Denied => Problem::new(ProblemKind::SignedOut, &self.why),
            Exit::Conflict => Problem::new(ProblemKind::Conflict, &self.why),
            _ => Problem {
                type_uri: "about:blank".to_owned(),
                ..Problem::new(ProblemKind::Internal, &self.why)
            },
        };
        document.title.clone_from(&self.what);
        document.with_hint(&self.hint)
    }

    /// Prints it to standard error.
    pub fn print(&self, json: bool) {
        if json {
            eprintln!("{}", serde_json::to_string(&self.document()).unwrap_or_default());
        } else {
            eprintln!("error: {}", one_line(&self.what));
            eprintln!("  why: {}", one_line(&self.why));
            eprintln!("   do: {}", one_line(&self.hint));
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl From<private_postgres::PostgresError> for Failure {
    fn from(error: private_postgres::PostgresError) -> Self {
        let (why, hint) = error.parts();
        Self::new("PostgreSQL does not run", why, hint)
    }
}

/// Turns an I/O error into a failure that names the path.
pub fn io(what: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| {
        let hint = match error.kind() {
            std::io::ErrorKind::StorageFull => "free some space on its disk",
            std::io::ErrorKind::NotFound => "check the path",
            std::io::ErrorKind::PermissionDenied => "check its owner and permissions",
            _ => "check the path, its permissions and its disk",
        };
        Failure::new(format!("cannot {what} {path}"), error, hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_have_the_exit_codes_of_the_contract() {
        let exit = |kind| Failure::from_problem(Problem::new(kind, "x")).exit as u8;
        assert_eq!(exit(ProblemKind::NotFound), 3);
        assert_eq!(exit(ProblemKind::NotAllowed), 4);
        assert_eq!(exit(ProblemKind::SignedOut), 4);
        assert_eq!(exit(ProblemKind::CommitFinished), 6);
        assert_eq!(exit(ProblemKind::QuotaExceeded), 7);
        assert_eq!(exit(ProblemKind::Internal), 1);
        assert_eq!(exit(ProblemKind::Invalid), 2);
    }

    #[test]
    fn a_local_failure_has_a_document_too() {
        let document = Failure::usage("cannot do it", "that is no name", "use another").document();
        assert_eq!((document.status, document.slug()), (400, "malformed"));
        assert_eq!(document.hint.as_deref(), Some("use another"));
    }

    #[test]
    fn what_a_program_of_postgresql_said_is_the_reason_and_not_the_advice() {
        let failure = Failure::from(private_postgres::PostgresError::Program {
            program: "initdb",
            message: "exit status: 1: creating directory; could not write: No space left on device".to_owned(),
            log: Some("/home/service/postgres/postgres.log".into()),
        });
        assert!(failure.why.ends_with("No space left on device"), "{}", failure.why);
        assert!(failure.hint.starts_with("check the space"), "{}", failure.hint);
        assert!(failure.hint.ends_with("/postgres/postgres.log"), "{}", failure.hint);
        let failure = Failure::from(private_postgres::PostgresError::NotOurs { path: "/x".into() });
        assert!(failure.hint.starts_with("remove it or choose"), "{}", failure.hint);
    }
}
