//! The loop that makes planes be as wanted: observe, plan, take the first step, observe again. It has no input but state;
//! signals only make it look sooner than the timer does. One plane's failure holds up no other.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use contract::api::PlaneCondition;
use contract::ids::OrganizationId;
use contract::token::{SecretToken, TokenKind};
use secrecy::SecretString;
use tokio::sync::{Semaphore, mpsc};

use super::cloud::{Cloud, PlaneSecrets};
use super::plan::{Process, Schema, Seen, Step, Wanted, back_off, plan};
use super::queries::{self, PlaneRow};
use super::{Route, data_key_purpose, password_purpose};
use crate::app::App;
use crate::authz::System;
use crate::deletions;

const PROOF: System = System::because("the reconciler makes planes be as wanted");
/// So many planes are worked on at once.
const CONCURRENCY: usize = 8;
/// At the shutdown, passes have that long to end.
const PASSES_WAIT: Duration = Duration::from_secs(10);
/// A pass that takes more steps than this does not converge; it stops and says so.
const STEPS_MAX: usize = 24;
/// A heartbeat older than this says nothing about now.
const HEARTBEAT_FRESH: chrono::Duration = chrono::Duration::seconds(60);

/// How a pass over one plane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is as wanted.
    Settled,
    /// Something failed; look again then.
    RetryAt(DateTime<Utc>),
    /// There is no such plane.
    Unknown,
}

/// Makes planes be as wanted.
#[derive(Clone)]
pub struct Reconciler {
    app: Arc<App>,
    cloud: Arc<dyn Cloud>,
}

impl Reconciler {
    /// A reconciler of that cloud.
    pub fn new(app: Arc<App>, cloud: Arc<dyn Cloud>) -> Self {
        Self { app, cloud }
    }

    /// Runs until the shutdown, then stops all planes.
    pub async fn run(self, mut signals: mpsc::UnboundedReceiver<OrganizationId>) {
        let mut passes = Passes::new(self.clone());
        let period = Duration::from_secs(self.app.idle_seconds.clamp(4, 20) / 4);
        let mut timer = tokio::time::interval(period);
        loop {
            tokio::select! {
                () = self.app.shutdown.begun() => break,
                Some(organization) = signals.recv() => passes.begin(organization),
                Some((organization, outcome)) = passes.ended.recv() => passes.note_end(organization, outcome),
                _ = timer.tick() => match queries::list_unsettled(&self.app.pool, &PROOF, self.app.environment.now()).await {
                    Ok(all) => all.into_iter().for_each(|organization| passes.begin(organization)),
                    Err(error) => tracing::warn!(%error, "the reconciler cannot read the planes: {error}"),
                },
            }
        }
        // A pass that is in the middle of starting a plane must not start it after all others were stopped.
        if tokio::time::timeout(PASSES_WAIT, passes.finish()).await.is_err() {
            tracing::warn!("a plane is still being worked on; it is left as it is");
        }
        self.cloud.shut_down().await;
    }

    /// One pass: steps until the plane is as wanted or something fails.
    ///
    /// # Errors
    /// When the control plane's database is away.
    pub async fn reconcile(&self, organization: OrganizationId) -> Result<Outcome, sqlx::Error> {
        deletions::queries::begin_erasure_if_due(&self.app.pool, &PROOF, organization, self.app.environment.now())
            .await?;
        for _ in 0..STEPS_MAX {
            let Some(row) = queries::find_plane(&self.app.pool, &PROOF, organization).await? else {
                return Ok(Outcome::Unknown);
            };
            if row.wanted == Wanted::Deleted && row.state == "deleted" {
                return Ok(Outcome::Settled);
            }
            let seen = match self.observe(&row).await {
                Ok(seen) => seen,
                Err(error) => return self.failed(&row, "not_observed", &error).await,
            };
            let now = self.app.environment.now();
            let Some(step) = plan(row.wanted, &seen, now).into_iter().next() else {
                if let Some(at) = seen.next_try_at.filter(|at| now < *at) {
                    return Ok(Outcome::RetryAt(at));
                }
                self.settle(&row, &seen).await?;
                return Ok(Outcome::Settled);
            };
            tracing::info!(organization.id = %organization, plane.step = ?step, "plane of `{}`: {step:?}", row.name);
            if let Step::NoteCrash { how } = &step {
                self.app.planes.forget_route(organization);
                let outcome = self.failed(&row, step.condition(), &anyhow::anyhow!("{how}")).await?;
                if let Err(error) = self.cloud.stop(&row.identity).await {
                    tracing::warn!("a crashed plane could not be cleared: {error:#}");
                }
                return Ok(outcome);
            }
            if let Err(error) = self.act(&step, &row).await {
                return self.failed(&row, step.condition(), &error).await;
            }
        }
        let error = anyhow::anyhow!("{STEPS_MAX} steps did not make the plane be as wanted");
        match queries::find_plane(&self.app.pool, &PROOF, organization).await? {
            Some(row) => self.failed(&row, "not_converging", &error).await,
            None => Ok(Outcome::Unknown),
        }
    }

