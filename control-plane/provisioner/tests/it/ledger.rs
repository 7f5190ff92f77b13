//! The control plane's tables, as the pass sees them from one process.

use std::collections::BTreeSet;
use std::sync::Mutex;

use async_trait::async_trait;
use contract::api::PlaneCondition;
use contract::ids::OrganizationId;
use contract::token::SecretToken;
use provisioner::cloud::{Order, PlaneIdentity, PlaneSecrets};
use provisioner::ledger::{Failure, Ledger, Record, State};
use provisioner::plan::Wanted;
use secrecy::SecretString;

use crate::world::{Luck, Row, Shared, World};

pub struct Tables {
    pub shared: Shared,
    pub routes: Mutex<BTreeSet<OrganizationId>>,
}

impl Tables {
    pub fn new(shared: Shared) -> Self {
        Self {
            shared,
            routes: Mutex::default(),
        }
    }

    /// A transaction that is committed, or not, and whose answer may get lost.
    async fn change<T: Default>(&self, record: &Record, change: impl FnOnce(&mut Row) -> T) -> anyhow::Result<T> {
        self.shared.call(true).await;
        let mut world = self.shared.world();
        let luck = world.luck();
        anyhow::ensure!(luck != Luck::Before, "the ledger is away");
        let row = world.rows.get_mut(&record.identity.organization).unwrap();
        let current = row.record.generation == record.generation;
        let done = if current { change(row) } else { T::default() };
        anyhow::ensure!(luck == Luck::Good, "the ledger's answer was lost");
        Ok(done)
    }
}

pub fn request(world: &mut World, organization: OrganizationId) {
    let number = u32::try_from(world.rows.len()).unwrap() + 1;
    let row = Row {
        record: Record {
            identity: PlaneIdentity { organization, number },
            name: format!("org-{number}").parse().unwrap(),
            wanted: Wanted::Running,
            generation: 1,
            seen_generation: 0,
            state: State::Requested,
            schema_version: None,
            idle_seconds: None,
            heartbeat_at: None,
            failures: 0,
            next_try_at: None,
            wake_at: None,
            conditions: Vec::new(),
        },
        password: format!("password-{number}"),
        agent_sha256: None,
        image: None,
        receipt: Vec::new(),
        events: Vec::new(),
    };
    world.rows.insert(organization, row);
}

/// What people and operators wish.
pub fn wish(world: &mut World, organization: OrganizationId, wanted: Wanted) {
    let Some(row) = world.rows.get_mut(&organization) else {
        return;
    };
    if row.record.wanted != Wanted::Deleted {
        row.record.wanted = wanted;
        row.record.generation += 1;
    }
}

#[async_trait]
impl Ledger for Tables {
    async fn find(&self, organization: OrganizationId) -> anyhow::Result<Option<Record>> {
        self.shared.call(false).await;
        let mut world = self.shared.world();
        anyhow::ensure!(world.luck() == Luck::Good, "the ledger is away");
        Ok(world.rows.get(&organization).map(|row| row.record.clone()))
    }

    async fn order(&self, record: &Record) -> anyhow::Result<Order> {
        self.shared.call(false).await;
        let world = self.shared.world();
        let row = &world.rows[&record.identity.organization];
        Ok(Order {
            identity: record.identity,
            generation: record.generation,
            image: row.image.clone(),
            secrets: PlaneSecrets {
                database_password: SecretString::from(row.password.clone()),
                data_key: None,
                agent_token: SecretString::from(""),
            },
            agent_sha256: row.agent_sha256.clone(),
        })
    }

    fn is_unused(&self, _record: &Record) -> bool {
        true
    }

    fn set_route(&self, record: &Record, url: Option<&str>) {
        let mut routes = self.routes.lock().unwrap();
        match url {
            Some(_) => routes.insert(record.identity.organization),
            None => routes.remove(&record.identity.organization),
        };
    }

    fn has_route(&self, organization: OrganizationId) -> bool {
        self.routes.lock().unwrap().contains(&organization)
    }

    async fn note_state(&self, record: &Record, state: State) -> anyhow::Result<()> {
        self.change(record, |row| row.record.state = state).await
    }

    async fn note_schema(&self, record: &Record, version: &str) -> anyhow::Result<()> {
        let version = version.to_owned();
        self.change(record, |row| row.record.schema_version = Some(version))
            .await
    }

    async fn note_agent(&self, record: &Record, token: &SecretToken) -> anyhow::Result<bool> {
        let digest = token.sha256().to_vec();
        self.change(record, |row| {
            row.agent_sha256 = Some(digest);
            true
        })
        .await
    }

    async fn fall_asleep(&self, record: &Record) -> anyhow::Result<()> {
        self.change(record, |row| {
            row.record.wanted = Wanted::Asleep;
            row.record.generation += 1;
        })
        .await
    }

    async fn wake_up(&self, record: &Record) -> anyhow::Result<()> {
        self.change(record, |row| {
            row.record.wanted = Wanted::Running;
            row.record.wake_at = None;
            row.record.generation += 1;
        })
        .await
    }

    async fn settle(&self, record: &Record, state: State, _url: Option<&str>) -> anyhow::Result<()> {
        self.change(record, |row| {
            row.record.state = state;
            row.record.seen_generation = row.record.generation;
            row.record.conditions.clear();
            row.record.failures = 0;
        })
        .await
    }

    async fn note_waiting(&self, record: &Record, state: State, why: Option<&PlaneCondition>) -> anyhow::Result<()> {
        self.change(record, |row| {
            row.record.state = state;
            row.record.conditions = why.cloned().into_iter().collect();
        })
        .await
    }

    async fn note_failure(&self, record: &Record, failure: &Failure) -> anyhow::Result<()> {
        self.change(record, |row| {
            row.record.failures += 1;
            row.record.next_try_at = Some(failure.next_try_at);
            row.record.state = State::Degraded;
            row.record.conditions = vec![failure.condition.clone()];
        })
        .await
    }

    async fn note_lasting(&self, _record: &Record, _condition: &PlaneCondition) -> anyhow::Result<()> {
        Ok(())
    }

    async fn end_lasting(&self, _record: &Record, _kind: &str) -> anyhow::Result<()> {
        Ok(())
    }

    async fn note_event(&self, record: &Record, kind: &str, detail: &str) -> anyhow::Result<()> {
        let event = (kind.to_owned(), detail.to_owned());
        self.change(record, |row| row.events.push(event)).await
    }

    async fn erase(&self, record: &Record, stores: &[(&'static str, String)]) -> anyhow::Result<()> {
        let stores: Vec<(String, String)> = stores.iter().map(|(s, d)| ((*s).to_owned(), d.clone())).collect();
        self.change(record, |row| {
            row.receipt = stores;
            row.record.state = State::Deleted;
        })
        .await
    }
}
