//! The loop that makes planes be as wanted: passes of the `provisioner`, begun by signals and by a timer. One plane's failure holds
//! up no other.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use clusters::lease::Leadership;
use contract::ids::OrganizationId;
use provisioner::cloud::Cloud;
pub use provisioner::pass::Outcome;
use provisioner::pass::{Environment, Pass};
use tokio::sync::{Semaphore, mpsc};

use super::ledger::Tables;
use super::queries;
use crate::app::App;
use crate::authz::System;

const PROOF: System = System::because("the reconciler makes planes be as wanted");
/// So many planes are worked on at once.
const CONCURRENCY: usize = 8;
/// At the shutdown, passes have that long to end.
const PASSES_WAIT: Duration = Duration::from_secs(10);
/// Every plane is looked at that often, whatever is known of it.
const LOOK_AT_ALL: chrono::Duration = chrono::Duration::minutes(5);

/// Time and randomness of the process.
pub(super) struct Clockwork(pub(super) chassis::Environment);

impl Environment for Clockwork {
    fn now(&self) -> chrono::DateTime<chrono::Utc> {
        self.0.now()
    }

    fn random(&self) -> [u8; 30] {
        self.0.random()
    }
}

/// Makes planes be as wanted.
#[derive(Clone)]
pub struct Reconciler {
    app: Arc<App>,
    pass: Pass,
    leadership: Arc<Leadership>,
}

impl Reconciler {
    /// A reconciler of that cloud.
    pub fn new(app: Arc<App>, cloud: Arc<dyn Cloud>) -> Self {
        let pass = Pass {
            ledger: Arc::new(Tables::new(Arc::clone(&app))),
            cloud,
            environment: Arc::new(Clockwork(app.environment.clone())),
            idle_seconds: app.idle_seconds,
        };
        Self {
            app,
            pass,
            leadership: Arc::new(Leadership::forever()),
        }
    }

    /// Works only while this process leads.
    #[must_use]
    pub fn under(mut self, leadership: Arc<Leadership>) -> Self {
        self.leadership = leadership;
        self
    }

    /// Runs until the shutdown, then stops what stops with the control plane.
    pub async fn run(self, mut signals: mpsc::UnboundedReceiver<OrganizationId>) {
        let mut passes = Passes::new(self.clone());
        let period = Duration::from_secs(self.app.idle_seconds.clamp(4, 20) / 4);
        let mut timer = tokio::time::interval(period);
        let mut looked_at_all = None;
        loop {
            tokio::select! {
                () = self.app.shutdown.begun() => break,
                Some(organization) = signals.recv() => {
                    if self.leadership.is_held() {
                        passes.begin(organization);
                    }
                }
                Some((organization, outcome)) = passes.ended.recv() => passes.note_end(organization, outcome),
                _ = timer.tick() => {
                    let now = self.app.environment.now();
                    let all = looked_at_all.is_none_or(|at| now - at >= LOOK_AT_ALL);
                    if !self.leadership.is_held() {
                        // Who leads anew knows nothing of what was done meanwhile.
                        looked_at_all = None;
                    } else if self.begin_unsettled(&mut passes, all).await && all {
                        looked_at_all = Some(now);
                    }
                }
            }
        }
        // A pass that is in the middle of starting a plane must not start it after all others were stopped.
        if tokio::time::timeout(PASSES_WAIT, passes.finish()).await.is_err() {
            tracing::warn!("a plane is still being worked on; it is left as it is");
        }
        self.pass.cloud.shut_down().await;
    }

    /// Begins a pass over every plane that is not as wanted, or over all. `false`: they cannot be listed.
    async fn begin_unsettled(&self, passes: &mut Passes, all: bool) -> bool {
        let (now, idle) = (self.app.environment.now(), self.app.idle_seconds);
        match queries::list_unsettled(&self.app.pool, &PROOF, now, idle, all).await {
            Ok(found) => {
                found.into_iter().for_each(|organization| passes.begin(organization));
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the reconciler cannot read the planes: {error}");
                false
            }
        }
    }

    /// One pass: steps until the plane is as wanted or something fails.
    ///
    /// # Errors
    /// When the control plane's database is away.
    pub async fn reconcile(&self, organization: OrganizationId) -> anyhow::Result<Outcome> {
        self.pass.run(organization).await
    }
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