    async fn observe(&self, row: &PlaneRow) -> anyhow::Result<Seen> {
        let version = self.cloud.version().await?;
        let seen = self.cloud.observe(&row.identity).await?;
        let current = seen.database && row.schema_version.as_ref() == Some(&version);
        Ok(Seen {
            database: seen.database,
            bucket: seen.bucket,
            home: seen.home,
            schema: if current { Schema::Current } else { Schema::Outdated },
            process: seen.process,
            idle: self.is_idle(row),
            next_try_at: row.next_try_at,
            receipt: row.state == "deleted",
            wake_at: row.wake_at,
        })
    }

    fn is_idle(&self, row: &PlaneRow) -> bool {
        let limit = self.app.idle_limit();
        let now = self.app.environment.now();
        let reported = row.idle_seconds.is_some_and(|s| s >= self.app.idle_seconds)
            && row.heartbeat_at.is_some_and(|at| now - at < HEARTBEAT_FRESH);
        reported && self.app.planes.is_unused(row.identity.organization, limit, now)
    }

    /// One outside call. Everything that it needs is read before, everything that it changed is written after.
    async fn act(&self, step: &Step, row: &PlaneRow) -> anyhow::Result<()> {
        let (pool, id, organization) = (&self.app.pool, &row.identity, row.identity.organization);
        match step {
            Step::CreateDatabase => {
                queries::update_state(pool, &PROOF, organization, "provisioning").await?;
                self.cloud.create_database(id, &self.secrets(row)?).await?;
            }
            Step::CreateBucket => self.cloud.create_bucket(id).await?,
            Step::Migrate => {
                let version = self.cloud.version().await?;
                self.cloud.migrate(id, &self.secrets(row)?).await?;
                queries::update_schema_version(pool, &PROOF, organization, &version).await?;
            }
            Step::Start => self.start(row).await?,
            Step::Stop => {
                self.app.planes.forget_route(organization);
                self.cloud.stop(id).await?;
            }
            Step::FallAsleep => {
                let now = self.app.environment.now();
                if self.app.planes.retire(organization, self.app.idle_limit(), now) {
                    queries::want_asleep(pool, &PROOF, organization, row.generation).await?;
                }
            }
            Step::WakeUp => {
                self.app.planes.note_use(organization, self.app.environment.now());
                queries::want_running(pool, &PROOF, organization).await?;
            }
            Step::RemoveDatabase => self.cloud.remove_database(id).await?,
            Step::RemoveBucket => self.cloud.remove_bucket(id).await?,
            Step::RemoveHome => self.cloud.remove_home(id).await?,
            Step::WriteReceipt => {
                deletions::erase(&self.app, &PROOF, row, &receipt(row)).await?;
            }
            Step::NoteCrash { .. } => {}
        }
        Ok(())
    }

    async fn start(&self, row: &PlaneRow) -> anyhow::Result<()> {
        let agent = SecretToken::generate(TokenKind::Agent, self.app.environment.random());
        // Known here before the process can use it.
        queries::update_agent(&self.app.pool, &PROOF, row.identity.organization, &agent).await?;
        let mut secrets = self.secrets(row)?;
        secrets.agent_token = SecretString::from(agent.expose());
        self.cloud.start(&row.identity, &secrets).await
    }

    fn secrets(&self, row: &PlaneRow) -> anyhow::Result<PlaneSecrets> {
        let purpose = password_purpose(row.identity.organization);
        let password = String::from_utf8(self.app.vault.open(&purpose, &row.sealed_password)?)?;
        let data_key = match &row.sealed_data_key {
            Some(sealed) => {
                let purpose = data_key_purpose(row.identity.organization);
                Some(SecretString::from(hex::encode(self.app.vault.open(&purpose, sealed)?)))
            }
            None => None,
        };
        Ok(PlaneSecrets {
            database_password: SecretString::from(password),
            data_key,
            agent_token: SecretString::from(""),
        })
    }

