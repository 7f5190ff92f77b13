//! The lives of jobs and datums: which states follow which, when a datum is tried again, and how a job ends.

use std::time::Duration;

use contract::api::{DatumCounts, DatumState, JobState};

/// Every legal step of a job. A step that is not here is a mistake.
pub const JOB_STEPS: &[(JobState, JobState)] = {
    use JobState::{Created, Egressing, Failure, Finishing, Killed, Running, Starting, Success, Unrunnable};
    &[
        (Created, Starting),
        (Created, Unrunnable),
        (Created, Killed),
        (Starting, Running),
        // Nothing to run: no datums, or all of them were done before.
        (Starting, Finishing),
        (Starting, Failure),
        (Starting, Killed),
        (Running, Egressing),
        (Running, Finishing),
        (Running, Failure),
        (Running, Killed),
        (Egressing, Finishing),
        (Egressing, Failure),
        (Egressing, Killed),
        (Finishing, Success),
        (Finishing, Failure),
        (Finishing, Killed),
    ]
};

/// Every legal step of a datum in a job.
pub const DATUM_STEPS: &[(DatumState, DatumState)] = {
    use DatumState::{Failed, Pending, Recovered, Running, Skipped, Succeeded};
    &[
        (Pending, Running),
        (Pending, Skipped),
        // It is tried again, or its worker was lost.
        (Running, Pending),
        (Running, Succeeded),
        (Running, Recovered),
        (Running, Failed),
    ]
};

/// A step that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {what} cannot go from {from} to {to}")]
pub struct IllegalStep {
    what: &'static str,
    from: &'static str,
    to: &'static str,
}

/// Checks a job's step.
pub fn job_step(from: JobState, to: JobState) -> Result<JobState, IllegalStep> {
    let legal = JOB_STEPS.contains(&(from, to));
    legal.then_some(to).ok_or(IllegalStep {
        what: "job",
        from: from.as_str(),
        to: to.as_str(),
    })
}

/// Checks a datum's step.
pub fn datum_step(from: DatumState, to: DatumState) -> Result<DatumState, IllegalStep> {
    let legal = DATUM_STEPS.contains(&(from, to));
    legal.then_some(to).ok_or(IllegalStep {
        what: "datum",
        from: datum_word(from),
        to: datum_word(to),
    })
}

/// The word of a datum's state.
pub const fn datum_word(state: DatumState) -> &'static str {
    state.as_str()
}

/// How one attempt at a datum ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The command exited with 0 or with an accepted code.
    Succeeded,
    /// The command failed, by its exit code, a signal or its timeout.
    Failed,
    /// The command failed and `err_cmd` exited with 0.
    Recovered,
    /// The worker or node was lost, or its lease ran out: no fault of the user code.
    WorkerLost,
}

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterAttempt {
    /// The datum waits for a worker again.
    Again {
        /// Tries used up so far.
        tries: u32,
    },
    /// The datum is settled.
    Settled(DatumState),
}

/// Whether an exit code is a success.
pub fn accepts(exit_code: i32, accept_return_code: &[i32]) -> bool {
    exit_code == 0 || accept_return_code.contains(&exit_code)
}

/// Decides after an attempt. `tries` counts the failures of user code before this attempt; a lost worker adds none.
pub fn after_attempt(end: AttemptEnd, tries: u32, datum_tries: u32) -> AfterAttempt {
    match end {
        AttemptEnd::Succeeded => AfterAttempt::Settled(DatumState::Succeeded),
        AttemptEnd::Recovered => AfterAttempt::Settled(DatumState::Recovered),
        AttemptEnd::WorkerLost => AfterAttempt::Again { tries },
        AttemptEnd::Failed if tries + 1 >= datum_tries => AfterAttempt::Settled(DatumState::Failed),
        AttemptEnd::Failed => AfterAttempt::Again { tries: tries + 1 },
    }
}

/// A datum whose worker was lost so often may be what ends them: it is claimed alone from then on.
pub const SUSPECT_DEATHS: u32 = 3;
/// A datum that could not be run for so many claims, by no fault of its code, fails: the reason will not go away by
/// itself.
pub const CLAIMS_MAX: u32 = 20;
/// How long a datum waits after its first claim came to nothing, and at most.
const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_MOST: Duration = Duration::from_secs(10);

/// How long a datum waits that could not be run, after so many claims. All claims together last two minutes, so that a
/// storage that is away for a while fails nothing.
pub fn wait_after(claims: u32) -> Duration {
    let doublings = claims.saturating_sub(1).min(16);
    (WAIT_FIRST * (1 << doublings)).min(WAIT_MOST)
}

/// A datum that failed, for the job's reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedDatum {
    /// Its key, hex.
    pub id: String,
    /// Its inputs in a few words: `images:/a.tif`.
    pub inputs: String,
    /// Why it failed.
    pub reason: String,
}

/// Where a job goes when its datums are settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `Finishing` (the output can be put together) or `Failure`.
    pub state: JobState,
    /// For a failure: which datums, in words.
    pub reason: Option<String>,
}

const NAMED: usize = 5;
/// So many inputs of a datum are named where it is told of: one may read a hundred thousand.
const INPUTS_NAMED: usize = 3;

/// Inputs of a datum in a few words: the first ones, and how many more there are.
pub fn brief(inputs: impl IntoIterator<Item = String>) -> String {
    first(inputs).join(", ")
}

