//! The time, for what a person asks of "now" (how long ago, has a token run out). The command line has no chassis.

use chrono::{DateTime, Utc};

/// The time.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place of this binary that reads the clock"
)]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
