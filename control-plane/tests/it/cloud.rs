//! A cloud in memory that fails where a test tells it to: before an effect or after it.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use contract::ids::OrganizationId;
use provisioner::cloud::{Cloud, CloudSeen, Order};
use provisioner::plan::{Kit, Process};
use secrecy::ExposeSecret;

/// What the cloud holds of one plane.
#[derive(Default, Clone)]
pub struct Tenant {
    pub database: bool,
    pub bucket: bool,
    pub home: bool,
    pub runs: bool,
    pub crashed: bool,
    pub agent_token: String,
    pub password: String,
}

/// Where the next calls fail: the n-th call that changes something, before or after its effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    pub at: usize,
    pub after_effect: bool,
}

#[derive(Default)]
struct State {
    tenants: HashMap<OrganizationId, Tenant>,
    calls: Vec<&'static str>,
    fault: Option<Fault>,
    changes: usize,
    version: String,
}

pub struct FakeCloud {
    state: Mutex<State>,
    url: String,
}

impl FakeCloud {
    pub fn new(url: String) -> Self {
        Self {
            state: Mutex::new(State {
                version: "1".to_owned(),
                ..State::default()
            }),
            url,
        }
    }

    pub fn fail(&self, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        state.changes = 0;
        state.fault = Some(fault);
    }

    pub fn set_version(&self, version: &str) {
        self.state.lock().unwrap().version = version.to_owned();
    }

    /// The calls that changed something since the last time.
    pub fn take_calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }

    pub fn tenant(&self, organization: OrganizationId) -> Tenant {
        self.state
            .lock()
            .unwrap()
            .tenants
            .get(&organization)
            .cloned()
            .unwrap_or_default()
    }

    pub fn crash(&self, organization: OrganizationId) {
        let mut state = self.state.lock().unwrap();
        let tenant = state.tenants.entry(organization).or_default();
        (tenant.runs, tenant.crashed) = (false, true);
    }

    fn change(&self, name: &'static str, order: &Order, effect: impl FnOnce(&mut Tenant)) -> anyhow::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.changes += 1;
        state.calls.push(name);
        let fault = state.fault.filter(|f| f.at == state.changes);
        if fault.is_some() {
            state.fault = None;
        }
        if fault.is_some_and(|f| !f.after_effect) {
            anyhow::bail!("{name}: failed before");
        }
        effect(state.tenants.entry(order.identity.organization).or_default());
        if fault.is_some() {
            anyhow::bail!("{name}: failed after");
        }
        Ok(())
    }
}

#[async_trait]
impl Cloud for FakeCloud {
    async fn version(&self, _order: &Order) -> anyhow::Result<String> {
        Ok(self.state.lock().unwrap().version.clone())
    }

    async fn observe(&self, order: &Order) -> anyhow::Result<CloudSeen> {
        let tenant = self.tenant(order.identity.organization);
        let url = self.url.clone();
        Ok(CloudSeen {
            database: tenant.database,
            bucket: tenant.bucket,
            home: tenant.home,
            kit: Kit::Unneeded,
            outdated: None,
            process: match (tenant.runs, tenant.crashed) {
                (true, _) => Process::Running { url },
                (false, true) => Process::Crashed {
                    how: "killed".to_owned(),
                },
                (false, false) => Process::Absent,
            },
        })
    }

    async fn create_database(&self, order: &Order) -> anyhow::Result<()> {
        let password = order.secrets.database_password.expose_secret().to_owned();
        self.change("create_database", order, |t| {
            (t.database, t.password) = (true, password);
        })
    }

    async fn create_bucket(&self, order: &Order) -> anyhow::Result<()> {
        self.change("create_bucket", order, |t| (t.bucket, t.home) = (true, true))
    }

    async fn apply_kit(&self, _order: &Order) -> anyhow::Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn remove_kit(&self, _order: &Order) -> anyhow::Result<()> {
        Ok(())
    }

    fn receipt(&self, _order: &Order) -> Vec<(&'static str, String)> {
        ["database", "bucket", "state"]
            .map(|store| (store, "removed".to_owned()))
            .to_vec()
    }

    async fn migrate(&self, order: &Order) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.tenant(order.identity.organization).database,
            "no database to migrate"
        );
        self.change("migrate", order, |_| {})
    }

    async fn start(&self, order: &Order) -> anyhow::Result<()> {
        let tenant = self.tenant(order.identity.organization);
        anyhow::ensure!(tenant.database && tenant.bucket, "started before it was made");
        anyhow::ensure!(!tenant.runs, "started twice");
        let agent = order.secrets.agent_token.expose_secret().to_owned();
        self.change("start", order, |t| {
            (t.runs, t.crashed, t.agent_token) = (true, false, agent);
        })
    }

    async fn stop(&self, order: &Order) -> anyhow::Result<()> {
        self.change("stop", order, |t| (t.runs, t.crashed) = (false, false))
    }

    async fn remove_database(&self, order: &Order) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.tenant(order.identity.organization).runs,
            "removed under a running plane"
        );
        self.change("remove_database", order, |t| t.database = false)
    }

    async fn remove_bucket(&self, order: &Order) -> anyhow::Result<()> {
        self.change("remove_bucket", order, |t| t.bucket = false)
    }

    async fn remove_home(&self, order: &Order) -> anyhow::Result<()> {
        self.change("remove_home", order, |t| t.home = false)
    }

    async fn shut_down(&self) {}
}
