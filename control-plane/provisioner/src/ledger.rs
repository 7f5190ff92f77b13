//! What the control plane's database keeps of planes, as the pass needs it. Whatever a write is about names the record that
//! was read. One that another wish has overtaken since (its `generation` is older) changes nothing of what is wanted or reached;
//! failures, lasting conditions and events are noted all the same.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use contract::api::PlaneCondition;
use contract::ids::OrganizationId;
use contract::names::OrganizationName;
use contract::token::SecretToken;

use crate::cloud::{Order, PlaneIdentity};
use crate::plan::Wanted;

/// Where a plane stands, as it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing was done yet.
    Requested,
    /// It is being made, or started.
    Provisioning,
    /// It serves.
    Ready,
    /// Something is in its way.
    Degraded,
    /// All is there but the process.
    Asleep,
    /// The same, and nobody can wake it.
    Suspended,
    /// It is being taken apart.
    Deleting,
    /// Nothing of it is left.
    Deleted,
}

impl State {
    /// The stored word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Provisioning => "provisioning",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Asleep => "asleep",
            Self::Suspended => "suspended",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }
}

/// A text that is no state.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a state of a plane")]
pub struct ParseStateError(String);

impl std::str::FromStr for State {
    type Err = ParseStateError;
    fn from_str(text: &str) -> Result<Self, ParseStateError> {
        [
            Self::Requested,
            Self::Provisioning,
            Self::Ready,
            Self::Degraded,
            Self::Asleep,
            Self::Suspended,
            Self::Deleting,
            Self::Deleted,
        ]
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| ParseStateError(text.to_owned()))
    }
}

/// What is kept of a plane.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which one.
    pub identity: PlaneIdentity,
    /// The organization's name.
    pub name: OrganizationName,
    /// What ought to be.
    pub wanted: Wanted,
    /// Grows with each change of the wish.
    pub generation: i64,
    /// The generation that was reached last.
    pub seen_generation: i64,
    /// What was stored last.
    pub state: State,
    /// The version that brought the schema up to date.
    pub schema_version: Option<String>,
    /// Since when the plane had nothing to do, by its newest heartbeat.
    pub idle_seconds: Option<u64>,
    /// When that came.
    pub heartbeat_at: Option<DateTime<Utc>>,
    /// Failures in a row.
    pub failures: u32,
    /// Nothing is tried before that time.
    pub next_try_at: Option<DateTime<Utc>>,
    /// When it has something to do by itself; never, while the organization is suspended.
    pub wake_at: Option<DateTime<Utc>>,
    /// What is in its way.
    pub conditions: Vec<PlaneCondition>,
}

/// What failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What is in the way.
    pub condition: PlaneCondition,
    /// Nothing is tried before that time.
    pub next_try_at: DateTime<Utc>,
    /// Whether a plane that served may do so still: `false` only where it is known to have ended.
    pub may_serve: bool,
}

/// The tables of planes.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Reads a plane; one whose time is over is wanted deleted from then on.
    async fn find(&self, organization: OrganizationId) -> anyhow::Result<Option<Record>>;
    /// What its cloud is told, with its secrets.
    async fn order(&self, record: &Record) -> anyhow::Result<Order>;
    /// Whether nobody used it for that long, as far as this process knows.
    fn is_unused(&self, record: &Record) -> bool;
    /// Where it is reached from now on, for the gateway of this process; `None`: nowhere.
    fn set_route(&self, record: &Record, url: Option<&str>);
    /// Whether the gateway of this process knows where it is reached.
    fn has_route(&self, organization: OrganizationId) -> bool;
    /// Writes the state between.
    async fn note_state(&self, record: &Record, state: State) -> anyhow::Result<()>;
    /// Writes which version brought the schema up to date.
    async fn note_schema(&self, record: &Record, version: &str) -> anyhow::Result<()>;
    /// Makes this the plane's credential; the one before is void. `false`: the wish is another one now.
    async fn note_agent(&self, record: &Record, token: &SecretToken) -> anyhow::Result<bool>;
    /// Wishes that it sleep, unless somebody needs it after all.
    async fn fall_asleep(&self, record: &Record) -> anyhow::Result<()>;
    /// Wishes that it run.
    async fn wake_up(&self, record: &Record) -> anyhow::Result<()>;
    /// Writes what was reached; what was in the way is over.
    async fn settle(&self, record: &Record, state: State, url: Option<&str>) -> anyhow::Result<()>;
    /// Writes what is in the way while something takes its time; `None`: nothing is.
    async fn note_waiting(&self, record: &Record, state: State, why: Option<&PlaneCondition>) -> anyhow::Result<()>;
    /// Writes a failure.
    async fn note_failure(&self, record: &Record, failure: &Failure) -> anyhow::Result<()>;
    /// Writes what is not as one would wish although the plane works; it does not end with what was in the way.
    async fn note_lasting(&self, record: &Record, condition: &PlaneCondition) -> anyhow::Result<()>;
    /// What was not as one would wish is.
    async fn end_lasting(&self, record: &Record, kind: &str) -> anyhow::Result<()>;
    /// Tells what was done without being asked for.
    async fn note_event(&self, record: &Record, kind: &str, detail: &str) -> anyhow::Result<()>;
    /// Nothing is left: its rows, its receipt of what was removed, store by store.
    async fn erase(&self, record: &Record, stores: &[(&'static str, String)]) -> anyhow::Result<()>;
}
