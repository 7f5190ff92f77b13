//! The control plane's tables as the ledger of the `provisioner`.

use std::sync::Arc;

use async_trait::async_trait;
use contract::api::PlaneCondition;
use contract::ids::OrganizationId;
use contract::token::SecretToken;
use provisioner::cloud::{Order, PlaneSecrets};
use provisioner::ledger::{Failure, Ledger, Record, State};
use secrecy::SecretString;

use super::queries::{self, PlaneRow};
use super::{Route, data_key_purpose, password_purpose};
use crate::app::App;
use crate::authz::System;
use crate::deletions;

const PROOF: System = System::because("the reconciler makes planes be as wanted");

/// The tables of planes, and what this process knows of running ones.
pub(super) struct Tables {
    app: Arc<App>,
}

impl Tables {
    /// Of that service.
    pub(super) fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    async fn row(&self, organization: OrganizationId) -> anyhow::Result<PlaneRow> {
        queries::find_plane(&self.app.pool, &PROOF, organization)
            .await?
            .ok_or_else(|| anyhow::anyhow!("the plane of {organization} is not known any more"))
    }

    async fn secrets(&self, row: &PlaneRow) -> anyhow::Result<PlaneSecrets> {
        let organization = row.record.identity.organization;
        let password = self
            .app
            .vault
            .open(&password_purpose(organization), &row.sealed_password)?;
        let data_key = match &row.sealed_data_key {
            Some(sealed) => {
                let key = self.app.vault.open(&data_key_purpose(organization), sealed)?;
                Some(SecretString::from(hex::encode(key)))
            }
            None => None,
        };
        Ok(PlaneSecrets {
            database_password: SecretString::from(String::from_utf8(password)?),
            data_key,
            agent_token: SecretString::from(""),
        })
    }
}

#[async_trait]
impl Ledger for Tables {
    async fn find(&self, organization: OrganizationId) -> anyhow::Result<Option<Record>> {
        let (pool, now) = (&self.app.pool, self.app.environment.now());
        deletions::queries::begin_erasure_if_due(pool, &PROOF, organization, now).await?;
        let Some(row) = queries::find_plane(pool, &PROOF, organization).await? else {
            return Ok(None);
        };
        let mut record = row.record;
        record.conditions = queries::list_conditions(pool, &PROOF, organization).await?;
        Ok(Some(record))
    }

    async fn order(&self, record: &Record) -> anyhow::Result<Order> {
        let row = self.row(record.identity.organization).await?;
        Ok(Order {
            identity: record.identity,
            generation: record.generation,
            image: row.image.clone(),
            secrets: self.secrets(&row).await?,
            agent_sha256: row.agent_sha256,
        })
    }

    fn is_unused(&self, record: &Record) -> bool {
        let (limit, now) = (self.app.idle_limit(), self.app.environment.now());
        self.app.planes.is_unused(record.identity.organization, limit, now)
    }

    fn set_route(&self, record: &Record, url: Option<&str>) {
        let route = url.map(|url| Route {
            name: record.name.clone(),
            url: url.to_owned(),
        });
        self.app.planes.set_route(record.identity.organization, route);
    }

    fn has_route(&self, organization: OrganizationId) -> bool {
        self.app.planes.is_running(organization)
    }

    async fn note_state(&self, record: &Record, state: State) -> anyhow::Result<()> {
        Ok(queries::update_state(&self.app.pool, &PROOF, record, state).await?)
    }

    async fn note_schema(&self, record: &Record, version: &str) -> anyhow::Result<()> {
        let organization = record.identity.organization;
        Ok(queries::update_schema_version(&self.app.pool, &PROOF, organization, version).await?)
    }

    async fn note_agent(&self, record: &Record, token: &SecretToken) -> anyhow::Result<bool> {
        Ok(queries::update_agent(&self.app.pool, &PROOF, record, token).await?)
    }

    async fn fall_asleep(&self, record: &Record) -> anyhow::Result<()> {
        let (organization, now) = (record.identity.organization, self.app.environment.now());
        if self.app.planes.retire(organization, self.app.idle_limit(), now) {
            queries::want_asleep(&self.app.pool, &PROOF, organization, record.generation).await?;
        }
        Ok(())
    }

    async fn wake_up(&self, record: &Record) -> anyhow::Result<()> {
        let organization = record.identity.organization;
        self.app.planes.note_use(organization, self.app.environment.now());
        queries::want_running(&self.app.pool, &PROOF, organization).await?;
        Ok(())
    }

    async fn settle(&self, record: &Record, state: State, url: Option<&str>) -> anyhow::Result<()> {
        Ok(queries::settle(&self.app.pool, &PROOF, record, state, url).await?)
    }

    async fn note_waiting(&self, record: &Record, state: State, why: Option<&PlaneCondition>) -> anyhow::Result<()> {
        Ok(queries::note_waiting(&self.app.pool, &PROOF, record, state, why).await?)
    }

    async fn note_failure(&self, record: &Record, failure: &Failure) -> anyhow::Result<()> {
        Ok(queries::note_failure(&self.app.pool, &PROOF, record, failure).await?)
    }

    async fn note_lasting(&self, record: &Record, condition: &PlaneCondition) -> anyhow::Result<()> {
        Ok(queries::note_lasting(&self.app.pool, &PROOF, record, condition).await?)
    }

    async fn end_lasting(&self, record: &Record, kind: &str) -> anyhow::Result<()> {
        Ok(queries::end_lasting(&self.app.pool, &PROOF, record, kind).await?)
    }

    async fn note_event(&self, record: &Record, kind: &str, detail: &str) -> anyhow::Result<()> {
        let now = self.app.environment.now();
        let organization = record.identity.organization;
        let mut tx = self.app.pool.begin().await?;
        queries::insert_events(&mut tx, &PROOF, &[organization], kind, detail, now).await?;
        Ok(tx.commit().await?)
    }

    async fn erase(&self, record: &Record, stores: &[(&'static str, String)]) -> anyhow::Result<()> {
        let row = self.row(record.identity.organization).await?;
        let mut all = stores.to_vec();
        all.extend(own_stores(&row));
        deletions::erase(&self.app, &PROOF, &row, &all).await
    }
}

/// What the control plane itself kept.
fn own_stores(row: &PlaneRow) -> [(&'static str, String); 2] {
    let id = row.record.identity.organization;
    let data_key = match row.sealed_data_key {
        Some(_) => format!(
            "the key of {id} erased: copies of its packs, those in backups too, can be read by nobody once backups of the control database that were made before are gone"
        ),
        None => format!("{id} had none: copies of its packs were not encrypted"),
    };
    let control = format!(
        "members, teams, service accounts, tokens, domains, grants, releases and requests of {id} deleted; the audit trail is kept"
    );
    [("data key", data_key), ("control database", control)]
}
