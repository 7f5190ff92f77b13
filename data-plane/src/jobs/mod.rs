//! Jobs: one run of a pipeline version on one set of input commits. This folder shows them (to whom may read what they
//! make, R1), waits for them, streams their logs, and ends them; what happens in between is the scheduler's.

pub mod datums;
pub mod end;
pub mod logs;
pub mod queries;
pub mod reasons;
pub mod reproductions;
pub mod reproductions_queries;
pub mod retention;
pub mod routes;
pub mod statistics;
pub mod statistics_queries;
pub mod traces;
pub mod views;
pub mod wait;

use contract::api::JobState;

/// The state of that word; an unknown one counts as failed.
pub fn state_of(word: &str) -> JobState {
    let found = JobState::ALL.into_iter().find(|state| state.as_str() == word);
    found.unwrap_or(JobState::Failure)
}
