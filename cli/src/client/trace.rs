//! The trace that all requests of one command belong to.

use crate::settings::variable;

/// That of who calls the command, if he says so (`TRACEPARENT`), else a new one, by the W3C's recommendation: version, trace, span,
/// recorded.
pub(super) fn of_command() -> String {
    variable("TRACEPARENT").unwrap_or_else(|| {
        let (trace, span): (u128, u64) = (rand::random(), rand::random());
        format!("00-{trace:032x}-{span:016x}-01")
    })
}
