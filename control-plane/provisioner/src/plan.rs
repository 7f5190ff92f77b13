//! What to do next for one plane. Pure and total: what is wanted, what was seen and the time give the steps.

use chrono::{DateTime, Duration, Utc};

/// A plane that has something to do sooner than this stays up.
const NAP_LEAST: Duration = Duration::seconds(30);

/// No failure is waited for longer than this.
const BACK_OFF_MAX: Duration = Duration::seconds(90);

/// What ought to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It serves.
    Running,
    /// All is there but the process.
    Asleep,
    /// The same, and nobody can wake it.
    Suspended,
    /// Nothing is there.
    Deleted,
}

impl Wanted {
    /// The stored word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Asleep => "asleep",
            Self::Suspended => "suspended",
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
        [Self::Running, Self::Asleep, Self::Suspended, Self::Deleted]
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
    /// It was started and does not serve yet.
    Starting {
        /// What is in its way, in words; `None`: it only takes its time.
        why: Option<String>,
    },
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
    /// It was told to stop and is not gone yet.
    Stopping,
}

/// What stands around the process in a cloud that has such things: of a cluster its namespace with roles, quotas, policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kit {
    /// This cloud has none.
    Unneeded,
    /// Nothing of it is there.
    Absent,
    /// Some of it is there, or it was made for an earlier wish.
    Outdated,
    /// It is as it ought to be.
    Current,
    /// It was, and somebody changed something.
    Drifted {
        /// What, each in words.
        what: Vec<String>,
    },
    /// It is going, which takes its time.
    Leaving {
        /// What is still there, in words.
        what: String,
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
    /// What stands around the process.
    pub kit: Kit,
    /// The schema.
    pub schema: Schema,
    /// The process.
    pub process: Process,
    /// Why a process that is there has to be started again.
    pub outdated: Option<String>,
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
    /// What stands around the process.
    ApplyKit,
    /// The same, because somebody changed it: that is told.
    RepairKit {
        /// What was changed, each in words.
        what: Vec<String>,
    },
    /// Bring the schema up to date.
    Migrate,
    /// Start the process.
    Start,
    /// Start it again, as it ought to be now.
    Restart {
        /// Why.
        why: String,
    },
    /// Stop it.
    Stop,
    /// Look again later: something takes its time.
    Wait {
        /// The kind of the condition while something is in the way.
        condition: &'static str,
        /// What is in the way; `None`: nothing.
        why: Option<String>,
    },
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
    /// What stands around the process.
    RemoveKit,
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
            Self::ApplyKit | Self::RepairKit { .. } => "kit_not_current",
            Self::Migrate => "schema_not_current",
            Self::Start | Self::Restart { .. } | Self::WakeUp => "not_started",
            Self::Wait { condition, .. } => condition,
            Self::Stop => "not_stopped",
            Self::FallAsleep | Self::NoteCrash { .. } => "crashed",
            Self::RemoveDatabase => "database_not_removed",
            Self::RemoveBucket => "bucket_not_removed",
            Self::RemoveKit => "kit_not_removed",
            Self::RemoveHome => "state_not_removed",
            Self::WriteReceipt => "receipt_not_written",
        }
    }
}

/// The steps that lead from what is to what is wanted. Only the first one is taken before looking again. None: it is so.
pub fn plan(wanted: Wanted, seen: &Seen, now: DateTime<Utc>) -> Vec<Step> {
    if let (Process::Crashed { how }, true) = (&seen.process, wanted != Wanted::Deleted) {
        return vec![Step::NoteCrash { how: how.clone() }];
    }
    if is_too_early(seen.next_try_at, now) {
        return Vec::new();
    }
    match wanted {
        Wanted::Deleted => plan_deletion(seen),
        Wanted::Running | Wanted::Asleep | Wanted::Suspended => plan_presence(wanted, seen, now),
    }
}

/// Whether a failure is too fresh to try again. A time that no back-off leads to is from a clock that was wrong.
pub fn is_too_early(next_try_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    next_try_at.is_some_and(|at| now < at && at - now <= BACK_OFF_MAX)
}

fn plan_presence(wanted: Wanted, seen: &Seen, now: DateTime<Utc>) -> Vec<Step> {
    if wanted == Wanted::Asleep && seen.wake_at.is_some_and(|at| at <= now) {
        return vec![Step::WakeUp];
    }
    // For a moment it does not fall asleep.
    let rests = seen.idle && seen.wake_at.is_none_or(|at| at - now > NAP_LEAST);
    let runs = matches!(seen.process, Process::Running { .. });
    // Also one that never gets ready: else its failed start would keep the machine busy while nobody wants it.
    let is_up = runs || matches!(seen.process, Process::Starting { .. });
    let migrates = seen.schema == Schema::Outdated || !seen.database;
    let wants_to_run = wanted == Wanted::Running;
    let mut steps = Vec::new();
    if !seen.database {
        steps.push(Step::CreateDatabase);
    }
    if !seen.bucket {
        steps.push(Step::CreateBucket);
    }
    match &seen.kit {
        Kit::Unneeded | Kit::Current => {}
        Kit::Absent | Kit::Outdated => steps.push(Step::ApplyKit),
        Kit::Drifted { what } => steps.push(Step::RepairKit { what: what.clone() }),
        // Somebody is removing it under us. Nothing can be made in it meanwhile; afterwards it is made again.
        Kit::Leaving { what } => {
            let why = Some(format!(
                "{what} is being removed, by somebody else; it is made again then"
            ));
            steps.push(Step::Wait {
                condition: "kit_not_current",
                why,
            });
            return steps;
        }
    }
    // A plane that serves is never migrated under its feet; it gets the new schema at its next start.
    if migrates && !runs {
        steps.push(Step::Migrate);
    }
    match &seen.process {
        Process::Absent if wants_to_run => steps.push(Step::Start),
        // Before it is started again: what it sleeps through, it gets when it wakes.
        Process::Running { .. } if wants_to_run && rests => steps.push(Step::FallAsleep),
        Process::Running { .. } | Process::Starting { .. } if wants_to_run && seen.outdated.is_some() => {
            steps.extend(seen.outdated.clone().map(|why| Step::Restart { why }));
        }
        Process::Starting { why } if wants_to_run => steps.push(Step::Wait {
            condition: "not_started",
            why: why.clone(),
        }),
        Process::Stopping => steps.push(Step::Wait {
            condition: "not_stopped",
            why: None,
        }),
        _ if !wants_to_run && is_up => steps.push(Step::Stop),
        _ => {}
    }
    steps
}

fn plan_deletion(seen: &Seen) -> Vec<Step> {
    // Database and bucket go once nothing writes to them any more.
    if seen.process == Process::Stopping {
        return vec![Step::Wait {
            condition: "not_stopped",
            why: None,
        }];
    }
    let leaving = match &seen.kit {
        Kit::Leaving { what } => Some(Step::Wait {
            condition: "kit_not_removed",
            why: Some(format!("{what} is still there")),
        }),
        Kit::Unneeded | Kit::Absent => None,
        Kit::Outdated | Kit::Current | Kit::Drifted { .. } => Some(Step::RemoveKit),
    };
    [
        (seen.process != Process::Absent).then_some(Step::Stop),
        seen.database.then_some(Step::RemoveDatabase),
        seen.bucket.then_some(Step::RemoveBucket),
        leaving,
        seen.home.then_some(Step::RemoveHome),
        (!seen.receipt).then_some(Step::WriteReceipt),
    ]
    .into_iter()
    .flatten()
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
