//! One pass over one plane: observe, plan, take the first step, observe again, until it is as wanted, something fails or something
//! takes its time. It has no input but state, so it may be begun at any time, by anybody, and end anywhere.

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use contract::api::PlaneCondition;
use contract::ids::OrganizationId;
use contract::token::{SecretToken, TokenKind};
use secrecy::SecretString;

use crate::cloud::{Cloud, Fenced, Order, Outranked, Raced};
use crate::ledger::{Failure, Ledger, Record, State};
use crate::plan::{Process, Schema, Seen, Step, Wanted, back_off, is_too_early, plan};

/// A pass that takes more steps than this does not converge; it stops and says so.
const STEPS_MAX: usize = 24;
/// A heartbeat older than this says nothing about now.
const HEARTBEAT_FRESH: Duration = Duration::seconds(60);
/// What takes its time is looked at again after that, where no signal comes sooner.
const LOOK_AGAIN: Duration = Duration::seconds(2);

/// Time and randomness.
pub trait Environment: Send + Sync + 'static {
    /// The time.
    fn now(&self) -> DateTime<Utc>;
    /// Random bytes, fit for secrets.
    fn random(&self) -> [u8; 30];
}

/// How a pass over one plane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is as wanted.
    Settled,
    /// Something failed or takes its time; look again then.
    RetryAt(DateTime<Utc>),
    /// There is no such plane.
    Unknown,
}

/// Makes planes be as wanted.
#[derive(Clone)]
pub struct Pass {
    /// What is kept of planes.
    pub ledger: Arc<dyn Ledger>,
    /// Where they live.
    pub cloud: Arc<dyn Cloud>,
    /// Time and randomness.
    pub environment: Arc<dyn Environment>,
    /// A plane that nobody needs for that long is stopped.
    pub idle_seconds: u64,
}

/// What a step led to.
enum Taken {
    /// Look again.
    On,
    /// This pass is over.
    Over(Outcome),
}

impl Pass {
    /// Steps until the plane is as wanted, something fails, or something takes its time.
    ///
    /// # Errors
    /// When the ledger is away.
    pub async fn run(&self, organization: OrganizationId) -> anyhow::Result<Outcome> {
        let mut last = None;
        for _ in 0..STEPS_MAX {
            let Some(record) = self.ledger.find(organization).await? else {
                return Ok(Outcome::Unknown);
            };
            if record.wanted == Wanted::Deleted && record.state == State::Deleted {
                return Ok(Outcome::Settled);
            }
            let (order, seen) = match self.observe(&record).await {
                Ok(observed) => observed,
                Err(error) if error.is::<Fenced>() => return Err(error),
                Err(error) => return self.failed(&record, "not_observed", &error).await,
            };
            let now = self.environment.now();
            let Some(step) = plan(record.wanted, &seen, now).into_iter().next() else {
                if let Some(at) = seen.next_try_at.filter(|at| is_too_early(Some(*at), now)) {
                    return Ok(Outcome::RetryAt(at));
                }
                self.settle(&record, &seen).await?;
                return Ok(Outcome::Settled);
            };
            match self.take(&step, &record, &order).await? {
                Taken::On => last = Some(step),
                Taken::Over(outcome) => return Ok(outcome),
            }
        }
        // A large bucket takes many calls to empty.
        if last == Some(Step::RemoveBucket) {
            return Ok(Outcome::RetryAt(self.environment.now()));
        }
        let error = anyhow::anyhow!("{STEPS_MAX} steps did not make the plane be as wanted");
        match self.ledger.find(organization).await? {
            Some(record) => self.failed(&record, "not_converging", &error).await,
            None => Ok(Outcome::Unknown),
        }
    }

