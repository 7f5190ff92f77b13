//! One authenticated request: who calls, and the service's parts that handlers need.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use contract::ids::{GenerateId, OrganizationId};
use contract::names::OrganizationName;
use contract::policy::Principal;

use crate::account_events::{self, Happening};
use crate::app::App;
use crate::audit::{self, Acting, Event, Source, SystemIn, Who};
use crate::authz::{self, Action, Actor, Allowed, Proven, System};
use crate::database::{Tx, confine};
use crate::idempotency::Keyed;
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::sessions::cookie;
use crate::traffic::{Ledger, Subject};

/// An authenticated request. As an argument of a handler it refuses everybody else.
pub struct Call {
    /// The service.
    pub app: Arc<App>,
    /// Who calls.
    pub actor: Actor,
    ledger: Option<Ledger>,
    /// From where.
    pub peer: Peer,
    /// The idempotency key of the request.
    pub(crate) keyed: Option<Keyed>,
    /// By what, in which request and from where.
    pub source: Source,
}

impl FromRequestParts<Arc<App>> for Call {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let secret = cookie::secret(parts, &app.public_url)?;
        let actor = authz::authenticate(&app.pool, secret, app.environment.now()).await?;
        let ledger = parts.extensions.get::<Ledger>().cloned();
        if let Some(ledger) = &ledger {
            ledger.count(app, &Subject::Account(actor.principal().to_string()))?;
        }
        let source = Source {
            via: actor.via(),
            ..Source::of(parts)
        };
        Ok(Self {
            app: Arc::clone(app),
            actor,
            ledger,
            peer: Peer::of(parts),
            keyed: parts.extensions.get::<Keyed>().cloned(),
            source,
        })
    }
}

impl Call {
    /// A call of whom a secret in the body of a request stands for, and nothing else.
    pub(crate) fn of(app: Arc<App>, actor: Actor, peer: Peer, source: Source) -> Self {
        Self {
            source,
            app,
            actor,
            ledger: None,
            peer,
            keyed: None,
        }
    }

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

    /// Proof of who asks, as [`Actor::proven`], that still holds in the transaction: account and session stay locked, so that a reset
    /// of the password waits for it or is seen. To be asked first in a transaction: whoever resets locks in that order.
    ///
    /// # Errors
    /// See [`Actor::proven`]; `signed-out` when the session ended since the request came in.
    pub async fn proven(&self, tx: &mut Tx) -> Result<Proven, Refusal> {
        let proven = self.actor.proven(self.now())?;
        authz::still_stands(tx, &self.actor, self.now()).await?;
        Ok(proven)
    }

    /// Whether the caller may do `A` in the organization of that name. A request that was answered before ends here, with that
    /// answer.
    ///
    /// # Errors
    /// See `authz::authorize` and [`Call::unanswered`]; `slow-down` when the organization has taken all that it may for now.
    pub async fn authorize<A: Action>(&self, tx: &mut Tx, org: &OrganizationName) -> Result<Allowed<A>, Refusal> {
        let allowed = authz::authorize::<A>(tx, &self.actor, org).await?;
        if let Some(ledger) = &self.ledger {
            ledger.count(&self.app, &Subject::Organization(allowed.organization().to_string()))?;
            ledger.let_in(&self.app, org);
        }
        self.unanswered(tx).await?;
        Ok(allowed)
    }

    /// Writes what happens to the caller's own account, whether by a session or by a token. Service accounts have none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn happened(&self, tx: &mut Tx, action: &'static str, subject: String) -> Result<(), Refusal> {
        let Principal::Account(account) = self.actor.principal() else {
            return Ok(());
        };
        let happening = Happening {
            account,
            action,
            subject,
            token: Some(self.actor.token()),
            peer: &self.peer,
            at: self.now(),
        };
        let proof = System::because("what happens to an account is written down");
        Ok(account_events::record(tx, &proof, &happening).await?)
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
