//! What is said when a connection is not made or breaks.

use crate::failure::Failure;

/// A connection that broke in the middle of an answer.
pub fn broken(error: &reqwest::Error) -> Failure {
    Failure::new(
        "the connection broke",
        chain(error),
        "repeat the command; see `howdah status`",
    )
}

pub(super) fn unreachable(base: &str, error: &reqwest::Error) -> Failure {
    if error.is_connect() || error.is_timeout() {
        return Failure::new(
            format!("cannot reach {base}"),
            chain(error),
            "start the service with `howdah up --detach`, or set HOWDAH_URL",
        );
    }
    Failure::new(
        format!("the request to {base} failed"),
        chain(error),
        "repeat the command; see `howdah status`",
    )
}

/// The innermost cause: the outer ones only repeat that a request failed.
pub(super) fn chain(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
