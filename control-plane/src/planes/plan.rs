//! What to do next for one plane. Pure and total: what is wanted, what was seen and the time give the steps.

use chrono::{DateTime, Duration, Utc};

/// A plane that has something to do sooner than this stays up.
const NAP_LEAST: Duration = Duration::seconds(30);

/// What ought to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It serves.
    Running,
    /// All is there but the process.
    Asleep,
    /// Nothing is there.
    Deleted,
}

impl Wanted {
    /// The stored word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Asleep => "asleep",
            Self::Deleted => "deleted",
        }
    }
}

/// A text that is no wish.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a state that a plane can be wanted in")]
pub struct ParseWantedError(String);

impl std::str::FromStr for Wanted {
    type Err = ParseWantedError;
    fn from_str(text: &str) -> Result<Self, ParseWantedError> {
        [Self::Running, Self::Asleep, Self::Deleted]
            .into_iter()
            .find(|w| w.as_str() == text)
            .ok_or_else(|| ParseWantedError(text.to_owned()))
    }
}

/// The schema of the plane's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// Never brought up to date, or by another version of the binary.
    Outdated,
    /// What the binary wants.
    Current,
}

/// The plane's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Process {
    /// None.
    Absent,
    /// It serves there.
    Running {
        /// Its address.
        url: String,
    },
    /// It ended without being asked to.
    Crashed {
        /// How it ended.
        how: String,
    },
}

/// What is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Role and database.
    pub database: bool,
    /// The bucket.
    pub bucket: bool,
    /// The state directory.
    pub home: bool,
    /// The schema.
    pub schema: Schema,
    /// The process.
    pub process: Process,
    /// Nobody needs it and it has had nothing to do for the limit.
    pub idle: bool,
    /// After a failure nothing is tried before that time.
    pub next_try_at: Option<DateTime<Utc>>,
    /// The receipt of the deletion is written.
    pub receipt: bool,
    /// When it has something to do by itself.
    pub wake_at: Option<DateTime<Utc>>,
}

/// One outside call, idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Role and database.
    CreateDatabase,
    /// The bucket.
    CreateBucket,
    /// Bring the schema up to date.
    Migrate,
    /// Start the process.
    Start,
    /// Stop it.
    Stop,
    /// Change the wish to asleep.
    FallAsleep,
    /// Change the wish to running: it has something to do.
    WakeUp,
    /// Take note of a crash; the next try comes after a while.
    NoteCrash {
        /// How it ended.
        how: String,
    },
    /// Database and role.
    RemoveDatabase,
    /// The bucket and all in it.
    RemoveBucket,
    /// The state directory.
    RemoveHome,
    /// The organization's rows at the control plane, and the receipt.
    WriteReceipt,
}

impl Step {
    /// The kind of the condition that its failure sets.
    pub const fn condition(&self) -> &'static str {
        match self {
            Self::CreateDatabase => "database_not_made",
            Self::CreateBucket => "bucket_not_made",
            Self::Migrate => "schema_not_current",
            Self::Start | Self::WakeUp => "not_started",
            Self::Stop => "not_stopped",
            Self::FallAsleep | Self::NoteCrash { .. } => "crashed",
            Self::RemoveDatabase => "database_not_removed",
            Self::RemoveBucket => "bucket_not_removed",
            Self::RemoveHome => "state_not_removed",
            Self::WriteReceipt => "receipt_not_written",
        }
    }
}

/// The steps that lead from what is to what is wanted. Only the first one is taken before looking again.
pub fn plan(wanted: Wanted, seen: &Seen, now: DateTime<Utc>) -> Vec<Step> {
    if let (Process::Crashed { how }, true) = (&seen.process, wanted != Wanted::Deleted) {
        return vec![Step::NoteCrash { how: how.clone() }];
    }
    if seen.next_try_at.is_some_and(|at| now < at) {
        return Vec::new();
    }
    match wanted {
        Wanted::Deleted => plan_deletion(seen),
        Wanted::Running | Wanted::Asleep => plan_presence(wanted, seen, now),
    }
}

fn plan_presence(wanted: Wanted, seen: &Seen, now: DateTime<Utc>) -> Vec<Step> {
    if wanted == Wanted::Asleep && seen.wake_at.is_some_and(|at| at <= now) {
        return vec![Step::WakeUp];
    }
    // For a moment it does not fall asleep.
    let rests = seen.idle && seen.wake_at.is_none_or(|at| at - now > NAP_LEAST);
    let runs = matches!(seen.process, Process::Running { .. });
    let migrates = seen.schema == Schema::Outdated || !seen.database;
    [
        (!seen.database, Step::CreateDatabase),
        (!seen.bucket, Step::CreateBucket),
        // A plane that serves is never migrated under its feet; it gets the new schema at its next start.
        (migrates && !runs, Step::Migrate),
        (wanted == Wanted::Running && !runs, Step::Start),
        (wanted == Wanted::Running && runs && rests, Step::FallAsleep),
        (wanted == Wanted::Asleep && runs, Step::Stop),
    ]
    .into_iter()
    .filter_map(|(needed, step)| needed.then_some(step))
    .collect()
}

fn plan_deletion(seen: &Seen) -> Vec<Step> {
    [
        (seen.process != Process::Absent, Step::Stop),
        (seen.database, Step::RemoveDatabase),
        (seen.bucket, Step::RemoveBucket),
        (seen.home, Step::RemoveHome),
        (!seen.receipt, Step::WriteReceipt),
    ]
    .into_iter()
    .filter_map(|(needed, step)| needed.then_some(step))
    .collect()
}

/// How long to wait after that many failures in a row: doubling from 200 ms up to a minute, and up to half as much again
/// by `jitter` (0 to 255), so that planes that failed together do not come back together.
pub fn back_off(failures: u32, jitter: u8) -> Duration {
    let base = 200_i64
        .saturating_mul(1 << failures.saturating_sub(1).min(9))
        .min(60_000);
    Duration::milliseconds(base + base * i64::from(jitter) / 510)
}

#[cfg(test)]
mod tests;
