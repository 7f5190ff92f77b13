//! One authenticated request: who calls, and the service's parts that handlers need.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use contract::ids::{GenerateId, OrganizationId};
use contract::names::OrganizationName;

use crate::app::App;
use crate::audit::{self, Acting, Event, Source, SystemIn, Who};
use crate::authz::{self, Action, Actor, Allowed, System};
use crate::database::{Tx, confine};
use crate::refusal::Refusal;

/// An authenticated request. As an argument of a handler it refuses everybody else.
pub struct Call {
    /// The service.
    pub app: Arc<App>,
    /// Who calls.
    pub actor: Actor,
    /// By what, in which request and from where.
    pub source: Source,
}

impl FromRequestParts<Arc<App>> for Call {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let secret = chassis::http::bearer(&parts.headers)?;
        let actor = authz::authenticate(&app.pool, secret, app.environment.now()).await?;
        let source = Source {
            via: actor.via(),
            ..Source::of(parts)
        };
        Ok(Self {
            app: Arc::clone(app),
            actor,
            source,
        })
    }
}

impl Call {
    /// The time.
    pub fn now(&self) -> DateTime<Utc> {
        self.app.environment.now()
    }

    /// A new id.
    pub fn id<T: GenerateId>(&self) -> T {
        self.app.environment.id()
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn begin(&self) -> Result<Tx, Refusal> {
        Ok(self.app.pool.begin().await?)
    }

    /// Begins another transaction after the one that the proof was made in, confined to the same organization.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn begin_in<A: Action>(&self, allowed: &Allowed<A>) -> Result<Tx, Refusal> {
        let mut tx = self.begin().await?;
        confine(&mut tx, allowed.organization()).await?;
        Ok(tx)
    }

    /// Whether the caller may do `A` in the organization of that name.
    ///
    /// # Errors
    /// See `authz::authorize`.
    pub async fn authorize<A: Action>(&self, tx: &mut Tx, org: &OrganizationName) -> Result<Allowed<A>, Refusal> {
        authz::authorize(tx, &self.actor, org).await
    }

    /// Writes the audit row of a change.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn record(&self, tx: &mut Tx, proof: &impl Acting, action: &str, subject: String) -> Result<(), Refusal> {
        let event = Event {
            action,
            subject,
            at: self.now(),
        };
        Ok(audit::record_from(tx, proof, &self.source, &event).await?)
    }

    /// Writes the row of a change of the caller's own that reaches into several organizations, in each of them. The
    /// organizations come in the order of their ids, in which everybody locks them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn record_in(
        &self,
        tx: &mut Tx,
        system: &System,
        organizations: Vec<OrganizationId>,
        action: &str,
        subject: &str,
    ) -> Result<(), Refusal> {
        for organization in organizations {
            let acting = SystemIn {
                system,
                organization,
                who: Who {
                    id: self.actor.principal().to_string(),
                    name: self.actor.name().to_owned(),
                    token: self.actor.token().to_string(),
                },
            };
            self.record(tx, &acting, action, subject.to_owned()).await?;
        }
        Ok(())
    }
}