    async fn observe(&self, record: &Record) -> anyhow::Result<(Order, Seen)> {
        let order = self.ledger.order(record).await?;
        let version = self.cloud.version(&order).await?;
        let seen = self.cloud.observe(&order).await?;
        let current = seen.database && record.schema_version.as_ref() == Some(&version);
        let seen = Seen {
            database: seen.database,
            bucket: seen.bucket,
            home: seen.home,
            kit: seen.kit,
            schema: if current { Schema::Current } else { Schema::Outdated },
            process: seen.process,
            outdated: seen.outdated,
            idle: self.is_idle(record),
            next_try_at: record.next_try_at,
            receipt: record.state == State::Deleted,
            wake_at: record.wake_at,
        };
        Ok((order, seen))
    }

    fn is_idle(&self, record: &Record) -> bool {
        let reported = record.idle_seconds.is_some_and(|s| s >= self.idle_seconds)
            && record
                .heartbeat_at
                .is_some_and(|at| self.environment.now() - at < HEARTBEAT_FRESH);
        reported && self.ledger.is_unused(record)
    }

    async fn take(&self, step: &Step, record: &Record, order: &Order) -> anyhow::Result<Taken> {
        let organization = record.identity.organization;
        match step {
            Step::Wait { condition, why } => return self.wait(record, condition, why.as_deref()).await,
            Step::NoteCrash { how } => {
                tracing::info!(organization.id = %organization, "a plane crashed: {how}");
                self.ledger.set_route(record, None);
                let outcome = self.failed(record, step.condition(), &anyhow::anyhow!("{how}")).await?;
                if let Err(error) = self.cloud.stop(order).await {
                    tracing::warn!("a crashed plane could not be cleared: {error:#}");
                }
                return Ok(Taken::Over(outcome));
            }
            _ => {}
        }
        tracing::info!(organization.id = %organization, plane.step = ?step, "{organization}: {step:?}");
        match self.act(step, record, order).await {
            Ok(()) => Ok(Taken::On),
            // Somebody else was faster: what is there now is looked at anew.
            Err(error) if error.is::<Raced>() => Ok(Taken::On),
            Err(error) if error.is::<Fenced>() => Err(error),
            Err(error) => {
                // A newer wish is being carried out; whoever carries it out has read it where we read ours.
                if error.is::<Outranked>() && self.is_overtaken(record).await? {
                    return Ok(Taken::On);
                }
                self.failed(record, step.condition(), &error).await.map(Taken::Over)
            }
        }
    }

    async fn is_overtaken(&self, record: &Record) -> anyhow::Result<bool> {
        let now = self.ledger.find(record.identity.organization).await?;
        Ok(now.is_none_or(|now| now.generation > record.generation))
    }

    /// One outside call. Everything that it needs is read before, everything that it changed is written after.
    async fn act(&self, step: &Step, record: &Record, order: &Order) -> anyhow::Result<()> {
        let (ledger, cloud) = (&self.ledger, &self.cloud);
        match step {
            Step::CreateDatabase => {
                ledger.note_state(record, State::Provisioning).await?;
                cloud.create_database(order).await
            }
            Step::CreateBucket => cloud.create_bucket(order).await,
            Step::ApplyKit => {
                if record.wanted == Wanted::Running {
                    ledger.note_state(record, State::Provisioning).await?;
                }
                self.apply_kit(record, order).await
            }
            Step::RepairKit { what } => {
                self.apply_kit(record, order).await?;
                ledger.note_event(record, "drift_repaired", &what.join("; ")).await
            }
            Step::Migrate => {
                let version = cloud.version(order).await?;
                cloud.migrate(order).await?;
                ledger.note_schema(record, &version).await
            }
            Step::Start => self.start(record, order).await,
            Step::Restart { why } => {
                self.start(record, order).await?;
                ledger.note_event(record, "restarted", why).await
            }
            Step::Stop => {
                ledger.set_route(record, None);
                cloud.stop(order).await
            }
            Step::FallAsleep => ledger.fall_asleep(record).await,
            Step::WakeUp => ledger.wake_up(record).await,
            Step::RemoveDatabase => cloud.remove_database(order).await,
            Step::RemoveBucket => cloud.remove_bucket(order).await,
            Step::RemoveKit => cloud.remove_kit(order).await,
            Step::RemoveHome => cloud.remove_home(order).await,
            Step::WriteReceipt => ledger.erase(record, &cloud.receipt(order)).await,
            Step::Wait { .. } | Step::NoteCrash { .. } => Ok(()),
        }
    }