    async fn settle(&self, row: &PlaneRow, seen: &Seen) -> Result<(), sqlx::Error> {
        let organization = row.identity.organization;
        let (state, url) = match &seen.process {
            Process::Running { url } => ("ready", Some(url.clone())),
            Process::Absent | Process::Crashed { .. } => ("asleep", None),
        };
        if row.state != state || !self.app.planes.is_running(organization) && url.is_some() {
            queries::settle(&self.app.pool, &PROOF, row, state, url.as_deref()).await?;
        }
        self.app.planes.set_route(
            organization,
            url.map(|url| Route {
                name: row.name.clone(),
                url,
            }),
        );
        Ok(())
    }

    async fn failed(&self, row: &PlaneRow, kind: &str, error: &anyhow::Error) -> Result<Outcome, sqlx::Error> {
        let now = self.app.environment.now();
        let [jitter] = self.app.environment.random();
        let next = now + back_off(row.failures + 1, jitter);
        let organization = row.identity.organization;
        tracing::warn!(organization.id = %organization, condition = kind, "plane of `{}`: {kind}: {error:#}", row.name);
        let condition = PlaneCondition {
            kind: kind.to_owned(),
            reason: format!("{error:#}"),
            since: now,
        };
        queries::note_failure(&self.app.pool, &PROOF, row, &condition, next).await?;
        Ok(Outcome::RetryAt(next))
    }
}

fn receipt(row: &PlaneRow) -> Vec<(&'static str, String)> {
    let id = row.identity.organization;
    let data_key = match row.sealed_data_key {
        Some(_) => format!(
            "the key of {id} erased: copies of its packs, those in backups too, can be read by nobody once backups of the control database that were made before are gone"
        ),
        None => format!("{id} had none: copies of its packs were not encrypted"),
    };
    vec![
        ("database", format!("database and role of {id} dropped")),
        ("bucket", format!("bucket of {id} removed with all packs in it")),
        ("state", format!("state directory and logs of {id} removed")),
        ("data key", data_key),
        (
            "control database",
            format!(
                "members, teams, service accounts, tokens, domains, grants, releases and requests of {id} deleted; the audit trail is kept"
            ),
        ),
    ]
}

/// The passes that run now: at most one for each plane, and one more when a signal came meanwhile.
struct Passes {
    reconciler: Reconciler,
    running: HashSet<OrganizationId>,
    again: HashSet<OrganizationId>,
    alarms: HashMap<OrganizationId, tokio::task::JoinHandle<()>>,
    slots: Arc<Semaphore>,
    report: mpsc::UnboundedSender<(OrganizationId, Option<Outcome>)>,
    ended: mpsc::UnboundedReceiver<(OrganizationId, Option<Outcome>)>,
}

impl Passes {
    fn new(reconciler: Reconciler) -> Self {
        let (report, ended) = mpsc::unbounded_channel();
        Self {
            reconciler,
            running: HashSet::new(),
            again: HashSet::new(),
            alarms: HashMap::new(),
            slots: Arc::new(Semaphore::new(CONCURRENCY)),
            report,
            ended,
        }
    }

    fn begin(&mut self, organization: OrganizationId) {
        if !self.running.insert(organization) {
            self.again.insert(organization);
            return;
        }
        let (reconciler, report, slots) = (self.reconciler.clone(), self.report.clone(), Arc::clone(&self.slots));
        tokio::spawn(async move {
            let _slot = slots.acquire().await;
            // In a task of its own, so that a panic ends this pass only.
            let pass = tokio::spawn(async move { reconciler.reconcile(organization).await });
            let outcome = match pass.await {
                Ok(Ok(outcome)) => Some(outcome),
                Ok(Err(error)) => {
                    tracing::warn!(organization.id = %organization, "a plane cannot be reconciled: {error}");
                    None
                }
                Err(error) => {
                    tracing::error!(organization.id = %organization, "reconciling a plane panicked: {error}");
                    None
                }
            };
            let _ = report.send((organization, outcome));
        });
    }

    /// Waits for the passes that run, and begins no other.
    async fn finish(&mut self) {
        while !self.running.is_empty() {
            let Some((organization, _)) = self.ended.recv().await else {
                return;
            };
            self.running.remove(&organization);
        }
    }

    fn note_end(&mut self, organization: OrganizationId, outcome: Option<Outcome>) {
        self.running.remove(&organization);
        if self.again.remove(&organization) {
            self.begin(organization);
            return;
        }
        if let Some(Outcome::RetryAt(at)) = outcome {
            let app = Arc::clone(&self.reconciler.app);
            let wait = (at - app.environment.now()).to_std().unwrap_or_default();
            let alarm = tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                app.planes.signal(organization);
            });
            if let Some(before) = self.alarms.insert(organization, alarm) {
                before.abort();
            }
        }
    }
}