/// The first of these, and as the last one how many more there are.
pub fn first(inputs: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut rest = inputs.into_iter();
    let mut told: Vec<String> = rest.by_ref().take(INPUTS_NAMED).collect();
    let more = rest.count();
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told
}

/// The outcome of a job whose datums are counted in `counts`; `None` while some are not settled. `failed` is a sample of
/// the failed ones (a handful is enough), best in the order of their inputs. A recovered datum does not fail its job.
pub fn outcome(counts: &DatumCounts, failed: &[FailedDatum]) -> Option<Outcome> {
    let settled = counts.succeeded + counts.skipped + counts.recovered + counts.failed;
    if settled < counts.total {
        return None;
    }
    if counts.failed == 0 {
        return Some(Outcome {
            state: JobState::Finishing,
            reason: None,
        });
    }
    let named: Vec<String> = failed
        .iter()
        .take(NAMED)
        .map(|d| format!("{} ({}): {}", d.inputs, short(&d.id), d.reason))
        .collect();
    let more = counts.failed.saturating_sub(named.len() as u64);
    let datums = if counts.total == 1 { "datum" } else { "datums" };
    let mut reason = format!("{} of {} {datums} failed", counts.failed, counts.total);
    if !named.is_empty() {
        reason = format!("{reason}: {}", named.join("; "));
    }
    if more > 0 && !named.is_empty() {
        reason = format!("{reason}; and {more} more");
    }
    Some(Outcome {
        state: JobState::Failure,
        reason: Some(reason),
    })
}

/// The reason of a job whose input errored.
pub fn unrunnable_reason(input: &str, why: &str) -> String {
    format!("the input `{input}` has an error, so this job cannot run: {why}; fix what made it and run it again")
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_a_terminal_state_and_every_other_state_can_be_left() {
        for (from, to) in JOB_STEPS {
            assert!(!from.is_terminal(), "{from:?} -> {to:?}");
            assert_eq!(job_step(*from, *to), Ok(*to));
        }
        let error = job_step(JobState::Success, JobState::Running).unwrap_err();
        assert_eq!(error.to_string(), "a job cannot go from success to running");
        assert!(datum_step(DatumState::Succeeded, DatumState::Pending).is_err());
        assert_eq!(
            datum_step(DatumState::Running, DatumState::Pending),
            Ok(DatumState::Pending)
        );
    }

    #[test]
    fn only_failures_of_user_code_cost_a_try() {
        let again = |tries| AfterAttempt::Again { tries };
        assert_eq!(after_attempt(AttemptEnd::Failed, 0, 3), again(1));
        assert_eq!(after_attempt(AttemptEnd::WorkerLost, 1, 3), again(1));
        assert_eq!(after_attempt(AttemptEnd::Failed, 1, 3), again(2));
        let failed = AfterAttempt::Settled(DatumState::Failed);
        assert_eq!(after_attempt(AttemptEnd::Failed, 2, 3), failed);
        assert_eq!(after_attempt(AttemptEnd::Failed, 0, 1), failed);
        assert_eq!(
            after_attempt(AttemptEnd::Recovered, 2, 3),
            AfterAttempt::Settled(DatumState::Recovered)
        );
        assert!(accepts(0, &[]) && accepts(3, &[3]) && !accepts(1, &[3]));
    }

    #[test]
    fn a_failed_job_names_its_failed_datums() {
        let mut counts = DatumCounts {
            total: 10,
            succeeded: 3,
            skipped: 1,
            ..DatumCounts::default()
        };
        assert_eq!(outcome(&counts, &[]), None);
        counts.succeeded = 8;
        counts.failed = 1;
        let failed = FailedDatum {
            id: "0123456789abcdef".to_owned(),
            inputs: brief(["images:/a.tif".to_owned()]),
            reason: "exit code 1".to_owned(),
        };
        let end = outcome(&counts, std::slice::from_ref(&failed)).unwrap();
        assert_eq!(end.state, JobState::Failure);
        let reason = end.reason.unwrap();
        assert_eq!(
            reason,
            "1 of 10 datums failed: images:/a.tif (0123456789ab): exit code 1"
        );
        counts = DatumCounts {
            total: 9,
            failed: 9,
            ..DatumCounts::default()
        };
        let reason = outcome(&counts, &vec![failed; 9]).unwrap().reason.unwrap();
        assert!(
            reason.starts_with("9 of 9 datums failed: ") && reason.ends_with("; and 4 more"),
            "{reason}"
        );
        let nothing = outcome(&DatumCounts::default(), &[]).unwrap();
        assert_eq!(nothing.state, JobState::Finishing);
    }

    #[test]
    fn of_a_datum_with_many_inputs_the_first_three_are_named() {
        let inputs = |n: usize| (0..n).map(|n| format!("in:/{n}"));
        assert_eq!(brief(inputs(3)), "in:/0, in:/1, in:/2");
        assert_eq!(brief(inputs(100_000)), "in:/0, in:/1, in:/2, and 99997 more");
    }

    #[test]
    fn a_datum_that_cannot_be_run_waits_longer_each_time_and_for_minutes_in_all() {
        assert_eq!(wait_after(1), Duration::from_millis(200));
        assert_eq!(wait_after(3), Duration::from_millis(800));
        assert_eq!(wait_after(CLAIMS_MAX), WAIT_MOST);
        assert_eq!(wait_after(u32::MAX), WAIT_MOST);
        let all: Duration = (1..CLAIMS_MAX).map(wait_after).sum();
        assert!(all > Duration::from_secs(120), "{all:?}");
    }
}