    async fn apply_kit(&self, record: &Record, order: &Order) -> anyhow::Result<()> {
        let missing = self.cloud.apply_kit(order).await?.join("; ");
        let kind = "not_locked_down";
        let told = record.conditions.iter().find(|c| c.kind == kind).map(|c| &c.reason);
        match told {
            Some(_) if missing.is_empty() => self.ledger.end_lasting(record, kind).await,
            None if missing.is_empty() => Ok(()),
            Some(told) if *told == missing => Ok(()),
            _ => {
                let condition = self.condition(kind, missing);
                self.ledger.note_lasting(record, &condition).await
            }
        }
    }

    async fn start(&self, record: &Record, order: &Order) -> anyhow::Result<()> {
        let agent = SecretToken::generate(TokenKind::Agent, self.environment.random());
        // Known there before the process can use it.
        if !self.ledger.note_agent(record, &agent).await? {
            return Err(Raced("what is wanted of the plane".to_owned()).into());
        }
        let mut order = order.clone();
        order.agent_sha256 = Some(agent.sha256().to_vec());
        order.secrets.agent_token = SecretString::from(agent.expose());
        self.cloud.start(&order).await
    }

    async fn settle(&self, record: &Record, seen: &Seen) -> anyhow::Result<()> {
        let organization = record.identity.organization;
        let (state, url) = match &seen.process {
            Process::Running { url } => (State::Ready, Some(url.as_str())),
            _ if record.wanted == Wanted::Suspended => (State::Suspended, None),
            _ => (State::Asleep, None),
        };
        let told = record.state == state && record.seen_generation == record.generation;
        if !told || url.is_some() && !self.ledger.has_route(organization) {
            self.ledger.settle(record, state, url).await?;
        }
        self.ledger.set_route(record, url);
        Ok(())
    }

    /// Something takes its time: says so where it is not said yet.
    async fn wait(&self, record: &Record, kind: &str, why: Option<&str>) -> anyhow::Result<Taken> {
        let state = match (record.wanted, why) {
            (Wanted::Deleted, _) => State::Deleting,
            (_, Some(_)) => State::Degraded,
            (Wanted::Running, None) => State::Provisioning,
            (Wanted::Asleep | Wanted::Suspended, None) => record.state,
        };
        // While it is taken apart, what is still there is no failure.
        let why = why.filter(|_| record.wanted != Wanted::Deleted);
        let told = record
            .conditions
            .iter()
            .find(|c| c.kind == kind)
            .map(|c| c.reason.as_str());
        if record.state != state || told != why {
            let condition = why.map(|why| self.condition(kind, why.to_owned()));
            self.ledger.note_waiting(record, state, condition.as_ref()).await?;
        }
        if record.wanted == Wanted::Running {
            self.ledger.set_route(record, None);
        }
        Ok(Taken::Over(Outcome::RetryAt(self.environment.now() + LOOK_AGAIN)))
    }

    fn condition(&self, kind: &str, reason: String) -> PlaneCondition {
        PlaneCondition {
            kind: kind.to_owned(),
            reason,
            since: self.environment.now(),
        }
    }

    async fn failed(&self, record: &Record, kind: &str, error: &anyhow::Error) -> anyhow::Result<Outcome> {
        let now = self.environment.now();
        let [jitter, ..] = self.environment.random();
        let next = now + back_off(record.failures + 1, jitter);
        let organization = record.identity.organization;
        tracing::warn!(organization.id = %organization, condition = kind, "plane of {organization}: {kind}: {error:#}");
        let failure = Failure {
            condition: self.condition(kind, format!("{error:#}")),
            next_try_at: next,
            // Whoever stops one takes its route before.
            may_serve: !matches!(kind, "crashed" | "not_stopped"),
        };
        self.ledger.note_failure(record, &failure).await?;
        Ok(Outcome::RetryAt(next))
    }
}
